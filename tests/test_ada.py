"""Augmentation: what its changes do to plain pictures, and how its probability is steered."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from voicestyle.train.generator.ada import COLORS, WARPS, AdaptiveProbability, Changes, draw_changes


def pictures(num: int = 6, size: int = 16) -> torch.Tensor:
    return torch.rand(num, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def views(name: str, p: float = 1.0, seed: int = 0, num: int = 6) -> Changes:
    return draw_changes(num, 16, p, torch.Generator().manual_seed(seed), [name])


def test_without_probability_nothing_changes() -> None:
    image = pictures()
    assert draw_changes(6, 16, 0.0, torch.Generator())(image) is image


@given(st.sampled_from([*WARPS, *COLORS]), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_a_rare_change_leaves_most_pictures_alone(name: str, seed: int) -> None:
    """Each picture is changed or not, on its own; those that are not are the same, to rounding."""
    image = pictures(32)
    moved = (views(name, 0.1, seed, 32)(image) - image).abs().amax((1, 2, 3)) > 1e-3
    assert moved.sum() < 16


def test_flips_and_quarter_turns_are_exact() -> None:
    image = pictures()
    flipped = views("flip")(image)
    assert all(
        min((v - x).abs().max(), (v - x.flip(2)).abs().max()) < 1e-3 for v, x in zip(flipped, image, strict=True)
    )
    assert any((v - x).abs().max() > 0.1 for v, x in zip(flipped, image, strict=True))
    for turned, x in zip(views("quarter_turn")(image), image, strict=True):
        assert min((turned - x.rot90(k, (1, 2))).abs().max() for k in range(4)) < 1e-3


def test_shifts_are_by_whole_pixels_and_mirror_the_edge() -> None:
    line = torch.arange(16.0).expand(8, 3, 16, 16)  # the value of a pixel is its column
    for shifted in views("shift", num=8)(line):
        row = shifted[0, 8]
        assert torch.allclose(row, row.round(), atol=1e-2)
        way = int(row[8].round()) - 8
        assert abs(way) <= 2  # an eighth of the side
        inside = torch.arange(max(0, -way), min(16, 16 - way))
        assert torch.allclose(row[inside], inside + float(way), atol=1e-2)


@pytest.mark.parametrize("name", ["hue", "saturation"])
def test_hue_and_saturation_keep_gray(name: str) -> None:
    gray = torch.full((6, 3, 4, 4), 0.3)
    assert torch.allclose(views(name)(gray), gray, atol=1e-4)
    image = pictures(6, 4)
    changed = views(name)(image)
    assert torch.allclose(changed.mean(1), image.mean(1), atol=1e-4)  # brightness is kept
    assert not torch.allclose(changed, image, atol=0.05)


def test_hue_keeps_colorfulness() -> None:
    image = pictures(6, 4)
    assert torch.allclose(views("hue")(image).norm(dim=1), image.norm(dim=1), atol=1e-4)


def test_the_luma_flip_turns_brightness_around() -> None:
    image = pictures(6, 4)
    gray = image.mean(1)
    for view, before, picture in zip(views("luma_flip")(image), gray, image, strict=True):
        sign = 1 if torch.allclose(view, picture, atol=1e-4) else -1
        assert torch.allclose(view.mean(0), sign * before, atol=1e-4)


def test_gradients_flow_through_all_changes() -> None:
    image = pictures().requires_grad_()
    every = draw_changes(6, 16, 0.8, torch.Generator().manual_seed(3))
    every(image).square().sum().backward()
    assert (image.grad.abs().sum((1, 2, 3)) > 0).all()


def test_views_of_a_part_are_the_part_of_the_views() -> None:
    image = pictures()
    every = draw_changes(6, 16, 0.8, torch.Generator().manual_seed(3))
    assert torch.allclose(every[2:5](image[2:5]), every(image)[2:5], atol=1e-4)


def test_unknown_changes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got \['blurr'\], expected some of"):
        draw_changes(1, 16, 0.5, torch.Generator(), ["blurr"])


@given(st.lists(st.floats(-1, 1), max_size=40), st.floats(0, 1), st.integers(1, 64))
@settings(max_examples=50, deadline=None)
def test_p_against_a_plain_loop(signs: list[float], start: float, batch: int) -> None:
    adaptive = AdaptiveProbability(start, 0.6, 1000)
    p = start
    for i, sign in enumerate(signs):
        adaptive.update(sign, batch)
        if i % 4 == 3:
            up = sum(signs[i - 3 : i + 1]) / 4 >= 0.6
            p = min(1.0, max(0.0, p + (1 if up else -1) * 4 * batch / 1000))
        assert adaptive.p == pytest.approx(p)


def test_a_resumed_probability_goes_on() -> None:
    whole, first, second = (AdaptiveProbability(0.5, 0.6, 100) for _ in range(3))
    signs = [0.9, 0.8, 0.7, 0.9, 0.9, 0.8, 0.7, 0.1]  # above 0.6 on average, twice
    for sign in signs:
        whole.update(sign, 4)
    for sign in signs[:6]:
        first.update(sign, 4)
    second.load_state_dict(first.state_dict())
    for sign in signs[6:]:
        second.update(sign, 4)
    assert second.p == whole.p == pytest.approx(0.5 + 2 * 16 / 100)


def test_a_fixed_probability_stays() -> None:
    fixed = AdaptiveProbability(0.3, None)
    for _ in range(8):
        fixed.update(1.0, 1000)
    assert fixed.p == 0.3
