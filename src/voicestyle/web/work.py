"""What the jobs do, in the worker's thread: one function of the package each, its pictures as files of the job."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL.Image
import torch
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from voicestyle.image import open_image, to_pil
from voicestyle.label import labelled
from voicestyle.live import Heard, compare, hear, prototypes, watch_generation, watch_ways
from voicestyle.replay import describe_face
from voicestyle.report import make_report
from voicestyle.report_page import report_html
from voicestyle.show import generation_sheet
from voicestyle.web.apart import Decoder
from voicestyle.web.jobs import File, Job

if TYPE_CHECKING:
    from voicestyle.pipeline import VoiceStyle

AGAIN = "voicestyle replay face.json -o face.png"
QUALITY = 88  # of JPEG: what is shown on the way; results are PNG
SHOWN = 256  # pixels: what is smaller is enlarged, or its label could not be read
Pictures = dict[str, PIL.Image.Image]
Listen = Callable[[Job], Heard]


class Teller:
    """What a watched function calls: its pictures become labelled files of the job, their names part of the event."""

    def __init__(self, job: Job, vs: VoiceStyle) -> None:
        self.job, self.vs = job, vs
        self.made: dict[str, File] = {}

    def __call__(self, name: str, data: dict[str, Any], pictures: Pictures) -> None:
        self.job.check()
        files = {f"{key}.jpg": jpeg(picture, self.vs.metadata()) for key, picture in pictures.items()}
        self.made |= files
        self.job.emit(name, {**data, "pictures": sorted(files)}, files)


def listener(vs: VoiceStyle, decoder: Decoder, max_s: float) -> Callable[[Path], Listen]:
    """For a recording, the function that hears it in a job; its decoding ends when the job has to."""

    def listen(clip: Path) -> Listen:
        def work(job: Job) -> Heard:
            def load(path: Path | str, rate: int) -> Tensor:
                return torch.from_numpy(decoder.load(path, rate, job.check))

            return hear(vs, clip, max_s, load=load)

        return work

    return listen


def generate(vs: VoiceStyle, listen: Listen, **options: Any) -> Callable[[Job], dict[str, Any]]:
    """Faces for a voice, step by step; in the end pictures as PNG, their sheet, moving pictures, and a recipe."""

    def work(job: Job) -> dict[str, Any]:
        tell = Teller(job, vs)
        job.kept = listen(job)
        made = watch_generation(vs, job.kept, tell, **options)
        report = make_report(vs, made, job.kept, AGAIN)
        tell("report", report, {})  # which can be read while the rest is drawn
        watch_ways(vs, made, tell)
        files = {"sheet.png": png(generation_sheet(vs, made), vs.metadata())}
        for face, picture in enumerate(to_pil(made.image)):
            files[f"face-{face + 1}.png"] = png(labelled(picture), made.metadata(face))
            frames = [tell.made[name].content for name in sorted(tell.made) if name.startswith(f"way-{face + 1}-")]
            files[f"way-{face + 1}.gif"] = gif(frames, made.metadata(face))
        files["face.json"] = File("application/json", json.dumps(describe_face(made, vs), indent=1).encode())
        files["report.html"] = File("text/html; charset=utf-8", report_html(vs, made, job.kept, report).encode())
        job.emit("files", {"files": sorted(files)}, files)
        return {**made.summary(), "report": report, "files": sorted(files)}

    return work


def retrieve(vs: VoiceStyle, listen: Listen, k: int | None, num_members: int | None) -> Callable[[Job], dict[str, Any]]:
    """The prototypes nearest to a voice."""

    def work(job: Job) -> dict[str, Any]:
        nearest = vs.nearest_prototypes(listen(job).voice_emb, k, num_members)
        told, pictures = prototypes(vs, nearest)
        Teller(job, vs)("prototypes", told, pictures)
        shown = {prototype["prototype"]: prototype for prototype in told["prototypes"]}
        every = [{**one, **shown.get(one["prototype"], {})} for one in vs.describe(nearest)["prototypes"]]
        return {**told, "prototypes": every}

    return work


def embed_voice(listen: Listen) -> Callable[[Job], dict[str, Any]]:
    """The embedding of a voice."""
    return lambda job: {"embedding": listen(job).voice_emb[0].tolist()}


def embed_face(vs: VoiceStyle, picture: Path, align: bool, voice: Heard | None) -> Callable[[Job], dict[str, Any]]:
    """The embedding of a face; beside the voice of an earlier job, how similar they are among random people too."""

    def work(job: Job) -> dict[str, Any]:
        face_emb = vs.encode_face(picture, align)
        result: dict[str, Any] = {"embedding": face_emb[0].tolist()}
        if voice is not None:
            result |= compare(vs, voice.voice_emb, face_emb)
        return result

    return work


def invert(
    vs: VoiceStyle, picture: Path, align: bool, steps: int, space: Any, seed: int
) -> Callable[[Job], dict[str, Any]]:
    """A picture, projected into the latent space."""

    def work(job: Job) -> dict[str, Any]:
        tell = Teller(job, vs)

        def observe(step: int, image: Any, w: Any, loss: Any) -> None:
            shown = to_pil(image) if step % 10 == 0 else []
            tell("step", {"step": step + 1, "of": steps}, {f"step-{step:03d}-1": pil for pil in shown})

        target = vs.aligned(picture, align)
        found = vs.invert(target, space, steps=steps, seed=seed, region=vs.default_region(align), callback=observe)
        (made,) = to_pil(vs.synthesize(found.w))
        files = {"picture.png": png(labelled(made), vs.metadata())}
        job.emit("files", {"files": sorted(files)}, files)
        return {"loss": found.loss.item(), "latent": found.w[0].tolist(), "files": sorted(files)}

    return work


def jpeg(picture: PIL.Image.Image, metadata: dict[str, str]) -> File:
    """A labelled JPEG; what it is stands in its comment too."""
    file = io.BytesIO()
    labelled(picture, SHOWN).save(file, "JPEG", quality=QUALITY, comment=metadata["AI-generated"].encode())
    return File("image/jpeg", file.getvalue())


def png(picture: PIL.Image.Image, metadata: dict[str, str]) -> File:
    info = PngInfo()
    for keyword, text in metadata.items():
        info.add_text(keyword, text)
    file = io.BytesIO()
    picture.save(file, "PNG", pnginfo=info)
    return File("image/png", file.getvalue())


def gif(frames: list[bytes], metadata: dict[str, str]) -> File:
    """There and back again, from pictures that are labelled already."""
    pictures = [open_image(io.BytesIO(frame), "frame") for frame in frames]
    first, *others = [picture.quantize(method=PIL.Image.Quantize.FASTOCTREE) for picture in pictures]
    file = io.BytesIO()
    first.save(
        file,
        "GIF",
        save_all=True,
        append_images=[*others, *others[-2::-1]],
        duration=60,
        loop=0,
        comment=metadata["AI-generated"].encode("ascii", "replace"),
    )
    return File("image/gif", file.getvalue())
