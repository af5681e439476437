"""First bytes of a file -> the header that `image_facts` and `check_selected` read, without pydicom's data sets.

Used by `header_scan`, on top of `plain_elements`. A value that pydicom reads in a way of its own ends in `NotPlain`, as
does a file that is not plain; the caller then takes `preprocessing.dicom.parse_dicom`, which is slow and reads them
all. So nothing is said here that pydicom would not say of the same file.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NoReturn

from pydicom import Dataset
from pydicom.charset import python_encoding

from preprocessing.codestreams import FAMILIES, codestream_header
from preprocessing.pixel_data import BIG_ENDIAN
from preprocessing.plain_elements import (
    ITEM,
    OVERLAYS,
    UNDEFINED,
    VRS,
    Buffer,
    Found,
    Fragments,
    MoreNeeded,
    NotPlain,
    ReadAt,
    buffer_of,
    check_start,
    file_meta,
    fragments_of,
    top_elements,
)

IMPLICIT, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99"
TAIL = 1 << 16
"""Bytes behind the pixel data that are looked at, for instance DataSetTrailingPadding."""

EXCERPT = 1 << 14
"""Bytes of the first fragment in which its codestream must say what it is."""

MOST_REMEMBERED = 4096
"""Values of one representation whose decoding is remembered: sizes, spacings and codes come again and again."""

LATIN, UNICODE, PRINTABLE = "latin-1", "utf-8", "ascii"
CODECS = {b"": LATIN, b"ISO_IR 6": LATIN, b"ISO_IR 100": LATIN, b"ISO_IR 192": UNICODE}
CODECS = {name.encode(): PRINTABLE for name in python_encoding} | CODECS
"""How text is decoded; what is not ASCII in the other character sets is left to pydicom."""

UID = re.compile(rb"[0-9.]+[\0 ]*")
INTEGERS = re.compile(rb" *[+-]?[0-9]{1,9} *(?:\\ *[+-]?[0-9]{1,9} *)*\0?")
DECIMALS = re.compile(
    rb" *[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})? *"
    rb"(?:\\ *[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})? *)*\0?"
)


class Value:
    """What `header_values` asks of an element: its value, and whether it was written with undefined length."""

    __slots__ = ("is_undefined_length", "value")

    def __init__(self, value: Any, is_undefined_length: bool = False) -> None:
        self.value = value
        self.is_undefined_length = is_undefined_length


class BytesInFile(bytes):
    """Bytes that were left in the file: they have a length and nothing else."""

    length: int

    def __len__(self) -> int:
        return self.length


class PlainHeader(Dataset):
    """The wanted elements of one file, with as much of pydicom's data set as is asked of it.

    pydicom's own takes 3 us an access, and a file has 60 accesses.

    Args:
        found: by keyword, text as `str`, sequences as lists of `PlainHeader`, all else as `Value`; tags of overlays.
        file_meta: the file meta information; none in the items of a sequence.
        excerpt: the beginning of compressed pixel data.
    """

    found: dict[Any, Any]
    excerpt: bytes

    def __init__(self, found: dict[Any, Any], file_meta: Dataset | None = None, excerpt: bytes = b"") -> None:
        # Not by `setattr`, in which pydicom looks for keywords. `get` is for text and sequences, the other for `Value`.
        vars(self).update(
            found=found, file_meta=file_meta, preamble=b"", excerpt=excerpt, get=found.get, get_item=found.get
        )

    def __getattr__(self, name: str) -> NoReturn:
        """Keep pydicom's methods from finding a data set that has no elements."""
        raise AttributeError(name)

    def __len__(self) -> int:
        return len(self.found)

    def __contains__(self, name: object) -> bool:
        return (name[0] << 16 | name[1] if isinstance(name, tuple) else name) in self.found

    def __getitem__(self, key: Any) -> Any:
        return self.found[key]

    def keys(self) -> Any:
        """Return the tags of overlays; nothing else is looked for by its tag."""
        return self.found.keys() & OVERLAYS

    @property
    def PixelData(self) -> bytes:  # noqa: N802 -- pydicom's name
        """Compressed pixel data of one fragment, cut off behind the header of its codestream."""
        return self.excerpt


def plain_header(data: bytes, size: int, read_at: ReadAt) -> PlainHeader:
    """Read the header of a file.

    Args:
        data: the first bytes of the file, or all of it.
        size: of the file.
        read_at: reads what lies further on: fragments of compressed pixel data, and what is behind the pixel data.

    Raises:
        NotPlain: pydicom has to read this file.
        MoreNeeded: the header does not end in `data`, or is damaged.
    """
    if data[128:132] != b"DICM" or len(data) < 160:
        raise NotPlain
    buffer = buffer_of(data, is_whole=len(data) >= size)
    raw_meta, start = file_meta(buffer)
    meta = PlainHeader(_decoded(raw_meta, LATIN))
    syntax = meta.get("TransferSyntaxUID")
    if not syntax or syntax in (DEFLATED, BIG_ENDIAN):
        raise NotPlain
    if syntax == IMPLICIT:
        buffer = Buffer(buffer.data, buffer.end, implicit=True)
    check_start(buffer, start)
    found: Found = {}
    position = top_elements(buffer, start, found)
    if "PixelData" in found:
        return _with_pixels(found, position, meta, size, read_at)
    if len(data) < size:
        raise MoreNeeded
    return PlainHeader(_decoded(found, _codec(found)), meta)


def _with_pixels(found: Found, start: int, meta: PlainHeader, size: int, read_at: ReadAt) -> PlainHeader:
    """Make the header of an image: with what is behind its pixel data, and what their items say of them."""
    syntax, length = meta.get("TransferSyntaxUID"), found["PixelData"]
    fragments = fragments_of(start, size, read_at) if length == UNDEFINED else None
    value = BytesInFile()
    value.length = fragments.length if fragments else length
    end = start + value.length + (8 if fragments else 0)
    if end > size:
        raise NotPlain
    if size - end >= 8:
        tail = read_at(end, TAIL)
        if end + len(tail) < size:
            raise NotPlain
        top_elements(buffer_of(tail, is_whole=True, implicit=syntax == IMPLICIT), 0, found)
    del found["PixelData"]
    values = _decoded(found, _codec(found))
    values["PixelData"] = Value(value if value.length else None, fragments is not None)
    excerpt = b""
    if fragments and FAMILIES.get(syntax, "rle") != "rle":
        excerpt = _excerpt(fragments, values.get("NumberOfFrames"), read_at)
    return PlainHeader(values, meta, excerpt)


def _excerpt(fragments: Fragments, number_of_frames: Value | None, read_at: ReadAt) -> bytes:
    """Return pixel data of the first fragment alone, cut off, if the first frame begins there and says what it is."""
    frames = max(int(number_of_frames.value[0]), 1) if number_of_frames and number_of_frames.value else 1
    if fragments.offsets:
        begins_first = len(fragments.offsets) == 1 or fragments.offsets[1] > 0
    else:
        begins_first = frames == 1 or fragments.count in (1, frames)
    start, length = fragments.first
    beginning = read_at(start, min(length, EXCERPT))
    if not begins_first or codestream_header(beginning) is None:
        raise NotPlain
    item = ITEM.to_bytes(4, "little")
    return item + bytes(4) + item + len(beginning).to_bytes(4, "little") + beginning


def _codec(found: Found) -> str:
    codec = CODECS.get(found.pop("SpecificCharacterSet", b"").rstrip(b" \0"))
    if codec is None:
        raise NotPlain
    return codec


def _decoded(found: Found, codec: str) -> dict[Any, Any]:
    """Decode raw values, as pydicom and `header_values` would."""
    return {key: _DECODERS[VRS[key]](raw, codec) if key in VRS else None for key, raw in found.items()}


@lru_cache(MOST_REMEMBERED)
def _code(raw: bytes, codec: str) -> str:
    return raw.decode(LATIN).strip(" \0")


def _text(raw: bytes, codec: str) -> str:
    try:
        decoded = raw.decode(codec)
    except UnicodeDecodeError:
        raise NotPlain from None
    if "\x1b" in decoded or (codec == PRINTABLE and not decoded.rstrip(" \0").isprintable()):
        raise NotPlain
    return "\\".join(part.rstrip("\0 ") for part in decoded.split("\\")) if "\\" in decoded else decoded.strip(" \0")


def _name(raw: bytes, codec: str) -> str:
    """A name is read for its character set alone."""
    _text(raw, codec)
    return ""


def _uid(raw: bytes, codec: str) -> str:
    if raw and not UID.fullmatch(raw):
        raise NotPlain
    return raw.decode(LATIN).rstrip("\0 ")


@lru_cache(MOST_REMEMBERED)
def _word(raw: bytes, codec: str) -> Value:
    if len(raw) not in (0, 2):
        raise NotPlain
    return Value(int.from_bytes(raw, "little") if raw else None)


def _numbers(pattern: re.Pattern[bytes]) -> Callable[[bytes, str], Value]:
    @lru_cache(MOST_REMEMBERED)
    def decoded(raw: bytes, codec: str) -> Value:
        if raw and not pattern.fullmatch(raw):
            raise NotPlain
        return Value([float(part) for part in raw.rstrip(b" \0").split(b"\\")] if raw else None)

    return decoded


def _sequence(items: list[dict[Any, Any]], codec: str) -> list[PlainHeader]:
    return [PlainHeader(_decoded(item, codec)) for item in items]


_DECODERS: dict[str, Callable[[Any, str], Any]] = {
    "CS": _code,
    "DA": _code,
    "LO": _text,
    "SH": _text,
    "PN": _name,
    "UI": _uid,
    "US": _word,
    "IS": _numbers(INTEGERS),
    "DS": _numbers(DECIMALS),
    "SQ": _sequence,
}
