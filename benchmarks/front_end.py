"""Speed of the front ends against a plain per-frame formulation, alternating in one run; it is the oracle as well.

    python benchmarks/front_end.py [--seconds 6] [--rounds 15] [--threads 1]

Prints medians of processor time, ratios and the largest difference. Decoding and silence removal are not timed.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from voicestyle.audio import log_mel
from voicestyle.config import LogMelConfig


def htk_mel(hz: float) -> float:
    return 2595 * math.log10(1 + hz / 700)


def slaney_mel(hz: float) -> float:
    return hz * 3 / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)


def slaney_hz(mel: float) -> float:
    return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)


def filters(config: LogMelConfig) -> np.ndarray:
    """Triangles of unit area (n_mels, n_fft // 2 + 1), point by point."""
    bin_hz = config.sample_rate / config.n_fft
    if config.front_end == "cmpc2":
        mels = np.linspace(htk_mel(config.f_min_hz), htk_mel(config.f_max_hz), config.n_mels + 2)
        edges = [round(700 * (10 ** (m / 2595) - 1) / bin_hz) * bin_hz for m in mels]
    else:
        edges = [
            slaney_hz(m)
            for m in np.linspace(slaney_mel(config.f_min_hz), slaney_mel(config.f_max_hz), config.n_mels + 2)
        ]
    made = np.zeros((config.n_mels, config.n_fft // 2 + 1))
    for band, (left, center, right) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        for k in range(made.shape[1]):
            hz = k * bin_hz
            slope = (hz - left) / (center - left) if hz <= center else (right - hz) / (right - center)
            made[band, k] = max(0.0, slope) * 2 / (right - left)
    return made


class PerFrame:
    """The reference formulation in float64: one frame at a time, the filters built once."""

    def __init__(self, config: LogMelConfig) -> None:
        self.config = config
        self.filters = filters(config)
        n = config.win_length
        self.window = np.hamming(n) if config.front_end == "cmpc2" else np.hanning(n + 1)[:-1]

    def band_power(self, frame: np.ndarray) -> np.ndarray:
        spectrum = np.fft.rfft(frame * self.window, self.config.n_fft)
        return self.filters @ (spectrum.real**2 + spectrum.imag**2)

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        return {"cmpc": self.cmpc, "cmpc2": self.cmpc2, "ge2e": self.ge2e}[self.config.front_end](waveform)

    def centered(self, padded: np.ndarray, num_frames: int) -> np.ndarray:
        hop, win = self.config.hop_length, self.config.win_length
        return np.stack([self.band_power(padded[i * hop : i * hop + win]) for i in range(num_frames)], axis=1)

    def cmpc(self, waveform: np.ndarray) -> np.ndarray:
        padded = np.pad(waveform, self.config.n_fft // 2, mode="reflect")
        decibel = 10 * np.log10(np.maximum(1e-10, self.centered(padded, len(waveform) // self.config.hop_length + 1)))
        return np.maximum(decibel, decibel.max() - 80)

    def cmpc2(self, waveform: np.ndarray) -> np.ndarray:
        samples, win, hop = np.round(waveform * 32768), self.config.win_length, self.config.hop_length
        prior, rows = 0.0, []
        for i in range(int(len(samples) / hop + 1)):
            frame = samples[i * hop : i * hop + win]
            if len(frame) < win:
                frame = np.resize(frame, win)
            emphasized = frame - 0.97 * np.concatenate([[prior], frame[:-1]])
            prior = frame[-1]
            rows.append(np.log(np.maximum(1e-5, self.band_power(emphasized))))
        log = np.stack(rows, axis=1)
        log = (log - log.mean(axis=1, keepdims=True)) / (log.std(axis=1, keepdims=True) + np.finfo(np.float32).eps)
        repeats = math.ceil(self.config.num_frames / log.shape[1])
        return np.tile(log, repeats)[:, : max(log.shape[1], self.config.num_frames)]

    def ge2e(self, waveform: np.ndarray) -> np.ndarray:
        hop, partial, step = self.config.hop_length, self.config.num_frames, 77
        starts = list(range(0, max(1, math.ceil((len(waveform) + 1) / hop) - partial + step + 1), step))
        if len(starts) > 1 and (len(waveform) - starts[-1] * hop) / (partial * hop) < 0.75:
            starts.pop()
        stop = starts[-1] + partial
        half = self.config.n_fft // 2
        return self.centered(np.pad(waveform, (half, max(0, stop * hop - len(waveform)) + half)), stop)


def timed(call: Callable[[], object]) -> float:
    start = time.process_time()  # of the processor: other work on the machine does not count
    call()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="length of the clip")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rng = np.random.default_rng(0)
    waveform = np.round(3000 * rng.standard_normal(int(args.seconds * 16000))) / 32768
    clip = torch.from_numpy(waveform)
    for config in (LogMelConfig.cmpc(), LogMelConfig.cmpc2(), LogMelConfig.ge2e()):
        reference = PerFrame(config)
        ways = {
            "per frame": lambda reference=reference: reference(waveform),
            "float64": lambda config=config: log_mel(clip, config, torch.float64),
            "float32": lambda config=config: log_mel(clip.float(), config),
        }
        expected = ways["per frame"]()
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, call in ways.items():
                times[name].append(timed(call))
        base = median(times["per frame"])
        print(f"{config.front_end}: per frame {1e3 * base:.1f} ms for {args.seconds:g} s")
        for name in ("float64", "float32"):
            difference = np.abs(ways[name]()[0].double().numpy() - expected).max()
            spent = median(times[name])
            print(f"  {name}: {1e3 * spent:.2f} ms, {base / spent:.1f}x, largest difference {difference:.1e}")


if __name__ == "__main__":
    main()
