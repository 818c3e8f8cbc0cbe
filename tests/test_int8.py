"""Rounded weights take one byte each in a file, and come back exactly."""

from __future__ import annotations

import pytest
import torch

from fill import inp
from voicestyle.int8 import from_int8, rounded, to_int8
from voicestyle.weights import halved, restored, stored


@pytest.mark.parametrize("shape", [(5, 200), (4, 16, 3, 3), (3, 128, 1)])
def test_rounding_is_near_and_survives_storage(shape: tuple[int, ...]) -> None:
    weight = inp("w", shape) * torch.tensor([1e-6, 1.0, 3e4, 0.3, 7e-3])[: shape[0]].view(-1, *[1] * (len(shape) - 1))
    near = rounded(weight)
    step = weight.abs().flatten(1).amax(1) / 127
    assert ((near - weight).abs().flatten(1).amax(1) < 0.76 * step).all()  # half a step, and what the largest loses
    assert torch.equal(rounded(near), near)
    levels, steps = to_int8(near)
    assert levels.dtype == torch.int8 and levels.abs().max() == 127 and steps.shape == shape[:1]
    assert torch.equal(from_int8(levels, steps), near)


def test_each_row_holds_few_values() -> None:
    near = rounded(inp("w", (3, 1000)))
    assert all(len(row.unique()) <= 255 for row in near)
    assert not near[near == 0].signbit().any()


def test_other_weights_are_no_int8() -> None:
    assert to_int8(inp("w", (5, 200))) is None
    assert to_int8(torch.full((5, 200), torch.nan)) is None
    negative_zero = rounded(inp("w", (2, 200)))
    negative_zero[0, 0] = -0.0
    assert to_int8(negative_zero) is None
    short = inp("w", (5, 100))
    assert torch.equal(rounded(short), short) and to_int8(short) is None


def test_a_state_dict_comes_back(tmp_path) -> None:
    state = {"a.weight": rounded(inp("a", (4, 300))), "a.bias": inp("b", (4,)), "c.weight": inp("c", (4, 300))}
    file = stored(state)
    assert {name: value.dtype for name, value in file.items()} == {
        "a.weight": torch.int8, "a.weight.step": torch.float32, "a.bias": torch.float32, "c.weight": torch.float16,
    }  # fmt: skip
    back = restored(file)
    assert [*back] == [*state] and all(value.dtype == torch.float32 for value in back.values())
    assert torch.equal(back["a.weight"], state["a.weight"]) and torch.equal(back["a.bias"], state["a.bias"])
    assert torch.equal(back["c.weight"], halved(state)["c.weight"].float())
    assert stored(state, torch.float32).keys() == state.keys()
    zero = {"z": torch.zeros(3, 200)}
    assert torch.equal(restored(stored(zero))["z"], zero["z"])
