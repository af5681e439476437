"""Files that are either whole or not there."""

import csv
import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any


def write_atomically(path: str | Path, write: Callable[[str], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place.

    Raises:
        OSError: it cannot be written; PyTorch has an error of its own for a full disk.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    try:
        write(temporary)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(target)
    except RuntimeError as error:
        raise OSError(errno.EIO, "could not be written; is the disk full?", str(target)) from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_json(path: str | Path, content: Any) -> None:
    """Strict JSON, indented."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """A text in UTF-8."""

    def write(temporary: str) -> None:
        Path(temporary).write_text(text, encoding="utf-8")

    write_atomically(path, write)


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table with a header, in UTF-8; None becomes an empty cell, and what is not UTF-8 in a file name `\\udcXX`."""

    def write(temporary: str) -> None:
        with Path(temporary).open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows(rows)

    write_atomically(path, write)
