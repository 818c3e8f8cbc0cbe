"""A bank of prototypes on contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from voicestyle.pipeline import VoiceStyle


def prototype_sheet(vs: VoiceStyle, prototypes: Sequence[int], num_members: int = 8, tile: int = 96) -> Image:
    """A contact sheet of prototypes, one a row: the face of its mean latent, then the members nearest to its centroid.

    Args:
        vs: a model with generator and bank
        prototypes: their numbers in the bank
        num_members: most members in a row
        tile: pixels, side of a picture

    Raises:
        ValueError: no prototypes, one that the bank has not, or a bank without latents
    """
    from voicestyle.sheet import contact_sheet

    return contact_sheet([_row(vs, prototype, num_members) for prototype in prototypes], tile)


def interpolation_sheet(vs: VoiceStyle, pairs: Sequence[tuple[int, int]], num_steps: int = 7, tile: int = 96) -> Image:
    """A contact sheet of the straight ways in w between the mean latents of two prototypes, one pair a row.

    Args:
        vs: a model with generator and bank
        pairs: numbers of prototypes in the bank
        num_steps: pictures in a row, both ends among them; 2 or more
        tile: pixels, side of a picture

    Raises:
        ValueError: no pairs, fewer than two steps, a prototype without members, or a bank without latents
    """
    import torch

    from voicestyle.sheet import contact_sheet

    if num_steps < 2:
        raise ValueError(f"num_steps: got {num_steps}, expected 2 or more")
    parts = torch.linspace(0, 1, num_steps)[:, None]
    rows = []
    for first, last in pairs:
        a, b = (_latents(vs, prototype).mean(0) for prototype in (first, last))
        images = vs.synthesize(torch.lerp(a, b, parts))
        captions = [f"{part:.2f}" for part in parts.flatten().tolist()]
        rows.append((f"prototype {first} to prototype {last}", list(zip(images, captions, strict=True))))
    return contact_sheet(rows, tile)


def _members(vs: VoiceStyle, prototype: int) -> Tensor:
    """The rows (N,) of a prototype's members; a ValueError for a number that the bank has not."""
    if not 0 <= prototype < len(vs.bank.centroids):
        raise ValueError(f"prototype {prototype}: the bank has 0 to {len(vs.bank.centroids) - 1}")
    return (vs.bank.assignments == prototype).nonzero().flatten()


def _latents(vs: VoiceStyle, prototype: int) -> Tensor:
    members = _members(vs, prototype)
    if not len(members):
        raise ValueError(f"prototype {prototype}: it has no members")
    return vs.bank.latents[members]


def _row(vs: VoiceStyle, prototype: int, num_members: int) -> tuple[str, list[tuple[Tensor | None, str]]]:
    """The title of a prototype, and its captioned faces."""
    import torch

    bank, latents, members = vs.bank, vs.bank.latents, _members(vs, prototype)
    title = f"prototype {prototype}: {len(members)} members, concentration {bank.concentrations[prototype]:.3f}"
    if not len(members):
        return title, [(None, "no members")]
    similarity = bank.member_emb[members] @ bank.centroids[prototype]
    order = similarity.argsort(descending=True, stable=True)[:num_members]
    images = vs.synthesize(torch.cat([latents[members].mean(0)[None], latents[members[order]]]))
    names = [
        f"{bank.member_keys[member]}  {similarity[place]:.2f}"
        for place, member in zip(order, members[order], strict=True)
    ]
    return title, list(zip(images, [f"mean of {len(members)}", *names], strict=True))
