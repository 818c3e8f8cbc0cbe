"""Faces for a voice: what was made, how it came about, and how it is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from voicestyle.config import GuidanceConfig
from voicestyle.image import save_png
from voicestyle.prototypes import Nearest

# settings, k and steps aside: those of the authors' code, the model's own, or others
Whose = Literal["reference", "model", "custom"]


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
    settings_name: Whose = field(repr=False)
    evidence: Mapping[str, Any] = field(repr=False)  # the nearest prototypes and their members, JSON-ready
    provenance: Mapping[str, str] = field(repr=False)  # what every picture of the model says of itself
    percentile: list[float] | None = field(default=None, repr=False)  # of each similarity, see `VoiceStyle.percentile`

    @property
    def steps(self) -> int:
        """Guided steps."""
        return self.settings.steps

    def metadata(self, face: int = 0) -> dict[str, str]:
        """What a written picture says of itself."""
        return {
            **self.provenance,
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
            "percentile": self.percentile,
            **self.evidence,
            "model": self.provenance["model"],
            "seed": self.seed,
            "steps": self.steps,
            "settings": self.settings_name,
            "version": self.provenance["version"],
        }

    def save(self, path: str | Path) -> list[Path]:
        """The PNG files written, each whole or not at all, named by `paths`."""
        paths = self.paths(path)
        for face, target in enumerate(paths):
            save_png(self.image[face : face + 1], target, self.metadata(face))
        return paths

    def paths(self, path: str | Path) -> list[Path]:
        """The name of each face's file: `path`, or with several faces NAME-1.png, NAME-2.png, ..."""
        path = Path(path)
        return [path] if len(self.w) == 1 else [path.with_stem(f"{path.stem}-{i + 1}") for i in range(len(self.w))]


def whose(settings: GuidanceConfig, own: GuidanceConfig) -> Whose:
    """Whose settings they are, k and steps aside."""
    if settings.is_reference:
        return "reference"
    return "model" if dataclasses.replace(settings, k=own.k, steps=own.steps) == own else "custom"
