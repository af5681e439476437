"""Which format a file of reports is in, told by its first bytes; used by `report_sources` for each file it meets."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from preprocessing.errors import UnusableFile
from preprocessing.hl7_messages import BEGINNING
from preprocessing.sr_reports import is_report_class

HEAD = 8192
"""Bytes that are looked at."""

DICOM, HL7, FHIR, XML, TEXT = "DICOM", "HL7", "FHIR", "XML", "text"

_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_MEDIA_CLASS = b"\x02\x00\x02\x00UI"
"""Media Storage SOP Class UID, which the file meta information writes in explicit little endian (PS3.10, 7.1)."""


def format_of(head: bytes, name: str) -> str:
    """The format, or "" for what is none of them.

    Text cannot be told by its content, so `.txt` says it; JSON and XML of unknown kinds are told by their names too, so
    that their own readers can say what is wrong with them.
    """
    if head[128:132] == b"DICM":
        return DICOM
    start = _as_ascii(head)
    lower = name.lower()
    if BEGINNING.match(start):
        return HL7
    if start[:1] in (b"{", b"[") and (b'"resourceType"' in start or lower.endswith((".json", ".ndjson"))):
        return FHIR
    if start[:1] == b"<" and (_is_known_xml(start) or lower.endswith(".xml")):
        return XML
    return TEXT if lower.endswith(".txt") else ""


def is_surely_report(head: bytes, name: str) -> bool:
    """Whether a file that lies among images is meant as a report, of whatever kind and however damaged."""
    found = format_of(head, name)
    if found == DICOM:
        return is_report_class(_media_class(head))
    if found == FHIR:
        return b'"resourceType"' in _as_ascii(head) or name.lower().endswith(".txt")
    if found == XML:
        return _is_known_xml(_as_ascii(head)) or name.lower().endswith(".txt")
    return bool(found)


def is_report_file(path: str | Path) -> bool:
    """`is_surely_report` of a file; not where it cannot be read."""
    try:
        return is_surely_report(head_of(path), os.path.basename(path))  # noqa: PTH119 -- fast
    except (OSError, ValueError, UnusableFile):
        return False


def head_of(path: str | Path) -> bytes:
    """The first bytes of a file; raises as `opened` does."""
    with opened(path) as file:
        return file.read(HEAD)


def opened(path: str | Path) -> BinaryIO:
    """A file to be read; a folder, pipe or device is refused before it can keep the reader waiting.

    Raises:
        UnusableFile: `not_a_file`.
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnusableFile("not_a_file", "neither a file nor a link to one")
    return os.fdopen(descriptor, "rb")


def _as_ascii(head: bytes) -> bytes:
    """The beginning without marks and white space, of UTF-16 every other byte."""
    if head.startswith(_MARKS[1:]) or (head[:1] and head[1:2] == b"\0") or head[:1] == b"\0":
        head = head.replace(b"\0", b"")
    for mark in _MARKS:
        head = head.removeprefix(mark)
    return head.lstrip(b" \t\r\n\x0b")


def _is_known_xml(start: bytes) -> bool:
    return b"<eCitation" in start or b"http://hl7.org/fhir" in start


def _media_class(head: bytes) -> str:
    found = head.find(_MEDIA_CLASS, 132)
    if found < 0:
        return ""
    begin = found + len(_MEDIA_CLASS) + 2
    return head[begin : begin + int.from_bytes(head[begin - 2 : begin], "little")].decode("latin-1").strip(" \0")
