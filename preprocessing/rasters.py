"""PNG and JPEG files -> pictures: the way in for public data sets that hold no DICOM.

Apart from `readers`, so that ingest workers need not load MONAI and PyTorch for it.
"""

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from preprocessing.codestreams import codestream_header, is_complete
from preprocessing.colour import LUMA
from preprocessing.dicom import file_bytes
from preprocessing.errors import UnusableFile
from preprocessing.pixel_data import MAXIMUM_SAMPLES
from preprocessing.rendering import Picture

RASTER_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})

FLAGS: dict[str, str] = {
    "colour": "colours that differ from grey were turned to their luminance",
    "alpha": "a transparency channel was dropped",
    "narrow_range": "no pixel reaches a quarter of full scale: perhaps 12-bit values in 16-bit words",
    "inverted": "bone was dark in the file, as the manifest or data set says; dark and bright were exchanged",
}
"""Flags that `raster_picture` and `exchanged` may set, and what each one means."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_raster(path: Path) -> NDArray[np.float32]:
    """Read a PNG or JPEG as (rows, columns) float32 in [0, 1]; see `raster_picture`."""
    return raster_picture(file_bytes(path)).pixels


def raster_picture(data: bytes) -> Picture:
    """Decode a PNG or JPEG of 8 or 16 bits, grey, colour or palette, with or without alpha.

    Values are divided by full scale (255 or 65535), not stretched. Orientation tags of cameras are not applied.

    Raises:
        UnusableFile: no PNG or JPEG, cut short or too large.
    """
    see_through = False
    _check(data)
    if data.startswith(PNG_SIGNATURE):
        data, see_through = _bare_png(data)
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None:
        raise UnusableFile("decode_failed", "the PNG or JPEG cannot be decoded")
    grey, flags = _grey(decoded)
    if see_through:
        flags.add("alpha")
    pixels = (grey / np.float32(np.iinfo(decoded.dtype).max)).astype(np.float32)
    if pixels.max() < 0.25:
        flags.add("narrow_range")
    return Picture(pixels, "raster", tuple(sorted(flags)))


def exchanged(picture: Picture) -> Picture:
    """Exchange dark and bright: x becomes 1 - x.

    In a picture of `narrow_range` the greatest value that its bits can hold stands for 1, or all of it would be white.
    """
    pixels, most = picture.pixels, np.float32(1)
    if "narrow_range" in picture.flags and pixels.any():
        most = np.float32((2 ** int(np.rint(pixels.max() * 65535)).bit_length() - 1) / 65535)
    return Picture(most - pixels, picture.voi, tuple(sorted({*picture.flags, "inverted"})))


def _check(data: bytes) -> None:
    """Refuse what is no picture, cut short, or would need more memory than there is."""
    if data.startswith(PNG_SIGNATURE):
        if len(data) < 33:
            raise UnusableFile("truncated", "the PNG ends early")
        if data[12:16] != b"IHDR":
            raise UnusableFile("decode_failed", "the PNG does not begin with its header")
        columns, rows = struct.unpack_from(">2I", data, 16)
    elif (header := codestream_header(data)) is not None and header.family == "jpeg":
        if not is_complete(data):
            raise UnusableFile("truncated", "the JPEG ends before its end-of-image marker")
        rows, columns = header.rows, header.columns
    else:
        raise UnusableFile("not_an_image", "the file is neither PNG nor JPEG")
    if not 0 < rows * columns <= MAXIMUM_SAMPLES:
        raise UnusableFile("too_large", f"{rows} x {columns} pixels are declared")


def _bare_png(data: bytes) -> tuple[bytes, bool]:
    """Return a PNG with the chunks that pixels need, and whether transparent colours were among the others.

    libpng writes what it thinks of colour profiles, times and texts to stderr.
    """
    palette = data[25] == 3
    kept, see_through, position, kind = [PNG_SIGNATURE], False, len(PNG_SIGNATURE), b""
    while kind != b"IEND":
        if position + 12 > len(data):
            raise UnusableFile("truncated", "the PNG ends early")
        length, kind = struct.unpack_from(">I4s", data, position)
        chunk, position = data[position : position + 12 + length], position + 12 + length
        see_through |= kind == b"tRNS"
        if kind not in (b"IHDR", b"IDAT", b"IEND") and not (kind == b"PLTE" and palette):
            continue
        if position > len(data):
            raise UnusableFile("truncated", "the PNG ends early")
        if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:]):
            raise UnusableFile("decode_failed", "the PNG is damaged: a checksum is wrong")
        kept.append(chunk)
    return b"".join(kept), see_through


def _grey(decoded: NDArray[np.integer[Any]]) -> tuple[NDArray[Any], set[str]]:
    if decoded.ndim == 2:
        return decoded, set()
    flags = {"alpha"} if decoded.shape[2] in (2, 4) else set()
    if decoded.shape[2] < 3:
        return decoded[..., 0], flags
    blue, green, red = (decoded[..., channel] for channel in range(3))  # OpenCV's order
    if np.array_equal(blue, green) and np.array_equal(green, red):
        return red, flags
    return (decoded[..., :3] @ LUMA[::-1].astype(np.float32)), flags | {"colour"}
