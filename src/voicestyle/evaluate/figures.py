"""The curves of an evaluation as files."""

from __future__ import annotations

from pathlib import Path

from voicestyle.evaluate.report import Evaluation
from voicestyle.plots import cmc_plot, roc_plot, save_figure, similarity_histogram


def save_plots(evaluation: Evaluation, folder: str | Path) -> list[Path]:
    """The PNG files written: one ROC of all verification lists, a CMC of each retrieval, similarities of each list."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figures, curves = {}, {}
    for name, scored in evaluation.scored.items():
        what = f"{scored.reports[0].task}, {scored.reports[0].stratum}"
        if scored.ranks is not None:
            ranks = {evaluation.model: scored.ranks}
            figures[f"cmc_{name}"] = cmc_plot(ranks, scored.num_candidates, scored.num_relevant, what.capitalize())
            continue
        same = scored.same_person
        groups = {"same person": scored.similarities[same], "other people": scored.similarities[~same]}
        figures[f"similarities_{name}"] = similarity_histogram(groups, f"Similarity, {what}")
        if scored.reports[0].task == "verification":
            curves[name.removeprefix("veriflist_test_")] = (scored.similarities, same)
    if curves:
        figures["roc"] = roc_plot(curves)
    paths = [folder / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        save_figure(figure, path)
    return paths
