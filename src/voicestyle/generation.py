"""Faces for a voice: what was made, how it came about, and how it is written and shown."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from voicestyle import __version__
from voicestyle.animation import FPS, save_animation
from voicestyle.config import GuidanceConfig
from voicestyle.image import save_png
from voicestyle.prototypes import Nearest
from voicestyle.sampling import polyline
from voicestyle.sheet import contact_sheet

if TYPE_CHECKING:
    from voicestyle.pipeline import VoiceStyle


@dataclass(frozen=True, eq=False)
class Generation:
    """Faces for one voice, and how they came about. N is num_faces; tensors are on the model's device."""

    image: Tensor  # (N,3,size,size), about [-1,1]
    w: Tensor  # (N,w_dim)
    similarity: Tensor  # (N,) cosine of the voice and each face
    prototypes: Nearest
    history: list[dict[str, Any]] = field(repr=False)  # one a guided step: step, lr, loss and similarity of each face
    voice_emb: Tensor = field(repr=False)  # (1,D)
    w_init: Tensor = field(repr=False)  # (N,w_dim) where guidance started
    path: Tensor = field(repr=False)  # (steps,N,w_dim) the latents on the way
    noise: list[Tensor] | None = field(repr=False)  # maps (N,1,r,r) that were found with w; None: the generator's own
    seed: int
    settings: GuidanceConfig = field(repr=False)
    voicestyle: VoiceStyle = field(repr=False)

    @property
    def steps(self) -> int:
        """Guided steps."""
        return self.settings.steps

    @property
    def settings_name(self) -> str:
        """Whose they are, k and steps aside: "reference" (the authors' code), "model" (the model's own) or "custom"."""
        own = self.voicestyle.config.guidance
        is_own = dataclasses.replace(self.settings, k=own.k, steps=own.steps) == own
        return "reference" if self.settings.is_reference else "model" if is_own else "custom"

    def metadata(self, face: int = 0) -> dict[str, str]:
        """What a written picture says of itself."""
        return {
            **self.voicestyle.metadata(),
            "seed": str(self.seed),
            "face": str(face),
            "steps": str(self.steps),
            "settings": self.settings_name,
            "similarity": f"{self.similarity[face].item():.4f}",
        }

    def summary(self) -> dict[str, Any]:
        """The numbers of this generation as plain JSON-ready values."""
        return {
            "similarity": self.similarity.tolist(),
            **self.voicestyle.describe(self.prototypes),
            "model": self.voicestyle.config.name,
            "seed": self.seed,
            "steps": self.steps,
            "settings": self.settings_name,
            "version": __version__,
        }

    def save(self, path: str | Path) -> list[Path]:
        """The PNG files written, each whole or not at all: `path`, or with several faces NAME-1.png, NAME-2.png, ..."""
        paths = self._paths(Path(path))
        for face, target in enumerate(paths):
            save_png(self.image[face : face + 1], target, self.metadata(face))
        return paths

    def _paths(self, path: Path) -> list[Path]:
        """The name of each face's file."""
        return [path] if len(self.w) == 1 else [path.with_stem(f"{path.stem}-{i + 1}") for i in range(len(self.w))]

    def morph(self, path: str | Path, seconds: float = 3.0) -> list[Path]:
        """The .gif or .mp4 files written, named as by `save`: from the nearest prototype over the start to the result.

        And back, in `seconds` for both ways. The first half of a way is straight, the second one that of guidance.
        """
        vs = self.voicestyle
        num = max(2, round(seconds * FPS / 2) + 1)
        part = (1 - torch.linspace(0, torch.pi, num).cos()) / 2  # slow at both ends
        prototype = vs.prototype_latents(self.prototypes)[:1].to(self.w)
        paths = self._paths(Path(path))
        for face, target in enumerate(paths):
            start, end = self.w_init[None, face], self.w[None, face]
            ways = torch.cat([prototype, start]), torch.cat([start, self.path[:, face], end])
            w = torch.cat([polyline(ways[0], 2 * part[part < 0.5]), polyline(ways[1], 2 * part[part >= 0.5] - 1)])
            images = vs.synthesize(w, self._noise(face)).cpu()
            save_animation(torch.cat([images, images[1:-1].flip(0)]), target, self.metadata(face))
        return paths

    def _noise(self, face: int) -> list[Tensor] | None:
        """The noise maps (1,1,r,r) of a face, where they were found with it."""
        return None if self.noise is None else [m[face : face + 1] for m in self.noise]

    def contact_sheet(self, num_steps: int = 6) -> PIL.Image.Image:
        """The prototypes, then for each face a row: its start, `num_steps` pictures on the way, the result."""
        vs = self.voicestyle
        rows = vs.prototype_rows(self.prototypes)
        marks = np.linspace(0, len(self.path), num_steps + 2).round().astype(int)[1:-1]
        steps = sorted({int(step) for step in marks if 0 < step < len(self.path)})
        for face in range(len(self.w)):
            w = torch.stack([self.w_init[face], *(self.path[step, face] for step in steps), self.w[face]])
            images = vs.synthesize(w, self._noise(face))
            similarity = vs.similarity(self.voice_emb, vs.encode_face(images))[0].tolist()
            names = ["start", *(f"step {step}" for step in steps), "result"]
            tiles = [(images[i : i + 1], f"{name}  {similarity[i]:.2f}") for i, name in enumerate(names)]
            rows.append((f"face {face + 1}, seed {self.seed}", tiles))
        return contact_sheet(rows)
