"""The manifest of a folder of portraits: sharp, upright, cut out on white, from several sources."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np

from voicestyle.data.manifest import Item, Manifest
from voicestyle.data.tables import read_table
from voicestyle.image import open_image

MAX_YAW = 0.35  # of the computed turn of the head: beyond it, the far cheek is hidden
MAX_CUT = 0.9  # share of the border that the figure touches
MAX_HAZE = 0.042  # what careless cutting out leaves beside the hair; a seventh of the pictures have more
MOST = {"studio": 4, "variant": 2}  # pictures of one person, of sources that have dozens
COLUMNS = ("key", "source", "identity", "yaw", "ellipse", "cut")


def import_portraits(folder: str | Path, num_held_out: int = 300, seed: int = 0) -> Manifest:
    """The manifest of ``FOLDER/portraits.csv``: each picture as `frontal`, its person as ``SOURCE/IDENTITY``.

    Left out: pictures under an oval mask, turned heads, figures that the border cuts, remains of a background, and more
    than a few pictures of one person. `num_held_out` pictures go to `val`, by person, from each source as many as its
    people are of all; other pictures of these people are left out.

    Raises:
        FileNotFoundError: no such table, or a picture is missing
        ValueError: a column is missing, or nobody is left to train on
    """
    table = Path(folder) / "portraits.csv"
    columns, rows = read_table(table)
    if missing := sorted(set(COLUMNS) - set(columns)):
        raise ValueError(f"{table}: columns {missing} are missing; it has {columns}")
    rng, counted, items = random.Random(seed), Counter[str](), []
    for _, cells in rng.sample(rows, len(rows)):
        person, path = f"{cells['source']}/{cells['identity']}", Path(folder) / "image" / f"{cells['key']}.jpg"
        if cells["ellipse"] != "0" or abs(float(cells["yaw"])) >= MAX_YAW or float(cells["cut"]) > MAX_CUT:
            continue
        if counted[person] < MOST.get(cells["source"], 1_000) and haze(path) < MAX_HAZE:
            counted[person] += 1
            items.append(Item(cells["key"], "train", person, frontal=path))
    return Manifest(tuple(_held_out(items, num_held_out, rng)), str(table))


def haze(path: Path) -> float:
    """The share of light gray, not quite white pixels at the sides of the upper three quarters of a picture."""
    x = np.asarray(open_image(path)).astype(np.int16)
    height, width = x.shape[:2]
    upper = x[: height * 3 // 4]
    sides = np.concatenate([upper[:, : width // 4], upper[:, width * 3 // 4 :]], 1)
    low, high = sides.min(2), sides.max(2)
    return float(((low > 150) & (low < 245) & (high - low < 28)).mean())


def _held_out(items: list[Item], num: int, rng: random.Random) -> list[Item]:
    """The items with `num` of them in `val`, sorted by key; people are taken at random, whole."""
    people = sorted({item.identity for item in items})
    rng.shuffle(people)
    by_person: dict[str, list[Item]] = {}
    for item in items:
        by_person.setdefault(item.identity, []).append(item)
    held: list[Item] = []
    for person in people:
        if len(held) < num:
            held += by_person.pop(person)[: num - len(held)]
    if not by_person:
        raise ValueError(f"{len(items)} pictures: expected more than the {num} that are held out")
    kept = [item for those in by_person.values() for item in those]
    held = [Item(item.key, "val", item.identity, frontal=item.frontal) for item in held]
    return sorted([*kept, *held], key=lambda item: item.key)
