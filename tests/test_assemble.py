"""Trained parts become one model folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tiny import save_tiny, tiny_generator
from voicestyle.build.assemble import assemble_model
from voicestyle.checkpoint import load_model
from voicestyle.config import GuidanceConfig
from voicestyle.schema import to_dict
from voicestyle.train.run import dump_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> dict:
    save_tiny(tmp_path / "encoder")
    run = tmp_path / "generator"
    run.mkdir()
    generator = tiny_generator()
    torch.save(generator.state_dict(), run / "generator.pt")
    (run / "recipe.toml").write_text(dump_recipe({"generator": to_dict(generator.config)}))
    (tmp_path / "card.md").write_text("# A card\n")
    (tmp_path / "upstream.bin").write_bytes(b"abc")
    return {
        "name": "joined", "license": "none", "encoder": str(tmp_path / "encoder"), "generator": str(run),
        "card": str(tmp_path / "card.md"), "guidance": to_dict(GuidanceConfig(k=2)),
        "files": [str(tmp_path / "upstream.bin")], "sources": {"pairs": "drawn"},
    }  # fmt: skip


def test_a_model_of_both_parts(recipe: dict, tmp_path: Path) -> None:
    model = load_model(assemble_model(recipe, tmp_path / "joined"))
    assert model.config.name == "joined" and model.config.guidance.k == 2
    assert model.bank is None
    # float16 is what is stored of a kernel
    assert torch.allclose(model.generator.synthesis.const, tiny_generator().synthesis.const, atol=2e-3)
    sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc", FIPS 180-2, appendix B.1
    assert model.metadata["sources"] == {"pairs": "drawn", "sha256": {"upstream.bin": sha}}
    assert (tmp_path / "joined" / "README.md").read_text() == "# A card\n"


@pytest.mark.parametrize(
    ("key", "message"), [("generator", "finished generator run"), ("card", "model card"), ("encoder", "no such model")]
)
def test_a_missing_part_is_named(recipe: dict, tmp_path: Path, key: str, message: str) -> None:
    with pytest.raises(FileNotFoundError, match=message):
        assemble_model({**recipe, key: str(tmp_path / "nowhere")}, tmp_path / "joined")
    assert not (tmp_path / "joined").exists()
