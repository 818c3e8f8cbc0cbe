"""Recordings and pictures as embeddings: each once, kept on disk, and what is averaged is said."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from voicestyle import __version__
from voicestyle.audio import load_audio, voice_input
from voicestyle.config import ImageConfig, LogMelConfig, Side
from voicestyle.data.manifest import Item
from voicestyle.data.pictures import wild_picture
from voicestyle.files import named
from voicestyle.image import load_image
from voicestyle.metrics import settled
from voicestyle.schema import to_dict

if TYPE_CHECKING:
    from voicestyle.pipeline import VoiceStyle

COMMIT_EVERY = 64  # embeddings; what a killed run loses of its cache


@dataclass(frozen=True)
class Source:
    """A recording or a picture that trials name."""

    name: str  # in the list
    side: Side
    path: Path
    identity: str
    align: bool = False  # bring the face of a picture into the canonical frame first
    box: tuple[float, ...] = ()  # where that face is; (): it is looked for


@dataclass(frozen=True)
class Averaging:
    """What is averaged into one embedding."""

    num_crops: int = 0  # random windows of a recording; 0: what the front end takes by itself
    flip: bool = False  # a picture and its mirror image, not the picture alone
    unit: bool = True  # embeddings have unit norm before they are averaged
    resize: bool = False  # whole pictures are brought to the network's size by Pillow's bicubic filter, not by ours
    seed: int = 0  # of the windows

    @classmethod
    def reference(cls, task: str, seed: int = 0) -> Averaging:
        """What CMPC's code averages: 5 windows and 2 mirror images in verification.py, nothing in the other two."""
        verification = task == "verification"
        return cls(5 if verification else 1, flip=verification, unit=False, resize=True, seed=seed)

    def describe(self, front_end: LogMelConfig) -> dict[Side, str]:
        """What of a recording and of a picture is embedded, in words."""
        mean = "mean of unit embeddings" if self.unit else "un-normalized mean of embeddings"
        count, window = self.num_windows(front_end), f"window of {front_end.num_frames} frames"
        voice = "whole recordings"
        if count == 1:
            voice = f"1 random {window}, crop seed {self.seed}"
        elif count:
            voice = f"{count} random {window.replace('window', 'windows')}, "
            voice += f"crop seeds {self.seed * count} to {self.seed * count + count - 1}, {mean}"
        return {"voice": voice, "face": f"picture and mirror image, {mean}" if self.flip else "picture as it is"}

    def num_windows(self, front_end: LogMelConfig) -> int:
        """Random windows of each recording; 0: it is taken whole. ``cmpc`` always takes windows, by default one."""
        return self.num_crops or int(front_end.front_end == "cmpc")


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of the sources that could be used, by name."""

    emb: NDArray[np.floating]  # (N, D)
    rows: dict[str, int]

    def find(self, names: Iterable[str]) -> NDArray[np.int64]:
        """The row of each name; -1 where there is none."""
        return np.array([self.rows.get(name, -1) for name in names], np.int64)

    def cosines(self, rows: NDArray[np.int64], other: Embeddings, other_rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """(T,) similarities of pairs. Pairs of the same two vectors give the same number, to the last bit."""
        first, second = unit(self.emb.astype(np.float64)), unit(other.emb.astype(np.float64))
        parts = np.array_split(np.arange(len(rows)), len(rows) // 4096 + 1)
        cosines = [np.einsum("td,td->t", first[rows[i]], second[other_rows[i]]) for i in parts]
        return settled(np.concatenate(cosines)).astype(np.float64, copy=False)


def unit(emb: NDArray[np.floating]) -> NDArray[np.floating]:
    """Embeddings (N, D) at unit norm; ValueError where there are NaN or infinities."""
    if not np.isfinite(emb).all():
        raise ValueError(f"embeddings: {int((~np.isfinite(emb)).any(1).sum())} of {len(emb)} hold NaN or infinities")
    return emb / np.maximum(np.linalg.norm(emb, axis=1, keepdims=True), 1e-12)


def encode(
    vs: VoiceStyle,
    sources: Iterable[Source],
    averaging: Averaging,
    cache: str | Path | None = None,  # folder: an evaluation that was stopped goes on from there
    refuse: Callable[[Source, Exception], None] | None = None,  # told of a source that is left out; default: an error
    progress: Callable[[int], object] | None = None,  # told how many more sources are done
) -> Embeddings:
    """The embeddings of recordings and pictures, each computed once for a model and way of averaging.

    Raises:
        ValueError: an unusable source where nobody is told of it, or a model that gives NaN
    """
    made: list[NDArray[np.floating]] = []
    rows: dict[str, int] = {}
    with _Cache.open(cache) as known:
        for source in sources:
            try:
                key = known.key(vs, source, averaging)
                emb = known.get(key)
                if emb is None:
                    with named(source.path):
                        emb = embed(vs, source, averaging).cpu().numpy()
            except (ValueError, OSError) as error:
                if refuse is None:
                    raise
                refuse(source, error)
            else:
                if not np.isfinite(emb).all():
                    raise ValueError(f"{source.path}: the model gives NaN or infinities for it; check its weights")
                known.put(key, emb)
                rows[source.name] = len(made)
                made.append(emb)
            if progress is not None:
                progress(1)
    return Embeddings(np.stack(made) if made else np.zeros((0, vs.config.encoder.embed_dim), np.float32), rows)


@torch.no_grad()
def embed(vs: VoiceStyle, source: Source, averaging: Averaging) -> Tensor:
    """The embedding (D,) of one source; of unit norm where `averaging.unit`."""
    encoder, is_unit = vs.encoder, averaging.unit
    if source.side == "voice":
        log_mels = voice_windows(source.path, vs.config.encoder.log_mel, averaging).to(vs.device)
        emb = encoder.encode_voice(log_mels) if is_unit else encoder.voice_bridge(encoder.voice_features(log_mels))
    else:
        size = _size(vs.config.encoder.image) if averaging.resize else None
        image = _picture(source, size).to(vs.device)
        images = torch.cat([image, image.flip(-1)]) if averaging.flip else image
        emb = encoder.encode_face(images) if is_unit else encoder.face_bridge(encoder.face_features(images))
    if is_unit:
        return emb[0] if len(emb) == 1 else F.normalize(emb.mean(0), dim=0)
    return emb.mean(0)


def voice_windows(path: Path, front_end: LogMelConfig, averaging: Averaging) -> Tensor:
    """Inputs of the voice network: (1, 1, n_mels, T) of the whole recording, or random windows of `num_frames`."""
    count = averaging.num_windows(front_end)
    if not count:
        return voice_input(path, front_end)
    seeds = range(averaging.seed * count, (averaging.seed + 1) * count)
    if front_end.front_end == "cmpc":  # takes its window itself
        waveform = load_audio(path, front_end.sample_rate)
        try:
            return torch.cat([voice_input(waveform, front_end, front_end.sample_rate, seed=s) for s in seeds])
        except ValueError as error:
            raise ValueError(f"{path}: {str(error).removeprefix('waveform: ')}") from None
    features, length = voice_input(path, front_end), front_end.num_frames
    starts = [np.random.default_rng(seed).integers(features.shape[-1] - length + 1) for seed in seeds]
    return torch.cat([features[..., start : start + length] for start in starts])


def _size(config: ImageConfig) -> int | None:
    """What a picture may be resized to: the network's size, where it sees the whole of a picture."""
    return config.size if tuple(config.crop) == (0, 0, 1, 1) else None


def _picture(source: Source, size: int | None) -> Tensor:
    """The picture (1,3,H,W) of a source in the canonical frame."""
    if source.align:
        return wild_picture(Item(source.name, "test", source.identity, face=source.path, face_box=source.box))
    return load_image(source.path, size)


class _Cache:
    """Embeddings by all that they depend on, in one SQLite file; nothing is kept without a folder."""

    def __init__(self, database: sqlite3.Connection | None) -> None:
        self.database = database
        self.num_new = 0

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: str | Path | None) -> Iterator[_Cache]:
        if folder is None:
            yield cls(None)
            return
        path = Path(folder) / "embeddings.sqlite"
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path)) as database:
            try:
                database.execute("CREATE TABLE IF NOT EXISTS embeddings (key BLOB PRIMARY KEY, emb BLOB NOT NULL)")
            except sqlite3.DatabaseError as error:
                raise ValueError(f"{path}: not a cache of embeddings ({error}); delete it or name a folder") from None
            try:
                yield cls(database)
            finally:
                database.commit()

    def key(self, vs: VoiceStyle, source: Source, averaging: Averaging) -> bytes:
        """A digest of the file (by its place, size and time), the model, the front end and what is averaged."""
        if self.database is None:
            return b""
        front_end = vs.config.encoder.log_mel
        count = averaging.num_windows(front_end)
        how: Sequence[Any] = (
            (count, averaging.seed if count else 0) if source.side == "voice" else (averaging.flip, averaging.resize)
        )
        stat = source.path.stat()
        parts = [
            __version__,
            vs.model.encoder_fingerprint,
            to_dict(vs.config.encoder),
            source.side,
            how,
            averaging.unit,
            str(source.path.resolve()),
            stat.st_size,
            stat.st_mtime_ns,
            source.align,
            source.box,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).digest()

    def get(self, key: bytes) -> NDArray[np.float32] | None:
        if self.database is None:
            return None
        found = self.database.execute("SELECT emb FROM embeddings WHERE key = ?", (key,)).fetchone()
        return None if found is None else np.frombuffer(found[0], np.float32)

    def put(self, key: bytes, emb: NDArray[np.float32]) -> None:
        if self.database is None:
            return
        self.database.execute("INSERT OR IGNORE INTO embeddings VALUES (?, ?)", (key, emb.astype("<f4").tobytes()))
        self.num_new += 1
        if self.num_new % COMMIT_EVERY == 0:
            self.database.commit()
