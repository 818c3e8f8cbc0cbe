"""What is averaged into an embedding, and that it is computed once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from PIL import Image

import voicestyle
from tiny import VOICE, save_tiny
from voicestyle.audio import voice_input
from voicestyle.config import EncoderConfig, LogMelConfig
from voicestyle.evaluate import embeddings
from voicestyle.evaluate.embeddings import Averaging, Embeddings, Source, embed, encode, voice_windows
from voicestyle.image import load_image

FRONT_ENDS = [LogMelConfig.cmpc(), LogMelConfig.cmpc2(), LogMelConfig.ge2e()]


@pytest.fixture(scope="module")
def vs(tmp_path_factory) -> voicestyle.VoiceStyle:
    return voicestyle.load(save_tiny(tmp_path_factory.mktemp("models") / "tiny"), "cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Twelve seconds of the example voice: longer than every window."""
    waveform, rate = soundfile.read(VOICE)
    path = tmp_path_factory.mktemp("clips") / "long.wav"
    soundfile.write(path, np.resize(waveform, 12 * rate), rate)
    return path


@pytest.fixture
def sources(clip: Path, tmp_path: Path) -> list[Source]:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "face.png")
    return [Source("voice", "voice", clip, "a"), Source("face", "face", tmp_path / "face.png", "a")]


@pytest.mark.parametrize("config", FRONT_ENDS, ids=lambda c: c.front_end)
def test_windows_are_parts_of_the_recording_and_follow_their_seeds(config: LogMelConfig, clip: Path) -> None:
    three = voice_windows(clip, config, Averaging(3, seed=1))
    assert three.shape == (3, 1, config.n_mels, config.num_frames)
    assert not torch.equal(three[0], three[1])
    assert torch.equal(three, voice_windows(clip, config, Averaging(3, seed=1)))
    assert not torch.equal(three, voice_windows(clip, config, Averaging(3, seed=0)))
    if config.front_end == "cmpc":
        seeded = [voice_input(clip, config, seed=s) for s in (3, 4, 5)]
        assert torch.allclose(three, torch.cat(seeded), atol=1e-4)
        assert torch.allclose(voice_windows(clip, config, Averaging()), voice_input(clip, config), atol=1e-4)
    else:
        whole = voice_input(clip, config)
        assert torch.equal(voice_windows(clip, config, Averaging()), whole)
        parts = whole[0].unfold(-1, config.num_frames, 1)  # (1, n_mels, starts, num_frames)
        for window in three:
            assert (parts == window[:, :, None]).all(-1).all(1).any()


@pytest.mark.parametrize("config", FRONT_ENDS, ids=lambda c: c.front_end)
def test_a_short_recording_is_one_window(config: LogMelConfig, tmp_path: Path) -> None:
    waveform, rate = soundfile.read(VOICE)
    soundfile.write(tmp_path / "short.wav", waveform[: int(1.55 * rate)], rate)
    two = voice_windows(tmp_path / "short.wav", config, Averaging(2))
    assert two.shape[-1] == config.num_frames and torch.equal(two[0], two[1])


def test_errors_of_windows_name_the_file(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(32000), 16000)
    with pytest.raises(ValueError, match=r"^\S*silent.wav: silence, no sample of 2\.0 s is other"):
        voice_windows(tmp_path / "silent.wav", LogMelConfig.cmpc(), Averaging(2))


def test_the_default_is_what_the_model_does_by_itself(vs, sources) -> None:
    voice, face = sources
    assert torch.equal(embed(vs, voice, Averaging()), vs.encode_voice(voice.path)[0])
    assert torch.equal(embed(vs, face, Averaging()), vs.encode_face(face.path)[0])


def test_crops_are_averaged_as_unit_vectors(vs, sources, clip) -> None:
    windows = voice_windows(clip, vs.config.encoder.log_mel, Averaging(4))
    by_hand = F.normalize(torch.cat([vs.encoder.encode_voice(w[None]) for w in windows]).mean(0), dim=0)
    assert torch.allclose(embed(vs, sources[0], Averaging(4)), by_hand, atol=1e-4)


def test_the_reference_averages_raw_outputs_over_five_crops_and_both_mirror_images(vs, sources, clip) -> None:
    protocol = Averaging.reference("verification", seed=2)
    assert (protocol.num_crops, protocol.flip, protocol.unit) == (5, True, False)
    windows = voice_windows(clip, vs.config.encoder.log_mel, Averaging(5, seed=2))
    raw = torch.cat([vs.encoder.voice_bridge(vs.encoder.voice_features(w[None])) for w in windows])
    found = embed(vs, sources[0], protocol)
    assert torch.allclose(found, raw.mean(0), atol=1e-4)
    assert not torch.allclose(F.normalize(found, dim=0), embed(vs, sources[0], Averaging(5, seed=2)), atol=1e-4)
    image = load_image(sources[1].path, vs.config.encoder.image.size)
    raw = torch.cat([vs.encoder.face_bridge(vs.encoder.face_features(i)) for i in (image, image.flip(-1))])
    assert torch.allclose(embed(vs, sources[1], protocol), raw.mean(0), atol=1e-4)
    for task in ("matching", "retrieval"):
        assert Averaging.reference(task) == Averaging(1, flip=False, unit=False, resize=True)


def test_the_report_says_what_is_averaged() -> None:
    cmpc, cmpc2 = EncoderConfig.cmpc(224).log_mel, EncoderConfig.cmpc(256).log_mel
    assert Averaging(seed=3).describe(cmpc)["voice"] == "1 random window of 500 frames, crop seed 3"
    assert Averaging().describe(cmpc2) == {"voice": "whole recordings", "face": "picture as it is"}
    words = Averaging.reference("verification", seed=1).describe(cmpc)
    assert words["voice"] == "5 random windows of 500 frames, crop seeds 5 to 9, un-normalized mean of embeddings"
    assert words["face"] == "picture and mirror image, un-normalized mean of embeddings"


def counted(monkeypatch) -> list[str]:
    done: list[str] = []
    real = embed

    def counting(vs, source, averaging):
        done.append(source.name)
        return real(vs, source, averaging)

    monkeypatch.setattr(embeddings, "embed", counting)
    return done


def test_embeddings_are_computed_once_for_a_file_a_model_and_a_way_of_averaging(
    vs, sources, tmp_path, monkeypatch
) -> None:
    done = counted(monkeypatch)
    first = encode(vs, sources, Averaging(), tmp_path / "cache")
    again = encode(vs, sources[::-1], Averaging(seed=5), tmp_path / "cache")  # whole recordings have no seed
    assert done == ["voice", "face"] and again.rows == {"face": 0, "voice": 1}
    assert np.array_equal(first.emb[first.find(["voice", "face"])], again.emb[again.find(["voice", "face"])])
    encode(vs, sources, Averaging(2), tmp_path / "cache")
    encode(vs, sources, Averaging(2, seed=1), tmp_path / "cache")
    assert done[2:] == ["voice", "voice"]  # the picture is what it was
    Image.new("RGB", (40, 40), "red").save(sources[1].path)
    changed = encode(vs, sources, Averaging(), tmp_path / "cache")
    assert done[4:] == ["face"] and not np.array_equal(changed.emb[1], first.emb[1])


def test_a_stopped_run_goes_on(vs, sources, tmp_path, monkeypatch) -> None:
    done = counted(monkeypatch)

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(vs, sources, Averaging(), tmp_path, progress=stop)
    encode(vs, sources, Averaging(), tmp_path)
    assert done == ["voice", "face"]


def test_what_cannot_be_used_is_told_of_or_an_error(vs, sources, tmp_path) -> None:
    missing = Source("gone", "voice", tmp_path / "gone.wav", "b")
    told, steps = [], []
    for cache in (None, tmp_path / "cache"):
        found = encode(vs, [missing, *sources], Averaging(), cache, lambda s, e: told.append(s.name), steps.append)
        assert found.find(["gone", "voice", "face"]).tolist() == [-1, 0, 1]
        with pytest.raises(FileNotFoundError):
            encode(vs, [missing], Averaging(), cache)
    assert told == ["gone"] * 2 and steps == [1] * 6


def test_nan_of_a_model_is_an_error_and_is_not_kept(vs, sources, tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(embeddings, "embed", lambda *_: torch.full((32,), torch.nan))
        with pytest.raises(ValueError, match="the model gives NaN or infinities for it"):
            encode(vs, sources, Averaging(), tmp_path, refuse=lambda *_: None)
    assert np.isfinite(encode(vs, sources, Averaging(), tmp_path).emb).all()


def test_a_file_that_is_no_cache_is_an_error(vs, sources, tmp_path) -> None:
    (tmp_path / "embeddings.sqlite").write_text("something else, and long enough to be looked at" * 30)
    with pytest.raises(ValueError, match="not a cache of embeddings"):
        encode(vs, sources, Averaging(), tmp_path)


def test_cosines_are_those_of_the_vectors() -> None:
    rng = np.random.default_rng(0)
    one, two = (Embeddings(rng.normal(size=(9, 5)).astype(np.float32), {}) for _ in range(2))
    rows, others = rng.integers(9, size=(2, 10_000))
    by_hand = F.cosine_similarity(torch.from_numpy(one.emb)[rows], torch.from_numpy(two.emb)[others])
    np.testing.assert_allclose(one.cosines(rows, two, others), by_hand.numpy(), atol=1e-5)
