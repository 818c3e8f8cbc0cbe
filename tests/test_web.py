"""The interface for programs: jobs, sessions, limits and doors, on a tiny model and without a socket."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np
import PIL.Image
import pytest
import soundfile
from click.testing import CliRunner

from tiny import VOICE, save_tiny

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
from starlette.testclient import TestClient  # noqa: E402

from voicestyle import pipeline  # noqa: E402
from voicestyle.cli import main  # noqa: E402
from voicestyle.image import to_pil  # noqa: E402
from voicestyle.replay import describe_face, make_again  # noqa: E402
from voicestyle.web import uploads  # noqa: E402
from voicestyle.web.app import create_app  # noqa: E402
from voicestyle.web.settings import ServeSettings  # noqa: E402
from voicestyle.web.watching import JsonLines  # noqa: E402

HOME = "http://127.0.0.1:8000"
Connect = Callable[..., TestClient]


@pytest.fixture(scope="module")
def vs(tmp_path_factory: pytest.TempPathFactory) -> pipeline.VoiceStyle:
    return pipeline.load(save_tiny(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def connect(vs: pipeline.VoiceStyle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Starts a server with the settings that are given; more visitors of the same one by `visitor`."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    running = []

    def start(base_url: str = HOME, **settings: Any) -> TestClient:
        made = ServeSettings(**settings)
        client = TestClient(create_app(vs, made), base_url=base_url, root_path=made.root_path)
        client.__enter__()
        running.append(client)
        return client

    yield start
    for client in running:
        client.__exit__(None, None, None)
    assert not list(tmp_path.glob(f"{uploads.PREFIX}*")), "the folder of uploads is left"


def visitor(client: TestClient) -> TestClient:
    """Somebody else who asks the same server."""
    return TestClient(client.app, base_url=HOME)


def ask(client: TestClient, kind: str = "generate", **fields: Any) -> dict[str, Any]:
    """The job that was taken."""
    files = {name: fields.pop(name) for name in ("voice", "face", "image") if name in fields}
    if not files:
        fields.setdefault("example", "slt")
    answer = client.post(f"/api/v1/{kind}", data=fields, files=files)
    assert answer.status_code == 202, answer.text
    return answer.json()


def finished(client: TestClient, job: dict[str, Any], status: str = "done") -> dict[str, Any]:
    """The job once it is over."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        state = client.get(f"/api/v1/jobs/{job['id']}").json()
        if state["status"] not in ("queued", "running"):
            assert state["status"] == status, state
            return state
        time.sleep(0.02)
    raise AssertionError("the job does not end")


def told(client: TestClient, job: dict[str, Any], **headers: str) -> list[tuple[int, str, dict[str, Any]]]:
    """What the job tells, to its end."""
    text = client.get(f"/{job['events']}", headers=headers).text
    events = [dict(line.split(": ", 1) for line in part.splitlines()) for part in text.split("\n\n") if "id:" in part]
    return [(int(e["id"]), e["event"], json.loads(e["data"])) for e in events]


def test_a_voice_becomes_faces_step_by_step(connect: Connect) -> None:
    client = connect()
    job = ask(client, voice=("voice.flac", VOICE.read_bytes()), seed=3, num_faces=2)
    assert job["status"] in ("queued", "running") and job["ahead"] == 0
    events = told(client, job)
    assert [number for number, _, _ in events] == list(range(len(events)))
    names = [name for _, name, _ in events]
    in_order = list(dict.fromkeys(names))
    assert in_order == ["started", "voice", "prototypes", "start", "step", "faces", "report", "way", "files", "done"]
    assert names.count("step") == 4 and names.count("way") == 2
    result = finished(client, job)["result"]
    assert result["seed"] == 3 and len(result["similarity"]) == 2
    for _, _, data in events:
        for name in [*data.get("pictures", []), *data.get("files", [])]:
            assert client.get(f"/{job['files']}/{name}").status_code == 200, name


def test_pictures_say_what_they_are(connect: Connect) -> None:
    client = connect()
    job = ask(client)
    finished(client, job)
    face = PIL.Image.open(io.BytesIO(client.get(f"/{job['files']}/face-1.png").content))
    assert face.text["AI-generated"].startswith("AI-generated") and face.text["seed"] == "0"
    shown = PIL.Image.open(io.BytesIO(client.get(f"/{job['files']}/start.jpg").content))
    assert shown.info["comment"].startswith(b"AI-generated")
    moving = PIL.Image.open(io.BytesIO(client.get(f"/{job['files']}/way-1.gif").content))
    assert moving.n_frames > 10 and moving.info["comment"].startswith(b"AI-generated")


def test_the_answer_is_that_of_the_library(connect: Connect, vs: pipeline.VoiceStyle) -> None:
    client = connect()
    made = vs.generate(VOICE, seed=5)
    job = ask(client, seed=5)
    result = finished(client, job)["result"]
    assert result["similarity"] == pytest.approx(made.similarity.tolist(), abs=1e-5)
    embedded = finished(client, ask(client, "embed"))["result"]["embedding"]
    assert np.allclose(embedded, vs.encode_voice(VOICE)[0], atol=1e-5)
    nearest = finished(client, ask(client, "retrieve", k=2))["result"]
    expected = vs.nearest_prototypes(vs.encode_voice(VOICE), 2).prototypes
    assert [p["prototype"] for p in nearest["prototypes"]] == expected.tolist()


def test_a_photograph_beside_a_voice_gets_a_percentile_and_no_name(connect: Connect) -> None:
    client = connect()
    voice = ask(client)
    finished(client, voice)
    result = finished(client, ask(client, "embed", face=_picture(), align=False, of=voice["id"]))["result"]
    assert 0 <= result["percentile"] <= 100 and result["among"] == 40


def test_a_picture_is_projected(connect: Connect) -> None:
    client = connect()
    result = finished(client, ask(client, "invert", image=_picture(), align=False, steps=2))["result"]
    assert len(result["latent"]) == 16 and result["files"] == ["picture.png"]


def test_the_command_line_makes_the_same_face_again(connect: Connect, vs: pipeline.VoiceStyle, tmp_path: Path) -> None:
    client = connect()
    job = ask(client, seed=7, num_faces=2)
    finished(client, job)
    recipe = tmp_path / "face.json"
    recipe.write_bytes(client.get(f"/{job['files']}/face.json").content)
    out = tmp_path / "again"
    arguments = ["replay", str(recipe), "-o", str(out), "--model", str(vs.model.folder), "--device", "cpu"]
    run = CliRunner().invoke(main, arguments)
    assert run.exit_code == 0, run.output
    for face, image in enumerate(to_pil(vs.generate(VOICE, seed=7, num_faces=2).image)):
        made = np.asarray(PIL.Image.open(out / f"face-{face + 1}.png"), int)
        assert abs(made - np.asarray(image, int)).max() <= 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "else"}, "expected 'voicestyle face 1'"),
        ({"encoder_fingerprint": "0" * 64}, "name its model"),
        ({"voice_emb": [1.0]}, "damaged"),
        ({"settings": {"steps": 3, "x": 1}}, "no setting 'x'"),
        ({"seed": None}, "damaged"),
    ],
)
def test_a_file_of_another_kind_makes_no_face(
    vs: pipeline.VoiceStyle, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    made = vs.generate(VOICE, steps=0)
    path = tmp_path / "face.json"
    path.write_text(json.dumps({**describe_face(made, vs), **change}))
    with pytest.raises(ValueError, match=said) as caught:
        make_again(vs, path)
    assert str(path) in str(caught.value)


# ------------------------------------------------------------------------------------------------------- whose it is


def test_a_second_visitor_finds_nothing_of_the_first(connect: Connect) -> None:
    client = connect()
    job = ask(client, "retrieve")
    finished(client, job)
    other = visitor(client)
    ask(other, "retrieve")  # has a session of its own
    picture = finished(client, job)["result"]["members"][0]["picture"]
    for path in (f"/api/v1/jobs/{job['id']}", f"/{job['events']}", f"/{job['files']}/{picture}.jpg"):
        assert client.get(path).status_code == 200
        assert other.get(path).status_code == 404, path
        assert visitor(client).get(path).status_code == 404, path
    assert other.delete(f"/api/v1/jobs/{job['id']}").status_code == 404
    assert job["id"] not in other.get("/api/v1/jobs").text
    until = time.monotonic() + 60
    while other.get("/api/v1/jobs").json()[0]["status"] in ("queued", "running") and time.monotonic() < until:
        time.sleep(0.02)
    fields = {"of": job["id"], "align": "false"}
    assert other.post("/api/v1/embed", data=fields, files={"face": _picture()}).status_code == 404


def test_the_name_of_a_session_cannot_be_guessed_or_read_by_scripts(connect: Connect) -> None:
    client = connect()
    answer = client.post("/api/v1/embed", data={"example": "slt"})
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower()
    assert len(client.cookies["voicestyle_session"]) >= 43  # 256 bits


def test_who_leaves_leaves_nothing(connect: Connect, tmp_path: Path) -> None:
    client = connect()
    job = ask(client, steps=200)
    assert client.delete("/api/v1/session").status_code == 204
    assert client.get(f"/api/v1/jobs/{job['id']}").status_code == 404
    _until(lambda: not _uploads(tmp_path))


def test_an_upload_goes_when_its_job_ends(connect: Connect, tmp_path: Path) -> None:
    client = connect()
    finished(client, ask(client, "embed"))
    assert _uploads(tmp_path) == []
    finished(client, ask(client, voice=io.BytesIO(b"RIFF\0\0\0\0WAVEbroken")), "failed")
    assert _uploads(tmp_path) == []


def test_what_a_killed_server_left_goes_when_the_next_one_starts(tmp_path: Path) -> None:
    left = tmp_path / f"{uploads.PREFIX}old"
    left.mkdir()
    (left / uploads.LOCK).touch()
    (left / "somebody.wav").write_bytes(b"voice")
    mine = uploads.UploadFolder(tmp_path)
    assert not left.exists() and mine.path.stat().st_mode & 0o777 == 0o700
    assert uploads.remove_abandoned(tmp_path) == []  # a running one keeps its own
    mine.remove()
    assert not mine.path.exists()


# ------------------------------------------------------------------------------------------------------------ limits


def test_a_job_stops_within_a_step(connect: Connect) -> None:
    client = connect()
    job = ask(client, steps=300)
    _until(lambda: client.get(f"/api/v1/jobs/{job['id']}").json()["status"] == "running")
    assert client.delete(f"/api/v1/jobs/{job['id']}").status_code == 202
    finished(client, job, "stopped")
    assert len([1 for _, name, _ in told(client, job) if name == "step"]) < 300


def test_one_job_a_session_and_a_bounded_queue(connect: Connect) -> None:
    client = connect(max_queue=1, grace_s=0.1)
    ask(client, steps=300, num_faces=4)
    answer = client.post("/api/v1/generate", data={"example": "rms"})
    assert answer.status_code == 409 and answer.headers["content-type"] == "application/problem+json"
    _until(lambda: client.get("/api/v1/jobs").json()[0]["status"] == "running")
    waits = ask(visitor(client))
    assert waits["ahead"] == 1
    refused = visitor(client).post("/api/v1/generate", data={"example": "rms"})
    assert refused.status_code == 503 and "retry-after" in refused.headers


def test_nobody_watching_stops_a_watched_job(connect: Connect) -> None:
    client = connect(unattended_s=0.2)
    finished(client, ask(client, steps=300, num_faces=4, watch="true"), "stopped")


def test_a_job_has_a_deadline(connect: Connect) -> None:
    client = connect(deadline_s=0.05)
    job = finished(client, ask(client, steps=300, num_faces=4), "stopped")
    assert "longer" in job["problem"]["detail"]


def test_a_decoder_that_hangs_is_ended_with_its_job(connect: Connect) -> None:
    client = connect()
    service = client.app.state.service
    service.jobs.deadline_s = 0.3
    hanging = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdin=PIPE, stdout=PIPE)
    service.decoder.stop()
    service.decoder._process = hanging
    job = finished(client, ask(client, "embed"), "stopped")
    assert "longer" in job["problem"]["detail"] and hanging.poll() is not None
    service.jobs.deadline_s = 60.0
    finished(client, ask(client, "embed"))  # by a new process


def test_a_decoder_that_breaks_down_fails_its_job_alone(connect: Connect) -> None:
    client = connect()
    service = client.app.state.service
    service.decoder.stop()
    service.decoder._process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=PIPE, stdout=PIPE)
    job = finished(client, ask(client, "embed"), "failed")
    assert job["problem"]["detail"].startswith("your file: it broke the decoder")
    finished(client, ask(client, "embed"))


def test_nothing_is_left_running(connect: Connect) -> None:
    client = connect()
    process = client.app.state.service.decoder.start()
    assert process.poll() is None
    client.__exit__(None, None, None)
    assert process.poll() is not None
    client.__enter__()


def test_an_upload_is_refused_while_it_arrives(connect: Connect) -> None:
    client = connect(max_upload_bytes=100_000)
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="voice"; filename="a.wav"\r\n\r\n'
        for _ in range(1000):
            sent += 10_000
            yield b"\0" * 10_000

    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = client.post("/api/v1/generate", content=body(), headers=headers)
    assert answer.status_code == 413 and "MB" in answer.json()["detail"]
    declared = client.post("/api/v1/generate", content=b"", headers={**headers, "content-length": "1000000"})
    assert declared.status_code == 413


@pytest.mark.parametrize(
    ("kind", "field", "content", "said"),
    [
        ("generate", "voice", b"", "empty"),
        ("generate", "voice", b"MZ\x90\0 not a sound", "not known"),
        ("generate", "voice", b"\x89PNG\r\n\x1a\n a picture named clip.wav", "is a picture"),
        ("invert", "image", b"RIFF\0\0\0\0WAVE a sound named face.png", "is a recording"),
        ("embed", "face", b"#EXTM3U\nhttp://127.0.0.1/secret", "not known"),
    ],
)
def test_files_are_known_by_what_is_in_them(
    connect: Connect, tmp_path: Path, kind: str, field: str, content: bytes, said: str
) -> None:
    name = {"voice": "clip.wav"}.get(field, "face.png")
    answer = connect().post(f"/api/v1/{kind}", files={field: (name, content)})
    assert answer.status_code == 422 and said in answer.json()["detail"]
    assert _uploads(tmp_path) == []


def test_a_failed_job_says_why_and_not_where(connect: Connect, tmp_path: Path) -> None:
    client = connect()
    file = io.BytesIO()
    soundfile.write(file, np.zeros(16000), 16000, format="WAV")
    failed = finished(client, ask(client, voice=("secret-name.wav", file.getvalue())), "failed")
    assert failed["problem"]["status"] == 422 and "silence" in failed["problem"]["detail"]
    assert str(tmp_path) not in failed["problem"]["detail"]


def test_seconds_and_pixels_are_limited_too(connect: Connect, tmp_path: Path) -> None:
    client = connect(max_voice_s=2, max_pixels=4000)
    problem = finished(client, ask(client, "embed"), "failed")["problem"]
    assert "at most 2 s" in problem["detail"] and str(tmp_path) not in problem["detail"]
    answer = client.post("/api/v1/invert", files={"image": _picture()})
    assert answer.status_code == 422 and "64 x 64 pixels" in answer.json()["detail"]
    assert _uploads(tmp_path) == []


@pytest.mark.parametrize("fields", [{"num_faces": 99}, {"steps": -1}, {"seed": "x"}, {"k": 0}, {"example": "../../x"}])
def test_settings_out_of_range_are_refused(connect: Connect, fields: dict[str, Any]) -> None:
    answer = connect().post("/api/v1/generate", data={"example": "slt", **fields})
    assert answer.status_code == 422 and answer.headers["content-type"] == "application/problem+json"


# ------------------------------------------------------------------------------------------------------------- doors


@pytest.mark.parametrize("path", ["/", "/docs", "/static/style.css", "/api/v1/model", "/nothing", "/api/v1/jobs/x"])
def test_every_answer_is_guarded(connect: Connect, path: str) -> None:
    headers = connect().get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert headers["x-frame-options"] == "DENY" and headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("headers", [{"sec-fetch-site": "cross-site"}, {"origin": "https://elsewhere.example"}])
def test_pages_of_other_sites_cannot_ask(connect: Connect, headers: dict[str, str]) -> None:
    client = connect()
    assert client.post("/api/v1/generate", data={"example": "slt"}, headers=headers).status_code == 403
    assert client.delete("/api/v1/session", headers=headers).status_code == 403


def test_a_foreign_name_for_this_machine_is_refused(connect: Connect) -> None:
    client = connect()
    assert client.get("/", headers={"host": "attacker.example"}).status_code == 421
    assert client.get("/", headers={"host": "localhost:8000"}).status_code == 200


def test_other_addresses_need_a_token(connect: Connect) -> None:
    with pytest.raises(ValueError, match="needs a token"):
        ServeSettings(host="0.0.0.0")
    with pytest.raises(ValueError, match="at least 16"):
        ServeSettings(host="0.0.0.0", token="short")
    token = "a-token-that-nobody-guesses"
    client = connect(host="0.0.0.0", token=token, base_url="http://server.example:8000")
    for path in ("/", "/api/v1/model", "/static/app.js", "/metrics", "/?token=wrong-token-wrong-token"):
        assert client.get(path).status_code == 401, path
    assert client.get("/healthz").status_code == 200
    assert client.get("/api/v1/model", headers={"authorization": f"Bearer {token}"}).status_code == 200
    answer = client.get("/", params={"token": token}, follow_redirects=False)
    assert answer.status_code == 303 and token not in answer.headers["location"]
    assert client.get("/").status_code == 200
    assert client.get("/api/v1/model").status_code == 200


def test_a_prefix_behind_a_proxy(connect: Connect) -> None:
    client = connect(root_path="/voices", allowed_hosts=("localhost",))
    answer = client.post("/voices/api/v1/embed", data={"example": "slt"})
    assert answer.status_code == 202 and "Path=/voices" in answer.headers["set-cookie"]
    assert client.get("/voices/static/style.css").status_code == 200


# ------------------------------------------------------------------------------------------------- who runs the server


def test_numbers_and_logs_tell_no_names(connect: Connect) -> None:
    client = connect()
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(JsonLines().format(record))  # type: ignore[method-assign]
    log = logging.getLogger("voicestyle.web")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        job = ask(client, "embed", voice=("my-secret-name.flac", VOICE.read_bytes()))
        finished(client, job)
    finally:
        log.removeHandler(handler)
    metrics = client.get("/metrics").text
    assert 'voicestyle_jobs_total{kind="embed",status="done"} 1.0' in metrics
    entries = [json.loads(line) for line in lines]
    assert {"method", "route", "status", "ms"} <= set(entries[0])
    for secret in ("secret", job["id"], client.cookies["voicestyle_session"]):
        assert secret not in metrics and not any(secret in line for line in lines)


def test_the_interface_is_described(connect: Connect) -> None:
    client = connect()
    paths = client.get("/openapi.json").json()["paths"]
    assert {f"/api/v1/{kind}" for kind in ("generate", "embed", "retrieve", "invert")} <= set(paths)


def _picture() -> tuple[str, bytes]:
    file = io.BytesIO()
    PIL.Image.effect_noise((64, 64), 50).convert("RGB").save(file, "PNG")
    return "face.png", file.getvalue()


def _uploads(folder: Path) -> list[str]:
    return [path.name for path in folder.glob(f"{uploads.PREFIX}*/*") if path.name != uploads.LOCK]


def _until(condition: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "does not come"
        time.sleep(0.02)


def test_the_client_of_the_document_gets_a_face(connect: Connect) -> None:
    document = (Path(__file__).parents[1] / "docs" / "web.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(import time.*?)```", document, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code[1], names)  # noqa: S102
    picture = PIL.Image.open(io.BytesIO(names["face_of"](connect(), VOICE.read_bytes(), seed=0)))
    assert picture.size == (32, 32)
