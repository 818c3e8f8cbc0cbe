"""The objective of cross-modal prototype contrastive learning (CMPC; Zhu et al., IJCAI 2022, sections 3.2 to 3.4).

Embeddings have unit norm; a loss comes back per sample, so that samples can be weighted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Prototypes(Protocol):
    """The prototypes of one modality at one granularity, and where the rows of a batch belong."""

    @property
    def centroids(self) -> Tensor: ...  # (K, D) unit norm
    @property
    def concentrations(self) -> Tensor: ...  # (K,)
    @property
    def assignments(self) -> Tensor: ...  # (N,) of the batch


def info_nce(a: Tensor, b: Tensor, temperature: float, same: Tensor | None = None) -> Tensor:
    """(N,) cross entropy of finding b[i] from a[i] among all of `b`: one direction.

    Args:
        a: (N, D) unit norm, the anchors
        b: (N, D) unit norm, b[i] is the positive of a[i]
        temperature: divides the cosine
        same: (N, N) bool, True where rows i and j come from the same video or identity: such rows are no negatives
    """
    logits = a @ b.T / temperature
    if same is not None:
        others = same & ~torch.eye(len(a), dtype=torch.bool, device=a.device)
        logits = logits.masked_fill(others, -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(a), device=a.device), reduction="none")


def prototype_nce(emb: Tensor, centroids: Tensor, concentrations: Tensor, assignments: Tensor) -> Tensor:
    """(N,) cross entropy of finding each row's prototype among all prototypes of the *other* modality.

    Args:
        emb: (N, D) unit norm
        centroids: (K, D) unit norm, of the other modality
        concentrations: (K,) the temperature of each prototype
        assignments: (N,) the prototype that the row's partner belongs to
    """
    return F.cross_entropy(emb @ centroids.T / concentrations, assignments, reduction="none")


def recalibration_weights(rho: Tensor, delta: float = -1.0, kappa: float = 0.1) -> Tensor:
    """(N,) weights in (0, 1): low for pairs that agree less than their prototypes do (likely false positives).

    The normal CDF of (rho - mu) / sigma with mu = mean + delta * std and sigma = sqrt(kappa) * std over the batch;
    delta = -1, kappa = 0.1 in the paper (section 3.4). Where all rho are equal, all weights are.
    """
    std = rho.std(correction=0).clamp_min(1e-6)
    return torch.special.ndtr(((rho - rho.mean()) / std - delta) / kappa**0.5)


def cmpc_loss(
    voice_emb: Tensor,
    face_emb: Tensor,
    voice_prototypes: Sequence[Prototypes] = (),
    face_prototypes: Sequence[Prototypes] = (),
    *,
    temperature: float = 0.03,
    same: Tensor | None = None,
    prototype_weight: float = 1.0,
    recalibration: bool = True,
) -> Tensor:
    """The scalar loss: instance and prototype contrast in both directions, as a mean under recalibration weights.

    Without prototypes (before the first clustering) all weights are one: the authors' CID baseline.

    Args:
        voice_emb: (N, D) unit norm
        face_emb: (N, D) unit norm, of the same videos
        voice_prototypes: one a granularity (in the paper K = 500, 1000, 1500), from the voice memory bank
        face_prototypes: the same granularities, from the face memory bank
        temperature: of the instance contrast (0.03)
        same: (N, N) bool, rows of the same video or identity
        prototype_weight: of the prototype terms; 1 in the paper
        recalibration: weight the samples by `recalibration_weights`; False: all alike
    """
    loss = info_nce(voice_emb, face_emb, temperature, same) + info_nce(face_emb, voice_emb, temperature, same)
    if not voice_prototypes:
        return loss.mean()
    pairs = list(zip(voice_prototypes, face_prototypes, strict=True))
    for voice, face in pairs:
        to_face = prototype_nce(voice_emb, face.centroids, face.concentrations, face.assignments)
        to_voice = prototype_nce(face_emb, voice.centroids, voice.concentrations, voice.assignments)
        loss = loss + prototype_weight / len(pairs) * (to_face + to_voice)
    if not recalibration:
        return loss.mean()
    weights = recalibration_weights(_agreement(voice_emb, face_emb, pairs))
    return (weights * loss).sum() / weights.sum()


@torch.no_grad()
def _agreement(voice_emb: Tensor, face_emb: Tensor, pairs: Sequence[tuple[Prototypes, Prototypes]]) -> Tensor:
    """(N,) rho: the similarity of a pair less the mean similarity of its two prototypes."""
    return (voice_emb * face_emb).sum(1) - _prototype_similarity(pairs).mean(0)


def _prototype_similarity(pairs: Sequence[tuple[Prototypes, Prototypes]]) -> Tensor:
    """(R, N) dot product of each row's two centroids at each granularity."""
    return torch.stack([(v.centroids[v.assignments] * f.centroids[f.assignments]).sum(1) for v, f in pairs])


NUM_CLUSTER_FIELDS = 4  # entries of the reference's dict of cluster results, by which it divides at every granularity


def cmpc_loss_reference(
    voice_emb: Tensor,
    face_emb: Tensor,
    voice_prototypes: Sequence[Prototypes] = (),
    face_prototypes: Sequence[Prototypes] = (),
    *,
    temperature: float = 0.03,
) -> Tensor:
    """The scalar loss as the authors' code computes it, which departs from their paper in five ways.

    Only the prototypes of the batch are negatives, the row's own among them; concentrations go by column after the
    positive was moved to the front; granularities weigh 1/64, 1/16 and 1/4; rho takes off the sum over granularities,
    of centroids that need not have unit norm; and the weight is a cumulative sum of the normal density over the sorted
    batch. Arguments as in `cmpc_loss`, embeddings of any norm.

    Source: Cocoxili/CMPC, `experiments/cmpc/criterions/cmpc.py`.
    """
    voice_emb, face_emb = F.normalize(voice_emb, dim=1), F.normalize(face_emb, dim=1)
    loss = info_nce(voice_emb, face_emb, temperature) + info_nce(face_emb, voice_emb, temperature)
    if not voice_prototypes:
        return loss.mean()
    loss = (
        loss + prototype_nce_reference(voice_emb, face_prototypes) + prototype_nce_reference(face_emb, voice_prototypes)
    )
    pairs = list(zip(voice_prototypes, face_prototypes, strict=True))
    rho = (voice_emb * face_emb).sum(1) - _prototype_similarity(pairs).sum(0)
    weights = cumulative_weights(rho.detach())
    return (weights * loss).sum() / weights.sum()


def prototype_nce_reference(emb: Tensor, prototypes: Sequence[Prototypes]) -> Tensor:
    """(N,) the prototype term of one direction in `cmpc_loss_reference`.

    Args:
        emb: (N, D) unit norm
        prototypes: of the *other* modality, one a granularity, coarsest first as the weights depend on the order
    """
    rows = torch.arange(len(emb), device=emb.device)
    others = rows.expand(len(emb), -1)[rows[:, None] != rows].view(len(emb), -1)
    positive_first = torch.cat([rows[:, None], others], dim=1)
    loss = torch.zeros(len(emb), device=emb.device)
    for p in prototypes:
        logits = (emb @ F.normalize(p.centroids[p.assignments], dim=1).T).gather(1, positive_first)
        loss = loss + F.cross_entropy(
            logits / p.concentrations[p.assignments], torch.zeros_like(rows), reduction="none"
        )
        loss = loss / NUM_CLUSTER_FIELDS
    return loss


def cumulative_weights(rho: Tensor, delta: float = -1.0, kappa: float = 0.1) -> Tensor:
    """(N,) the weights of `cmpc_loss_reference` in (0, 1]: they rise with the rank of rho, whatever its value."""
    std = rho.std(correction=0)
    values, order = rho.sort()
    density = torch.exp(-((values - rho.mean() - delta * std) ** 2) / (2 * kappa * std**2))
    return torch.empty_like(rho).scatter_(0, order, density.cumsum(0) / density.sum())
