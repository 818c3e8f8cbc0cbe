"""A bridge into the joint space whose scores mean the same for every voice and face: cohort normalization.

A score v'f of a voice and a face counts for more where the voice scores high with few faces. So each side is divided by
the root mean square of its scores with the people of the other side, as speaker verification has it (Z-norm, Reynolds,
1997; here without the mean, and in closed form by the second moments of the cohort).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from voicestyle.config import Side

RIDGE = 0.04  # added to the second moments of the cohort; chosen by cross-validation (docs/results.md)
LIMIT = RIDGE**-0.5  # what no embedding can be longer than, since z'(S + RIDGE)z >= RIDGE z'z
FILL = 2  # coordinates that fill an embedding up to this length, one a side, so that the score is a cosine
TINY = 1e-12


class CohortBridge(nn.Module):
    """Features -> linear map -> normalized by the other side's cohort -> unit vector.

    The cosine of a voice and a face is their score over `LIMIT` squared, exactly: each side is filled up to unit norm
    by a coordinate that is zero on the other side. Cosines are therefore small: about 0.1 for a voice and its face.
    """

    def __init__(self, in_features: int, embed_dim: int, side: Side) -> None:
        super().__init__()
        if embed_dim <= FILL:
            raise ValueError(f"embed_dim: got {embed_dim}, expected more than {FILL} with a cohort bridge")
        self.is_voice = side == "voice"
        self.linear = nn.Linear(in_features, embed_dim - FILL)
        # second moments of unit vectors of the other side, + RIDGE
        self.cohort = nn.Parameter(torch.eye(embed_dim - FILL) * (1 + RIDGE), requires_grad=False)

    def forward(self, features: Tensor) -> Tensor:
        """Unit embeddings (N, embed_dim) of features (N, F)."""
        z = self.linear(features)
        rms = ((z @ self.cohort) * z).sum(1, keepdim=True).clamp_min(TINY).sqrt()
        z = z / (rms * LIMIT)
        rest = (1 - z.square().sum(1, keepdim=True)).clamp_min(TINY).sqrt()
        fill = [rest, torch.zeros_like(rest)] if self.is_voice else [torch.zeros_like(rest), rest]
        return torch.cat([z, *fill], dim=1)
