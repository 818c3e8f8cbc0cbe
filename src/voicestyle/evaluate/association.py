"""How well a model tells whose voice it is: the voices and faces of a protocol, embedded and scored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from voicestyle.evaluate.embeddings import Averaging, Embeddings, Source, encode
from voicestyle.evaluate.lists import MatchingList, RetrievalList, TrialList, VerificationList
from voicestyle.evaluate.matching import score_matching
from voicestyle.evaluate.protocol import NOT_MADE, Protocol
from voicestyle.evaluate.report import Evaluation, Scored
from voicestyle.evaluate.retrieval import score_retrieval
from voicestyle.evaluate.verification import score_verification

if TYPE_CHECKING:
    from voicestyle.pipeline import VoiceStyle


def evaluate_protocol(
    vs: VoiceStyle,
    protocol: Protocol,
    seed: int = 0,  # of the bootstrap, and of the crops where `averaging` is not given
    *,
    averaging: Averaging | None = None,  # default: what the model does by itself
    cache: str | Path | None = None,  # folder of embeddings: an evaluation that was stopped goes on from there
    leak_check: str = NOT_MADE,  # what `protocol.leak_check` said
    refuse: Callable[[Source, Exception], None] | None = None,  # told of a source left out; default: an error
    progress: Callable[[int], object] | None = None,  # told how many more voices and faces are done
) -> Evaluation:
    """The scores of all lists of a protocol. Each recording and each picture is embedded once.

    Raises:
        ValueError: an unusable source where nobody is told of it, a list without a usable trial, or NaN
    """
    averaging = averaging or Averaging(seed=seed)
    refused: dict[str, str] = {}

    def leave_out(source: Source, error: Exception) -> None:
        if refuse is None:
            raise error
        refused[f"{source.side} {source.name}"] = str(error)
        refuse(source, error)

    voices, faces = (
        encode(vs, sources, averaging, cache, leave_out, progress) for sources in (protocol.voices, protocol.faces)
    )
    scored: dict[str, Scored] = {}
    for trial_list in protocol.lists:
        scored |= _score(trial_list, voices, faces, seed)
    how = averaging.describe(vs.config.encoder.log_mel)
    return Evaluation(
        vs.config.name,
        vs.model.encoder_fingerprint,
        protocol.name,
        voices=how["voice"],
        faces=f"{protocol.pictures}, {how['face']}",
        leak_check=leak_check,
        scored=scored,
        refused=refused,
    )


def _score(trial_list: TrialList, voices: Embeddings, faces: Embeddings, seed: int) -> dict[str, Scored]:
    """The scores of a list, by its name; those of retrieval by its name and direction."""
    name = Path(trial_list.file).stem
    match trial_list:
        case MatchingList():
            return {name: score_matching(trial_list, voices, faces, seed)}
        case VerificationList():
            return {name: score_verification(trial_list, voices, faces, seed)}
        case RetrievalList():
            directions = zip(("v2f", "f2v"), score_retrieval(trial_list, voices, faces, seed), strict=True)
            return {f"{name}_{direction}": scored for direction, scored in directions}
