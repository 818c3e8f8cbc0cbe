"""The listing of all source files in the README, from the first lines of their docstrings: `python dev/listing.py`."""

from __future__ import annotations

import ast
from pathlib import Path

from structure import HERE, modules

HEAD = """## One line a file

From the ground up: imports lead to files above.

| `src/voicestyle/` | |
|---|---|
"""


def first_line(path: Path) -> str:
    """What a file says of itself, in one sentence."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n")[0].removesuffix(".").replace("|", "\\|").replace("``", "`")


def floors() -> dict[str, int]:
    """The floor of each name in FLOORS of the test that holds them."""
    tree = ast.parse((HERE / "tests" / "test_architecture.py").read_text(encoding="utf-8"))
    (held,) = [n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "FLOORS"]
    return {name: floor for floor, names in enumerate(ast.literal_eval(held)) for name in names}


def listing() -> str:
    """The section of the README, floor by floor."""
    floor_of = floors()

    def order(name: str) -> tuple[int, int, str]:
        held = max((n for n in floor_of if f"{name}.".startswith(f"{n}.")), key=len)
        return floor_of[held], name.count("."), name

    known = {name: path for name, path in modules().items() if name != "__main__"}
    rows = (f"| `{name.replace('.', '/')}.py` | {first_line(known[name])} |\n" for name in sorted(known, key=order))
    return HEAD + "".join(rows)


def readme(text: str) -> str:
    """The README with the listing anew."""
    before, _, after = text.partition("## One line a file\n")
    return before + listing() + "\n" + after[after.index("\nResearch use only") + 1 :]


if __name__ == "__main__":
    path = HERE / "README.md"
    path.write_text(readme(path.read_text(encoding="utf-8")), encoding="utf-8")
