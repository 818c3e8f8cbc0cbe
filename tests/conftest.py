"""Shared fixtures: where the research data and the golden numbers lie."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
ASSETS = Path(__file__).resolve().parent / "assets"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The research data beside the checkout; tests that need it skip where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the research data (../shared), which a user's machine does not have")
    return SHARED


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Numbers computed with the reference implementations."""
    return ASSETS / "golden"
