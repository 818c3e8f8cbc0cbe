"""Training pictures as codes of a generator, so that it can be taught as a decoder.

A GAN needs days to find what a decoder learns in minutes. The code of a picture are its whitened principal components
(`MorphSpace.codes`), so that a random code is a likely one; its latent is that of the code plus a part of its own,
which is learnt (generative latent optimization, Bojanowski et al., ICML 2018), for no mapping finds the best latent of
every picture. A mean of latents has to look like the morph of its faces.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from voicestyle.nn.stylegan2 import Mapping
from voicestyle.train.generator.morph import MorphSpace

MIN_MORPH_SIZE = 64  # pixels: a morph below would be blurred by its warp


class FaceCodes:
    """Pictures, mirror images and morphs, with their latents."""

    def __init__(self, space: MorphSpace, z_dim: int, w_dim: int, device: torch.device) -> None:
        self.full = self.space = space
        self.device = device
        self.codes, self.deviations = space.codes(z_dim)
        self.own = torch.zeros(len(space), w_dim)  # what each latent has beside the mapping of its code
        self._adam = RowAdam(self.own)

    def __len__(self) -> int:
        return len(self.full)

    def enter(self, size: int) -> None:
        """Make targets of `size` pixels from now on."""
        self.size = size
        self.space = self.full.resized(max(size, MIN_MORPH_SIZE))

    def pictures(self, indices: Tensor) -> Tensor:
        """Training pictures (N,3,size,size)."""
        return self._fit(self.space.pictures[indices].float())

    def targets(self, faces: Tensor, members: Tensor, weights: Tensor, detail: float) -> Tensor:
        """Pictures of `faces` (F,), then morphs of `members` (M,8) with `weights` (M,8): (F+M,3,size,size)."""
        target = [self.pictures(faces)]
        if len(members):
            target.append(self._fit(self.space.mix(members, weights, detail)))
        return torch.cat(target).to(self.device)

    def latents(self, mapping: Mapping, faces: Tensor, members: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (F+M,w_dim) of the same, and the own parts (F,w_dim) of the faces, as a leaf for gradients."""
        own = self.own[faces].to(self.device).requires_grad_()
        w = [mapping(self.codes[faces].to(self.device)) + own]
        if len(members):
            flat = members.flatten()
            mapped = mapping(self.codes[flat].to(self.device)) + self.own[flat].to(self.device)
            w.append(torch.einsum("nm,nmd->nd", weights.to(self.device), mapped.view(*members.shape, -1)))
        return torch.cat(w), own

    def learn(self, faces: Tensor, gradient: Tensor, lr: float) -> None:
        """Move the own parts of `faces` (F,), no face twice, against their gradients (F,w_dim)."""
        self._adam.step(faces, gradient.cpu(), lr)

    def _fit(self, image: Tensor) -> Tensor:
        return F.interpolate(image, size=self.size, mode="area") if image.shape[-1] != self.size else image

    def state_dict(self) -> dict[str, Any]:
        """The codes too: another machine may find the same components with other signs."""
        return {"codes": self.codes, "own": self.own, "adam": self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.codes = state["codes"]
        self.own.copy_(state["own"])
        self._adam.load_state_dict(state["adam"])

    def start_from(self, state: dict[str, Any]) -> None:
        """Take over codes and own parts of a run with no wider ones, on the same pictures.

        Raises:
            ValueError: of other pictures, or wider
        """
        for name, ours in (("codes", self.codes), ("own", self.own)):
            theirs = state[name]
            if len(theirs) != len(ours) or theirs.shape[1] > ours.shape[1]:
                raise ValueError(
                    f"start: {name} of shape {tuple(theirs.shape)}, expected {len(ours)} rows of at most "
                    f"{ours.shape[1]}; start from a run on the same pictures"
                )
            ours[:, : theirs.shape[1]] = theirs


class RowAdam:
    """Adam (0.9, 0.99) on a table of which each step sees a few rows: every row counts its own steps."""

    BETAS = (0.9, 0.99)

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.mean, self.square = torch.zeros_like(table), torch.zeros_like(table)
        self.steps = torch.zeros(len(table), 1)

    def step(self, rows: Tensor, gradient: Tensor, lr: float) -> None:
        """Move `rows` (N,) against `gradient` (N,D)."""
        first, second = self.BETAS
        self.steps[rows] += 1
        self.mean[rows] = self.mean[rows].lerp(gradient, 1 - first)
        self.square[rows] = self.square[rows].lerp(gradient.square(), 1 - second)
        mean = self.mean[rows] / (1 - first ** self.steps[rows])
        square = self.square[rows] / (1 - second ** self.steps[rows])
        self.table[rows] -= lr * mean / (square.sqrt() + 1e-8)

    def state_dict(self) -> dict[str, Tensor]:
        """The moments."""
        return {"mean": self.mean, "square": self.square, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state."""
        self.mean, self.square, self.steps = state["mean"], state["square"], state["steps"]
