"""Log-mels of a manifest's voices in a folder of shards: computed once, read at random, a window at a time.

A folder holds ``00000.safetensors``, ``00001.safetensors``, ... and ``index.json``, which is written last. A shard has
one tensor ``frames`` (total_frames, n_mels), float16: the log-mels of its items one after the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from voicestyle.audio import load_audio, remove_silence, voice_input
from voicestyle.config import LogMelConfig
from voicestyle.data.manifest import Item, Manifest
from voicestyle.data.workers import in_order
from voicestyle.files import named, sha256_of, written_whole
from voicestyle.locks import alone_with
from voicestyle.schema import to_dict

FORMAT_VERSION = 1
INDEX = "index.json"
AGAIN = "make the cache again with `voicestyle data prepare cache`, which keeps the sound shards"


class LogMelShards:
    """The log-mels of a folder that `cache_log_mels` has written, by the keys of their items.

    Files are mapped into memory and a window reads its own bytes alone. May be pickled, for workers of a data loader.
    """

    def __init__(self, folder: str | Path, config: LogMelConfig) -> None:
        """Open a folder.

        Raises:
            FileNotFoundError: no finished cache
            ValueError: made with a front end other than `config`
        """
        self.folder = Path(folder)
        self.n_mels = config.n_mels
        index = _read_index(self.folder)
        if index["fingerprint"] != front_end_fingerprint(config):
            held, wanted = index["front_end"], to_dict(config)
            differing = {name: held.get(name) for name in wanted if held.get(name) != wanted[name]}
            raise ValueError(
                f"{self.folder}: log-mels of another front end: {differing}, expected "
                f"{ {name: wanted[name] for name in differing} }; make them again with `voicestyle data prepare cache`"
            )
        self.refused: dict[str, str] = index["refused"]  # key -> why the front end has nothing for this item
        self._place: dict[str, tuple[str, int, int]] = {}  # key -> file, first frame, end
        for shard in index["shards"]:
            ends = accumulate(shard["num_frames"])
            for key, length, end in zip(shard["keys"], shard["num_frames"], ends, strict=True):
                self._place[key] = (shard["file"], end - length, end)
        self._open: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, key: object) -> bool:
        return key in self._place

    def keys(self) -> tuple[str, ...]:
        """Keys of the items that have a log-mel, in the order of the manifest."""
        return tuple(self._place)

    def num_frames(self, key: str) -> int:
        """Length of an item's log-mel."""
        _, first, end = self._find(key)
        return end - first

    def __getitem__(self, key: str) -> Tensor:
        """The whole log-mel (1, n_mels, num_frames) of an item, float32."""
        return self.window(key, 0, self.num_frames(key))

    def window(self, key: str, start: int, length: int) -> Tensor:
        """Frames `start` to `start + length` of an item's log-mel: (1, n_mels, length), float32.

        Raises:
            KeyError: no such item, or one that was refused; the message says why
            ValueError: frames that it does not have
        """
        file, first, end = self._find(key)
        if start < 0 or length < 1 or first + start + length > end:
            raise ValueError(f"{key}: frames {start} to {start + length} asked for, it has {end - first}")
        frames = self._frames(file)[first + start : first + start + length]
        return frames.T.float()[None]

    def _find(self, key: str) -> tuple[str, int, int]:
        if key not in self._place:
            raise KeyError(f"{self.folder}: no log-mel of {key!r}: {self.refused.get(key, 'not in its manifest')}")
        return self._place[key]

    def _frames(self, file: str) -> Any:
        if file not in self._open:
            try:
                self._open[file] = safe_open(self.folder / file, "pt").get_slice("frames")
            except (OSError, SafetensorError) as error:
                raise ValueError(f"{self.folder / file}: missing or damaged ({error}); {AGAIN}") from None
        return self._open[file]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}


def front_end_fingerprint(config: LogMelConfig) -> str:
    """Of every setting that a log-mel depends on."""
    return sha256_of(json.dumps([FORMAT_VERSION, to_dict(config)]).encode())[:16]


def cache_log_mels(
    manifest: Manifest,
    config: LogMelConfig,
    folder: str | Path,
    *,
    num_workers: int = 1,
    shard_size: int = 512,
    progress: Callable[[int], Any] = lambda num_items: None,
) -> LogMelShards:
    """The shards of all voices of a manifest, computed where they are not in `folder` already.

    They hold what `audio.voice_input` gives, but ``cmpc`` before its random crop, so that each epoch can draw its own.
    Finished shards are kept if the items, their files (by size and time) and the front end are the same, so that a call
    that was stopped goes on. Items that the front end refuses are left out, and `LogMelShards.refused` says why.

    Args:
        shard_size: items of a shard
        progress: called with the number of items that are done since it was called last

    Raises:
        ValueError: no item has a voice, or all are refused
        BlockingIOError: another process is at work in the folder
    """
    with alone_with(folder):
        return _cache(manifest, config, Path(folder), num_workers, shard_size, progress)


def _cache(
    manifest: Manifest,
    config: LogMelConfig,
    folder: Path,
    num_workers: int,
    shard_size: int,
    progress: Callable[[int], Any],
) -> LogMelShards:
    """What `cache_log_mels` does while nobody else does."""
    items = [replace(item, face=None, frontal=None) for item in manifest if item.voice is not None]
    if not items:
        raise ValueError(f"{manifest.name}: no item has a voice")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).unlink(missing_ok=True)
    parts = [items[first : first + shard_size] for first in range(0, len(items), shard_size)]
    paths = [folder / f"{number:05d}.safetensors" for number in range(len(parts))]
    stamps = [_stamp(part, config) for part in parts]
    held = [_shard_metadata(path) for path in paths]
    done = [metadata.get("stamp") == stamp for metadata, stamp in zip(held, stamps, strict=True)]
    voices = [item.voice for part, is_done in zip(parts, done, strict=True) if not is_done for item in part]
    made = in_order(partial(_frames_or_reason, config=config), voices, num_workers)
    for number, part in enumerate(parts):
        if done[number]:
            progress(len(part))
        else:
            held[number] = _write_shard(paths[number], part, stamps[number], config.n_mels, made, progress)
    shards = [{"file": path.name, **metadata} for path, metadata in zip(paths, held, strict=True)]
    return _write_index(folder, shards, config, manifest.name)


def _write_shard(
    path: Path,
    items: Sequence[Item],
    stamp: str,
    n_mels: int,
    made: Iterator[np.ndarray | str],
    progress: Callable[[int], Any],
) -> dict[str, Any]:
    """Write a shard of the next results, beside, then rename it; its metadata."""
    frames, num_frames, refused = [torch.zeros(0, n_mels, dtype=torch.float16)], {}, {}
    for item, result in zip(items, made, strict=False):  # `made` goes on with the items of other shards
        if isinstance(result, str):
            refused[item.key] = result
        else:
            frames.append(torch.from_numpy(result))
            num_frames[item.key] = len(result)
        progress(1)
    held = {"stamp": stamp, "keys": [*num_frames], "num_frames": [*num_frames.values()], "refused": refused}
    with written_whole(path) as beside:
        save_file({"frames": torch.cat(frames)}, beside, {"shard": json.dumps(held)})
    return held


def _frames_or_reason(path: Path, config: LogMelConfig) -> np.ndarray | str:
    """The frames (num_frames, n_mels) of a recording as float16, or why there are none."""
    try:  # NumPy: tensors would come back from another process as files of shared memory
        with named(path):
            return whole_log_mel(path, config)[0].T.contiguous().half().numpy()
    except (ValueError, OSError) as error:
        return str(error).removeprefix("waveform: ").removeprefix(f"{path}: ")


def whole_log_mel(path: str | Path, config: LogMelConfig) -> Tensor:
    """The log-mel (1, n_mels, num_frames) of a recording: `audio.voice_input` without its random crop."""
    if config.front_end != "cmpc":
        return voice_input(path, config)[0]
    waveform = load_audio(path, config.sample_rate)
    if config.vad:
        waveform = remove_silence(waveform, config)
    # there is a frame at every hop, and a crop of the whole length is none
    config = replace(config, vad=False, num_frames=len(waveform) // config.hop_length + 1)
    return voice_input(waveform, config, config.sample_rate)[0]


def _stamp(items: Sequence[Item], config: LogMelConfig) -> str:
    """Of everything that a shard depends on."""
    stats = [(item.key, item.voice.name, _size_and_time(item.voice)) for item in items if item.voice]
    depends_on = [front_end_fingerprint(config), [(key, name, *stat) for key, name, stat in stats]]
    return sha256_of(json.dumps(depends_on).encode())


def _size_and_time(path: Path) -> tuple[int, int]:
    """Bytes and nanoseconds; (0, 0) where the file is missing."""
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _shard_metadata(path: Path) -> dict[str, Any]:
    """What `_write_shard` said of a shard; empty where there is none, or a damaged or foreign file."""
    try:
        with safe_open(path, "pt") as file:
            held = json.loads((file.metadata() or {}).get("shard", "{}"))
            is_whole = sum(held["num_frames"]) == file.get_slice("frames").get_shape()[0]
            return held if is_whole and len(held["keys"]) == len(held["num_frames"]) else {}
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _write_index(folder: Path, shards: list[dict[str, Any]], config: LogMelConfig, name: str) -> LogMelShards:
    refused = {key: reason for shard in shards for key, reason in shard.pop("refused").items()}
    if not any(shard["keys"] for shard in shards):
        raise ValueError(f"{name}: all {len(refused)} voices are refused, e.g. {next(iter(refused.values()))}")
    index = {
        "format_version": FORMAT_VERSION,
        "fingerprint": front_end_fingerprint(config),
        "front_end": to_dict(config),
        "shards": shards,
        "refused": refused,
    }
    with written_whole(folder / INDEX) as beside:
        beside.write_text(json.dumps(index), encoding="utf-8")
    for stale in folder.glob("[0-9]" * 5 + ".safetensors"):  # of a longer manifest
        if stale.name not in {shard["file"] for shard in shards}:
            stale.unlink()
    return LogMelShards(folder, config)


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; make (or finish) the cache with `voicestyle data prepare cache`"
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        if index["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format {index['format_version']}, expected {FORMAT_VERSION}")
        expected = {"fingerprint": str, "front_end": dict, "shards": list, "refused": dict}
        if wrong := [name for name, kind in expected.items() if not isinstance(index[name], kind)]:
            raise ValueError(f"wrong type of {', '.join(wrong)}")
        for shard in index["shards"]:
            if len(shard["keys"]) != len(shard["num_frames"]) or sum(shard["num_frames"]) < 0 or not shard["file"]:
                raise ValueError("keys and lengths do not fit")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: not the index of cached log-mels ({error}); {AGAIN}") from None
    return index
