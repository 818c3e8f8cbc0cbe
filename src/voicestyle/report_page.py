"""The report as one HTML file that needs nothing else: no script, no outside request, and good on paper."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

from torch import Tensor

from voicestyle.files import written_whole
from voicestyle.generation import Generation
from voicestyle.image import to_pil
from voicestyle.label import labelled
from voicestyle.live import Heard, outline_svg
from voicestyle.pipeline import VoiceStyle
from voicestyle.report import make_report
from voicestyle.show import evidence, way_tiles

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
QUALITY = 90  # of the JPEGs
TILE, FACE = 100, 200  # pixels on the page, about: what has less than twice as many is enlarged for its label
STYLE = """
:root { color-scheme: light dark; --ground: #faf9f6; --card: #fff; --ink: #1e1c19; --soft: #5d5850; --line: #e3dfd7;
  --accent: #0d625b; --bar: #c3bdb2; }
@media (prefers-color-scheme: dark) { :root { --ground: #151412; --card: #1e1d1a; --ink: #efebe4; --soft: #b0a99e;
  --line: #33302b; --accent: #7fd0c6; --bar: #56514a; } }
* { box-sizing: border-box; }
body { background: var(--ground); color: var(--ink); font: 17px/1.55 system-ui, sans-serif; max-width: 700px;
  margin: 0 auto; padding: 40px 20px 56px; }
h1, h2 { font-family: "Iowan Old Style", "Palatino Linotype", Palatino, Georgia, "DejaVu Serif", serif;
  font-weight: 500; line-height: 1.2; text-wrap: balance; }
h1 { font-size: clamp(1.7rem, 1.2rem + 2.4vw, 2.3rem); margin: 0 0 .3em; letter-spacing: -.01em; }
h2 { font-size: 1.28rem; margin: 0 0 .45em; }
p { margin: .4em 0; text-wrap: pretty; } .soft { color: var(--soft); }
section { border-top: 1px solid var(--line); margin-top: 30px; padding-top: 24px; }
section p { color: var(--soft); } section.first p { color: var(--ink); font-size: 1.08rem; }
figure { margin: 0; } img { display: block; width: 100%; border-radius: 14px; }
.faces { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 220px)); gap: 14px; margin: 26px 0 10px; }
.faces.one { grid-template-columns: min(100%, 300px); }
.wave svg { display: block; margin-top: 14px; width: 100%; height: 62px; }
.wave rect { fill: var(--bar); } .wave rect.speech { fill: var(--accent); }
figcaption { color: var(--soft); font-size: .8rem; line-height: 1.35; margin-top: 5px; }
h3 { font-size: .95rem; margin: 22px 0 10px; text-wrap: pretty; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(90px, 1fr)); gap: 14px 12px; }
.tiles img { border-radius: 10px; }
p.legend { font-size: .86rem; margin-top: 12px; }
.made p { overflow-wrap: anywhere; }
footer { border-top: 1px solid var(--line); margin-top: 36px; padding-top: 14px; font-size: .86rem; }
@media print {
  :root { color-scheme: light; --ground: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #ccc; --accent: #0d625b;
    --bar: #bbb; }
  body { font-size: 11pt; max-width: none; padding: 0; } h2, h3 { break-after: avoid; }
  figure, section.first { break-inside: avoid; } .tiles { grid-template-columns: repeat(6, 1fr); }
  svg, img { print-color-adjust: exact; }
}
"""


def report_html(vs: VoiceStyle, made: Generation, voice: Heard, report: dict[str, Any]) -> str:
    """One HTML page with its pictures in it; it asks for nothing else, and runs no script."""
    faces = "".join(_picture(image, f"AI-generated face {i + 1}") for i, image in enumerate(made.image.split(1)))
    first, *others = report["sections"]
    after = {"Where the face comes from": _pictures(vs, made)}
    wave = f'<figure class="wave">{outline_svg(voice.outline)}</figure>'
    parts = [_section(first, "first"), _section(others[0], "", wave)]
    parts += [_section(part, "made" if part is others[-1] else "", after.get(part["title"], "")) for part in others[1:]]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>What this voice suggests</title><style>{STYLE}</style></head><body><main>"
        f"<h1>What this voice suggests, and how sure that is</h1>"
        f'<p class="soft">{html.escape(vs.metadata()["AI-generated"])}</p>'
        f'<div class="faces{" one" if len(made.image) == 1 else ""}">{faces}</div>{"".join(parts)}</main>'
        '<footer class="soft">Every picture is AI-generated. No race or ethnicity is estimated: skin and hair come '
        "from the training pictures. Do not use this to decide anything about a person.</footer></body></html>\n"
    )


def save_report(vs: VoiceStyle, made: Generation, voice: Heard, path: str | Path, command: str = "") -> dict[str, Any]:
    """The report, after writing it as one HTML file, whole or not at all."""
    report = make_report(vs, made, voice, command)
    with written_whole(path) as beside:
        beside.write_text(report_html(vs, made, voice, report), encoding="utf-8")
    return report


def _section(part: dict[str, Any], kind: str = "", more: str = "") -> str:
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in part["lines"])
    return f'<section class="{kind}"><h2>{html.escape(part["title"])}</h2>{lines}{more}</section>'


def _pictures(vs: VoiceStyle, made: Generation) -> str:
    """The members, their prototypes, and the way to each face."""
    shown = evidence(vs, made.prototypes)
    members = [(m["image"], f"{m['fit']}\nof prototype {m['prototype']}") for m in shown["members"]]
    prototypes = [
        (p["image"], f"prototype {p['prototype']}\n{p['place']}\nmean of its {p['size']}") for p in shown["prototypes"]
    ]
    found = _tiles(shown["members_title"], members) + _tiles(shown["prototypes_title"], prototypes)
    found += f'<p class="legend">{html.escape(shown["legend"].capitalize())}.</p>' if shown["legend"] else ""
    for face in range(len(made.w)):
        found += _tiles(f"From the start to face {face + 1}", way_tiles(vs, made, face, 4))
    return found


def _tiles(title: str, tiles: list[Any]) -> str:
    figures = ""
    for image, caption in tiles:
        words = html.escape(caption).replace("\n", "<br>")
        figures += f"<figure>{_picture(image)}<figcaption>{words}</figcaption></figure>"
    return f'<h3>{html.escape(title)}</h3><div class="tiles">{figures}</div>'


def _picture(image: Tensor, alt: str = "") -> str:
    """A labelled picture (1,3,size,size) as an element; one without `alt` is told by its caption."""
    file = io.BytesIO()
    (pil,) = to_pil(image)
    labelled(pil, 2 * TILE if not alt else 2 * FACE).save(file, "JPEG", quality=QUALITY)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/jpeg;base64,{data}">'
