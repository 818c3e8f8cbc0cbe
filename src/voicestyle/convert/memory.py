"""The authors' prototypes (`frame_memory_best_256.pth.tar`, `training.csv`) as a catalogue: a bank without latents."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from voicestyle.config import EncoderConfig
from voicestyle.convert.torch_file import read_torch_file
from voicestyle.prototypes import PrototypeBank

NAME, VIDEO = "VGGFace1 ID", "video_id"  # columns: the folder of a person in VoxCeleb's `unzippedFaces`, and a video


@dataclass(frozen=True, eq=False)
class FrameMemory:
    """The K-means result of one granularity, as the file has it."""

    centroids: Tensor  # (K,D), not normalized; NaN where a cluster is empty
    assignments: Tensor  # (M,) int64 in [0,K): the cluster of each row of the index
    density: Tensor | None  # (K,) the concentrations of PCL, of mean 0.2


def read_catalogue(
    memory_path: str | Path, index_path: str | Path, k: int, encoder_fingerprint: str
) -> tuple[PrototypeBank, dict[str, int]]:
    """The catalogue of K prototypes, and what was left out, by number.

    Prototypes without members are left out, and so are those whose centroid is no direction (NaN or zero), with their
    members. The others are numbered anew and normalized. Their concentrations are those of the file, which has the
    authors' formula; where it has none they are 1, which ranks no prototype above another.

    Raises:
        FileNotFoundError: no such file
        ValueError: a file of another layout, without this K, or an index that does not fit the memory
    """
    memory, rows = read_memory(memory_path, k), read_index(index_path)
    if len(rows) != len(memory.assignments):
        raise ValueError(
            f"{index_path}: {len(rows)} rows, but {memory_path} assigns {len(memory.assignments)} videos; "
            "the two belong together, get both from one place"
        )
    is_direction = torch.isfinite(memory.centroids).all(1) & (memory.centroids != 0).any(1)
    has_members = memory.assignments.bincount(minlength=k) > 0
    kept = is_direction & has_members
    if not kept.any():
        raise ValueError(f"{memory_path}: none of the {k} prototypes has both members and a centroid")
    is_member = kept[memory.assignments]
    density = torch.ones(k) if memory.density is None else memory.density
    members = [row for row, inside in zip(rows, is_member.tolist(), strict=True) if inside]
    people = {name: i for i, name in enumerate(dict.fromkeys(name for name, _ in members))}
    bank = PrototypeBank(
        centroids=F.normalize(memory.centroids[kept], dim=1),
        concentrations=density[kept],
        assignments=(kept.cumsum(0) - 1)[memory.assignments[is_member]],
        member_emb=None,
        member_w=None,
        member_identity=torch.tensor([people[name] for name, _ in members]),
        member_keys=[f"{name}/{video}" for name, video in members],
        encoder_fingerprint=encoder_fingerprint,
        generator_fingerprint="",
    )
    left_out = {
        "prototypes": int((~kept).sum()),
        "prototypes_without_members": int((~has_members).sum()),
        "prototypes_without_direction": int((~is_direction).sum()),
        "members": int((~is_member).sum()),
    }
    return bank, left_out


def read_memory(path: str | Path, k: int) -> FrameMemory:
    """The granularity with `k` prototypes of a frame memory, a dict of lists over K, on the CPU.

    Raises:
        FileNotFoundError: no such file
        ValueError: another layout, no such K, or assignments that are out of range
    """
    memory = read_torch_file(path)
    held = memory if isinstance(memory, dict) else {}
    all_assignments, all_centroids = _tensors(held.get("inst2cluster")), _tensors(held.get("centroids"))
    if all_assignments is None or all_centroids is None:
        found = sorted(map(str, memory))[:6] if isinstance(memory, dict) else type(memory).__name__
        raise ValueError(f"{path}: holds {found}, expected a frame memory with lists 'inst2cluster' and 'centroids'")
    known = [centroids.shape[0] if centroids.ndim else 0 for centroids in all_centroids]
    if k not in known or len(all_assignments) != len(known):
        raise ValueError(f"{path}: has prototypes for K = {known}, not for {k}; choose one of them (--num-prototypes)")
    i = known.index(k)
    assignments, centroids = all_assignments[i], all_centroids[i]
    shapes, dim = (tuple(assignments.shape), tuple(centroids.shape)), EncoderConfig.cmpc().embed_dim
    if assignments.is_floating_point() or assignments.ndim != 1 or centroids.shape != (k, dim):
        raise ValueError(
            f"{path}: {assignments.dtype} assignments and centroids of shapes {shapes}, expected integers "
            f"(rows,) and ({k}, {dim})"
        )
    if not bool(((assignments >= 0) & (assignments < k)).all()):
        raise ValueError(f"{path}: assignments outside of the {k} prototypes")
    return FrameMemory(centroids.float(), assignments.long(), _density(held.get("density"), i, k))


def _tensors(found: object) -> Sequence[Tensor] | None:
    """A list of tensors, or None where it is something else."""
    return found if isinstance(found, (list, tuple)) and all(isinstance(t, Tensor) for t in found) else None


def read_index(path: str | Path) -> list[tuple[str, str]]:
    """Name and video of each row of `training.csv`.

    Raises:
        FileNotFoundError: no such file
        ValueError: no CSV file, other columns, or a value that could not be the name of a folder
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, expected the authors' training.csv")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            if not {NAME, VIDEO} <= set(columns):
                raise ValueError(f"columns {[c[:40] for c in columns[:8]]}, expected {NAME!r} and {VIDEO!r} among them")
            rows = [(row[NAME], row[VIDEO]) for row in reader]
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise ValueError(f"{path}: not the authors' training.csv ({error})") from None
    for i, values in enumerate(rows):
        if not all(value and value not in (".", "..") and not set(value) & set("/\\") for value in values):
            raise ValueError(f"{path}: row {i + 1} has {values}, expected the names of a person and of a video")
    return rows


def _density(densities: object, i: int, k: int) -> Tensor | None:
    """The concentrations of one granularity; None where the file has none that can be used."""
    density = densities[i] if isinstance(densities, (list, tuple)) and i < len(densities) else None
    if not isinstance(density, Tensor) or density.shape != (k,) or not torch.isfinite(density).all():
        return None
    return density.float() if (density > 0).all() else None
