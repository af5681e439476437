"""One compressed frame -> array: what the codestream says of itself, and which decoder reads it.

Called by `pixel_data` for each frame of encapsulated pixel data. The codestream's own header is read before any decoder
runs, so that a stream of 65535 x 65535 pixels behind a small DICOM header is refused before memory is taken.
"""

import io
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import imagecodecs
import numpy as np
from PIL import Image

Family = Literal["jpeg", "jpeg-ls", "jpeg2000", "htj2k", "rle"]
Array = np.ndarray[Any, np.dtype[Any]]

FAMILIES: dict[str, Family] = {
    "1.2.840.10008.1.2.5": "rle",
    "1.2.840.10008.1.2.4.50": "jpeg",
    "1.2.840.10008.1.2.4.51": "jpeg",
    "1.2.840.10008.1.2.4.57": "jpeg",
    "1.2.840.10008.1.2.4.70": "jpeg",
    "1.2.840.10008.1.2.4.80": "jpeg-ls",
    "1.2.840.10008.1.2.4.81": "jpeg-ls",
    "1.2.840.10008.1.2.4.90": "jpeg2000",
    "1.2.840.10008.1.2.4.91": "jpeg2000",
    "1.2.840.10008.1.2.4.201": "htj2k",
    "1.2.840.10008.1.2.4.202": "htj2k",
    "1.2.840.10008.1.2.4.203": "htj2k",
}
"""Compressed transfer syntaxes that can be read (PS3.6 annex A)."""

DECODERS: dict[Family, tuple[Callable[[bytes], Array], ...]] = {
    # libjpeg-turbo 3 behind `jpeg8_decode` reads 8-bit, 12-bit and lossless; measured faster than `ljpeg_decode`.
    "jpeg": (imagecodecs.jpeg8_decode, imagecodecs.ljpeg_decode),
    "jpeg-ls": (imagecodecs.jpegls_decode,),
    "jpeg2000": (imagecodecs.jpeg2k_decode,),
    "htj2k": (imagecodecs.htj2k_decode, imagecodecs.jpeg2k_decode),
    "rle": (),
}
"""Decoders in the order in which they are tried, the fastest first; pydicom's come after them."""

START_OF_FRAME = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}  # ISO 10918-1 table B.1; 14495-1 SOF55
WITHOUT_LENGTH = {0x01, *range(0xD0, 0xDA)}
END_OF_IMAGE = b"\xff\xd9"  # EOI of the JPEG standards and EOC of JPEG 2000 have the same code
J2K_START = b"\xff\x4f\xff\x51"


@dataclass(frozen=True)
class Codestream:
    """What a codestream's own header declares.

    Args:
        family: "jpeg", "jpeg-ls" or "jpeg2000" (which stands for HTJ2K as well).
        rows: height in pixels.
        columns: width in pixels.
        samples: components a pixel.
        precision: bits a sample.
        signed: whether samples are two's complement (JPEG 2000 alone can say so).
    """

    family: Family
    rows: int
    columns: int
    samples: int
    precision: int
    signed: bool


def codestream_header(data: bytes) -> Codestream | None:
    """Read the frame header of a JPEG, JPEG-LS or JPEG 2000 codestream; None if there is none.

    Source: ISO/IEC 10918-1 B.2.2, 14495-1 C.2.2, 15444-1 A.5.1.
    """
    try:
        if data[:2] == b"\xff\xd8":
            return _jpeg_header(data)
        start = data.find(J2K_START, 0, 4096)  # not at 0 when a JP2 file was encapsulated instead of its codestream
        return _jpeg2000_header(data, start) if start >= 0 else None
    except (IndexError, struct.error):
        return None


def is_complete(data: bytes) -> bool:
    """Tell whether an end-of-image marker is there: libjpeg fills what is missing with grey and says nothing."""
    return data.rfind(END_OF_IMAGE) > 0


def decode_frame(data: bytes, family: Family, rows: int, columns: int) -> tuple[Array | None, str, list[str]]:
    """Decode one codestream with the first decoder that gives an array of the right size.

    Returns:
        The array (rows, columns) or (rows, columns, samples), None if no decoder could; the name of the decoder; and
        for each one that failed, its name and the kind of error.
    """
    failures: list[str] = []
    for decoder in DECODERS[family]:
        decoded, failure = _attempt(decoder, data, rows, columns)
        if decoded is not None:
            return decoded, f"imagecodecs {decoder.__name__}", failures
        failures.append(f"{decoder.__name__} {failure}")
    return None, "", failures


def decode_reduced(data: bytes, header: Codestream, family: Family, halvings: int) -> tuple[Array | None, str]:
    """Decode a grey JPEG 2000 or HTJ2K codestream at a lower resolution, which leaves its finest wavelets out.

    Value [i, j] of the result stands for place [i, j] * 2 ** halvings of the picture, and not for the middle of that
    many pixels.

    Args:
        data: the codestream.
        header: what `codestream_header` says of it.
        family: "jpeg2000" or "htj2k".
        halvings: number of wavelet levels to leave out.

    Returns:
        The array, each side divided by 2 ** halvings and rounded up, and the name of the decoder; None where it
        cannot be read so, for instance as it has fewer levels.
    """
    step = 1 << halvings
    rows, columns = -(-header.rows // step), -(-header.columns // step)
    if family == "htj2k":
        decoded, _ = _attempt(lambda data: imagecodecs.htj2k_decode(data, skipres=halvings), data, rows, columns)
        return decoded, "imagecodecs htj2k_decode"
    decoded, _ = _attempt(lambda data: _pillow_jpeg2000(data, header, halvings), data, rows, columns)
    return decoded, "pillow jpeg2000"


def _attempt(decoder: Callable[[bytes], Array], data: bytes, rows: int, columns: int) -> tuple[Array | None, str]:
    """Return what a decoder makes of a codestream, or None and the kind of error."""
    try:
        with _swallowed_errors() as swallowed:
            decoded = np.asarray(decoder(data))
    except MemoryError:
        raise
    except Exception as error:  # codec libraries raise classes of their own
        return None, type(error).__name__
    if swallowed:
        if swallowed[0] == "MemoryError":
            raise MemoryError
        return None, swallowed[0]
    if decoded.shape[:2] == (rows, columns) and decoded.dtype.kind in "ui":
        return decoded, ""
    return None, "other size"


def _pillow_jpeg2000(data: bytes, header: Codestream, halvings: int) -> Array:
    """Pillow moves values up to the top of 8 or 16 bits, and signed ones above zero: undone here."""
    if header.precision > 16:
        raise ValueError("more bits than Pillow reads")
    with Image.open(io.BytesIO(data), formats=["JPEG2000"]) as picture:
        setattr(picture, "reduce", halvings)  # noqa: B010 -- an attribute of this format, behind a method's name
        decoded = np.asarray(picture)
    values: Array = decoded >> (decoded.dtype.itemsize * 8 - header.precision)
    if header.signed:
        values = (values.astype(np.int32) - (1 << (header.precision - 1))).astype(f"i{decoded.dtype.itemsize}")
    return values


@contextmanager
def _swallowed_errors() -> Iterator[list[str]]:
    """Collect the names of errors that a decoder meets and cannot raise.

    imagecodecs 2026.3's `htj2k_decode` gives a half-filled array for a damaged codestream and tells only
    `sys.unraisablehook`, which is replaced for the time of the call.
    """
    swallowed: list[str] = []
    previous = sys.unraisablehook
    sys.unraisablehook = lambda unraisable: swallowed.append(unraisable.exc_type.__name__)
    try:
        yield swallowed
    finally:
        sys.unraisablehook = previous


def decode_rle(data: bytes, rows: int, columns: int, bits_allocated: int) -> Array | None:
    """Decode one RLE frame of one sample a pixel (PS3.5 annex G); None if it does not hold what it should."""
    dtype = np.dtype(f"<u{bits_allocated // 8}")
    if len(data) < 64:
        return None
    count, *offsets = struct.unpack_from(f"<{1 + dtype.itemsize}I", data)
    # imagecodecs follows wrong offsets out of the buffer, to a segmentation fault (seen with 2026.3.6).
    if count != dtype.itemsize or not offsets[0] >= 64 or not all(a < b for a, b in pairwise([*offsets, len(data)])):
        return None
    try:
        # With the size given, a frame that decodes to more fails before memory is taken for it.
        decoded = np.frombuffer(imagecodecs.dicomrle_decode(data, dtype, out=rows * columns * dtype.itemsize), dtype)
    except MemoryError:
        raise
    except Exception:
        return None
    return decoded.reshape(rows, columns) if decoded.size == rows * columns else None


def rle_size(data: bytes, limit: int) -> int:
    """Count the bytes that an RLE frame (PS3.5 annex G) decodes to, not much further than `limit`; 0 if it is none."""
    if len(data) < 64:
        return 0
    count, *offsets = struct.unpack_from("<16I", data)
    size = 0
    for position, end in pairwise([*offsets[:count], len(data)] if count <= 15 else []):
        while position < min(end, len(data)) and size <= limit:
            control = data[position]
            if control > 128:  # one byte, repeated
                size, position = size + 257 - control, position + 2
            elif control < 128:  # bytes as they are
                size, position = size + control + 1, position + control + 2
            else:
                position += 1
    return size


def _jpeg_header(data: bytes) -> Codestream | None:
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in WITHOUT_LENGTH:
            position += 2
        elif marker in START_OF_FRAME:
            precision, rows, columns, samples = struct.unpack_from(">BHHB", data, position + 4)
            family: Family = "jpeg-ls" if marker == 0xF7 else "jpeg"
            return Codestream(family, rows, columns, samples, precision, signed=False)
        else:
            position += 2 + int(struct.unpack_from(">H", data, position + 2)[0])
    return None


def _jpeg2000_header(data: bytes, start: int) -> Codestream | None:
    width, height, left, top = struct.unpack_from(">4I", data, start + 8)
    tile_width, tile_height = struct.unpack_from(">2I", data, start + 24)
    samples, depth, step_x, step_y = struct.unpack_from(">HBBB", data, start + 40)
    if 0 in (tile_width, tile_height, step_x, step_y):  # OpenJPH divides by them and ends the process
        return None
    return Codestream("jpeg2000", height - top, width - left, samples, (depth & 0x7F) + 1, signed=bool(depth & 0x80))
