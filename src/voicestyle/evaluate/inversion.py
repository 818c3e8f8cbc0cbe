"""What makes an inversion good? The authors' study (investigate_stylegan), on any generator and pictures.

One thing is varied at a time, against a first row: aligned pictures as they are, W, optimized from w_avg.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from voicestyle.align import face_region
from voicestyle.evaluate.targets import Targets, low_quality, smaller
from voicestyle.files import kept, written_whole
from voicestyle.inversion import (
    LinearInverter,
    Perceptual,
    ReconstructionObjective,
    Region,
    Start,
    identity_features,
    invert,
    psnr,
)
from voicestyle.metrics import bootstrap_interval
from voicestyle.schema import to_dict
from voicestyle.sheet import contact_sheet

if TYPE_CHECKING:
    from voicestyle.pipeline import VoiceStyle

FACTORS = ("objective", "space", "method", "region", "quality", "resolution", "set")  # what can be varied
OBJECTIVES = (
    ("perceptual", "identity"),
    ("perceptual",),
    ("perceptual", "pixel", "identity"),
    ("pixel", "identity"),
    ("pixel",),
    ("identity",),
)
REFINE = 10  # a one-shot estimate is refined for this part of the steps
RESOLUTIONS = (2, 4)  # by how much smaller a picture was than what the generator draws
TILES = 8  # pictures on the contact sheet
BATCH = 8  # pictures that are inverted and judged together

SHEET_NOTE = "AI-generated inversions; the rows named 'given' are the pictures that they were made from."

PSNR, FACE_DISTANCE, IDENTITY = "PSNR (dB)", "face-embedding distance", "identity"
PSNR_ORIGINAL, IDENTITY_ORIGINAL = "PSNR to original (dB)", "identity to original"


@dataclass(frozen=True, eq=False)
class Condition:
    """What one row of the study does."""

    factor: str  # what is varied: one of FACTORS, or "first row", or "chance"
    name: str
    pictures: Targets
    objective: tuple[str, ...]  # one of OBJECTIVES
    steps: int
    space: Literal["w", "w_plus"] = "w"
    start: Start = "w_avg"
    region: Region = "all"


@dataclass(frozen=True)
class StudySettings:
    """What all conditions share."""

    steps: int = 300  # this and `lr`: section 1 of the method
    lr: float = 0.1
    seed: int = 0  # of the copies, the latent noise, the linear estimate and the bootstrap
    num_linear: int = 4000  # samples that the linear estimate is learnt from


@dataclass(frozen=True, eq=False)
class Row:
    """What came of one condition."""

    condition: Condition
    scores: dict[str, list[float]]  # of each picture
    seconds: float  # a picture, by the clock
    processor_seconds: float  # a picture, of all cores; on a GPU it says nothing
    images: Tensor = field(repr=False)  # the first TILES


@dataclass(frozen=True, eq=False)
class InversionStudy:
    """The rows of a study; the first one is what the others are compared with."""

    rows: tuple[Row, ...]
    context: dict[str, Any]  # model, networks, settings, device
    left_out: dict[str, str]  # conditions that could not be met, and why

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values, with the scores of every picture."""
        rows = []
        for row in self.rows:
            c = row.condition
            rows.append(
                {
                    "varied": c.factor,
                    "condition": c.name,
                    "objective": list(c.objective),
                    "space": c.space,
                    "region": c.region,
                    "start": c.start,
                    "steps": c.steps,
                    "pictures": list(c.pictures.names),
                    "scores": row.scores,
                    "mean": {name: float(np.mean(values)) for name, values in row.scores.items()},
                    "seconds": row.seconds,
                    "processor_seconds": row.processor_seconds,
                    "cost": self._cost(row),
                    "identity_difference": self._difference(row),
                }
            )
        return {**self.context, "left_out": self.left_out, "rows": rows}

    def to_markdown(self) -> str:
        """The context and a table, one condition a line: mean ± deviation over the pictures."""
        columns = ("varied", "condition", "pictures", *self.rows[0].scores, "identity, less first row", "s", "cost")
        lines = [f"- {name}: {value}" for name, value in self.context.items()]
        lines += [f"- left out: {name}: {why}" for name, why in self.left_out.items()]
        lines += ["", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        for row in self.rows:
            cells = [row.condition.factor, row.condition.name, str(len(row.condition.pictures))]
            for name, values in row.scores.items():
                digits = 1 if "dB" in name else 3
                cells.append(f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}")
            cells.append("{:+.3f} ({:+.3f} to {:+.3f})".format(*found) if (found := self._difference(row)) else "")
            cells += [f"{row.seconds:.2f}", f"{self._cost(row):.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"

    def sheet(self) -> Image.Image:
        """A contact sheet: what is inverted, and below it the inversions of each condition."""
        rows: list[tuple[str, list[tuple[Tensor | None, str]]]] = []
        shown = None
        for row in self.rows:
            c = row.condition
            if c.pictures is not shown:
                shown = c.pictures
                given = zip(shown.target[:TILES], shown.names, strict=False)
                rows.append((f"given: {c.factor}, {c.name}" if rows else "given", list(given)))
            tiles = zip(row.images, (f"{value:.2f}" for value in row.scores[IDENTITY_ORIGINAL]), strict=False)
            rows.append((f"AI-generated: {c.factor}, {c.name} (identity to original)", list(tiles)))
        return contact_sheet(rows)

    def write(self, folder: Path) -> None:
        """Write ``inversion.md`` and ``inversion.json``, each whole or not at all."""
        for name, text in (("inversion.md", self.to_markdown()), ("inversion.json", json.dumps(self.to_dict()))):
            with written_whole(folder / name) as beside:
                beside.write_text(text, encoding="utf-8")

    def _cost(self, row: Row) -> float:
        """Time relative to the first row: the processor's on a CPU, which other programs do not stretch."""
        on_cpu = self.context["device"] == "cpu"
        own, first = (r.processor_seconds if on_cpu else r.seconds for r in (row, self.rows[0]))
        return own / first

    def _difference(self, row: Row) -> tuple[float, float, float] | None:
        """Identity to the original, less that of the first row, with its 95 % interval over the pictures.

        None for the first row itself, and where the pictures are others.
        """
        first, names = self.rows[0], row.condition.pictures.names
        if row is first or names != first.condition.pictures.names:
            return None
        less = np.subtract(row.scores[IDENTITY_ORIGINAL], first.scores[IDENTITY_ORIGINAL])
        return float(less.mean()), *bootstrap_interval(less, names, self.context["seed"])


def study_conditions(
    vs: VoiceStyle,
    base: Targets,
    sets: Mapping[str, Targets],  # further ones, by name
    settings: StudySettings,
    perceptual: Perceptual | None = None,
    vary: Iterable[str] = FACTORS,
) -> list[Condition]:
    """The rows of a study: the first one, chance (the mean face for every picture), and what is varied."""
    steps, few = settings.steps, max(1, settings.steps // REFINE)
    possible = [objective for objective in OBJECTIVES if perceptual is not None or "perceptual" not in objective]

    def named(objective: tuple[str, ...]) -> str:
        return " + ".join(perceptual.name if perceptual and part == "perceptual" else part for part in objective)

    name = f"{named(possible[0])}, W, {steps} steps"
    first = Condition("first row", name, base, possible[0], steps)

    def other(factor: str, name: str, **changes: Any) -> Condition:
        return dataclasses.replace(first, factor=factor, name=name, **changes)

    methods = {"linear estimate": "linear", **({"the model's inverter": "inverter"} if vs.model.inverter else {})}
    varied = {
        "objective": lambda: [other("objective", named(o), objective=o) for o in possible[1:]],
        "space": lambda: [other("space", "W+", space="w_plus")],
        "method": lambda: [
            other("method", f"{name}, {num} steps", start=start, steps=num)
            for name, start in methods.items()
            for num in (0, few)
        ],
        "region": lambda: [
            other("region", f"{name}, the face" if name else "the face", pictures=pictures, region="face")
            for name, pictures in {"": base, **sets}.items()
            if not pictures.boxes  # it is known in the frame alone
        ],
        "quality": lambda: [other("quality", "low", pictures=low_quality(base, settings.seed))],
        "resolution": lambda: [
            other("resolution", f"1/{factor}", pictures=smaller(base, factor)) for factor in RESOLUTIONS
        ],
        "set": lambda: [other("set", name, pictures=pictures) for name, pictures in sets.items()],
    }
    chance = other("chance", "the mean face", steps=0)
    return [first, chance, *(row for factor in FACTORS if factor in vary for row in varied[factor]())]


def study_inversion(
    vs: VoiceStyle,
    conditions: Iterable[Condition],
    settings: StudySettings,
    perceptual: Perceptual | None = None,  # as the conditions were made with
    *,
    cache: Path | None = None,  # folder of latents: a study that was stopped goes on from there
    progress: Callable[[int], object] = lambda num_pictures: None,
) -> InversionStudy:
    """The scores of each condition's inversions.

    PSNR, and the perceptual distance, else that of face embeddings, compare with the picture that was inverted;
    PSNR and identity `to original` with the clean, aligned face, in that frame. Identity is the cosine of IR-SE50 where
    the model has it, else of its face backbone: the network that the objective uses, too. Different people do not have
    0: see the row of chance.
    """
    run = _Run(vs, settings, perceptual, cache)
    rows = tuple(run(condition, progress) for condition in conditions)
    context = {
        "model": vs.config.name,
        "generator": (vs.model.generator_fingerprint or "")[:12],
        "size": vs.generator.config.size,
        "identity network": run.identity_name,
        "embedding": vs.config.encoder.identity_backbone,
        **to_dict(settings),
        "device": str(vs.device),
        "dtype": str(vs.dtype).removeprefix("torch."),
    }
    missing = {"perceptual distance": "not wanted, or torchvision's VGG16 is not on this machine"}
    left_out = {} if perceptual else missing
    left_out |= (
        {} if vs.model.inverter else {"the model's inverter": "it has none; `voicestyle train inverter` adds one"}
    )
    return InversionStudy(rows, context, left_out)


@dataclass
class _Run:
    """A model at work on a study."""

    vs: VoiceStyle
    settings: StudySettings
    perceptual: Perceptual | None
    cache: Path | None

    def __call__(self, condition: Condition, progress: Callable[[int], object]) -> Row:
        found = self._cached(condition, progress)
        images = self.vs.synthesize(found["w"]).clamp(-1, 1)
        scores = self.scores(condition.pictures, images)
        seconds, processor_seconds = (found["seconds"] / len(condition.pictures)).tolist()
        return Row(condition, scores, seconds, processor_seconds, images[:TILES].cpu())

    @cached_property
    def identity(self) -> Callable[[Tensor], Tensor]:
        return identity_features(self.vs.encoder, self.vs.model.identity)

    @property
    def identity_name(self) -> str:
        return self.vs.config.encoder.identity_backbone if self.vs.model.identity is None else "IR-SE50"

    @cached_property
    def linear(self) -> LinearInverter:
        return LinearInverter.learn(
            self.vs.generator,
            self.settings.num_linear,
            seed=self.settings.seed,
            cache=self.cache,
            fingerprint=self.vs.model.generator_fingerprint,
        )

    def _cached(self, condition: Condition, progress: Callable[[int], object]) -> dict[str, Tensor]:
        """The latents of a condition, and the seconds (2,) that they took by both clocks; from the cache if there."""
        path = None if self.cache is None else self.cache / f"{self._digest(condition)}.safetensors"
        if path is not None and path.is_file():
            progress(len(condition.pictures))
        return kept(path, lambda: self._invert(condition, progress))

    def _digest(self, condition: Condition) -> str:
        """The name of all that the latents of a condition depend on."""
        model, c = self.vs.model, condition
        prints = [model.generator_fingerprint, model.encoder_fingerprint, model.identity_fingerprint]
        prints += [model.inverter_fingerprint] if c.start == "inverter" else []
        prints += [c.region] if c.region != "all" else []
        how = [c.objective, c.steps, c.space, c.start, to_dict(self.settings), str(self.vs.dtype)]
        digest = hashlib.sha256(json.dumps([*prints, *how]).encode())
        digest.update(c.pictures.target.numpy().tobytes())
        return digest.hexdigest()[:32]

    def _invert(self, condition: Condition, progress: Callable[[int], object]) -> dict[str, Tensor]:
        estimate = self._estimate(condition.start)  # not counted: it is learnt once, not for each picture
        parts, seconds = [], torch.zeros(2, dtype=torch.float64)
        for target in condition.pictures.target.split(BATCH):
            target = target.to(self.vs.device)
            began = _clocks()
            with torch.no_grad():
                w = estimate(target)
            if condition.steps:
                w = self._optimize(condition, target, w)
            parts.append(w)
            seconds += _clocks() - began
            progress(len(target))
        return {"w": torch.cat(parts), "seconds": seconds}

    def _estimate(self, start: str) -> Callable[[Tensor], Tensor]:
        """Where the latents of pictures start."""
        if start == "w_avg":
            return lambda target: self.vs.generator.w_avg.expand(len(target), -1)
        return self.linear if start == "linear" else self.vs.model.needed_inverter

    def _optimize(self, condition: Condition, target: Tensor, w_init: Tensor) -> Tensor:
        uses = condition.objective
        region = face_region(target.shape[-1]) if condition.region == "face" else None
        return invert(
            self.vs.generator,
            target,
            self.identity if "identity" in uses else None,
            self.perceptual if "perceptual" in uses else None,
            pixel_weight=float("pixel" in uses),
            w_init=w_init,
            space=condition.space,
            steps=condition.steps,
            lr=self.settings.lr,
            seed=self.settings.seed,
            batch=BATCH,
            dtype=self.vs.dtype,
            region=region,
        ).w

    @torch.no_grad()
    def scores(self, pictures: Targets, images: Tensor) -> dict[str, list[float]]:
        """What is said of inversions (N,3,size,size): a list of N for each score."""
        found: dict[str, list[float]] = {}
        for start in range(0, len(pictures), BATCH):
            rows = slice(start, start + BATCH)
            image, target, original = (x[rows].to(self.vs.device) for x in (images, pictures.target, pictures.original))
            face, wanted = pictures.faces(image, rows), pictures.faces(target, rows)
            if self.perceptual is None:
                embed = self.vs.encoder.identity_features
                look = {FACE_DISTANCE: (embed(face) - embed(wanted)).norm(dim=1)}
            else:
                whole = ReconstructionObjective(target, None, self.perceptual)
                look = {self.perceptual.name: whole.perceptual_distance(image)}
            cosines = [F.cosine_similarity(self.identity(face), self.identity(other)) for other in (wanted, original)]
            values = {
                PSNR: psnr(image, target),
                **look,
                IDENTITY: cosines[0],
                PSNR_ORIGINAL: psnr(face, original),
                IDENTITY_ORIGINAL: cosines[1],
            }
            for name, value in values.items():
                found.setdefault(name, []).extend(value.tolist())
        return found


def _clocks() -> Tensor:
    """The time (2,) by the clock on the wall, and that of the processor, in seconds."""
    return torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64)
