"""Tables of text cells in CSV or Parquet, which the suffix of the file tells apart."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from voicestyle.extras import needed
from voicestyle.files import written_whole

NUMBERS = {"age": "float64", "face_box": "list<float64>"}  # columns that are no text in Parquet


def is_parquet(path: Path) -> bool:
    """Whether the name of a file says that it is Parquet; everything else is CSV."""
    return path.suffix.lower() == ".parquet"


def read_table(path: Path, delimiter: str = ",") -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    """The columns of a file, and its rows: where each stands ("m.csv: line 2"), and its cells by column.

    Args:
        delimiter: between the cells of a CSV

    Raises:
        ValueError: not such a file, a column twice, or a row with another number of cells
        ImportError: a Parquet file, and pyarrow is not installed
    """
    if is_parquet(path):
        return _read_parquet(path)
    with path.open(newline="", encoding="utf-8-sig") as file:  # Excel puts a mark at the beginning
        reader = csv.reader(file, delimiter=delimiter)
        try:
            columns = next(reader, [])
            rows = [(f"{path}: line {reader.line_num}", row) for row in reader if row]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not a table of text ({error}); expected CSV in UTF-8") from None
    if len(set(columns)) < len(columns):
        raise ValueError(f"{path}: a column twice in {columns}")
    for where, row in rows:
        if len(row) != len(columns):
            raise ValueError(
                f"{where} has another number of cells than the header: {len(row)}, expected {len(columns)}; "
                "quote cells with commas"
            )
    return columns, [(where, dict(zip(columns, row, strict=True))) for where, row in rows]


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows of text, numbers, tuples of numbers or None, all or nothing.

    Numbers in CSV are written so that they are read as the same; tuples are separated by spaces.
    """
    with written_whole(path) as beside:
        if is_parquet(path):
            _write_parquet(beside, columns, rows)
        else:
            with beside.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(columns)
                writer.writerows([_text(cell) for cell in row] for row in rows)


def _text(cell: Any) -> str:
    if isinstance(cell, (tuple, list)):
        return " ".join(map(_text, cell))
    if cell is None or cell != cell:  # pandas puts NaN where there is nothing
        return ""
    return repr(cell).removesuffix(".0") if isinstance(cell, float) else str(cell)


def _write_parquet(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    pyarrow, parquet = _pyarrow()
    types = {"float64": pyarrow.float64(), "list<float64>": pyarrow.list_(pyarrow.float64())}
    schema = pyarrow.schema([(name, types.get(NUMBERS.get(name, ""), pyarrow.string())) for name in columns])
    table = [{name: _value(name, cell) for name, cell in zip(columns, row, strict=True)} for row in rows]
    parquet.write_table(pyarrow.Table.from_pylist(table, schema), path)


def _value(column: str, cell: Any) -> Any:
    """A cell as Parquet has it: nothing instead of no numbers."""
    return _text(cell) if column not in NUMBERS else None if cell == () else cell


def _read_parquet(path: Path) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    pyarrow, parquet = _pyarrow()
    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from None
    columns = [[_text(cell) for cell in column.to_pylist()] for column in table.columns]
    rows = (dict(zip(table.column_names, cells, strict=True)) for cells in zip(*columns, strict=True))
    return table.column_names, [(f"{path}: row {number}", row) for number, row in enumerate(rows, start=1)]


def _pyarrow() -> tuple[Any, Any]:
    pa = needed("pyarrow", "a table in Parquet", "or use .csv")
    return pa, needed("pyarrow.parquet", "a table in Parquet", "or use .csv")
