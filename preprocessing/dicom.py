"""One file -> data set, header facts and stored values: the first step of ingestion, before `rendering`.

The facts are read by `header_facts` and the pixels by `pixel_data`; this module opens the file and is where the other
modules find all three. Every way in which a single file can be unusable ends as `UnusableFile` with a code of
`REASONS`.
"""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from preprocessing.errors import UnusableFile
from preprocessing.header_facts import FLAGS, ImageFacts, image_facts
from preprocessing.header_values import caught_warnings, raw_element, text
from preprocessing.pixel_data import stored_values

__all__ = ["FLAGS", "REASONS", "ImageFacts", "file_bytes", "image_facts", "parse_dicom", "read_dicom", "stored_values"]

REASONS: dict[str, str] = {
    "missing_file": "there is no such file, or it vanished while the job ran",
    "not_a_file": "a folder, device, socket or pipe",
    "permission": "the file may not be read",
    "read_error": "the file system failed to deliver the file",
    "empty_file": "the file has no bytes",
    "not_dicom": "the file is not DICOM",
    "corrupt_header": "the header cannot be taken apart",
    "corrupt_deflate": "a deflated data set that does not inflate",
    "truncated": "the file, its pixel data or a compressed frame ends early",
    "too_large": "more bytes or pixels than any radiograph has: a decompression bomb or a damaged header",
    "no_pixel_data": "a DICOM object without pixels: a report, a plan, a directory, a presentation state",
    "float_pixel_data": "floating point pixels, as parametric maps have them",
    "rows_or_columns": "Rows or Columns is missing, zero or no number",
    "number_of_frames": "NumberOfFrames is no positive whole number",
    "unsupported_bits": "BitsAllocated is not 1, 8, 16 or 32",
    "unsupported_samples": "SamplesPerPixel is neither 1 nor 3",
    "unknown_transfer_syntax": "the transfer syntax is private, or absent where the data are compressed",
    "unsupported_transfer_syntax": "a standard transfer syntax that is not for radiographs or has no decoder here",
    "syntax_mismatch": "the pixel data are not in the declared transfer syntax",
    "size_mismatch": "the codestream's rows, columns or samples are not the header's",
    "decode_failed": "no decoder could read the pixels",
    "not_an_image": "the file is no PNG, JPEG or array of one picture",
    "corrupt_archive": "a ZIP archive, or one file in it, that is damaged or compressed in a way that is not read here",
    "encrypted": "a password protects the ZIP archive or this file in it",
    "nested_archive": "a ZIP archive within a ZIP archive",
    "unsafe_path": "a name in a ZIP archive or DICOMDIR that leads out of it: absolute, with a drive or with `..`",
}
"""The closed set of `UnusableFile.reason` codes raised for images, and what each one means."""

MAXIMUM_BYTES = 1 << 30
"""Largest file, and largest inflated data set, that is read."""

DEFLATED = "1.2.840.10008.1.2.1.99"


def read_dicom(path: Path) -> Dataset:
    """Parse a DICOM file; see `file_bytes` and `parse_dicom`."""
    return parse_dicom(file_bytes(path))


def parse_dicom(data: bytes) -> Dataset:
    """Parse the content of a DICOM file, with or without preamble and file meta information.

    Raises:
        UnusableFile: it is not DICOM, damaged or inflates to too much. Whether it has pixels, and of what kind,
            is for `stored_values` to find.
    """
    has_prefix = data[128:132] == b"DICM"
    if not has_prefix:
        data = data.removeprefix(b"DICM")
        if not _starts_with_element(data):
            raise UnusableFile("not_dicom", "neither a DICM prefix nor a data element at the start")
    with caught_warnings() as caught:
        dataset = _parsed(data)
        cut = _last_element_is_short(dataset)
    if cut or any("End of file reached" in str(warning.message) for warning in caught):
        raise UnusableFile("truncated", "the file ends inside a data element")
    if not has_prefix and not any(keyword in dataset for keyword in ("SOPClassUID", "Modality", "Rows", "PixelData")):
        raise UnusableFile("not_dicom", "no DICM prefix and no element that a DICOM object must have")
    return dataset


def file_bytes(path: Path) -> bytes:
    """Read a whole file.

    Raises:
        UnusableFile: absent, no regular file, not to be read, empty or larger than `MAXIMUM_BYTES`.
    """
    try:
        if not path.is_file():
            reason = "not_a_file" if path.exists() else "missing_file"
            raise UnusableFile(reason, REASONS[reason])
        if path.stat().st_size > MAXIMUM_BYTES:
            raise UnusableFile("too_large", f"the file is larger than {MAXIMUM_BYTES} bytes")
        data = path.read_bytes()
    except FileNotFoundError:
        raise UnusableFile("missing_file", REASONS["missing_file"]) from None
    except PermissionError:
        raise UnusableFile("permission", REASONS["permission"]) from None
    except OSError as error:
        raise UnusableFile("read_error", f"the file cannot be read (errno {error.errno})") from None
    if not data:
        raise UnusableFile("empty_file", REASONS["empty_file"])
    return data


def _starts_with_element(data: bytes) -> bool:
    """Tell whether the bytes could be a data set: an element of group 2 or 8 with a VR or a length that fits."""
    if len(data) < 8:
        return False
    explicit = data[4:6].isalpha() and data[4:6].isupper()
    if struct.unpack_from(">H", data)[0] == 8:
        return explicit
    group, _, length = struct.unpack_from("<HHI", data)
    return group in (2, 8) and (explicit or length <= len(data))


def _parsed(data: bytes) -> Dataset:
    has_prefix = data[128:132] == b"DICM"  # looked for where pydicom will, also after a DICM without preamble
    try:
        meta, start = _file_meta(data, 132 if has_prefix else 0)
        if text(meta, "TransferSyntaxUID") == DEFLATED:
            # Not left to pydicom, which inflates without a bound: a few megabytes can become gigabytes.
            inner = BytesIO(_inflated(data[start:]))
            dataset = read_dataset(inner, is_implicit_VR=False, is_little_endian=True)
            read = FileDataset(BytesIO(), dataset, data[:128] if has_prefix else None, meta, False, True)
            read.set_original_encoding(False, True, dataset.original_character_set)
            return read
        # From memory: pydicom's messages would otherwise hold the path.
        return pydicom.dcmread(BytesIO(data), force=not has_prefix)
    except (UnusableFile, MemoryError):
        raise
    except InvalidDicomError:
        raise UnusableFile("not_dicom", REASONS["not_dicom"]) from None
    except EOFError:
        raise UnusableFile("truncated", "the file ends inside its header") from None
    except Exception as error:  # pydicom raises what Python raised on the way
        raise UnusableFile("corrupt_header", f"the header cannot be parsed ({type(error).__name__})") from None


def _file_meta(data: bytes, start: int) -> tuple[FileMetaDataset, int]:
    """Return the file meta information that begins at `start`, and where it ends, found as pydicom finds it.

    By its elements and not by its group length, which is absent or wrong in some files.
    """
    for implicit in (False, True):  # explicit by the standard; pydicom reads implicit ones as well
        stream = BytesIO(data)
        stream.seek(start)
        meta = FileMetaDataset(read_dataset(stream, implicit, True, stop_when=_behind_file_meta))
        try:
            for tag in list(meta.keys())[:1]:
                meta[tag]
        except NotImplementedError:  # a value representation that there is none of
            continue
        break
    return meta, stream.tell()


def _behind_file_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag >> 16 != 2


def _inflated(data: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, MAXIMUM_BYTES)
    except zlib.error:
        raise UnusableFile("corrupt_deflate", REASONS["corrupt_deflate"]) from None
    if inflater.unconsumed_tail:
        raise UnusableFile("too_large", f"the data set inflates to more than {len(inflated)} bytes")
    if not inflater.eof:
        raise UnusableFile("truncated", "the deflated data set ends early")
    return inflated


def _last_element_is_short(dataset: Dataset) -> bool:
    """pydicom returns what is there when an element's length goes past the end of the file."""
    tags = list(dataset.keys())
    element = raw_element(dataset, tags[-1]) if tags else None
    length = getattr(element, "length", 0xFFFFFFFF)  # elements that are already converted have none
    return length != 0xFFFFFFFF and isinstance(element.value, bytes) and len(element.value) < length  # type: ignore[union-attr]
