"""The floors of the house: imports go down, and importing does nothing."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from structure import SOURCE, imports_of, modules

FLOORS = [
    ["schema", "extras", "embedded", "faults", "published"],
    ["config"],
    ["files", "locks", "riff", "seeds", "fbank", "int8", "weights"],
    ["decoding"],
    ["audio", "image", "align", "sheet", "animation", "label", "nn.ops"],
    ["nn"],
    ["latent", "losses", "clustering", "metrics", "sampling", "calibration"],
    [
        "inversion",
        "likely",
        "guidance",
        "speech",
        "prototypes",
        "generation",
        "checkpoint",
        "suggestion",
        "data",
        "download",
        "hub",
    ],
    [
        "pipeline",
        "show",
        "bulk",
        "live",
        "replay",
        "report",
        "report_page",
        "plots",
        "evaluate",
        "convert",
        "cmpc2",
        "train",
        "train.encoder",
        "train.generator",
        "train.inverter",
        "train.sharpen",
        "build",
    ],
    ["cli", "web", "__main__"],
]
SIBLINGS = {  # who may import on its own floor, and from whom
    "align": {"image"},
    "sheet": {"image"},
    "animation": {"image"},
    "audio": {"fbank"},
    "weights": {"int8"},
    "nn": {"nn"},
    "data": {"data"},
    "convert": {"convert"},
    "checkpoint": {"prototypes", "hub"},
    "generation": {"prototypes"},
    "pipeline": {"convert"},
    "bulk": {"bulk", "pipeline", "train"},
    "show": {"pipeline"},
    "train": {"train"},
    "train.encoder": {"train.encoder", "train", "convert"},
    "train.generator": {"train.generator", "train", "convert"},
    "train.inverter": {"train"},
    "train.sharpen": {"train.sharpen", "train.generator", "train", "convert"},
    "build": {"build", "pipeline", "train"},
    "evaluate": {"convert", "evaluate", "pipeline", "plots"},
    "plots": {"plots", "pipeline"},
    "cmpc2": {"convert"},
    "live": {"pipeline", "show"},
    "replay": {"pipeline"},
    "report": {"pipeline", "live"},
    "report_page": {"pipeline", "show", "live", "report"},
    "web": {"web"},
    "cli": {"cli", "web"},
    "__main__": {"cli"},
}


def place(module: str) -> tuple[int, str]:
    """Floor and name on it of a module, e.g. "nn.resnet": the longest name that fits."""
    fits = [
        (name, floor) for floor, names in enumerate(FLOORS) for name in names if f"{module}.".startswith(f"{name}.")
    ]
    assert fits, f"{module}: on no floor; add it to FLOORS"
    name, floor = max(fits, key=lambda fit: len(fit[0]))
    return floor, name


@pytest.mark.parametrize("module", modules())
def test_imports_go_down(module: str) -> None:
    floor, name = place(module)
    for imported in imports_of(modules()[module]):
        its_floor, its_name = place(imported)
        below = its_floor < floor
        assert below or its_name in SIBLINGS.get(name, set()), f"{module} imports {imported}, which is not below it"


@pytest.mark.parametrize("path", modules().values(), ids=[*modules()])
def test_the_library_leaves_the_process_alone(path: Path) -> None:
    """No printing, exiting, thread counts, or devices taken for granted."""
    doors = SOURCE / "cli"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).split(".")[-1]
            assert called not in {"set_num_threads", "set_num_interop_threads", "cuda", "print"}, ast.unparse(node)
            assert called != "exit" or doors in path.parents, ast.unparse(node)


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    env = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_config_and_the_door_load_no_torch() -> None:
    code = "import sys, voicestyle.config, voicestyle.cli; print({'torch', 'numpy'} & set(sys.modules))"
    assert python(code) == "set()"


def test_help_loads_no_torch() -> None:
    code = """
import sys, voicestyle.cli
for command in ([], ["generate"], ["prototypes", "build"], ["train"], ["models", "info"]):
    try:
        voicestyle.cli.main([*command, "--help"])
    except SystemExit as end:
        assert end.code == 0
try:
    voicestyle.cli.main(["models", "list"])
except SystemExit as end:
    assert end.code == 0
print("torch" in sys.modules)
"""
    assert python(code).splitlines()[-1] == "False"


def test_loading_the_pipeline_changes_nothing_and_needs_no_extras() -> None:
    code = """
import sys, numpy, torch
before = torch.get_rng_state(), torch.get_num_threads(), numpy.random.get_state()[1].copy(), torch.is_grad_enabled()
modules = set(sys.modules)
import voicestyle
voicestyle.VoiceStyle
assert torch.equal(before[0], torch.get_rng_state()) and before[1] == torch.get_num_threads()
assert (before[2] == numpy.random.get_state()[1]).all() and before[3] == torch.is_grad_enabled()
new = {name.split(".")[0] for name in set(sys.modules) - modules}
extras = {"faiss", "sklearn", "scipy", "matplotlib", "dlib", "onnxruntime", "flask", "fastapi", "http", "tqdm", "av"}
print(sorted(new & extras), any(name.startswith("voicestyle.train") for name in sys.modules))
"""
    assert python(code) == "[] False"


def test_a_descent_loads_no_compiler() -> None:
    """torch._dynamo takes as long to load as torch itself, and torch.optim loads it at its first use."""
    code = """
import sys, torch
from voicestyle.config import GeneratorConfig
from voicestyle.latent import optimize_latent
from voicestyle.nn.stylegan2 import Generator
generator = Generator(GeneratorConfig.tiny()).requires_grad_(False)
optimize_latent(generator, generator.w_avg[None], lambda image, w: image.square().mean((1, 2, 3)), num_steps=2, lr=0.1)
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""
    assert python(code) == "[]"


def test_every_public_name_exists() -> None:
    code = "import voicestyle; print(all(getattr(voicestyle, n) is not None for n in voicestyle.__all__))"
    assert python(code) == "True"
