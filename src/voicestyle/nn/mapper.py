"""The guided steps in one pass: a small network that says how guidance would move a start for a voice."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from voicestyle.config import MapperConfig


class Mapper(nn.Module):
    """Voice embedding and start -> latent: the start itself until it has learnt.

    It sees where the start lies from the mean face, in units of the spread of w, and moves it by a multiple of that
    spread, so that it means the same for every generator. What is by chance, the start has in it.
    """

    def __init__(self, config: MapperConfig) -> None:
        super().__init__()
        self.config = config
        self.body = nn.Sequential(
            nn.Linear(config.embed_dim + config.w_dim, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.w_dim),
        )
        nn.init.zeros_(self.body[-1].weight)
        nn.init.zeros_(self.body[-1].bias)
        self.register_buffer("w_avg", torch.zeros(config.w_dim))
        self.register_buffer("w_std", torch.ones(()))

    def forward(self, voice_emb: Tensor, w: Tensor) -> Tensor:
        """Latents (N,w_dim) of unit embeddings (N,D) or (1,D) and starts (N,w_dim)."""
        place = (w - self.w_avg) / self.w_std * self.config.w_dim**0.5
        voice = voice_emb.expand(len(w), -1) * self.config.embed_dim**0.5  # both of unit variance
        return w + self.w_std / self.config.w_dim**0.5 * self.body(torch.cat([voice, place], 1))
