"""What each step of the method adds: random faces, the mean of the nearest members, the guided face.

    python benchmarks/steps_of_the_method.py pairs.csv -o runs/steps_of_the_method [--model FOLDER] [--num-voices 50]

One face for each voice and step. Writes steps.md (voice similarity by the network that guides, sex by an independent
judge, 1:2 style matching; each with its 95 % interval over people) and steps.png, a sheet of the first voices, with
generated pictures alone. Stopped, it goes on from OUT/cache. Two cores, 128 px, 50 voices: about ten minutes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arguments import of_pairs
from torch import Tensor
from tqdm import tqdm

import voicestyle
from voicestyle.data.manifest import Item, Manifest
from voicestyle.data.pictures import canonical_picture
from voicestyle.evaluate.generation import Faces, sex_agreement, style_matching
from voicestyle.evaluate.judge import Judge
from voicestyle.evaluate.report import Report
from voicestyle.files import kept, sha256_of
from voicestyle.image import save_png
from voicestyle.metrics import bootstrap_interval
from voicestyle.sampling import random_latents
from voicestyle.schema import to_dict
from voicestyle.sheet import contact_sheet

RANDOM, MEAN, GUIDED = "random face", "mean of the nearest members", "guided"
COLUMNS = ("faces", "score", "within", "value", "95 % interval", "chance", "trials", "people")
BATCH = 32  # pictures that are rendered together


def drawn(manifest: Manifest, num: int, seed: int) -> list[Item]:
    """Items with a voice and a picture, `num` of them drawn with the seed."""
    items = [item for item in manifest if item.voice and (item.frontal or item.face)]
    chosen = np.random.default_rng(seed).choice(len(items), min(num, len(items)), replace=False)
    return [items[i] for i in sorted(chosen)]


def generated(vs: voicestyle.VoiceStyle, item: Item, settings: dict[str, Any], cache: Path) -> dict[str, Tensor]:
    """The voice embedding (1,D) of an item, and the latents (F,w_dim) that `generate` makes: made once, and kept."""
    guidance = settings.get("guidance", vs.config.guidance)
    held = [vs.model.encoder_fingerprint, vs.model.generator_fingerprint, {**settings, "guidance": to_dict(guidance)}]
    told = json.dumps(held).encode() + vs.bank.latents.numpy().tobytes() + item.voice.read_bytes()

    def make() -> dict[str, Tensor]:
        made = vs.generate(item.voice, **settings)
        return {"voice_emb": made.voice_emb, MEAN: made.w_init, GUIDED: made.w}

    return kept(cache / f"{sha256_of(told)[:32]}.safetensors", make)


@torch.no_grad()
def seen(vs: voicestyle.VoiceStyle, images: Tensor, judge: Judge | None = None) -> Faces:
    """Pictures (V,3,H,W), one a voice, as the face network and the judge see them."""
    emb = torch.cat([vs.encoder.face_features(part.to(vs.device)).double().cpu() for part in images.split(BATCH)])
    if judge is None:
        return Faces(emb[:, None])
    judgment = judge(images)
    return Faces(emb[:, None], judgment.male[:, None], judgment.age[:, None])


def scored(similarity: Tensor, faces: Faces, real: Faces, items: Sequence[Item], seed: int) -> list[tuple[str, ...]]:
    """The cells of one step's lines, after its name."""
    people, genders = [item.identity for item in items], [item.gender or "" for item in items]
    interval = bootstrap_interval(similarity.numpy(), people, seed)
    counts = (str(len(items)), str(len(set(people))))
    lines = [("voice similarity", "any", f"{similarity.mean():.3f}", _range(interval), "", *counts)]
    reports = sex_agreement(faces, people, genders, seed)
    for stratum, labels in (("any", ["all"] * len(items)), ("same gender", genders)):
        if stratum == "any" or len({p for p, g in zip(people, labels, strict=True) if g}) > 2:
            reports.append(style_matching(faces, real, people, labels, stratum, seed))
    return lines + [_line(report) for report in reports]


def _line(r: Report) -> tuple[str, ...]:
    score = (f"{r.task}, {r.metric}", r.stratum, f"{r.score:.3f}", _range(r.interval), f"{r.chance:.3f}")
    return *score, str(r.num_trials), str(r.num_identities)


def _range(interval: tuple[float, float]) -> str:
    return "{:.3f} to {:.3f}".format(*interval)


def main() -> None:
    parser = of_pairs(__doc__)
    parser.add_argument("--num-voices", type=int, default=50)
    parser.add_argument("--num-shown", type=int, default=8, help="voices on the sheet")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device")
    arguments = parser.parse_args()
    vs, judge = voicestyle.load(arguments.model, arguments.device), Judge()
    items = drawn(Manifest.read(arguments.manifest).split(arguments.split), arguments.num_voices, arguments.seed)
    settings = {"seed": arguments.seed}
    found = [generated(vs, item, settings, arguments.out / "cache") for item in tqdm(items, desc="voices")]
    w = {step: torch.cat([f[step] for f in found]) for step in (MEAN, GUIDED)}
    w = {RANDOM: random_latents(vs.generator, len(items), arguments.seed).cpu(), **w}
    voices = torch.cat([f["voice_emb"] for f in found])
    real = Faces(torch.cat([seen(vs, canonical_picture(item)).emb for item in items]))  # one by one: sizes differ
    lines, rows = [], []
    for step, latent in w.items():
        images = vs.synthesize(latent).cpu()
        similarity = (voices * vs.encode_face(images).cpu()).sum(1)
        lines += [(step, *cells) for cells in scored(similarity, seen(vs, images, judge), real, items, arguments.seed)]
        shown = zip(images[: arguments.num_shown], similarity.tolist(), strict=False)
        rows.append((step, [(image, f"similarity {value:.2f}") for image, value in shown]))
    table = [COLUMNS, ["---"] * len(COLUMNS), *lines]
    text = f"{vs.config.name}, split {arguments.split}, seed {arguments.seed}\n\n"
    text += "\n".join(f"| {' | '.join(cells)} |" for cells in table) + "\n"
    print(text, end="")
    (arguments.out / "steps.md").write_text(text)
    save_png(contact_sheet(rows), arguments.out / "steps.png", vs.metadata())


if __name__ == "__main__":
    main()
