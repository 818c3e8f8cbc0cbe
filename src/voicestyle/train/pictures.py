"""Training pictures from a manifest, a folder or WebDataset shards, in memory or read ahead by threads."""

from __future__ import annotations

import glob
import io
import tarfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from voicestyle.data.folders import PICTURES, files_in
from voicestyle.data.manifest import Manifest
from voicestyle.image import from_pil, open_image
from voicestyle.schema import Count, SettingError


@dataclass(frozen=True)
class DataConfig:
    """The section ``[data]``: one of the three, see `list_pictures`."""

    manifest: str = ""  # frontal pictures of its `train` split
    folder: str = ""  # all pictures in it, at any depth
    shards: str = ""  # WebDataset .tar files: a pattern such as "faces/*.tar"
    mirror: bool = True  # mirror images too
    in_memory: bool = True  # decode once; needed where there are codes
    num_workers: Count = 4  # threads that decode, where not in memory

    def __post_init__(self) -> None:
        if sum(map(bool, (self.manifest, self.folder, self.shards))) != 1:
            raise SettingError("", "give one of manifest, folder and shards")


@dataclass(frozen=True)
class PictureFile:
    """Where one picture lies: a file, or a part of an uncompressed .tar."""

    path: Path
    name: str = ""  # in the .tar
    offset: int = 0  # bytes
    length: int = 0

    def open(self) -> Image.Image:
        """The decoded picture, RGB.

        Raises:
            FileNotFoundError, ValueError: no such file, or damaged
        """
        if not self.name:
            return open_image(self.path)
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.length)
        return open_image(io.BytesIO(data), f"{self.path}: {self.name}")


def list_pictures(data: DataConfig) -> list[PictureFile]:
    """Every picture of the section ``[data]``, in a fixed order.

    Raises:
        FileNotFoundError: no such folder, manifest or shard
        ValueError: no pictures there
    """
    if data.manifest:
        items = Manifest.read(data.manifest).split("train")
        found, what = [PictureFile(item.frontal) for item in items if item.frontal], "frontal picture in split 'train'"
    elif data.folder:
        if not Path(data.folder).is_dir():
            raise FileNotFoundError(f"{data.folder}: no such folder")
        paths = sorted(files_in(Path(data.folder), PICTURES, recursive=True))
        found, what = [PictureFile(path) for path in paths], f"picture ({', '.join(PICTURES)})"
    else:
        shards = sorted(glob.glob(data.shards))
        if not shards:
            raise FileNotFoundError(f"{data.shards}: no such shards")
        found, what = [file for shard in shards for file in _members(Path(shard))], f"picture ({', '.join(PICTURES)})"
    if not found:
        raise ValueError(f"{data.manifest or data.folder or data.shards}: no {what}")
    return found


def _members(shard: Path) -> list[PictureFile]:
    """The pictures of a .tar, in its order; their bytes are read later, at random."""
    try:
        with tarfile.open(shard, "r:") as tar:
            members = [m for m in tar if m.isfile() and Path(m.name).suffix.lower() in PICTURES]
    except tarfile.TarError as error:
        raise ValueError(f"{shard}: not an uncompressed .tar ({error}); shards are read at random places") from None
    return [PictureFile(shard, m.name, m.offset_data, m.size) for m in members]


class PictureStream:
    """Pictures by their number, scaled; with `mirror`, mirror images have the numbers from `len(files)` on."""

    def __init__(
        self, files: list[PictureFile], size: int, *, mirror: bool, in_memory: bool = True, num_workers: int = 4
    ) -> None:
        self.files, self.size, self.mirror = files, size, mirror
        self.held = torch.cat([from_pil(file.open(), size).half() for file in files]) if in_memory else None
        self._pool = None if in_memory else ThreadPoolExecutor(num_workers)
        self._ahead: tuple[list[int], list[Future[Tensor]]] = ([], [])

    def __len__(self) -> int:
        return len(self.files) * (2 if self.mirror else 1)

    def batch(self, rows: Tensor, size: int, then: Tensor | None = None) -> Tensor:
        """Pictures (N,3,size,size) of `rows` (N,); threads read those of `then` until they are asked for.

        Raises:
            FileNotFoundError, ValueError: a picture is missing or damaged
        """
        numbers = (rows % len(self.files)).tolist()
        if self.held is not None:
            image = self.held[numbers].float()
        else:
            futures = self._ahead[1] if self._ahead[0] == numbers else self._read(numbers)
            image = torch.cat([future.result() for future in futures])
            following = [] if then is None else (then % len(self.files)).tolist()
            self._ahead = (following, self._read(following))
        image = torch.where((rows < len(self.files))[:, None, None, None], image, image.flip(3))
        return F.interpolate(image, size=size, mode="area") if image.shape[-1] != size else image

    def close(self) -> None:
        """Stop the threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _read(self, numbers: list[int]) -> list[Future[Tensor]]:
        assert self._pool is not None
        return [self._pool.submit(_decode, self.files[number], self.size) for number in numbers]


def _decode(file: PictureFile, size: int) -> Tensor:
    return from_pil(file.open(), size)
