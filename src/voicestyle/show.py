"""Pictures of how faces come about: a generation, the nearest prototypes, a bank and the ways in it.

All that is shown is rendered from latents: the photographs that a bank was made of are in no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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

Tile = tuple[Tensor | None, str]  # a picture with its caption
Row = tuple[str, list[Tile]]  # of a contact sheet: its title, and its tiles
COLUMNS = 8  # of a sheet, at most
PERCENTILE = "percentile: of 100 random pairs of a voice and a face, so many are less alike"

# ------------------------------------------------------------------------------------------------------- a generation


def generation_sheet(vs: VoiceStyle, made: Generation, num_steps: int = 4) -> Image.Image:
    """A contact sheet: the members and their prototypes, then for each face the way to it as `way_tiles` has it."""
    rows = nearest_rows(vs, made.prototypes)
    for face in range(len(made.w)):
        rows += _in_lines(f"face {face + 1}, seed {made.seed}", way_tiles(vs, made, face, num_steps))
    return contact_sheet(rows)


def way_tiles(vs: VoiceStyle, made: Generation, face: int, num_steps: int) -> list[Tile]:
    """The start of a face, at most `num_steps` pictures on the way, and the result; how near each is to the voice."""
    marks = np.linspace(0, len(made.path), num_steps + 2).round().astype(int)[1:-1]
    steps = sorted({int(step) for step in marks if 0 < step < len(made.path)})
    w = torch.stack([made.w_init[face], *(made.path[step, face] for step in steps), made.w[face]])
    images = vs.synthesize(w, _noise(made, face))
    fits = fit_words(vs, vs.similarity(made.voice_emb, vs.encode_face(images))[0])
    names = ["start", *(f"step {step}" for step in steps), "result"]
    return [(images[i : i + 1], f"{name}\n{fits[i]}") for i, name in enumerate(names)]


def save_morph(vs: VoiceStyle, made: Generation, path: str | Path, seconds: float = 3.0) -> list[Path]:
    """The .gif or .mp4 files written, one a face: from a prototype over the start to the result, and back.

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
    """Pictures (P,3,size,size) on the way from a prototype to a face, at the parts (P,) in [0,1] of it.

    The first half is straight, from the mean of the nearest prototype that is used to where the search started; the
    second one is that of guidance.
    """
    prototype = nearest_mean(vs, made.prototypes).to(made.w)
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
    """The members that are used, and the prototypes that they belong to; one that has none of them is only counted."""
    shown = evidence(vs, nearest)
    members: list[Tile] = [
        (m["image"], f"{m['member']}\n{m['fit']}\nof prototype {m['prototype']}") for m in shown["members"]
    ]
    prototypes: list[Tile] = [
        (p["image"], f"prototype {p['prototype']}\n{p['place']}\nmean of its {p['size']}") for p in shown["prototypes"]
    ]
    title = f"{shown['members_title']} ({shown['legend']})" if shown["legend"] else shown["members_title"]
    return [*_in_lines(title, members), *_in_lines(shown["prototypes_title"], prototypes)]


def evidence(vs: VoiceStyle, nearest: Nearest) -> dict[str, Any]:
    """What a face starts from, for whoever draws it: as `VoiceStyle.describe`, with pictures (1,3,size,size) and words.

    Of the nearest prototypes those alone that members were taken of; `unused` are the numbers of the others.
    """
    bank, told = vs.bank, vs.describe(nearest)
    fits = fit_words(vs, nearest.member_similarities)
    members = [{**member, "fit": fit} for member, fit in zip(told["members"], fits, strict=True)]
    used = {member["prototype"] for member in members}
    numbers = nearest.prototypes.tolist()
    prototypes = [
        {**prototype, "place": f"rank {i} of {len(numbers)}", "size": len(bank.members_of(prototype["prototype"]))}
        for i, prototype in enumerate(told["prototypes"], 1)
        if prototype["prototype"] in used
    ]
    means = [bank.latents[bank.members_of(prototype["prototype"])].mean(0) for prototype in prototypes]
    images = vs.synthesize(torch.cat([torch.stack(means), bank.latents[nearest.members]])).split(1)
    for item, image in zip([*prototypes, *members], images, strict=True):
        item["image"] = image
    return {
        "members": members,
        "prototypes": prototypes,
        "unused": [number for number in numbers if number not in used],
        "members_title": f"The search starts from the mean of {_counted(len(members), 'member')}",
        "legend": PERCENTILE if fits[0].startswith("percentile") else "",
        "prototypes_title": _of_prototypes(len(prototypes), len(numbers)),
    }


def _of_prototypes(used: int, k: int) -> str:
    if used == k:
        return "They belong to the nearest prototype" if k == 1 else f"They belong to the {k} nearest prototypes"
    return f"They belong to {used} of the {k} nearest prototypes; the others gave none"


def fit_words(vs: VoiceStyle, similarity: Tensor) -> list[str]:
    """How near to a voice faces of these cosines (N,) are: as percentiles where the model knows them."""
    known = vs.percentile(similarity)
    if known is None:
        return [f"similarity {value:.2f}" for value in similarity.tolist()]
    return [f"percentile {min(99, int(100 * share))}" for share in known]


def _counted(num: int, noun: str) -> str:
    return f"{num} {noun}" if num == 1 else f"{num} {noun}s"


def _in_lines(title: str, tiles: list[Tile]) -> list[Row]:
    """A row, or several where it has more tiles than a sheet is wide."""
    return [("" if i else title, tiles[i : i + COLUMNS]) for i in range(0, len(tiles), COLUMNS)]


def nearest_mean(vs: VoiceStyle, nearest: Nearest) -> Tensor:
    """The mean latent (1,w_dim) of the nearest prototype that a member was taken of, on the CPU."""
    used = vs.bank.assignments[nearest.members].tolist()
    first = next(prototype for prototype in nearest.prototypes.tolist() if prototype in used)
    return vs.bank.latents[vs.bank.members_of(first)].mean(0, keepdim=True)


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
    similarity = bank.embeddings[members] @ bank.centroids[prototype]
    order = similarity.argsort(descending=True, stable=True)[:num_members]
    images = vs.synthesize(torch.cat([latents[members].mean(0)[None], latents[members[order]]]))
    names = [
        f"{bank.member_keys[member]}  {similarity[place]:.2f}"
        for place, member in zip(order, members[order], strict=True)
    ]
    return title, list(zip(images, [f"mean of {len(members)}", *names], strict=True))
