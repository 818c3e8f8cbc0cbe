"""The bank of image prototypes: clusters of face embeddings, whose members' latents are found once and kept.

A *catalogue* is a bank that knows its prototypes and who belongs to them, but has no pictures of the members yet: no
face embeddings and no latents. A converted official memory is one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from voicestyle.clustering import kmeans
from voicestyle.files import read_tensors, written_whole

IN_HEADER = ("member_keys", "encoder_fingerprint", "generator_fingerprint")  # fields of a bank that are no tensors
FORMAT = "voicestyle prototypes 1"
REBUILD = "rebuild the bank with `voicestyle prototypes build`"
NO_LATENTS = (
    "this bank has no latents: it only lists which video belongs to which prototype; "
    "`voicestyle prototypes build --model FOLDER --faces unzippedFaces --frontal VGG_ALL_FRONTAL -o OUT` makes them"
)
OPTIONAL = ("member_emb", "member_w", "member_psnr")  # what a catalogue has not

MemberOrder = Literal["similarity", "dataset"]


@dataclass(frozen=True, eq=False)
class Nearest:
    """The prototypes nearest to a voice and their members, best first. Indices are rows of the bank."""

    prototypes: Tensor  # (k,) int64
    similarities: Tensor  # (k,) cosine of voice and centroid, falling
    members: Tensor  # (<= num_members,) int64; one an identity, but for the order of the data set
    member_similarities: Tensor  # (<= num_members,) cosine of voice and member's face


@dataclass(frozen=True, eq=False)
class PrototypeBank:
    """K prototypes and their M members, on the CPU in float32."""

    centroids: Tensor  # (K,D) unit norm
    concentrations: Tensor  # (K,) Li et al., ICLR 2021
    assignments: Tensor  # (M,) int64 in [0,K): the prototype of each member
    member_emb: Tensor | None  # (M,D) unit face embeddings; None in a catalogue
    member_w: Tensor | None  # (M,w_dim) the latents of the members' pictures; None in a catalogue
    member_identity: Tensor  # (M,) int64; members of one person share it
    member_keys: list[str]  # anonymous names, e.g. "m00012"; "NAME/VIDEO" where the members are VoxCeleb videos
    encoder_fingerprint: str  # of the encoder that made the embeddings
    generator_fingerprint: str  # of the generator whose latents they are; "" in a catalogue
    member_psnr: Tensor | None = None  # (M,) dB: how well each latent draws its picture; None: not known

    def __post_init__(self) -> None:
        num_prototypes, num_members = len(self.centroids), len(self.assignments)
        dim = self.centroids.shape[-1]
        expected = {
            "centroids": (num_prototypes, dim),
            "concentrations": (num_prototypes,),
            "assignments": (num_members,),
            "member_emb": (num_members, dim),
            "member_identity": (num_members,),
            "member_psnr": (num_members,),
            "member_w": (num_members, 0 if self.member_w is None else self.member_w.shape[-1]),
        }
        for name, shape in expected.items():
            value = getattr(self, name)
            if value is None and name in OPTIONAL:
                continue
            if (got := tuple(value.shape)) != shape:
                raise ValueError(f"prototype bank: {name} has shape {got}, expected {shape}")
            if not torch.isfinite(value).all():
                raise ValueError(f"prototype bank: {name} has values that are not finite; {REBUILD}")
        if {self.member_emb is None, self.member_w is None, not self.generator_fingerprint} == {True, False}:
            raise ValueError(
                "prototype bank: member_emb, member_w and generator_fingerprint belong together: all, or none "
                f"(a catalogue); {REBUILD}"
            )
        if len(self.member_keys) != num_members:
            raise ValueError(f"prototype bank: got {len(self.member_keys)} member keys for {num_members} members")
        if self.assignments.dtype != torch.int64 or self.member_identity.dtype != torch.int64:
            raise ValueError("prototype bank: assignments and member_identity must be int64")
        if num_prototypes == 0 or not bool(((self.assignments >= 0) & (self.assignments < num_prototypes)).all()):
            raise ValueError(f"prototype bank: assignments reach outside of its {num_prototypes} prototypes")

    @property
    def latents(self) -> Tensor:
        """The latents of the members (M,w_dim); a ValueError where the bank is a catalogue."""
        if self.member_w is None:
            raise ValueError(NO_LATENTS)
        return self.member_w

    @property
    def embeddings(self) -> Tensor:
        """The face embeddings of the members (M,D); a ValueError where the bank is a catalogue."""
        if self.member_emb is None:
            raise ValueError(NO_LATENTS)
        return self.member_emb

    @classmethod
    def build(
        cls,
        face_emb: Tensor,  # (M,D) unit norm
        w: Tensor,  # (M,w_dim)
        identities: Sequence[str] | Sequence[int],  # (M,) who each member is
        k: int,
        seed: int = 0,
        *,
        encoder_fingerprint: str,
        generator_fingerprint: str,
        num_iters: int = 20,  # Lloyd iterations, as CMPC has them
        psnr: Tensor | None = None,  # (M,) dB, of the latents' pictures
    ) -> PrototypeBank:
        """A bank of k prototypes of these faces, with anonymous keys and identities.

        Raises:
            ValueError: more prototypes than faces, or values that are not finite.
        """
        face_emb = F.normalize(face_emb.detach().float().cpu(), dim=1)
        clusters = kmeans(face_emb, k, seed, num_iters)
        people = {person: i for i, person in enumerate(dict.fromkeys(identities))}
        return cls(
            centroids=clusters.centroids,
            concentrations=clusters.concentrations,
            assignments=clusters.assignments.long(),
            member_emb=face_emb,
            member_w=w.detach().float().cpu().contiguous(),
            member_identity=torch.tensor([people[person] for person in identities]),
            member_keys=[f"m{i:05d}" for i in range(len(face_emb))],
            encoder_fingerprint=encoder_fingerprint,
            generator_fingerprint=generator_fingerprint,
            member_psnr=psnr,
        )

    def nearest(
        self, voice_emb: Tensor, k: int = 3, num_members: int = 8, member_order: MemberOrder = "similarity"
    ) -> Nearest:
        """The k prototypes nearest to a voice (1,D), and their members nearest to it, one an identity.

        Members are ranked by their own similarity to the voice, not by their place in the data. With `member_order`
        "dataset" they are the first of the data instead, several of one identity among them, as the reference has it.

        Raises:
            ValueError: k or num_members out of range, an embedding of another size, or a bank that is a catalogue.
        """
        voice_emb = self._query(voice_emb, k, num_members)
        member_emb = self.embeddings
        similarities, prototypes = (self.centroids @ voice_emb).topk(k)
        candidates = torch.cat([self.members_of(int(prototype)) for prototype in prototypes]).sort().values
        similarity = member_emb[candidates] @ voice_emb
        if member_order == "dataset":
            chosen = torch.arange(min(num_members, len(candidates)))
        else:
            order = similarity.argsort(descending=True, stable=True)
            people = self.member_identity[candidates[order]].tolist()
            first = {person: place for place, person in reversed(list(enumerate(people)))}  # the best of each identity
            chosen = order[sorted(first.values())[:num_members]]
        return Nearest(prototypes, similarities, candidates[chosen], similarity[chosen])

    def members_of(self, prototype: int) -> Tensor:
        """The members of a prototype (rows, rising): of millions, no others are looked at."""
        order, first = self._by_prototype
        return order[first[prototype] : first[prototype + 1]]

    @cached_property
    def _by_prototype(self) -> tuple[Tensor, list[int]]:
        """All members, those of a prototype together, and where each prototype's begin."""
        counts = self.assignments.bincount(minlength=len(self.centroids))
        return self.assignments.argsort(stable=True), [0, *counts.cumsum(0).tolist()]

    def subset(self, members: Tensor) -> PrototypeBank:
        """The bank of these members alone (rows, rising); prototypes that are left without members are gone.

        Raises:
            ValueError: no members
        """
        if len(members) == 0:
            raise ValueError("prototype bank: no members are left")
        prototypes, assignments = self.assignments[members].unique(return_inverse=True)
        return replace(
            self,
            centroids=self.centroids[prototypes],
            concentrations=self.concentrations[prototypes],
            assignments=assignments,
            member_emb=None if self.member_emb is None else self.member_emb[members],
            member_w=None if self.member_w is None else self.member_w[members],
            member_psnr=None if self.member_psnr is None else self.member_psnr[members],
            member_identity=self.member_identity[members],
            member_keys=[self.member_keys[i] for i in members.tolist()],
        )

    def _query(self, voice_emb: Tensor, k: int, num_members: int) -> Tensor:
        """The voice as (D,), after a look at the arguments."""
        if not 1 <= k <= len(self.centroids):
            raise ValueError(f"k: got {k}, expected 1 to {len(self.centroids)}, the prototypes of the bank")
        if num_members < 1:
            raise ValueError(f"num_members: got {num_members}, expected at least 1")
        dim = self.centroids.shape[1]
        if tuple(voice_emb.shape) not in ((1, dim), (dim,)):
            raise ValueError(f"voice embedding: got shape {tuple(voice_emb.shape)}, expected (1, {dim})")
        return voice_emb.detach().to(self.centroids).flatten()

    def check(self, encoder_fingerprint: str, generator_fingerprint: str | None, where: str = "prototype bank") -> None:
        """Raise ``ValueError`` unless the bank was built with this encoder and this generator (None: not looked at).

        A catalogue belongs to no generator.
        """
        pairs = {
            "encoder": (self.encoder_fingerprint, encoder_fingerprint),
            "generator": (self.generator_fingerprint, generator_fingerprint),
        }
        for part, (mine, given) in pairs.items():
            if given is not None and mine and mine != given:
                raise ValueError(f"{where}: built with {part} {mine[:12]}, but the model's is {given[:12]}; {REBUILD}")

    def summary(self) -> dict[str, Any]:
        """The bank in numbers, as plain JSON-ready values."""
        return {
            "num_prototypes": len(self.centroids),
            "num_members": len(self.member_keys),
            "num_identities": len(self.member_identity.unique()),
            "has_latents": self.member_w is not None,
            "reconstruction_psnr_db": None
            if self.member_psnr is None
            else {
                name: round(value.item(), 2)
                for name, value in (("mean", self.member_psnr.mean()), ("least", self.member_psnr.min()))
            },
            "members_per_prototype": self.assignments.bincount(minlength=len(self.centroids)).tolist(),
            "encoder_fingerprint": self.encoder_fingerprint,
            "generator_fingerprint": self.generator_fingerprint,
        }

    def save(self, path: str | Path) -> None:
        """Write the bank as one safetensors file with a JSON header, beside and then renamed."""
        path = Path(path)
        values = {f.name: getattr(self, f.name) for f in fields(self) if _is_tensor(f.name)}
        tensors = {name: value.contiguous() for name, value in values.items() if value is not None}
        header = {f.name: getattr(self, f.name) for f in fields(self) if not _is_tensor(f.name)}
        with written_whole(path, durable=True) as beside:
            save_file(tensors, beside, {"voicestyle": json.dumps({"format": FORMAT, **header})})

    @classmethod
    def load(cls, path: str | Path) -> PrototypeBank:
        """The bank that `save` wrote, bit for bit.

        Raises:
            FileNotFoundError: no such file
            ValueError: truncated, not safetensors, or not a prototype bank
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; make it with `voicestyle prototypes build`")
        tensors, header = read_tensors(path)
        names = {f.name for f in fields(cls) if _is_tensor(f.name)}
        is_whole = names - set(OPTIONAL) <= set(tensors) <= names
        is_ours = isinstance(header, dict) and header.pop("format", None) == FORMAT
        if not is_ours or not is_whole or not _is_header(header):
            raise ValueError(f"{path}: not a prototype bank of this version (expected {FORMAT!r}); {REBUILD}")
        try:
            return cls(**{**dict.fromkeys(OPTIONAL), **tensors, **header})
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from None


def is_fingerprint(value: object) -> bool:
    """Whether a value is what `weights.fingerprint` gives."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_header(header: dict[str, Any]) -> bool:
    """Whether a header has the fields of a bank that are no tensors, no other ones, and of their types."""
    if set(header) != set(IN_HEADER):
        return False
    keys = header["member_keys"]
    return (
        isinstance(keys, list)
        and all(isinstance(key, str) for key in keys)
        and is_fingerprint(header["encoder_fingerprint"])
        and (header["generator_fingerprint"] in ("", None) or is_fingerprint(header["generator_fingerprint"]))
    )


def _is_tensor(name: str) -> bool:
    """Whether a field of the bank is a tensor; the others go into the JSON header."""
    return name not in IN_HEADER
