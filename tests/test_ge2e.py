"""GE2E: equal to resemblyzer, from a recording to its embedding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fill import fill, inp
from parity import SINGLE, difference, double
from voicestyle import audio
from voicestyle.audio import log_mel, normalize_volume, remove_silence, voice_input
from voicestyle.config import LogMelConfig
from voicestyle.convert.ge2e import TRAINING_ONLY, from_resemblyzer, translate
from voicestyle.nn import ge2e
from voicestyle.nn.ge2e import GE2E

CONFIG = LogMelConfig.ge2e()
GOLDEN = 1e-4  # resemblyzer computes in float32; ours differ by a tenth of this at most
LAYOUT = {key: list(value.shape) for key, value in GE2E().state_dict().items()}  # resemblyzer's keys are the same


def synthetic_voice(num_samples: int = 96000) -> np.ndarray:
    """Harmonics of 130 Hz with three formants in syllables, a pause and faint noise, on the 16-bit grid."""
    t = np.arange(num_samples) / 16000
    syllables = np.clip(np.sin(2 * np.pi * 3 * t), 0, None) * ((t < 2.0) | (t > 3.4))
    x = np.zeros(num_samples)
    for h in range(1, 30):
        formants = ((600, 200), (1300, 300), (2600, 400))
        x += sum(np.exp(-(((130 * h - c) / b) ** 2)) for c, b in formants) * np.sin(2 * np.pi * 130 * h * t + h)
    x = 0.01 * x * syllables + 2e-4 * inp("noise", (num_samples,)).numpy()
    return (np.round(x * 32768) / 32768).astype(np.float32)


@pytest.fixture(scope="module")
def network() -> GE2E:
    network = GE2E().eval().requires_grad_(False)
    network.load_state_dict(fill(LAYOUT))
    return network


@pytest.fixture(scope="module")
def golden(golden_dir) -> dict[str, np.ndarray]:
    """resemblyzer 0.1.4 (librosa 0.11) on `synthetic_voice`, with weights filled by rule."""
    return dict(np.load(golden_dir / "ge2e.npz"))


def test_an_utterance_is_embedded_as_resemblyzer_does(network, golden):
    mel = voice_input(synthetic_voice(), CONFIG, sample_rate=16000)
    assert mel.shape == (1, 1, 40, 160 + 4 * 77)
    assert difference(double(network)(mel.double())[0], golden["embedding"]) < GOLDEN
    torch.testing.assert_close(network(mel).norm(dim=1), torch.ones(1))


def test_a_clip_shorter_than_its_partials_is_padded_as_resemblyzer_does(network, golden):
    mel = log_mel(torch.from_numpy(synthetic_voice()[:40000]), CONFIG)
    assert difference(double(network)(mel[None].double())[0], golden["embedding_untrimmed_40000"]) < GOLDEN


def test_silence_removal_keeps_as_many_samples_as_resemblyzer(golden):
    waveform = normalize_volume(torch.from_numpy(synthetic_voice()))
    assert len(remove_silence(waveform, CONFIG)) == golden["num_samples_trimmed"]


def test_mel_equals_librosa(golden):
    waveform = torch.from_numpy(synthetic_voice()[:4000])
    expected = torch.from_numpy(golden["mel_4000"])[:, :24]  # later frames see librosa's zeros sooner than ours
    exact = log_mel(waveform, CONFIG, torch.float64)[0, :, :24]
    torch.testing.assert_close(exact, expected.double(), rtol=1e-4, atol=1e-7)
    assert difference(log_mel(waveform, CONFIG)[0, :, :24], exact) < SINGLE


@pytest.mark.parametrize("num_samples", [20000, 25600, 37119, 37120, 37121, 60000])
def test_number_of_partials_equals_resemblyzer(golden, num_samples):
    mel = log_mel(torch.ones(num_samples), CONFIG)
    assert mel.shape[-1] == 160 + 77 * (golden[f"num_partials_{num_samples}"] - 1)


@settings(max_examples=60, deadline=None)
@given(num_samples=st.integers(1, 200000))
def test_partials_cover_the_clip(num_samples):
    num_frames = log_mel(torch.ones(num_samples), CONFIG).shape[-1]
    assert (num_frames - 160) % 77 == 0
    assert num_frames == 160 or num_samples - (num_frames - 160) * 160 >= 0.75 * 25600  # the last is full enough
    assert num_samples - num_frames * 160 < 77 * 160  # and no whole partial more would be


def test_embedding_is_the_mean_of_its_partials(network):
    mel = inp("mel", (2, 1, 40, 314)).abs()
    partials = [network(mel[..., start : start + 160]) for start in (0, 77, 154)]
    expected = torch.nn.functional.normalize(torch.stack(partials).mean(dim=0), dim=1)
    torch.testing.assert_close(network(mel), expected)


def test_a_batch_equals_its_rows(network):
    mel = inp("mel", (3, 1, 40, 237)).abs()
    torch.testing.assert_close(network(mel), torch.cat([network(row[None]) for row in mel]))


def test_many_partials_are_split_without_effect():
    network = GE2E(n_mels=4, hidden=8, embed_dim=8).requires_grad_(False)
    network.load_state_dict(fill({key: list(value.shape) for key, value in network.state_dict().items()}))
    mel = inp("long", (1, 1, 4, 160)).abs().expand(300, 1, 4, 160)
    torch.testing.assert_close(network(mel), network(mel[:1]).expand(300, 8))


def test_front_end_and_network_agree_on_the_step():
    assert (audio.PARTIAL_STEP, CONFIG.num_frames) == (ge2e.PARTIAL_STEP, ge2e.PARTIAL_FRAMES)


@pytest.mark.parametrize("shape", [(1, 40, 160), (1, 2, 40, 160), (1, 1, 40, 159)])
def test_wrong_shapes_are_refused(network, shape):
    with pytest.raises(ValueError, match=r"GE2E: mel of shape .* expected \(N, 1, n_mels, T >= 160\)"):
        network(torch.ones(shape))


def checkpoint(path, **changes):
    training_only = {key: torch.ones(1) for key in TRAINING_ONLY}
    torch.save({"step": 1, "model_state": {**fill(LAYOUT), **training_only, **changes}, "optimizer_state": {}}, path)
    return path


def test_resemblyzer_checkpoint_is_translated(tmp_path):
    state = from_resemblyzer(checkpoint(tmp_path / "pretrained.pt"))
    GE2E().load_state_dict(state, strict=True)
    assert all(torch.equal(state[key], value) for key, value in fill(LAYOUT).items())


def test_foreign_keys_and_shapes_are_refused(tmp_path):
    path = checkpoint(tmp_path / "other.pt", **{"linear.bias": torch.ones(3), "lstm.extra": torch.ones(1)})
    with pytest.raises(ValueError, match=r"other.pt: 2 keys differ .*linear.bias: got \(3,\), expected \(256,\)"):
        from_resemblyzer(path)
    with pytest.raises(ValueError, match="model_state: 14 keys differ"):
        translate({})


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing.pt: no such file"):
        from_resemblyzer(tmp_path / "missing.pt")
    (tmp_path / "page.pt").write_text("<!DOCTYPE html>")
    with pytest.raises(ValueError, match="page.pt: "):
        from_resemblyzer(tmp_path / "page.pt")
    torch.save({"weights": torch.ones(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="other.pt: no 'model_state' in it"):
        from_resemblyzer(tmp_path / "other.pt")
    whole = checkpoint(tmp_path / "whole.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="half.pt: truncated"):
        from_resemblyzer(tmp_path / "half.pt")
    (tmp_path / "noise.pt").write_bytes(bytes(range(256)) * 9)
    with pytest.raises(ValueError, match="noise.pt: "):
        from_resemblyzer(tmp_path / "noise.pt")


class Hostile:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_pickle_that_runs_code_is_refused(tmp_path, capsys):
    torch.save({"model_state": Hostile()}, tmp_path / "hostile.pt")
    with pytest.raises(ValueError, match="hostile.pt: "):
        from_resemblyzer(tmp_path / "hostile.pt")
    assert "executed" not in capsys.readouterr().out
