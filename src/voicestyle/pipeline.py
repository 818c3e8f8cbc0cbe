"""A voice clip to a face: the whole method behind one object."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from voicestyle import __version__
from voicestyle.align import Picture, face_region, in_frame
from voicestyle.audio import voice_input
from voicestyle.checkpoint import Model, load_model
from voicestyle.config import GuidanceConfig
from voicestyle.convert.efficientnet import read_efficientnet
from voicestyle.convert.lpips import find_backbone, read_lpips
from voicestyle.embedded import EMBEDDED
from voicestyle.generation import Generation, whose
from voicestyle.guidance import guide
from voicestyle.inversion import LinearInverter, Perceptual, Region, Start, identity_features, invert
from voicestyle.latent import Callback, LatentResult
from voicestyle.likely import LikelyInverter
from voicestyle.nn.stylegan2 import Generator
from voicestyle.prototypes import MemberOrder, Nearest, PrototypeBank
from voicestyle.sampling import further_start, random_latents, undetermined
from voicestyle.speech import warn_unless_speech

DISCLAIMER = "AI-generated: one of many faces that fit the voice. It is not the speaker's face and identifies nobody."

PerceptualChoice = Literal["auto", "lpips", "efficientnet", "pixel"]

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
        place = torch.device(device or ("cuda" if has_gpu else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"device {device!r}: {error}") from None
    if place.type == "cuda" and not has_gpu:
        raise ValueError(f"device {str(place)!r}: no CUDA device is available here; use 'cpu'")
    return VoiceStyle(load_model(name_or_folder, place), place, dtype)


class VoiceStyle:
    """An encoder of voices and faces, a generator of faces, and prototypes that lead from one to the other."""

    def __init__(self, model: Model, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.model = model
        self.config = model.config
        self.encoder = model.encoder
        self.device = device
        self.dtype = dtype
        self._looks: dict[str, Perceptual] = {}  # by name, read when first asked for

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
        return self.generate_from(self.encode_voice(clip, sample_rate, vad), settings, seed, num_faces, callback)

    def generate_from(
        self,
        voice_emb: Tensor,  # (1,D) unit norm
        settings: GuidanceConfig | None = None,
        seed: int = 0,
        num_faces: int = 1,
        callback: Callback | None = None,
    ) -> Generation:
        """Faces that fit a voice whose embedding is known: what `generate` does after its first step."""
        settings = settings or self.config.guidance
        voice_emb = voice_emb.to(self.device)
        nearest = self._nearest(voice_emb, settings)
        w_init = self.initial_latents(voice_emb, nearest, num_faces, seed, settings)
        result, path = self.guide(voice_emb, w_init, settings, seed, callback)
        return self._made(voice_emb, nearest, w_init, result, path, seed, settings)

    def generate_together(
        self,
        voice_emb: Tensor,  # (N,D) unit norm
        settings: GuidanceConfig | None = None,
        seed: int = 0,
        callback: Callback | None = None,
    ) -> list[Generation]:
        """The face of each of several voices, guided together: those that `generate_from` finds one by one."""
        settings = settings or self.config.guidance
        voices = voice_emb.to(self.device).split(1)
        nearest = [self._nearest(voice, settings) for voice in voices]
        starts = [self.initial_latents(voice, n, 1, seed, settings) for voice, n in zip(voices, nearest, strict=True)]
        result, path = self.guide(torch.cat(voices), torch.cat(starts), settings, seed, callback)
        return [
            self._made(voice, nearest[i], starts[i], result.sample(i), path[:, i : i + 1], seed, settings)
            for i, voice in enumerate(voices)
        ]

    def _nearest(self, voice_emb: Tensor, settings: GuidanceConfig) -> Nearest:
        return self.nearest_prototypes(voice_emb, settings.k, settings.num_members, settings.member_order)

    def _made(
        self,
        voice_emb: Tensor,
        nearest: Nearest,
        w_init: Tensor,
        result: LatentResult,
        path: Tensor,
        seed: int,
        settings: GuidanceConfig,
    ) -> Generation:
        image = self.synthesize(result.w, result.noise)
        similarity = self.similarity(voice_emb, self.encode_face(image))[0]
        return Generation(
            image=image,
            w=result.w,
            similarity=similarity,
            percentile=self.percentile(similarity),
            prototypes=nearest,
            history=result.history,
            voice_emb=voice_emb,
            w_init=w_init,
            path=path,
            noise=result.noise,
            seed=seed,
            settings=settings,
            settings_name=whose(settings, self.config.guidance),
            evidence=self.describe(nearest),
            provenance=self.metadata(),
        )

    @torch.no_grad()
    def encode_voice(
        self, clip: str | Path | Tensor | np.ndarray, sample_rate: int | None = None, vad: bool | None = None
    ) -> Tensor:
        """Unit embedding (1,D) of a recording, or of a waveform (num_samples,) at `sample_rate` Hz."""
        log_mel = voice_input(
            clip, self.config.encoder.log_mel, sample_rate=sample_rate, vad=vad, listen=warn_unless_speech
        )
        return self.encoder.encode_voice(log_mel.to(self.device))

    @torch.no_grad()
    def encode_face(self, face: Picture, align: bool = False) -> Tensor:
        """Unit embeddings (N,D) of pictures in the canonical frame; `align` brings a photograph there first."""
        images = in_frame(face, align=align).to(self.device)
        return torch.cat([self.encoder.encode_face(part) for part in images.split(BATCH)])

    def similarity(self, voice_emb: Tensor, face_emb: Tensor) -> Tensor:
        """Cosines (N,M) of N voices and M faces, in [-1,1]."""
        return voice_emb @ face_emb.T

    def percentile(self, similarity: Tensor) -> list[float] | None:
        """The share in [0,1] of random pairs of a voice and a face that are less similar, of each of (N,) cosines.

        None for a model that does not know it. A guided face lies near 1: guidance maximizes what it is judged by.
        """
        share = self.encoder.percentile(similarity)
        return None if share is None else share.tolist()

    def nearest_prototypes(
        self,
        voice_emb: Tensor,
        k: int | None = None,  # this and the next: the model's own setting where None
        num_members: int | None = None,
        member_order: MemberOrder = "similarity",
    ) -> Nearest:
        """The k prototypes nearest to a voice (1,D), and their members, nearest first."""
        own = self.config.guidance
        num_members = own.num_members if num_members is None else num_members
        return self.bank.nearest(voice_emb, own.k if k is None else k, num_members, member_order)

    def initial_latents(
        self,
        voice_emb: Tensor,
        nearest: Nearest,
        num_faces: int = 1,
        seed: int = 0,
        settings: GuidanceConfig | None = None,
    ) -> Tensor:
        """Where guidance starts, (num_faces,w_dim): the mean latent of the nearest members, then others around it.

        Further ones differ from it as members do whose similarity to the voice is the same; `sampling.further_start`.
        """
        settings = settings or self.config.guidance
        member_w = self.bank.latents.to(self.device)
        starts = [member_w[nearest.members].mean(0)]
        if num_faces > 1:
            deviations = undetermined(member_w, self.bank.embeddings.to(voice_emb) @ voice_emb.T)
            fit = partial(self._fit, voice_emb)
            for face in range(1, num_faces):
                # of the voice too: several men must not all get the same further faces
                rng = np.random.default_rng([seed, face, int(nearest.members[0])])
                starts.append(further_start(starts[0], deviations, fit, rng, settings.diversity))
        return self.generator.truncate(torch.stack(starts), settings.truncation_psi)

    def _fit(self, voice_emb: Tensor, w: Tensor) -> Tensor:
        """How similar to a voice (1,D) the faces of latents (N,w_dim) are, (N,)."""
        return self.similarity(voice_emb, self.encode_face(self.synthesize(w)))[0]

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
        if settings.fast:
            return self._mapped(voice_emb, w_init), w_init[None]
        result = guide(
            self.generator, self.encoder, voice_emb, w_init, settings, seed, callback=observe, dtype=self.dtype
        )
        return result, torch.stack([*path, result.w])[:-1]

    @torch.no_grad()
    def _mapped(self, voice_emb: Tensor, w_init: Tensor) -> LatentResult:
        """What the mapper makes of a start: guidance in one pass, whose loss nobody looked at."""
        mapper = self.model.needed(self.model.mapper, "mapper", "`voicestyle models distill` adds one")
        return LatentResult(mapper(voice_emb, w_init), torch.full((len(w_init),), torch.nan), [])

    @torch.no_grad()
    def synthesize(self, w: Tensor, noise: list[Tensor] | None = None) -> Tensor:
        """Pictures (N,3,size,size), about [-1,1], of latents (N,w_dim) or (N,num_ws,w_dim); always in float32.

        Noise maps (N,1,r,r) or (1,1,r,r), one a layer, take the place of the generator's own.
        """
        parts = w.to(self.generator.w_avg).split(BATCH)
        if noise is None:
            return torch.cat([self.generator.synthesis(part) for part in parts])
        maps = zip(*(m.expand(len(w), -1, -1, -1).split(BATCH) for m in noise), strict=True)
        return torch.cat([self.generator.synthesis(p, noise=list(m)) for p, m in zip(parts, maps, strict=True)])

    def sample(
        self,
        num: int,
        seed: int = 0,
        truncation_psi: float = 1.0,
        progress: Callable[[int], Any] = lambda num_faces: None,  # told how many more are made
    ) -> Tensor:
        """Random faces (num,3,size,size), of no voice; a face does not depend on how many are asked for."""
        made = []
        for w in random_latents(self.generator, num, seed, truncation_psi).split(BATCH):
            made.append(self.synthesize(w))
            progress(len(w))
        return torch.cat(made)

    # --------------------------------------------------------------------------------------------- pictures to latents

    def invert(
        self,
        images: Picture | Sequence[Picture],
        space: Literal["w", "w_plus"] = "w",
        *,
        align: bool = False,
        region: Region | None = None,  # where the look counts; None: the face of an aligned photograph, else all
        start: Start | None = None,  # None: see `default_start`
        perceptual: PerceptualChoice = "auto",  # see `VoiceStyle.perceptual`
        **settings: Any,
    ) -> LatentResult:
        """The latents whose pictures come nearest to `images`; further settings are those of `inversion.invert`."""
        target = self.aligned(images, align)
        region = region or self.default_region(align)
        look = {"region": face_region(target.shape[-1])} if region == "face" else {}
        w_init = self.estimate(target, start or self.default_start(region))
        settings = {"dtype": self.dtype, "batch": BATCH, "w_init": w_init, **look, **settings}
        identity = identity_features(self.encoder, self.model.identity)
        return invert(self.generator, target, identity, self.perceptual(perceptual), space=space, **settings)

    def aligned(self, images: Picture | Sequence[Picture], align: bool = True) -> Tensor:
        """Pictures (N,3,size,size) in the generator's frame; `align` brings photographs there first."""
        pictures = [images] if isinstance(images, Picture) else images
        return torch.cat([in_frame(p, self.generator.config.size, align) for p in pictures]).to(self.device)

    @staticmethod
    def default_region(align: bool) -> Region:
        """Where the look of a picture counts: in the face, of a photograph that was aligned; else everywhere.

        The scene behind it is not asked for, and a generator that knows none blurs the face to imitate it.
        """
        return "face" if align else "all"

    def default_start(self, region: Region = "all") -> Start:
        """Where an inversion starts: the model's inverter says it, for pictures that count as a whole.

        It is the mean face where there is no inverter, or where it would see more than counts.
        """
        return "w_avg" if self.model.inverter is None or region != "all" else "inverter"

    @torch.no_grad()
    def estimate(self, images: Tensor, start: Start | None = None) -> Tensor:
        """Latents (N,w_dim) of pictures (N,3,size,size) without a search: where an inversion starts."""
        start = start or self.default_start()
        if start == "w_avg":
            return self.generator.w_avg.expand(len(images), -1)
        return torch.cat([self._estimator(start)(part) for part in images.split(BATCH)])

    def _estimator(self, start: Start) -> Callable[[Tensor], Tensor]:
        """What says where an inversion starts, if not at the mean face."""
        if start == "inverter":
            return self.model.needed_inverter
        return self._linear if start == "linear" else self._likely

    @cached_property
    def _linear(self) -> LinearInverter:
        return LinearInverter.learn(self.generator)

    @cached_property
    def _likely(self) -> LikelyInverter:
        return LikelyInverter.learn(self.generator, identity_features(self.encoder, self.model.identity))

    def perceptual(self, choice: PerceptualChoice = "auto") -> Perceptual | None:
        """LPIPS, EfficientNet-Lite1's features, or None where pixels at several scales take their place.

        "auto" is LPIPS where its VGG16 is found, and pixels otherwise.

        Raises:
            FileNotFoundError: "lpips" is asked for, and torchvision's VGG16 is not on this machine
            ImportError: "efficientnet" is asked for, and the extra ``perceptual`` is not installed
        """
        if choice == "auto":
            choice = "lpips" if find_backbone() else "pixel"
        if choice == "pixel":
            return None
        if choice not in self._looks:
            network = read_lpips() if choice == "lpips" else read_efficientnet()
            self._looks[choice] = network.to(self.device)
        return self._looks[choice]

    # ----------------------------------------------------------------------------------------------------------- parts

    @property
    def generator(self) -> Generator:
        """The generator; a ValueError where the model has none."""
        return self.model.needed_generator

    @property
    def bank(self) -> PrototypeBank:
        """The prototypes; a ValueError where the model has none."""
        remedy = "build its prototypes with `voicestyle prototypes build`"
        return self.model.needed(self.model.bank, "bank", remedy)

    def metadata(self) -> dict[str, str]:
        """What every picture of this model says of itself."""
        software = f"voicestyle {__version__}"
        return {"AI-generated": DISCLAIMER, "Software": software, "model": self.config.name, "version": __version__}

    def describe(self, nearest: Nearest) -> dict[str, Any]:
        """The nearest prototypes and their members as plain JSON-ready values."""
        keys, homes = self.bank.member_keys, self.bank.assignments
        prototypes = zip(nearest.prototypes.tolist(), nearest.similarities.tolist(), strict=True)
        percentiles = self.percentile(nearest.member_similarities) or repeat(None, len(nearest.members))
        members = zip(nearest.members.tolist(), nearest.member_similarities.tolist(), percentiles, strict=True)
        return {
            "prototypes": [{"prototype": i, "similarity": similarity} for i, similarity in prototypes],
            "members": [
                {"member": keys[i], "prototype": int(homes[i]), "similarity": similarity, "percentile": percentile}
                for i, similarity, percentile in members
            ],
        }


def _settings(config: GuidanceConfig, k: int | None, steps: int | None, seed: int, num_faces: int) -> GuidanceConfig:
    """The guidance settings with the caller's, checked."""
    for name, value, least in (("seed", seed, 0), ("num_faces", num_faces, 1)):
        if value < least:
            raise ValueError(f"{name}: got {value}, expected at least {least}")
    return dataclasses.replace(config, k=config.k if k is None else k, steps=config.steps if steps is None else steps)
