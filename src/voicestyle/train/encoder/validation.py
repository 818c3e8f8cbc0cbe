"""How well two towers tell whose voice it is, on train identities that were held out, and when to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voicestyle.data.manifest import Item
from voicestyle.metrics import roc_auc, settled
from voicestyle.schema import SettingError
from voicestyle.train.encoder.views import Views, average_windows

CHUNK = 64  # items that go through the networks at a time


def deal_identities(identities: Tensor, num_folds: int, seed: int) -> Tensor:
    """(N,) the fold of each item: its identity's, dealt by the seed.

    Raises:
        ValueError: fewer identities than folds
    """
    num_identities = int(identities.max()) + 1
    if not 2 <= num_folds <= num_identities:
        raise ValueError(f"got {num_folds} folds for {num_identities} identities, expected 2 to {num_identities}")
    rng = torch.Generator().manual_seed(seed)
    return (torch.randperm(num_identities, generator=rng) % num_folds)[identities]


def hold_out(identities: Tensor, fraction: float, seed: int) -> Tensor:
    """(N,) bool: the items of a random `fraction` of the identities, at least two where it is not zero.

    Raises:
        ValueError: nobody would be left
    """
    num_identities = int(identities.max()) + 1
    num_held = max(2, round(fraction * num_identities)) if fraction else 0
    if num_held > num_identities - 2:
        raise SettingError(
            "validation.fraction", f"got {fraction:g}, which leaves no two of {num_identities} identities"
        )
    rng = torch.Generator().manual_seed(seed)
    return (torch.randperm(num_identities, generator=rng) < num_held)[identities]


@torch.no_grad()
def embed(towers: nn.ModuleList, views: Views, are_features: bool, picture: int = 0) -> tuple[Tensor, Tensor]:
    """Unit embeddings (N, D) of the voices and of one picture of each item, by towers in evaluation mode.

    A voice is the direction of its windows' mean: of their features where these are cached, else of their embeddings.
    """
    device = next(towers.parameters()).device
    voices, faces = [], []
    for voice, face in zip(views.voice.split(CHUNK), views.face.split(CHUNK), strict=True):
        voice, face = voice.to(device).float(), face[:, picture].to(device).float()
        if are_features:
            voices.append(F.normalize(towers[0](average_windows(voice, True)), dim=1))
        else:
            windows = F.normalize(towers[0](voice.flatten(0, 1)), dim=1).unflatten(0, voice.shape[:2])
            voices.append(F.normalize(windows.mean(1), dim=1))
        faces.append(F.normalize(towers[1](face), dim=1))
    return torch.cat(voices).cpu(), torch.cat(faces).cpu()


def association_auc(voice_emb: Tensor, face_emb: Tensor, items: Sequence[Item]) -> dict[str, float]:
    """Verification AUC of each voice with its own face against the faces of all others, by stratum.

    ``any`` impostor, and those of the ``same gender`` where genders are known. Other clips of one person are left out.
    """
    scores = settled((voice_emb.double() @ face_emb.double().T).numpy())
    identities = np.array([item.identity for item in items])
    genders = np.array([item.gender for item in items])
    own = np.eye(len(items), dtype=bool)
    impostor = identities[:, None] != identities
    known = (genders != "")[:, None] & (genders[:, None] == genders)
    found = {}
    for name, used in (("any", own | impostor), ("same gender", known & (own | impostor))):
        labels = own[used]
        if labels.any() and not labels.all():
            found[name] = roc_auc(scores[used], labels)
    return found


@dataclass
class BestWeights:
    """The weights with the highest AUC so far, and how long ago they were found."""

    patience: int  # validations without a better one before training stops; 0: never
    auc: float = -1.0
    step: int = 0
    num_worse: int = 0  # validations since
    weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def is_final(self) -> bool:
        """Whether waiting has been in vain for long enough."""
        return bool(self.patience) and self.num_worse >= self.patience

    def offer(self, auc: float, step: int, weights: Callable[[], dict[str, Tensor]]) -> None:
        """Keep a copy of the weights if they are better than those held."""
        if auc > self.auc:
            self.auc, self.step, self.num_worse = auc, step, 0
            self.weights = {name: value.detach().clone() for name, value in weights().items()}
        else:
            self.num_worse += 1

    def state_dict(self) -> dict[str, Any]:
        """Everything but the patience."""
        return {"auc": self.auc, "step": self.step, "num_worse": self.num_worse, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.auc, self.step, self.num_worse, self.weights = (state[n] for n in ("auc", "step", "num_worse", "weights"))
