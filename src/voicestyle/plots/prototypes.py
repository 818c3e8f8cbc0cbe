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
    from voicestyle.image import contact_sheet

    return contact_sheet([_row(vs, prototype, num_members) for prototype in prototypes], tile)


def _row(vs: VoiceStyle, prototype: int, num_members: int) -> tuple[str, list[tuple[Tensor | None, str]]]:
    """The title of a prototype, and its captioned faces."""
    import torch

    bank, latents = vs.bank, vs.bank.latents
    if not 0 <= prototype < len(bank.centroids):
        raise ValueError(f"prototype {prototype}: the bank has 0 to {len(bank.centroids) - 1}")
    members = (bank.assignments == prototype).nonzero().flatten()
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
