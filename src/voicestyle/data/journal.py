"""Long work on many files that can be stopped at any moment: each result goes into a journal as soon as it is there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from voicestyle.data.workers import in_order
from voicestyle.files import written_whole
from voicestyle.locks import alone_with

T = TypeVar("T")
Record = dict[str, Any]  # JSON-ready


def work_through(
    journal: Path,
    settings: Record,
    inputs: Mapping[str, T],
    work: Callable[[T], Record],
    num_workers: int,
    progress: Callable[[int], Any],
) -> dict[str, Record]:
    """What `work` returns for each input, by its name; what the journal holds of them is not done again.

    Args:
        journal: a file of JSON lines; the first are the settings, the others results
        settings: what results depend on beside the input
        inputs: by names that are the same in each call
        work: as in `in_order`
        progress: called with the number of inputs that are done since it was called last

    Raises:
        ValueError: the journal is of other settings, or no journal
        BlockingIOError: another process is at this work
    """
    with alone_with(journal):
        done = _read(journal, settings)
        todo = [name for name in inputs if name not in done]
        progress(len(inputs) - len(todo))
        with journal.open("a", encoding="utf-8") as file:
            for name, record in zip(todo, in_order(work, [inputs[name] for name in todo], num_workers), strict=True):
                done[name] = record
                file.write(json.dumps([name, record]) + "\n")
                file.flush()
                progress(1)
    return {name: done[name] for name in inputs}


def _read(journal: Path, settings: Record) -> dict[str, Record]:
    """The results in a journal, which is begun where there is none, and cut where a killed process left half a line."""
    if not journal.is_file():
        with written_whole(journal) as beside:
            beside.write_text(json.dumps(settings) + "\n", encoding="utf-8")
        return {}
    data = journal.read_bytes()
    end = data.rfind(b"\n") + 1
    os.truncate(journal, end)
    held, *results = [_parsed(line) for line in data[:end].splitlines()] or [None]
    if not isinstance(held, dict):
        raise ValueError(f"{journal}: damaged, or not the record of what is done; take it away to begin anew")
    if held != settings:
        raise ValueError(f"{journal}: of work with other settings, {held}, expected {settings}; name another place")
    # what a damaged line said is done again
    return {r[0]: r[1] for r in results if isinstance(r, list) and [type(part) for part in r] == [str, dict]}


def _parsed(line: bytes) -> Any:
    """What a line of JSON says, None where it is damaged."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
