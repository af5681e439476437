"""The fault table of the specification, end to end: one archive that holds every case, one run, one outcome each.

Every row is a case in the specification's words, what the file is, and what must become of it. All files lie in one
folder and are ingested by one run; what became of each is found the way its owner finds it, through the private table.
"""

import ctypes
import io
import itertools
import json
import os
import re
import resource
import shutil
import struct
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import pytest
from made_archive import SMALL, contents, items, reasons, result, write_image, write_report
from made_dicom import ENCODERS, JPEG_2000, JPEG_LOSSLESS, JPEG_LS, as_bytes, change, encapsulated, made
from pydicom import Dataset
from pydicom.dataset import FileDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless

import preprocessing.codestreams
import preprocessing.ingest
from preprocessing.conversion import ConversionSettings, Converted, convert
from preprocessing.errors import InputError
from preprocessing.identity import KEY_BYTES
from preprocessing.ingest import ingest
from preprocessing.ingest_summary import IngestSummary
from preprocessing.sources import SourceImage

PLANTED = ("MRN-77412", "KNOBLAUCH", "OTTILIE", "1.2.826.99")
"""In the headers, and the first in every file's name."""

PIXELS = np.random.default_rng(0).integers(0, 4096, (32, 32)).astype(np.uint16)
"""12 bits at the size of the stored images, so that nothing is scaled and each pixel can be compared."""

GREYS = PIXELS / 4095
FULL = {"WindowCenter": 2048, "WindowWidth": 4096}
"""The window that is the identity on 12 bits: LINEAR maps x to (x - 2047.5) / 4095 + 0.5."""

Content = bytes | Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """One file and its outcome.

    Args:
        words: the specification's.
        variant: which file of that case; its name, after a planted number.
        content: what the file holds, or what makes it at a path.
        reason: why it is left out; blank if it is taken.
        flags: all flags of its row, if it is taken.
        greys: (32, 32) in [0, 1] as they must be stored, a picture a frame; none where nothing is said of them.
        member: for an archive, the file in it.
        columns: what else its row must say.
    """

    words: str
    variant: str
    content: Content
    reason: str = ""
    flags: tuple[str, ...] = ()
    greys: tuple[np.ndarray, ...] = ()
    member: str = ""
    columns: dict[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{PLANTED[0]} {self.variant}"

    @property
    def origin(self) -> str:
        return f"{self.name}!/{self.member}" if self.member else self.name


# What the files are made of


NUMBERS = itertools.count(1)


def image(words: np.ndarray = PIXELS, syntax: str = ExplicitVRLittleEndian, **elements: Any) -> FileDataset:
    """A radiograph that nothing is wrong with, and one thing that is; each is another patient's."""
    number = next(NUMBERS)
    named = {
        "SOPInstanceUID": f"1.2.826.99.3.{number}",
        "StudyInstanceUID": f"1.2.826.99.2.{number}",
        "PatientID": f"MRN-77412-{number}",
        "PatientName": "KNOBLAUCH^OTTILIE",
    }
    bits = {"BitsStored": 12, "HighBit": 11} if words.dtype.itemsize == 2 else {}
    wanted = named | bits | FULL | elements
    return made(
        words, syntax, **{name: value for name, value in wanted.items() if name not in FULL or value is not None}
    )


def file(words: np.ndarray = PIXELS, syntax: str = ExplicitVRLittleEndian, **elements: Any) -> bytes:
    return as_bytes(image(words, syntax, **elements))


def changed(syntax: str = ExplicitVRLittleEndian, **elements: Any) -> bytes:
    """A file whose header is changed after its pixels were written, so that the two disagree."""
    return as_bytes(change(image(PIXELS, syntax), **elements))


def without_meta(whole: bytes) -> bytes:
    return whole[144 + struct.unpack_from("<I", whole, 140)[0] :]


def renamed_syntax(whole: bytes, before: str, after: str) -> bytes:
    """The same file under another transfer syntax, whose UID is no longer than the true one's."""
    length = len(before) + len(before) % 2
    assert len(after) <= length
    return whole.replace(before.encode().ljust(length, b"\0"), after.encode().ljust(length, b"\0"), 1)


def codestream_bomb() -> bytes:
    stream = bytearray(ENCODERS[JPEG_LOSSLESS](PIXELS, 12))
    start = stream.index(b"\xff\xc3")
    stream[start + 5 : start + 9] = struct.pack(">HH", 65535, 65535)
    return as_bytes(encapsulated(image(PIXELS, JPEG_LOSSLESS), [bytes(stream)]))


def without_end_of_image(syntax: str) -> bytes:
    stream = ENCODERS[syntax](PIXELS, 12).rstrip(b"\0").removesuffix(b"\xff\xd9")
    return as_bytes(encapsulated(image(PIXELS, syntax), [stream]))


def corrupt_deflate() -> bytes:
    whole = bytearray(file(syntax=DeflatedExplicitVRLittleEndian))
    start = len(whole) - len(without_meta(bytes(whole)))
    whole[start : start + 8] = b"\xff" * 8
    return bytes(whole)


def without_pixels(sop_class: str, modality: str | None, **elements: Any) -> bytes:
    """Another kind of object: SR and PR have no pixels, and a DICOMDIR no modality either."""
    dataset = image(SOPClassUID=sop_class, Modality=modality, **elements)
    dataset.file_meta.MediaStorageSOPClassUID = sop_class
    return as_bytes(change(dataset, PixelData=None, Rows=None, Columns=None))


def zipped(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def in_directory(archive: bytes, offset: int, form: str, value: int) -> bytes:
    """Another value in the first entry of an archive's central directory (PKWARE APPNOTE, 4.3.12)."""
    data = bytearray(archive)
    struct.pack_into(form, data, data.index(b"PK\x01\x02") + offset, value)
    return bytes(data)


def lut(first: int, entries: list[int], bits: int) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    item.add_new("LUTData", "OW", np.array(entries, "<u2").tobytes())
    return item


def with_overlay() -> bytes:
    dataset = image((PIXELS | (PIXELS % 3 == 0) * np.uint16(0x8000)).astype(np.uint16))
    dataset.add_new(0x60000010, "US", 32)
    dataset.add_new(0x60000011, "US", 32)
    dataset.add_new(0x60000100, "US", 16)
    dataset.add_new(0x60000102, "US", 15)
    return as_bytes(dataset)


def between_percentiles() -> np.ndarray:
    """The picture where the header has no usable window."""
    low, high = np.percentile(PIXELS, (0.5, 99.5), method="inverted_cdf")
    return np.clip((PIXELS.astype(np.float64) - low) / (high - low), 0, 1)


def window_of_text() -> bytes:
    whole = file(WindowWidth=8765)
    assert whole.count(b"8765") == 1
    return whole.replace(b"8765", b"wide")


def undecodable_name() -> bytes:
    return file(SpecificCharacterSet="ISO_IR 192", PatientName="XXXX^YY").replace(b"XXXX^YY", b"\xff\xfe\xfdX^YY")


def large(syntax: str) -> Callable[[Path], object]:
    """72 megabytes of pixels, made only when they are written."""
    return lambda path: path.write_bytes(file(np.zeros((6000, 6000), np.uint16), syntax))


HALVED = [i // 16 for i in range(4096)]  # 4096 entries of 8 bits: more than pydicom's own 8-bit LUTs can index
RGB = np.stack([np.full((32, 32), value, np.uint8) for value in (200, 100, 50)], axis=-1)


def colour(**window: int) -> bytes:
    dataset = image(RGB[..., 0], **window)
    change(dataset, PhotometricInterpretation="RGB", SamplesPerPixel=3, PlanarConfiguration=0)
    dataset.PixelData = RGB.tobytes()
    return as_bytes(dataset)


ODD = (np.arange(31 * 31, dtype=np.uint8) % 251).reshape(31, 31)
FRAMES = np.stack([PIXELS, np.roll(PIXELS, 5, 0), np.roll(PIXELS, 9, 1)])
WIDE = np.full((16, 32), 4095, np.uint16)
RED_GREEN_BLUE = np.full((32, 32), (0.299 * 200 + 0.587 * 100 + 0.114 * 50) / 255)
NO_WINDOW = ("no_voi", "window_malformed")
SR, PR, DICOMDIR = "1.2.840.10008.5.1.4.1.1.88.11", "1.2.840.10008.5.1.4.1.1.11.1", "1.2.840.10008.1.3.10"
BOMB = bytes(5 << 20)


def rejected() -> list[Case]:
    """ "Reject with a reason"."""
    return [
        Case("zero bytes", "zero bytes", b"", "empty_file"),
        Case("not DICOM", "web page.dcm", b"<html><body>404 OTTILIE not found</body></html>" * 20, "not_dicom"),
        Case("not DICOM", "picture.dcm", bytes(cv2.imencode(".png", ODD)[1]), "not_dicom"),
        Case("truncated header", "cut in the file meta", file()[:150], "no_pixel_data"),
        Case("truncated header", "cut in the data set", without_meta(file())[:300], "truncated"),
        Case("truncated native pixels", "cut pixels", file()[:-200], "truncated"),
        Case("truncated fragment", "cut fragment", file(syntax=JPEG_2000)[:-200], "truncated"),
        Case("missing end-of-image", "no EOI", without_end_of_image(JPEG_LOSSLESS), "truncated"),
        Case("missing end-of-image", "no EOC", without_end_of_image(JPEG_2000), "truncated"),
        Case("no PixelData", "no PixelData", changed(PixelData=None), "no_pixel_data"),
        Case("zero or missing Rows/Columns", "zero Rows", changed(Rows=0), "rows_or_columns"),
        Case("zero or missing Rows/Columns", "zero Columns", changed(Columns=0), "rows_or_columns"),
        Case("zero or missing Rows/Columns", "no Rows", changed(Rows=None), "rows_or_columns"),
        Case("zero or missing Rows/Columns", "no Columns", changed(Columns=None), "rows_or_columns"),
        Case("too little pixel data", "a row too few", changed(Rows=33), "truncated"),
        Case("too little pixel data", "a frame too few", changed(JPEG_LS, NumberOfFrames=2), "truncated"),
        Case(
            "unknown or private syntax",
            "unknown syntax",
            renamed_syntax(file(syntax=JPEG_LS), JPEG_LS, "1.2.840.10008.1.2.4.99"),
            "unsupported_transfer_syntax",
        ),
        Case(
            "unknown or private syntax",
            "private syntax",
            renamed_syntax(file(syntax=JPEG_LS), JPEG_LS, "1.2.826.99.4.80"),
            "unknown_transfer_syntax",
        ),
        Case(
            "JPEG XL",
            "JPEG XL",
            renamed_syntax(
                file(syntax="1.2.840.10008.1.2.4.201"), "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.110"
            ),
            "unsupported_transfer_syntax",
        ),
        Case(
            "syntax says JPEG but data are native, and the reverse",
            "native as JPEG",
            renamed_syntax(file(), ExplicitVRLittleEndian, "1.2.840.10008.1.2.5"),
            "syntax_mismatch",
        ),
        Case(
            "syntax says JPEG but data are native, and the reverse",
            "JPEG as native",
            renamed_syntax(file(syntax=JPEG_LOSSLESS), JPEG_LOSSLESS, ExplicitVRLittleEndian),
            "syntax_mismatch",
        ),
        Case("undefined length without delimiter", "no delimiter", file(syntax=JPEG_LS)[:-8], "truncated"),
        Case("undefined length without delimiter", "no sequence delimiter", open_sequence(), "corrupt_header"),
        Case("decompression bomb (65535x65535)", "native bomb", changed(Rows=65535, Columns=65535), "too_large"),
        Case(
            "decompression bomb (65535x65535)", "RLE bomb", changed(RLELossless, Rows=65535, Columns=65535), "too_large"
        ),
        Case("decompression bomb (65535x65535)", "codestream bomb", codestream_bomb(), "size_mismatch"),
        Case("codec crash (worker dies: retry once, go on)", "crash always", file(syntax=JPEG_LS), "worker_crashed"),
        Case("codec hang (time limit)", "hang", file(syntax=JPEG_LS), "timed_out"),
        Case("out of memory", "memory to inflate", large(DeflatedExplicitVRLittleEndian), "out_of_memory"),
        Case("out of memory", "memory to decode", large(JPEG_LS), "out_of_memory"),
        Case("out of memory", "memory to unpack", large(RLELossless), "out_of_memory"),
        Case("no permission", "forbidden", file(), "permission"),
        Case("file vanishes during the job", "vanishing", file(), "missing_file"),
        Case("corrupt deflate", "corrupt deflate", corrupt_deflate(), "corrupt_deflate"),
        Case("other modality", "CT", file(Modality="CT"), "other_modality"),
        Case("other modality", "a name for a modality", file(Modality="OTTILIE"), "other_modality"),
        Case("SR/PR/DICOMDIR as image", "SR", without_pixels(SR, "SR"), "no_pixel_data"),
        Case("SR/PR/DICOMDIR as image", "PR", without_pixels(PR, "PR"), "no_pixel_data"),
        Case("SR/PR/DICOMDIR as image", "DICOMDIR", without_pixels(DICOMDIR, None), "no_pixel_data"),
        Case("encrypted zip", "locked.zip", in_directory(zipped(("a", b"1")), 8, "<H", 1), "encrypted", member="a"),
        Case(
            "zip bomb and path traversal",
            "modest bomb.zip",
            in_directory(zipped(("a", BOMB)), 24, "<I", 1000),
            "corrupt_archive",
            member="a",
        ),
        Case(
            "zip bomb and path traversal",
            "honest bomb.zip",
            in_directory(zipped(("a", BOMB)), 24, "<I", (1 << 30) + 1),
            "too_large",
            member="a",
        ),
        Case("zip bomb and path traversal", "out.zip", zipped(("../../a", file())), "unsafe_path", member="../../a"),
        Case("symlink loop", "loop", lambda path: path.symlink_to(path.name), "missing_file"),
        Case("symlink loop", "up", lambda path: path.symlink_to(path.parent), "not_a_file"),
    ]


def accepted() -> list[Case]:
    """ "Accept and flag"."""
    twice, window = file(), between_percentiles()
    one, other = image(), image(np.roll(PIXELS, 1, 0))
    other.SOPInstanceUID = one.SOPInstanceUID
    small = {"WindowCenter": 128, "WindowWidth": 256}
    signed = (PIXELS.astype(np.int16) - 2048) & 0x0FFF
    no_window = {"WindowCenter": None, "WindowWidth": None}
    return [
        Case("nothing wrong", "sound", file(), greys=(GREYS,), columns={"voi": "window_linear", "bits_stored": 12}),
        Case("no preamble", "no preamble", file()[128:], flags=("no_preamble",), greys=(GREYS,)),
        Case("no preamble", "no prefix", file()[132:], flags=("no_preamble",), greys=(GREYS,)),
        Case(
            "no file meta",
            "no file meta",
            without_meta(file()),
            flags=("no_file_meta", "no_preamble", "transfer_syntax_assumed"),
            greys=(GREYS,),
        ),
        Case(
            "padding beyond the length", "long pixels", long_pixels(100), flags=("pixel_data_padded",), greys=(GREYS,)
        ),
        Case("padding beyond the length", "zeros behind", file() + bytes(512), greys=(GREYS,)),
        Case("odd length", "odd pixels", odd_pixels(), flags=("odd_length",)),
        Case(
            "BitsStored other than the codestream's",
            "ten bits said",
            changed(JPEG_LOSSLESS, BitsStored=10, HighBit=9),
            flags=("codestream_precision",),
            greys=(GREYS,),
            columns={"bits_stored": 12},
        ),
        Case(
            "HighBit not BitsStored-1",
            "high bits",
            file(PIXELS << 4, HighBit=15),
            flags=("high_bit",),
            greys=(GREYS,),
        ),
        Case("overlay bits", "overlay", with_overlay(), flags=("overlay_bits",), greys=(GREYS,)),
        Case("window width 0, negative or text", "width 0", file(WindowWidth=0), flags=NO_WINDOW, greys=(window,)),
        Case("window width 0, negative or text", "width -5", file(WindowWidth=-5), flags=NO_WINDOW, greys=(window,)),
        Case("window width 0, negative or text", "width of text", window_of_text(), flags=NO_WINDOW, greys=(window,)),
        Case("empty window or slope", "empty window", file(WindowWidth=""), flags=NO_WINDOW, greys=(window,)),
        Case(
            "empty window or slope", "empty slope", file(RescaleSlope=""), flags=("rescale_malformed",), greys=(GREYS,)
        ),
        Case(
            "large 8-bit VOI LUT",
            "large LUT",
            file(VOILUTSequence=[lut(0, HALVED, 8)], **no_window),
            greys=(np.array(HALVED)[PIXELS] / 255,),
            columns={"voi": "lut"},
        ),
        Case(
            "negative first-mapped",
            "LUT of signed",
            file(
                signed.astype(np.uint16),
                PixelRepresentation=1,
                VOILUTSequence=[lut(-2048, HALVED, 8)],
                **no_window,
            ),
            greys=(np.array(HALVED)[PIXELS] / 255,),
            columns={"voi": "lut"},
        ),
        Case(
            "negative first-mapped",
            "LUT of unsigned",
            file(VOILUTSequence=[lut(-1000, HALVED, 8)], **no_window),
            greys=(np.array(HALVED)[np.minimum(PIXELS + 1000, 4095)] / 255,),
            columns={"voi": "lut"},
        ),
        Case(
            "MONOCHROME1 with IDENTITY",
            "polarity",
            file(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="IDENTITY"),
            flags=("polarity_contradiction",),
            greys=(1 - GREYS,),
        ),
        Case(
            "constant image", "constant", file(np.full_like(PIXELS, 819)), flags=("constant",), greys=(GREYS * 0 + 0.2,)
        ),
        Case("bad character set", "bad name", undecodable_name(), flags=("character_set",), greys=(GREYS,)),
        Case(
            "bad character set",
            "bad set",
            file(SpecificCharacterSet="ISO_IR 100").replace(b"ISO_IR 100", b"ISO_IR 999"),
            flags=("character_set",),
            greys=(GREYS,),
        ),
        Case("the same SOP Instance UID twice (same bytes: one)", "first of two", twice, greys=(GREYS,)),
        Case("the same SOP Instance UID twice (same bytes: one)", "second of two", twice, "duplicate"),
        Case("the same SOP Instance UID twice (different bytes: both rejected)", "one", as_bytes(one), "duplicate_uid"),
        Case(
            "the same SOP Instance UID twice (different bytes: both rejected)",
            "other",
            as_bytes(other),
            "duplicate_uid",
        ),
        Case(
            "multi-frame",
            "frames",
            file(FRAMES),
            flags=("multi_frame",),
            greys=tuple(frame / 4095 for frame in FRAMES),
        ),
        Case("colour", "colour", colour(**small), flags=("colour", "constant"), greys=(RED_GREEN_BLUE,)),
        Case(
            "non-square pixels",
            "twice as high",
            file(WIDE, PixelAspectRatio=[2, 1]),
            flags=("constant", "non_square_pixels"),
            greys=(GREYS * 0 + 1,),
            columns={"scale_rows": 2.0, "scale_columns": 1.0},
        ),
        # The fault is the worker's and not the file's, and passes: what the specification asks of the second attempt.
        Case("codec crash (worker dies: retry once, go on)", "crash once", file(syntax=JPEG_LS), flags=SIXTEEN),
    ]


SIXTEEN = ("codestream_precision",)  # as encoded here, JPEG-LS says 16 bits of words that have 12


def open_sequence() -> bytes:
    """A sequence of undefined length that nothing ends."""
    dataset, item = image(), Dataset()
    item.CodeMeaning = "KNOBLAUCH"
    dataset.ViewCodeSequence = [item]
    dataset["ViewCodeSequence"].is_undefined_length = True
    whole = as_bytes(dataset)
    assert whole.count(b"\xfe\xff\xdd\xe0") == 1
    return whole.replace(b"\xfe\xff\xdd\xe0\0\0\0\0", b"")


def long_pixels(more: int) -> bytes:
    dataset = image()
    dataset.PixelData += bytes(more)
    return as_bytes(dataset)


def odd_pixels() -> bytes:
    """961 bytes of pixels: no writer of DICOM's own would leave it so."""
    whole = file(ODD, WindowCenter=128, WindowWidth=256)
    start = whole.rindex(b"\xe0\x7f\x10\0OB\0\0") + 8
    assert whole[start:] == struct.pack("<I", 962) + ODD.tobytes() + b"\0"
    return whole[:start] + struct.pack("<I", 961) + ODD.tobytes()


@cache
def cases() -> tuple[Case, ...]:
    return (*rejected(), *accepted())


def rows(*, taken: bool) -> list[Any]:
    chosen = [case for case in cases() if (case.reason == "") is taken]
    return [pytest.param(case, id=f"{case.words}: {case.variant}") for case in chosen]


# The run


def convert_in_trouble(settings: ConversionSettings, source: SourceImage) -> Converted:
    """`convert` in a process to which happens what a file's name says: to its decoder, its memory or its file."""
    path, codecs = Path(source.path), preprocessing.codestreams.DECODERS
    token = path.with_name(f"{path.name}.token").parent.parent / f"{path.name}.token"
    with pytest.MonkeyPatch.context() as patch:
        if "crash always" in path.name or ("crash once" in path.name and not token.exists()):
            token.touch()
            patch.setitem(codecs, "jpeg-ls", (lambda data: ctypes.string_at(0),))  # a segmentation fault
        if "hang" in path.name:
            patch.setitem(codecs, "jpeg-ls", (lambda data: time.sleep(600),))
        if "vanishing" in path.name:
            path.unlink()
        if "forbidden" in path.name:
            return as_nobody(lambda: convert(settings, source), path)
        if "memory" in path.name:
            return in_little_memory(lambda: convert(settings, source))
        return convert(settings, source)


def as_nobody(task: Callable[[], Converted], path: Path) -> Converted:
    """Permissions do not stop the superuser, who may be running this."""
    path.chmod(0)
    if os.geteuid() != 0:
        return task()
    os.seteuid(65534)
    try:
        return task()
    finally:
        os.seteuid(0)


def in_little_memory(task: Callable[[], Converted]) -> Converted:
    """With 24 megabytes more than the process has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (24 << 20), before[1]))
    try:
        return task()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@dataclass(frozen=True)
class Outcome:
    summary: IngestSummary
    store: Path
    reasons: dict[str, str]
    images: pl.DataFrame  # with the `origin` of each row's file


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """One archive of all cases, ingested once; colour is taken, which is left out by default."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "in").mkdir()
    for case in cases():
        path = folder / "in" / case.name
        path.write_bytes(case.content) if isinstance(case.content, bytes) else case.content(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocessing.ingest, "convert", convert_in_trouble)
        patch.setattr(preprocessing.ingest, "TIME_LIMIT", 4.0)
        summary = ingest(folder / "in", folder / "out", configuration=replace(SMALL, captures="accept"))
    identities = pl.read_parquet(folder / "out.private" / "identity.parquet").filter(pl.col("kind") == "file")
    origins = identities.select(pl.col("pseudonym").alias("file"), pl.col("original").alias("origin"))
    images = pl.read_parquet(folder / "out" / "images.parquet").join(origins, on="file")
    return Outcome(summary, folder / "out", reasons(folder / "out"), images)


@pytest.mark.parametrize("case", rows(taken=False))
def test_reject_with_a_reason(case: Case, outcome: Outcome) -> None:
    if case.reason == "duplicate":
        assert sorted(outcome.reasons.get(name, "taken") for name in (case.name, twin_of(case))) == [
            "duplicate",
            "taken",
        ]
    else:
        assert outcome.reasons.get(case.origin) == case.reason


@pytest.mark.parametrize("case", rows(taken=True))
def test_accept_and_flag(case: Case, outcome: Outcome) -> None:
    assert case.origin not in outcome.reasons
    found = outcome.images.filter(pl.col("origin") == case.origin).sort("frame")
    assert len(found) == max(len(case.greys), 1)
    for row in found.iter_rows(named=True):
        assert tuple(row["flags"]) == case.flags
        assert {name: row[name] for name in case.columns} == case.columns
    for path, expected in zip(found["path"], case.greys, strict=False):
        stored = np.load(outcome.store / path)
        assert (stored.dtype, stored.shape) == (np.uint8, (32, 32))
        assert np.abs(stored / 255 - expected).max() <= 0.501 / 255


def twin_of(case: Case) -> str:
    return case.name.replace("second", "first")


def test_accepted_and_rejected_and_duplicates_are_all_that_was_seen(outcome: Outcome) -> None:
    files = outcome.summary.files
    assert files.seen == len(cases())
    assert files.accepted == sum(case.reason == "" for case in cases())
    assert files.duplicates == sum(case.reason == "duplicate" for case in cases()) == 1
    assert files.accepted + files.rejected + files.duplicates == files.seen
    assert outcome.summary.images == len(outcome.images) == files.accepted + len(FRAMES) - 1


def test_no_reject_names_a_file_or_repeats_a_header(outcome: Outcome) -> None:
    details = pl.read_parquet(outcome.store / "rejects.parquet")["detail"].to_list()
    assert len(details) == len(outcome.reasons)
    assert all(re.fullmatch(r"[^\n]{10,200}", detail) for detail in details)
    everything = b"".join(contents(outcome.store).values()) + json.dumps(details).encode()
    everything += outcome.images.drop("origin").write_json().encode()
    for planted in (*PLANTED, *(case.variant for case in cases() if " " in case.variant)):
        assert planted.encode() not in everything, planted


def test_colour_is_left_out_by_default(tmp_path: Path) -> None:
    """The specification accepts and flags colour and, as secondary captures are excluded by default, not unasked."""
    (tmp_path / "in").mkdir()
    for case in cases():
        if case.variant in ("colour", "sound") and isinstance(case.content, bytes):
            (tmp_path / "in" / case.variant).write_bytes(case.content)
    ingest(tmp_path / "in", tmp_path / "out", configuration=SMALL)
    assert reasons(tmp_path / "out") == {"colour": "colour"}


# The job: a full disk, and files of the store that are cut


def archive(tmp_path: Path, numbers: range) -> dict[str, Any]:
    """Images and a report; the arguments of every run over them, with one key so that stores can be compared."""
    for number in numbers:
        write_image(tmp_path / "in" / f"{number}.dcm", number)
    write_report(tmp_path / "reports" / "1.2.1.txt")
    key = tmp_path / "the.key"
    key.write_text("ab" * KEY_BYTES + "\n", encoding="ascii")
    key.chmod(0o600)
    return {"reports": tmp_path / "reports", "key": key, "configuration": replace(SMALL, workers=1)}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", folder]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system that can be filled has to be mounted, which only root may do")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def refusal(source: Path, store: Path, **arguments: Any) -> str:
    """Why a run was refused; blank if it was not."""
    try:
        ingest(source, store, **arguments)
    except InputError as error:
        return str(error)
    return ""


def fill(disk: Path, left: int = 0) -> None:
    """Leave so many pages of 4096 bytes."""
    state = os.statvfs(disk)
    with (disk / "ballast").open("wb") as ballast:
        ballast.write(bytes((state.f_bavail - left) * state.f_frsize))
        ballast.flush()
    assert os.statvfs(disk).f_bavail == left


def whole(store: Path) -> None:
    """Every file under a final name is what its name says, to its end."""
    for path in [path for path in (*store.rglob("*"), *store.with_name("out.private").rglob("*")) if path.is_file()]:
        assert not path.name.endswith(".tmp")
        if path.suffix == ".parquet":
            pl.read_parquet(path)
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".npy":
            assert np.load(path).shape == (32, 32)
        elif path.suffix == ".png":
            assert cv2.imread(str(path)) is not None
        elif path.suffix == ".jsonl":
            assert all(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        elif path.name == "key":
            assert len(path.read_text(encoding="ascii")) == 2 * KEY_BYTES + 1


@dataclass(frozen=True)
class Growing:
    """An archive, the store of what it was before it grew and changed, and the result of an undisturbed run."""

    source: Path
    before: Path
    arguments: dict[str, Any]
    undisturbed: dict[str, bytes]


@pytest.fixture(scope="module")
def growing(tmp_path_factory: pytest.TempPathFactory) -> Growing:
    folder = tmp_path_factory.mktemp("growing")
    arguments = archive(folder, range(9))
    ingest(folder / "in", folder / "out", **arguments)
    archive(folder, range(6, 15))
    write_image(folder / "in" / "3.dcm", 3, WindowCenter="77", WindowWidth="9")
    ingest(folder / "in", folder / "undisturbed", **arguments)
    return Growing(folder / "in", folder / "out", arguments, result(folder / "undisturbed"))


@pytest.mark.parametrize("first", ["a first run", "a later run"])
@pytest.mark.parametrize(
    ("moment", "left"),
    [
        ("the start", 0),
        ("the start", 3),
        ("the start", 12),
        ("the arrays", 0),
        ("the arrays", 4),
        ("the ledger", 0),
        ("the ledger", 1),
        *[("the tables", left) for left in (0, 1, 3, 7)],
    ],
)
def test_disk_full(
    moment: str, left: int, first: str, disk: Path, growing: Growing, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, arguments = disk / "out", growing.arguments
    if first == "a later run":
        for name in ("out", "out.private"):
            shutil.copytree(growing.before.with_name(name), disk / name)

    def progress(done: int, total: int | None) -> None:
        if (moment, done) in (("the arrays", 2), ("the ledger", total)):
            fill(disk, left)

    def write_store(*given: Any, **named: Any) -> Any:
        if moment == "the tables":
            fill(disk, left)
        return preprocessing.store_files.write_store(*given, **named)

    monkeypatch.setattr(preprocessing.ingest, "write_store", write_store)
    if moment == "the start":
        fill(disk, left)
    said = refusal(growing.source, store, on_progress=progress, **arguments)
    if said or left < 3:  # else it may have been enough
        assert re.fullmatch(rf"{disk}/out[a-z.]*: cannot be written \(No space left on device\); [^\n]+", said)
    whole(store)
    (disk / "ballast").unlink()
    monkeypatch.undo()
    ingest(growing.source, store, **arguments)
    assert result(store) == growing.undisturbed


@pytest.fixture(scope="module")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an archive and the store of it."""
    folder = tmp_path_factory.mktemp("made")
    ingest(folder / "in", folder / "out", **archive(folder, range(4)) | {"key": None})
    return folder


PARTS = [
    "out/images.parquet",
    "out/studies.parquet",
    "out/rejects.parquet",
    "out/rejects.csv",
    "out/datalist.json",
    "out/run.json",
    "out/contact_sheet.png",
    "out/history.jsonl",
    "out/store.json",
    "out.private/ledger.sqlite",
    "out.private/identity.parquet",
    "out.private/key",
]
NOT_MADE_AGAIN = {"out/store.json", "out.private/ledger.sqlite", "out.private/identity.parquet", "out.private/key"}


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
@pytest.mark.parametrize("part", PARTS)
def test_half_written_table(part: str, share: float, made_store: Path, tmp_path: Path) -> None:
    """What no run leaves behind, but a failing disk may: the next run repairs it, or says in a sentence what to do."""
    for name in ("out", "out.private"):
        shutil.copytree(made_store / name, tmp_path / name)
    path = tmp_path / part
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    arguments: dict[str, Any] = {
        "reports": made_store / "reports",
        "configuration": replace(SMALL, workers=1),
    }
    said = refusal(made_store / "in", tmp_path / "out", **arguments)
    if said:
        assert part in NOT_MADE_AGAIN
        assert re.fullmatch(rf"{tmp_path}/out[^\n]+", said)
        assert re.search("put|delete|move|name", said)
    else:
        assert result(tmp_path / "out") == result(made_store / "out")


@pytest.mark.parametrize("image_format", ["npy", "png"])
@pytest.mark.parametrize("share", [0, 0.5])
def test_a_damaged_array_is_made_again_once_it_is_deleted(
    image_format: str, share: float, made_store: Path, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {"configuration": replace(SMALL, workers=1, image_format=image_format)}
    ingest(made_store / "in", tmp_path / "out", **arguments)
    before = result(tmp_path / "out")
    path = tmp_path / "out" / items(tmp_path / "out")[0]["image"]
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    said = refusal(made_store / "in", tmp_path / "out", **arguments)
    if said or image_format == "npy":  # OpenCV fills what a PNG lacks
        assert said == f"{path}: is damaged; delete it, and the next run makes it again"
    path.unlink()
    ingest(made_store / "in", tmp_path / "out", **arguments)
    assert result(tmp_path / "out") == before


def test_a_private_folder_of_another_store_stays_as_it_is(made_store: Path, tmp_path: Path) -> None:
    for name in ("out", "out.private"):
        shutil.copytree(made_store / name, tmp_path / name)
    before = contents(tmp_path)
    said = refusal(made_store / "in", tmp_path / "other", private=tmp_path / "out.private")
    assert "another store" in said
    assert contents(tmp_path) == before


def test_a_folder_that_is_no_store_stays_as_it_is(made_store: Path) -> None:
    before = contents(made_store / "in")
    assert "neither empty nor a store" in refusal(made_store / "in", made_store / "in")
    assert contents(made_store / "in") == before


def test_what_a_file_manager_leaves_among_the_arrays_stops_nothing(made_store: Path, tmp_path: Path) -> None:
    for name in ("out", "out.private"):
        shutil.copytree(made_store / name, tmp_path / name)
    (tmp_path / "out" / "images" / ".DS_Store").touch()
    assert refusal(made_store / "in", tmp_path / "out", configuration=replace(SMALL, workers=1)) == ""


@pytest.mark.parametrize("what", ["a folder", "a pipe"])
def test_a_key_that_is_no_file_is_refused(what: str, made_store: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.mkdir() if what == "a folder" else os.mkfifo(key)
    said = refusal(made_store / "in", tmp_path / "out", key=key)
    assert said == f"{key}: is no file; name the file that holds the key"
