"""A search for identifiers in files of every kind that the pipeline writes: whatever is packed is unpacked first."""

import hashlib
import io
import re
import sqlite3
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import polars as pl
from PIL import Image
from safetensors import safe_open
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

HASHES = ("md5", "sha1", "sha256")
SHOWN_DIGITS = 16  # of a hash: it may have been cut short

_ESCAPED = re.compile(rb"\\+u([0-9a-fA-F]{4})")


def traces(folder: Path, wanted: Iterable[str]) -> set[tuple[str, str]]:
    """(what, where) of all that is found in a folder, in file names and contents."""
    needles = {text: _written(text) for text in wanted}
    found: set[tuple[str, str]] = set()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        for place, content in _pieces(name, path):
            found |= {(text, place) for text in _found_in(content, needles)}
    return found


def traces_in_text(content: str, wanted: Iterable[str]) -> set[str]:
    """What is found in the text of a terminal."""
    return _found_in(content.encode(), {text: _written(text) for text in wanted})


def plain_hashes(values: Iterable[str]) -> set[str]:
    """What anyone can compute who guesses an identifier; a pseudonym must be nothing of the kind."""
    return {hashlib.new(name, value.encode()).hexdigest()[:SHOWN_DIGITS] for name in HASHES for value in values}


def _written(text: str) -> set[bytes]:
    """The ways in which a text can stand in a file; `bytes.lower` leaves umlauts alone, so both cases are there."""
    if len(text) == SHOWN_DIGITS and not set(text) - set("0123456789abcdef"):  # a hash, as text or as bytes
        return {text.encode(), bytes.fromhex(text).lower()}
    encodings = ("utf-8", "latin-1", "utf-16-le", "utf-16-be")
    return {case.encode(encoding).lower() for case in (text.lower(), text.upper()) for encoding in encodings}


def _found_in(content: bytes, needles: Mapping[str, set[bytes]]) -> set[str]:
    lowered = content.lower()
    return {text for text, forms in needles.items() if any(form in lowered for form in forms)}


def _pieces(name: str, path: Path) -> Iterator[tuple[str, bytes]]:
    """Names, raw contents, and contents as they read once decoded."""
    yield f"name of {name}", name.encode("utf-8", "surrogateescape")
    if path.is_symlink():
        yield f"link {name}", str(path.readlink()).encode()
    if path.is_file():
        yield from _of_content(name, path.read_bytes())


def _of_content(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    yield name, content
    if rb"\u" in content:  # letters beyond ASCII in JSON, and in JSON inside of other files
        yield f"unescaped {name}", _ESCAPED.sub(_unescaped, content)
    if content.startswith(b"PK\3\4") and zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                yield f"name in {name}", member.filename.encode()
                yield from _of_content(f"{name}!{member.filename}", archive.read(member))
    decoded = _decoded(name, content)
    if decoded is not None:
        yield f"decoded {name}", decoded.encode("utf-8", "surrogateescape")


def _unescaped(match: re.Match[bytes]) -> bytes:
    return chr(int(match[1], 16)).encode("utf-8", "surrogatepass")


def _decoded(name: str, content: bytes) -> str | None:
    """The text in a file of a kind that is known, by content or, where that tells nothing, by name."""
    if content.startswith(b"PAR1"):
        return str(pl.read_parquet(io.BytesIO(content)).rows())
    if content.startswith(b"\x89PNG"):
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            return str(picture.info)
    if content.startswith(b"SQLite format 3\0") or name.endswith(".safetensors") or ".tfevents." in name:
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            return _decoded_on_disk(content, file.name)
    return None


def _decoded_on_disk(content: bytes, path: str) -> str:
    if content.startswith(b"SQLite"):
        connection = sqlite3.connect(path)
        rows = list(connection.iterdump())
        connection.close()
        return "\n".join(rows)
    if b"__metadata__" in content[:100] or content[8:9] == b"{":
        with safe_open(path, framework="np") as tensors:
            return str({**(tensors.metadata() or {}), **dict.fromkeys(tensors.keys())})
    return "\n".join(map(str, EventFileLoader(path).Load()))
