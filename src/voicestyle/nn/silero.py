"""Silero VAD 6 (Silero team, MIT): how likely each stretch of 32 ms holds speech."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SAMPLE_RATE = 16000  # Hz
WINDOW, CONTEXT, REFLECTED = 512, 64, 64  # samples: of a stretch, of what is before it, of its mirrored end
N_FFT, STRIDE = 256, 128


class SileroVAD(nn.Module):
    """A short spectrum and four convolutions a stretch, an LSTM over them. Names are those of the published weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, N_FFT + 2, N_FFT, stride=STRIDE, bias=False)
        self.conv1 = nn.Conv1d(N_FFT // 2 + 1, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm_cell = nn.LSTMCell(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)

    def forward(self, waveform: Tensor) -> Tensor:
        """Probabilities of speech (num_stretches,) of a waveform (num_samples,) at 16 kHz; zeros fill the last one."""
        waveform = F.pad(waveform, (CONTEXT, -len(waveform) % WINDOW))
        stretches = waveform.unfold(0, CONTEXT + WINDOW, WINDOW)
        features = torch.cat([self._features(some) for some in stretches.split(256)])
        state = features.new_zeros(2, 1, 128)
        hidden = []
        for feature in features.split(1):
            state = torch.stack(self.lstm_cell(feature, (state[0], state[1])))
            hidden.append(state[0])
        return self.final_conv(torch.cat(hidden).relu()[..., None]).sigmoid().flatten()

    def _features(self, stretches: Tensor) -> Tensor:
        """(N, 128) of stretches (N, CONTEXT + WINDOW)."""
        real, imaginary = self.stft_conv(F.pad(stretches, (0, REFLECTED), "reflect")[:, None]).chunk(2, dim=1)
        x = (real.square() + imaginary.square()).sqrt()
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = conv(x).relu()
        return x[..., 0]
