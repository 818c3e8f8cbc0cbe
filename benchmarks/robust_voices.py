"""How the association falls with voices that are shorter, noisier, over the telephone or through a codec.

    python benchmarks/robust_voices.py pairs.csv -o runs/robustness [--model voicestyle-small] [--split val]

Each recording of the split is spoiled before silence is removed, but for its length, which counts seconds of speech.
Writes robustness.md: AUC of verification, any impostor and same gender, with frontal pictures and frames in the wild,
of all pairs of the split. About ten minutes on one core.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import av
import numpy as np
import soxr
import torch
from torch import Tensor
from tqdm import tqdm

import voicestyle
from voicestyle.audio import load_audio, normalize_volume, remove_silence
from voicestyle.data.manifest import Item, Manifest
from voicestyle.data.pictures import frontal_picture, wild_picture
from voicestyle.train.encoder.augment import add_noise
from voicestyle.train.encoder.validation import association_auc

RATE = 16000  # Hz
Spoil = Callable[[Tensor], Tensor]


def noisy(waveform: Tensor, snr_db: float) -> Tensor:
    """White noise at a ratio of powers, over the whole recording."""
    return add_noise(waveform, snr_db, torch.Generator().manual_seed(0))


def telephone(waveform: Tensor) -> Tensor:
    """8 kHz, as narrow-band telephony samples."""
    narrow = soxr.resample(waveform.numpy(), RATE, 8000)
    return torch.from_numpy(soxr.resample(narrow, 8000, RATE).astype(np.float32)).clamp(-1, 1)


def opus(waveform: Tensor, bit_rate: int = 12000) -> Tensor:
    """Through Opus at a bit rate, bit/s, and back."""
    file = io.BytesIO()
    with av.open(file, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=48000, bit_rate=bit_rate, layout="mono")
        samples = soxr.resample(waveform.numpy(), RATE, 48000).astype(np.float32)
        for start in range(0, len(samples), 960):
            part = np.zeros(960, np.float32)
            part[: len(samples[start : start + 960])] = samples[start : start + 960]
            frame = av.AudioFrame.from_ndarray(part[None], format="flt", layout="mono")
            frame.sample_rate, frame.pts = 48000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        heard = [p.to_ndarray()[0] for f in container.decode(audio=0) for p in resampler.resample(f)]
    return torch.from_numpy(np.concatenate(heard))


CONDITIONS: dict[str, tuple[Spoil, float]] = {  # what is done to a recording, and how many seconds of speech are left
    "as it is": (lambda x: x, 1e9),
    **{f"{seconds:g} s of speech": (lambda x: x, seconds) for seconds in (0.5, 1, 2, 3, 5)},
    **{f"white noise, {snr} dB": (partial(noisy, snr_db=snr), 1e9) for snr in (30, 20, 10, 0)},
    "8 kHz": (telephone, 1e9),
    "Opus, 12 kbit/s": (opus, 1e9),
}


@torch.no_grad()
def voice_emb(vs: voicestyle.VoiceStyle, item: Item, spoil: Spoil, seconds: float) -> Tensor:
    """The embedding (1,D) of a spoiled recording."""
    config = dataclasses.replace(vs.config.encoder.log_mel, min_speech_s=0.0)
    speech = remove_silence(normalize_volume(spoil(load_audio(item.voice, RATE))), config)
    speech = speech[: max(int(seconds * RATE), config.win_length)]
    if len(speech) < RATE // 4:  # nothing passes for speech: what was recorded is taken as it is
        speech = spoil(load_audio(item.voice, RATE))[: int(min(seconds, 1e3) * RATE)]
    log_mel = voicestyle.audio.log_mel(speech, config)
    return vs.encoder.encode_voice(log_mel[None].to(vs.device))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--model", default="voicestyle-small")
    parser.add_argument("--split", default="val")
    arguments = parser.parse_args()
    vs = voicestyle.load(arguments.model)
    items = [i for i in Manifest.read(arguments.manifest).split(arguments.split) if i.voice and i.frontal and i.face]
    pictures = {"frontal": frontal_picture, "wild": wild_picture}
    faces = {n: torch.cat([vs.encode_face(see(i)) for i in tqdm(items, desc=n)]) for n, see in pictures.items()}
    lines = ["| voices | frontal, any | same gender | wild, any | same gender | cosine to the clean voice |"]
    lines.append("|---|---|---|---|---|---|")
    clean: Tensor | None = None
    for name, (spoil, seconds) in CONDITIONS.items():
        voices = torch.cat([voice_emb(vs, item, spoil, seconds) for item in tqdm(items, desc=name)])
        clean = voices if clean is None else clean
        cells = []
        for emb in faces.values():
            auc = association_auc(voices.cpu(), emb.cpu(), items)
            cells += [f"{auc['any']:.3f}", f"{auc['same gender']:.3f}"]
        lines.append(f"| {name} | {' | '.join(cells)} | {(voices * clean).sum(1).mean():.2f} |")
        print(lines[-1], flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "robustness.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
