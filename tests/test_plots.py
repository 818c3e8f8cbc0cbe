"""Plots draw the values that they are given, say what they are, and give the same file each time."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import voicestyle
from tiny import save_tiny
from voicestyle.data.manifest import Item
from voicestyle.metrics import roc_auc
from voicestyle.plots import (
    COLORS,
    FORMATS,
    association,
    cmc_plot,
    labels_of,
    roc_plot,
    save_figure,
    similarity_groups,
    similarity_histogram,
    space_map,
    training_curves,
)
from voicestyle.show import interpolation_sheet, prototype_sheet


def scores_and_labels(num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % 3 == 0
    return np.round(rng.normal(size=num) + labels, 1), labels  # rounded: ties


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


# ----------------------------------------------------------------------------------------------------------- evaluation


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 60), st.integers(0, 99))
def test_the_area_under_a_drawn_roc_is_the_auc(num: int, seed: int) -> None:
    scores, labels = scores_and_labels(num, seed)
    figure = roc_plot({"any": (scores, labels)})
    chance, curve = figure.axes[0].get_lines()
    x, y = curve.get_data()
    area = np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2)
    assert area == pytest.approx(roc_auc(scores, labels), abs=1e-12)
    assert chance.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert legend(figure) == ["chance: AUC 0.500", f"any: AUC {roc_auc(scores, labels):.3f}, n = {num}"]


def test_a_roc_says_how_many_trials_there_are() -> None:
    figure = roc_plot({"any": scores_and_labels(1200), "same gender": scores_and_labels(300)}, title="Unseen people")
    assert figure.get_suptitle() == "Unseen people: ROC, n = 300 to 1,200 trials"


@pytest.mark.parametrize(
    "curves",
    [{}, {"one kind": ([0.1, 0.2], [1, 1])}, {"nan": ([0.1, math.nan], [1, 0])}, {"lengths": ([0.1], [1, 0])}],
    ids=lambda curves: next(iter(curves), "none"),
)
def test_a_roc_refuses_what_has_no_auc(curves) -> None:
    with pytest.raises(ValueError):
        roc_plot(curves)


def test_a_cmc_draws_the_share_of_ranks_up_to_k() -> None:
    ranks = [1, 1, 2, 2.5, 5, 7]
    figure = cmc_plot({"voice to face": ranks}, num_candidates=8)
    chance, curve = figure.axes[0].get_lines()
    assert curve.get_xdata().tolist() == list(range(1, 9))
    assert curve.get_ydata().tolist() == [np.mean([rank <= k for rank in ranks]) for k in range(1, 9)]
    assert chance.get_ydata() == pytest.approx([k / 8 for k in range(1, 9)])
    assert legend(figure) == ["chance: rank 1 12.5 %", "voice to face: rank 1 33.3 %, n = 6"]


def test_the_chance_of_a_cmc_with_several_relevant_candidates_is_that_of_all_draws() -> None:
    figure = cmc_plot({"any": [1, 2, 3]}, num_candidates=6, num_relevant=[1, 2, 3])
    expected = [
        np.mean([
            np.mean([min(drawn) < relevant for drawn in itertools.combinations(range(6), k)]) for relevant in (1, 2, 3)
        ])
        for k in range(1, 7)
    ]  # fmt: skip
    assert figure.axes[0].get_lines()[0].get_ydata() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("ranks", "relevant"), [([0, 1], 1), ([1, 9], 1), ([], 1), ([math.nan], 1), ([1], 0), ([1], 9)]
)
def test_a_cmc_refuses_impossible_ranks(ranks, relevant) -> None:
    with pytest.raises(ValueError, match="expected"):
        cmc_plot({"any": ranks}, 8, relevant)


def test_a_histogram_counts_every_pair_once() -> None:
    rng = np.random.default_rng(0)
    groups = {"same person": rng.normal(0.3, 0.1, 50), "other people": rng.normal(0, 0.2, 400)}
    figure = similarity_histogram(groups)
    outlines = [patch for patch in figure.axes[0].patches if not patch.get_fill()]
    for outline, scores in zip(outlines, groups.values(), strict=True):
        shares, edges, _ = outline.get_data()
        assert shares.sum() == pytest.approx(100)
        for share, low, high in zip(shares[:-1], edges, edges[1:], strict=False):
            assert share * len(scores) / 100 == pytest.approx(sum(low <= score < high for score in scores))
    auc = roc_auc(np.concatenate(list(groups.values())), np.arange(450) < 50)
    assert legend(figure) == ["same person, n = 50", f"other people, n = 400; AUC {auc:.3f} (chance 0.5)"]


@pytest.mark.parametrize("groups", [{}, {"same person": []}, {"same person": [0.1, math.inf]}])
def test_a_histogram_refuses_empty_groups_and_nan(groups) -> None:
    with pytest.raises(ValueError, match="expected"):
        similarity_histogram(groups)


PEOPLE = ["a", "a", "b", "c", "d"]
GENDERS = ["f", "f", "f", "m", ""]


def embeddings(num: int, seed: int = 0) -> np.ndarray:
    emb = np.random.default_rng(seed).normal(size=(num, 8))
    return emb / np.linalg.norm(emb, axis=1, keepdims=True)


def test_groups_of_similarities_are_those_of_a_double_loop() -> None:
    voices, faces = embeddings(5), embeddings(5, seed=1)
    expected = {"same person": [], "other people": [], "other people, same gender": []}
    for i, j in itertools.product(range(5), range(5)):
        cosine = voices[i] @ faces[j]
        expected["same person" if PEOPLE[i] == PEOPLE[j] else "other people"].append(cosine)
        if PEOPLE[i] != PEOPLE[j] and GENDERS[i] and GENDERS[i] == GENDERS[j]:
            expected["other people, same gender"].append(cosine)
    groups = similarity_groups(voices, faces, PEOPLE, GENDERS)
    assert list(groups) == list(expected)
    for name, scores in groups.items():
        assert scores == pytest.approx(np.array(expected[name]))
    assert list(similarity_groups(voices, faces, PEOPLE, [""] * 5)) == ["same person", "other people"]


def test_of_too_many_pairs_some_voices_are_drawn(monkeypatch) -> None:
    monkeypatch.setattr(association, "MAX_PAIRS", 10)
    voices, faces = embeddings(5), embeddings(5, seed=1)
    drawn = [
        np.concatenate(list(similarity_groups(voices, faces, PEOPLE, [""] * 5, seed).values())) for seed in (0, 0, 1)
    ]
    assert len(drawn[0]) == 10 and set(drawn[0].round(9)) <= set((voices @ faces.T).ravel().round(9))
    assert drawn[0].tolist() == drawn[1].tolist() != drawn[2].tolist()


# ------------------------------------------------------------------------------------------------------------- training


def write_log(folder: Path, rows: list[dict], end: str = "\n") -> Path:
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + end)
    return folder


ROWS = [
    {"step": 10, "loss": 3.0, "loss_instance": 1.0, "lr": 1e-3, "stage": "warm-up", "best": True},
    {"step": 20, "loss": 2.0, "loss_instance": math.nan, "lr": 1e-4, "auc_any": 0.6, "clusters": 3},
    {"step": 30, "loss": 1.0, "loss_instance": 0.5, "lr": 1e-5, "auc_any": 0.7, "clusters": 3},
]


def lines(axes) -> list[list]:
    return [np.stack(line.get_data(), 1).tolist() for line in axes.get_lines()]


def test_training_curves_are_the_numbers_of_the_log(tmp_path) -> None:
    figure = training_curves([write_log(tmp_path / "run", ROWS)])
    assert figure.get_suptitle() == "Training of run, 30 steps"
    panels = {axes.get_ylabel(): axes for axes in figure.axes}
    assert list(panels) == ["loss", "auc_any", "clusters", "learning rate"]
    loss, instance = lines(panels["loss"])
    assert loss == [[10, 3], [20, 2], [30, 1]]
    assert instance[::2] == [[10, 1], [30, 0.5]] and math.isnan(instance[1][1])
    auc, chance = lines(panels["auc_any"])
    assert auc == [[20, 0.6], [30, 0.7]] and [y for _, y in chance] == [0.5, 0.5]
    assert lines(panels["clusters"]) == [[[20, 3], [30, 3]]]
    assert panels["learning rate"].get_yscale() == "log"
    assert [text.get_text() for text in panels["loss"].texts] == ["loss_instance", "loss"]  # from below
    assert figure.axes[-1].get_xlabel() == "step"
    assert {axes.get_xlim() for axes in figure.axes} == {figure.axes[0].get_xlim()}


def test_several_runs_have_a_color_each_and_names_that_tell_them_apart(tmp_path) -> None:
    runs = [write_log(tmp_path / name, ROWS[: i + 1]) for i, name in enumerate(["a/_$x$", "b/_$x$", "b/other"])]
    figure = training_curves(runs)
    assert legend(figure) == ["a/_$x$", "b/_$x$", "b/other"]
    drawn = [line for line in figure.axes[0].get_lines() if len(line.get_xdata())]
    assert len({line.get_color() for line in drawn}) == 3
    assert len({line.get_linestyle() for line in drawn}) == 2  # loss, loss_instance
    save_figure(figure, tmp_path / "curves.png")


def test_the_best_auc_has_a_ring_and_what_never_was_is_not_drawn(tmp_path) -> None:
    aucs = [0.6, 0.8, 0.7]
    rows = [
        {"step": i, "loss": 1.0, "auc": auc, "best_auc": max(aucs[: i + 1]), "clusters": 0}
        for i, auc in enumerate(aucs)
    ]
    loss, auc = training_curves([write_log(tmp_path / "run", rows)]).axes
    assert lines(auc)[0] == [[0, 0.6], [1, 0.8], [2, 0.7]] and len(lines(auc)) == 2  # and chance
    (ring,) = auc.collections
    assert ring.get_offsets().tolist() == [[1, 0.8]]
    assert "0.800" in [text.get_text() for text in auc.texts]


def test_titles_and_legends_stay_inside_of_the_figure() -> None:
    scores, labels = scores_and_labels(9000)
    strata = ("random_val", "G_val", "N_val", "GN_val")
    groups = {"same person": scores[labels], "other people": scores[~labels]}
    for figure in (
        roc_plot({name: (scores, labels) for name in strata}),
        similarity_histogram(groups, "Similarity, matching 1:10, voice to face, same gender and nationality"),
    ):
        figure.canvas.draw()
        drawn = [*figure.axes[0].get_legend().get_texts(), figure._suptitle]
        assert max(text.get_window_extent().x1 for text in drawn) <= figure.bbox.x1
        assert max(text.get_window_extent().y1 for text in drawn) <= figure.bbox.y1


def test_names_at_the_ends_of_lines_keep_apart(tmp_path) -> None:
    row = {f"loss_{i}": 1 + 1e-3 * i for i in range(4)}
    figure = training_curves([write_log(tmp_path / "run", [{"step": 1, **row}, {"step": 2, **row}])])
    heights = sorted(text.get_position()[1] for text in figure.axes[0].texts)
    assert len(heights) == 4 and min(np.diff(heights)) >= 0.12 - 1e-9


def test_a_last_line_that_is_being_written_is_left_out(tmp_path) -> None:
    figure = training_curves([write_log(tmp_path / "run", ROWS[:2], end='\n{"step": 30, "lo')])
    assert lines(figure.axes[0])[0] == [[10, 3], [20, 2]]


def test_logs_that_cannot_be_drawn_are_errors(tmp_path) -> None:
    run = write_log(tmp_path / "run", ROWS)
    empty = write_log(tmp_path / "empty", [], end="")
    wordy = write_log(tmp_path / "wordy", [{"step": 1, "loss": math.nan, "stage": "x"}])
    for log in (empty, wordy):
        with pytest.raises(ValueError, match=f"{log.name}/log.jsonl: no numbers"):
            training_curves([run, log])
    with pytest.raises(FileNotFoundError, match="no such log"):
        training_curves([tmp_path])
    for i, line in enumerate(['{"loss": 1}', "[1]", "{", '{"step": null}']):
        damaged = write_log(tmp_path / f"damaged{i}", [ROWS[0]], end=f"\n{line}\n")
        with pytest.raises(ValueError, match="line 2 is not"):
            training_curves([damaged])
    for runs in ([], [run, tmp_path / "empty" / ".." / "run"]):
        with pytest.raises(ValueError, match="runs|twice"):
            training_curves(runs)


# ------------------------------------------------------------------------------------------------------------ the space


def dots(figure) -> dict[tuple[str, str], int]:
    """How many points there are of each marker and color, without those of the legend."""
    shapes = {
        len(matplotlib.markers.MarkerStyle(m).get_path().vertices): kind for kind, m in (("voice", "o"), ("face", "^"))
    }
    counts = {}
    for points in figure.axes[0].collections:
        key = shapes.get(len(points.get_paths()[0].vertices)), matplotlib.colors.to_hex(points.get_facecolor()[0])
        if len(points.get_offsets()):
            counts[key] = counts.get(key, 0) + len(points.get_offsets())
    return counts


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_a_map_has_every_voice_and_face_in_the_color_of_its_label(method: str) -> None:
    labels = ["f"] * 7 + ["m"] * 4 + [""] * 1
    figure = space_map(embeddings(24), ["voice"] * 12 + ["face"] * 12, 2 * labels, color="gender", method=method)
    assert figure.get_suptitle() == "Joint space by gender, n = 12 voices and 12 faces"
    assert legend(figure) == ["voice", "face", "f, n = 14", "m, n = 8", "not known, n = 2"]
    assert sorted(dots(figure).values()) == [1, 1, 4, 4, 7, 7]
    assert {kind for kind, _ in dots(figure)} == {"voice", "face"}
    assert ("no unit" in figure.axes[0].get_xlabel()) == (method == "tsne")


def test_pca_places_points_at_their_principal_components() -> None:
    emb = embeddings(10)
    figure = space_map(emb, ["voice"] * 5 + ["face"] * 5, ["x"] * 10, method="pca")
    drawn = np.concatenate([np.asarray(points.get_offsets()) for points in figure.axes[0].collections])
    centered = emb - emb.mean(0)
    _, _, axes = np.linalg.svd(centered, full_matrices=False)
    assert np.abs(drawn) == pytest.approx(np.abs(centered @ axes[:2].T), abs=1e-9)


def test_rare_labels_share_a_gray() -> None:
    labels = [f"p{i}" for i in range(10)] * 2 + ["p9"] * 4
    figure = space_map(embeddings(24), ["voice", "face"] * 12, labels, color="identity", method="pca")
    assert legend(figure)[2:] == ["p9, n = 6", *[f"p{i}, n = 2" for i in range(5)], "4 others, n = 8"]
    assert sum(dots(figure).values()) == 24


def test_the_same_seed_gives_the_same_map(tmp_path) -> None:
    def draw(seed: int) -> np.ndarray:
        figure = space_map(embeddings(20), ["voice", "face"] * 10, ["x"] * 20, seed=seed)
        return np.concatenate([points.get_offsets() for points in figure.axes[0].collections])

    assert draw(0).tolist() == draw(0).tolist()


def test_a_map_refuses_unknown_labels_and_what_cannot_be_placed() -> None:
    items = [Item("k", "val", "someone", gender="f", nationality="nowhere")]
    assert [labels_of(items, color) for color in COLORS] == [["f"], ["val"], ["someone"]]
    for color in ("nationality", "key", "race"):
        with pytest.raises(ValueError, match=f"color '{color}'.*gender, split, identity"):
            labels_of(items, color)
    emb, kinds, labels = embeddings(6), ["voice"] * 6, ["x"] * 6
    for bad in (
        (emb[:3], kinds[:3], labels[:3]),
        (emb, kinds[:5], labels),
        (emb, kinds, labels[:5]),
        (emb, ["sound"] * 6, labels),
        (np.ones((6, 4)), kinds, labels),
        (np.full((6, 4), math.nan), kinds, labels),
    ):
        with pytest.raises(ValueError, match="map: .*expected"):
            space_map(*bad)
    with pytest.raises(ValueError, match="method 'umap'"):
        space_map(emb, kinds, labels, method="umap")


# ----------------------------------------------------------------------------------------------------------- prototypes


@pytest.fixture(scope="module")
def vs(tmp_path_factory) -> voicestyle.VoiceStyle:
    return voicestyle.load(save_tiny(tmp_path_factory.mktemp("models") / "tiny"), device="cpu")


def test_a_prototype_sheet_shows_the_mean_and_the_nearest_members(vs, monkeypatch) -> None:
    seen = {}
    monkeypatch.setattr("voicestyle.show.contact_sheet", lambda rows, tile: seen.update(rows=rows, tile=tile))
    prototype_sheet(vs, [4, 1], num_members=3, tile=32)
    assert seen["tile"] == 32 and len(seen["rows"]) == 2
    for (title, tiles), prototype in zip(seen["rows"], [4, 1], strict=True):
        members = [i for i, p in enumerate(vs.bank.assignments.tolist()) if p == prototype]
        near = sorted(members, key=lambda i: -float(vs.bank.member_emb[i] @ vs.bank.centroids[prototype]))[:3]
        assert title.startswith(f"prototype {prototype}: {len(members)} members")
        assert [caption.split()[0] for _, caption in tiles[1:]] == [vs.bank.member_keys[i] for i in near]
        mean = vs.synthesize(vs.bank.member_w[members].mean(0)[None])
        assert np.allclose(tiles[0][0], mean[0], atol=1e-4)
        assert np.allclose(tiles[1][0], vs.synthesize(vs.bank.member_w[near[:1]])[0], atol=1e-4)


def test_a_prototype_sheet_is_a_picture_and_refuses_prototypes_that_are_not_there(vs) -> None:
    one, two = (prototype_sheet(vs, range(num), num_members=0, tile=16) for num in (1, 2))
    assert isinstance(one, Image.Image) and two.height > one.height
    for prototypes in ([6], [-1], []):
        with pytest.raises(ValueError, match="the bank has 0 to 5|no rows"):
            prototype_sheet(vs, prototypes)


def test_an_interpolation_goes_straight_from_one_mean_to_another(vs, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr("voicestyle.show.contact_sheet", lambda rows, tile: seen.extend(rows))
    interpolation_sheet(vs, [(4, 1), (0, 2)], num_steps=3)
    assert [title for title, _ in seen] == ["prototype 4 to prototype 1", "prototype 0 to prototype 2"]
    a, b = (vs.bank.member_w[vs.bank.assignments == prototype].mean(0) for prototype in (4, 1))
    expected = vs.synthesize(torch.stack([a, (a + b) / 2, b]))
    assert torch.allclose(torch.stack([image for image, _ in seen[0][1]]), expected, atol=1e-4)


def test_an_interpolation_needs_two_steps_and_prototypes_that_are_there(vs) -> None:
    for pairs, steps, message in (([(0, 1)], 1, "2 or more"), ([(0, 6)], 3, "0 to 5"), ([], 3, "no rows")):
        with pytest.raises(ValueError, match=message):
            interpolation_sheet(vs, pairs, steps)


# ---------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("suffix", [*FORMATS, ".PNG"])
def test_files_are_the_same_each_time_and_say_who_made_them(suffix: str, tmp_path) -> None:
    for name in ("a", "b"):
        save_figure(roc_plot({"any": scores_and_labels(50)}), tmp_path / f"{name}{suffix}")
    first, second = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("a", "b"))
    assert first == second
    assert f"voicestyle {voicestyle.__version__}".encode() in first
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a{suffix}", f"b{suffix}"]


def test_a_figure_is_written_whole_or_not_at_all(tmp_path) -> None:
    figure, path = roc_plot({"any": scores_and_labels(20)}), tmp_path / "a.png"
    path.write_bytes(b"old")
    figure.axes[0].set_title(r"$\unknown$")  # fails only when drawn
    with pytest.raises(ValueError):
        save_figure(figure, path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_other_formats_and_folders_that_are_not_there_are_errors(tmp_path) -> None:
    figure = roc_plot({"any": scores_and_labels(20)})
    with pytest.raises(ValueError, match=r"a\.jpg: .*\.png, \.svg, \.pdf"):
        save_figure(figure, tmp_path / "a.jpg")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        save_figure(figure, tmp_path / "new" / "a.png")


def test_drawing_leaves_the_settings_of_matplotlib_alone(tmp_path) -> None:
    before = dict(matplotlib.rcParams)
    save_figure(similarity_histogram({"same person": [0.1, 0.2]}), tmp_path / "a.svg")
    assert dict(matplotlib.rcParams) == before
