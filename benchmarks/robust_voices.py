"""How the association falls with voices that are shorter, noisier, over the telephone or through a codec.

    python benchmarks/robust_voices.py pairs.csv -o OUT [--model voicestyle-small] [--split val] [--condition NAME ...]

Each recording of the split is spoiled before silence is removed; of the lengths, so many first seconds of its speech
are kept. Writes robustness.md (AUC of the trials of `evaluate verification`, with intervals over people; the sex that
`voicestyle generate` would suggest; how near a spoiled voice stays to the clean one) and robustness.png. Features of
voices are kept in OUT, so that a call that was stopped goes on. Fifteen minutes on one core for 159 pairs.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import soxr
import torch
import torch.nn.functional as F
from arguments import of_pairs
from torch import Tensor
from tqdm import tqdm

import voicestyle
from voicestyle.audio import load_audio, log_mel, normalize_volume, remove_silence
from voicestyle.checkpoint import SUGGESTION
from voicestyle.data.manifest import Item, Manifest
from voicestyle.evaluate.embeddings import Averaging, Embeddings, encode
from voicestyle.evaluate.lists import VerificationList
from voicestyle.evaluate.protocol import manifest_protocol
from voicestyle.evaluate.verification import score_verification
from voicestyle.plots.figure import GRAY, PALETTE, new_figure, save_figure
from voicestyle.suggestion import Suggestion
from voicestyle.train.encoder.augment import add_noise

RATE = 16000  # Hz
MU = 255.0  # of G.711's curve
Spoil = Callable[[Tensor], Tensor]


def noisy(waveform: Tensor, snr_db: float) -> Tensor:
    """White noise at a ratio of powers, over the whole recording."""
    return add_noise(waveform, snr_db, torch.Generator().manual_seed(0))


def telephone(waveform: Tensor) -> Tensor:
    """300 to 3,400 Hz at 8 kHz, 8 bits by G.711's mu-law curve."""
    spectrum = torch.fft.rfft(waveform)
    hz = torch.linspace(0, RATE / 2, len(spectrum))
    band = torch.fft.irfft(spectrum * ((hz >= 300) & (hz <= 3400)), len(waveform)).clamp(-1, 1)
    low = torch.from_numpy(soxr.resample(band.numpy(), RATE, 8000)).clamp(-1, 1)
    code = (low.sign() * torch.log1p(MU * low.abs()) / np.log1p(MU) * 127).round() / 127
    decoded = code.sign() * torch.expm1(code.abs() * np.log1p(MU)) / MU
    return torch.from_numpy(soxr.resample(decoded.float().numpy(), 8000, RATE)).clamp(-1, 1)


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


def as_it_is(waveform: Tensor) -> Tensor:
    """No change."""
    return waveform


CONDITIONS: dict[str, tuple[Spoil, float]] = {  # what is done to a recording, and how many seconds of speech are left
    "as it is": (as_it_is, np.inf),
    **{f"{seconds:g} s of speech": (as_it_is, seconds) for seconds in (0.5, 1, 2, 3, 5)},
    **{f"white noise, {snr} dB": (partial(noisy, snr_db=snr), np.inf) for snr in (30, 20, 10, 0)},
    "telephone": (telephone, np.inf),
    "Opus, 12 kbit/s": (opus, np.inf),
}


@torch.no_grad()
def voice_features(vs: voicestyle.VoiceStyle, item: Item, spoil: Spoil, seconds: float) -> tuple[Tensor, float]:
    """The features (F,) of a spoiled recording, and the seconds of speech that they are of."""
    config = dataclasses.replace(vs.config.encoder.log_mel, min_speech_s=0.0)
    assert item.voice is not None
    spoiled = normalize_volume(spoil(load_audio(item.voice, RATE)))
    speech = remove_silence(spoiled, config)
    if len(speech) < RATE // 4:  # nothing passes for speech: what was recorded is taken as it is
        speech = spoiled
    speech = speech[: int(min(seconds * RATE, len(speech)))]
    features = vs.encoder.voice_features(log_mel(speech, config)[None].to(vs.device))
    return features[0].cpu(), len(speech) / RATE


def kept_features(
    vs: voicestyle.VoiceStyle, items: Sequence[Item], name: str, folder: Path
) -> tuple[Tensor, np.ndarray]:
    """Features (N, F) of all recordings under a condition and their seconds (N,), from the folder or made now."""
    path = folder / f"{''.join(c if c.isalnum() else '-' for c in name)}-{vs.model.encoder_fingerprint[:12]}.npz"
    if not path.exists():
        made = [voice_features(vs, item, *CONDITIONS[name]) for item in tqdm(items, desc=name)]
        features, seconds = zip(*made, strict=True)
        np.savez(path, features=torch.stack(features).numpy(), seconds=np.array(seconds))
    with np.load(path) as kept:
        return torch.from_numpy(kept["features"]), kept["seconds"]


@torch.no_grad()
def scores(voices: Tensor, faces: dict[str, Embeddings], lists: dict[str, list[VerificationList]]) -> dict[str, Any]:
    """AUC and interval of each kind of picture and stratum."""
    found: dict[str, Any] = {}
    for kind, emb in faces.items():
        by_name = Embeddings(voices.numpy(), emb.rows)
        for trials in lists[kind]:
            report = score_verification(trials, by_name, emb).reports[0]
            found[f"{kind}, {report.stratum}"] = (report.score, report.interval)
    return found


def line(name: str, result: dict[str, Any], columns: Sequence[str]) -> str:
    """A row of the table."""
    cells = [f"{result[column][0]:.3f} [{result[column][1][0]:.3f}, {result[column][1][1]:.3f}]" for column in columns]
    about = f"{result['wrong sex']:.3f} | {result['cosine']:.2f}"
    return f"| {name} | {result['seconds']:.1f} | {' | '.join(cells)} | {about} |"


def draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    """AUC of every condition, frontal pictures."""
    figure, (axes,) = new_figure("Verification by spoiled voices, frontal pictures", (7.5, 4.5))
    places = np.arange(len(results))
    for shift, color, stratum in zip((-0.1, 0.1), PALETTE, ("any", "same gender"), strict=False):
        auc = np.array([result[f"frontal, {stratum}"][0] for result in results.values()])
        ends = np.array([result[f"frontal, {stratum}"][1] for result in results.values()])
        to_ends = np.abs(ends.T - auc)
        axes.errorbar(places + shift, auc, to_ends, fmt="o", color=color, label=f"impostors: {stratum}", capsize=2)
        axes.axhline(auc[0], color=color, linestyle=":", linewidth=1)
    axes.axhline(0.5, color=GRAY, linewidth=1)
    axes.set_xticks(places, list(results), rotation=35, ha="right")
    axes.set_ylabel("AUC, chance 0.5")
    axes.set_ylim(0.45, 0.95)
    axes.legend(frameon=False, fontsize=9, loc="upper right", ncols=2)
    save_figure(figure, path)


def main() -> None:
    parser = of_pairs(__doc__)
    parser.add_argument("--condition", action="append", choices=list(CONDITIONS), help="default: all")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    vs = voicestyle.load(arguments.model)
    manifest = Manifest.read(arguments.manifest)
    protocols = {
        kind: manifest_protocol(manifest, "verification", arguments.split, 0, faces=kind, strata=["U", "G"])
        for kind in ("frontal", "wild")
    }
    items = protocols["frontal"].items
    faces = {
        kind: encode(vs, tqdm(protocol.faces, desc=kind), Averaging(), arguments.out / "cache")
        for kind, protocol in protocols.items()
    }
    lists = {kind: protocol.lists for kind, protocol in protocols.items()}
    suggestion = Suggestion.load(vs.model.folder / SUGGESTION, vs.model.encoder_fingerprint)
    columns = ("frontal, any", "frontal, same gender", "wild, any", "wild, same gender")
    lines = [f"| voices | s of speech | {' | '.join(columns)} | wrong sex | cosine to the clean voice |"]
    lines.append(f"|---|---|{'---|' * len(columns)}---|---|")
    results: dict[str, dict[str, Any]] = {}
    clean: Tensor | None = None
    for name in arguments.condition or CONDITIONS:
        features, seconds = kept_features(vs, items, name, arguments.out)
        voices = F.normalize(vs.encoder.voice_bridge(features), dim=1).detach()
        clean = voices if clean is None else clean
        women = np.array([suggestion.woman(x) for x in features.double().numpy()]) > 0.5
        labeled = [
            (item.gender[:1].lower() == "f") == woman for item, woman in zip(items, women, strict=True) if item.gender
        ]
        about = {"seconds": float(np.median(seconds)), "wrong sex": 1 - float(np.mean(labeled))}
        about["cosine"] = float((voices * clean).sum(1).mean())
        results[name] = {**scores(voices, faces, lists), **about}
        lines.append(line(name, results[name], columns))
        print(lines[-1], flush=True)
        (arguments.out / "robustness.json").write_text(json.dumps(results, indent=1))
    (arguments.out / "robustness.md").write_text("\n".join(lines) + "\n")
    draw(results, arguments.out / "robustness.png")


if __name__ == "__main__":
    main()
