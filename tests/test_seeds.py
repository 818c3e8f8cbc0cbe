"""One seed, many purposes: no two draws of a run are the same, and none is that of another seed."""

from __future__ import annotations

import itertools

import torch

from voicestyle.seeds import mixed_rng, mixed_seed


def test_every_argument_changes_the_draw() -> None:
    cases = [*itertools.product((0, 1, 2**32, -1), ("rows", "views"), (0, 1, 2**32), (0, 3))]
    # the part that PyTorch's generator on CPUs looks at
    assert len({mixed_seed(*case) % 2**32 for case in cases}) == len(cases)
    drawn = {tuple(torch.rand(2, generator=mixed_rng(*case)).tolist()) for case in cases}
    assert len(drawn) == len(cases)


def test_the_same_arguments_give_the_same_draw() -> None:
    first, second = (torch.randn(5, generator=mixed_rng(3, "noise", 7)) for _ in range(2))
    assert torch.equal(first, second)


def test_the_seeds_stay_what_they_are() -> None:
    """Runs that stopped go on with the same draws under a later version."""
    assert mixed_seed(0, "rows", 1) == 6725251196151330286
