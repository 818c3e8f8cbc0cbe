"""The CMPC objective against naive loops, its limits, and the numbers of the reference code."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fill import inp
from parity import EXACT
from voicestyle.losses import (
    cmpc_loss,
    cmpc_loss_reference,
    cumulative_weights,
    info_nce,
    prototype_nce,
    prototype_nce_reference,
    recalibration_weights,
)


def exact(numbers: list[float]) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def unit(name: str, n: int, d: int = 8) -> torch.Tensor:
    return F.normalize(inp(name, (n, d)).double(), dim=1)


def naive_info_nce(a, b, temperature, same):
    losses = []
    for i in range(len(a)):
        total = 0.0
        for j in range(len(b)):
            if i == j or not same[i][j]:
                total += math.exp(float(a[i] @ b[j]) / temperature)
        losses.append(math.log(total) - float(a[i] @ b[i]) / temperature)
    return exact(losses)


def naive_prototype_nce(emb, centroids, concentrations, assignments):
    losses = []
    for i in range(len(emb)):
        logits = [float(emb[i] @ centroids[k]) / float(concentrations[k]) for k in range(len(centroids))]
        losses.append(math.log(sum(map(math.exp, logits))) - logits[assignments[i]])
    return exact(losses)


def prototypes(name: str, n: int, k: int) -> SimpleNamespace:
    return SimpleNamespace(
        centroids=unit(f"{name}{k}", k),
        concentrations=inp(f"{name}phi{k}", (k,)).double().abs() * 0.1 + 0.2,
        assignments=(inp(f"{name}a{k}", (n,)).abs() * 1000).long() % k,
    )


@settings(deadline=None, max_examples=10)
@given(st.integers(2, 7), st.integers(1, 4), st.floats(0.1, 2))
def test_info_nce_is_the_naive_loop(n, num_videos, temperature):
    a, b = unit("a", n), unit("b", n)
    videos = torch.arange(n) % num_videos
    same = videos[:, None] == videos
    expected = naive_info_nce(a, b, temperature, same.tolist())
    torch.testing.assert_close(info_nce(a, b, temperature, same), expected, rtol=EXACT, atol=EXACT)


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(7)))
def test_info_nce_follows_a_permutation(order):
    a, b = unit("a", 7), unit("b", 7)
    torch.testing.assert_close(info_nce(a[order], b[order], 0.1), info_nce(a, b, 0.1)[order], rtol=EXACT, atol=EXACT)


def test_info_nce_of_constant_embeddings_is_chance():
    a = unit("a", 1).expand(6, -1)
    torch.testing.assert_close(info_nce(a, a, 0.03), torch.full((6,), math.log(6), dtype=torch.float64))


def test_rows_of_one_video_are_no_negatives():
    a, b = unit("a", 5), unit("b", 5)
    loss = info_nce(a, b, 0.03, torch.ones(5, 5, dtype=torch.bool))
    torch.testing.assert_close(loss, torch.zeros(5, dtype=torch.float64))


def test_prototype_nce_is_the_naive_loop():
    emb, p = unit("a", 6), prototypes("p", 6, 4)
    arguments = emb, p.centroids, p.concentrations, p.assignments
    torch.testing.assert_close(prototype_nce(*arguments), naive_prototype_nce(*arguments), rtol=EXACT, atol=EXACT)


def test_recalibration_is_the_normal_cdf():
    rho = inp("rho", (11,)).double()
    mean, std = float(rho.mean()), float(rho.std(correction=0))
    mu, sigma = mean - std, math.sqrt(0.1) * std
    expected = [0.5 * (1 + math.erf((float(r) - mu) / sigma / math.sqrt(2))) for r in rho]
    torch.testing.assert_close(recalibration_weights(rho), exact(expected), rtol=EXACT, atol=EXACT)


def test_recalibration_of_equal_pairs_is_equal():
    weights = recalibration_weights(torch.full((5,), 0.3))
    assert torch.isfinite(weights).all() and weights.std() < 1e-6


def test_cmpc_loss_is_the_weighted_mean_of_its_parts():
    n, voice, face = 6, unit("v", 6), unit("f", 6)
    pv, pf = ([prototypes(side, n, k) for k in (3, 5)] for side in "vf")
    loss = naive_info_nce(voice, face, 0.3, np.eye(n)) + naive_info_nce(face, voice, 0.3, np.eye(n))
    rho = (voice * face).sum(1)
    for v, f in zip(pv, pf, strict=True):
        loss = loss + naive_prototype_nce(voice, f.centroids, f.concentrations, f.assignments) / 2
        loss = loss + naive_prototype_nce(face, v.centroids, v.concentrations, v.assignments) / 2
        rho = rho - (v.centroids[v.assignments] * f.centroids[f.assignments]).sum(1) / 2
    weights = recalibration_weights(rho)
    expected = sum(float(w) * float(x) for w, x in zip(weights, loss, strict=True)) / float(weights.sum())
    assert cmpc_loss(voice, face, pv, pf, temperature=0.3).item() == pytest.approx(expected, rel=EXACT)


def test_no_gradient_flows_through_the_weights():
    voice = unit("v", 6).requires_grad_()
    face, p = unit("f", 6), [prototypes("p", 6, 3)]
    cmpc_loss(voice, face, p, p, temperature=0.3, prototype_weight=0.0).backward()
    weights = recalibration_weights((voice * face).sum(1).detach() - (p[0].centroids[p[0].assignments] ** 2).sum(1))
    expected = voice.detach().clone().requires_grad_()
    instance = info_nce(expected, face, 0.3) + info_nce(face, expected, 0.3)
    ((weights * instance).sum() / weights.sum()).backward()
    torch.testing.assert_close(voice.grad, expected.grad)


@pytest.mark.parametrize("recalibration", [True, False])
def test_recalibration_is_a_switch(recalibration):
    voice, face = unit("v", 6), unit("f", 6)
    pv, pf = [prototypes("sv", 6, 3)], [prototypes("sf", 6, 3)]
    each = naive_info_nce(voice, face, 0.3, np.eye(6)) + naive_info_nce(face, voice, 0.3, np.eye(6))
    each = each + naive_prototype_nce(voice, pf[0].centroids, pf[0].concentrations, pf[0].assignments)
    each = each + naive_prototype_nce(face, pv[0].centroids, pv[0].concentrations, pv[0].assignments)
    loss = cmpc_loss(voice, face, pv, pf, temperature=0.3, recalibration=recalibration).item()
    assert (loss == pytest.approx(float(each.mean()), rel=EXACT)) != recalibration


def naive_prototype_nce_reference(emb, granularities):
    """One sample and one granularity after the other, as the authors' criterion goes about it."""
    losses = []
    for i in range(len(emb)):
        total = 0.0
        for p in granularities:
            centers = [p.centroids[int(a)] / p.centroids[int(a)].norm() for a in p.assignments]
            order = [i, *(j for j in range(len(emb)) if j != i)]  # its own prototype comes to the front ...
            phi = [float(p.concentrations[int(a)]) for a in p.assignments]  # ... and concentrations stay in their order
            logits = [float(emb[i] @ centers[j]) / phi[column] for column, j in enumerate(order)]
            total = (total + math.log(sum(map(math.exp, logits))) - logits[0]) / 4
        losses.append(total)
    return exact(losses)


def test_reference_prototype_nce_is_the_naive_loop():
    emb = unit("a", 6)
    p = [prototypes(f"r{k}", 6, k) for k in (3, 4)]
    for x in p:
        x.centroids = 2 * x.centroids  # need not have unit norm
    expected = naive_prototype_nce_reference(emb, p)
    torch.testing.assert_close(prototype_nce_reference(emb, p), expected, rtol=EXACT, atol=EXACT)


def test_reference_weights_are_a_sum_over_the_sorted_batch():
    rho = inp("rho", (9,)).double()
    mean, std = float(rho.mean()), float(rho.std(correction=0))
    density = [math.exp(-((float(r) - mean + std) ** 2) / (0.2 * std**2)) for r in rho]
    expected = [sum(d for d, q in zip(density, rho, strict=True) if q <= r) / sum(density) for r in rho]
    torch.testing.assert_close(cumulative_weights(rho), exact(expected), rtol=EXACT, atol=EXACT)


@pytest.fixture
def golden(golden_dir):
    """The stored inputs and terms of the authors' criterion, and its prototypes by side."""
    with np.load(golden_dir / "cmpc_loss_reference.npz") as file:
        tensors = {name: torch.from_numpy(file[name]) for name in file.files}
    tensors = {name: value.double() if value.is_floating_point() else value for name, value in tensors.items()}
    sides = [
        [
            SimpleNamespace(
                centroids=tensors[f"{side}_centroids_{k}"],
                concentrations=tensors[f"{side}_density_{k}"],
                assignments=tensors[f"{side}_inst2cluster_{k}"][tensors["index"]],
            )
            for k in (5, 10, 15)
        ]
        for side in ("voice", "face")
    ]
    return tensors, sides


def test_reference_variant_gives_the_golden_totals(golden):
    tensors, sides = golden
    embeddings = tensors["voice_emb"], tensors["face_emb"]
    assert cmpc_loss_reference(*embeddings, *sides).item() == pytest.approx(float(tensors["total"]), rel=1e-5)
    expected = float(tensors["total_without_prototypes"])
    assert cmpc_loss_reference(*embeddings).item() == pytest.approx(expected, rel=1e-5)


def test_reference_variant_gives_each_golden_term(golden):
    tensors, (voice_prototypes, face_prototypes) = golden
    voice, face = (F.normalize(tensors[name], dim=1) for name in ("voice_emb", "face_emb"))
    terms = {
        "instance_v2f": info_nce(voice, face, 0.03),
        "instance_f2v": info_nce(face, voice, 0.03),
        "prototype_v2f": prototype_nce_reference(voice, face_prototypes),
        "prototype_f2v": prototype_nce_reference(face, voice_prototypes),
    }
    for name, term in terms.items():
        torch.testing.assert_close(term, tensors[name], rtol=1e-4, atol=1e-5, msg=lambda text, name=name: name + text)
