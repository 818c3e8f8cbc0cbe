"""What is wrong with manifests and the files that they name, found before a training run does."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from voicestyle.audio import load_audio
from voicestyle.data.leaks import People
from voicestyle.data.manifest import SPLITS, Item, read_items
from voicestyle.data.workers import in_order
from voicestyle.files import named, sha256_of
from voicestyle.image import open_image

SILENCE_PEAK = 1e-3  # of full scale, -60 dB: below this a recording holds noise of the equipment alone
SAMPLE_RATE = 16000  # Hz, at which recordings are read
MIN_SPEECH_S = 1.0  # the shortest recording that any front end takes
NOTES = ("video in two splits",)  # kinds of finding that are worth knowing, but wrong only for some purposes


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    kind: str  # missing, unreadable, silent, too short, ...
    manifest: str
    key: str  # of an item; empty where the manifest as a whole is meant
    detail: str


@dataclass(frozen=True)
class Report:
    """What `check_manifests` found."""

    findings: tuple[Finding, ...]
    counts: tuple[dict[str, Any], ...]  # a row for each split of each manifest: items, identities, hours, ...

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong; notes do not count."""
        return all(finding.kind in NOTES for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        return {
            "sound": self.is_sound,
            "counts": list(self.counts),
            "findings": [asdict(finding) for finding in self.findings],
        }


@dataclass(frozen=True)
class Inspected:
    """What a file turned out to be."""

    sha256: str = ""
    seconds: float = 0.0  # of a recording
    kind: str = ""  # what is wrong with it, as in `Finding`; empty: nothing
    detail: str = ""


def check_manifests(
    paths: Sequence[str | Path],
    *,
    min_speech_s: float = MIN_SPEECH_S,
    num_workers: int = 1,
    progress: Callable[[int], Any] = lambda num_files: None,
    start: Callable[[int], Any] = lambda num_files: None,
) -> Report:
    """Everything that is wrong with manifests, each by itself and all together, and what they hold.

    Every file is read and decoded once. Found are manifests that cannot be read; keys used twice; items without split,
    identity or file; files that are missing, unreadable, not pictures, silent or too short; files with the same bytes;
    people, and files with the same bytes, in more than one split (leaks), also across manifests. A video in two splits
    is a note: it may show two people.

    Args:
        min_speech_s: seconds of the shortest recording that is not too short
        start, progress: called with the number of files, and with those done since it was called last
    """
    held: dict[str, tuple[Item, ...]] = {}
    findings: list[Finding] = []
    for path in dict.fromkeys(map(str, paths)):
        try:
            held[path] = read_items(path)
        except (ValueError, OSError) as error:
            findings.append(Finding("manifest", path, "", str(error)))
    voices = {item.voice for items in held.values() for item in items if item.voice}
    files = sorted({path for items in held.values() for item in items for path in item.files})
    start(len(files))
    work = partial(inspect_file, min_speech_s=min_speech_s)
    inspected: dict[Path, Inspected] = {}
    for file, result in zip(files, in_order(work, [(p, p in voices) for p in files], num_workers), strict=True):
        inspected[file] = result
        progress(1)
    for path, items in held.items():
        findings += _bad_items(path, items)
        findings += _bad_files(path, items, inspected)
    findings += [*_same_files(held, inspected), *_leaks(held)]
    counts = [row for path, items in held.items() for row in _counts(path, items, inspected)]
    return Report(tuple(findings), tuple(counts))


def inspect_file(path_and_voice: tuple[Path, bool], min_speech_s: float) -> Inspected:
    """Read a recording or picture as training would."""
    path, is_voice = path_and_voice
    if not path.is_file():
        what = "a link that leads nowhere" if path.is_symlink() else "a folder" if path.is_dir() else "no such file"
        return Inspected(kind="missing", detail=f"{path}: {what}")
    sha256 = ""
    try:
        with named(path):
            sha256 = sha256_of(path)
            if not is_voice:
                open_image(path)
                return Inspected(sha256)
            waveform = load_audio(path, SAMPLE_RATE)
    except (ValueError, OSError) as error:
        return Inspected(sha256, kind="unreadable", detail=str(error))
    seconds = len(waveform) / SAMPLE_RATE
    if seconds < min_speech_s:
        detail = f"{path}: {seconds:.2f} s, at least {min_speech_s:.1f} s needed"
        return Inspected(sha256, seconds, "too short", detail)
    peak = waveform.abs().max().item()
    if peak < SILENCE_PEAK:
        return Inspected(sha256, seconds, "silent", f"{path}: {seconds:.1f} s, the loudest sample is {peak:.1e}")
    return Inspected(sha256, seconds)


def _bad_items(manifest: str, items: Sequence[Item]) -> Iterator[Finding]:
    """What `Manifest.check` refuses of single items, all of it instead of the first."""
    if not items:
        yield Finding("manifest", manifest, "", "no items")
    for key, number in Counter(item.key for item in items).items():
        if number > 1:
            yield Finding("duplicate key", manifest, key, f"used {number} times")
    for item in items:
        missing = [name for name in ("key", "identity") if not getattr(item, name)]
        if item.split not in SPLITS:
            missing.append(f"split (it is {item.split!r}, expected one of {', '.join(SPLITS)})")
        if not item.files:
            missing.append("voice, face or frontal")
        if missing:
            yield Finding("incomplete", manifest, item.key, f"no {', no '.join(missing)}")


def _bad_files(manifest: str, items: Sequence[Item], inspected: dict[Path, Inspected]) -> Iterator[Finding]:
    for item in items:
        for path in item.files:
            if inspected[path].kind:
                yield Finding(inspected[path].kind, manifest, item.key, inspected[path].detail)


def _same_files(held: dict[str, tuple[Item, ...]], inspected: dict[Path, Inspected]) -> Iterator[Finding]:
    """Different files with the same bytes; a leak where they are in different splits."""
    users: dict[str, dict[Path, tuple[str, Item]]] = defaultdict(dict)
    for manifest, items in held.items():
        for item in items:
            for path in item.files:
                if inspected[path].sha256:
                    users[inspected[path].sha256].setdefault(path.resolve(), (manifest, item))
    splits = _splits_of_files(held, inspected)
    for sha256, paths in users.items():
        names = ", ".join(str(path) for path in paths)
        manifest, item = next(iter(paths.values()))
        if len(splits[sha256]) > 1:
            yield Finding("leak of a file", manifest, item.key, f"in splits {_joined(splits[sha256])}: {names}")
        elif len(paths) > 1:
            yield Finding("duplicate file", manifest, item.key, f"the same bytes: {names}")


def _splits_of_files(held: dict[str, tuple[Item, ...]], inspected: dict[Path, Inspected]) -> dict[str, set[str]]:
    splits: dict[str, set[str]] = defaultdict(set)
    for item in (item for items in held.values() for item in items):
        for path in item.files:
            splits[inspected[path].sha256].add(item.split)
    return splits


def _leaks(held: dict[str, tuple[Item, ...]]) -> Iterator[Finding]:
    """People, and videos of different people, in more than one split."""
    pairs = [(manifest, item) for manifest, items in held.items() for item in items]
    people = People(item for _, item in pairs)
    yield from _in_two_splits("leak of a person", pairs, lambda item: people.person(item.identity))
    yield from _in_two_splits("video in two splits", pairs, lambda item: item.video)


def _in_two_splits(kind: str, pairs: Iterable[tuple[str, Item]], name: Callable[[Item], str]) -> Iterator[Finding]:
    found: dict[str, dict[str, tuple[str, Item]]] = defaultdict(dict)
    for manifest, item in pairs:
        if name(item):
            found[name(item)].setdefault(item.split, (manifest, item))
    for shared, by_split in found.items():
        if len(by_split) > 1:
            manifest, item = next(iter(by_split.values()))
            where = ", ".join(f"{split} (item {item.key!r} of {m})" for split, (m, item) in sorted(by_split.items()))
            yield Finding(kind, manifest, item.key, f"{shared}: {where}")


def _counts(manifest: str, items: Sequence[Item], inspected: dict[Path, Inspected]) -> Iterator[dict[str, Any]]:
    for split in (*SPLITS, *sorted({item.split for item in items} - set(SPLITS))):
        rows = [item for item in items if item.split == split]
        if not rows:
            continue
        genders = Counter({item.identity: item.gender for item in rows}.values())
        voices = {item.voice for item in rows if item.voice}
        yield {
            "manifest": manifest,
            "split": split,
            "items": len(rows),
            "identities": len({item.identity for item in rows}),
            "female": genders["f"],
            "male": genders["m"],
            "videos": len({(item.identity, item.video or item.key) for item in rows}),
            "voices": len(voices),
            "hours": round(sum(inspected[voice].seconds for voice in voices) / 3600, 3),
            "faces": len({item.face for item in rows if item.face}),
            "frontal": len({item.frontal for item in rows if item.frontal}),
        }


def _joined(splits: Iterable[str]) -> str:
    return ", ".join(sorted(splits))
