"""The README as a package index shows it, where there is no folder beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)]+)\)")


def for_index(text: str, repository: str | None = None) -> str:
    """The text with absolute links into the repository; without one, with the names of files and without pictures."""
    if repository:
        root = repository.rstrip("/")
        return LINK.sub(lambda m: f"{m[1]}[{m[2]}]({root}/{'raw' if m[1] else 'blob'}/main/{m[3]})", text)
    return LINK.sub(lambda m: "" if m[1] else m[2] if m[2] == m[3] else f"{m[2]} (`{m[3]}`)", text)


class Readme(MetadataHookInterface):
    """Takes the place of ``readme`` in pyproject.toml."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        shown = for_index(text, metadata.get("urls", {}).get("Repository"))
        metadata["readme"] = {"content-type": "text/markdown", "text": shown}
