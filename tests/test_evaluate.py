"""Evaluation: trials that are fair, constants that score chance, lists in the published formats."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fill import inp
from voicestyle.evaluate.matching import make_trials, matching, read_trials
from voicestyle.evaluate.report import Report, check_disjoint
from voicestyle.evaluate.retrieval import retrieval
from voicestyle.evaluate.verification import read_pairs, score_pairs, verification

PEOPLE = [name for i, name in enumerate("abcdefgh") for _ in range(1 + i % 3)]
GENDERS = ["f" if name < "e" else "m" for name in PEOPLE]


def embeddings(noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Voices and faces of PEOPLE: gender on one axis, the person on others."""
    person = torch.tensor([ord(name) - ord("a") for name in PEOPLE])
    base = torch.cat([torch.eye(8)[person], 2 * torch.tensor([[g == "f"] for g in GENDERS]).float()], dim=1)
    return tuple(F.normalize(base + noise * inp(side, base.shape), dim=1) for side in ("voice", "face"))


def all_reports(voice: torch.Tensor, face: torch.Tensor, seed: int = 0) -> list[Report]:
    same_gender = {"strata": GENDERS, "stratum": "same gender"}
    return [
        *verification(voice, face, PEOPLE, seed), *verification(voice, face, PEOPLE, seed, **same_gender),
        *(matching(voice, face, PEOPLE, seed, direction=d, num_candidates=n) for d in ("v2f", "f2v") for n in (2, 4)),
        matching(voice, face, PEOPLE, seed, **same_gender),
        *(retrieval(voice, face, PEOPLE, seed, direction=d) for d in ("v2f", "f2v")),
    ]  # fmt: skip


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(2, 4), st.booleans())
def test_trials_are_fair(seed, num_candidates, by_gender):
    trials = make_trials(PEOPLE, seed, strata=GENDERS if by_gender else None, num_candidates=num_candidates, repeats=3)
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


def test_items_without_a_label_are_left_out():
    trials = make_trials(["a", "b", "c"], seed=0, strata=["f", "f", ""])
    assert set(trials.probe) == {0, 1} and set(trials.negatives[:, 0]) == {0, 1}


@pytest.mark.parametrize(
    ("strata", "message"), [(["f", "f", "m"], "1 identities of stratum 'm'"), ([""] * 3, "no item has")]
)
def test_strata_without_impostors_are_an_error(strata, message):
    with pytest.raises(ValueError, match=message):
        make_trials(["a", "b", "c"], seed=0, strata=strata)


def test_constant_embeddings_score_chance():
    constant = torch.ones(len(PEOPLE), 4)
    for report in all_reports(constant, constant):
        assert report.score == pytest.approx(report.chance), report
        assert report.interval[0] <= report.score <= report.interval[1]


def test_perfect_embeddings_score_best():
    for report in all_reports(*embeddings(0.0)):
        assert report.score == pytest.approx(0 if report.metric == "EER" else 1), report


def test_reports_are_better_than_chance_and_harder_within_a_gender():
    reports = all_reports(*embeddings(0.5))
    for report in reports:
        better = report.chance - report.score if report.metric == "EER" else report.score - report.chance
        assert better > 0.05, report
        assert report.interval[0] <= report.score <= report.interval[1]
    auc = {r.stratum: r.score for r in reports if r.metric == "AUC"}
    assert auc["any"] > auc["same gender"]


def test_a_seed_says_it_all():
    pair = embeddings(0.5)
    assert all_reports(*pair) == all_reports(*pair)
    assert all_reports(*pair) != all_reports(*pair, seed=1)


def test_verification_is_the_hand_count():
    voice, face = embeddings(0.5)
    report = verification(voice, face, PEOPLE, seed=3)[0]
    trials = make_trials(PEOPLE, 3)
    impostor = (voice[trials.probe] * face[trials.negatives[:, 0]]).sum(1)
    own = (voice * face).sum(1)
    wins = (own[:, None] > impostor).double() + 0.5 * (own[:, None] == impostor)
    assert report.score == pytest.approx(wins.mean().item(), abs=1e-6)
    assert report.num_trials == len(PEOPLE) * 51 and report.num_identities == 8


def test_a_report_says_everything():
    report = retrieval(*embeddings(0.5), PEOPLE, seed=7)
    text = str(report)
    for part in (
        "retrieval, voice to face (any): mAP",
        f"chance {report.chance:.3f}",
        "15 trials",
        "8 identities",
        "seed 7",
    ):
        assert part in text
    assert Report(**report.to_dict()) == report


def test_embeddings_that_do_not_fit_are_an_error():
    voice, face = embeddings(0.5)
    with pytest.raises(ValueError, match=r"expected \(N, D\), \(N, D\) and N"):
        retrieval(voice[:-1], face, PEOPLE)
    with pytest.raises(ValueError, match="NaN"):
        retrieval(voice * torch.nan, face, PEOPLE)


def test_leaks_are_named():
    check_disjoint(["a", "b"], ["c"])
    with pytest.raises(ValueError, match="leak: 2 tested identities were trained on, e.g. a, b"):
        check_disjoint(["a", "b", "x"], ["b", "a", "c"])


def test_published_matching_lists_are_read(tmp_path):
    path = tmp_path / "matching_v2f_U.csv"
    path.write_text("v/1.wav f/1.jpg f/2.jpg\nv/2.wav f/2.jpg f/1.jpg\n")
    trials = read_trials(path, {"v/1.wav": 10, "v/2.wav": 11}, {"f/1.jpg": 20, "f/2.jpg": 21})
    assert (trials.probe.tolist(), trials.positive.tolist(), trials.negatives.tolist()) == (
        [10, 11],
        [20, 21],
        [[21], [20]],
    )
    with pytest.raises(ValueError, match=r"1 files of the list are not there, e.g. f/2.jpg"):
        read_trials(path, {"v/1.wav": 10, "v/2.wav": 11}, {"f/1.jpg": 20})
    path.write_text("v/1.wav f/1.jpg f/2.jpg\nv/2.wav f/2.jpg\n")
    with pytest.raises(ValueError, match="lines of one length"):
        read_trials(path, {}, {})
    with pytest.raises(FileNotFoundError, match="no such list"):
        read_trials(tmp_path / "none.csv", {}, {})


def test_published_verification_lists_are_read(tmp_path):
    path = tmp_path / "veriflist_test_G.txt"
    header = "id,voice-speaker-id,face-speaker-id,label,voice-path,face-path\n"
    path.write_text(header + "1,2,2,1,A/x.wav,A/1.jpg\n2,2,9,0,A/x.wav,B/1.jpg\n")
    voice, face, labels = read_pairs(path, {"A/x.wav": 0}, {"A/1.jpg": 0, "B/1.jpg": 1})
    assert (voice.tolist(), face.tolist(), labels.tolist()) == ([0, 0], [0, 1], [True, False])
    auc, eer = score_pairs(np.array([0.9, 0.1]), labels, np.array(["A", "A"]), seed=0, stratum="G")
    assert (auc.score, eer.score, auc.stratum, auc.num_identities) == (1, 0, "G", 1)
    with pytest.raises(ValueError, match="1 files of the list are not there, e.g. B/1.jpg"):
        read_pairs(path, {"A/x.wav": 0}, {"A/1.jpg": 0})
    path.write_text("a,b\n")
    with pytest.raises(ValueError, match="expected label, voice-path and face-path"):
        read_pairs(path, {}, {})
    with pytest.raises(FileNotFoundError, match="no such list"):
        read_pairs(tmp_path / "none.txt", {}, {})
