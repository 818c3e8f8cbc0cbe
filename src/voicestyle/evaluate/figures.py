"""The curves of an evaluation as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from voicestyle.evaluate.report import Evaluation, Ranks
from voicestyle.plots import cmc_plot, roc_plot, save_figure, similarity_histogram

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike


def save_plots(evaluation: Evaluation, folder: str | Path) -> list[Path]:
    """The PNG files written: one ROC of all verification lists, a CMC of each retrieval, similarities of each list."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Figure] = {}
    curves: dict[str, tuple[ArrayLike, ArrayLike]] = {}
    for name, scored in evaluation.scored.items():
        what = f"{scored.reports[0].task}, {scored.reports[0].stratum}"
        found = scored.found
        if isinstance(found, Ranks):
            ranks = {evaluation.model: found.first}
            figures[f"cmc_{name}"] = cmc_plot(ranks, found.num_candidates, found.num_relevant, what.capitalize())
            continue
        same = found.same_person
        groups = {"same person": found.similarities[same], "other people": found.similarities[~same]}
        figures[f"similarities_{name}"] = similarity_histogram(groups, f"Similarity, {what}")
        if scored.reports[0].task == "verification":
            curves[name.removeprefix("veriflist_test_")] = (found.similarities, same)
    if curves:
        figures["roc"] = roc_plot(curves)
    paths = [folder / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        save_figure(figure, path)
    return paths
