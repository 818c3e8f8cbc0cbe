"""Quality of an inversion against its time: where it starts, and how many steps refine it.

    python benchmarks/inversion_quality.py pairs.csv -o runs/inversion_quality [--model FOLDER] [--num 16]

Faces of a split are inverted from w_avg, from the linear estimate and from the model's inverter, with each number of
steps. Writes quality.md (PSNR, identity cosine, seconds a picture: mean over pictures) and quality.png. Seconds are the
processor's on a CPU, which a busy machine hardly stretches, else the clock's; finding the linear estimate and training
the inverter is not in them. Stopped, it goes on from OUT/cache. Two cores, 128 px, 16 pictures: half an hour.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch

import voicestyle
from voicestyle.evaluate.inversion import IDENTITY, PSNR, Condition, Row, StudySettings, study_inversion
from voicestyle.evaluate.pictures import picture_items
from voicestyle.evaluate.targets import aligned_targets
from voicestyle.plots.figure import PALETTE, new_figure, save_figure

STEPS = (0, 5, 15, 50, 150)
STARTS = {"w_avg": "mean latent", "linear": "linear estimate", "inverter": "the model's inverter"}


def conditions(vs: voicestyle.VoiceStyle, arguments: argparse.Namespace) -> list[Condition]:
    """One for each start and number of steps; the inverter where the model has one."""
    items = picture_items(arguments.pictures, arguments.split, arguments.num, arguments.seed)
    targets = aligned_targets(items, vs.generator.config.size, lambda name, error: print(f"left out: {name}: {error}"))
    first = Condition("start", "", targets, ("pixel", "identity"), 0)
    starts = [start for start in STARTS if start != "inverter" or vs.model.inverter is not None]
    return [
        dataclasses.replace(first, name=STARTS[start], start=start, steps=num)
        for start in starts
        for num in arguments.steps
    ]


def table(rows: tuple[Row, ...], context: dict[str, Any]) -> str:
    """The settings and a line for each row."""
    lines = [f"- {name}: {value}" for name, value in context.items() if name != "steps"]
    lines += ["", "| start | steps | PSNR (dB) | identity cosine | s a picture |", "|---|---|---|---|---|"]
    for row in rows:
        psnr, identity = (torch.tensor(row.scores[name]).mean().item() for name in (PSNR, IDENTITY))
        cells = (
            row.condition.name,
            row.condition.steps,
            f"{psnr:.2f}",
            f"{identity:.3f}",
            f"{seconds_of(row, context):.2f}",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def seconds_of(row: Row, context: dict[str, Any]) -> float:
    """Seconds a picture."""
    return row.processor_seconds if context["device"] == "cpu" else row.seconds


def plot(rows: tuple[Row, ...], context: dict[str, Any], path: Path) -> None:
    """Both scores against time, a line for each start; the figures beside the marks are steps."""
    figure, panels = new_figure("Quality of an inversion against its time", (6.4, 7.2), 2)
    for panel, score in zip(panels, (PSNR, IDENTITY), strict=True):
        for color, start in zip(PALETTE, dict.fromkeys(row.condition.name for row in rows), strict=False):
            mine = [row for row in rows if row.condition.name == start]
            seconds = [seconds_of(row, context) for row in mine]
            values = [torch.tensor(row.scores[score]).mean().item() for row in mine]
            panel.plot(seconds, values, marker="o", color=color, label=start)
            for x, y, row in zip(seconds, values, mine, strict=True):
                panel.annotate(
                    str(row.condition.steps), (x, y), textcoords="offset points", xytext=(4, -10), fontsize=8
                )
        panel.set_xscale("symlog", linthresh=0.1)
        panel.set_xlim(left=0)
        panel.set_ylabel(score if score == PSNR else "identity cosine")
        panel.legend()
    panels[-1].set_xlabel("seconds a picture")
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path, help="a manifest, or a folder of aligned faces")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--model", default="voicestyle-small")
    parser.add_argument("--split", default="val")
    parser.add_argument("--num", type=int, default=16)
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-linear", type=int, default=4000, help="samples that the linear estimate is learnt from")
    parser.add_argument("--device")
    arguments = parser.parse_args()
    vs = voicestyle.load(arguments.model, arguments.device)
    arguments.out.mkdir(parents=True, exist_ok=True)
    settings = StudySettings(seed=arguments.seed, num_linear=arguments.num_linear)
    wanted = conditions(vs, arguments)
    vs.invert(wanted[0].pictures.target[:1], steps=1, perceptual="pixel")  # what the first one waits for is not its own
    study = study_inversion(vs, wanted, settings, cache=arguments.out / "cache")
    text = table(study.rows, study.context)
    print(text, end="")
    (arguments.out / "quality.md").write_text(text)
    plot(study.rows, study.context, arguments.out / "quality.png")


if __name__ == "__main__":
    main()
