"""What a voice suggests and how sure that is: as values, and as sentences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from voicestyle.checkpoint import SUGGESTION
from voicestyle.generation import Generation
from voicestyle.live import Heard
from voicestyle.pipeline import VoiceStyle
from voicestyle.suggestion import Suggestion

Sections = list[dict[str, Any]]  # title, lines
LITTLE = 0.7  # of the width of the constant guess: an interval that is not narrower says little


def make_report(vs: VoiceStyle, made: Generation, voice: Heard, command: str = "") -> dict[str, Any]:
    """All that the report says, as plain JSON-ready values; `sections` has it in words."""
    report: dict[str, Any] = {
        "voice": {"doubt": voice.doubt, **{name: voice.outline[name] for name in ("seconds", "speech_s")}},
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
    if known is None:
        return None
    return known(voice.features[0].double().cpu().numpy(), voice.outline["speech_s"], voice.doubt)


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
    faces = [round(s, 3) for s in made.similarity.tolist()]
    found: dict[str, Any] = {"faces": faces, "percentile": made.percentile, "random": None}
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
        {"title": "What the voice suggests", "lines": _said(report["suggestion"], report["voice"]["doubt"])},
        {"title": "How sure that is", "lines": _sure(report)},
        {"title": "How far the faces agree", "lines": _agreed(report["faces"])},
        {"title": "How similar voice and face are", "lines": _similar(report["similarity"])},
        {"title": "Where the face comes from", "lines": _evidence(report["evidence"])},
        {"title": "How it was made", "lines": _made(report)},
    ]


def _said(suggestion: dict[str, Any] | None, doubt: str | None) -> list[str]:
    if doubt is not None:
        return [
            f"Do not believe this face: {doubt}. Noise and music get a face, too.",
            "Nothing is said of sex or age.",
        ]
    if suggestion is None:
        return ["This model was not calibrated, so nothing is said of the speaker's sex or age."]
    lines = []
    sex, age = suggestion["sex"], suggestion["age"]
    if sex["withheld"] and sex["withheld"] == age["withheld"]:
        return [f"Sex and age: no answer, because {_reasons(sex)}."]
    if sex["withheld"]:
        lines.append(f"Sex: no answer, because {_reasons(sex)}.")
    else:
        likelier = max(("woman", "man"), key=lambda name: sex[name])
        lines.append(f"It sounds like a {likelier}. {_of_hundred(sex[likelier])}")
    if age["withheld"]:
        return [*lines, f"Age: no answer, because {_reasons(age)}."]
    low, high = age["constant"]
    return [
        *lines,
        f"It sounds like somebody who looks {age['from']} to {age['to']} years old. Such an interval holds for about "
        f"{100 * age['coverage']:.0f} of 100 people. Without the voice it would be {low} to {high}"
        + (", so this says little." if age["to"] - age["from"] > LITTLE * (high - low) else "."),
    ]


def _reasons(withheld: dict[str, Any]) -> str:
    return "; ".join(withheld["withheld"])


def _of_hundred(share: float) -> str:
    if share > 0.99:
        return "Of 100 voices with such an answer, it is wrong for fewer than one."
    return f"Of 100 voices with such an answer, it is right for about {round(100 * share)}."


def _sure(report: dict[str, Any]) -> list[str]:
    voice, halves = report["voice"], report["halves"]
    lines = [f"{voice['seconds']:.1f} s were recorded, {voice['speech_s']:.1f} s are left without the silence."]
    if halves is None:
        return [*lines, "That is too short to compare the halves of the clip."]
    lines.append(f"The two halves of the clip have a similarity of {halves['similarity']:.2f} (1: the same).")
    if halves["woman"] is not None and voice["doubt"] is None:
        first, second = halves["woman"]
        agree, name = "agree" if (first > 0.5) == (second > 0.5) else "disagree", "woman"
        if first + second < 1:
            first, second, name = 1 - first, 1 - second, "man"
        lines.append(f"Heard alone, they {agree}: a {name} by {first:.0%} and by {second:.0%}.")
    return lines


def _agreed(faces: dict[str, Any]) -> list[str]:
    random = "" if faces["random"] is None else f" Faces of random people: {faces['random']:.2f}."
    if faces["agreement"] is None:
        return ["One face was made. Several would show what the voice leaves open."]
    return [f"The {faces['num']} faces have a mean similarity of {faces['agreement']:.2f} to each other.{random}"]


def _similar(similarity: dict[str, Any]) -> list[str]:
    lines = ["Each face was made to be similar to the voice, so this is no measure of truth."]
    if similarity["percentile"] is not None:
        found = ", ".join(str(min(99, int(100 * share))) for share in similarity["percentile"])
        return [f"Of 100 random pairs of a voice and a face, so many are less alike: {found}.", *lines]
    lines.insert(0, f"Similarity: {', '.join(f'{value:.2f}' for value in similarity['faces'])}.")
    if similarity["random"] is not None:
        low, _, high = similarity["random"]
        lines.append(f"Half of the faces of random people lie between {low:.2f} and {high:.2f} for this voice.")
    return lines


def _evidence(evidence: dict[str, Any]) -> list[str]:
    members = evidence["members"]
    used = len({member["prototype"] for member in members})
    return [
        f"The search started from the mean of {len(members)} of the faces that the model has learnt from, as its "
        f"generator draws them; they belong to {used} of the {len(evidence['prototypes'])} groups nearest to the voice."
    ]


def _made(report: dict[str, Any]) -> list[str]:
    made = report["made"]
    line = f"Model {made['model']}, version {made['version']}, seed {made['seed']}, {made['steps']} steps"
    return [f"{line}, {made['settings']} settings.", *([f"Command: {report['command']}"] if report["command"] else [])]
