"""docs/toy.md: from made-up recordings and pictures to a face, by the very commands that it names."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from voicestyle.cli import main
from voicestyle.image import picture_size

ROOT = Path(__file__).resolve().parents[1]
SHORTER = {  # the same in fewer steps, of a smaller network
    "train encoder": "--set schedule.steps=4",
    "train generator": "--set stages.low.steps=2 --set stages.low.samples=4 --set stages.high.steps=1 "
    "--set stages.high.samples=4 --set generator.channel_max=8",
    "models assemble": "--set guidance.steps=2",
    "prototypes build": "--steps 1",
}


@pytest.mark.filterwarnings("default:.*no speech found")
def test_the_way_from_toy_training_to_a_face(tmp_path: Path, monkeypatch) -> None:
    (commands,) = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "toy.md").read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    torch.manual_seed(0)
    first, *rest = map(shlex.split, commands.splitlines())
    assert first == ["python", "examples/toy.py", "toy"]
    runpy.run_path(str(ROOT / "examples" / "toy.py"))["main"](Path("toy"))
    for program, *arguments in rest:
        assert program == "voicestyle"
        shorter = next((more for name, more in SHORTER.items() if " ".join(arguments).startswith(name)), "")
        done = CliRunner().invoke(main, [*arguments, *shlex.split(shorter)])
        assert done.exit_code == 0, f"{arguments}: {done.output} {done.exception!r}"
    assert picture_size("toy/eve.png") == (64, 64) and Path("toy/eve-sheet.png").is_file()
