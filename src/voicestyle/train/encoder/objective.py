"""The objective of a training with its memory: a bank of past embeddings, and the prototypes found in it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from voicestyle.clustering import Clusters, kmeans
from voicestyle.losses import cmpc_loss, cmpc_loss_reference
from voicestyle.schema import SettingError
from voicestyle.seeds import mixed_rng, mixed_seed
from voicestyle.train.distributed import World
from voicestyle.train.encoder.settings import ObjectiveConfig


class Objective:
    """The loss of a batch of N known videos; the same in all processes, which see the same embeddings.

    Args:
        config: section ``[objective]``
        identities: (N,) of whom each video is
        embed_dim: of the joint space
        seed: of the bank before it has seen anything, and of the clustering
        world: the processes that train together

    Raises:
        ValueError: more prototypes than videos
    """

    def __init__(self, config: ObjectiveConfig, identities: Tensor, embed_dim: int, seed: int, world: World) -> None:
        if (most := max(config.prototypes, default=0)) > len(identities):
            raise SettingError("objective.prototypes", f"got {most}, for {len(identities)} pairs; ask for fewer")
        self.config, self.seed, self.world = config, seed, world
        self.identities = identities.to(world.device)
        noise = torch.randn(2, len(identities), embed_dim, generator=mixed_rng(seed, "memory"))
        self.memory = F.normalize(noise, dim=2).to(world.device)
        self.clusters: list[tuple[Clusters, Clusters]] = []  # voice and face, a pair each granularity

    def loss(self, voice_emb: Tensor, face_emb: Tensor, rows: Tensor) -> Tensor:
        """The scalar loss of unit embeddings (B, D) of the videos `rows` (B,), of all processes."""
        config = self.config
        of_voices = [voice.take(rows) for voice, _ in self.clusters]
        of_faces = [face.take(rows) for _, face in self.clusters]
        if config.variant == "reference":
            return cmpc_loss_reference(voice_emb, face_emb, of_voices, of_faces, temperature=config.temperature)
        identities = self.identities[rows]
        return cmpc_loss(
            voice_emb,
            face_emb,
            of_voices,
            of_faces,
            temperature=config.temperature,
            same=identities[:, None] == identities,
            prototype_weight=config.prototype_weight,
            recalibration=config.recalibration,
        )

    @torch.no_grad()
    def remember(self, embeddings: Tensor, rows: Tensor, steps_done: int) -> None:
        """Blend unit embeddings (2, B, D) into the bank; find the prototypes anew when it is time."""
        momentum = self.config.memory_momentum
        self.memory[:, rows] = F.normalize(momentum * self.memory[:, rows] + (1 - momentum) * embeddings, dim=2)
        if self.config.forget_prototypes:
            self.clusters = []
        since = steps_done - self.config.cluster_after
        if self.config.prototypes and since >= 0 and since % self.config.cluster_every == 0:
            self.clusters = [
                (self._cluster(0, k, steps_done), self._cluster(1, k, steps_done)) for k in self.config.prototypes
            ]

    def _cluster(self, side: int, k: int, steps_done: int) -> Clusters:
        """The prototypes of one bank, as the main process finds them."""
        memory = self.memory[side]
        if self.world.is_main:
            seed = mixed_seed(self.seed, "prototypes", steps_done, side) % 2**31  # what k-means takes
            clusters = kmeans(memory, k, seed, temperature=self.config.temperature)
        else:
            clusters = Clusters(
                memory.new_empty(k, memory.shape[1]),
                torch.empty(len(memory), dtype=torch.int64, device=memory.device),
                memory.new_empty(k),
            )
        self.world.broadcast(clusters.centroids, clusters.assignments, clusters.concentrations)
        return clusters

    def state_dict(self) -> dict[str, Any]:
        """Bank and prototypes."""
        return {"memory": self.memory, "clusters": [[vars(side) for side in pair] for pair in self.clusters]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        device = self.world.device

        def clusters(side: dict[str, Tensor]) -> Clusters:
            return Clusters(**{name: value.to(device) for name, value in side.items()})

        self.memory = state["memory"].to(device)
        self.clusters = [(clusters(voice), clusters(face)) for voice, face in state["clusters"]]
