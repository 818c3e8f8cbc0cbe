"""GE2E speaker encoder (Wan et al., "Generalized end-to-end loss for speaker verification", ICASSP 2018)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PARTIAL_FRAMES = 160  # 1.6 s, the length that the network was trained on (resemblyzer hparams.py)
PARTIAL_STEP = 77  # frames: 1.3 partials a second (resemblyzer embed_utterance); what `audio.log_mel` pads for


class GE2E(nn.Module):
    """Three LSTM layers and a rectified projection; an utterance is the mean over its overlapping partials."""

    def __init__(self, n_mels: int = 40, hidden: int = 256, embed_dim: int = 256, num_layers: int = 3) -> None:
        super().__init__()
        self.lstm = nn.LSTM(n_mels, hidden, num_layers, batch_first=True)
        self.linear = nn.Linear(hidden, embed_dim)

    def forward(self, mel: Tensor) -> Tensor:
        """Embeddings (N, embed_dim), unit norm and >= 0, of mel power (N, 1, n_mels, T >= 160).

        Frames after the last whole partial are not seen: `audio.log_mel` pads so that none are left.
        """
        if mel.ndim != 4 or mel.shape[1] != 1 or mel.shape[3] < PARTIAL_FRAMES:
            raise ValueError(f"GE2E: mel of shape {tuple(mel.shape)}, expected (N, 1, n_mels, T >= {PARTIAL_FRAMES})")
        partials = mel[:, 0].unfold(2, PARTIAL_FRAMES, PARTIAL_STEP)  # (N, n_mels, P, 160)
        num_clips, _, num_partials, _ = partials.shape
        partials = partials.permute(0, 2, 3, 1).flatten(0, 1)  # (N * P, 160, n_mels)
        # an hour has thousands of partials: bounded memory
        last = torch.cat([self.lstm(some)[1][0][-1] for some in partials.split(256)])
        embedded = F.normalize(F.relu(self.linear(last)), dim=1)
        return F.normalize(embedded.unflatten(0, (num_clips, num_partials)).mean(dim=1), dim=1)
