"""What a worker does with some items: it keeps one model in memory, and a bad item costs the others nothing."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from voicestyle.bulk.items import Input
from voicestyle.config import Side

if TYPE_CHECKING:
    from torch import Tensor

    from voicestyle.pipeline import VoiceStyle

What = Literal["generate", "embed", "invert"]
Keyed = tuple[str, Input]  # content key, item


@dataclass(frozen=True)
class Job:
    """What is to be done with each item, by which model. Can be pickled: it is sent to workers."""

    what: What
    kind: Side
    model: str
    device: str | None = None
    dtype: str = "float32"
    options: dict[str, Any] = field(default_factory=dict)  # of the method of `VoiceStyle`; JSON-ready

    def work(self, batch: Sequence[Keyed]) -> list[Row]:
        """One row an item, in their order."""
        start = time.perf_counter()
        vs = _model(self.model, self.device, self.dtype)
        rows = {"generate": _generate, "embed": _embed, "invert": _invert}[self.what](vs, self, batch)
        spent = (time.perf_counter() - start) / len(batch)
        me = f"{socket.gethostname()}:{multiprocessing.current_process().pid}"
        return [Row(key, item.name, found, me, spent) for (key, item), found in zip(batch, rows, strict=True)]


@dataclass(frozen=True)
class Row:
    """What came of an item: plain values, an ``error`` in the place of results, and a picture (PNG) where one came."""

    key: str
    name: str
    found: dict[str, Any]
    worker: str = ""
    seconds: float = 0.0

    @property
    def error(self) -> str | None:
        """What was wrong with the item, or None."""
        return self.found.get("error")


@lru_cache(maxsize=1)
def _model(name: str, device: str | None, dtype: str) -> VoiceStyle:
    import torch

    from voicestyle import pipeline

    return pipeline.load(name, device, getattr(torch, dtype))


@contextlib.contextmanager
def _file(item: Input) -> Iterator[Path]:
    """The item as a file, for as long as the block lasts."""
    if isinstance(item.content, Path):
        yield item.content
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"item{item.suffix}"
        path.write_bytes(item.content)
        yield path


def _each(batch: Sequence[Keyed], read: Callable[[Path], Any]) -> list[Any]:
    """What `read` makes of each item; an error as ``{"error": text}``."""
    from voicestyle.files import named

    done: list[Any] = []
    for _, item in batch:
        try:
            with _file(item) as path, named(item.name):
                done.append(read(path))
        except (ValueError, OSError) as error:
            done.append({"error": str(error)})
    return done


def _good(read: Sequence[Any]) -> list[int]:
    """The places of what is no error."""
    return [place for place, value in enumerate(read) if not isinstance(value, dict)]


def _embed(vs: VoiceStyle, job: Job, batch: Sequence[Keyed]) -> list[dict[str, Any]]:
    encode = vs.encode_voice if job.kind == "voice" else vs.encode_face
    found = _each(batch, lambda path: encode(path, **job.options))
    return [value if isinstance(value, dict) else {"embedding": value[0].tolist()} for value in found]


def _generate(vs: VoiceStyle, job: Job, batch: Sequence[Keyed]) -> list[dict[str, Any]]:
    """One face a voice; all of the batch are guided together, which changes none of them."""
    import torch

    from voicestyle.config import GuidanceConfig

    settings = GuidanceConfig(**job.options["guidance"])
    rows = _each(batch, lambda path: vs.encode_voice(path, vad=job.options["vad"]))
    good = _good(rows)
    if good:
        voices = torch.cat([rows[place] for place in good])
        for place, made in zip(good, vs.generate_together(voices, settings, job.options["seed"]), strict=True):
            rows[place] = {
                "embedding": rows[place][0].tolist(),
                "w": made.w[0].tolist(),
                "similarity": made.similarity.item(),
                "picture": _png(made.image, made.metadata()),
            }
    return rows


def _invert(vs: VoiceStyle, job: Job, batch: Sequence[Keyed]) -> list[dict[str, Any]]:
    import torch

    options = dict(job.options)
    align = options.pop("align", False)
    rows = _each(batch, lambda path: vs.aligned(path, align))
    good = _good(rows)
    if good:
        options.setdefault("region", vs.default_region(align))
        found = vs.invert(torch.cat([rows[place] for place in good]), **options)
        images = vs.synthesize(found.w)
        for at, place in enumerate(good):
            w = found.w[at].flatten().tolist()
            picture = _png(images[at : at + 1], vs.metadata())
            rows[place] = {"w": w, "loss": found.loss[at].item(), "picture": picture}
    return rows


def _png(image: Tensor, metadata: dict[str, str]) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    from voicestyle.image import to_pil

    info = PngInfo()
    for keyword, text in metadata.items():
        info.add_text(keyword, text)
    file = io.BytesIO()
    to_pil(image)[0].save(file, "PNG", pnginfo=info)
    return file.getvalue()
