"""The sex of the train voices of a manifest, as a classifier of voices trained on other people says: for strata alone.

    python benchmarks/strata.py pairs.csv --labeled librispeech.csv --voice-weights pretrained.pt \
        --face-weights dlib_face_recognition_resnet_model_v1.dat --cache CACHE -o pairs_strata.csv

Same-gender trials on train identities need labels that no model of faces has touched. The classifier is one linear
direction (ridge regression to the sex) in the frozen GE2E features of the voices in `--labeled`, whose sex is known;
its sign fills the column `gender` of the train items that have none. Labels that are known stay.
Prints the accuracy on left-out speakers of `--labeled` (10 folds) and on the labeled items of the manifest's `val`.
The first run computes the features that are not in the cache: about 5 minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from voicestyle.config import SIDES
from voicestyle.data.manifest import Item, Manifest
from voicestyle.nn.encoder import VoiceFaceEncoder
from voicestyle.train.encoder.settings import EncoderRecipe, read_settings
from voicestyle.train.encoder.start import start_encoder
from voicestyle.train.encoder.validation import deal_identities
from voicestyle.train.encoder.views import average_windows, load_views, number_identities, usable_items
from voicestyle.train.recipe import load_recipe

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "pairs_frozen_encoder.toml"
RIDGE = 0.1  # in units of the features' mean variance; 0.95 of left-out people are told right from 0.03 to 3


def fit_direction(x: Tensor, sex: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (F,) and bias of the ridge regression from features (N, F) to the sex (N,), -1 or 1."""
    mean = x.mean(0)
    covariance = (x - mean).T @ (x - mean) / len(x)
    covariance += RIDGE * covariance.diagonal().mean() * torch.eye(x.shape[1])
    weight = torch.linalg.solve(covariance, (x - mean).T @ (sex - sex.mean()) / len(x))
    return weight, sex.mean() - mean @ weight


def accuracy_on_others(x: Tensor, sex: Tensor, items: tuple[Item, ...], num_folds: int = 10) -> float:
    """The share of voices whose sex a classifier finds that has not heard the speaker."""
    folds = deal_identities(number_identities(items), num_folds, seed=0)
    right = torch.zeros(len(x), dtype=torch.bool)
    for fold in range(num_folds):
        weight, bias = fit_direction(x[folds != fold], sex[folds != fold])
        right[folds == fold] = (x[folds == fold] @ weight + bias).sign() == sex[folds == fold]
    return right.float().mean().item()


def sexes(items: tuple[Item, ...]) -> Tensor:
    """(N,) 1 for m, -1 for f, 0 where it is not known."""
    return torch.tensor([{"m": 1.0, "f": -1.0}.get(item.gender, 0.0) for item in items])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--labeled", type=Path, required=True, help="manifest of voices with genders")
    parser.add_argument("--voice-weights", required=True)
    parser.add_argument("--face-weights", required=True)
    parser.add_argument("--cache", required=True)
    parser.add_argument("-o", "--out", type=Path, required=True)
    args = parser.parse_args()
    places = [f"{name}={getattr(args, name)}" for name in ("voice_weights", "face_weights", "cache")]
    recipe = load_recipe(RECIPE, EncoderRecipe, places)
    settings = read_settings(recipe)
    encoder: VoiceFaceEncoder = start_encoder(settings)

    def features(items: list[Item], sides: Sequence[str] = SIDES) -> tuple[Tensor, tuple[Item, ...]]:
        views = load_views(items, encoder, settings.views, args.cache, are_features=True, sides=sides)
        return average_windows(views.voice.float(), are_features=True), views.items

    labeled = [item for item in Manifest.read(args.labeled) if item.voice and item.gender in ("f", "m")]
    x, people = features(labeled, ["voice"])
    sex = sexes(people)
    print(f"{len(people)} labeled voices of {len({p.identity for p in people})} people; ", end="")
    print(f"accuracy on left-out people {accuracy_on_others(x, sex, people):.3f}")
    weight, bias = fit_direction(x, sex)
    manifest = Manifest.read(args.manifest)
    parts = [features(usable_items(manifest.split(split))) for split in ("train", "val")]  # training has cached them
    heard, items = torch.cat([part[0] for part in parts]), parts[0][1] + parts[1][1]
    said = (heard @ weight + bias).sign()
    known = sexes(items)
    print(f"accuracy on the {int((known != 0).sum())} labeled items of {args.manifest.name}: ", end="")
    print(f"{(said == known)[known != 0].float().mean():.3f}")
    label = {item.key: "m" if s > 0 else "f" for item, s in zip(items, said.tolist(), strict=True)}
    filled = [
        replace(item, gender=label.get(item.key, "")) if item.split == "train" and not item.gender else item
        for item in manifest
    ]
    Manifest(tuple(filled), manifest.name).write(args.out)
    counts = {g: sum(item.gender == g and item.split == "train" for item in filled) for g in ("f", "m", "")}
    print(f"{args.out}: train f {counts['f']}, m {counts['m']}, unknown {counts['']}")


if __name__ == "__main__":
    main()
