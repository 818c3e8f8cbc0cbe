"""How many prototypes K, nearest prototypes k and members make the best initial face, by cross-validation in `train`.

    python benchmarks/prototype_numbers.py recipes/embedded_encoder.toml -o runs/prototype_numbers \
        [--model FOLDER] [--folds 5] [--num-voices 40] [--set manifest=... --set cache=... --set voice_weights=... ...]

In each fold, bridges are found in closed form from the people of the other folds, whose faces are clustered with them;
for voices of the people who were left out, the initial latent (step 4 of the method) is rendered and compared with
their pictures. Latents are those of the model's bank, which must have been built from the manifest's `train` split and
depend on no encoder. One number is changed at a time. Writes numbers.md: sex (as an independent judge sees the
generated face, against the manifest), error of age (years, against the judge's view of the picture), style matching and
the spread over voices (by the frozen face network), over the voices of all folds. Two cores, 128 px: ten minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from steps_of_the_method import seen
from torch import Tensor
from tqdm import tqdm

import voicestyle
from voicestyle.data.manifest import Item, Manifest
from voicestyle.data.pictures import canonical_picture
from voicestyle.evaluate.generation import Faces, scores
from voicestyle.evaluate.judge import Judge
from voicestyle.prototypes import PrototypeBank
from voicestyle.train.encoder.settings import EncoderRecipe, read_settings
from voicestyle.train.encoder.start import start_encoder
from voicestyle.train.encoder.trainer import Trainer
from voicestyle.train.encoder.validation import deal_identities, embed
from voicestyle.train.encoder.views import Views, load_views, usable_items
from voicestyle.train.recipe import load_recipe

SHOWN = (
    ("sex agreement", "any"), ("age", "any"), ("style matching 1:2", "any"), ("style matching 1:2", "same gender"),
    ("spread over voices", "any"), ("spread over voices", "same gender"),
)  # fmt: skip


@dataclass(frozen=True)
class Numbers:
    """What is chosen."""

    num_prototypes: int = 100  # K
    k: int = 3
    num_members: int = 8

    def __str__(self) -> str:
        return f"{self.num_prototypes} | {self.k} | {self.num_members}"


def choices() -> Iterator[Numbers]:
    """The defaults, and each number changed alone; last, members nearest of all, without prototypes."""
    yield Numbers()
    for name, values in (("num_prototypes", (25, 50, 200, 400)), ("k", (1, 2, 5, 10)), ("num_members", (2, 4, 16, 32))):
        yield from (dataclasses.replace(Numbers(), **{name: value}) for value in values)
    yield Numbers(k=Numbers.num_prototypes)


def left_out(
    recipe: dict[str, Any], vs: voicestyle.VoiceStyle, num_folds: int, num_voices: int, seed: int
) -> tuple[list[Item], dict[Numbers, Tensor]]:
    """Voices of left-out people, and for each choice of numbers their initial latents (V,w_dim)."""
    settings = read_settings(recipe)
    items = list(Manifest.read(recipe["manifest"]).split("train"))
    member = {item.key: row for row, item in enumerate(item for item in items if item.frontal)}
    if len(member) != len(vs.bank.latents):
        raise ValueError(f"{len(member)} frontal pictures, but the bank has {len(vs.bank.latents)} members")
    usable = usable_items(Manifest(tuple(items), "train"))
    views = load_views(usable, start_encoder(settings), settings.views, recipe["cache"], are_features=True)
    rows = torch.tensor([i for i, item in enumerate(views.items) if item.key in member])
    views = views.take(rows)
    w = vs.bank.latents[[member[item.key] for item in views.items]]
    fold_of = deal_identities(views.identities, num_folds, seed)
    voices, latents = [], {numbers: [] for numbers in choices()}
    for fold in tqdm(range(num_folds), desc="folds"):
        known, out = (fold_of != fold).nonzero()[:, 0], (fold_of == fold).nonzero()[:, 0]
        towers = Trainer(settings, start_encoder(settings), views.identities, views.take(known)).towers.eval()
        out = out[torch.randperm(len(out), generator=torch.Generator().manual_seed(seed))[:num_voices]]
        voice_emb, face_emb = embed_parts(towers, views, out, known)
        voices += [views.items[row] for row in out.tolist()]
        people = views.identities[known].tolist()
        prints = {"encoder_fingerprint": "", "generator_fingerprint": vs.model.generator_fingerprint}
        for num_prototypes in {numbers.num_prototypes for numbers in latents}:
            bank = PrototypeBank.build(face_emb, w[known], people, num_prototypes, seed, **prints)
            for numbers in (n for n in latents if n.num_prototypes == num_prototypes):
                for voice in voice_emb:
                    nearest = bank.nearest(voice, numbers.k, numbers.num_members)
                    latents[numbers].append(bank.latents[nearest.members].mean(0))
    return voices, {numbers: torch.stack(found) for numbers, found in latents.items()}


@torch.no_grad()
def embed_parts(towers: torch.nn.ModuleList, views: Views, voices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Unit embeddings of the voices of some rows and of the frontal pictures of others."""
    return embed(towers, views.take(voices), True)[0], embed(towers, views.take(faces), True)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--model", default="voicestyle-small")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--num-voices", type=int, default=40, help="of each fold")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    vs, judge = voicestyle.load(arguments.model, arguments.device), Judge()
    recipe = load_recipe(arguments.recipe, EncoderRecipe, arguments.overrides)
    items, latents = left_out(recipe, vs, arguments.folds, arguments.num_voices, arguments.seed)
    people, genders = [item.identity for item in items], [item.gender or "" for item in items]
    looks = [seen(vs, canonical_picture(item), judge) for item in tqdm(items, desc="pictures")]
    real = Faces(
        torch.cat([look.emb for look in looks]),
        *(np.concatenate([getattr(look, label) for look in looks]) for label in ("male", "age")),
    )
    table = ["| K | k | members | " + " | ".join(f"{task}, {stratum}" for task, stratum in SHOWN) + " |"]
    table += ["|" + "---|" * (3 + len(SHOWN))]
    for numbers, w in tqdm(latents.items(), desc="choices"):
        faces = seen(vs, vs.synthesize(w).cpu(), judge)
        found = {(r.task, r.stratum): r for r in scores(faces, real, people, genders, arguments.seed)}
        cells = ("{:.3f} [{:.3f}, {:.3f}]".format(found[name].score, *found[name].interval) for name in SHOWN)
        table.append(f"| {numbers} | {' | '.join(cells)} |")
    text = f"{vs.config.name}: {len(items)} voices of {arguments.folds} folds of `train`, seed {arguments.seed}\n\n"
    text += "\n".join(table) + "\n"
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "numbers.md").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
