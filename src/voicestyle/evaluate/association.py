"""How well a model tells whose voice it is: the voices and faces of a manifest, embedded and scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from voicestyle.data.manifest import Item, Manifest
from voicestyle.data.pictures import frontal_picture, wild_picture
from voicestyle.evaluate.matching import matching
from voicestyle.evaluate.report import Report
from voicestyle.evaluate.retrieval import retrieval
from voicestyle.evaluate.verification import verification

if TYPE_CHECKING:
    from voicestyle.pipeline import VoiceStyle

Task = Literal["matching", "verification", "retrieval"]
Faces = Literal["frontal", "wild"]


def evaluate_association(
    vs: VoiceStyle,
    manifest: Manifest,
    task: Task,
    split: str = "val",
    seed: int = 0,  # of the trials and the bootstrap
    *,
    faces: Faces = "frontal",  # which pictures are compared: frontal renderings, or frames in the wild, aligned
    candidates: Sequence[int] = (2,),  # N of each 1:N matching
    refuse: Callable[[Item, Exception], None] | None = None,  # told of an item that is left out; default: an error
    progress: Callable[[int], object] | None = None,  # told how many more items are done
) -> list[Report]:
    """The scores of one task in all its directions; also against impostors of the same gender, where it is known.

    Items need a voice and a picture; the other kind stands in where an item lacks the one asked for.

    Raises:
        ValueError: fewer than two such items in the split, or an unusable one where nobody is told of it
    """
    items = [item for item in manifest.split(split) if item.voice and (item.frontal or item.face)]
    items, voice, face = _embed(vs, items, faces, refuse, progress)
    if len(items) < 2:
        raise ValueError(f"{manifest.name}: {len(items)} usable pairs in split {split!r}, at least 2 needed")
    people, genders = [item.identity for item in items], [item.gender for item in items]
    if task == "retrieval":
        return [retrieval(voice, face, people, seed, direction=direction) for direction in ("v2f", "f2v")]
    strata = {"any": None, **({"same gender": genders} if any(genders) else {})}
    if task == "verification":
        return [
            report
            for name, labels in strata.items()
            for report in verification(voice, face, people, seed, strata=labels, stratum=name)
        ]
    return [
        matching(voice, face, people, seed, direction=direction, strata=labels, stratum=name, num_candidates=n)
        for n in candidates
        for direction in ("v2f", "f2v")
        for name, labels in strata.items()
    ]


def _embed(
    vs: VoiceStyle,
    items: Sequence[Item],
    kind: Faces,
    refuse: Callable[[Item, Exception], None] | None,
    progress: Callable[[int], object] | None,
) -> tuple[list[Item], Tensor, Tensor]:
    """The usable items with their embeddings (N,D) of voices and faces."""
    usable, voices, faces = [], [torch.empty(0)], [torch.empty(0)]
    for item in items:
        try:
            wild = item.face is not None and (kind == "wild" or item.frontal is None)
            both = vs.encode_voice(item.voice), vs.encode_face(wild_picture(item) if wild else frontal_picture(item))
            voices.append(both[0].cpu())
            faces.append(both[1].cpu())
            usable.append(item)
        except (ValueError, OSError) as error:
            if refuse is None:
                raise
            refuse(item, error)
        if progress is not None:
            progress(1)
    return usable, torch.cat(voices), torch.cat(faces)
