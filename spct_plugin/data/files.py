"""Rows of a data set, wherever it is: a JSONL, JSON or parquet file, a folder, or a hub id.

    for number, row in read_rows("nvidia/HelpSteer3:preference", split="train"): ...

`datasets` and `pyarrow` are imported only where they are needed.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

from spct_plugin.data.rows import BadRow, line_problem, parse_line
from spct_plugin.errors import TaskError
from spct_plugin.types import is_list, is_mapping

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w./-]+)?")
EXTRA = "install spct-plugin[trl], which brings it"


@contextmanager
def draft(path: Path) -> Generator[TextIO]:
    """Write beside the file, and put it in its place when all went well."""
    if path.is_dir():
        raise TaskError(f"cannot write {str(path)!r}: is a folder")
    part = path.with_name(path.name + ".part")
    try:
        try:
            with part.open("w", encoding="utf-8") as file:
                yield file
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise TaskError(f"cannot write {str(path)!r}: {error.strerror}") from None


def read_rows(path: str, split: str = "train") -> Iterator[tuple[int, dict[str, Any]] | BadRow]:
    """Read rows with their numbers, 1-based: lines of a JSONL file, else rows.

    Args:
        path: A file (.jsonl, .jsonl.gz, .json with a list, .parquet), a folder that `datasets` can
            load, or a hub id `owner/name`, `owner/name:subset`, `owner/name:folder/`.
        split: Which split of a folder or hub id.

    Raises:
        TaskError: There is nothing that could be read.
    """
    file = Path(path)
    try:
        if path.endswith((".jsonl", ".jsonl.gz")):
            yield from _lines(file)
        elif path.endswith(".json"):
            yield from _checked(_json_list(file))
        elif path.endswith(".parquet"):
            yield from _checked(_parquet(file))
        elif file.is_dir() or (HUB_ID.fullmatch(path) and not file.is_file()):
            yield from _checked(_dataset(path, split))
        else:
            raise TaskError(
                "expected a .jsonl, .jsonl.gz, .json or .parquet file, a folder, or a hub id "
                f"owner/name, found {path!r}"
            )
    except ImportError as error:
        raise TaskError(f"{path!r} needs {error.name}: {EXTRA}") from None
    except TaskError:
        raise
    # datasets, pyarrow and the hub derive what they raise for a bad file or name from these two.
    except (OSError, ValueError, EOFError, zlib.error) as error:
        problem = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise TaskError(f"cannot read {path!r}: {problem}") from None


def _lines(file: Path) -> Iterator[tuple[int, dict[str, Any]] | BadRow]:
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield _row(number, parse_line(line))
            except (ValueError, RecursionError) as error:
                yield BadRow(number, line_problem(error))


def _checked(rows: Iterable[object]) -> Iterator[tuple[int, dict[str, Any]] | BadRow]:
    return (_row(number, row) for number, row in enumerate(rows, start=1))


def _row(number: int, row: object) -> tuple[int, dict[str, Any]] | BadRow:
    if not is_mapping(row):
        return BadRow(number, f"expected an object, found {row!r:.40}")
    return number, dict(row)


def _json_list(file: Path) -> Iterable[object]:
    rows = json.loads(file.read_bytes())
    if not is_list(rows):
        raise TaskError(f"{str(file)!r}: expected a list of objects, found {rows!r:.40}")
    return rows


def _parquet(file: Path) -> Iterator[object]:
    from pyarrow import parquet  # pyright: ignore[reportMissingTypeStubs]

    with file.open("rb") as data:
        for batch in cast(Any, parquet).ParquetFile(data).iter_batches():
            yield from batch.to_pylist()


def _dataset(path: str, split: str) -> Iterable[object]:
    import datasets  # pyright: ignore[reportMissingTypeStubs]

    name, _, subset = path.partition(":")
    key = "data_dir" if subset.endswith("/") else "name"
    chosen = {key: subset.rstrip("/")} if subset else {}
    return cast(Any, datasets).load_dataset(name, split=split, streaming=True, **chosen)
