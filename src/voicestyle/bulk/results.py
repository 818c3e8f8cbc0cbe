"""Where results of many items go: rows into Parquet shards, pictures beside them, each exactly once by its key.

A folder holds ``job.json`` (what the results depend on), ``part-00000.parquet``, ... and ``pictures/ab/KEY.png``. Rows
that fill no shard yet lie in a journal of JSON lines, so that a killed run loses none. One process writes at a time.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from voicestyle.bulk.work import Row
from voicestyle.extras import needed
from voicestyle.files import written_whole
from voicestyle.locks import hold, let_go

ROWS = 1000  # of a shard
SETTINGS, JOURNAL, PICTURES = "job.json", "journal.jsonl", "pictures"
COLUMNS = ("key", "input", "embedding", "w", "similarity", "loss", "picture", "error", "worker", "seconds")


class Results:
    """The folder of one bulk job; a context, which closes the last shard."""

    def __init__(self, folder: str | Path, settings: dict[str, Any]) -> None:
        """Open or begin a folder.

        Raises:
            BlockingIOError: another process writes to it
            ValueError: it is of another job, or damaged
        """
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = hold(self.folder)
        try:
            self._begin(settings)
            self.shards = sorted(self.folder.glob("part-*.parquet"))
            self.keys = {key for shard in self.shards for key in _read_keys(shard)}
            self.rows = [row for row in self._journal() if row["key"] not in self.keys]
        except BaseException:
            let_go(self.lock)
            raise
        self.keys |= {row["key"] for row in self.rows}
        self.journal = (self.folder / JOURNAL).open("a", encoding="utf-8")

    def _begin(self, settings: dict[str, Any]) -> None:
        path = self.folder / SETTINGS
        told = json.loads(json.dumps(settings, sort_keys=True))
        if not path.exists():
            with written_whole(path) as beside:
                beside.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        elif (held := _read_settings(path)) != told:
            differing = sorted(name for name in {*held, *told} if held.get(name) != told.get(name))
            raise ValueError(f"{self.folder}: holds results of another job ({', '.join(differing)} differ)")

    def _journal(self) -> list[dict[str, Any]]:
        """The rows of a run that was stopped; half a line, which a killed one leaves, is cut off."""
        path = self.folder / JOURNAL
        if not path.exists():
            return []
        data = path.read_bytes()
        end = data.rfind(b"\n") + 1
        os.truncate(path, end)
        try:
            rows = [json.loads(line) for line in data[:end].splitlines()]
        except (ValueError, RecursionError):
            rows = [None]
        if not all(isinstance(row, dict) and isinstance(row.get("key"), str) for row in rows):
            raise ValueError(f"{path}: damaged; remove it, and what it holds is done again")
        return rows

    def __enter__(self) -> Results:
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        if kind is None and self.rows:
            self._close_shard()
        self.journal.close()
        let_go(self.lock)

    def __contains__(self, key: object) -> bool:
        return key in self.keys

    def write(self, row: Row) -> bool:
        """Keep a row and its picture; whether it is new."""
        if row.key in self.keys:
            return False
        record = {"key": row.key, "input": row.name, "worker": row.worker, "seconds": round(row.seconds, 4)}
        record |= row.found
        picture = record.pop("picture", None)
        if isinstance(picture, bytes):
            path = Path(PICTURES, row.key[:2], f"{row.key}.png")
            with written_whole(self.folder / path) as beside:
                beside.write_bytes(picture)
            record["picture"] = str(path)
        self.journal.write(json.dumps(record) + "\n")
        self.journal.flush()
        self.rows.append(record)
        self.keys.add(row.key)
        if len(self.rows) >= ROWS:
            self._close_shard()
        return True

    def _close_shard(self) -> None:
        pa, parquet = needed("pyarrow", "a table of results"), needed("pyarrow.parquet", "a table of results")

        vector = pa.list_(pa.float32())
        types = {"embedding": vector, "w": vector, "similarity": pa.float32(), "loss": pa.float32()}
        types["seconds"] = pa.float32()
        schema = pa.schema([(name, types.get(name, pa.string())) for name in COLUMNS])
        path = self.folder / f"part-{len(self.shards):05d}.parquet"
        try:
            table = pa.Table.from_pylist(self.rows, schema)
        except (pa.ArrowException, OverflowError) as error:  # the rows of a run that was stopped were changed since
            raise ValueError(f"{self.folder / JOURNAL}: damaged ({error}); remove it, and go on") from error
        with written_whole(path, durable=True) as beside:
            parquet.write_table(table, beside)
        self.shards.append(path)
        self.rows.clear()
        self.journal.seek(0)
        self.journal.truncate()


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        held = None
    if not isinstance(held, dict):
        raise ValueError(f"{path}: damaged, expected the settings of a job; remove it to go on with what is there")
    return held


def _read_keys(shard: Path) -> list[str]:
    pa, parquet = needed("pyarrow", "a table of results"), needed("pyarrow.parquet", "a table of results")
    try:
        return parquet.read_table(shard, columns=["key"])["key"].to_pylist()
    except (pa.ArrowException, KeyError, OSError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f"{shard}: damaged ({reason}); remove it, and what it holds is done again") from error
