"""The ladder of ablations of the association, each rung over several seeds, as a Markdown table.

    python benchmarks/association_ladder.py -o runs/out/ladder [--group frozen] [--rung NAME ...] [--seeds 5] \
        [--folds 5] [--set manifest=... --set cache=... --set voice_weights=... --set face_weights=... \
         --set supervision.voices=... --set supervision.faces=...]

Columns: verification AUC by cross-validation over train identities (any impostor, and of the same sex as a classifier
of voices says, see strata.py), by which settings may be chosen; and on `val`, which is only looked at (frontal pictures
and frames in the wild, sexes from VoxCeleb's metadata). Mean and standard deviation over seeds; a seed also deals the
folds. Chance is 0.5. Results are kept in OUT, one JSON file a rung and seed, and a call that was stopped goes on.

A frozen rung takes about 10 s a seed once its views are cached; trained ones minutes to hours. `runs/ladder.sh`
makes everything that is needed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from voicestyle.train.encoder.job import cross_validate, score_split, train_encoder
from voicestyle.train.encoder.settings import EncoderRecipe
from voicestyle.train.recipe import load_recipe, read_recipe
from voicestyle.train.run import write_json

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
FROZEN, SMALL, LARGE = "pairs_frozen_encoder.toml", "pairs_resnet10_encoder.toml", "pairs_resnet34_encoder.toml"
EMBEDDED = "embedded_encoder.toml"
CID = ("objective.prototypes=[]",)
CCA = ("start.ridge=6.0", "schedule.lr=1e-5", "schedule.min_lr=1e-6", "schedule.steps=60")
UNFROZEN = (*CCA, "views.read=inputs", "views.windows_per_view=1", "views.num_windows=2",
            "schedule.batch=128", "schedule.steps=30")  # fmt: skip
# from the embedded encoder's closed form; its similarities spread a third as far as those of unit vectors usually do
COHORT = ("more_manifests=[]", "schedule.steps=60", "schedule.lr=1e-5", "schedule.min_lr=1e-6",
          "objective.temperature=0.1")  # fmt: skip
FASTER = (*COHORT, "schedule.lr=1e-4", "schedule.min_lr=1e-5")
PROTOTYPES = ("objective.prototypes=[30,60,90]",)
COLUMNS = ("cv any", "cv same", "val any", "val same", "val wild any", "val wild same")


@dataclass(frozen=True)
class Rung:
    """One line of the table: a recipe and what is changed in it."""

    name: str
    recipe: str
    overrides: tuple[str, ...] = ()
    group: str = "frozen"


RUNGS = (
    Rung("CID: instance contrast alone", FROZEN, CID),
    Rung("+ prototypes", FROZEN, ("objective.recalibration=false",)),
    Rung("+ recalibration (CMPC)", FROZEN),
    Rung("CMPC, reference variant", FROZEN, ("objective.variant=reference",)),
    Rung("CMPC, reference variant and loop", FROZEN,
         ("objective.variant=reference", "objective.forget_prototypes=true")),
    Rung("CMPC, temperature 0.03", FROZEN, ("objective.temperature=0.03",)),
    Rung("CMPC, embedding 16", FROZEN, ("encoder.embed_dim=16",)),
    Rung("CMPC, embedding 128", FROZEN, ("encoder.embed_dim=128",)),
    Rung("CMPC, hidden 64", FROZEN, ("encoder.bridge_hidden=64",)),
    Rung("CMPC, hidden 256", FROZEN, ("encoder.bridge_hidden=256",)),
    Rung("CMPC + unpaired sex", FROZEN, ("supervision.sex_weight=0.3",), "supervised"),
    Rung("CMPC + unpaired sex and age", FROZEN, ("supervision.sex_weight=0.3", "supervision.age_weight=0.3"),
         "supervised"),
    Rung("CCA start alone", FROZEN, ("start.ridge=6.0", "schedule.lr=1e-12", "schedule.min_lr=0.0",
                                     "schedule.steps=1")),
    Rung("CCA start, CID", FROZEN, (*CCA, *CID)),
    Rung("CCA start, CMPC", FROZEN, CCA),
    Rung("CCA start, CMPC + unpaired age", FROZEN, (*CCA, "supervision.age_weight=0.3"), "supervised"),
    Rung("CCA start, CMPC, last layers unfrozen", FROZEN,
         (*UNFROZEN, 'schedule.unfreeze=["face_backbone.blocks.13", "face_backbone.fc", "voice_backbone.linear"]'),
         "unfrozen"),
    Rung("cohort start alone", EMBEDDED, ("more_manifests=[]",), "cohort"),
    Rung("cohort start, CID", EMBEDDED, (*COHORT, *CID), "cohort"),
    Rung("cohort start, + prototypes", EMBEDDED, (*COHORT, *PROTOTYPES, "objective.recalibration=false"), "cohort"),
    Rung("cohort start, CMPC", EMBEDDED, (*COHORT, *PROTOTYPES), "cohort"),
    Rung("cohort start, CID, lr 1e-4", EMBEDDED, (*FASTER, *CID), "cohort"),
    Rung("cohort start, CMPC, lr 1e-4", EMBEDDED, (*FASTER, *PROTOTYPES), "cohort"),
    Rung("cohort start, CMPC, temperature 0.03", EMBEDDED, (*COHORT, *PROTOTYPES, "objective.temperature=0.03"),
         "cohort"),
    Rung("ResNet-10 pair, width 16, 64 px, CID", SMALL, CID, "trained"),
    Rung("ResNet-10 pair, width 16, 64 px, CMPC", SMALL, (), "trained"),
    Rung("ResNet-18 pair, width 32, 64 px, CMPC", SMALL,
         ('encoder.voice_backbone="resnet18"', 'encoder.face_backbone="resnet18"', "encoder.backbone_width=32",
          "encoder.embed_dim=256"), "trained"),
    Rung("ResNet-34 pair, 64 px, CMPC (the paper's networks)", LARGE, (), "paper"),
)  # fmt: skip


def measure(rung: Rung, seed: int, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The scores of one seed, from the folder or made now."""
    path = folder / "scores.json"
    if path.is_file():
        return json.loads(path.read_text())
    known = read_recipe(RECIPES / rung.recipe)
    places = [place for place in args.overrides if wants(known, place.partition("=")[0])]
    recipe = load_recipe(RECIPES / rung.recipe, EncoderRecipe, [*rung.overrides, *places, f"seed={seed}"])
    start = time.perf_counter()
    scores: dict[str, float] = {}
    if args.folds:
        found = cross_validate(recipe, args.folds, folder, device=args.device)["auc"]
        scores |= {"cv any": found["any"]["mean"], "cv same": found["same gender"]["mean"]}
    encoder = train_encoder(recipe, folder / "run", resume=True, device=args.device)
    for prefix, picture in (("val", 0), ("val wild", 2)):
        found = score_split(recipe, encoder, "val", picture)
        scores |= {f"{prefix} any": found["any"], f"{prefix} same": found["same gender"]}
    result = {"rung": rung.name, "seed": seed, "scores": scores, "seconds": time.perf_counter() - start}
    write_json(path, result)
    return result


def wants(recipe: dict[str, Any], name: str) -> bool:
    """Whether a recipe states a setting: places are given once for recipes of several kinds.

    Backbones that a recipe gives no weights are to be trained, and get none.
    """
    for part in name.split("."):
        if not isinstance(recipe, dict) or part not in recipe:
            return False
        recipe = recipe[part]
    return recipe != "" or not name.endswith("_weights")


def line(rung: Rung, results: Sequence[dict[str, Any]]) -> str:
    """A row of the table."""
    cells = []
    for column in COLUMNS:
        values = [result["scores"][column] for result in results if column in result["scores"]]
        spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
        cells.append(f"{fmean(values):.3f}{spread}" if values else "not measured")
    seconds = fmean(result["seconds"] for result in results)
    return f"| {rung.name} | {' | '.join(cells)} | {len(results)} | {seconds:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--group", action="append", choices=sorted({r.group for r in RUNGS}), help="default: frozen")
    parser.add_argument("--rung", action="append", choices=[r.name for r in RUNGS], help="default: all of the group")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folds", type=int, default=5, help="0: no cross-validation")
    parser.add_argument("--device", help="default: the GPU where there is one")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    args = parser.parse_args()
    groups = args.group or ["frozen"]
    chosen = [r for r in RUNGS if (r.name in args.rung if args.rung else r.group in groups)]
    print(f"| rung | {' | '.join(COLUMNS)} | seeds | s a seed |\n|---|{'---|' * (len(COLUMNS) + 2)}", flush=True)
    for rung in chosen:
        slug = "".join(c if c.isalnum() else "-" for c in rung.name.lower())
        results = []
        for seed in range(args.seeds):
            print(f"{rung.name}, seed {seed}", file=sys.stderr, flush=True)
            results.append(measure(rung, seed, args, args.out / slug / f"seed{seed}"))
        print(line(rung, results), flush=True)


if __name__ == "__main__":
    main()
