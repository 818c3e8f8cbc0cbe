"""A voice clip to a face: the whole method behind one object."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from voicestyle import __version__
from voicestyle.audio import voice_input
from voicestyle.checkpoint import EMBEDDED, Model, load_model
from voicestyle.config import GuidanceConfig
from voicestyle.convert.lpips import find_backbone, read_lpips
from voicestyle.guidance import guide
from voicestyle.image import align_face, contact_sheet, from_pil, open_image, save_png
from voicestyle.inversion import Perceptual, identity_features, invert
from voicestyle.latent import Callback, LatentResult
from voicestyle.prototypes import MemberOrder, Nearest, PrototypeBank

DISCLAIMER = "AI-generated: one of many faces that fit the voice. It is not the speaker's face and identifies nobody."

Picture = str | Path | PIL.Image.Image | Tensor  # a file, a picture, or (N,3,H,W) in [-1,1]

FRAME_SIZE = 224  # pixels of an aligned face before a network takes its part of it
POOL = 4  # further faces are made from this many times the prototypes and members of the first
MEMBERS_OF_FURTHER = 3  # effective number of members in the mean that a further face starts from
BATCH = 8  # pictures that go through a network together


def load(
    name_or_folder: str | Path = EMBEDDED,
    device: str | torch.device | None = None,  # default: the GPU where there is one
    dtype: torch.dtype = torch.float32,  # of the guided steps; bfloat16 pays on hardware that has it
) -> VoiceStyle:
    """A model that is ready to use: the one that comes with the package, or the one in a folder.

    Raises:
        FileNotFoundError: no such model, or one without its encoder
        ValueError: a file of the model is damaged, foreign or belongs to another model; no such device
    """
    has_gpu = torch.cuda.is_available()
    try:
        device = torch.device(device or ("cuda" if has_gpu else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"device {device!r}: {error}") from None
    if device.type == "cuda" and not has_gpu:
        raise ValueError(f"device {str(device)!r}: no CUDA device is available here; use 'cpu'")
    return VoiceStyle(load_model(name_or_folder, device), device, dtype)


class VoiceStyle:
    """An encoder of voices and faces, a generator of faces, and prototypes that lead from one to the other."""

    def __init__(self, model: Model, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.model = model
        self.config = model.config
        self.encoder = model.encoder
        self.device = device
        self.dtype = dtype
        self._lpips: Perceptual | None = None  # read when it is first asked for

    # ------------------------------------------------------------------------------------------------- the five steps

    def generate(
        self,
        clip: str | Path | Tensor | np.ndarray,
        *,
        k: int | None = None,  # nearest prototypes; this and `steps`: as `guidance` has it where None
        steps: int | None = None,
        guidance: GuidanceConfig | None = None,  # default: the model's; `GuidanceConfig.reference()`: the authors' code
        seed: int = 0,
        num_faces: int = 1,
        sample_rate: int | None = None,  # Hz, where `clip` is a waveform
        vad: bool | None = None,  # remove silence first; None: as the model was trained
        callback: Callback | None = None,  # after each guided step: step, image, w, loss
    ) -> Generation:
        """Faces that fit the voice. The first starts from the plain mean of the nearest members' latents.

        The same clip, model and seed give the same faces, and a face does not depend on how many are asked for.

        Raises:
            FileNotFoundError, ValueError: an unusable clip, a setting out of range, a model without generator or bank
        """
        settings = _settings(guidance or self.config.guidance, k, steps, seed, num_faces)
        voice_emb = self.encode_voice(clip, sample_rate, vad)
        nearest = self.nearest_prototypes(voice_emb, settings.k, settings.num_members, settings.member_order)
        w_init = self.initial_latents(voice_emb, nearest, num_faces, seed)
        result, path = self.guide(voice_emb, w_init, settings, seed, callback)
        image = self.synthesize(result.w, result.noise)
        return Generation(
            image=image, w=result.w, similarity=self.similarity(voice_emb, self.encode_face(image))[0],
            prototypes=nearest, history=result.history, voice_emb=voice_emb, w_init=w_init, path=path,
            noise=result.noise, seed=seed, settings=settings, voicestyle=self,
        )  # fmt: skip

    @torch.no_grad()
    def encode_voice(
        self, clip: str | Path | Tensor | np.ndarray, sample_rate: int | None = None, vad: bool | None = None
    ) -> Tensor:
        """Unit embedding (1,D) of a recording, or of a waveform (num_samples,) at `sample_rate` Hz."""
        log_mel = voice_input(clip, self.config.encoder.log_mel, sample_rate=sample_rate, vad=vad)
        return self.encoder.encode_voice(log_mel.to(self.device))

    @torch.no_grad()
    def encode_face(self, face: Picture, align: bool = False) -> Tensor:
        """Unit embeddings (N,D) of pictures in the canonical frame; `align` brings a photograph there first."""
        images = _picture(face, align=align).to(self.device)
        return torch.cat([self.encoder.encode_face(part) for part in images.split(BATCH)])

    def similarity(self, voice_emb: Tensor, face_emb: Tensor) -> Tensor:
        """Cosines (N,M) of N voices and M faces, in [-1,1]."""
        return voice_emb @ face_emb.T

    def nearest_prototypes(
        self,
        voice_emb: Tensor,
        k: int | None = None,  # this and the next: the model's own setting where None
        num_members: int | None = None,
        member_order: MemberOrder = "similarity",
    ) -> Nearest:
        """The k prototypes nearest to a voice (1,D), and their members, nearest first."""
        settings = self.config.guidance
        k = settings.k if k is None else k
        num_members = settings.num_members if num_members is None else num_members
        return self.bank.nearest(voice_emb, k, num_members, member_order)

    def initial_latents(self, voice_emb: Tensor, nearest: Nearest, num_faces: int = 1, seed: int = 0) -> Tensor:
        """Where guidance starts, (num_faces,w_dim): the mean latent of the nearest members, then weighted means.

        Further faces are means of a wider pool under Dirichlet weights, so that they differ in what the voice does not
        say. They are so concentrated that a mean is of about `MEMBERS_OF_FURTHER` members: E[1 / sum of squares].
        """
        member_w = self.bank.latents.to(self.device)
        starts = [member_w[nearest.members].mean(0)]
        if num_faces > 1:
            k = min(POOL * len(nearest.prototypes), len(self.bank.centroids))
            pool = self.nearest_prototypes(voice_emb, k, POOL * self.config.guidance.num_members).members
            num_wanted = MEMBERS_OF_FURTHER
            alpha = (num_wanted - 1) / (len(pool) - num_wanted) if len(pool) > num_wanted else 1.0
            for face in range(1, num_faces):
                weights = np.random.default_rng([seed, face]).dirichlet([alpha] * len(pool))
                starts.append(torch.from_numpy(weights).to(member_w) @ member_w[pool])
        return torch.stack(starts)

    def guide(
        self,
        voice_emb: Tensor,
        w_init: Tensor,
        settings: GuidanceConfig | None = None,
        seed: int = 0,
        callback: Callback | None = None,
    ) -> tuple[LatentResult, Tensor]:
        """The guided latents, and the way there (steps,N,w_dim)."""
        path: list[Tensor] = []

        def observe(step: int, image: Tensor, w: Tensor, loss: Tensor) -> None:
            path.append(w.clone())
            if callback is not None:
                callback(step, image, w, loss)

        settings = settings or self.config.guidance
        result = guide(
            self.generator, self.encoder, voice_emb, w_init, settings, seed, callback=observe, dtype=self.dtype
        )
        return result, torch.stack([*path, result.w])[:-1]

    @torch.no_grad()
    def synthesize(self, w: Tensor, noise: list[Tensor] | None = None) -> Tensor:
        """Pictures (N,3,size,size), about [-1,1], of latents (N,w_dim) or (N,num_ws,w_dim); always in float32.

        Noise maps (N,1,r,r) or (1,1,r,r), one a layer, take the place of the generator's own.
        """
        parts = w.to(self.device, torch.float32).split(BATCH)
        if noise is None:
            return torch.cat([self.generator.synthesis(part) for part in parts])
        maps = zip(*(m.expand(len(w), -1, -1, -1).split(BATCH) for m in noise), strict=True)
        return torch.cat([self.generator.synthesis(p, noise=list(m)) for p, m in zip(parts, maps, strict=True)])

    # --------------------------------------------------------------------------------------------- pictures to latents

    def invert(
        self,
        images: Picture | Sequence[Picture],
        space: Literal["w", "w_plus"] = "w",
        *,
        align: bool = False,
        perceptual: Literal["auto", "lpips", "pixel"] = "auto",  # see `VoiceStyle.perceptual`
        **settings: Any,
    ) -> LatentResult:
        """The latents whose pictures come nearest to `images`; further settings are those of `inversion.invert`."""
        pictures = [images] if isinstance(images, Picture) else images
        size = self.generator.config.size
        target = torch.cat([_picture(picture, size, align) for picture in pictures]).to(self.device)
        settings = {"dtype": self.dtype, "batch": BATCH, **settings}
        identity = identity_features(self.encoder, self.model.identity)
        return invert(self.generator, target, identity, self.perceptual(perceptual), space=space, **settings)

    def perceptual(self, choice: Literal["auto", "lpips", "pixel"] = "auto") -> Perceptual | None:
        """LPIPS, or None where pixels at several scales take its place: on request, and where its VGG16 is not found.

        Raises:
            FileNotFoundError: "lpips" is asked for, and torchvision's VGG16 is not on this machine
        """
        if choice == "pixel" or (choice == "auto" and find_backbone() is None):
            return None
        if self._lpips is None:
            self._lpips = read_lpips().to(self.device)
        return self._lpips

    # ----------------------------------------------------------------------------------------------------------- parts

    @property
    def generator(self) -> Any:
        """The generator; a ValueError where the model has none."""
        return self._part("generator", "add generator.safetensors to its folder")

    @property
    def bank(self) -> PrototypeBank:
        """The prototypes; a ValueError where the model has none."""
        return self._part("bank", "build its prototypes with `voicestyle prototypes build`")

    def _part(self, name: str, remedy: str) -> Any:
        part = getattr(self.model, name)
        if part is None:
            raise ValueError(f"{self.model.folder}: this model has no {name}; {remedy}, or use another model")
        return part

    def metadata(self) -> dict[str, str]:
        """What every picture of this model says of itself."""
        software = f"voicestyle {__version__}"
        return {"AI-generated": DISCLAIMER, "Software": software, "model": self.config.name, "version": __version__}

    def describe(self, nearest: Nearest) -> dict[str, Any]:
        """The nearest prototypes and their members as plain JSON-ready values."""
        prototypes = zip(nearest.prototypes.tolist(), nearest.similarities.tolist(), strict=True)
        members = zip(nearest.members.tolist(), nearest.member_similarities.tolist(), strict=True)
        return {
            "prototypes": [{"prototype": i, "similarity": similarity} for i, similarity in prototypes],
            "members": [
                {
                    "member": self.bank.member_keys[i],
                    "prototype": int(self.bank.assignments[i]),
                    "similarity": similarity,
                }
                for i, similarity in members
            ],
        }

    def prototype_sheet(self, nearest: Nearest) -> PIL.Image.Image:
        """The nearest prototypes and their members, rendered from latents."""
        return contact_sheet(self._prototype_rows(nearest))

    def _prototype_rows(self, nearest: Nearest) -> list[tuple[str, list[tuple[Tensor | None, str]]]]:
        """One row a prototype: the face of its mean latent, then those of its members that are used."""
        bank, members = self.bank, nearest.members.tolist()
        means = torch.stack([bank.latents[bank.assignments == prototype].mean(0) for prototype in nearest.prototypes])
        images = self.synthesize(torch.cat([means, bank.latents[nearest.members]]))
        faces, member_faces = images[: len(means)], images[len(means) :]
        scores = nearest.member_similarities.tolist()
        rows = []
        for row, (prototype, similarity) in enumerate(
            zip(nearest.prototypes.tolist(), nearest.similarities.tolist(), strict=True)
        ):
            size = int((bank.assignments == prototype).sum())
            tiles: list[tuple[Tensor | None, str]] = [(faces[row : row + 1], f"mean of its {size}")]
            tiles += [
                (member_faces[i : i + 1], f"{bank.member_keys[member]}  {scores[i]:.2f}")
                for i, member in enumerate(members)
                if bank.assignments[member] == prototype
            ]
            rows.append((f"prototype {prototype}: similarity {similarity:.2f}", tiles))
        return rows


@dataclass(frozen=True, eq=False)
class Generation:
    """Faces for one voice, and how they came about. N is num_faces; tensors are on the model's device."""

    image: Tensor  # (N,3,size,size), about [-1,1]
    w: Tensor  # (N,w_dim)
    similarity: Tensor  # (N,) cosine of the voice and each face
    prototypes: Nearest
    history: list[dict[str, Any]] = field(repr=False)  # one a guided step: step, lr, loss and similarity of each face
    voice_emb: Tensor = field(repr=False)  # (1,D)
    w_init: Tensor = field(repr=False)  # (N,w_dim) where guidance started
    path: Tensor = field(repr=False)  # (steps,N,w_dim) the latents on the way
    noise: list[Tensor] | None = field(repr=False)  # maps (N,1,r,r) that were found with w; None: the generator's own
    seed: int
    settings: GuidanceConfig = field(repr=False)
    voicestyle: VoiceStyle = field(repr=False)

    @property
    def steps(self) -> int:
        """Guided steps."""
        return self.settings.steps

    @property
    def settings_name(self) -> str:
        """Whose they are, k and steps aside: "reference" (the authors' code), "model" (the model's own) or "custom"."""
        own = self.voicestyle.config.guidance
        is_own = dataclasses.replace(self.settings, k=own.k, steps=own.steps) == own
        return "reference" if self.settings.is_reference else "model" if is_own else "custom"

    def metadata(self, face: int = 0) -> dict[str, str]:
        """What a written picture says of itself."""
        return {
            **self.voicestyle.metadata(),
            "seed": str(self.seed),
            "face": str(face),
            "steps": str(self.steps),
            "settings": self.settings_name,
            "similarity": f"{self.similarity[face].item():.4f}",
        }

    def summary(self) -> dict[str, Any]:
        """The numbers of this generation as plain JSON-ready values."""
        return {
            "similarity": self.similarity.tolist(),
            **self.voicestyle.describe(self.prototypes),
            "model": self.voicestyle.config.name,
            "seed": self.seed,
            "steps": self.steps,
            "settings": self.settings_name,
            "version": __version__,
        }

    def save(self, path: str | Path) -> list[Path]:
        """The PNG files written, each whole or not at all: `path`, or with several faces NAME-1.png, NAME-2.png, ..."""
        path = Path(path)
        paths = [path] if len(self.w) == 1 else [path.with_stem(f"{path.stem}-{i + 1}") for i in range(len(self.w))]
        for face, target in enumerate(paths):
            save_png(self.image[face : face + 1], target, self.metadata(face))
        return paths

    def contact_sheet(self, num_steps: int = 6) -> PIL.Image.Image:
        """The prototypes, then for each face a row: its start, `num_steps` pictures on the way, the result."""
        vs = self.voicestyle
        rows = vs._prototype_rows(self.prototypes)
        marks = np.linspace(0, len(self.path), num_steps + 2).round().astype(int)[1:-1]
        steps = sorted({int(step) for step in marks if 0 < step < len(self.path)})
        for face in range(len(self.w)):
            w = torch.stack([self.w_init[face], *(self.path[step, face] for step in steps), self.w[face]])
            noise = None if self.noise is None else [m[face : face + 1] for m in self.noise]
            images = vs.synthesize(w, noise)
            similarity = vs.similarity(self.voice_emb, vs.encode_face(images))[0].tolist()
            names = ["start", *(f"step {step}" for step in steps), "result"]
            tiles = [(images[i : i + 1], f"{name}  {similarity[i]:.2f}") for i, name in enumerate(names)]
            rows.append((f"face {face + 1}, seed {self.seed}", tiles))
        return contact_sheet(rows)


def _settings(config: GuidanceConfig, k: int | None, steps: int | None, seed: int, num_faces: int) -> GuidanceConfig:
    """The guidance settings with the caller's, checked."""
    for name, value, least in (("seed", seed, 0), ("num_faces", num_faces, 1)):
        if value < least:
            raise ValueError(f"{name}: got {value}, expected at least {least}")
    return dataclasses.replace(config, k=config.k if k is None else k, steps=config.steps if steps is None else steps)


def _picture(picture: Picture, size: int | None = None, align: bool = False) -> Tensor:
    """A picture (N,3,H,W) in the canonical frame, resized to `size` where given."""
    if isinstance(picture, Tensor):
        return picture
    pil, name = (picture, "picture") if isinstance(picture, PIL.Image.Image) else (open_image(picture), str(picture))
    try:
        if align:
            return from_pil(align_face(pil, size or FRAME_SIZE))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if pil.width != pil.height:
        raise ValueError(f"{name}: {pil.width} x {pil.height} px, expected a square aligned face; align it (--align)")
    return from_pil(pil, size)
