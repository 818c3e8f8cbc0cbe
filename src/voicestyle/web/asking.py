"""The interface for programs, first half: what can be asked for. Each answer is a job."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Depends, File, Form, UploadFile

from voicestyle.web import work
from voicestyle.web.service import JobState, Service, heard
from voicestyle.web.sessions import Session

Voice = File(default=None, description="A recording; any common format")
Face = File(default=None, description="A photograph, in place of a voice")
Picture = File(description="A picture of a face")
Example = Form(default=None, description="In place of a recording: the name of an example voice")
Earlier = Form(default=None, description="A generation of yours: its voice is taken, or compared with the face")
Watched = Form(default=False, description="Stop the job when nobody listens to its events any more")


def asking(service: Service) -> APIRouter:
    """What can be asked for; each answer is a job."""
    router = APIRouter()
    vs, settings = service.vs, service.settings
    asks = Depends(service.session)
    accepted: dict[str, Any] = {"status_code": 202, "response_model": JobState}

    @router.post("/generate", **accepted)
    async def generate(
        session: Session = asks,
        voice: UploadFile | None = Voice,
        example: str | None = Example,
        seed: int = Form(default=0, ge=0, lt=2**31, description="The same seed, the same faces"),
        num_faces: int = Form(default=1, ge=1, le=settings.max_faces),
        steps: int | None = Form(default=None, ge=0, le=settings.max_steps, description="Guided; default: the model's"),
        k: int | None = Form(default=None, ge=1, le=50, description="Nearest prototypes; default: the model's"),
        of: str | None = Earlier,
        watch: bool = Watched,
    ) -> JobState:
        """Faces that fit a voice. They are plausible, and identify nobody."""
        service.check_free(session)
        options = {"seed": seed, "num_faces": num_faces, "steps": steps, "k": k}
        if of is not None:
            earlier = heard(session, of)
            return service.add(session, "generate", None, work.generate(vs, lambda job: earlier, **options), watch)
        upload = await service.keep(voice, "voice", example)
        task = work.generate(vs, service.listen(upload), **options)
        return service.add(session, "generate", upload, task, watch)

    @router.post("/embed", **accepted)
    async def embed(
        session: Session = asks,
        voice: UploadFile | None = Voice,
        example: str | None = Example,
        face: UploadFile | None = Face,
        align: bool = Form(default=True, description="Find the face in the photograph first"),
        of: str | None = Earlier,
        watch: bool = Watched,
    ) -> JobState:
        """The unit embedding of a voice or a face; a face also beside the voice of an earlier job."""
        service.check_free(session)
        if face is None:
            upload = await service.keep(voice, "voice", example)
            return service.add(session, "embed", upload, work.embed_voice(service.listen(upload)), watch)
        other = None if of is None else heard(session, of)
        upload = await service.keep(face, "picture")
        return service.add(session, "embed", upload, work.embed_face(vs, upload, align, other), watch)

    @router.post("/retrieve", **accepted)
    async def retrieve(
        session: Session = asks,
        voice: UploadFile | None = Voice,
        example: str | None = Example,
        k: int | None = Form(default=None, ge=1, le=50),
        num_members: int | None = Form(default=None, ge=1, le=100),
        watch: bool = Watched,
    ) -> JobState:
        """The prototypes nearest to a voice, and their members."""
        service.check_free(session)
        upload = await service.keep(voice, "voice", example)
        task = work.retrieve(vs, service.listen(upload), k, num_members)
        return service.add(session, "retrieve", upload, task, watch)

    @router.post("/invert", **accepted)
    async def invert(
        session: Session = asks,
        image: UploadFile = Picture,
        align: bool = Form(default=True, description="Find the face in the picture first"),
        steps: int = Form(default=50, ge=0, le=settings.max_steps),
        space: Literal["w", "w_plus"] = Form(default="w", description="One latent, or one a layer"),
        seed: int = Form(default=0, ge=0, lt=2**31),
        watch: bool = Watched,
    ) -> JobState:
        """A picture, projected into the latent space of the generator."""
        service.check_free(session)
        upload = await service.keep(image, "picture")
        return service.add(session, "invert", upload, work.invert(vs, upload, align, steps, space, seed), watch)

    return router
