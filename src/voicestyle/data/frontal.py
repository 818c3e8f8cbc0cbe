"""The pictures of VoxCeleb videos: a frame, and the frontal picture of the same person that is most like it.

Frames lie in ``FACES/NAME/1.6/VIDEO/*.jpg`` (unzippedFaces of VoxCeleb1) and frontal pictures in ``FRONTAL/NAME/*``
(VGG_ALL_FRONTAL). Frames are small, tilted and blurred, and invert badly, so the method projects a frontal picture in
their place. A video is named "NAME/VIDEO", as the members of a converted official memory are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from voicestyle.data.folders import PICTURES, files_in, named_folder
from voicestyle.data.voxceleb import FACE_SCALE
from voicestyle.extras import needed
from voicestyle.image import crop_resize, load_image, open_image

Embed = Callable[[Sequence[Path]], Tensor]  # files -> (N,D)

BATCH = 8  # pictures that are embedded together
CLIP = "ViT-B-32-quickgelu"  # OpenAI's ViT-B/32, which the reference uses, by its name in open_clip
CLIP_HUB = "models--timm--vit_base_patch32_clip_224.openai"  # where open_clip keeps those weights in the hub's cache


def frame_of(faces: Path, key: str) -> Path | None:
    """The middle frame of a video, by name, or None where it has none.

    One frame stands for the video, as in the reference, which takes the first that the file system lists. The first
    ones are often those of a cut.
    """
    name, video = key.split("/", 1)
    frames = files_in(named_folder(faces, name) / FACE_SCALE / video, PICTURES)
    return frames[len(frames) // 2] if frames else None


def frontals_of(frontal: Path, key: str) -> list[Path]:
    """All frontal pictures of the person of a video, by name."""
    return files_in(named_folder(frontal, key.split("/", 1)[0]), PICTURES)


def load_square(path: Path, size: int | None = None) -> Tensor:
    """The middle square of a picture (1,3,S,S) in [-1,1], resampled to `size` pixels where given.

    As the reference prepares pictures: no alignment, bilinear.
    """
    image = load_image(path)
    height, width = image.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image = image[:, :, top : top + side, left : left + side]
    return image if size is None or side == size else crop_resize(image, (0, 0, 1, 1), size)


class MostSimilar:
    """For a frame, the picture among the frontal ones of the same person that is most like it."""

    def __init__(
        self,
        frontal: Path,  # the folder of all people
        embed: Embed,
        metric: str = "cosine",  # or "dot": the product of embeddings as they are, which favors long ones
    ) -> None:
        self.frontal = frontal
        self.embed = embed if metric == "dot" else lambda paths: F.normalize(embed(paths), dim=1)
        self._candidates = lru_cache(maxsize=32)(self._embed_person)  # videos of a person follow each other

    def __call__(self, key: str, frame: Path) -> Path:
        """The frontal picture for this frame of video `key`.

        Raises:
            FileNotFoundError: the person has no frontal pictures
        """
        paths, candidates = self._candidates(key.split("/", 1)[0])
        return paths[int((candidates @ self.embed([frame])[0]).argmax())]

    def _embed_person(self, name: str) -> tuple[list[Path], Tensor]:
        paths = files_in(named_folder(self.frontal, name), PICTURES)
        if not paths:
            raise FileNotFoundError(f"{self.frontal / name}: no frontal pictures of this person")
        return paths, torch.cat([self.embed(paths[i : i + BATCH]) for i in range(0, len(paths), BATCH)])


def face_embedder(encode_face: Callable[[Tensor], Tensor], device: torch.device) -> Embed:
    """Face embeddings of files, by the encoder of the model.

    It has learnt to tell videos apart, with their age, hair and make-up, which is what the pictures of one person
    differ in; a network for identities has learnt to overlook them.
    """

    @torch.no_grad()
    def embed(paths: Sequence[Path]) -> Tensor:
        pictures = [load_square(path).to(device) for path in paths]
        of_one_size = len({picture.shape for picture in pictures}) == 1
        batches = [torch.cat(pictures)] if of_one_size else pictures
        return torch.cat([encode_face(batch) for batch in batches]).float().cpu()

    return embed


def clip_embedder(device: torch.device) -> Embed:
    """CLIP embeddings of files (OpenAI's ViT-B/32, by open_clip). Nothing is downloaded.

    Raises:
        ImportError: open_clip is not installed
        FileNotFoundError: its weights are not on this machine
    """
    open_clip = needed("open_clip", "similarity by CLIP", "or use the similarity 'face'")
    weights = clip_weights()
    model, _, preprocess = open_clip.create_model_and_transforms(CLIP, pretrained=str(weights), device=device)
    model.eval()

    @torch.no_grad()
    def embed(paths: Sequence[Path]) -> Tensor:
        pictures = torch.stack([preprocess(open_image(path)) for path in paths])
        return model.encode_image(pictures.to(device)).float().cpu()

    return embed


def clip_weights() -> Path:
    """The file in which open_clip keeps the weights of CLIP once it has downloaded them.

    Raises:
        FileNotFoundError: they are not there
    """
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    found = sorted((hub / CLIP_HUB).glob("snapshots/*/open_clip_*"))
    if not found:
        raise FileNotFoundError(
            f"{hub / CLIP_HUB}: no weights of CLIP here, and none are downloaded; fetch them once with "
            f"`python -c \"import open_clip; open_clip.create_model('{CLIP}', pretrained='openai')\"`, or use the "
            "similarity 'face'"
        )
    return found[-1]
