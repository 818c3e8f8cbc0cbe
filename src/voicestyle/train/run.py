"""A training run on disk: its recipe, provenance, log and resumable state."""

from __future__ import annotations

import json
import pickle
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import BaseFileLock

from voicestyle import __version__
from voicestyle.extras import needed
from voicestyle.files import is_unfinished, written_whole
from voicestyle.locks import hold, let_go
from voicestyle.train.content import contents
from voicestyle.train.distributed import World
from voicestyle.train.recipe import difference, differing, dump_recipe, read_recipe

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

AGAIN = "restore it from a copy, or take the file away, and --resume begins at step 0"
_BEGUN = {"state", "run.json"}  # all that a run may hold that was killed as it began


class Run:
    """A run folder: ``recipe.toml`` (resolved), ``run.json``, ``log.jsonl`` and ``state/last.pt``.

    Where the recipe says ``tensorboard = true``, the log goes to ``tensorboard/`` too. Made by `Run.start`, which also
    decides whether the folder may be used; a context manager that closes what it has open. Of several processes the
    main one writes, and all read the state: the folder must lie where every host sees it.
    """

    def __init__(self, folder: Path, recipe: Mapping[str, Any], world: World, lock: BaseFileLock | None = None) -> None:
        self.folder = folder
        self.recipe = recipe
        self.world = world
        self._lock = lock
        self._writer: SummaryWriter | None = None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
        if error and self.world.is_main:
            self._give_back()
        if self._lock is not None:
            let_go(self._lock)

    def _give_back(self) -> None:
        """Leave an empty folder where nothing has been made yet, for the recipe that failed may be mended now."""
        claimed, state = [self.folder / "recipe.toml", self.folder / "run.json"], self.folder / "state"
        if {*self.folder.iterdir()} <= {*claimed, state} and not any(state.iterdir()):
            for path in claimed:
                path.unlink(missing_ok=True)
            state.rmdir()

    @classmethod
    def start(
        cls, folder: str | Path, recipe: Mapping[str, Any], resume: bool = False, world: World | None = None
    ) -> Run:
        """A new run, or with `resume` the one that `folder` holds (a new one where it holds none).

        Args:
            folder: of the run
            recipe: as `load_recipe` returns it
            resume: go on with what the folder holds
            world: the processes that train together; None: this one alone

        Raises:
            ValueError: the folder is not empty and `resume` is not set, or it holds a run of another recipe (other
                data, that is: that it has moved does not matter)
            BlockingIOError: another process is at work on this run
            ImportError: the recipe asks for TensorBoard, which is not installed
        """
        folder, world = Path(folder), world or World()
        if recipe.get("tensorboard"):
            _summary_writer()
        lock = hold(folder) if world.is_main else None
        try:
            if world.is_main:
                cls._claim(folder, recipe, resume, world)
            world.barrier()
        except BaseException:
            if lock is not None:
                let_go(lock)
            raise
        return cls(folder, recipe, world, lock)

    @staticmethod
    def _claim(folder: Path, recipe: Mapping[str, Any], resume: bool, world: World) -> None:
        """Make the folder a run of this recipe, or see that it is one."""
        old = folder / "recipe.toml"
        held = {path.name for path in folder.iterdir() if not is_unfinished(path)} if folder.is_dir() else set()
        if held - _BEGUN or (held and not resume):
            if not resume:
                raise ValueError(f"{folder}: not empty; choose another folder, or continue its run with --resume")
            if old.is_file():
                its = read_recipe(old)
                if not _is_same(folder, its, recipe):
                    raise ValueError(f"{folder}: its run has another recipe ({difference(its, recipe)}); use its own")
                return
            raise ValueError(f"{folder}: not empty and holds no run (no recipe.toml); choose another folder")
        (folder / "state").mkdir(parents=True, exist_ok=True)
        write_json(folder / "run.json", _provenance(recipe, world))
        _write(old, dump_recipe(recipe).encode())  # last: a folder with a recipe is a whole run folder

    def log(self, step: int, **values: Any) -> None:
        """Append one JSON line to ``log.jsonl``; tensors of one element become numbers."""
        if not self.world.is_main:
            return
        plain = {key: value.item() if isinstance(value, torch.Tensor) else value for key, value in values.items()}
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **plain}) + "\n")
        if self.recipe.get("tensorboard"):
            # a resumed run hides what the killed one wrote from this step on
            self._writer = self._writer or _summary_writer()(self.folder / "tensorboard", purge_step=step)
            for key, value in plain.items():
                if isinstance(value, (int, float)):
                    self._writer.add_scalar(key, value, step)
            self._writer.flush()

    def save_state(self, state: dict[str, Any]) -> None:
        """Write everything that a resumed run needs to ``state/last.pt``; `state["step"]` counts the steps done."""
        if "step" not in state:
            raise ValueError(f"state to save: got keys {sorted(state)}, expected 'step' among them")
        if not self.world.is_main:
            return
        with written_whole(self.folder / "state" / "last.pt", durable=True) as beside, beside.open("wb") as file:
            torch.save(state, file)

    def load_state(self) -> dict[str, Any] | None:
        """The last saved state on the CPU, or None for a fresh run; log lines of later steps are cut off.

        Raises:
            ValueError: the state is damaged, or this process does not see the one that the main process sees
        """
        path = self.folder / "state" / "last.pt"
        state = _read_state(path) if path.is_file() else None
        step = state["step"] if state else -1
        if (main := int(self.world.agree(step))) != step:
            raise ValueError(
                f"{path}: rank {self.world.rank} sees a run at step {step}, the main process one at step {main}; "
                "put the run where every host sees the same files"
            )
        if self.world.is_main:
            self._cut_log(step)
        return state

    def restore(self, load: Callable[[dict[str, Any]], None], state: dict[str, Any]) -> None:
        """Let a trainer load a state; what is wrong with it is said with the name of the file."""
        try:
            load(state)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            path = self.folder / "state" / "last.pt"
            raise ValueError(f"{path}: not a state of this training ({reason}); {AGAIN}") from error

    def _cut_log(self, last_step: int) -> None:
        path = self.folder / "log.jsonl"
        if not path.is_file():
            return
        lines = path.read_bytes().splitlines(keepends=True)
        # a killed process may have left half a line at the end
        whole = [n for n, line in enumerate(lines) if line.endswith(b"\n") and _step(path, n, line) <= last_step]
        if len(whole) < len(lines):
            _write(path, b"".join(lines[n] for n in whole))


def _is_same(folder: Path, held: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether two recipes say the same: settings, or places with the content that the run began with."""
    names = differing(held, asked)
    if not names:
        return True
    try:
        began_with = json.loads((folder / "run.json").read_text(encoding="utf-8")).get("contents", {})
    except (OSError, ValueError, AttributeError):
        return False
    there = contents(asked)
    return all(name in there and there[name] == began_with.get(name) for name in names)


def read_own(path: Path) -> Any:
    """What a training has left in a file, on the CPU.

    Raises:
        ValueError: damaged, or of something else
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # whose text advises to load it unsafely
        raise ValueError(f"{path}: damaged, or not left by a training; {AGAIN}") from None
    except Exception as error:  # unpickling raises nearly anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: damaged ({reason}); {AGAIN}") from None


def _read_state(path: Path) -> dict[str, Any]:
    state = read_own(path)
    if not isinstance(state, dict) or type(state.get("step")) is not int:
        raise ValueError(f"{path}: not the state of a run, a count of steps is missing; {AGAIN}")
    return state


def _step(path: Path, number: int, line: bytes) -> int:
    """The step of a line of the log."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError(
            f"{path}: line {number + 1} is damaged: {line[:60]!r}; take this line out, which nothing is read from, or "
            "restore the file"
        ) from None


def rng_state(generators: Mapping[str, torch.Generator]) -> dict[str, torch.Tensor]:
    """The states of named generators, to be saved with a run."""
    return {name: generator.get_state() for name, generator in generators.items()}


def set_rng_state(generators: Mapping[str, torch.Generator], state: Mapping[str, torch.Tensor]) -> None:
    """Continue named generators where `rng_state` saw them."""
    if set(generators) != set(state):
        raise ValueError(f"generator states: got {sorted(state)}, expected {sorted(generators)}")
    for name, generator in generators.items():
        generator.set_state(state[name])


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write values as indented JSON, and the folder where there is none."""
    _write(path, json.dumps(values, indent=2).encode() + b"\n")


def _write(path: Path, data: bytes) -> None:
    with written_whole(path, durable=True) as beside:
        beside.write_bytes(data)


def _summary_writer() -> type[SummaryWriter]:
    needed("tensorboard", "tensorboard = true", "or set it to false")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter


def _provenance(recipe: Mapping[str, Any], world: World) -> dict[str, Any]:
    versions = {"python": platform.python_version(), "torch": torch.__version__, "voicestyle": __version__}
    return {
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "versions": versions,
        "seed": recipe.get("seed"),
        "num_processes": world.world_size,
        "contents": contents(recipe),
        "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else world.device.type,
        **_git_state(),
    }


def _git_state() -> dict[str, Any]:
    """The commit of the checkout that this package runs from, and whether the package differs from it, or None twice.

    An environment inside of somebody else's repository is no checkout of this one.
    """
    here = Path(__file__)
    try:
        _git(here.parent, "ls-files", "--error-unmatch", here.name)
        commit = _git(here.parent, "rev-parse", "HEAD")
        return {"git_commit": commit, "git_dirty": bool(_git(here.parents[1], "status", "--porcelain", "."))}
    except (OSError, subprocess.CalledProcessError):
        return {"git_commit": None, "git_dirty": None}


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()
