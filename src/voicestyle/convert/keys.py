"""Strict renaming of foreign state dicts: no key missing or unknown, no shape that differs, no NaN."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from voicestyle.checkpoint import Unfilled


def layout(make: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """Every key, shape and type of a network's state dict, without the storage."""
    with Unfilled():
        state = make().state_dict()
    return {key: value.new_zeros(()).expand(value.shape) for key, value in state.items()}


def filled(make: Callable[[], nn.Module], state: Mapping[str, Tensor]) -> nn.Module:
    """A network in evaluation mode whose tensors are those of `state`, whole and in its order of names."""
    with Unfilled():
        network = make()
    network.load_state_dict(state, assign=True)
    return network.eval()


def rename(
    state: Mapping[str, Tensor],
    table: Mapping[str, str],
    layout: Mapping[str, Tensor],
    what: str,
) -> dict[str, Tensor]:
    """The values of `state` under their new keys, in the types of `layout`.

    Args:
        state: a state dict
        table: each of its keys -> the new one
        layout: a tensor of the right shape and type for each new key, see `layout`
        what: named in errors: the network, and perhaps the file

    Raises:
        ValueError: keys missing or unknown, shapes that differ, values that are not finite
    """
    _refuse(what, "missing", table.keys() - state.keys())
    _refuse(what, "unknown", state.keys() - table.keys())
    renamed = {table[key]: value for key, value in state.items()}
    shapes = {key: getattr(value, "shape", None) for key, value in renamed.items()}
    wrong = [key for key, shape in shapes.items() if shape != layout[key].shape]
    if wrong:
        got, expected = shapes[wrong[0]], tuple(layout[wrong[0]].shape)
        got = "no tensor" if got is None else tuple(got)
        _refuse(what, f"of another shape (got {got}, expected {expected})", wrong)
    _refuse(what, "with values that are not finite", (k for k, v in renamed.items() if not torch.isfinite(v).all()))
    return {key: value.to(layout[key].dtype) for key, value in renamed.items()}


def rename_back(
    state: Mapping[str, Tensor], table: Mapping[str, str], layout: Mapping[str, Tensor], what: str
) -> dict[str, Tensor]:
    """The inverse of `rename`, with the same table and layout, and as strict."""
    foreign = {theirs: layout[ours] for theirs, ours in table.items()}
    return rename(state, {ours: theirs for theirs, ours in table.items()}, foreign, what)


def _refuse(what: str, problem: str, keys: Iterable[str]) -> None:
    names = sorted(map(str, keys))
    if names:
        raise ValueError(f"{what}: {len(names)} keys {problem}, e.g. {names[:3]}")
