"""Bytes of a plain DICOM file -> raw values of the elements that are wanted; used by `plain_headers`.

Plain is: file meta information, little endian, not deflated, known value representations, lengths that fit. Whatever is
otherwise ends in `NotPlain`: pydicom has ways of its own with it, which are not repeated here (PS3.5 section 7).
"""

from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct, unpack
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

from preprocessing.functional_groups import PER_FRAME, SHARED

Found = dict[Any, Any]
"""By keyword (overlays: by tag), the raw bytes of an element, or for a sequence a list of its items as `Found`."""

ReadAt = Callable[[int, int], bytes]
"""(position, count) -> that many bytes of the file, fewer at its end."""

UNDEFINED = 0xFFFFFFFF
DEEPEST = 8
"""Sequences inside one another that are followed."""

KEYWORDS = (
    *("SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "StudyDate", "AccessionNumber", "Modality"),
    *("PresentationIntentType", "SeriesDescription", "AnatomicRegionSequence", "PatientName", "PatientID"),
    *("BodyPartExamined", "ImagerPixelSpacing", "ShutterShape", "CollimatorShape", "NominalScannedPixelSpacing"),
    *("ViewPosition", "StudyInstanceUID", "PatientOrientation", "Laterality", "ImageLaterality", "FrameLaterality"),
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "PixelSpacing"),
    *("PixelAspectRatio", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "BurnedInAnnotation"),
    *("PixelIntensityRelationship", "ViewCodeSequence", "PresentationLUTShape", "PixelData"),
)
"""All that `image_facts` and `check_selected` read at top level; a test holds the two against each other."""

ITEM_KEYWORDS = ("CodeValue", "CodeMeaning", "ViewModifierCodeSequence")
META_KEYWORDS = ("MediaStorageSOPClassUID", "TransferSyntaxUID")
OTHER_PIXELS = ("FloatPixelData", "DoubleFloatPixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths")
ELSEWHERE = (SHARED, PER_FRAME, *OTHER_PIXELS)
"""Elements that change what the others mean, or are read in another way: files with them are for pydicom."""

OVERLAYS = {group << 16 | element for group in range(0x6000, 0x6020) for element in (0x0102, 0x3000)}
VRS = {keyword: dictionary_VR(tag_for_keyword(keyword) or 0) for keyword in (*KEYWORDS, *ITEM_KEYWORDS, *META_KEYWORDS)}


class NotPlain(Exception):  # noqa: N818 -- an outcome: pydicom has to read this file
    """The header is none of those that are read here."""


class MoreNeeded(Exception):  # noqa: N818 -- an outcome: the file has to be read further
    """The header is longer than the bytes that were given, or damaged."""


def _stored(tag: int) -> int:
    """Return a tag as the number that its four bytes are in little endian: group and element change places."""
    return (tag & 0xFFFF) << 16 | tag >> 16


def _by_tag(keywords: tuple[str, ...]) -> dict[int, Any]:
    return {_stored(tag_for_keyword(keyword) or 0): keyword for keyword in keywords}


ITEM, _ITEM_END, _SEQUENCE_END = _stored(0xFFFEE000), _stored(0xFFFEE00D), _stored(0xFFFEE0DD)
_GROUP_LENGTH = _stored(0x00020000)

# What to look for; None is what no plain file has there, such as an item with a character set of its own.
_NOWHERE = {_stored(0x00080005): None, _ITEM_END: _ITEM_END}
_IN_ITEMS = {**_NOWHERE, **_by_tag(ITEM_KEYWORDS)}
_IN_META = _by_tag(META_KEYWORDS)
_AT_TOP = {**_by_tag(KEYWORDS), **dict.fromkeys(_by_tag(ELSEWHERE)), _ITEM_END: None}
_AT_TOP |= {_stored(tag): tag for tag in OVERLAYS}

_EXPLICIT_VRS: dict[Any, tuple[bytes, ...]] = {keyword: (vr.encode(),) for keyword, vr in VRS.items()}
_EXPLICIT_VRS |= {"PixelData": (b"OB", b"OW")}
_SHORT = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_16)
_LONG = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_32)
_EXPLICIT_HEAD, _IMPLICIT_HEAD = Struct("<I2sHI").unpack_from, Struct("<II").unpack_from


@dataclass(frozen=True, slots=True)
class Buffer:
    """A part of a file: `end` of its bytes are to be read, and four more are there, so that a head can be unpacked."""

    data: bytes
    end: int
    implicit: bool = False


def buffer_of(data: bytes, *, is_whole: bool, implicit: bool = False) -> Buffer:
    """Return a buffer of what was read: all that is left of a file, or its beginning."""
    return Buffer(data + bytes(4), len(data), implicit) if is_whole else Buffer(data, len(data) - 4, implicit)


def file_meta(buffer: Buffer) -> tuple[Found, int]:
    """Read the file meta information (PS3.10 7.1) by its elements, not by its length; return where it ends as well."""
    found: Found = {}
    position = 132
    while position <= buffer.end - 12:
        tag, vr, length, long_length = _EXPLICIT_HEAD(buffer.data, position)
        if tag & 0xFFFF != 2:
            return found, position
        is_length = tag == _GROUP_LENGTH
        # pydicom converts the first element and the length, and would raise what it meets there.
        if is_length != (position == 132) and (is_length or vr not in (b"OB", b"UI")):
            raise NotPlain
        if is_length and (vr, length) != (b"UL", 4):
            raise NotPlain
        position += 8
        if vr in _LONG:
            length, position = long_length, position + 4
        elif vr not in _SHORT:
            raise NotPlain
        keyword = _IN_META.get(tag)
        if keyword:
            if keyword in found or vr != b"UI":
                raise NotPlain
            found[keyword] = buffer.data[position : position + length]
        position += length
    raise MoreNeeded


def top_elements(buffer: Buffer, position: int, found: Found) -> int:
    """Put the raw values of the elements of a data set into `found`; the pixel data are the last to be looked at.

    Args:
        position: of the first element. Those up to the end of the buffer are read.
        found: what is there already must not come again.

    Returns:
        Position of the first pixel, if there are pixel data; their length is their value in `found`.

    Raises:
        NotPlain: pydicom has to read this file.
        MoreNeeded: an element goes past the end of the buffer.
    """
    return _elements(buffer, position, buffer.end, _AT_TOP, found, 0)


def check_start(buffer: Buffer, position: int) -> None:
    """Refuse a data set that begins with a command group, or in another encoding than its transfer syntax says."""
    tag, vr, *_ = _EXPLICIT_HEAD(buffer.data, position)
    if not tag & 0xFFFF or (buffer.implicit and vr.isalpha() and vr.isupper()):
        raise NotPlain


def _elements(
    buffer: Buffer,
    position: int,
    stop: int,
    wanted: dict[int, Any],
    found: Found,
    depth: int,
    *,
    delimited: bool = False,
) -> int:
    """Read elements up to `stop`, where the last must end, or to the delimiter of their item; return where they end."""
    data, implicit, last = buffer.data, buffer.implicit, stop - 8
    while position <= last:
        vr = None
        if implicit:
            tag, length = _IMPLICIT_HEAD(data, position)
            position += 8
        else:
            tag, vr, length, long_length = _EXPLICIT_HEAD(data, position)
            position += 8
            if vr in _SHORT:
                if tag not in wanted:  # most of a header: what comes below is passed over, to be fast
                    position += length
                    continue
            elif vr in _LONG:
                length = long_length
                position += 4
            elif tag != _ITEM_END:
                raise NotPlain
        if tag in wanted:
            keyword = wanted[tag]
            if keyword == _ITEM_END and delimited and not length:
                return position
            if keyword in found or keyword in (None, _ITEM_END) or (vr and vr not in _EXPLICIT_VRS.get(keyword, (vr,))):
                raise NotPlain
            if keyword == "PixelData":
                found[keyword] = length
                return position
            if VRS.get(keyword) == "SQ":
                found[keyword], position = _items(buffer, position, length, stop, _IN_ITEMS, depth + 1)
                continue
            found[keyword] = data[position : position + length]
        elif length == UNDEFINED:
            _check_sequence(buffer, tag, vr, position)
            _, position = _items(buffer, position, length, stop, _NOWHERE, depth + 1)
            continue
        position += length
    if delimited or position > stop or (depth and position < stop):  # pydicom overlooks up to 7 bytes at a file's end
        raise MoreNeeded
    return position


def _check_sequence(buffer: Buffer, tag: int, vr: bytes | None, position: int) -> None:
    """Refuse an element of undefined length that pydicom does not read as a sequence."""
    if not buffer.implicit:
        is_sequence = vr == b"SQ"
    else:
        try:
            is_sequence = dictionary_VR(_stored(tag)) == "SQ"
        except KeyError:
            is_sequence = buffer.data[position : position + 4] == ITEM.to_bytes(4, "little")
    if not is_sequence:
        raise NotPlain


def _items(
    buffer: Buffer, position: int, length: int, stop: int, wanted: dict[int, Any], depth: int
) -> tuple[list[Found], int]:
    """Read each item of a sequence (PS3.5 7.5); return the position behind it as well."""
    end = stop if length == UNDEFINED else position + length
    found: list[Found] = []
    while position <= end - 8 <= stop - 8:
        tag, item_length = _IMPLICIT_HEAD(buffer.data, position)
        position += 8
        if tag == _SEQUENCE_END and length == UNDEFINED and not item_length:
            return found, position
        if tag != ITEM or depth > DEEPEST:
            raise NotPlain
        delimited = item_length == UNDEFINED
        item_end = end if delimited else position + item_length
        if item_end > end:
            raise MoreNeeded
        found.append({})
        position = _elements(buffer, position, item_end, wanted, found[-1], depth, delimited=delimited)
    if length == UNDEFINED or position != end or end > stop:
        raise MoreNeeded
    return found, position


@dataclass(frozen=True, slots=True)
class Fragments:
    """Encapsulated pixel data (PS3.5 A.4).

    Args:
        length: in bytes, without the delimiter.
        first: position and length of the first fragment.
        count: number of fragments.
        offsets: the basic offset table.
    """

    length: int
    first: tuple[int, int]
    count: int
    offsets: tuple[int, ...]


def fragments_of(start: int, size: int, read_at: ReadAt) -> Fragments:
    """Walk encapsulated pixel data from item to item, which leaves their bytes unread."""
    position = start
    found: list[tuple[int, int]] = []
    while position <= size - 8:
        tag, length = _IMPLICIT_HEAD(read_at(position, 8))
        if tag == _SEQUENCE_END:
            if len(found) < 2 or found[0][1] % 4:
                raise NotPlain
            table = read_at(*found[0])
            return Fragments(position - start, found[1], len(found) - 1, unpack(f"<{len(table) // 4}I", table))
        if tag != ITEM:
            raise NotPlain
        found.append((position + 8, length))
        position += 8 + length
    raise NotPlain
