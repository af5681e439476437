"""Bytes to text, for reports and tables that come in whatever encoding a hospital's system wrote."""

import codecs
import re
from encodings import normalize_encoding
from encodings.aliases import aliases

from preprocessing.errors import UnusableFile

LONGEST_REPORT = 5_000_000
"""Bytes or characters; no report is longer, and what is longer is not a report."""

_ENCODINGS = frozenset(
    {
        *("ascii", "latin_1", "utf_8", "utf_16", "utf_16_be", "utf_16_le", "koi8_r", "koi8_u", "mac_roman", "tis_620"),
        *(f"iso8859_{part}" for part in (*range(2, 12), *range(13, 17))),
        *(f"cp{page}" for page in (437, 850, 852, 866, 874, 932, 949, 950, *range(1250, 1259))),
        *("gb2312", "gbk", "gb18030", "big5", "big5hkscs", "shift_jis", "euc_jp", "iso2022_jp", "euc_kr"),
    }
)
"""Python's names of the encodings that texts are in; of its other codecs, some take the square of a text's length."""

_OTHER_NAMES = {"windows_31j": "cp932", "x_sjis": "shift_jis", "windows_874": "cp874"}
"""Names in use that Python does not know."""

_BEGINNINGS = {
    b"%!PS": "a PostScript document",
    b"{\\rtf": "an RTF document",
    b"PK\x03\x04": "a zip archive or office document",
    b"\xd0\xcf\x11\xe0": "an office document",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
}
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "Zstandard"}
"""First bytes of compressed files, and what compressed them."""

_PDF = re.compile(r"%PDF-\d")
_HTML = re.compile(
    r"<(?:!doctype|/?(?:html|head|body|meta|style|script|div|span|table|tbody|tr|td|th|ul|ol|li|font|center|img|a))"
    r"(?:\s[^<>]{0,500})?/?>",
    re.IGNORECASE,
)
_TAG = re.compile(r"</?(?:br|p|hr|b|i|u|em|strong|pre|sub|sup|h[1-6])(?:\s[^<>]{0,100})?/?>", re.IGNORECASE)
"""Tags between which a text can still be read; some systems write their line breaks so."""
_XML = re.compile(r"[\s\ufeff]*<(?:\?xml|ClinicalDocument)\b")
_RTF = re.compile(r"\{\\rtf|\\(?:pard?|plain|fs\d{1,3}|lang\d{3,5})(?![a-z\d])")
_BASE64 = re.compile(r"[A-Za-z0-9+/]{60,}")
_CONTROL = re.compile(r"[\x01-\x08\x0e-\x1f\x7f]")
_WORD = re.compile(r"[^\W_]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_LINE = re.compile(rb"[^\n]*\n|[^\n]+")


def decode_report(content: bytes) -> tuple[str, tuple[str, ...]]:
    """Text of a report, and flags that say how it was decoded; see `decoded` and `checked_text`.

    Raises:
        UnusableFile: `empty_report`, `not_text`, `compressed` or `too_long`.
    """
    if len(content) > LONGEST_REPORT:
        raise UnusableFile("too_long", f"longer than {LONGEST_REPORT} bytes, so not a report")
    start = content[:1024].lstrip()
    for mark, what in COMPRESSED.items():
        if start.startswith(mark):
            raise UnusableFile("compressed", f"compressed with {what}; unpack it first")
    for mark, what in _BEGINNINGS.items():
        if start.startswith(mark):
            raise UnusableFile("not_text", f"{what}, not plain text")
    text, flags = decoded(content)
    text, others = checked_text(text)
    return text, flags + others


def checked_text(text: str) -> tuple[str, tuple[str, ...]]:
    """The text of a report from wherever, once it is known to be plain text, with flags.

    `replacement_characters` says that the text had been damaged before it came here, `html_tags` that it has tags for
    line breaks or emphasis, which stay.

    Raises:
        UnusableFile: `empty_report`, `not_text` or `too_long`.
    """
    if len(text) > LONGEST_REPORT:
        raise UnusableFile("too_long", f"longer than {LONGEST_REPORT} characters, so not a report")
    if "\0" in text:
        raise UnusableFile("not_text", "holds NUL characters, so it is not plain text")
    if not _WORD.search(text):
        raise UnusableFile("empty_report", "holds no words")
    what = _foreign(text)
    if what:
        raise UnusableFile("not_text", f"{what}, not plain text")
    text = _SURROGATE.sub("\ufffd", text)
    flags = {"replacement_characters": "\ufffd" in text, "html_tags": "<" in text and bool(_TAG.search(text))}
    return text, tuple(flag for flag, holds in flags.items() if holds)


def decoded(content: bytes) -> tuple[str, tuple[str, ...]]:
    """Bytes as text of any length, and flags that say how.

    UTF-8 with or without mark, UTF-16 with mark, or without (`decoded_as_utf16`) where every other byte says so;
    otherwise Windows-1252, or Latin-1 where that has no character (`decoded_as_cp1252`, `decoded_as_latin1`). Where
    some lines that are not ASCII are UTF-8 and others are not, each is read as what it is (`mixed_encodings`): parts
    of one file came from systems with different encodings, and all of it can be read.

    Raises:
        UnusableFile: `not_text`, for a mark of UTF-16 without UTF-16 behind it.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return content.decode("utf-16"), ()
        except UnicodeDecodeError:
            raise UnusableFile("not_text", "says that it is UTF-16 and is not") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = ""
    if (not text or "\0" in text) and (encoding := _utf_16_by_its_zeros(content)):
        try:
            return content.decode(encoding), ("decoded_as_utf16",)
        except UnicodeDecodeError:
            pass
    if text or not content:
        return text, ()
    return _decoded_by_lines(content.removeprefix(codecs.BOM_UTF8))


def decoded_line(line: bytes) -> str:
    """A line from the midst of a file: UTF-8, or else Windows-1252 or Latin-1; its first bytes are no mark."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return _single_byte(line)[0]


def text_encoding(name: str) -> str:
    """Python's name of an encoding by whatever name a file calls it; blank for what is no encoding of texts."""
    normal = normalize_encoding(name.lower())
    known = _OTHER_NAMES.get(normal) or aliases.get(normal, normal)
    return known if known in _ENCODINGS else ""


def _utf_16_by_its_zeros(content: bytes) -> str:
    """The UTF-16 without mark that bytes look like: Latin letters have a zero in every other byte and nowhere else."""
    sample = content[:4096]
    pairs = len(sample) // 2
    if pairs < 2 or len(content) % 2:
        return ""
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if even + odd < pairs * 0.7 or min(even, odd):
        return ""
    return "utf-16-le" if odd else "utf-16-be"


def _decoded_by_lines(content: bytes) -> tuple[str, tuple[str, ...]]:
    parts: list[str] = []
    flags: set[str] = set()
    utf_8 = False
    for match in _LINE.finditer(content):
        line = match.group()
        if line.isascii():
            parts.append(line.decode("ascii"))
            continue
        try:
            parts.append(line.decode("utf-8"))
            utf_8 = True
        except UnicodeDecodeError:
            text, encoding = _single_byte(line)
            parts.append(text)
            flags.add(f"decoded_as_{encoding}")
    if utf_8:
        return "".join(parts), ("mixed_encodings", *sorted(flags))
    text, encoding = _single_byte(content)  # the whole of it: one encoding for all lines
    return text, (f"decoded_as_{encoding}",)


def _single_byte(content: bytes) -> tuple[str, str]:
    try:
        return content.decode("cp1252"), "cp1252"
    except UnicodeDecodeError:
        return content.decode("latin-1"), "latin1"


def _foreign(text: str) -> str:
    """What a text is, or holds anywhere, that is not for people to read; blank for plain text."""
    if "%PDF-" in text and _PDF.search(text):
        return "a PDF document"
    if "<" in text and _HTML.search(text):
        return "HTML"
    if _XML.match(text):
        return "an XML document"
    if "\\" in text:
        marks = _RTF.findall(text)
        if len(marks) >= 3 or "{\\rtf" in marks:
            return "RTF"
    encoded = sum(len(run) for run in _BASE64.findall(text) if _looks_random(run))
    if encoded > max(300, len(text) // 2):
        return "a base64 block"
    if len(_CONTROL.findall(text)) * 20 > len(text):
        return "binary data"
    return ""


def _looks_random(run: str) -> bool:
    start = run[:200]
    return not start.isupper() and not start.islower() and any(character.isdigit() for character in start)
