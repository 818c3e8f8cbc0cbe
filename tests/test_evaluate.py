"""Evaluation: trials that are fair, constants that score chance, oracles that count by hand."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fill import inp
from voicestyle import metrics
from voicestyle.data.manifest import Item
from voicestyle.evaluate.embeddings import Embeddings
from voicestyle.evaluate.matching import matching, score_matching
from voicestyle.evaluate.report import Report
from voicestyle.evaluate.retrieval import rank_all, score_retrieval
from voicestyle.evaluate.trials import make_lists, make_trials
from voicestyle.evaluate.verification import score_verification
from voicestyle.metrics import matching_correct, rank

PEOPLE = [name for i, name in enumerate("abcdefgh") for _ in range(1 + i % 3)]
GENDERS = ["f" if name < "e" else "m" for name in PEOPLE]
ITEMS = [
    Item(f"k{i}", "val", name, voice=Path("v"), frontal=Path("f"), gender=g, nationality="xy"[name in "ac"])
    for i, (name, g) in enumerate(zip(PEOPLE, GENDERS, strict=True))
]


@pytest.fixture(autouse=True, scope="module")
def few_resamples():
    """Intervals are tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "NUM_RESAMPLES", 40)
        yield


def embeddings(noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Voices and faces of PEOPLE: gender on one axis, the person on others."""
    person = torch.tensor([ord(name) - ord("a") for name in PEOPLE])
    base = torch.cat([torch.eye(8)[person], 2 * torch.tensor([[g == "f"] for g in GENDERS]).float()], dim=1)
    return tuple(F.normalize(base + noise * inp(side, base.shape), dim=1) for side in ("voice", "face"))


def named(emb: torch.Tensor) -> Embeddings:
    return Embeddings(emb.numpy(), {item.key: row for row, item in enumerate(ITEMS)})


def score(trial_list, voices: Embeddings, faces: Embeddings, seed: int = 0) -> list[Report]:
    if hasattr(trial_list, "direction"):
        return [*score_matching(trial_list, voices, faces, seed).reports]
    if hasattr(trial_list, "voices"):
        return [r for scored in score_retrieval(trial_list, voices, faces, seed) for r in scored.reports]
    return [*score_verification(trial_list, voices, faces, seed).reports]


def all_lists(seed: int = 0):
    return [
        *make_lists(ITEMS, "matching", "val", seed, strata=["U", "G"], candidates=(2, 4)),
        *make_lists(ITEMS, "matching", "val", seed),
        *make_lists(ITEMS, "verification", "val", seed),
        *make_lists(ITEMS, "retrieval", "val", seed),
    ]


def all_reports(voice: torch.Tensor, face: torch.Tensor, seed: int = 0) -> list[Report]:
    return [r for trial_list in all_lists(seed) for r in score(trial_list, named(voice), named(face), seed)]


def lower_is_better(report: Report) -> bool:
    return report.metric in ("EER", "median rank")


# -------------------------------------------------------------------------------------------------------------- trials


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(2, 4), st.booleans())
def test_trials_are_fair(seed, num_candidates, by_gender):
    trials = make_trials(
        PEOPLE, seed, strata=GENDERS if by_gender else None, num_candidates=num_candidates, repeats=3
    )  # fmt: skip
    people, genders = np.array(PEOPLE), np.array(GENDERS)
    assert np.array_equal(np.bincount(trials.probe), np.full(len(PEOPLE), 3))
    assert np.array_equal(people[trials.probe], people[trials.positive])
    candidates = np.column_stack([people[trials.positive], people[trials.negatives]])
    assert all(len(set(row)) == num_candidates for row in candidates)
    if by_gender:
        assert (genders[trials.negatives] == genders[trials.probe][:, None]).all()


def test_impostors_are_drawn_by_person_not_by_clip():
    people = ["probe"] + ["many"] * 98 + ["few"]
    trials = make_trials(people, seed=0, repeats=400)
    drawn = np.array(people)[trials.negatives[trials.probe == 0][:, 0]]
    assert 150 < (drawn == "few").sum() < 250


def test_items_without_a_label_or_alone_with_it_are_left_out_and_counted():
    trials = make_trials(["a", "b", "c", "d"], seed=0, strata=["f", "f", "", "m"])
    assert set(trials.probe) == {0, 1} and set(trials.negatives[:, 0]) == {0, 1}
    assert trials.num_unlabeled == 2


@pytest.mark.parametrize("strata", [["f", "m", "m"], [""] * 3])
def test_strata_without_impostors_are_an_error(strata):
    with pytest.raises(ValueError, match=r"no stratum has 2 identities .* of 3 items have no label"):
        make_trials(["a", "b", "b"], seed=0, strata=strata)


def test_strata_share_what_they_say():
    by_key = {item.key: item for item in ITEMS}
    for trial_list in make_lists(ITEMS, "matching", "val", 0):
        for letter, column in (("G", "gender"), ("N", "nationality")):
            if letter in trial_list.stratum:
                assert all(len({getattr(by_key[key], column) for key in trial}) == 1 for trial in trial_list.trials)
    strata = [t.stratum for t in make_lists(ITEMS, "matching", "val", 0) if t.direction == "v2f"]
    assert strata == ["U", "G", "N", "GN"]


def test_strata_that_were_not_asked_for_are_made_where_there_are_labels():
    unknown = [replace(item, gender="", nationality="") for item in ITEMS]
    assert [t.stratum for t in make_lists(unknown, "verification", "val", 0)] == ["U"]
    with pytest.raises(ValueError, match="same gender, 1:2: trials: no stratum has 2 identities"):
        make_lists(unknown, "verification", "val", 0, strata=["G"])
    some = [replace(ITEMS[0], gender=""), *ITEMS[1:]]
    [made] = make_lists(some, "verification", "val", 0, strata=["G"])
    voice, face = embeddings(0.5)
    assert {r.num_unlabeled for r in score(made, named(voice), named(face))} == {1}


# -------------------------------------------------------------------------------------------------------------- scores


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000), st.sampled_from([3, 32, 129]))
def test_constant_embeddings_score_chance(seed, dim):
    rng = torch.Generator().manual_seed(seed)
    voice, face = (torch.randn(1, dim, generator=rng).expand(len(PEOPLE), -1).contiguous() for _ in range(2))
    for report in all_reports(voice, face):
        assert report.score == pytest.approx(report.chance), report
        assert report.interval[0] <= report.score <= report.interval[1]


def test_random_embeddings_score_about_chance_in_every_score_of_retrieval():
    found = []
    for seed in range(100):
        rng = torch.Generator().manual_seed(seed)
        pair = (torch.randn(len(PEOPLE), 16, generator=rng) for _ in range(2))
        [trial_list] = make_lists(ITEMS, "retrieval", "val", 0)
        found.append([r.score - r.chance for r in score(trial_list, *map(named, pair))])
    assert np.abs(np.mean(found, axis=0)).max() < 0.5  # of the median rank, 7 by chance; the others are below 1
    names = [r.metric for r in score(trial_list, *map(named, embeddings(0.5)))]
    assert np.abs(np.mean(found, axis=0))[[name != "median rank" for name in names]].max() < 0.03


def test_perfect_embeddings_score_best():
    for report in all_reports(*embeddings(0.0)):
        best = {"EER": 0, "median rank": 1}.get(report.metric, 1)
        assert report.score == pytest.approx(best), report


def test_reports_are_better_than_chance_and_harder_within_a_gender():
    reports = all_reports(*embeddings(0.5))
    for report in reports:
        better = report.chance - report.score if lower_is_better(report) else report.score - report.chance
        assert better > 0.05 or report.stratum == "same gender and nationality", report
        assert report.interval[0] <= report.score <= report.interval[1]
    auc = {r.stratum: r.score for r in reports if r.metric == "AUC"}
    assert auc["any"] > auc["same gender"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_is_an_error_in_every_protocol(bad):
    voice, face = embeddings(0.5)
    face[2, 3] = bad
    for trial_list in all_lists():
        with pytest.raises(ValueError, match="NaN or infinit"):
            score(trial_list, named(voice), named(face))


def test_a_seed_says_it_all():
    pair = embeddings(0.5)
    assert all_reports(*pair) == all_reports(*pair)
    assert all_reports(*pair) != all_reports(*pair, seed=1)


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 1000))
def test_the_order_of_items_and_trials_does_not_matter(seed):
    random = Random(seed)
    voice, face = embeddings(0.5)
    order = random.sample(range(len(PEOPLE)), len(PEOPLE))
    rows = {ITEMS[old].key: new for new, old in enumerate(order)}
    moved = [Embeddings(emb[list(order)].numpy(), rows) for emb in (voice, face)]
    for trial_list in all_lists()[-6:]:
        if hasattr(trial_list, "trials"):
            trials = random.sample(trial_list.trials, len(trial_list.trials))
            shuffled = replace(trial_list, trials=tuple(trials))
        else:
            shuffled = replace(trial_list, voices=dict(random.sample([*trial_list.voices.items()], len(PEOPLE))))
        pairs = zip(score(trial_list, named(voice), named(face)), score(shuffled, *moved), strict=True)
        for before, after in pairs:
            assert after.score == pytest.approx(before.score) and after.chance == pytest.approx(before.chance)
            assert after.interval == pytest.approx(before.interval)


def test_verification_is_the_hand_count():
    voice, face = embeddings(0.5)
    [trial_list, *_] = make_lists(ITEMS, "verification", "val", 3)
    report = score(trial_list, named(voice), named(face), 3)[0]
    trials = make_trials(PEOPLE, 3)
    impostor = (voice[trials.probe] * face[trials.negatives[:, 0]]).sum(1)
    own = (voice * face).sum(1)
    wins = (own[:, None] > impostor).double() + 0.5 * (own[:, None] == impostor)
    assert report.score == pytest.approx(wins.mean().item(), abs=1e-6)
    assert report.num_trials == len(PEOPLE) * 51 and report.num_identities == 8


def test_matching_is_the_hand_count_in_both_directions():
    voice, face = embeddings(0.5)
    scores = (voice @ face.T).numpy()
    for trial_list in make_lists(ITEMS, "matching", "val", 5, strata=["U"], candidates=(3,)):
        table = scores if trial_list.direction == "v2f" else scores.T
        rows = np.array([[int(key[1:]) for key in trial] for trial in trial_list.trials])
        found = table[rows[:, :1], rows[:, 1:]]
        [report] = score(trial_list, named(voice), named(face), 5)
        assert report.score == pytest.approx(matching_correct(found[:, 0], found[:, 1:]).mean())
        assert report == replace(
            matching(voice, face, PEOPLE, 5, direction=trial_list.direction, num_candidates=3), seed=5
        )


@pytest.mark.parametrize("block", [1, 4, 100])
def test_retrieval_in_blocks_is_the_whole_matrix_with_its_ties(block):
    rng = np.random.default_rng(0)
    query, gallery = (rng.integers(0, 2, (n, 4)).astype(np.float32) for n in (11, 17))  # few values: many ties
    gallery[3], gallery[9:12] = 0, gallery[8]
    relevant = [np.sort(rng.choice(17, size, replace=False)) for size in rng.integers(1, 5, 11)]
    found = rank_all(query, gallery, relevant, block)
    unit = [emb / np.maximum(np.linalg.norm(emb, axis=1, keepdims=True), 1e-12) for emb in (query, gallery)]
    whole = rank((unit[0] @ unit[1].T).round(5), relevant)
    for name in ("average_precision", "above", "tied", "hits"):
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), err_msg=name)


def test_an_item_without_an_embedding_takes_its_trials_with_it():
    voice, face = embeddings(0.5)
    voices, faces = named(voice), named(face)
    del faces.rows["k0"], voices.rows["k1"]
    for trial_list in all_lists():
        if hasattr(trial_list, "trials"):
            lost = 0
            for trial in trial_list.trials:
                voice_first = getattr(trial_list, "direction", "v2f") == "v2f"
                first, others = trial[0], [name for name in trial[1:] if isinstance(name, str)]
                sides = ([first], others) if voice_first else (others, [first])
                lost += "k1" in sides[0] or "k0" in sides[1]
            for report in score(trial_list, voices, faces):
                assert report.num_left_out == lost > 0
                assert report.num_trials + lost == len(trial_list.trials)
    first, *_, last = score(all_lists()[-1], voices, faces)
    assert (first.num_trials, first.num_left_out) == (len(PEOPLE) - 2, 2)  # k0 is alone: nothing of its person is left
    assert (last.num_trials, last.num_left_out) == (len(PEOPLE) - 1, 1)
    nothing = Embeddings(np.zeros((0, 4), np.float32), {})
    for trial_list in all_lists()[-6:]:
        with pytest.raises(ValueError, match=r"none of|are left of|has a usable item"):
            score(trial_list, voices, nothing)


def test_embeddings_that_do_not_fit_are_an_error():
    voice, face = embeddings(0.5)
    with pytest.raises(ValueError, match=r"expected \(N, D\), \(N, D\) and N"):
        matching(voice[:-1], face, PEOPLE)


def test_a_report_says_everything():
    report = score(all_lists()[-1], *map(named, embeddings(0.5)), 7)[0]
    text = str(replace(report, num_left_out=3, num_unlabeled=4, trials="wav_20k.csv"))
    for part in (
        "retrieval, voice to face (any): mAP", f"chance {report.chance:.3f}", "15 trials", "8 identities", "seed 7",
        "3 trials left out", "4 items left out (no label, or too few share it)", "wav_20k.csv",
    ):  # fmt: skip
        assert part in text
    assert Report(**report.to_dict()) == report


# ---------------------------------------------------------------------------------------------------------------- size

LARGE = """
import resource, sys
import numpy as np
from voicestyle.evaluate.embeddings import Embeddings
from voicestyle.evaluate.lists import RetrievalList
from voicestyle.evaluate.retrieval import score_retrieval
num, rng = int(sys.argv[1]), np.random.default_rng(0)
names = [str(i) for i in range(num)]
people = {name: str(i % 250) for i, name in enumerate(names)}
sides = [Embeddings(rng.standard_normal((num, 512), np.float32), {n: i for i, n in enumerate(names)}) for _ in "vf"]
for scored in score_retrieval(RetrievalList("wav_20k.csv", people, people), *sides):
    for report in scored.reports:
        assert abs(report.score / report.chance - 1) < 0.3, report
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_twenty_thousand_by_twenty_thousand_fits_into_four_gigabytes():
    source = Path(__file__).resolve().parents[1] / "src"
    env = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LARGE, "20000"]
    run = subprocess.run(command, capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 4 * 1024**3


def test_names_of_the_made_lists_are_unique():
    for task, candidates in itertools.product(("matching", "verification", "retrieval"), [(2,), (2, 3, 4)]):
        files = [made.file for made in make_lists(ITEMS, task, "val", 0, ["U", "G"], candidates)]
        assert len(set(files)) == len(files)
