"""Networks that go on from smaller or narrower ones."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from voicestyle.config import GeneratorConfig
from voicestyle.nn.stylegan2 import Discriminator, Generator

Network = TypeVar("Network", bound=nn.Module)

NEW_STYLES = 0.3  # of the usual deviation


def grow(state: Mapping[str, Tensor], config: GeneratorConfig, fresh: Generator | None = None) -> Generator:
    """A generator of `config` that keeps every layer of `state` which it has too; the others are new, or `fresh`'s.

    More resolutions keep the lower layers as they are. Wider z and w keep what the generator does: the new inputs of a
    linear layer have no weight yet, and the old ones weigh more, for its scale falls with their number.
    """
    grown = Generator(config) if fresh is None else copy.deepcopy(fresh)
    ours = grown.state_dict()
    for name, old in state.items():
        if name not in ours:
            continue
        new = ours[name]
        if new.shape == old.shape:
            ours[name] = old
        elif old.ndim == 2 and all(a >= b for a, b in zip(new.shape, old.shape, strict=True)):
            rows, columns = old.shape
            new[:rows] = 0
            new[:rows, :columns] = old * math.sqrt(new.shape[1] / columns)
        elif old.ndim == 1 and len(new) > len(old):
            new[: len(old)] = old
    grown.load_state_dict(ours)
    return grown


def widen(state: Mapping[str, Tensor], config: GeneratorConfig) -> Generator:
    """A generator of `config`, of more channels than that of `state`, which draws the same: nobody listens to new ones.

    Only channels may differ; what feeds the new ones is random, and smaller styles keep it small at first.
    """
    wide = Generator(config)
    ours = wide.state_dict()
    for name, old in state.items():
        new = ours[name]
        if new.shape != old.shape:
            if name.endswith("conv.weight"):
                rows, columns = old.shape[:2]
                # of a layer to RGB, which does not normalize, the scale falls with the number of inputs
                gain = math.sqrt(new.shape[1] / columns) if len(new) == 3 else 1.0
                new[:rows] = 0
                new[:rows, :columns] = gain * old
            elif name.endswith("const"):
                new[:, : old.shape[1]] = old
            else:
                new *= NEW_STYLES if name.endswith("affine.weight") else 1.0
                new[: len(old)] = old
        else:
            ours[name] = old
    wide.load_state_dict(ours)
    return wide


def grow_discriminator(state: Mapping[str, Tensor], network: Discriminator) -> Discriminator:
    """The discriminator with the blocks of `state`, a smaller one or none; those of higher resolutions are new."""
    return keep_layers(rename(state, network), network)


def rename(held: Mapping[str, Any], network: Discriminator) -> dict[str, Any]:
    """What is held by the names of a smaller discriminator, by those that the same layers have in `network`."""
    num_old = len({name.split(".")[1] for name in held if name.startswith("blocks.")})
    shift = len(network.blocks) - num_old  # blocks count from the highest resolution down
    return {re.sub(r"^blocks\.(\d+)", lambda m: f"blocks.{int(m[1]) + shift}", name): v for name, v in held.items()}


def keep_layers(state: Mapping[str, Tensor], network: Network) -> Network:
    """The network with all tensors of `state` that have a name and shape of its own."""
    ours = network.state_dict()
    network.load_state_dict(ours | {n: v for n, v in state.items() if n in ours and ours[n].shape == v.shape})
    return network
