"""Are generated faces like the speakers? Sex, age, style and variety, beside baselines and chance."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from voicestyle.data.manifest import Item, Manifest
from voicestyle.data.pictures import canonical_picture
from voicestyle.evaluate.judge import Judgment
from voicestyle.evaluate.matching import matching
from voicestyle.evaluate.protocol import NOT_MADE, check_leaks
from voicestyle.evaluate.report import Report
from voicestyle.files import kept
from voicestyle.metrics import bootstrap_interval, settled
from voicestyle.sampling import random_latents
from voicestyle.schema import to_dict
from voicestyle.seeds import mixed_seed

if TYPE_CHECKING:
    from voicestyle.pipeline import VoiceStyle

GUIDED, START, RANDOM, REAL = "guided", "mean prototype", "random", "real pictures"
BATCH = 32  # pictures that are rendered, embedded and judged together
RANKS = (1, 5, 10)  # K of R@K


@dataclass(frozen=True)
class GenerationReport:
    """Scores of generated faces, of what guidance started from, of random faces, and of the real pictures."""

    model: str
    split: str
    num_voices: int
    num_faces: int  # a voice
    settings: dict[str, Any]  # of `generate`: k, steps, seed
    rows: dict[str, list[Report]]  # whose faces -> scores
    leak_check: str = NOT_MADE

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        return dataclasses.asdict(self)

    def to_markdown(self) -> str:
        """A title and a table, one score a line."""
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        lines = [
            f"{self.model}, split {self.split}: {self.num_voices} voices, {self.num_faces} faces each; {settings}",
            "",
            f"{self.leak_check}",
            "",
            "| faces | task | within | metric | score | 95 % interval | chance | trials | identities |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for faces, reports in self.rows.items():
            for r in reports:
                interval = f"{r.interval[0]:.3f} to {r.interval[1]:.3f}"
                cells = (faces, r.task, r.stratum, r.metric, f"{r.score:.3f}", interval, f"{r.chance:.3f}")
                lines.append(f"| {' | '.join(cells)} | {r.num_trials} | {r.num_identities} |")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, eq=False)
class Faces:
    """F faces for each of V voices, as embeddings and judgments."""

    emb: Tensor  # (V,F,D) float64
    male: NDArray[np.float64] | None = None  # (V,F) probability; None: there was no judge
    age: NDArray[np.float64] | None = None  # (V,F) years


def evaluate_generation(
    vs: VoiceStyle,
    manifest: Manifest,
    split: str = "val",
    num_voices: int | None = None,  # drawn with the seed; default: all
    seed: int = 0,  # of the draw, the faces, the trials and the bootstrap
    judge: Callable[[Tensor], Judgment] | None = None,  # default: no row of sex and age
    *,
    num_faces: int = 4,  # a voice; 2 or more tell whether they differ
    k: int | None = None,  # this and `steps`: the model's own where None
    steps: int | None = None,
    cache: str | Path | None = None,  # folder of latents: an evaluation that was stopped goes on from there
    face_features: Callable[[Tensor], Tensor] | None = None,  # (N,3,H,W) -> (N,D); default: `identity_features`
    trained_on: Iterable[str | Path] = (),  # training manifests: nobody in their split "train" may be tested
    allow_leaks: bool = False,  # mark a leak instead of refusing
    progress: Callable[[int], object] | None = None,  # called with the number of voices done
) -> GenerationReport:
    """Scores of the faces that a model makes for the voices of a split; see `scores`.

    Items need a voice and a picture: the frontal one, or else the face, which is aligned (with dlib where it has no
    box). The judge has no part in the generation. The default `face_features`, by which style, R@K and spread are
    measured, are those of the network that guides, below its bridge: they share that network with the generation.

    Raises:
        ValueError: no such items in the split, a clip that cannot be used, or a leak
    """
    items = _draw(manifest.split(split), num_voices, seed)
    leaks = check_leaks(items, trained_on, allow_leaks)
    settings = {"k": k, "steps": steps, "seed": seed, "num_faces": num_faces}
    latents = []
    for item in items:
        latents.append(_latents(vs, item, settings, None if cache is None else Path(cache)))
        if progress is not None:
            progress(1)
    w = {name: torch.stack([found[name] for found in latents]) for name in (GUIDED, START)}
    w[RANDOM] = random_latents(vs.generator, len(items) * num_faces, seed).unflatten(0, (-1, num_faces)).cpu()

    look = partial(_look, face_features=face_features or vs.encoder.identity_features, judge=judge, device=vs.device)
    real = look(map(canonical_picture, items), 1)
    people, genders = [item.identity for item in items], [item.gender for item in items]
    rows = {}
    for name, latent in w.items():
        faces = look(map(vs.synthesize, latent.flatten(0, 1).split(BATCH)), num_faces)
        rows[name] = scores(faces, real, people, genders, seed)
    rows[REAL] = sex_agreement(real, people, genders, seed)  # what the judge itself gets wrong
    guidance = vs.config.guidance
    settings = {"k": k or guidance.k, "steps": guidance.steps if steps is None else steps, "seed": seed}
    return GenerationReport(vs.config.name, split, len(items), num_faces, settings, rows, leaks)


def scores(faces: Faces, real: Faces, identities: Sequence[str], genders: Sequence[str], seed: int = 0) -> list[Report]:
    """All scores of generated faces beside the real pictures of the same V voices.

    Sex, age and the variety of one voice's faces count every face; the others count the first of each voice.
    """
    reports = [*sex_agreement(faces, identities, genders, seed), *age_error(faces, real, identities, seed)]
    for stratum, labels in _strata(identities, genders).items():
        reports.append(style_matching(faces, real, identities, labels, stratum, seed))
    reports += recall(faces, real, identities, seed)
    for stratum, labels in _strata(identities, genders).items():
        reports.append(spread(faces, real, identities, labels, stratum, seed))
    return reports + spread_of_a_voice(faces, real, identities, seed)


def sex_agreement(faces: Faces, identities: Sequence[str], genders: Sequence[str], seed: int = 0) -> list[Report]:
    """How often the judge gives a face the speaker's sex: of all faces, and as the mean of women and men.

    Chance is what the more frequent sex scores, and one half. Without a judge or genders there is no report.
    """
    known = np.flatnonzero(np.isin(genders, ("f", "m")))
    if faces.male is None or not len(known):
        return []
    is_male = np.repeat(np.asarray(genders)[known] == "m", faces.male.shape[1])
    people = np.repeat(np.asarray(identities)[known], faces.male.shape[1])
    table = np.stack([(faces.male[known].ravel() > 0.5) == is_male, is_male], axis=1).astype(float)
    majority = max(is_male.mean(), 1 - is_male.mean())
    made = [_report("sex agreement", "any", "accuracy", table, people, seed, lambda t: t[:, 0].mean(), majority)]
    if 0 < is_male.mean() < 1:
        made.append(_report("sex agreement", "any", "balanced accuracy", table, people, seed, _balanced, 0.5))
    return made


def age_error(faces: Faces, real: Faces, identities: Sequence[str], seed: int = 0) -> list[Report]:
    """Years between the ages that the judge gives the face and the real picture; chance is the best constant."""
    if faces.age is None or real.age is None:
        return []
    error = np.abs(faces.age - real.age)
    people = np.repeat(np.asarray(identities), error.shape[1])
    chance = np.abs(real.age - np.median(real.age)).mean()
    return [_report("age", "any", "mean error (years)", error.ravel(), people, seed, np.mean, chance)]


def style_matching(
    faces: Faces, real: Faces, identities: Sequence[str], labels: Sequence[str], stratum: str = "any", seed: int = 0
) -> Report:
    """How often the generated face is nearer (by cosine) to the speaker's picture than to an impostor's.

    Impostors share the speaker's label, as in `matching`; voices without a label are left out.
    """
    report = matching(faces.emb[:, 0], real.emb[:, 0], identities, seed, strata=labels, stratum=stratum)
    return dataclasses.replace(report, task="style matching 1:2")


def recall(faces: Faces, real: Faces, identities: Sequence[str], seed: int = 0) -> list[Report]:
    """R@K: how often the speaker is among the K people whose mean picture is nearest to the generated face."""
    people, row = np.unique(np.asarray(identities), return_inverse=True)
    pictures = _unit(real)[:, 0]
    gallery = np.stack([pictures[row == i].mean(0) for i in range(len(people))])
    score = settled(_unit(faces)[:, 0] @ (gallery / np.linalg.norm(gallery, axis=1, keepdims=True)).T)
    own = score[np.arange(len(row)), row][:, None]
    above, tied = (score > own).sum(1), (score == own).sum(1)
    made = []
    for rank in (r for r in RANKS if r < len(people)):
        hit = np.clip((rank - above) / tied, 0, 1)  # a place shared with others is a part of a hit
        task = f"retrieval among {len(people)} people"
        made.append(_report(task, "any", f"R@{rank}", hit, np.asarray(identities), seed, np.mean, rank / len(people)))
    return made


def spread(
    faces: Faces, real: Faces, identities: Sequence[str], labels: Sequence[str], stratum: str = "any", seed: int = 0
) -> Report:
    """How much faces for different speakers of one label differ, as a part of how much their real pictures do.

    The ratio of mean pairwise cosine distances: 0 where all faces are one, 1 where they vary as the people do.
    """
    kept = np.array([bool(label) for label in labels])
    people = np.asarray(identities)[kept]
    groups = [np.unique(values, return_inverse=True)[1] for values in (people, np.asarray(labels)[kept])]
    table = np.concatenate([np.stack(groups, axis=1), _unit(faces)[kept, 0], _unit(real)[kept, 0]], axis=1)

    def ratio(t: NDArray[np.float64]) -> float:
        generated, pictures = np.split(t[:, 2:], 2, axis=1)
        distance = _mean_distance(pictures, t[:, 0], t[:, 1])
        return _mean_distance(generated, t[:, 0], t[:, 1]) / distance if distance else 0.0

    return _report("spread over voices", stratum, "part of the real spread", table, people, seed, ratio, 0.0)


def spread_of_a_voice(faces: Faces, real: Faces, identities: Sequence[str], seed: int = 0) -> list[Report]:
    """How much the faces for one voice differ, as a part of how much the real pictures of different people do."""
    emb, num_faces = _unit(faces), faces.emb.shape[1]
    if num_faces < 2:
        return []
    people = np.asarray(identities)
    distance = 1 - (np.square(emb.sum(1)).sum(1) - num_faces) / (num_faces * (num_faces - 1))
    part = distance / _mean_distance(_unit(real)[:, 0], np.unique(people, return_inverse=True)[1], np.zeros(len(emb)))
    return [_report("spread over faces of a voice", "any", "part of the real spread", part, people, seed, np.mean, 0.0)]


@torch.no_grad()
def _look(
    images: Iterable[Tensor],  # (N,3,H,W) each, voice by voice
    num_faces: int,
    face_features: Callable[[Tensor], Tensor],
    judge: Callable[[Tensor], Judgment] | None,
    device: torch.device,
) -> Faces:
    """Pictures as the face network and the judge see them."""
    features, judged = [], []
    for image in images:
        features.append(face_features(image.to(device)).double().cpu())
        if judge is not None:
            judged.append(judge(image))
    emb = torch.cat(features).unflatten(0, (-1, num_faces))
    if judge is None:
        return Faces(emb)
    male, age = (np.concatenate([getattr(j, name) for j in judged]).reshape(-1, num_faces) for name in ("male", "age"))
    return Faces(emb, male, age)


def _draw(manifest: Manifest, num_voices: int | None, seed: int) -> list[Item]:
    """The items with a voice and a picture, or `num_voices` of them, in the manifest's order."""
    items = [item for item in manifest if item.voice and (item.frontal or item.face)]
    if len({item.identity for item in items}) < 2 or (num_voices or 2) < 2:
        raise ValueError(
            f"{manifest.name}: {len(items)} items with a voice and a picture, {num_voices or 'all'} of them wanted; "
            "expected two or more, of different people"
        )
    if num_voices is None or num_voices >= len(items):
        return items
    drawn = np.random.default_rng(mixed_seed(seed, "voices")).choice(len(items), num_voices, replace=False)
    return [items[i] for i in sorted(drawn)]


def _latents(vs: VoiceStyle, item: Item, settings: dict[str, Any], cache: Path | None) -> dict[str, Tensor]:
    """The guided latents (F,w_dim) of an item's voice and those that they started from, from the cache if there."""
    path = None if cache is None else cache / f"{_digest(vs, item, settings)}.safetensors"

    def make() -> dict[str, Tensor]:
        made = vs.generate(item.voice, **settings)
        return {GUIDED: made.w, START: made.w_init}

    return kept(path, make)


def _digest(vs: VoiceStyle, item: Item, settings: dict[str, Any]) -> str:
    """The name of all that an item's latents depend on."""
    model = [vs.model.encoder_fingerprint, vs.model.generator_fingerprint, to_dict(vs.config.guidance), str(vs.dtype)]
    digest = hashlib.sha256(json.dumps([*model, settings], sort_keys=True).encode())
    for part in (vs.bank.centroids, vs.bank.assignments, vs.bank.latents):
        digest.update(part.cpu().contiguous().numpy().tobytes())
    digest.update(item.file("voice").read_bytes())
    return digest.hexdigest()


def _strata(identities: Sequence[str], genders: Sequence[str]) -> dict[str, list[str]]:
    """Labels by which impostors are drawn; same gender only where a gender has two people or more."""
    people = {gender: {i for i, g in zip(identities, genders, strict=True) if g == gender} for gender in set(genders)}
    same = [gender if gender and len(people[gender]) > 1 else "" for gender in genders]
    strata = {"any": ["all"] * len(same)}
    return {**strata, "same gender": same} if any(same) else strata


def _unit(faces: Faces) -> NDArray[np.float64]:
    return torch.nn.functional.normalize(faces.emb, dim=2).numpy()


def _mean_distance(emb: NDArray[np.float64], people: NDArray, labels: NDArray) -> float:
    """Mean cosine distance of unit embeddings (N,D) over pairs of one label and different people; 0 without a pair."""
    pairs = (labels[:, None] == labels) & (people[:, None] != people)
    return float(1 - (emb @ emb.T)[pairs].mean()) if pairs.any() else 0.0


def _balanced(table: NDArray[np.float64]) -> float:
    """The mean over the labels of the second column of the mean of the first."""
    return float(np.mean([table[table[:, 1] == label, 0].mean() for label in np.unique(table[:, 1])]))


def _report(
    task: str,
    stratum: str,
    metric: str,
    table: NDArray[np.float64],  # (T, ...) one row a trial
    people: NDArray,  # (T,)
    seed: int,
    statistic: Callable[[NDArray[np.float64]], float],
    chance: float,
) -> Report:
    return Report(
        task=task,
        stratum=stratum,
        metric=metric,
        score=float(statistic(table)),
        chance=float(chance),
        interval=bootstrap_interval(table, people, seed, statistic=statistic),
        num_trials=len(table),
        num_identities=len(set(people)),
        seed=seed,
    )
