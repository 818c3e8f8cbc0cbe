"""The arguments of benchmarks that look at what a model makes of the pairs of a manifest."""

from __future__ import annotations

import argparse
from pathlib import Path


def of_pairs(about: str, split: str = "val") -> argparse.ArgumentParser:
    """A parser that takes a manifest, ``--out``, ``--model``, ``--split``; `about` is the docstring of a benchmark."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--model", default="voicestyle-small")
    parser.add_argument("--split", default=split)
    return parser
