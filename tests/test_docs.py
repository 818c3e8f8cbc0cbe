"""The documents say what the program does. ``python tests/test_docs.py`` writes docs/cli.md anew."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from listing import readme
from voicestyle.cli import main
from voicestyle.embedded import EMBEDDED, MODELS

ROOT = Path(__file__).resolve().parents[1]
HEAD = "# Commands\n\nWhat `voicestyle COMMAND --help` prints.\n"


def commands(group: click.Group = main, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The path of each command that is no group, the program itself first."""
    found = [path] if path == () else []
    for name in sorted(group.commands):
        command = group.commands[name]
        found += commands(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
    return found


def cli_document() -> str:
    parts = [HEAD]
    for path in commands():
        printed = CliRunner().invoke(main, [*path, "--help"], prog_name="voicestyle", terminal_width=80).output
        parts.append(f"\n## {' '.join(('voicestyle', *path))}\n\n```\n{printed}```\n")
    return "".join(parts)


def test_the_command_reference_is_what_the_program_prints() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == cli_document(), "python tests/test_docs.py writes it anew"


def test_the_readme_names_commands_that_exist() -> None:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = [
        line.split("#")[0].split() for block in blocks for line in block.splitlines() if line.startswith("voicestyle")
    ]
    assert len(lines) >= 8
    for words in lines:
        command: click.Command = main
        for word in words[1:]:
            if not isinstance(command, click.Group):
                break
            assert word in command.commands, " ".join(words)
            command = command.commands[word]
        options = {name for option in command.params for name in option.opts}
        assert {w for w in words if re.fullmatch(r"--?[a-z-]+", w)} <= options, " ".join(words)


def test_the_readme_has_one_line_a_source_file() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme(text) == text, "python dev/listing.py writes it anew"


def test_the_embedded_model_carries_its_card() -> None:
    assert (MODELS / EMBEDDED / "README.md").read_text() == (ROOT / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize("path", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda p: p.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert "://" in target or (path.parent / target).exists(), target


if __name__ == "__main__":
    (ROOT / "docs" / "cli.md").write_text(cli_document())
