"""Pictures of how faces come about: a generation, the nearest prototypes, a bank and the ways in it.

All that is shown is rendered from latents: the photographs that a bank was made of are in no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from voicestyle.animation import FPS, save_animation
from voicestyle.generation import Generation
from voicestyle.pipeline import VoiceStyle
from voicestyle.prototypes import Nearest
from voicestyle.sampling import polyline
from voicestyle.sheet import contact_sheet

Row = tuple[str, list[tuple[Tensor | None, str]]]  # of a contact sheet: title, pictures with captions

# ------------------------------------------------------------------------------------------------------- a generation


def generation_sheet(vs: VoiceStyle, made: Generation, num_steps: int = 6) -> Image.Image:
    """A contact sheet: the prototypes, then for each face its start, `num_steps` pictures on the way, the result."""
    rows = nearest_rows(vs, made.prototypes)
    marks = np.linspace(0, len(made.path), num_steps + 2).round().astype(int)[1:-1]
    steps = sorted({int(step) for step in marks if 0 < step < len(made.path)})
    for face in range(len(made.w)):
        w = torch.stack([made.w_init[face], *(made.path[step, face] for step in steps), made.w[face]])
        images = vs.synthesize(w, _noise(made, face))
        similarity = vs.similarity(made.voice_emb, vs.encode_face(images))[0].tolist()
        names = ["start", *(f"step {step}" for step in steps), "result"]
        tiles: list[tuple[Tensor | None, str]] = [
            (images[i : i + 1], f"{name}  {similarity[i]:.2f}") for i, name in enumerate(names)
        ]
        rows.append((f"face {face + 1}, seed {made.seed}", tiles))
    return contact_sheet(rows)


def save_morph(vs: VoiceStyle, made: Generation, path: str | Path, seconds: float = 3.0) -> list[Path]:
    """The .gif or .mp4 files written, one a face: from the nearest prototype over the start to the result, and back.

    Args:
        vs: the model that made the faces
        made: what it made
        path: as for `Generation.paths`
        seconds: for both ways. The first half of a way is straight, the second one that of guidance
    """
    num = max(2, round(seconds * FPS / 2) + 1)
    part = (1 - torch.linspace(0, torch.pi, num).cos()) / 2  # slow at both ends
    paths = made.paths(path)
    for face, target in enumerate(paths):
        images = way_images(vs, made, face, part).cpu()
        save_animation(torch.cat([images, images[1:-1].flip(0)]), target, made.metadata(face))
    return paths


def way_images(vs: VoiceStyle, made: Generation, face: int, part: Tensor) -> Tensor:
    """Pictures (P,3,size,size) on the way from the nearest prototype to a face, at the parts (P,) in [0,1] of it.

    The first half is straight, from the prototype to where the search started; the second one is that of guidance.
    """
    prototype = prototype_latents(vs, made.prototypes)[:1].to(made.w)
    start, end = made.w_init[None, face], made.w[None, face]
    ways = torch.cat([prototype, start]), torch.cat([start, made.path[:, face], end])
    w = torch.cat([polyline(ways[0], 2 * part[part < 0.5]), polyline(ways[1], 2 * part[part >= 0.5] - 1)])
    return vs.synthesize(w, _noise(made, face))


def _noise(made: Generation, face: int) -> list[Tensor] | None:
    """The noise maps (1,1,r,r) of a face, where they were found with it."""
    return None if made.noise is None else [m[face : face + 1] for m in made.noise]


# ---------------------------------------------------------------------------------------------- the nearest prototypes


def nearest_sheet(vs: VoiceStyle, nearest: Nearest) -> Image.Image:
    """A contact sheet of the prototypes nearest to a voice and their members."""
    return contact_sheet(nearest_rows(vs, nearest))


def nearest_rows(vs: VoiceStyle, nearest: Nearest) -> list[Row]:
    """One row a prototype: the face of its mean latent, then those of its members that are used."""
    bank, members = vs.bank, nearest.members.tolist()
    means = prototype_latents(vs, nearest)
    images = vs.synthesize(torch.cat([means, bank.latents[nearest.members]]))
    faces, member_faces = images[: len(means)], images[len(means) :]
    scores = nearest.member_similarities.tolist()
    rows = []
    found = zip(nearest.prototypes.tolist(), nearest.similarities.tolist(), strict=True)
    for row, (prototype, similarity) in enumerate(found):
        size = int((bank.assignments == prototype).sum())
        tiles: list[tuple[Tensor | None, str]] = [(faces[row : row + 1], f"mean of its {size}")]
        tiles += [
            (member_faces[i : i + 1], f"{bank.member_keys[member]}  {scores[i]:.2f}")
            for i, member in enumerate(members)
            if bank.assignments[member] == prototype
        ]
        rows.append((f"prototype {prototype}: similarity {similarity:.2f}", tiles))
    return rows


def prototype_latents(vs: VoiceStyle, nearest: Nearest) -> Tensor:
    """The mean latent (k,w_dim) of each of the nearest prototypes, on the CPU."""
    bank = vs.bank
    return torch.stack([bank.latents[bank.assignments == prototype].mean(0) for prototype in nearest.prototypes])


# ----------------------------------------------------------------------------------------------------- a whole bank


def prototype_sheet(vs: VoiceStyle, prototypes: Sequence[int], num_members: int = 8, tile: int = 96) -> Image.Image:
    """A contact sheet of prototypes, one a row: the face of its mean latent, then the members nearest to its centroid.

    Args:
        vs: a model with generator and bank
        prototypes: their numbers in the bank
        num_members: most members in a row
        tile: pixels, side of a picture

    Raises:
        ValueError: no prototypes, one that the bank has not, or a bank without latents
    """
    return contact_sheet([_bank_row(vs, prototype, num_members) for prototype in prototypes], tile)


def interpolation_sheet(
    vs: VoiceStyle, pairs: Sequence[tuple[int, int]], num_steps: int = 7, tile: int = 96
) -> Image.Image:
    """A contact sheet of the straight ways in w between the mean latents of two prototypes, one pair a row.

    Args:
        vs: a model with generator and bank
        pairs: numbers of prototypes in the bank
        num_steps: pictures in a row, both ends among them; 2 or more
        tile: pixels, side of a picture

    Raises:
        ValueError: no pairs, fewer than two steps, a prototype without members, or a bank without latents
    """
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


def _bank_row(vs: VoiceStyle, prototype: int, num_members: int) -> Row:
    """The title of a prototype, and its captioned faces."""
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
