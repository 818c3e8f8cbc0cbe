"""Cached log-mels: what the front end gives, resumed after a stop, refused for another front end."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

from miniature import make_miniature
from voicestyle.audio import load_audio, log_mel, voice_input
from voicestyle.cli import main
from voicestyle.config import LogMelConfig
from voicestyle.data import shards
from voicestyle.data.manifest import Item, Manifest
from voicestyle.data.shards import LogMelShards, cache_log_mels
from voicestyle.data.voxceleb import import_voxceleb1

CONFIG = LogMelConfig.cmpc2()
BROKEN = "id10270/ddddddddddd/00002"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Manifest:
    mini = make_miniature(tmp_path_factory.mktemp("vox"))
    return import_voxceleb1([mini.wav], mini.faces, mini.meta, mini.splits)


@pytest.fixture(scope="module")
def folder(manifest: Manifest, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    cache_log_mels(manifest, CONFIG, folder, shard_size=4)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_log_mels_are_those_of_the_front_end(manifest: Manifest, folder: Path) -> None:
    held = LogMelShards(folder, CONFIG)
    assert held.keys() == tuple(item.key for item in manifest if item.key != BROKEN) and len(held) == 9
    for item in manifest:
        if item.key == BROKEN:
            continue
        wanted = voice_input(item.voice, CONFIG)[0]
        assert held[item.key].dtype == torch.float32 and held.num_frames(item.key) == wanted.shape[2]
        torch.testing.assert_close(held[item.key], wanted, atol=4e-3, rtol=1e-3)  # float16
        torch.testing.assert_close(held.window(item.key, 30, 7), held[item.key][:, :, 30:37], atol=0, rtol=0)


@pytest.mark.parametrize("config", [LogMelConfig.cmpc(), replace(LogMelConfig.cmpc(), vad=True), LogMelConfig.ge2e()])
def test_other_front_ends(manifest: Manifest, tmp_path, config: LogMelConfig) -> None:
    item = manifest.items[0]
    held = cache_log_mels(Manifest((item,)), config, tmp_path)
    if config.front_end == "ge2e":
        wanted = voice_input(item.voice, config)[0]
    else:  # the whole clip, from which each epoch can draw its own crop
        waveform = load_audio(item.voice)
        wanted = log_mel(shards.remove_silence(waveform, config) if config.vad else waveform, config)
    assert held[item.key].shape == wanted.shape
    torch.testing.assert_close(held[item.key], wanted, atol=0.04, rtol=1e-3)


def test_refused_items_are_listed_with_the_reason(tmp_path, folder: Path) -> None:
    held = LogMelShards(folder, CONFIG)
    assert list(held.refused) == [BROKEN] and "00002.wav" not in held.refused[BROKEN]
    with pytest.raises(KeyError, match="no log-mel of .*not a recording that libsndfile or FFmpeg can decode"):
        held[BROKEN]
    with pytest.raises(KeyError, match="not in its manifest"):
        held["nobody"]
    for name, seconds in (("silence", 2.0), ("short", 0.5)):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(int(16000 * seconds)), 16000)
    items = tuple(Item(n, "train", n, voice=tmp_path / f"{n}.wav") for n in ("silence", "short"))
    with pytest.raises(ValueError, match=r"all 2 voices are refused, e.g. .*silence, no sample of 2.0 s is other"):
        cache_log_mels(Manifest(items), LogMelConfig.cmpc(), tmp_path / "cache")


def test_windows_outside_are_an_error(folder: Path) -> None:
    held = LogMelShards(folder, CONFIG)
    key = held.keys()[1]
    num = held.num_frames(key)
    assert held.window(key, num - 1, 1).shape == (1, 64, 1)
    for start, length in ((num - 1, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match=f"it has {num}"):
            held.window(key, start, length)


def test_it_may_be_sent_to_another_process(folder: Path) -> None:
    held = LogMelShards(folder, CONFIG)
    key = held.keys()[0]
    before = held[key]
    assert torch.equal(pickle.loads(pickle.dumps(held))[key], before)


def test_another_front_end_is_an_error(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"another front end: \{'min_speech_s': 1.0\}, expected \{'min_speech_s': 0.5\}"
    ):
        LogMelShards(folder, replace(CONFIG, min_speech_s=0.5))


def test_several_processes_write_the_same_bytes(manifest: Manifest, folder: Path, tmp_path) -> None:
    cache_log_mels(manifest, CONFIG, tmp_path, shard_size=4, num_workers=2)
    assert contents(tmp_path) == contents(folder)


def test_a_stopped_call_goes_on_where_it_was(manifest: Manifest, folder: Path, tmp_path, monkeypatch) -> None:
    real, done = shards.whole_log_mel, []

    def stop_in_the_second_shard(path, config):
        if len(done) == 6:
            raise KeyboardInterrupt
        done.append(path)
        return real(path, config)

    monkeypatch.setattr(shards, "whole_log_mel", stop_in_the_second_shard)
    with pytest.raises(KeyboardInterrupt):
        cache_log_mels(manifest, CONFIG, tmp_path, shard_size=4)
    assert list(contents(tmp_path)) == ["00000.safetensors"]
    with pytest.raises(FileNotFoundError, match=r"make \(or finish\) the cache"):
        LogMelShards(tmp_path, CONFIG)
    again, seen = [], []
    monkeypatch.setattr(shards, "whole_log_mel", lambda path, config: again.append(path) or real(path, config))
    cache_log_mels(manifest, CONFIG, tmp_path, shard_size=4, progress=seen.append)
    assert again == [item.voice for item in manifest.items[4:]] and sum(seen) == len(manifest)
    assert contents(tmp_path) == contents(folder)


def test_changed_items_are_computed_anew(manifest: Manifest, tmp_path, monkeypatch) -> None:
    cache_log_mels(manifest, CONFIG, tmp_path, shard_size=4)
    real, again = shards.whole_log_mel, []
    monkeypatch.setattr(shards, "whole_log_mel", lambda path, config: again.append(path) or real(path, config))
    shorter = Manifest((*manifest.items[:4], manifest.items[5]))
    held = cache_log_mels(shorter, CONFIG, tmp_path, shard_size=4)
    assert again == [manifest.items[5].voice] and held.keys() == tuple(item.key for item in shorter)
    assert sorted(contents(tmp_path)) == ["00000.safetensors", "00001.safetensors", "index.json"]
    (tmp_path / "00000.safetensors").write_bytes(b"cut")
    again.clear()
    cache_log_mels(shorter, CONFIG, tmp_path, shard_size=4)
    assert len(again) == 4
    again.clear()
    cache_log_mels(shorter, replace(CONFIG, min_speech_s=0.9), tmp_path, shard_size=4)
    assert len(again) == 5


def test_nothing_to_cache_and_foreign_folders(manifest: Manifest, tmp_path) -> None:
    faces = Manifest(tuple(replace(item, voice=None) for item in manifest))
    with pytest.raises(ValueError, match="no item has a voice"):
        cache_log_mels(faces, CONFIG, tmp_path)
    gone = Manifest((replace(manifest.items[0], voice=tmp_path / "gone.wav"),))
    with pytest.raises(ValueError, match="all 1 voices are refused, e.g. no such file"):
        cache_log_mels(gone, CONFIG, tmp_path)
    for text in ("[]", "{}", "<html>", json.dumps({"format_version": 99})):
        (tmp_path / "index.json").write_text(text)
        with pytest.raises(ValueError, match="not the index of cached log-mels"):
            LogMelShards(tmp_path, CONFIG)


def test_the_command(manifest: Manifest, tmp_path) -> None:
    manifest.write(tmp_path / "m.csv")
    command = ["data", "prepare", "cache", str(tmp_path / "m.csv"), "-o", str(tmp_path / "cache"), "--workers", "1"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1 and done.stdout == f"{tmp_path / 'cache'}\t9 log-mels\n"
    assert done.stderr.startswith(f"left out: {BROKEN}: not a recording")
    assert len(LogMelShards(tmp_path / "cache", CONFIG)) == 9
