"""A projected discriminator with its optimizer, and the random views through which it sees pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from voicestyle.nn.efficientnet import FEATURE_CHANNELS
from voicestyle.nn.projected import ProjectedDiscriminator

BRIGHTNESS, SATURATION, CONTRAST = 0.3, 0.4, 0.3  # largest changes of [-1,1] and of factors
SHIFT = 1 / 12  # of the side
SCALES = len(FEATURE_CHANNELS)  # losses are sums over scales, as in the paper


class Views:
    """Brightness, saturation, contrast and place of `num` pictures of `size` pixels, drawn by `rng`."""

    def __init__(self, num: int, size: int, rng: torch.Generator) -> None:
        def draw(most: float) -> Tensor:
            return (torch.rand(num, 1, 1, 1, generator=rng) * 2 - 1) * most

        self.light, self.saturation, self.contrast = draw(BRIGHTNESS), 1 + draw(SATURATION), 1 + draw(CONTRAST)
        most = int(size * SHIFT)
        self.shift = torch.randint(-most, most + 1, (num, 2), generator=rng)
        self.most = most

    def __call__(self, image: Tensor, first: int = 0) -> Tensor:
        """The views of pictures (N,3,S,S), of which the first is number `first`."""
        rows, size, k = slice(first, first + len(image)), image.shape[-1], self.most
        x = image + self.light[rows]
        gray = x.mean(1, keepdim=True)
        x = gray + (x - gray) * self.saturation[rows]
        mean = x.mean((1, 2, 3), keepdim=True)
        x = F.pad(mean + (x - mean) * self.contrast[rows], (k, k, k, k), mode="replicate")
        places = (self.shift[rows] + k).tolist()
        moved = [x[i, :, y : y + size, z : z + size] for i, (y, z) in enumerate(places)]
        return torch.stack(moved).contiguous(memory_format=torch.channels_last)


class Judge:
    """Learns to tell features of real pictures from those of generated ones (hinge loss), and says what it thinks."""

    def __init__(self, lr: float) -> None:
        self.network = ProjectedDiscriminator(FEATURE_CHANNELS).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.network.judges.parameters(), lr, betas=(0.0, 0.99))

    def learn(self, real: Sequence[Tensor], fake: Sequence[Tensor]) -> float:
        """One step; the mean hinge loss, 2 where nothing is told apart."""
        told, made = self.network(real), self.network([x.detach() for x in fake])
        loss = F.relu(1 - told).mean() + F.relu(1 + made).mean()
        self.optimizer.zero_grad(set_to_none=True)
        (SCALES * loss).backward()
        self.optimizer.step()
        return loss.item()

    def doubt(self, fake: Sequence[Tensor]) -> Tensor:
        """How little each generated picture passes for a real one (N,); the gradient is the generator's."""
        self.network.requires_grad_(False)
        logits = self.network(fake)
        self.network.judges.requires_grad_(True)
        return -SCALES * logits.mean(1)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
