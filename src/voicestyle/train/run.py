"""A training run on disk: its recipe, provenance, log and resumable state."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The settings of a TOML recipe, with ``section.key=value`` overrides applied.

    A value is read as TOML and, where it is not TOML, as a plain string. Only settings that the recipe states can be
    overridden, by a value of the same type, so that a misspelt name is an error and not a silent default.

    Raises:
        FileNotFoundError: there is no such recipe
        ValueError: not TOML, or an override that fits no setting
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such recipe")
    try:
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a TOML file: {error}") from None
    for override in overrides:
        _override(recipe, override, path)
    return recipe


def _override(recipe: dict[str, Any], override: str, path: Path) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name.strip():
        raise ValueError(f"override {override!r}: expected name=value, e.g. training.lr=0.001")
    *sections, key = name.strip().split(".")
    table: Any = recipe
    for section in sections:
        table = table.get(section) if isinstance(table, dict) else None
    if not isinstance(table, dict) or key not in table or isinstance(table[key], dict):
        raise ValueError(
            f"override {override!r}: {path} has no setting {name.strip()!r}; it has {sorted(_names(recipe))}"
        )
    value, old = _parse(text.strip()), table[key]
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if isinstance(old, str) and not isinstance(value, str):
        value = text.strip()
    if type(value) is not type(old):
        raise ValueError(
            f"override {override!r}: got {type(value).__name__}, expected {type(old).__name__} like {old!r}"
        )
    table[key] = value


def _names(table: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _names(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def _parse(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        return text


def dump_recipe(recipe: Mapping[str, Any], section: str = "") -> str:
    """The recipe as TOML that `load_recipe` reads back unchanged: plain values first, then one table a section."""
    plain = {key: value for key, value in recipe.items() if not isinstance(value, Mapping)}
    lines = [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            name = f"{section}.{_key(key)}" if section else _key(key)
            lines += ["", f"[{name}]", dump_recipe(value, name)]
    return "\n".join(lines).strip("\n") + ("\n" if not section else "")


def _value(value: Any) -> str:
    # a JSON string, number, boolean or list of them is also TOML, but for DEL, which only TOML wants escaped
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else _value(key)


class Run:
    """A run folder: ``recipe.toml`` (resolved), ``run.json``, ``log.jsonl`` and ``state/last.pt``.

    Made by `Run.start`, which also decides whether the folder may be used.
    """

    def __init__(self, folder: Path, recipe: dict[str, Any]) -> None:
        self.folder = folder
        self.recipe = recipe

    @classmethod
    def start(cls, folder: str | Path, recipe: dict[str, Any], resume: bool = False) -> Run:
        """A new run, or with `resume` the one that `folder` holds (a new one where it holds none).

        Raises:
            ValueError: the folder is not empty and `resume` is not set, or it holds a run of another recipe
        """
        folder = Path(folder)
        old = folder / "recipe.toml"
        run = cls(folder, recipe)
        if folder.is_dir() and any(folder.iterdir()):
            if not resume:
                raise ValueError(f"{folder}: not empty; choose another folder, or continue its run with --resume")
            if old.is_file():
                if (held := load_recipe(old)) != recipe:
                    raise ValueError(f"{folder}: its run has another recipe ({_difference(held, recipe)}); use its own")
                return run
            raise ValueError(f"{folder}: not empty and holds no run (no recipe.toml); choose another folder")
        (folder / "state").mkdir(parents=True, exist_ok=True)
        _write(folder / "run.json", json.dumps(_provenance(recipe), indent=2).encode() + b"\n")
        _write(old, dump_recipe(recipe).encode())  # last: a folder with a recipe is a whole run folder
        return run

    def log(self, step: int, **values: Any) -> None:
        """Append one JSON line to ``log.jsonl``; tensors of one element become numbers."""
        plain = {key: value.item() if isinstance(value, torch.Tensor) else value for key, value in values.items()}
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **plain}) + "\n")

    def save_state(self, state: dict[str, Any]) -> None:
        """Write everything that a resumed run needs to ``state/last.pt``; `state["step"]` counts the steps done."""
        if "step" not in state:
            raise ValueError(f"state to save: got keys {sorted(state)}, expected 'step' among them")
        path = self.folder / "state" / "last.pt"
        beside = path.with_suffix(".tmp")
        with beside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)

    def load_state(self) -> dict[str, Any] | None:
        """The last saved state on the CPU, or None for a fresh run; log lines of later steps are cut off."""
        path = self.folder / "state" / "last.pt"
        state = torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None
        self._cut_log(state["step"] if state else -1)
        return state

    def _cut_log(self, last_step: int) -> None:
        path = self.folder / "log.jsonl"
        if not path.is_file():
            return
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        # a killed process may have left half a line at the end
        whole = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= last_step]
        if whole != lines:
            _write(path, "".join(whole).encode())


def rng_state(generators: Mapping[str, torch.Generator]) -> dict[str, torch.Tensor]:
    """The states of named generators, to be saved with a run."""
    return {name: generator.get_state() for name, generator in generators.items()}


def set_rng_state(generators: Mapping[str, torch.Generator], state: Mapping[str, torch.Tensor]) -> None:
    """Continue named generators where `rng_state` saw them."""
    if set(generators) != set(state):
        raise ValueError(f"generator states: got {sorted(state)}, expected {sorted(generators)}")
    for name, generator in generators.items():
        generator.set_state(state[name])


def _difference(held: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    sides = [{name: _lookup(side, name) for name in _names(side)} for side in (held, asked)]
    names = sorted(n for n in {*sides[0], *sides[1]} if sides[0].get(n) != sides[1].get(n))
    return ", ".join(f"{n}: {sides[0].get(n)!r} there, {sides[1].get(n)!r} asked" for n in names)


def _lookup(table: Mapping[str, Any], name: str) -> Any:
    for part in name.split("."):
        table = table[part]
    return table


def _write(path: Path, data: bytes) -> None:
    beside = path.with_name(path.name + ".tmp")
    beside.write_bytes(data)
    os.replace(beside, path)


def _provenance(recipe: Mapping[str, Any]) -> dict[str, Any]:
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    try:
        versions["voicestyle"] = version("voicestyle")
    except PackageNotFoundError:
        versions["voicestyle"] = "not installed"
    return {
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "versions": versions,
        "seed": recipe.get("seed"),
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """The commit of the checkout that this package runs from, or None."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
