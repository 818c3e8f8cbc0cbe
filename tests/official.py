"""The authors' files, made up: their layouts, filled by the rule of `fill`, so that every number is known."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fill import SEED, fill, inp

LAYOUTS = json.loads((Path(__file__).parent / "assets/golden/state_dict_layouts.json").read_text())
COLUMNS = ["VGGFace1 ID", "split", "VoxCeleb1 ID", "Gender", "Nationality", "Set", "video_id"]
NUM_ROWS = 17_023  # of the authors' training.csv
KS = (500, 1000, 1500)
TINY_ROWS, TINY_KS, TINY_WIDTH = 60, (5, 10, 15), 32
NUM_NAN = 3  # prototypes of each granularity without members, whose centroid is NaN
NEAR = 3  # prototypes near `voice_emb`, which share the named rows: as many as the method takes
VGG_CLASSIFIER = {"0": (4096, 25088), "3": (4096, 4096), "6": (1000, 4096)}
VGG_CONVS = {
    0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256), 14: (256, 256),
    17: (512, 256), 19: (512, 512), 21: (512, 512), 24: (512, 512), 26: (512, 512), 28: (512, 512),
}  # fmt: skip


def make_official(
    folder: Path,
    *,
    tiny: bool = False,
    names: Sequence[tuple[str, str]] = (),
    voice_emb: Tensor | None = None,
    noises: bool = False,
    parts: Sequence[str] = ("cmpc", "memory", "index", "stylegan", "identity"),
) -> dict[str, Path]:
    """The files by part, in the authors' layouts; "backbone" (VGG16 of torchvision) on request.

    Args:
        folder: where they are written, with the authors' file names
        tiny: a generator of 64 px with 32 channels, 60 videos, K = 5, 10, 15. The encoders (42 M parameters) and
            IR-SE50 (44 M) have no smaller form: leave them out by `parts` where they are not needed
        names: (name, video) of pictures that exist: placed among the rows of the index, as members of the first
            `NEAR` prototypes of each granularity
        voice_emb: (512,) those prototypes lie near it, so that they are the nearest to that voice
        noises: whether the generator's file holds noise maps, as one converted from NVIDIA's does, and 550000.pt not
        parts: which files
    """
    folder.mkdir(parents=True, exist_ok=True)
    num_rows, ks = (TINY_ROWS, TINY_KS) if tiny else (NUM_ROWS, KS)
    rows = named_rows(num_rows, len(names))
    makers = {
        "cmpc": ("model_best_256.pth.tar", cmpc_checkpoint),
        "memory": ("frame_memory_best_256.pth.tar", lambda: memory(num_rows, ks, rows, voice_emb)),
        "stylegan": ("550000.pt", lambda: stylegan_checkpoint(generator_state(64, TINY_WIDTH) if tiny else
                                                              generator_state(256), noises)),
        "identity": ("model_ir_se50.pth", lambda: complete("ir_se50")),
        "backbone": ("vgg16-397923af.pth", vgg16_state),
    }  # fmt: skip
    paths = {}
    for part in parts:
        if part == "index":
            paths[part] = write_index(folder / "training.csv", num_rows, dict(zip(rows, names, strict=True)))
        else:
            paths[part] = folder / makers[part][0]
            torch.save(makers[part][1](), paths[part])
    return paths


def complete(name: str, layout: dict[str, list[int]] | None = None, stylegan: bool = False) -> dict[str, Tensor]:
    """A whole reference state dict: filled by rule, with the counters and blur filters that the rule leaves alone."""
    layout = layout or LAYOUTS[name]
    state = fill(layout, stylegan)
    for key in layout:
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(0)
        elif key.endswith(".kernel"):
            taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
            state[key] = torch.outer(taps, taps) / 64 * 4  # of unit sum, times the square of the factor
    return {key: state[key] for key in layout}


def cmpc_checkpoint() -> dict[str, Any]:
    """What CMPC's training saves."""
    state = complete("cmpc")
    return {"epoch": 2_999_936, "model": state, "optimizer": {"state": {}, "param_groups": []}, "train_criterion": {}}


def generator_state(size: int, width: int = 512) -> dict[str, Tensor]:
    """rosinality's Generator(size, width, 8), with every layer of 512 channels as narrow as `width`."""
    layout = {k: [width if n == 512 else n for n in shape] for k, shape in LAYOUTS[f"generator_{size}"].items()}
    return complete("", layout, stylegan=True)


def stylegan_checkpoint(state: dict[str, Tensor], noises: bool = False, **entries: Any) -> dict[str, Any]:
    """What rosinality's training saves: `d` and the optimizers are there, but small."""
    if not noises:
        state = {key: value for key, value in state.items() if not key.startswith("noises.")}
    optimizer = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.0016, "betas": (0.0, 0.9919)}]}
    return {
        "g": {"input.input": torch.zeros(1)}, "d": {"final_linear.1.bias": torch.zeros(1)}, "g_ema": state,
        "g_optim": optimizer, "d_optim": optimizer, **entries,
    }  # fmt: skip


def training_args(size: int = 256) -> argparse.Namespace:
    """The `args` of newer training checkpoints."""
    return argparse.Namespace(path="ffhq.lmdb", arch="stylegan2", size=size, latent=512, n_mlp=8, channel_multiplier=2)


def named_rows(num_rows: int, num_names: int) -> list[int]:
    """Rows of the index that hold the named videos: spread over it."""
    return [(i * num_rows) // max(num_names, 1) for i in range(num_names)]


def memory(
    num_rows: int, ks: Sequence[int] = KS, rows: Sequence[int] = (), voice_emb: Tensor | None = None
) -> dict[str, list[Tensor]]:
    """The frame memory: random assignments, and centroids that are not normalized; the last three are NaN and empty."""
    rs = np.random.RandomState(SEED + 7)
    result: dict[str, list[Tensor]] = {"inst2cluster": [], "centroids": [], "Dist": [], "density": []}
    for k in ks:
        assignments = torch.from_numpy(rs.randint(0, k - NUM_NAN, num_rows))
        assignments[list(rows)] = torch.arange(len(rows)) % NEAR
        centroids = 0.5 * inp(f"c{k}", (k, 512))
        if voice_emb is not None:
            centroids[:NEAR] = voice_emb.flatten() + 0.01 * inp(f"near{k}", (NEAR, 512)) / 512**0.5
        counts = torch.bincount(assignments, minlength=k)
        centroids[counts == 0] = float("nan")  # an empty cluster's mean is zero divided by zero
        result["inst2cluster"].append(assignments)
        result["centroids"].append(centroids)
        result["Dist"].append(0.2 + 0.1 * inp(f"dist{k}", (num_rows, 1), lo=-1))
        density = 1 + 0.3 * inp(f"density{k}", (k,), lo=-1)
        result["density"].append(0.2 * density / density.mean())
    return result


def write_index(path: Path, num_rows: int = NUM_ROWS, named: dict[int, tuple[str, str]] | None = None) -> Path:
    """training.csv: one line a video, about 17 videos a person, made-up names but for the named rows."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for i in range(num_rows):
            name, video = (named or {}).get(i, (f"Person_{i // 17}", f"video{i:06d}"))
            writer.writerow([name, 1 + i % 2, f"id{10000 + i // 17}", "?", "?", "dev", video])
    return path


def vgg16_state() -> dict[str, Tensor]:
    """torchvision's VGG16: features filled by rule; the classifier has its shapes, but takes no room."""
    layout = {}
    for i, (out_channels, in_channels) in VGG_CONVS.items():
        layout |= {f"features.{i}.weight": [out_channels, in_channels, 3, 3], f"features.{i}.bias": [out_channels]}
    state = fill(layout)
    for i, shape in VGG_CLASSIFIER.items():
        state |= {f"classifier.{i}.weight": torch.zeros(1).expand(shape),
                  f"classifier.{i}.bias": torch.zeros(1).expand(shape[0])}  # fmt: skip
    return state
