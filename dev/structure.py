"""The package in numbers: files, lines, arrows of import, circles: `python dev/structure.py [CHECKOUT]`.

An arrow is an import of one module of the package by another, anywhere in it, those for type checkers too.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
SOURCE = HERE / "src" / "voicestyle"


def modules(source: Path = SOURCE) -> dict[str, Path]:
    """Every module of the package by its name within it, e.g. "nn.resnet"; folders have none of their own."""
    paths = sorted(path for path in source.rglob("*.py") if path.name != "__init__.py")
    return {path.relative_to(source).with_suffix("").as_posix().replace("/", "."): path for path in paths}


def imports_of(path: Path, source: Path = SOURCE) -> set[str]:
    """Our own modules that a file imports, anywhere in it, by their names within the package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            is_module = {n: (source.parent / n.replace(".", "/")).with_suffix(".py").exists() for n in names}
            found |= {n if is_module[n] else node.module for n in names}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
    return {name.removeprefix(f"{source.name}.") for name in found if name.startswith(f"{source.name}.")}


def arrows(source: Path = SOURCE) -> dict[str, set[str]]:
    """Which modules each module imports."""
    known = modules(source)
    return {name: imports_of(path, source) & set(known) - {name} for name, path in known.items()}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other by arrows."""
    reached = {name: _reached(graph, name) for name in graph}
    groups = {frozenset(other for other in reached[name] if name in reached[other]) for name in graph}
    return sorted(sorted(group) for group in groups if group)


def _reached(graph: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    todo = [*graph[start]]
    while todo:
        if (name := todo.pop()) not in found:
            found.add(name)
            todo += graph[name]
    return found


def longest_functions(source: Path = SOURCE, num: int = 3) -> list[tuple[int, str]]:
    """Lines and name of the longest functions."""
    found = []
    for name, path in modules(source).items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno:
                found.append((node.end_lineno - node.lineno + 1, f"{name}.{node.name}"))
    return sorted(found, reverse=True)[:num]


def report(checkout: Path) -> str:
    """All numbers of a checkout, as text."""
    source = checkout / "src" / "voicestyle"
    graph = arrows(source)
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules(source).items()}
    rooms = Counter(name.rpartition(".")[0] or "(top)" for name in graph)
    held = circles(graph)
    longest = sorted(((num, name) for name, num in lines.items()), reverse=True)[:3]
    return "\n".join([
        f"files      {len(graph)}: {', '.join(f'{room} {num}' for room, num in rooms.most_common())}",
        f"lines      {sum(lines.values())}, longest files {', '.join(f'{name} {num}' for num, name in longest)}",
        f"functions  longest {', '.join(f'{name} {num}' for num, name in longest_functions(source))}",
        f"arrows     {sum(map(len, graph.values()))}",
        f"circles    {len(held)}{''.join(chr(10) + '           ' + ' <-> '.join(circle) for circle in held)}",
    ])  # fmt: skip


if __name__ == "__main__":
    print(report(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE))
