"""Several faces for one voice: how much they differ, and what of the voice that costs, against `diversity`.

    python benchmarks/diversity.py pairs.csv -o runs/diversity --split train [--diversity 0.5 1.0 1.5] [--num-voices 10]

Choose on voices of `train`; report on those of `val`. Writes diversity.md: spread of one voice's faces as a part of
that of different people (both by the face network), similarity to the voice of first and further faces, and how often
their sex, by an independent judge, is that of the item, or of its picture where the item does not say. And a sheet for
each diversity, with generated pictures alone. Stopped, it goes on from OUT/cache. Two cores, 128 px, 10 voices with 4
faces each: three minutes a diversity.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from arguments import of_pairs
from steps_of_the_method import drawn, generated, seen
from torch import Tensor
from tqdm import tqdm

import voicestyle
from voicestyle.data.manifest import Item, Manifest
from voicestyle.data.pictures import canonical_picture
from voicestyle.evaluate.generation import Faces, spread_of_a_voice
from voicestyle.evaluate.judge import Judge
from voicestyle.image import save_png
from voicestyle.sheet import contact_sheet

COLUMNS = ("diversity", "spread", "95 % interval", "similarity, first", "further", "lowest", "sex, first", "further")


def line(
    images: Tensor, similarity: Tensor, real: Faces, items: Sequence[Item], genders: Sequence[str], judge: Judge,
    vs: voicestyle.VoiceStyle,
) -> tuple[str, ...]:  # fmt: skip
    """The cells of one diversity, for pictures (V,F,3,H,W) whose similarities to their voices are (V,F)."""
    faces = seen(vs, images.flatten(0, 1), judge)
    shape = similarity.shape
    faces = Faces(faces.emb.view(*shape, -1), faces.male.reshape(shape), faces.age.reshape(shape))
    (spread,) = spread_of_a_voice(faces, real, [item.identity for item in items])
    right = (faces.male > 0.5) == (np.asarray(genders) == "m")[:, None]
    values = (
        similarity[:, 0].mean(),
        similarity[:, 1:].mean(),
        similarity.min(),
        right[:, 0].mean(),
        right[:, 1:].mean(),
    )
    interval = "{:.3f} to {:.3f}".format(*spread.interval)
    return f"{spread.score:.3f}", interval, *(f"{value:.3f}" for value in values)


def main() -> None:
    parser = of_pairs(__doc__, split="train")
    parser.add_argument("--diversity", type=float, nargs="+", default=[0.5, 1.0, 1.5])
    parser.add_argument("--num-voices", type=int, default=10)
    parser.add_argument("--num-faces", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device")
    arguments = parser.parse_args()
    vs, judge = voicestyle.load(arguments.model, arguments.device), Judge()
    items = drawn(Manifest.read(arguments.manifest).split(arguments.split), arguments.num_voices, arguments.seed)
    pictures = [canonical_picture(item) for item in items]
    real = Faces(torch.cat([seen(vs, picture).emb for picture in pictures]))
    genders = [item.gender or judge(picture).gender[0] for item, picture in zip(items, pictures, strict=True)]
    lines = []
    for diversity in arguments.diversity:
        settings = {
            "guidance": dataclasses.replace(vs.config.guidance, diversity=diversity),
            "num_faces": arguments.num_faces, "seed": arguments.seed,
        }  # fmt: skip
        bar = tqdm(items, desc=f"diversity {diversity}")
        found = [generated(vs, item, settings, arguments.out / "cache") for item in bar]
        images = torch.stack([vs.synthesize(f["guided"]).cpu() for f in found])
        faces = vs.encode_face(images.flatten(0, 1)).cpu().view(*images.shape[:2], -1)
        similarity = torch.einsum("vfd,vd->vf", faces, torch.cat([f["voice_emb"] for f in found]))
        lines.append((str(diversity), *line(images, similarity, real, items, genders, judge, vs)))
        rows = [
            (f"voice {voice + 1}", [(image, f"{value:.2f}") for image, value in zip(*some, strict=True)])
            for voice, some in enumerate(zip(images, similarity.tolist(), strict=True))
        ]
        save_png(contact_sheet(rows), arguments.out / f"diversity-{diversity}.png", vs.metadata())
    told = f"{vs.config.name}, split {arguments.split}: {len(items)} voices, {arguments.num_faces} faces each, "
    text = f"{told}seed {arguments.seed}\n\n"
    text += "\n".join(f"| {' | '.join(cells)} |" for cells in (COLUMNS, ["---"] * len(COLUMNS), *lines)) + "\n"
    print(text, end="")
    (arguments.out / "diversity.md").write_text(text)


if __name__ == "__main__":
    main()
