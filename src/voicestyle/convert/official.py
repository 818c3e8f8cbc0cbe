"""A set of the authors' files as one model folder of ours, checked against them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from voicestyle.checkpoint import check_replaceable, save_model
from voicestyle.config import CmpcSize, VoiceStyleConfig
from voicestyle.convert import cmpc, ir_se50, stylegan2
from voicestyle.convert.check import DTYPE, check_encoder, check_generator, check_identity
from voicestyle.convert.memory import read_catalogue
from voicestyle.files import sha256_of
from voicestyle.published import KNOWN
from voicestyle.weights import fingerprint

RELEASE_224 = ("checkpoint_CMPC", "checkpoint_CID")  # names of the files that were trained at 224 px
ADDRESSES = {file.name: file.address for files in KNOWN.values() for file in files}
CARD = """# {config.name}

The weights of CMPC (Zhu et al., IJCAI 2022), VoiceStyle (Chen et al., ACM TOMM 2024) and those whom they build on,
converted by `voicestyle models convert`. They belong to their authors, whose terms apply. Research use only.
License: {config.license}. A generated face is one that the voice makes plausible; it identifies nobody.

| part | file | from | sha256 |
|---|---|---|---|
{rows}
- voices: front end `{front_end}`; faces: {cmpc_size} px
{notes}"""


@dataclass(frozen=True)
class OfficialFiles:
    """The authors' files; only the first is needed."""

    cmpc: Path  # the two towers
    memory: Path | None = None  # the prototypes; with
    index: Path | None = None  # the videos behind them
    stylegan: Path | None = None  # the generator
    identity: Path | None = None  # the face network of the identity loss

    def __post_init__(self) -> None:
        if (self.memory is None) != (self.index is None):
            raise ValueError("prototypes need both the memory (--memory) and the index of its videos (--index)")
        for part, path in self.given().items():
            if not path.is_file():  # now, not after minutes of work on the others
                raise FileNotFoundError(f"{path}: no such file, expected the one for --{part}")

    def given(self) -> dict[str, Path]:
        """The files that are there, by part."""
        paths = {field.name: getattr(self, field.name) for field in fields(self)}
        return {part: path for part, path in paths.items() if path is not None}

    def sources(self) -> dict[str, dict[str, str]]:
        """Name, sha256 and public address (where the authors give one) of each file, by part."""
        return {
            part: {"file": path.name, "sha256": sha256_of(path)}
            | ({"address": ADDRESSES[path.name]} if path.name in ADDRESSES else {})
            for part, path in self.given().items()
        }


def convert_official(
    files: OfficialFiles,
    out: str | Path,
    *,
    cmpc_size: CmpcSize | None = None,
    num_prototypes: int = 1000,
    seed: int = 0,
    name: str = "voicestyle-official",
    license: str = "unspecified",
) -> dict[str, Any]:
    """What was converted, computed, left out and measured, as JSON-ready values; the model is in the folder `out`.

    Args:
        files: the authors'
        out: written whole or not at all; a model that is there is replaced
        cmpc_size: pixels that the towers were trained with, which no key or shape tells; None: see `guess_size`
        num_prototypes: which K of the memory
        seed: of what the generator's file lacks, and of the inputs that the check is made with

    Raises:
        FileNotFoundError: no such file
        ValueError: a file of another layout, or a conversion that does not compute what the file computes
    """
    out = Path(out)
    check_replaceable(out)
    size = cmpc_size or guess_size(files.cmpc)
    encoder = cmpc.read_encoder(files.cmpc, size)
    differences = check_encoder(encoder, cmpc.read_state(files.cmpc), seed)
    made: dict[str, Any] = {"cmpc_size": size, "front_end": encoder.config.log_mel.front_end}
    bank = generator = identity = None
    if files.memory is not None and files.index is not None:
        bank, made["left_out"] = read_catalogue(files.memory, files.index, num_prototypes, fingerprint(encoder))
        made |= {"num_prototypes": len(bank.centroids), "num_members": len(bank.member_keys)}
    if files.stylegan is not None:
        generator, made["computed"] = stylegan2.read_generator(files.stylegan, seed)
        made["generator_size"] = generator.config.size
        differences |= check_generator(generator, stylegan2.read_state(files.stylegan), seed)
    if files.identity is not None:
        identity = ir_se50.read_identity(files.identity)
        differences |= check_identity(identity, ir_se50.read_state(files.identity), seed)
    made["largest_difference"] = differences
    metadata = {"sources": files.sources(), "conversion": made}
    config = VoiceStyleConfig(name, encoder.config, None if generator is None else generator.config, license=license)
    card = _card(config, **metadata)
    save_model(out, config, encoder, generator, bank, metadata, card, identity=identity, dtype=DTYPE)
    return {"model": str(out), **metadata}


def guess_size(path: str | Path) -> CmpcSize:
    """The pixels that the towers of a file were trained with, by its name: 256 unless it is one of the CMPC release."""
    return 224 if Path(path).name.startswith(RELEASE_224) else 256


def _card(config: VoiceStyleConfig, sources: dict[str, dict[str, str]], conversion: dict[str, Any]) -> str:
    """The model card."""
    rows = "".join(
        f"| {part} | `{source['file']}` | {source.get('address', 'not known')} | `{source['sha256']}` |\n"
        for part, source in sources.items()
    )
    notes = [f"{what}: in none of the files; {how}" for what, how in conversion.get("computed", {}).items()]
    if left_out := conversion.get("left_out"):
        notes.append(f"{left_out['prototypes']} prototypes without members or without a direction: left out")
    return CARD.format(config=config, rows=rows, notes="".join(f"- {note}\n" for note in notes), **conversion)
