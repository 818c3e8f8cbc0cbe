"""Training pictures: a folder, shards and a manifest of the same pictures give the same batches."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import torch

from voicestyle.image import from_pil, load_image, save_png
from voicestyle.train.generator.settings import DataConfig
from voicestyle.train.pictures import PictureStream, list_pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures" / "more").mkdir(parents=True)
    for i in range(5):
        image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(i)) * 2 - 1
        save_png(image, tmp_path / "pictures" / ("more" if i > 2 else "") / f"{i}.png")
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    return tmp_path / "pictures"


def shards(folder: Path) -> str:
    for number, names in enumerate((["0", "1"], ["2", "more/3", "more/4"])):
        with tarfile.open(folder.parent / f"{number:03d}.tar", "w") as tar:
            for name in names:
                tar.add(folder / f"{name}.png", f"{name}.png")
                tar.add(folder / "notes.txt", f"{name}.txt")
    return str(folder.parent / "*.tar")


def manifest(folder: Path) -> str:
    rows = [f"{i},train,{i},{folder / ('more' if i > 2 else '') / f'{i}.png'}" for i in range(5)]
    (folder.parent / "faces.csv").write_text("\n".join(["key,split,identity,frontal", *rows]))
    return str(folder.parent / "faces.csv")


def test_folder_shards_and_manifest_give_the_same_pictures(folder: Path) -> None:
    want = [load_image(folder / ("more" if i > 2 else "") / f"{i}.png") for i in range(5)]
    for data in (
        DataConfig(folder=str(folder)),
        DataConfig(shards=shards(folder)),
        DataConfig(manifest=manifest(folder)),
    ):
        got = [from_pil(file.open()) for file in list_pictures(data)]
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("in_memory", [True, False])
def test_numbers_beyond_the_last_are_mirror_images(folder: Path, in_memory: bool) -> None:
    files = list_pictures(DataConfig(shards=shards(folder)))
    stream = PictureStream(files, 8, mirror=True, in_memory=in_memory, num_workers=2)
    assert len(stream) == 10
    batch = stream.batch(torch.tensor([1, 6, 4]), 8, then=torch.tensor([0, 0]))
    plain = load_image(folder / "1.png")
    assert torch.allclose(batch[0], plain[0], atol=1e-3) and torch.allclose(batch[1], plain[0].flip(2), atol=1e-3)
    ahead = stream.batch(torch.tensor([0, 0]), 4)
    assert ahead.shape == (2, 3, 4, 4)
    assert torch.allclose(ahead[0].mean(), load_image(folder / "0.png").mean(), atol=1e-3)
    assert torch.allclose(stream.batch(torch.tensor([2]), 8)[0], load_image(folder / "2.png")[0], atol=1e-3)
    stream.close()


def test_what_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        list_pictures(DataConfig(folder=str(tmp_path / "nowhere")))
    with pytest.raises(FileNotFoundError, match="no such shards"):
        list_pictures(DataConfig(shards=str(tmp_path / "nowhere-*.tar")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no picture"):
        list_pictures(DataConfig(folder=str(tmp_path / "empty")))


def test_damaged_and_compressed_shards_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "0.png").write_bytes(b"not a picture")
    file = list_pictures(DataConfig(shards=shards(folder)))[0]
    with pytest.raises(ValueError, match="000.tar: 0.png: not a picture, or of another format"):
        file.open()
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as tar:
        tar.add(folder / "1.png", "1.png")
    with pytest.raises(ValueError, match=r"packed.tar: not an uncompressed .tar"):
        list_pictures(DataConfig(shards=str(tmp_path / "packed.tar")))
