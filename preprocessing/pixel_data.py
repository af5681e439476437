"""Data set -> stored values (PS3.3 C.7.6.3, PS3.5 section 8): layout checked first, then frames decoded and masked.

Everything that the header declares is compared with the bytes that are there before memory is taken for it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.dataelem import RawDataElement
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder

from preprocessing.codestreams import (
    FAMILIES,
    Array,
    Codestream,
    codestream_header,
    decode_frame,
    decode_reduced,
    decode_rle,
    is_complete,
    rle_size,
)
from preprocessing.colour import is_colour, to_grey
from preprocessing.errors import UnusableFile
from preprocessing.header_values import caught_warnings, integer, numbers, raw_element, text

NATIVE_SYNTAXES = frozenset(
    {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"}
)
BIG_ENDIAN = "1.2.840.10008.1.2.2"
MAXIMUM_SAMPLES = 1 << 27
"""Samples in all frames together; the largest flat panels give 20 million, so that this stops only bombs."""

ITEM_TAG = b"\xfe\xff\x00\xe0"
DICOM_ROOT = "1.2.840.10008."


@dataclass(frozen=True)
class PixelLayout:
    """The image pixel module (PS3.3 C.7.6.3), checked; bits as the header has them, with what is absent filled in."""

    frames: int
    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    syntax: str


def transfer_syntax(dataset: Dataset) -> str:
    """Return the transfer syntax UID; for a file that names none, the native one with which it could be parsed."""
    meta = getattr(dataset, "file_meta", None)
    declared = "" if meta is None else text(meta, "TransferSyntaxUID")
    if declared or encapsulated(dataset):
        return declared
    implicit, little_endian = dataset.original_encoding
    if little_endian is False:
        return BIG_ENDIAN
    return "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1"


def encapsulated(dataset: Dataset) -> bool:
    """Tell whether the pixel data are a sequence of fragments (PS3.5 A.4), whatever the transfer syntax says."""
    return has_undefined_length(raw_element(dataset, "PixelData"))


def has_undefined_length(element: DataElement | RawDataElement | None) -> bool:
    """Tell whether an element was written with undefined length, converted by pydicom or not."""
    if isinstance(element, RawDataElement):
        return element.length == 0xFFFFFFFF
    return element is not None and element.is_undefined_length


def pixel_layout(dataset: Dataset) -> PixelLayout:
    """Read and check the image pixel module.

    Raises:
        UnusableFile: no pixel data, or a module that cannot be what the file holds.
    """
    element = raw_element(dataset, "PixelData")
    if element is None or not isinstance(element.value, bytes) or not element.value:
        if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
            raise UnusableFile("float_pixel_data", "the pixels are floating point numbers, not a radiograph's integers")
        raise UnusableFile("no_pixel_data", "the file has no pixel data")
    rows, columns = integer(dataset, "Rows") or 0, integer(dataset, "Columns") or 0
    if rows < 1 or columns < 1:
        raise UnusableFile("rows_or_columns", "Rows or Columns is missing, zero or no number")
    samples = integer(dataset, "SamplesPerPixel") or 1
    frames = _frames(dataset)
    if frames * rows * columns * samples > MAXIMUM_SAMPLES:
        raise UnusableFile("too_large", f"{frames} x {rows} x {columns} x {samples} samples are declared")
    if samples not in (1, 3):
        raise UnusableFile("unsupported_samples", f"{samples} samples a pixel")
    allocated, stored, high_bit = _bits(dataset)
    signed = integer(dataset, "PixelRepresentation") == 1
    return PixelLayout(
        frames, rows, columns, samples, allocated, stored, high_bit, signed, syntax=_readable_syntax(dataset)
    )


def first_codestream(dataset: Dataset) -> Codestream | None:
    """Read the codestream header of the first frame without decoding it; None for native, RLE or unreadable data."""
    if FAMILIES.get(transfer_syntax(dataset), "rle") == "rle" or not encapsulated(dataset):
        return None
    try:
        return codestream_header(next(_fragments(dataset, frame_count(dataset) or 1)))
    except (StopIteration, UnusableFile):
        return None


@dataclass(frozen=True)
class StoredFrame:
    """One decoded frame.

    Args:
        values: (rows, columns) integers, uint8 to int32; read-only where nothing had to be copied.
        decoder: what decoded it: a library and the name of its decoder.
        halvings: times that the resolution was halved; see `codestreams.decode_reduced`.
    """

    values: Array
    decoder: str
    halvings: int = 0


def stored_frames(dataset: Dataset, halvings: int = 0) -> Iterator[StoredFrame]:
    """Decode frame by frame to stored values: masked to BitsStored at HighBit, sign-extended; colour turned to grey.

    A codestream's own precision is trusted above the header's BitsStored: encoders write the one, people the other.

    Args:
        dataset: as `read_dicom` returns it.
        halvings: times that the resolution may be halved while decoding, which grey JPEG 2000 and HTJ2K allow;
            anything else is decoded whole.

    Raises:
        UnusableFile: see `REASONS` in `preprocessing.dicom`.
    """
    with caught_warnings():
        layout = pixel_layout(dataset)
        if layout.syntax in NATIVE_SYNTAXES:
            frames = _native_frames(dataset, layout)
        elif FAMILIES[layout.syntax] == "rle":
            frames = _rle_frames(dataset, layout)
        else:
            frames = _codestream_frames(dataset, layout, halvings)
    while True:
        with caught_warnings():  # not while suspended, when the caller's own warnings would be kept
            frame = next(frames, None)
        if frame is None:
            return
        yield frame


def stored_values(dataset: Dataset) -> Array:
    """Decode all frames to stored values; see `stored_frames`.

    Returns:
        Integers (frames, rows, columns), uint8 to int32; read-only where nothing had to be copied.

    Raises:
        UnusableFile: see `REASONS` in `preprocessing.dicom`.
    """
    frames = [frame.values for frame in stored_frames(dataset)]
    return frames[0][None] if len(frames) == 1 else np.stack(frames)


def frame_count(dataset: Dataset) -> int | None:
    """Return NumberOfFrames, 1 if it is absent or empty, None if it is no whole number."""
    return integer(dataset, "NumberOfFrames") if numbers(dataset, "NumberOfFrames") else 1


def _frames(dataset: Dataset) -> int:
    frames = frame_count(dataset)
    if frames is None or frames < 0:
        raise UnusableFile("number_of_frames", "NumberOfFrames is no positive whole number")
    return frames or 1  # zero is written by some secondary capture devices for the one frame there is


def declared_bits(dataset: Dataset) -> tuple[int, int, int]:
    """Return BitsAllocated (0 if absent), BitsStored and HighBit; the nearest that is possible for the latter two."""
    allocated = max(integer(dataset, "BitsAllocated") or 0, 0)
    stored = integer(dataset, "BitsStored") or allocated
    stored = stored if 1 <= stored <= allocated else allocated
    high_bit = integer(dataset, "HighBit")
    if high_bit is None or not stored - 1 <= high_bit < allocated:
        high_bit = stored - 1
    return allocated, stored, high_bit


def _bits(dataset: Dataset) -> tuple[int, int, int]:
    bits = declared_bits(dataset)
    if bits[0] not in (1, 8, 16, 32):
        raise UnusableFile("unsupported_bits", f"BitsAllocated is {bits[0]}")
    return bits


def _readable_syntax(dataset: Dataset) -> str:
    syntax = transfer_syntax(dataset)
    if syntax not in NATIVE_SYNTAXES and syntax not in FAMILIES:
        if syntax.startswith(DICOM_ROOT) and re.fullmatch(r"[0-9.]{1,64}", syntax):  # else it may be any text
            raise UnusableFile("unsupported_transfer_syntax", f"transfer syntax {syntax} cannot be read")
        raise UnusableFile("unknown_transfer_syntax", "no transfer syntax, or a private one")
    if (syntax in FAMILIES) != encapsulated(dataset):
        raise UnusableFile("syntax_mismatch", "compressed by transfer syntax and native by content, or the reverse")
    return syntax


def _native_frames(dataset: Dataset, layout: PixelLayout) -> Iterator[StoredFrame]:
    count = layout.frames * layout.rows * layout.columns * layout.samples
    expected = (count * layout.bits_allocated + 7) // 8
    if text(dataset, "PhotometricInterpretation") == "YBR_FULL_422":
        expected = expected * 2 // 3
    data = dataset.PixelData
    if len(data) < expected:
        raise UnusableFile("truncated", f"{len(data)} bytes of pixel data where {expected} are declared")
    plain = layout.bits_allocated >= 8 and layout.syntax != BIG_ENDIAN and not is_colour(dataset, layout.samples)
    if not plain:
        for index in range(layout.frames):
            yield _pydicom_frame(dataset, layout, index, [])
        return
    words = np.frombuffer(data, f"<u{layout.bits_allocated // 8}", count)
    for frame in words.reshape(layout.frames, layout.rows, layout.columns):
        yield StoredFrame(_masked(frame, layout), "numpy frombuffer")


def _rle_frames(dataset: Dataset, layout: PixelLayout) -> Iterator[StoredFrame]:
    plain = not is_colour(dataset, layout.samples) and layout.bits_allocated >= 8
    for index, data in enumerate(_fragments(dataset, layout.frames)):
        words = decode_rle(data, layout.rows, layout.columns, layout.bits_allocated) if plain else None
        if words is None:
            _check_rle(data, layout)
            yield _pydicom_frame(dataset, layout, index, [])
        else:
            yield StoredFrame(_masked(words, layout), "imagecodecs dicomrle_decode")


def _check_rle(data: bytes, layout: PixelLayout) -> None:
    """Refuse a frame that decodes to more than it should: pydicom decodes the whole before it counts."""
    limit = 2 * layout.rows * layout.columns * layout.samples * max(layout.bits_allocated // 8, 1)
    if rle_size(data, limit) > limit:
        raise UnusableFile("too_large", "an RLE frame decodes to more than twice what is declared")


def _codestream_frames(dataset: Dataset, layout: PixelLayout, halvings: int) -> Iterator[StoredFrame]:
    for index, data in enumerate(_fragments(dataset, layout.frames)):
        yield _decoded(dataset, layout, index, data, halvings)


def _decoded(dataset: Dataset, layout: PixelLayout, index: int, data: bytes, halvings: int) -> StoredFrame:
    family, header = FAMILIES[layout.syntax], codestream_header(data)
    if header is None or header.family != family.replace("htj2k", "jpeg2000"):
        raise UnusableFile("syntax_mismatch", "a frame is no readable codestream of the transfer syntax")
    if (header.rows, header.columns, header.samples) != (layout.rows, layout.columns, layout.samples):
        raise UnusableFile("size_mismatch", "the codestream's size is not the header's Rows, Columns, SamplesPerPixel")
    if not is_complete(data):
        raise UnusableFile("truncated", "a frame ends before its end-of-image marker")
    colour = is_colour(dataset, layout.samples)
    if halvings and header.family == "jpeg2000" and not colour:
        decoded, decoder = decode_reduced(data, header, family, halvings)
        if decoded is not None:
            return StoredFrame(_signed_by_header(decoded, header, layout), decoder, halvings)
    decoded, decoder, failures = decode_frame(data, family, layout.rows, layout.columns)
    if decoded is None:
        return _pydicom_frame(dataset, layout, index, failures)
    if colour:
        return StoredFrame(to_grey(dataset, decoded, converted=family == "jpeg"), decoder)
    return StoredFrame(_signed_by_header(decoded, header, layout), decoder)


def _signed_by_header(decoded: Array, header: Codestream, layout: PixelLayout) -> Array:
    """Read a codestream's bit patterns with the header's sign: JPEG and JPEG-LS cannot say it, JPEG 2000 often lies."""
    words = decoded.view(f"u{decoded.dtype.itemsize}")
    bits = min(header.precision, words.dtype.itemsize * 8)
    whole_word = bits == layout.bits_allocated and bits > layout.bits_stored
    if whole_word and layout.high_bit != layout.bits_stored - 1:
        return _placed(words, layout.bits_stored, layout.high_bit, signed=layout.signed)
    if layout.signed and bits > layout.bits_stored and not (words >> layout.bits_stored).any():
        bits = layout.bits_stored  # an encoder that was given unsigned words with the sign at BitsStored
    return _placed(words, bits, bits - 1, signed=layout.signed)


def _masked(words: Array, layout: PixelLayout) -> Array:
    return _placed(words, layout.bits_stored, layout.high_bit, signed=layout.signed)


def _placed(words: Array, bits: int, high_bit: int, *, signed: bool) -> Array:
    """Take `bits` bits that end at `high_bit` out of unsigned words; overlay bits around them are dropped."""
    width = words.dtype.itemsize * 8
    above, below = width - 1 - high_bit, width - bits
    if signed:  # up to the word's sign bit and down again, arithmetically
        shifted = (words << above).view(f"i{words.dtype.itemsize}") if above else words.view(f"i{words.dtype.itemsize}")
        return shifted >> below if below else shifted
    if bits == width:
        return words
    lowest = high_bit + 1 - bits
    if not lowest and not int(words.max(initial=0)) >> bits:  # nothing to drop: looking is faster than copying
        return words
    masked: Array = (words >> lowest if lowest else words) & words.dtype.type((1 << bits) - 1)
    return masked


def _fragments(dataset: Dataset, frames: int) -> Iterator[bytes]:
    """Yield the bytes of each of the declared frames."""
    offsets = None
    if "ExtendedOffsetTable" in dataset and "ExtendedOffsetTableLengths" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    seen = 0
    try:
        found = generate_frames(dataset.PixelData, number_of_frames=frames, extended_offsets=offsets)
        for data in islice(found, frames):
            seen += 1
            yield data
    except MemoryError:
        raise
    except Exception as error:  # EOFError, ValueError, struct.error: fragments that lie about their length
        raise UnusableFile("truncated", f"the fragments cannot be taken apart ({type(error).__name__})") from None
    if seen < frames:
        raise UnusableFile("truncated", f"{seen} frames are there and {frames} are declared")


def _pydicom_frame(dataset: Dataset, layout: PixelLayout, index: int, failures: list[str]) -> StoredFrame:
    """Decode one frame with pydicom: native colour, packed bits and RLE by itself, the rest with plugins it finds."""
    colour = is_colour(dataset, layout.samples)
    decoder = get_decoder(layout.syntax)
    # GDCM ends the process with a segmentation fault on damaged codestreams (seen with python-gdcm 3.2.6).
    plugins = [plugin for plugin in decoder.available_plugins if plugin != "gdcm"] if decoder.is_encapsulated else [""]
    decoded = None
    for plugin in plugins:
        try:
            decoded, _ = decoder.as_array(dataset, index=index, raw=not colour, decoding_plugin=plugin)
            break
        except MemoryError:
            raise
        except Exception as error:
            failures.append(f"{plugin or 'pydicom'} {type(error).__name__}")
    if decoded is None:
        tried = ", ".join(failures)
        raise UnusableFile("decode_failed", f"no decoder could read frame {index + 1} ({tried})")
    decoder_name = f"pydicom {plugin}".rstrip()
    if colour:
        return StoredFrame(to_grey(dataset, decoded, converted=True), decoder_name)
    words = decoded.astype(decoded.dtype.newbyteorder("="), copy=False)
    words = words.view(f"u{words.dtype.itemsize}").reshape(layout.rows, layout.columns)
    bits = min(layout.bits_stored, words.dtype.itemsize * 8)
    values = _placed(words, bits, min(layout.high_bit, words.dtype.itemsize * 8 - 1), signed=layout.signed)
    return StoredFrame(values, decoder_name)
