"""What a voice suggests and how sure that is: as values, as sentences, and as one page that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor

from voicestyle.checkpoint import SUGGESTION
from voicestyle.files import written_whole
from voicestyle.generation import Generation
from voicestyle.image import to_pil
from voicestyle.label import labelled
from voicestyle.live import Heard, outline_svg
from voicestyle.pipeline import VoiceStyle
from voicestyle.show import generation_sheet
from voicestyle.suggestion import Suggestion

Sections = list[dict[str, Any]]  # title, lines


def make_report(vs: VoiceStyle, made: Generation, voice: Heard, command: str = "") -> dict[str, Any]:
    """All that the report says, as plain JSON-ready values; `sections` has it in words."""
    report: dict[str, Any] = {
        "voice": {name: voice.outline[name] for name in ("seconds", "speech_s")},
        "suggestion": suggest(vs, voice),
        "halves": _halves(vs, voice),
        "faces": _agreement(vs, made),
        "similarity": _similarities(vs, made),
        "evidence": dict(made.evidence),
        "made": {name: made.summary()[name] for name in ("model", "version", "seed", "steps", "settings")},
        "command": command,
    }
    return {**report, "sections": sections(report)}


def suggest(vs: VoiceStyle, voice: Heard) -> dict[str, Any] | None:
    """Sex and age that a voice suggests; None for a model that was not calibrated."""
    known = _suggestion(vs)
    return None if known is None else known(voice.features[0].double().cpu().numpy(), voice.outline["speech_s"])


def _suggestion(vs: VoiceStyle) -> Suggestion | None:
    path = vs.model.folder / SUGGESTION
    return Suggestion.load(path, vs.model.encoder_fingerprint) if path.is_file() else None


def _halves(vs: VoiceStyle, voice: Heard) -> dict[str, Any] | None:
    """How alike the two halves of the clip are, and what each suggests; None where it is too short."""
    if voice.halves is None:
        return None
    emb, features = voice.halves
    found: dict[str, Any] = {"similarity": round((emb[0] @ emb[1]).item(), 3), "woman": None}
    known = _suggestion(vs)
    if known is not None:
        # what is withheld of the whole is withheld of a half; here it is asked how far the number moves
        said = [known.woman(part.double().cpu().numpy()) for part in features]
        found["woman"] = [round(p, 3) for p in said]
    return found


def _agreement(vs: VoiceStyle, made: Generation) -> dict[str, Any]:
    """How alike the faces are, beside how alike faces of random people of the bank are."""
    emb = vs.encode_face(made.image)
    others = vs.bank.member_emb
    return {
        "num": len(emb),
        "agreement": None if len(emb) < 2 else round(_mean_pair(emb), 3),
        "random": None if others is None or len(others) < 2 else round(_mean_pair(others), 3),
    }


def _mean_pair(emb: Tensor) -> float:
    """The mean cosine of two different rows of (N,D)."""
    emb = emb.double()
    total = emb.sum(0).square().sum() - emb.square().sum()
    return (total / (len(emb) * (len(emb) - 1))).item()


def _similarities(vs: VoiceStyle, made: Generation) -> dict[str, Any]:
    """Similarity of the voice and each face, and the middle half of that of the voice and random people's faces."""
    found: dict[str, Any] = {"faces": [round(s, 3) for s in made.similarity.tolist()], "random": None}
    others = vs.bank.member_emb
    if others is not None:
        middle = torch.tensor([0.25, 0.5, 0.75])
        quartiles = (others @ made.voice_emb[0].to(others)).quantile(middle)
        found["random"] = [round(q, 3) for q in quartiles.tolist()]
    return found


# -------------------------------------------------------------------------------------------------------------- words


def sections(report: dict[str, Any]) -> Sections:
    """The report in sentences."""
    return [
        {"title": "What the voice suggests", "lines": _said(report["suggestion"])},
        {"title": "How sure that is", "lines": _sure(report)},
        {"title": "How far the faces agree", "lines": _agreed(report["faces"])},
        {"title": "How similar voice and face are", "lines": _similar(report["similarity"])},
        {"title": "Where the face comes from", "lines": _evidence(report["evidence"])},
        {"title": "How it was made", "lines": _made(report)},
    ]


def _said(suggestion: dict[str, Any] | None) -> list[str]:
    if suggestion is None:
        return ["This model was not calibrated, so nothing is said of the speaker's sex or age."]
    sex, age = suggestion["sex"], suggestion["age"]
    if sex["withheld"]:
        lines = [f"Sex: no answer, because {'; '.join(sex['withheld'])}."]
    else:
        likelier = max(("woman", "man"), key=lambda name: sex[name])
        share = round(100 * sex[likelier])
        lines = [f"It sounds like a {likelier}'s voice. Of 100 voices with this answer, about {share} are."]
    if age["withheld"]:
        return [*lines, f"Age: no answer, because {'; '.join(age['withheld'])}."]
    low, high = age["constant"]
    return [
        *lines,
        f"It sounds like somebody who looks {age['from']} to {age['to']} years old. Such intervals hold for about "
        f"{100 * age['coverage']:.0f} of 100 people; without hearing the voice it would be {low} to {high}.",
    ]


def _sure(report: dict[str, Any]) -> list[str]:
    voice, halves = report["voice"], report["halves"]
    lines = [f"{voice['seconds']:.1f} s were recorded, {voice['speech_s']:.1f} s of speech kept."]
    if halves is None:
        return [*lines, "That is too short to compare the halves of the clip."]
    lines.append(f"The two halves of the clip have a similarity of {halves['similarity']:.2f} (1: the same).")
    if halves["woman"] is not None:
        first, second = (f"{p:.0%}" for p in halves["woman"])
        lines.append(f"Heard alone, the first half sounds like a woman by {first}, the second by {second}.")
    return lines


def _agreed(faces: dict[str, Any]) -> list[str]:
    random = "" if faces["random"] is None else f"; faces of random people: {faces['random']:.2f}"
    if faces["agreement"] is None:
        return [f"One face was made; several would show what the voice leaves open{random}."]
    return [f"The {faces['num']} faces have a mean similarity of {faces['agreement']:.2f} to each other{random}."]


def _similar(similarity: dict[str, Any]) -> list[str]:
    found = ", ".join(f"{value:.2f}" for value in similarity["faces"])
    lines = [f"{found}. The face was made to be similar, so this is no measure of truth."]
    if similarity["random"] is not None:
        low, middle, high = similarity["random"]
        lines.append(f"Faces of random people and this voice: half of them between {low:.2f} and {high:.2f}.")
    return lines


def _evidence(evidence: dict[str, Any]) -> list[str]:
    nearest = ", ".join(f"{p['prototype']} ({p['similarity']:.2f})" for p in evidence["prototypes"])
    members = ", ".join(f"{m['member']} ({m['similarity']:.2f})" for m in evidence["members"])
    return [f"Nearest prototypes, with their similarity: {nearest}.", f"Members whose mean it started from: {members}."]


def _made(report: dict[str, Any]) -> list[str]:
    made = report["made"]
    line = f"Model {made['model']}, version {made['version']}, seed {made['seed']}, {made['steps']} steps"
    return [f"{line}, {made['settings']} settings.", *([f"Command: {report['command']}"] if report["command"] else [])]


# --------------------------------------------------------------------------------------------------------------- page


POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --ground: #faf9f6; --ink: #1e1c19; --soft: #5d5850; --line: #e3dfd7; }
@media (prefers-color-scheme: dark) { :root { --ground: #151412; --ink: #efebe4; --soft: #b0a99e; --line: #33302b; } }
body { background: var(--ground); color: var(--ink); font: 17px/1.55 system-ui, sans-serif; max-width: 660px;
  margin: 0 auto; padding: 32px 20px 60px; }
h1 { font: 500 1.9rem/1.2 Georgia, serif; } h2 { font-size: 1.05rem; margin: 1.8em 0 .3em; }
p { margin: .35em 0; } .soft { color: var(--soft); } figure { margin: 20px 0; }
img { max-width: 100%; border-radius: 14px; } .faces { display: flex; flex-wrap: wrap; gap: 12px; }
.faces img { width: 200px; } svg { width: 100%; height: 62px; } rect { fill: #8a8378; } rect.speech { fill: #1f7a72; }
footer { border-top: 1px solid var(--line); margin-top: 36px; padding-top: 14px; font-size: .88rem; }
"""


def report_html(vs: VoiceStyle, made: Generation, voice: Heard, report: dict[str, Any]) -> str:
    """One HTML page with its pictures in it; it asks for nothing else, and runs no script."""
    faces = [_embedded(labelled(pil), f"AI-generated face {i + 1}") for i, pil in enumerate(to_pil(made.image))]
    body = ""
    for part in report["sections"]:
        body += f"<h2>{html.escape(part['title'])}</h2>"
        body += "".join(f"<p>{html.escape(line)}</p>" for line in part["lines"])
    sheet = _embedded(labelled(generation_sheet(vs, made)), "The prototypes, their members, and the way to the face")
    notice = html.escape(vs.metadata()["AI-generated"])
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>What a voice suggests</title><style>{STYLE}</style></head><body><main><h1>What this voice suggests, "
        f'and how sure that is</h1><p class="soft">{notice}</p><div class="faces">{"".join(faces)}</div>'
        f"<figure>{outline_svg(voice.outline)}</figure>{body}<figure>{sheet}</figure></main>"
        '<footer class="soft">No race or ethnicity is estimated: skin and hair come from the training pictures. Do not '
        "use this to decide anything about a person.</footer></body></html>\n"
    )


def save_report(vs: VoiceStyle, made: Generation, voice: Heard, path: str | Path, command: str = "") -> dict[str, Any]:
    """The report, after writing it as one HTML file, whole or not at all."""
    report = make_report(vs, made, voice, command)
    with written_whole(path) as beside:
        beside.write_text(report_html(vs, made, voice, report), encoding="utf-8")
    return report


def _embedded(pil: PIL.Image.Image, alt: str) -> str:
    file = io.BytesIO()
    pil.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'
