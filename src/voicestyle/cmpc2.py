"""Drop-in for the authors' package `cmpc2`: after `from voicestyle import cmpc2`, code written for it runs unchanged.

Where it says ``import cmpc2`` or ``from cmpc2.memory import getKNearestSamples`` itself, one line before it does:
``import voicestyle.cmpc2; voicestyle.cmpc2.install()``. The modules of the reference are one here.

Signatures, shapes, types and values are those of the reference. Only its faults are not kept:

- an empty prototype, whose centroid is NaN, is never among the nearest (there it ranks first and has no members)
- nothing is written (there `./tmp` is deleted and made anew for each clip), and nothing is printed
- a clip without speech is a ValueError (there a NameError)
- other rates than 16 kHz are resampled and channels averaged (there 8, 32 and 48 kHz pass for 16, stereo is refused)
- pictures are turned upright by their EXIF orientation, and transparency is white (there both are ignored)
- the memory is read on the CPU, and the embedding may lie anywhere (there both must be where the memory was saved)
- files that would run code when they are read, and an index that does not fit the memory, are refused
- `MFCC` begins each clip anew (there with the last sample of the clip before); it has no cepstra, which nothing uses
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import webrtcvad
from PIL import Image
from torch import Tensor, nn

from voicestyle.audio import PRE_EMPHASIS, load_audio, log_mel, remove_silence, sphinx_log_mel
from voicestyle.config import EncoderConfig, LogMelConfig
from voicestyle.convert.cmpc import read_encoder
from voicestyle.convert.memory import read_index, read_memory
from voicestyle.image import from_pil, load_image
from voicestyle.nn.encoder import VoiceFaceEncoder

FRAME_RATE = "1.6"  # the folder between name and video in VoxCeleb1's `unzippedFaces`


class VoiceFaceModel(nn.Module):
    """The two towers under the reference's names: its 432 keys, and raw features, all >= 0, instead of unit vectors."""

    def __init__(self, voice_subnet: nn.Module, face_subnet: nn.Module) -> None:
        super().__init__()
        self.voice_subnet = voice_subnet
        self.face_subnet = face_subnet

    def forward(self, audio: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, 512) of log-mels (N, 1, 64, T) and (M, 512) of pictures (M, 3, H, W)."""
        return self.voice_subnet(audio), self.face_subnet(frame)


class FV_Wrapper(VoiceFaceModel):  # noqa: N801, the reference's name
    """The model without weights, for `load_model`."""

    def __init__(
        self, pretrain: bool, last_dim: int = 512, proj_dim: int = 512, proj: bool = False, test_only: bool = False
    ) -> None:
        if pretrain or last_dim != 512:
            raise ValueError(f"pretrain {pretrain}, last_dim {last_dim}: expected False and 512, as the weights are")
        encoder = VoiceFaceEncoder(EncoderConfig.cmpc(256))
        super().__init__(encoder.voice_backbone, encoder.face_backbone)


def load_model(model: VoiceFaceModel, path: str | Path) -> VoiceFaceModel:
    """`model` with the weights of an official checkpoint; raises as `load` does."""
    model.load_state_dict(load(path).state_dict())
    return model


def load(path: str | Path) -> VoiceFaceModel:
    """The model of an official checkpoint, on the CPU and, as the reference has it, in training mode: call `eval()`.

    Raises:
        FileNotFoundError, ValueError: see `convert.cmpc.read_encoder`
    """
    encoder = read_encoder(path, 256)  # the towers of 224 px have the same layout
    return VoiceFaceModel(encoder.voice_backbone, encoder.face_backbone).train()


def audio_preprocess(valid_level: int = 2, min_time: int = 800) -> Callable[[str | Path], Tensor]:
    """What turns a recording into the voice network's input (1, 64, T) float32, T >= `min_time`.

    Args:
        valid_level: aggressiveness of WebRTC's voice activity detector, 0 to 3; the weights were trained with 2
        min_time: frames of 10 ms; shorter clips are repeated up to it, longer ones are not cut
    """
    if valid_level not in range(4):
        raise ValueError(f"valid_level: got {valid_level}, expected 0 to 3; the weights were trained with 2")
    spectra = MFCC(nfilt=64, lowerf=20.0, upperf=7200.0, nfft=1024, wlen=0.025)

    def wav_to_log_mel(wav_file: str | Path) -> Tensor:
        return torch.from_numpy(get_fbank(wav_file, webrtcvad.Vad(valid_level), spectra, min_time))

    return wav_to_log_mel


class MFCC:
    """Log mel spectra as CMU Sphinx has them, of 16-bit samples.

    Args:
        nfilt: bands from `lowerf` to `upperf` Hz
        samprate: Hz
        frate: frames a second
        wlen: seconds of a frame
        nfft: samples
    """

    def __init__(
        self,
        nfilt: int = 40,
        ncep: int = 13,
        lowerf: float = 133.3333,
        upperf: float = 6855.4976,
        alpha: float = PRE_EMPHASIS,
        samprate: int = 16000,
        frate: int = 100,
        wlen: float = 0.0256,
        nfft: int = 512,
    ) -> None:
        if alpha != PRE_EMPHASIS or samprate % frate:
            raise ValueError(f"alpha {alpha}, frate {frate}: expected {PRE_EMPHASIS}, and whole samples a frame")
        self.config = LogMelConfig(
            "cmpc2", samprate, nfft, int(wlen * samprate), samprate // frate, nfilt, lowerf, upperf, 1, vad=True
        )

    def sig2logspec(self, sig: np.ndarray) -> np.ndarray:
        """Natural logs (num_frames, nfilt), float64, of the energies of samples (n,) on the 16-bit scale."""
        return sphinx_log_mel(torch.from_numpy(np.asarray(sig, np.float64) / 32768), self.config).numpy()


def get_fbank(
    voice_file: str | Path, vad_obj: webrtcvad.Vad, mfc_obj: MFCC, full_frame_number: int = 800
) -> np.ndarray:
    """What `audio_preprocess` makes of a recording (1, nfilt, T), by a detector and spectra of one's own."""
    config = replace(mfc_obj.config, num_frames=max(1, full_frame_number))
    speech = remove_silence(load_audio(voice_file, config.sample_rate), config, vad_obj)
    if not len(speech):
        raise ValueError(f"{voice_file}: no speech found, expected a voice; give another recording")
    return log_mel(speech, config, torch.float64).float().numpy()


def load_voice(min_time: int = 800) -> Callable[[str | Path], Tensor]:
    """What cuts a window (1, 64, `min_time`) out of a .npy of log-mels (num_frames, 64), drawn by `numpy.random`."""

    def cut(np_path: str | Path) -> Tensor:
        frames = np.load(np_path, allow_pickle=False)
        if frames.ndim != 2 or len(frames) < min_time:
            raise ValueError(f"{np_path}: got {frames.shape}, expected (num_frames, 64) of at least {min_time} frames")
        start = np.random.randint(len(frames) - min_time + 1)
        return torch.from_numpy(frames[start : start + min_time].T.astype(np.float32)[None])

    return cut


def visual_preprocess(img_size: int = 224) -> Callable[[str | Path | Image.Image], Tensor]:
    """What turns a picture, a path or of PIL, into the face network's input (3, img_size, img_size) in [-1, 1]."""

    def picture_to_image(file: str | Path | Image.Image) -> Tensor:
        image = load_image(file, img_size) if isinstance(file, (str, os.PathLike)) else from_pil(file, img_size)
        return image[0]

    return picture_to_image


def getKNearestSamples(
    audio_feature: Tensor, memory_path: str | Path, df_path: str | Path, cluster: int = 1000, K: int = 3
) -> list[str]:
    """The videos `NAME/1.6/VIDEO` of the `K` prototypes nearest to a voice, all of them, in the order of the data set.

    Args:
        audio_feature: (1, 512), of any norm
        memory_path: `frame_memory_best_256.pth.tar`: `centroids` (k, 512) and `inst2cluster` (rows,), lists over k
        df_path: `training.csv`, one row a video
        cluster: which k: 500, 1000 or 1500

    Raises:
        FileNotFoundError, ValueError: no such file, or one of another layout (`convert.memory`); a value out of range
    """
    memory, videos = read_memory(memory_path, cluster), read_index(df_path)
    if audio_feature.shape != (1, memory.centroids.shape[1]):
        raise ValueError(f"audio_feature: got {tuple(audio_feature.shape)}, expected (1, {memory.centroids.shape[1]})")
    if not audio_feature.isfinite().all():
        raise ValueError("audio_feature: NaN or infinite values, expected the features of a voice")
    if len(videos) != len(memory.assignments):
        raise ValueError(f"{df_path}: {len(videos)} rows for the {len(memory.assignments)} videos of {memory_path}")
    voice = F.normalize(audio_feature.detach().cpu().float())
    distances = (voice - F.normalize(memory.centroids)).square().sum(dim=1)
    num_prototypes = int(distances.isfinite().sum())
    if not 1 <= K <= num_prototypes:
        raise ValueError(f"K: got {K}, expected 1 to {num_prototypes}, the prototypes with members in {memory_path}")
    nearest = distances.nan_to_num(nan=torch.inf).topk(K, largest=False).indices
    members = torch.isin(memory.assignments, nearest).nonzero().flatten().tolist()
    return [os.path.join(videos[i][0], FRAME_RATE, videos[i][1]) for i in members]


def install() -> None:
    """Let ``import cmpc2``, and its modules such as ``cmpc2.memory``, mean this one from now on, in this process."""
    for name in ("", ".fv_wrapper", ".memory", ".mfcc", ".model"):
        sys.modules[f"cmpc2{name}"] = sys.modules[__name__]


fv_wrapper = memory = mfcc = model = sys.modules[__name__]  # what the reference has in modules of their own
