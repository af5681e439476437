r"""HL7 v2 messages: cut out of a stream, decoded, taken apart into segments and fields; used by `hl7_reports`.

A message is taken apart by the `hl7` library; the escape sequences are resolved here, since the library counts what a
message says without a bound, and quotes text in its log. Lines that do not begin with the name of a segment belong to
the field above, as systems send that write line breaks unescaped.
"""

import re
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import BinaryIO

import hl7

from preprocessing.errors import UnusableFile
from preprocessing.report_records import FORMAT_REASONS
from preprocessing.text_files import decoded

LONGEST_MESSAGE = 32_000_000
"""Bytes; messages carry whole PDF documents."""

_MOST_DELIMITERS = 500_000
"""More than any message has; each costs the library an object of its own."""

BEGINNING = re.compile(rb"(?:\xef\xbb\xbf)?[\s\x0b]*(?:MSH|FHS|BHS)([^\w\s])[^\w\s]{1,5}(?:\1|[\r\n])")
_MESSAGE = re.compile(rb"(?:\A(?:\xef\xbb\xbf)?|(?<=[\r\n\x0b\x1c]))[ \t\x0b]*(?=MSH[^\w\s])")
_BREAK = re.compile(r"\r\n|\r|\n")
_SEGMENT = re.compile(r"[A-Z][A-Z0-9]{2}")
_BARE = frozenset({"MSH", "PID", "PV1", "ORC", "OBR", "OBX", "NTE", "DSC", "ZDS", "BTS", "FTS"})
"""Segments that may be without fields; other words of three letters on a line are text ("CHF")."""
_FRAMES = str.maketrans("", "", "\x0b\x1c\ufeff")

CHARACTER_SETS = {
    "ASCII": "ascii",
    "UNICODE UTF-8": "utf-8",
    "UTF-8": "utf-8",
    "GB 18030-2000": "gb18030",
    "KS X 1001": "euc-kr",
    "BIG-5": "big5",
    "ISO IR87": "iso2022_jp",
    "ISO IR159": "iso2022_jp_1",
    "WINDOWS-1252": "cp1252",
    **{f"8859/{part}": f"iso8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
}
"""MSH-18 (table 0211) to Python's names; others are found out as for text files."""

Segment = tuple[str, list[str]]


@dataclass(frozen=True)
class Delimiters:
    """What MSH-1 and MSH-2 say, and the encoding of bytes that are escaped."""

    field: str
    component: str
    repetition: str
    escape: str
    subcomponent: str
    encoding: str


def messages_in(stream: BinaryIO) -> Iterator[bytes]:
    """The messages of a stream, each from its MSH to the next; one that is too long, up to a byte more than allowed.

    What stands before the first is a header of the file or batch.
    """
    pending = bytearray()
    is_message = False
    while block := stream.read(1 << 20):
        seen = max(0, len(pending) - 8)
        pending += block
        starts = sorted({match.end() for match in _MESSAGE.finditer(pending, seen)} - ({0} if is_message else set()))
        begin = 0
        for start in starts:
            if is_message:
                yield bytes(pending[begin : min(start, begin + LONGEST_MESSAGE + 1)])
            begin, is_message = start, True
        del pending[: begin or max(0, 0 if is_message else len(pending) - 8)]
        del pending[LONGEST_MESSAGE + 1 :]
    if is_message:
        yield bytes(pending[: LONGEST_MESSAGE + 1])


def segments_of(message: bytes) -> tuple[list[Segment], Delimiters, tuple[str, ...]]:
    """Names and fields of the segments, numbered as in the standard, still with repetitions and escapes."""
    if len(message) > LONGEST_MESSAGE:
        raise UnusableFile("too_long", f"longer than {LONGEST_MESSAGE} bytes, so no message")
    text, encoding, flags = _decoded_message(message)
    lines = _joined(_BREAK.split(text.translate(_FRAMES).strip()))
    if sum(text.count(mark) for mark in text[3:8]) > _MOST_DELIMITERS:
        raise UnusableFile("malformed_hl7", "has more fields and components than any message")
    try:
        parsed = hl7.parse("\r".join(lines))
        marks = parsed.separators
        delimiters = Delimiters(marks[1], marks[3], marks[2], parsed.esc, marks[4], encoding)
        segments = [(str(segment[0]), [str(part) for part in segment]) for segment in parsed]
    except Exception:  # the library raises what Python raised on the way; its messages may quote the text
        raise UnusableFile("malformed_hl7", FORMAT_REASONS["malformed_hl7"]) from None
    if len(segments[0][1]) < 10 or len(set(astuple(delimiters))) < len(astuple(delimiters)):
        raise UnusableFile("malformed_hl7", "its header has no message type, or two delimiters are the same")
    return segments, delimiters, flags


def _decoded_message(message: bytes) -> tuple[str, str, tuple[str, ...]]:
    """The text of a message, how single bytes in it are encoded, and flags."""
    header = _BREAK.split(message[:10_000].decode("latin-1").lstrip("\x0b \t\xef\xbb\xbf"), 1)[0]
    fields = header[3:].split(header[3:4] or "|")
    name = fields[17].partition("~")[0].strip().upper() if len(fields) > 17 else ""
    encoding = CHARACTER_SETS.get(name, "")
    if encoding:
        try:
            return message.decode(encoding), encoding, ()
        except UnicodeDecodeError:
            pass
    text, flags = decoded(message)
    return text, "cp1252" if "decoded_as_cp1252" in flags else encoding or "utf-8", flags


def _joined(lines: list[str]) -> list[str]:
    """Lines that begin with a segment; the others put behind the one before them, as the line breaks that they are."""
    separator = lines[0][3:4]
    segments: list[list[str]] = []
    blanks = 0
    for line in lines:
        if not line.strip():
            blanks += 1
        elif not segments or line in _BARE or (_SEGMENT.match(line) and line[3:4] == separator):
            segments.append([line])
            blanks = 0
        else:
            segments[-1] += [""] * blanks + [line]
            blanks = 0
    return ["\n".join(parts) for parts in segments]


def unescaped(value: str, delimiters: Delimiters) -> str:
    r"""Resolve escape sequences (chapter 2.7): delimiters, \Xhh..\, \.br\ and other formatting; highlights go.

    Unknown ones stay as they are, since a backslash is often meant as one.
    """
    mark = delimiters.escape
    if mark not in value:
        return value
    pattern = rf"{re.escape(mark)}([A-Z][0-9A-F]*|\.[a-z]{{2}} ?[+-]?\d*){re.escape(mark)}"
    # Bytes that follow one another may be one character.
    value = re.sub(rf"(?<=[0-9A-F]){re.escape(mark)}{re.escape(mark)}X(?=[0-9A-F])", "", value)
    return re.sub(pattern, lambda match: _resolved(match.group(1), match.group(), delimiters), value)


def _resolved(sequence: str, written: str, delimiters: Delimiters) -> str:
    known = {
        "F": delimiters.field,
        "S": delimiters.component,
        "T": delimiters.subcomponent,
        "R": delimiters.repetition,
        "E": delimiters.escape,
        "H": "",
        "N": "",
    }
    if sequence in known:
        return known[sequence]
    if sequence[0] == "X" and len(sequence) > 1 and len(sequence) % 2:
        content = bytes.fromhex(sequence[1:])
        try:
            return content.decode(delimiters.encoding).replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError:
            return content.decode("latin-1")
    if sequence[0] == ".":
        digits = sequence[3:].strip()
        count = min(20, int(digits)) if digits.isdigit() and len(digits) < 4 else 1
        return {"br": "\n", "sp": "\n" * count, "ce": "\n", "sk": " " * count}.get(sequence[1:3], "")
    return "" if sequence[0] in "CMZ" and len(sequence) > 1 else written
