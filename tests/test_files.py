"""Kept results: made once, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from voicestyle.files import kept


def test_what_was_made_is_read_again(tmp_path: Path) -> None:
    calls = []

    def make() -> dict[str, torch.Tensor]:
        calls.append(1)
        return {"w": torch.arange(3.0).expand(2, 3), "s": torch.tensor(0.1, dtype=torch.float64)}

    made, again = (kept(tmp_path / "a" / "x.safetensors", make) for _ in range(2))
    assert len(calls) == 1 and set(made) == set(again) == {"w", "s"}
    assert all(torch.equal(made[name], again[name]) for name in made) and again["s"].dtype == torch.float64
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x.safetensors"]


def test_without_a_path_it_is_made_each_time() -> None:
    calls = []
    for _ in range(2):
        kept(None, lambda: calls.append(1) or {})
    assert len(calls) == 2


def test_a_stop_leaves_nothing_behind(tmp_path: Path, monkeypatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path / "x.safetensors", lambda: stop())
    monkeypatch.setattr("voicestyle.files.os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path / "x.safetensors", lambda: {"w": torch.zeros(1)})
    assert not list(tmp_path.iterdir())
