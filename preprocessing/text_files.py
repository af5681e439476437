"""Bytes to text, for reports and tables that come in whatever encoding a hospital's system wrote."""

import codecs

from preprocessing.errors import UnusableFile

LONGEST_REPORT = 5_000_000
"""Bytes; no report is longer, and what is longer is not a report."""

_NOT_PLAIN = {
    b"%PDF": "a PDF document",
    b"{\\rtf": "an RTF document",
    b"PK\x03\x04": "a zip archive or office document",
    b"\xd0\xcf\x11\xe0": "an office document",
    b"<!doctype html": "an HTML page",
    b"<html": "an HTML page",
}


def decode_report(content: bytes) -> tuple[str, tuple[str, ...]]:
    """Text of a report, and flags that say how it was decoded.

    UTF-8 with or without mark, UTF-16 with mark; otherwise Windows-1252, or Latin-1 where that has no character
    (flags `decoded_as_cp1252`, `decoded_as_latin1`). `replacement_characters` says that the text had been damaged
    before it came here.

    Raises:
        UnusableFile: `empty_report`, `not_text` or `too_long`.
    """
    if len(content) > LONGEST_REPORT:
        raise UnusableFile("too_long", f"longer than {LONGEST_REPORT} bytes, so not a report")
    start = content.lstrip()[:20].lower()
    for mark, what in _NOT_PLAIN.items():
        if start.startswith(mark.lower()):
            raise UnusableFile("not_text", f"{what}, not plain text")
    text, flags = _decoded(content)
    if "\0" in text:
        raise UnusableFile("not_text", "holds NUL characters, so it is not plain text")
    if not any(character.isalnum() for character in text):
        raise UnusableFile("empty_report", "holds no words")
    return text, flags + (("replacement_characters",) if "\ufffd" in text else ())


def _decoded(content: bytes) -> tuple[str, tuple[str, ...]]:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return content.decode("utf-16"), ()
        except UnicodeDecodeError as error:
            raise UnusableFile("not_text", "says that it is UTF-16 and is not") from error
    for encoding, flags in (("utf-8-sig", ()), ("cp1252", ("decoded_as_cp1252",))):
        try:
            return content.decode(encoding), flags
        except UnicodeDecodeError:
            continue
    return content.decode("latin-1"), ("decoded_as_latin1",)
