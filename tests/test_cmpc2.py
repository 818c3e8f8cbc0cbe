"""The drop-in for the authors' package: golden numbers, their README's lines, and the faults that are not kept."""

from __future__ import annotations

import csv
import importlib
import inspect
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
import webrtcvad
from PIL import Image

from fill import SEED, fill, inp
from parity import EXACT, difference
from test_audio import CLIPS
from tiny import VOICE
from voicestyle import cmpc2
from voicestyle.audio import log_mel
from voicestyle.config import LogMelConfig

COLUMNS = ["VGGFace1 ID", "split", "VoxCeleb1 ID", "Gender", "Nationality", "Set", "video_id"]
KS = (500, 1000, 1500)


@pytest.fixture(scope="module")
def state(golden_dir: Path) -> dict[str, torch.Tensor]:
    layout = json.loads((golden_dir / "state_dict_layouts.json").read_text())["cmpc"]
    return fill(layout) | {key: torch.tensor(0) for key in layout if key.endswith("num_batches_tracked")}


@pytest.fixture(scope="module")
def checkpoint(state: dict[str, torch.Tensor], tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model_best_256.pth.tar"
    torch.save({"epoch": 1, "model": state, "optimizer": {}, "train_criterion": {}}, path)
    return path


@pytest.fixture(scope="module")
def memory(tmp_path_factory) -> tuple[Path, Path]:
    """The memory and the index that golden/nearest_prototypes.json was made with."""
    folder = tmp_path_factory.mktemp("memory")
    rs = np.random.RandomState(SEED + 7)
    assignments = [torch.from_numpy(rs.randint(0, k, 600)) for k in KS]
    return write_memory(folder, [inp(f"c{k}", (k, 512)) for k in KS], assignments)


def write_memory(
    folder: Path, centroids: list[torch.Tensor], assignments: list[torch.Tensor], num_rows: int | None = None
) -> tuple[Path, Path]:
    memory_path, df_path = folder / "frame_memory_best_256.pth.tar", folder / "training.csv"
    torch.save({"inst2cluster": assignments, "centroids": centroids, "density": []}, memory_path)
    with df_path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for i in range(num_rows or len(assignments[0])):
            writer.writerow([f"person_{i // 6}", 1, "id10001", "f", "USA", "dev", f"video{i}"])
    return memory_path, df_path


def test_signatures_are_those_of_the_reference() -> None:
    empty = inspect.Parameter.empty
    expected = {
        "load": {"path": empty},
        "audio_preprocess": {"valid_level": 2, "min_time": 800},
        "visual_preprocess": {"img_size": 224},
        "getKNearestSamples": {
            "audio_feature": empty, "memory_path": empty, "df_path": empty, "cluster": 1000, "K": 3,
        },
    }  # fmt: skip
    for name, parameters in expected.items():
        found = inspect.signature(getattr(cmpc2, name)).parameters
        assert [(p.name, p.default) for p in found.values()] == list(parameters.items())
        assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in found.values())


# ---------------------------------------------------------------------------------------------------------------- model


def test_the_model_gives_the_golden_features(checkpoint: Path, golden_dir: Path, capsys) -> None:
    model = cmpc2.load(checkpoint).to(torch.device("cpu"))
    assert capsys.readouterr() == ("", "")
    model.eval().double()
    golden = np.load(golden_dir / "cmpc_encoders.npz")
    with torch.no_grad():
        for num_frames, size in ((800, 256), (500, 224)):
            voice = inp(f"voice{num_frames}", (2, 1, 64, num_frames)).double()
            face = inp(f"face{size}", (2, 3, size, size), -1).double()
            got = dict(zip((f"voice_{num_frames}", f"face_{size}"), model(voice, face), strict=True))
            for name, features in got.items():
                assert difference(features, golden[name]) < EXACT, name


def test_the_model_is_the_reference_s_in_all_but_name(checkpoint: Path, state: dict[str, torch.Tensor]) -> None:
    model = cmpc2.load(str(checkpoint))
    assert model.training  # "you should manually change the model mode"
    assert all(parameter.requires_grad for parameter in model.parameters())
    found = model.state_dict()
    assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)
    frame = inp("frame", (1, 3, 64, 64), lo=-1).requires_grad_()
    audio_emb, img_emb = model.eval()(inp("audio", (1, 1, 64, 80)), frame)  # the loss of the authors' voicestyle
    F.cosine_similarity(audio_emb, img_emb).sum().backward()
    assert frame.grad is not None and frame.grad.abs().max() > 0


def test_the_lines_of_their_readme(checkpoint: Path, memory: tuple[Path, Path], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "mine.txt").touch()
    Image.new("RGB", (64, 48), "red").save("xx.png")
    device = torch.device("cpu")
    model = cmpc2.load(checkpoint).to(device)
    model.eval()
    img_size = 64
    visual_preprocess, audio_preprocess = cmpc2.visual_preprocess(img_size), cmpc2.audio_preprocess()
    audio = audio_preprocess(str(VOICE)).unsqueeze(0).to(device)
    visual = visual_preprocess("xx.png").unsqueeze(0).to(device)
    assert torch.equal(visual, visual_preprocess(Image.open("xx.png")).unsqueeze(0))
    audio_emb, frame_emb = model(audio, visual)
    assert audio_emb.shape == frame_emb.shape == (1, 512)
    image_paths = cmpc2.getKNearestSamples(audio_emb, *memory, cluster=1000, K=3)
    assert all(isinstance(path, str) for path in image_paths)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["mine.txt", "tmp", "xx.png"]  # theirs deletes ./tmp


def test_import_cmpc2_itself(monkeypatch) -> None:
    names = ["cmpc2", "cmpc2.memory", "cmpc2.mfcc", "cmpc2.model", "cmpc2.fv_wrapper"]
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed; what was there comes back
    with pytest.raises(ImportError):
        importlib.import_module("cmpc2")
    cmpc2.install()
    found = {}
    lines = (
        "import cmpc2, cmpc2.memory",
        "from cmpc2 import load, load_voice",
        "from cmpc2.memory import getKNearestSamples",
        "from cmpc2.mfcc import MFCC, get_fbank",
        "from cmpc2.fv_wrapper import FV_Wrapper, load_model",
    )
    exec("\n".join(lines), found)
    assert found["cmpc2"].memory.getKNearestSamples is found["getKNearestSamples"] is cmpc2.getKNearestSamples
    assert found["MFCC"] is cmpc2.MFCC and found["load_model"] is cmpc2.load_model


def test_a_model_is_made_first_and_filled_then(checkpoint: Path, state: dict[str, torch.Tensor]) -> None:
    made = cmpc2.FV_Wrapper(pretrain=False, last_dim=512, proj_dim=512, proj=False, test_only=False)
    assert made.state_dict().keys() == state.keys()
    assert cmpc2.load_model(made, checkpoint) is made
    assert all(torch.equal(made.state_dict()[key], state[key]) for key in state)
    with pytest.raises(ValueError, match="pretrain True, last_dim 512: expected False and 512"):
        cmpc2.FV_Wrapper(True, 512, 512, False)


# ----------------------------------------------------------------------------------------------------------- front ends


def test_their_parts_of_the_front_end_make_the_whole() -> None:
    whole = cmpc2.audio_preprocess()(VOICE)
    spectra = cmpc2.MFCC(nfilt=64, lowerf=20.0, upperf=7200.0, samprate=16000, nfft=1024, wlen=0.025)
    made = cmpc2.get_fbank(str(VOICE), webrtcvad.Vad(2), spectra, 800)
    assert made.dtype == np.float32 and np.array_equal(made, whole.numpy())
    speech, _ = soundfile.read(VOICE, dtype="int16")
    samples = speech[:24000]
    log = spectra.sig2logspec(samples)
    assert log.shape == (24000 // 160 + 1, 64) and log.dtype == np.float64
    normal = (log - log.mean(0)) / (log.std(0) + np.finfo(np.float32).eps)
    expected = log_mel(torch.from_numpy(samples / 32768), replace(LogMelConfig.cmpc2(), num_frames=1), torch.float64)
    assert difference(torch.from_numpy(normal.T[None]), expected.numpy()) < 1e-6
    assert np.array_equal(spectra.sig2logspec(samples), log)  # there it depends on the clip before
    for wrong in ({"alpha": 0.9}, {"frate": 99}):
        with pytest.raises(ValueError, match="expected 0.97, and whole samples a frame"):
            cmpc2.MFCC(**wrong)


def test_windows_of_log_mels_that_lie_on_disk(tmp_path: Path) -> None:
    frames = np.arange(1000 * 64, dtype=np.float64).reshape(1000, 64)
    np.save(tmp_path / "a.npy", frames)
    np.random.seed(5)
    window = cmpc2.load_voice(min_time=800)(tmp_path / "a.npy")
    np.random.seed(5)
    start = np.random.randint(201)
    assert window.dtype == torch.float32 and window.shape == (1, 64, 800)
    assert np.array_equal(window[0].numpy(), frames[start : start + 800].T.astype(np.float32))
    with pytest.raises(ValueError, match=r"a\.npy: got \(1000, 64\), expected \(num_frames, 64\) of at least 1001"):
        cmpc2.load_voice(1001)(tmp_path / "a.npy")


@pytest.mark.parametrize("clip", CLIPS)
def test_recordings_golden(shared_dir: Path, golden_dir: Path, clip: str) -> None:
    fbank = cmpc2.audio_preprocess()(str(shared_dir / "data/reference_example/wav" / CLIPS[clip]))
    expected = torch.from_numpy(np.load(golden_dir / "fbank.npz")[f"{clip}_00001.wav"])
    assert fbank.dtype == torch.float32
    torch.testing.assert_close(fbank, expected, rtol=0, atol=1e-4)  # measured: 8e-6


def test_min_time_repeats_short_clips_and_never_cuts() -> None:
    bare = cmpc2.audio_preprocess(min_time=0)(VOICE)
    num_frames = bare.shape[-1]
    assert bare.shape == (1, 64, num_frames) and num_frames > 100
    longer = cmpc2.audio_preprocess(2, 2 * num_frames + 7)(VOICE)
    assert torch.equal(longer, torch.cat([bare, bare, bare[..., :7]], dim=-1))
    assert torch.equal(cmpc2.audio_preprocess(min_time=num_frames - 1)(VOICE), bare)
    torch.testing.assert_close(bare.mean(dim=-1), torch.zeros(1, 64), atol=1e-5, rtol=0)


def test_a_clip_without_speech_says_so(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(16000), 16000)
    with pytest.raises(ValueError, match=r"silence\.wav: no speech found"):
        cmpc2.audio_preprocess()(tmp_path / "silence.wav")
    with pytest.raises(FileNotFoundError, match="no such file"):
        cmpc2.audio_preprocess()(tmp_path / "nothing.wav")
    with pytest.raises(ValueError, match="valid_level: got 4, expected 0 to 3"):
        cmpc2.audio_preprocess(4)


def test_a_stricter_detector_keeps_less() -> None:
    longest = [cmpc2.audio_preprocess(level, min_time=1)(VOICE).shape[-1] for level in (0, 3)]
    assert longest[1] < longest[0]


def test_a_clip_of_another_rate_is_the_same_voice(tmp_path: Path) -> None:
    samples, rate = soundfile.read(VOICE)
    assert rate == 16000
    soundfile.write(tmp_path / "stereo.wav", np.stack([samples, samples], 1), 16000)
    preprocess = cmpc2.audio_preprocess()
    torch.testing.assert_close(preprocess(tmp_path / "stereo.wav"), preprocess(VOICE), atol=1e-3, rtol=0)
    soundfile.write(tmp_path / "fast.wav", np.repeat(samples, 2), 32000)
    assert abs(preprocess(tmp_path / "fast.wav").shape[-1] - preprocess(VOICE).shape[-1]) <= 20


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK"])
@pytest.mark.parametrize("size", [32, 64])
def test_pictures_are_resized_as_theirs(tmp_path: Path, mode: str, size: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).convert(mode)
    path = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    picture.save(path)
    theirs = np.transpose(np.array(picture.convert("RGB").resize([size, size])), (2, 0, 1))
    expected = torch.from_numpy(((theirs - 127.5) / 127.5).astype("float32"))
    for given in (path, str(path), picture):
        made = cmpc2.visual_preprocess(size)(given)
        assert made.dtype == torch.float32 and torch.equal(made, expected)


def test_every_level_of_gray_has_the_reference_s_value() -> None:
    levels = Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2))
    expected = ((np.arange(256) - 127.5) / 127.5).astype("float32").reshape(16, 16)
    assert np.array_equal(cmpc2.visual_preprocess(16)(levels)[0].numpy(), expected)


# ----------------------------------------------------------------------------------------------------------- prototypes


@pytest.mark.parametrize("cluster", KS)
def test_nearest_videos_golden(memory: tuple[Path, Path], golden_dir: Path, cluster: int) -> None:
    golden = json.loads((golden_dir / "nearest_prototypes.json").read_text())[str(cluster)]
    query = inp("query", (1, 512))
    assert cmpc2.getKNearestSamples(query, *memory, cluster=cluster, K=5) == golden
    assert cmpc2.getKNearestSamples(7 * query, str(memory[0]), str(memory[1]), cluster, 5) == golden
    assert all(len(path.split(os.path.sep)) == 3 for path in golden)


def test_a_prototype_without_members_is_never_chosen(tmp_path: Path) -> None:
    centroids = torch.eye(4, 512)
    centroids[1] = torch.nan
    paths = write_memory(tmp_path, [centroids], [torch.tensor([3, 0, 2, 0, 3])])
    query = F.pad(torch.tensor([[0.1, 0.9, 0.3, 0.2]], requires_grad=True), (0, 508))

    def videos(k: int) -> list[str]:
        return [Path(path).name for path in cmpc2.getKNearestSamples(query, *paths, cluster=4, K=k)]

    assert videos(1) == ["video2"]
    assert videos(2) == ["video0", "video2", "video4"]  # of prototypes 2 and 3, in the order of the data set
    assert videos(3) == [f"video{i}" for i in range(5)]
    with pytest.raises(ValueError, match="K: got 4, expected 1 to 3, the prototypes with members"):
        videos(4)


def test_what_does_not_fit_is_refused(memory: tuple[Path, Path], tmp_path: Path) -> None:
    query = inp("query", (1, 512))
    for cluster in (2000, 700, 100):  # theirs takes the first list for 700 and the last for 100
        with pytest.raises(ValueError, match=rf"K = \[500, 1000, 1500\], not for {cluster}"):
            cmpc2.getKNearestSamples(query, *memory, cluster=cluster)
    with pytest.raises(ValueError, match=r"audio_feature: got \(2, 512\), expected \(1, 512\)"):
        cmpc2.getKNearestSamples(query.repeat(2, 1), *memory)
    with pytest.raises(ValueError, match="audio_feature: NaN"):
        cmpc2.getKNearestSamples(query * torch.nan, *memory)
    with pytest.raises(FileNotFoundError):
        cmpc2.getKNearestSamples(query, tmp_path / "none.pth.tar", memory[1])
    with pytest.raises(FileNotFoundError):
        cmpc2.getKNearestSamples(query, memory[0], tmp_path / "none.csv")
    with pytest.raises(ValueError, match="599 rows for the 600 videos"):
        cmpc2.getKNearestSamples(query, memory[0], write_memory(tmp_path, [], [torch.zeros(599)])[1])
    (tmp_path / "other.csv").write_text("name,video\na,b\n")
    with pytest.raises(ValueError, match=r"other\.csv: .*columns \['name', 'video'\], expected 'VGGFace1 ID'"):
        cmpc2.getKNearestSamples(query, memory[0], tmp_path / "other.csv")
    torch.save({"model": {}}, tmp_path / "model.pth.tar")
    with pytest.raises(ValueError, match=r"model\.pth\.tar: .*expected a frame memory"):
        cmpc2.getKNearestSamples(query, tmp_path / "model.pth.tar", memory[1])


class Hostile:
    """Unpickling it would make a file."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("unsafe",)


def test_a_memory_that_would_run_code_is_refused(memory: tuple[Path, Path], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"centroids": [Hostile()], "inst2cluster": []}, "memory.pth.tar")
    with pytest.raises(ValueError, match=r"memory\.pth\.tar"):
        cmpc2.getKNearestSamples(inp("query", (1, 512)), "memory.pth.tar", memory[1])
    assert not Path("unsafe").exists()
