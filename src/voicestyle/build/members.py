"""Give the members of a catalogue their pictures: a converted official memory becomes a bank that faces start from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from voicestyle.build.prototypes import Pictures, Projector, Refuse, check_out, chunks, write_bank
from voicestyle.checkpoint import Model
from voicestyle.data.frontal import MostSimilar, clip_embedder, face_embedder, frame_of, frontals_of, load_square
from voicestyle.image import crop_resize
from voicestyle.locks import alone_with
from voicestyle.prototypes import PrototypeBank

# of a frame and a frontal picture; "clip-dot": by products of embeddings, as the reference has it
Similarity = Literal["face", "clip", "clip-dot"]


@dataclass(frozen=True, eq=False)
class Members:
    """The members of a catalogue that have pictures."""

    bank: PrototypeBank  # of them alone
    frames: list[Path]  # one a member
    frontal: Path | None  # folder of frontal pictures that take the frames' place
    num_listed: int
    num_without_frames: int
    num_without_frontal: int  # of those with frames

    def __len__(self) -> int:
        return len(self.frames)

    def summary(self) -> str:
        """What is built and what is left out, in one line."""
        return (
            f"{len(self)} of {self.num_listed} members, {len(self.bank.centroids)} prototypes; left out: "
            f"{self.num_without_frames} members without frames, {self.num_without_frontal} without frontal pictures"
        )


def find_members(
    catalogue: PrototypeBank,
    faces: str | Path,  # FACES/NAME/1.6/VIDEO/*.jpg
    frontal: str | Path | None = None,  # FRONTAL/NAME/*
    limit: int | None = None,  # a sample of so many, spread over the prototypes
    seed: int = 0,
) -> Members:
    """The members that have pictures, in the order of the catalogue. Prototypes that are left without any are gone.

    Raises:
        FileNotFoundError: no such folder
        ValueError: no member has pictures there
    """
    faces, frontal = Path(faces), None if frontal is None else Path(frontal)
    for folder in (faces, frontal):
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; it holds a folder for each person")
    keys = catalogue.member_keys
    frames = {row: frame for row, key in enumerate(keys) if "/" in key and (frame := frame_of(faces, key)) is not None}
    has_frontal = cache(lambda name: frontal is None or bool(frontals_of(frontal, name)))
    kept = [row for row in frames if has_frontal(keys[row].split("/", 1)[0])]
    if not kept:
        raise ValueError(
            f"{faces}: pictures of none of the model's {len(keys)} members, e.g. {keys[0]!r}; expected "
            f"FACES/NAME/1.6/VIDEO/*.jpg{'' if frontal is None else f' and {frontal}/NAME/*.jpg'}, and a model whose "
            "members are videos, as `voicestyle models convert` makes it"
        )
    rows = torch.tensor(kept)
    if limit is not None:
        rows = rows[_spread(catalogue.assignments[rows].tolist(), limit, seed)]
    return Members(
        catalogue.subset(rows),
        [frames[row] for row in rows.tolist()],
        frontal,
        len(keys),
        len(keys) - len(frames),
        len(frames) - len(kept),
    )


def _spread(groups: Sequence[int], num: int, seed: int) -> list[int]:
    """`num` places, rising: one of each group in random order, then a second of each, and so on."""
    taken: Counter[int] = Counter()
    turns = []
    for place in np.random.default_rng(seed).permutation(len(groups)).tolist():
        turns.append((taken[groups[place]], place))
        taken[groups[place]] += 1
    return sorted(place for _, place in sorted(turns, key=lambda turn: turn[0])[:num])


def build_members(
    model: Model,
    members: Members,
    out: str | Path,  # as in `build_prototypes`
    *,
    similarity: Similarity = "face",  # by which a frame finds its frontal picture
    seed: int = 0,
    refuse: Refuse = lambda member, why: None,
    **projection: Any,  # of `Projector`
) -> PrototypeBank:
    """The catalogue's bank with a face embedding and a latent for each of these members, written to `out`.

    Both are those of the picture that is projected: the frontal one, or the frame where there are none. A build that
    was stopped goes on from ``OUT.part``, where everything that is done lies under the names of the pictures. Members
    whose pictures cannot be read are left out, and told to `refuse`.

    Raises:
        ImportError, ValueError: no picture can be read, no CLIP, or a model without generator
        BlockingIOError: another process is building this bank
    """
    part = check_out(Path(out))
    project = Projector(model, seed=seed, cache=part, depends_on=similarity, **projection)
    choose = None if members.frontal is None else MostSimilar(members.frontal, *_embedder(model, similarity))

    keys, reasons = members.bank.member_keys, {}

    def picture(i: int) -> Tensor:
        try:
            return load_square(members.frames[i] if choose is None else choose(keys[i], members.frames[i]))
        except (ValueError, OSError) as error:
            reasons[i] = str(error)
            return torch.full((1, 3, 16, 16), torch.nan)  # is kept as a member that has no picture

    def load(some: Sequence[int]) -> Pictures:
        native = [picture(i) for i in some]
        return native, torch.cat([crop_resize(p, (0, 0, 1, 1), project.generator.config.size) for p in native])

    def batches() -> Iterator[tuple[bytes, Callable[[], Pictures]]]:
        for some in chunks(range(len(members)), project.batch):
            yield _names(members, some), partial(load, some)

    with alone_with(out):
        found = {f"member_{name}": value for name, value in project(batches()).items()}
        has_picture = found["member_psnr"].isfinite()
        for i in (~has_picture).nonzero().flatten().tolist():
            refuse(keys[i], reasons.get(i, f"{members.frames[i]}: could not be read when the build began"))
        rows = has_picture.nonzero().flatten()
        held = {name: value[rows] for name, value in found.items()}
        bank = replace(members.bank.subset(rows), **held, generator_fingerprint=project.generator_fingerprint)
        about = {"similarity": similarity, **project.settings}
        write_bank(Path(out), model, bank, {**model.metadata, "members": about})
    return bank


def _embedder(model: Model, similarity: Similarity) -> tuple[Any, str]:
    """What embeds pictures to find similar ones, and how embeddings are compared."""
    device = model.needed_generator.w_avg.device
    if similarity == "face":
        return face_embedder(model.encoder.encode_face, device), "cosine"
    return clip_embedder(device), "dot" if similarity == "clip-dot" else "cosine"


def _names(members: Members, some: Sequence[int]) -> bytes:
    """All pictures that have a say in what these members get."""
    names = []
    for i in some:
        key, frame = members.bank.member_keys[i], members.frames[i]
        candidates = [] if members.frontal is None else frontals_of(members.frontal, key)
        names.append([key, *(f"{path.name} {path.stat().st_size}" for path in (frame, *candidates))])
    return repr(names).encode()
