"""What a voice suggests by itself: sex and age of the speaker, how sure that is, and when nothing should be said.

The networks behind a voice's embedding were trained on other people and other questions; linear maps of their output
are fitted here, calibrated on people that were in nothing before. They are stored beside the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from voicestyle.calibration import Array, Familiarity, sigmoid
from voicestyle.files import read_tensors, written_whole

FORMAT = "voicestyle suggestion 1"
FIT = "`voicestyle evaluate calibration` makes it"


@dataclass(frozen=True, eq=False)
class Suggestion:
    """Linear maps of voice features (F,) of unit norm, and what was learnt of their errors."""

    sex: Array  # (F,)
    sex_bias: float  # log odds that the speaker is a woman: scale * (features . sex + bias) + offset
    sex_scale: float  # Platt's
    sex_offset: float
    age: Array  # (F,)
    age_bias: float  # years
    age_margin: float  # years to both sides, `age_coverage` of people lie within
    age_constant: float  # years: the guess that needs no voice
    age_constant_margin: float  # years to both sides of it, for the same coverage
    age_coverage: float
    familiarity: Familiarity
    max_distance: float  # from the voices it was fitted on, beyond which nothing is said
    min_confidence: float  # of the likelier sex, below which nothing is said
    min_speech_s: float
    encoder_fingerprint: str
    about: Mapping[str, Any]  # people and labels it was fitted on, JSON-ready

    def __call__(self, features: Array, speech_s: float, doubt: str | None = None) -> dict[str, Any]:
        """What features (F,) of a voice with so much speech suggest, as plain JSON-ready values.

        Where something speaks against an answer (`doubt` of its caller, too), `withheld` says what, in words, and there
        is none.
        """
        distance = float(self.familiarity.distance(features[None])[0])
        woman = self.woman(features)
        withheld = [] if doubt is None else [doubt]
        if speech_s < self.min_speech_s:
            withheld.append(f"only {speech_s:.1f} s of speech; at least {self.min_speech_s:g} s are needed")
        if distance > self.max_distance:
            withheld.append("this sounds unlike the voices that the answers were calibrated on")
        age = float(features @ self.age + self.age_bias)
        result: dict[str, Any] = {"distance": round(distance, 2), "max_distance": round(self.max_distance, 2)}
        result["sex"] = self._sex(woman, withheld)
        result["age"] = self._age(age, withheld)
        return result

    def woman(self, features: Array) -> float:
        """The calibrated probability that features (F,) are of a woman's voice, whatever speaks against an answer."""
        return float(sigmoid(self.sex_scale * (features @ self.sex + self.sex_bias) + self.sex_offset))

    def _sex(self, woman: float, withheld: list[str]) -> dict[str, Any]:
        why = list(withheld)
        if max(woman, 1 - woman) < self.min_confidence:
            why.append(f"neither is likelier than {self.min_confidence:.0%}, below which answers are too often wrong")
        return {"withheld": why} if why else {"woman": round(woman, 3), "man": round(1 - woman, 3), "withheld": []}

    def _age(self, age: float, withheld: list[str]) -> dict[str, Any]:
        why = list(withheld)
        if self.age_margin >= self.age_constant_margin:
            why.append("the voice tells no more of the age than a constant guess does")
        if why:
            return {"withheld": why}
        return {
            "years": round(age),
            "from": round(age - self.age_margin),
            "to": round(age + self.age_margin),
            "coverage": self.age_coverage,
            "withheld": [],
            "constant": [
                round(self.age_constant - self.age_constant_margin),
                round(self.age_constant + self.age_constant_margin),
            ],
        }

    def save(self, path: str | Path) -> None:
        """Write one safetensors file with a JSON header, whole or not at all."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), np.ndarray)}
        parts = {f"familiarity.{f.name}": getattr(self.familiarity, f.name) for f in fields(Familiarity)}
        arrays |= {name: value for name, value in parts.items() if isinstance(value, np.ndarray)}
        header = {
            f.name: getattr(self, f.name) for f in fields(self) if f.name not in arrays and f.name != "familiarity"
        }
        header |= {"rest": self.familiarity.rest, "format": FORMAT, "about": dict(self.about)}
        with written_whole(path) as beside:
            small = {name: np.ascontiguousarray(value, np.float32) for name, value in arrays.items()}
            save_file(small, beside, {"voicestyle": json.dumps(header)})

    @classmethod
    def load(cls, path: str | Path, encoder_fingerprint: str) -> Suggestion:
        """What `save` wrote, for this encoder.

        Raises:
            FileNotFoundError: no such file
            ValueError: damaged, another file, or fitted for another encoder
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: this model says nothing of a voice by itself; {FIT}")
        tensors, header = read_tensors(path)
        try:
            if not isinstance(header, dict) or header.pop("format", None) != FORMAT:
                raise ValueError("another format")
            arrays = {name: value.double().numpy() for name, value in tensors.items()}
            parts = {name.split(".")[1]: arrays.pop(name) for name in list(arrays) if "." in name}
            made = cls(familiarity=Familiarity(rest=header.pop("rest"), **parts), **arrays, **header)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: not a file of this version ({error}); {FIT} anew") from None
        if made.encoder_fingerprint != encoder_fingerprint:
            raise ValueError(
                f"{path}: fitted for encoder {made.encoder_fingerprint[:12]}, but the model's is "
                f"{encoder_fingerprint[:12]}; {FIT} anew"
            )
        return made
