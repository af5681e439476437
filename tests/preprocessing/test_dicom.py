import ast
import csv
import hashlib
import struct
import tracemalloc
from contextlib import suppress
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_dicom import (
    ENCODERS,
    HTJ2K,
    JPEG_12,
    JPEG_2000,
    JPEG_LOSSLESS,
    JPEG_LS,
    as_bytes,
    change,
    encapsulated,
    made,
    saved,
)
from pydicom import Dataset
from pydicom.pixels import pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from preprocessing import codestreams, dicom, pixel_data
from preprocessing.dicom import FLAGS, REASONS, ImageFacts, image_facts, read_dicom, stored_values
from preprocessing.errors import UnusableFile

REAL = Path(__file__).parents[3] / "shared" / "data" / "dicom_real"
REAL_NAMES = sorted(path.name for path in REAL.glob("*")) or ["none"]
LOSSLESS_SUFFIXES = ("UNC", "RLE", "JPLL", "JLSL", "J2KR")
REJECTED = {
    "ExplVR_LitEndNoMeta.dcm": "no_pixel_data",
    "MR_truncated.dcm": "truncated",
    "badVR.dcm": "number_of_frames",
    "chrKoreanMulti.dcm": "no_pixel_data",
    "dwv-test_no-number-rows.dcm": "rows_or_columns",
    "meta_missing_tsyntax.dcm": "rows_or_columns",
    "no_meta_group_length.dcm": "no_pixel_data",
    "not_dicom_html.dcm": "not_dicom",
    "parametric_map_float.dcm": "float_pixel_data",
    "rtplan.dcm": "no_pixel_data",
    "test-SR.dcm": "no_pixel_data",
}
RAMP = (np.arange(24 * 40, dtype=np.uint16).reshape(24, 40) * 4) % 4096


def decoded(path: Path) -> np.ndarray:
    return stored_values(read_dicom(path))


def reason(path: Path) -> str:
    with pytest.raises(UnusableFile) as caught:
        decoded(path)
    assert caught.value.reason in REASONS
    return caught.value.reason


def outcome(path: Path) -> str:
    try:
        decoded(path)
    except UnusableFile as error:
        return error.reason
    return "decoded"


def facts_of(folder: Path, dataset: Dataset) -> ImageFacts:
    return image_facts(read_dicom(saved(folder, dataset)))


# Real files


@pytest.mark.parametrize("name", REAL_NAMES)
def test_every_real_file_decodes_as_its_manifest_says_or_names_what_is_wrong(name: str, shared_data: Path) -> None:
    path = shared_data / "dicom_real" / name
    if name in REJECTED:
        assert reason(path) == REJECTED[name]
        return
    with (shared_data / "dicom_real_manifest.csv").open() as table:
        expected = next(row for row in csv.DictReader(table) if Path(row["file"]).name == name)
    values = decoded(path)
    assert values.dtype.kind in "ui"
    assert values.shape == (int(expected["NumberOfFrames"] or 1), int(expected["Rows"]), int(expected["Columns"]))
    if (
        expected["expect"] == "decodes"
        and expected["SamplesPerPixel"] == "1"
        and "PALETTE" not in expected["PhotometricInterpretation"]
    ):
        dtype = np.dtype(expected["dtype"]).newbyteorder("<")
        assert hashlib.sha1(np.ascontiguousarray(values.astype(dtype))).hexdigest() == expected["pix_sha1"]


@pytest.mark.parametrize("name", [name for name in REAL_NAMES if name not in REJECTED])
def test_grey_pixels_are_those_of_pydicom_where_it_can_decode(name: str, shared_data: Path) -> None:
    dataset = pydicom.dcmread(shared_data / "dicom_real" / name)
    if dataset.SamplesPerPixel > 1 or dataset.PhotometricInterpretation == "PALETTE COLOR":
        pytest.skip("colour")
    try:
        theirs = pixel_array(dataset)
    except Exception:
        pytest.skip("pydicom cannot decode it with the plugins that are installed")
    np.testing.assert_array_equal(np.squeeze(decoded(shared_data / "dicom_real" / name)), theirs)


@pytest.mark.parametrize("picture", ["RG2", "RG3", "XA1"])
def test_lossless_variants_of_one_picture_are_identical(picture: str, shared_data: Path) -> None:
    paths = [path for path in (shared_data / "dicom_real").glob(f"{picture}_*") if path.stem[4:] in LOSSLESS_SUFFIXES]
    if not paths:
        pytest.skip(f"no {picture} files")
    assert len({hashlib.sha1(decoded(path).tobytes()).hexdigest() for path in paths}) == 1


def test_colour_becomes_the_luminance_of_what_pydicom_decodes(shared_data: Path) -> None:
    for name in ("SC_rgb_jpeg_dcmtk.dcm", "SC_ybr_full_422_uncompressed.dcm"):
        path = shared_data / "dicom_real" / name
        red, green, blue = np.moveaxis(pixel_array(path).astype(np.float64), -1, 0)
        luminance = 0.299 * red + 0.587 * green + 0.114 * blue
        assert np.abs(decoded(path)[0] - luminance).max() <= 1
        assert "colour" in image_facts(read_dicom(path)).flags


def test_twelve_bit_lossy_jpeg_keeps_its_own_precision(shared_data: Path) -> None:
    lossless = decoded(shared_data / "dicom_real" / "RG3_UNC.dcm").astype(int)
    lossy = decoded(shared_data / "dicom_real" / "RG3_JPLY.dcm").astype(int)
    assert lossy.max() > 1023  # more than the header's 10 bits can hold: masking would turn white to black
    assert np.abs(lossless - lossy).mean() < 8
    assert "codestream_precision" in image_facts(read_dicom(shared_data / "dicom_real" / "RG3_JPLY.dcm")).flags


# Stored values


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        "1.2.840.10008.1.2.1",
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        *ENCODERS,
    ],
)
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("frames", [1, 3])
def test_every_syntax_gives_back_twelve_bit_values_and_their_sign(
    syntax: str, signed: bool, frames: int, tmp_path: Path
) -> None:
    values = np.stack([np.roll(RAMP, 7 * frame, axis=0) for frame in range(frames)]).astype(np.int16)
    values = values - 2048 if signed else values
    words = (values & 0x0FFF).astype(np.uint16)  # sign at bit 11, nothing above it
    words = words if frames > 1 else words[0]
    dataset = made(words, syntax, BitsStored=12, HighBit=11, PixelRepresentation=int(signed))
    read = decoded(saved(tmp_path, dataset))
    assert read.shape == values.shape
    np.testing.assert_array_equal(read, values)
    assert read.dtype.kind == ("i" if signed else "u")


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", RLELossless, ExplicitVRBigEndian])
def test_eight_bit_values_with_an_odd_number_of_pixels(syntax: str, tmp_path: Path) -> None:
    values = np.arange(7 * 9, dtype=np.uint8).reshape(7, 9)
    np.testing.assert_array_equal(decoded(saved(tmp_path, made(values, syntax)))[0], values)


@pytest.mark.parametrize("bits_allocated", [8, 16, 32])
def test_signed_words_that_fill_their_width(bits_allocated: int, tmp_path: Path) -> None:
    limits = np.iinfo(f"i{bits_allocated // 8}")
    values = np.array([[limits.min, -1], [0, limits.max]], f"i{bits_allocated // 8}")
    np.testing.assert_array_equal(decoded(saved(tmp_path, made(values)))[0], values)


@given(
    bits=st.integers(1, 16),
    shift=st.integers(0, 15),
    signed=st.booleans(),
    words=st.lists(st.integers(0, 65535), min_size=4, max_size=4),
)
def test_bits_outside_those_stored_are_dropped_wherever_the_high_bit_is(
    bits: int, shift: int, signed: bool, words: list[int]
) -> None:
    high_bit = min(bits - 1 + shift, 15)
    stored = np.array(words, np.uint16).reshape(2, 2)
    dataset = made(stored, BitsStored=bits, HighBit=high_bit, PixelRepresentation=int(signed))
    field = [(word >> (high_bit - bits + 1)) % 2**bits for word in words]
    expected = [value - 2**bits if signed and value >= 2 ** (bits - 1) else value for value in field]
    assert stored_values(dataset)[0].ravel().tolist() == expected


def test_overlay_bits_in_unused_high_bits_do_not_show(tmp_path: Path) -> None:
    with_overlay = RAMP | np.uint16(0x8000) * (RAMP % 3 == 0)
    dataset = made(with_overlay.astype(np.uint16), BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(decoded(saved(tmp_path, dataset))[0], RAMP)


@pytest.mark.parametrize("codestream_signed", [False, True])
@pytest.mark.parametrize("header_signed", [False, True])
def test_jpeg_2000_bit_patterns_are_read_with_the_sign_of_the_header(
    codestream_signed: bool, header_signed: bool, tmp_path: Path
) -> None:
    values = (RAMP.astype(np.int16) * 16).view(np.int16 if codestream_signed else np.uint16)
    stream = imagecodecs.jpeg2k_encode(values, codecformat="j2k")
    dataset = encapsulated(made(values.view(np.uint16), JPEG_2000, PixelRepresentation=int(header_signed)), [stream])
    read = read_dicom(saved(tmp_path, dataset))
    np.testing.assert_array_equal(stored_values(read)[0], values.view(np.int16 if header_signed else np.uint16))
    assert ("codestream_sign" in image_facts(read).flags) == (codestream_signed != header_signed)


def test_sixteen_bit_codestream_with_sign_extended_words_under_a_twelve_bit_header(tmp_path: Path) -> None:
    values = RAMP.astype(np.int16) - 2048
    dataset = made(values.view(np.uint16), JPEG_LS, BitsStored=12, HighBit=11, PixelRepresentation=1)
    np.testing.assert_array_equal(decoded(saved(tmp_path, dataset))[0], values)


def test_precision_of_the_codestream_goes_before_bits_stored(tmp_path: Path) -> None:
    dataset = made(RAMP, JPEG_LOSSLESS, BitsStored=12, HighBit=11)
    change(dataset, BitsStored=10, HighBit=9)
    read = read_dicom(saved(tmp_path, dataset))
    np.testing.assert_array_equal(stored_values(read)[0], RAMP)
    facts = image_facts(read)
    assert facts.bits_stored == 12
    assert "codestream_precision" in facts.flags


@pytest.mark.parametrize("predictor", [1, 4, 7])
def test_lossless_jpeg_of_any_predictor(predictor: int, tmp_path: Path) -> None:
    stream = imagecodecs.jpeg8_encode(RAMP, lossless=True, predictor=predictor, bitspersample=12)
    dataset = made(RAMP, JPEG_LOSSLESS, BitsStored=12, HighBit=11)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.57"
    np.testing.assert_array_equal(decoded(saved(tmp_path, encapsulated(dataset, [stream])))[0], RAMP)


@pytest.mark.parametrize(("syntax", "bits"), [("1.2.840.10008.1.2.4.50", 8), (JPEG_12, 12)])
def test_lossy_jpeg_of_eight_and_twelve_bits(syntax: str, bits: int, tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(64), np.arange(48)) * (2**bits // 128)
    words = smooth.astype(np.uint8 if bits == 8 else np.uint16)
    dataset = made(words, BitsStored=bits, HighBit=bits - 1)
    dataset.file_meta.TransferSyntaxUID = syntax
    stream = imagecodecs.jpeg8_encode(words, level=95, bitspersample=bits)
    read = decoded(saved(tmp_path, encapsulated(dataset, [stream])))[0].astype(int)
    assert np.abs(read - smooth).max() <= 2**bits / 64


def test_a_decoder_that_fails_is_followed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: bytes) -> np.ndarray:
        raise RuntimeError("no such codec")

    path = saved(tmp_path, made(RAMP, JPEG_LOSSLESS, BitsStored=12, HighBit=11))
    monkeypatch.setitem(codestreams.DECODERS, "jpeg", (broken, imagecodecs.ljpeg_decode))
    np.testing.assert_array_equal(decoded(path)[0], RAMP)
    monkeypatch.setitem(codestreams.DECODERS, "jpeg", (broken,))  # then pydicom's, where a plugin is installed
    assert outcome(path) in ("decoded", "decode_failed")


def test_a_decoder_that_swallows_an_error_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Swallowed:
        def __del__(self) -> None:
            raise RuntimeError("ojph error")  # Python tells `sys.unraisablehook`, as for imagecodecs' htj2k_decode

    def half_filled(data: bytes) -> np.ndarray:
        Swallowed()
        return np.zeros(RAMP.shape, np.uint16)

    path = saved(tmp_path, made(RAMP, HTJ2K))
    monkeypatch.setitem(codestreams.DECODERS, "htj2k", (half_filled, imagecodecs.jpeg2k_decode))
    np.testing.assert_array_equal(decoded(path)[0], RAMP)


def test_rle_is_left_to_pydicom_where_imagecodecs_cannot_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixel_data, "decode_rle", lambda *_: None)
    values = RAMP.astype(np.int16) - 2048
    path = saved(tmp_path, made(values, RLELossless, BitsStored=12, HighBit=11))
    np.testing.assert_array_equal(decoded(path)[0], values)


# Files that must be refused, each for what is wrong with it


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty_file"),
        (b"hello", "not_dicom"),
        (b"<html><body>404 not found</body></html>" * 20, "not_dicom"),
        (b"\x08\x00" + b"\x05\x00CS\x02\x00ab" + b"\0" * 8, "not_dicom"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 500, "not_dicom"),
        (b"PK\x03\x04" + b"\0" * 500, "not_dicom"),
        (b"\0" * 128 + b"DICM", "no_pixel_data"),
    ],
)
def test_files_that_are_no_dicom_image(content: bytes, expected: str, tmp_path: Path) -> None:
    assert reason(saved(tmp_path, content)) == expected


def test_paths_that_hold_no_readable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reason(tmp_path / "absent.dcm") == "missing_file"
    assert reason(tmp_path) == "not_a_file"
    path = saved(tmp_path, made(RAMP))
    for error, expected in ((PermissionError(), "permission"), (OSError(5, "I/O"), "read_error")):
        monkeypatch.setattr(Path, "read_bytes", lambda self, error=error: (_ for _ in ()).throw(error))
        assert reason(path) == expected
    monkeypatch.undo()
    monkeypatch.setattr(dicom, "MAXIMUM_BYTES", 100)
    assert reason(path) == "too_large"


@pytest.mark.parametrize(
    "syntax", ["1.2.840.10008.1.2.1", ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless, *ENCODERS]
)
def test_a_file_cut_anywhere_is_refused_and_said_to_be_cut(syntax: str, tmp_path: Path) -> None:
    whole = as_bytes(made(RAMP, syntax, BitsStored=12, HighBit=11))
    reasons = [reason(saved(tmp_path, whole[:end])) for end in np.linspace(140, len(whole) - 9, 60).astype(int)]
    allowed = {"truncated", "no_pixel_data", "corrupt_header", "unknown_transfer_syntax", "not_dicom"}
    assert set(reasons) <= allowed
    inside_pixels = np.linspace(len(whole) - 120, len(whole) - 9, 20).astype(int)
    assert {reason(saved(tmp_path, whole[:end])) for end in inside_pixels} == {"truncated"}


@pytest.mark.parametrize("syntax", [JPEG_LOSSLESS, JPEG_LS, JPEG_2000, HTJ2K])
def test_a_codestream_without_end_of_image_is_refused(syntax: str, tmp_path: Path) -> None:
    stream = ENCODERS[syntax](RAMP, 12).rstrip(b"\0").removesuffix(b"\xff\xd9")
    assert reason(saved(tmp_path, encapsulated(made(RAMP, syntax, BitsStored=12), [stream]))) == "truncated"


def test_pixel_data_shorter_than_declared(tmp_path: Path) -> None:
    assert reason(saved(tmp_path, change(made(RAMP), Rows=25))) == "truncated"
    assert reason(saved(tmp_path, change(made(RAMP), NumberOfFrames=2))) == "truncated"
    assert reason(saved(tmp_path, change(made(RAMP, JPEG_LS), NumberOfFrames=2))) == "truncated"


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", RLELossless, JPEG_2000])
def test_a_header_that_declares_a_bomb_is_refused_before_memory_is_taken(syntax: str, tmp_path: Path) -> None:
    dataset = change(made(RAMP, syntax), Rows=65535, Columns=65535, NumberOfFrames=100)
    assert reason(saved(tmp_path, dataset)) == "too_large"


def test_a_codestream_that_declares_a_bomb_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = bytearray(ENCODERS[JPEG_LOSSLESS](RAMP, 12))
    start = stream.index(b"\xff\xc3")
    stream[start + 5 : start + 9] = struct.pack(">HH", 65535, 65535)
    monkeypatch.setattr(pixel_data, "decode_frame", lambda *_: pytest.fail("was decoded"))
    dataset = encapsulated(made(RAMP, JPEG_LOSSLESS, BitsStored=12, HighBit=11), [bytes(stream)])
    assert reason(saved(tmp_path, dataset)) == "size_mismatch"


def test_deflated_files_are_inflated_with_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = as_bytes(made(np.zeros((500, 500), np.uint16), DeflatedExplicitVRLittleEndian))
    monkeypatch.setattr(dicom, "MAXIMUM_BYTES", 100_000)
    assert len(whole) < 100_000
    assert reason(saved(tmp_path, whole)) == "too_large"


def deflated(folder: Path, content: Dataset, *, length: bool, padding: int) -> Path:
    """A deflated file whose meta is without group length, or holds so much that the syntax is far behind its start."""
    whole = as_bytes(content)
    start = 144 + struct.unpack_from("<I", whole, 140)[0]
    syntax = b"\x02\x00\x10\x00UI" + struct.pack("<H", 22) + DeflatedExplicitVRLittleEndian.encode()
    version = b"\x02\x00\x01\x00OB\0\0" + struct.pack("<I", padding) + bytes(padding)
    meta = version + syntax
    group = b"\x02\x00\x00\x00UL\x04\x00" + struct.pack("<I", len(meta)) if length else b""
    return saved(folder, whole[:132] + group + meta + whole[start:])


@pytest.mark.parametrize(("length", "padding"), [(True, 2), (False, 2), (True, 2000), (False, 2000)])
def test_no_file_meta_hides_a_deflate_bomb(
    length: bool, padding: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = deflated(tmp_path, made(RAMP, DeflatedExplicitVRLittleEndian), length=length, padding=padding)
    read = read_dicom(picture)
    np.testing.assert_array_equal(stored_values(read)[0], RAMP)
    assert image_facts(read).flags == ()
    zeros = made(np.zeros((500, 500), np.uint16), DeflatedExplicitVRLittleEndian)
    monkeypatch.setattr(dicom, "MAXIMUM_BYTES", 100_000)
    assert reason(deflated(tmp_path, zeros, length=length, padding=padding)) == "too_large"


def test_a_second_prefix_hides_no_deflate_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = as_bytes(made(np.zeros((500, 500), np.uint16), DeflatedExplicitVRLittleEndian))
    monkeypatch.setattr(dicom, "MAXIMUM_BYTES", 100_000)
    assert reason(saved(tmp_path, b"DICM" + b"\x08\0\x05\0CS" + bytes(122) + whole[128:])) == "too_large"


def test_a_deflated_data_set_is_what_pydicom_reads(tmp_path: Path) -> None:
    path = saved(
        tmp_path, made(RAMP, DeflatedExplicitVRLittleEndian, PatientName="Müller", SpecificCharacterSet="ISO_IR 100")
    )
    ours, theirs = read_dicom(path), pydicom.dcmread(path)
    assert ours == theirs
    assert ours.file_meta == theirs.file_meta
    assert ours.original_encoding == theirs.original_encoding
    assert ours.original_character_set == theirs.original_character_set
    assert ours.is_original_encoding
    assert ours.preamble == theirs.preamble


@pytest.mark.parametrize("samples", [1, 3])
def test_an_rle_frame_is_decoded_no_further_than_its_declared_size(samples: int, tmp_path: Path) -> None:
    planes = 2 * samples
    segment = b"\x81\x07" * 200_000  # of 25 megabytes each
    offsets = [64 + plane * len(segment) for plane in range(planes)]
    frame = struct.pack("<16I", planes, *offsets, *[0] * (15 - planes)) + segment * planes
    dataset = encapsulated(made(RAMP, RLELossless), [frame])
    if samples == 3:
        change(dataset, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    path = saved(tmp_path, dataset)
    tracemalloc.start()
    assert reason(path) == "too_large"
    largest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert largest < 10 * len(frame)


def test_a_corrupt_deflate_stream(tmp_path: Path) -> None:
    whole = bytearray(as_bytes(made(RAMP, DeflatedExplicitVRLittleEndian)))
    start = 144 + struct.unpack_from("<I", whole, 140)[0]
    whole[start : start + 8] = b"\xff" * 8
    assert reason(saved(tmp_path, bytes(whole))) == "corrupt_deflate"


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"Rows": 0}, "rows_or_columns"),
        ({"Columns": None}, "rows_or_columns"),
        ({"PixelData": None}, "no_pixel_data"),
        ({"SamplesPerPixel": 4}, "unsupported_samples"),
        ({"BitsAllocated": 12}, "unsupported_bits"),
        ({"BitsAllocated": None}, "unsupported_bits"),
        ({"NumberOfFrames": -1}, "number_of_frames"),
    ],
)
def test_image_pixel_modules_that_cannot_be(elements: dict[str, object], expected: str, tmp_path: Path) -> None:
    assert reason(saved(tmp_path, change(made(RAMP), **elements))) == expected


@pytest.mark.parametrize(
    ("syntax", "expected"),
    [
        ("1.2.840.10008.1.2.4.110", "unsupported_transfer_syntax"),  # JPEG XL
        ("1.2.840.10008.1.2.4.100", "unsupported_transfer_syntax"),  # MPEG2
        ("1.2.3.4.5", "unknown_transfer_syntax"),
        (JPEG_LS, "syntax_mismatch"),
        (JPEG_LOSSLESS, "syntax_mismatch"),
        ("1.2.840.10008.1.2.1", "syntax_mismatch"),
        (RLELossless, "decode_failed"),
    ],
)
def test_transfer_syntaxes_that_are_unknown_or_not_those_of_the_data(
    syntax: str, expected: str, tmp_path: Path
) -> None:
    whole = as_bytes(made(RAMP, HTJ2K))
    declared = HTJ2K.encode() + b"\0"
    other = syntax.encode().ljust(len(declared), b"\0")  # same length, so that nothing else has to move
    assert reason(saved(tmp_path, whole.replace(declared, other))) == expected


@pytest.mark.parametrize("syntax", ["1.2.840.10008.Doe Jane", "1.2.840.10008." + "1" * 60])
def test_a_reject_repeats_no_text_that_stands_for_a_transfer_syntax(syntax: str, tmp_path: Path) -> None:
    dataset = made(RAMP)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
    encapsulated(dataset, [b"\0" * 16])
    read = read_dicom(saved(tmp_path, dataset))
    read.file_meta.TransferSyntaxUID = syntax
    with pytest.raises(UnusableFile) as caught:
        stored_values(read)
    assert caught.value.reason == "unknown_transfer_syntax"
    assert syntax not in caught.value.detail


def test_native_data_under_a_compressed_syntax(tmp_path: Path) -> None:
    whole = as_bytes(made(RAMP)).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0")
    assert reason(saved(tmp_path, whole)) == "syntax_mismatch"


def test_damage_that_would_end_the_process_inside_a_decoder_is_found_before(tmp_path: Path) -> None:
    stream = bytearray(ENCODERS[HTJ2K](RAMP, 12))
    stream[24:28] = bytes(4)  # XTsiz, by which OpenJPH divides
    assert reason(saved(tmp_path, encapsulated(made(RAMP, HTJ2K), [bytes(stream)]))) == "syntax_mismatch"
    whole = as_bytes(made(RAMP, RLELossless))
    start = whole.index(struct.pack("<II", 2, 64))
    damaged = whole[: start + 8] + struct.pack("<I", 0x7FFFFFFF) + whole[start + 12 :]
    assert outcome(saved(tmp_path, damaged)) == "decode_failed"


def test_float_pixel_data(tmp_path: Path) -> None:
    dataset = change(made(RAMP), PixelData=None, BitsAllocated=32)
    dataset.FloatPixelData = RAMP.astype(np.float32).tobytes()
    assert reason(saved(tmp_path, dataset)) == "float_pixel_data"


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=600), st.booleans())
def test_bytes_of_any_kind_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, body: bytes, prefix: bool
) -> None:
    path = saved(tmp_path_factory.getbasetemp(), (b"\0" * 128 + b"DICM" if prefix else b"\x08\x00") + body)
    assert outcome(path) in REASONS.keys() | {"decoded"}


@settings(max_examples=200, deadline=None)
@given(
    syntax=st.sampled_from(["1.2.840.10008.1.2.1", ImplicitVRLittleEndian, RLELossless, JPEG_LOSSLESS, JPEG_LS]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=5),
)
def test_damaged_files_are_read_or_refused_and_their_facts_never_raise(
    tmp_path_factory: pytest.TempPathFactory, syntax: str, changes: list[tuple[float, int]]
) -> None:
    damaged = bytearray(as_bytes(made(RAMP[:8, :8], syntax, BitsStored=12, HighBit=11, PixelSpacing=[0.1, 0.2])))
    for place, value in changes:
        damaged[132 + int(place * (len(damaged) - 132))] = value
    path = saved(tmp_path_factory.getbasetemp(), bytes(damaged))
    assert outcome(path) in REASONS.keys() | {"decoded"}
    with suppress(UnusableFile):
        assert set(image_facts(read_dicom(path)).flags) <= set(FLAGS)


def test_reasons_and_flags_are_closed_sets() -> None:
    for module in ("codestreams", "colour", "dicom", "header_facts", "pixel_data", "rasters", "readers", "rendering"):
        source = Path(dicom.__file__).with_name(f"{module}.py").read_text()
        calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
        raised = {
            node.args[0].value
            for node in calls
            if getattr(node.func, "id", "") == "UnusableFile" and isinstance(node.args[0], ast.Constant)
        }
        assert raised <= set(REASONS)


def test_errors_and_logs_name_neither_path_nor_patient(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "Doe_Jane_0815"
    folder.mkdir()
    for dataset in (change(made(RAMP), Rows=25), change(made(RAMP), BitsAllocated=12), made(RAMP, JPEG_LS)):
        path = saved(folder, as_bytes(dataset)[:-300])
        with pytest.raises(UnusableFile) as caught:
            decoded(path)
        assert not any(word in str(caught.value) for word in ("Doe", "Jane", "0815"))
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
    whole = as_bytes(made(RAMP, StudyDate="20200102")).replace(b"20200102", b"Doe^Jane")  # pydicom would quote it
    image_facts(read_dicom(saved(folder, whole)))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


# Files that must be accepted, each with its flag


def flags_after(folder: Path, content: bytes | Dataset) -> tuple[str, ...]:
    dataset = read_dicom(saved(folder, content))
    np.testing.assert_array_equal(stored_values(dataset)[0], RAMP)
    return image_facts(dataset).flags


def test_a_clean_file_has_no_flags(tmp_path: Path) -> None:
    assert flags_after(tmp_path, made(RAMP)) == ()


def test_missing_preamble_and_file_meta(tmp_path: Path) -> None:
    whole = as_bytes(made(RAMP))
    assert flags_after(tmp_path, whole[132:]) == ("no_preamble",)
    assert flags_after(tmp_path, whole[128:]) == ("no_preamble",)
    start = 144 + struct.unpack_from("<I", whole, 140)[0]
    assert flags_after(tmp_path, whole[start:]) == ("no_file_meta", "no_preamble", "transfer_syntax_assumed")


@pytest.mark.parametrize(
    ("elements", "flag"),
    [
        ({"BitsStored": None}, "bits"),
        ({"HighBit": None}, "bits"),
        ({"BitsStored": 20}, "bits"),
        ({"PhotometricInterpretation": None}, "photometric_missing"),
        ({"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"}, "polarity_contradiction"),
        ({"PhotometricInterpretation": "MONOCHROME2", "PresentationLUTShape": "INVERSE"}, "polarity_contradiction"),
        ({"ImagerPixelSpacing": [0.2, 0.1]}, "non_square_pixels"),
        ({"PixelAspectRatio": [2, 1]}, "non_square_pixels"),
        ({"NumberOfFrames": 0}, "number_of_frames"),
        ({"StudyDate": None, "ShutterShape": "RECTANGULAR"}, "shutter"),
    ],
)
def test_odd_but_usable_headers_are_flagged(elements: dict[str, object], flag: str, tmp_path: Path) -> None:
    assert flags_after(tmp_path, change(made(RAMP, StudyDate="20200102"), **elements)) == (flag,)


def test_pixel_data_with_more_than_a_padding_byte_behind_it(tmp_path: Path) -> None:
    dataset = made(RAMP)
    dataset.PixelData += b"\0" * 100
    assert flags_after(tmp_path, dataset) == ("pixel_data_padded",)


def test_presentation_lut_inverse_agrees_with_monochrome1(tmp_path: Path) -> None:
    agreeing = made(RAMP, PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE")
    assert flags_after(tmp_path, agreeing) == ()


def test_text_that_its_character_set_cannot_decode_is_replaced(tmp_path: Path) -> None:
    whole = as_bytes(made(RAMP, SpecificCharacterSet="ISO_IR 192", PatientName="XXXX^YY"))
    assert flags_after(tmp_path, whole.replace(b"XXXX^YY", b"\xff\xfe\xfdX^YY")) == ("character_set",)


# Facts


def test_facts_of_a_whole_header(tmp_path: Path) -> None:
    dataset = made(
        RAMP,
        BitsStored=12,
        HighBit=11,
        AccessionNumber="A1",
        StudyDate="20200102",
        PresentationIntentType="FOR PRESENTATION",
        PixelIntensityRelationship="LOG",
        BurnedInAnnotation="NO",
        ImagerPixelSpacing=[0.143, 0.143],
    )
    facts = facts_of(tmp_path, dataset)
    assert facts == ImageFacts(
        sop_instance_uid=dataset.SOPInstanceUID,
        study_instance_uid=dataset.StudyInstanceUID,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
        patient_id="0815",
        accession_number="A1",
        modality="DX",
        body_part="CHEST",
        view_position="PA",
        view_source="ViewPosition",
        photometric_interpretation="MONOCHROME2",
        rows=24,
        columns=40,
        frames=1,
        bits_stored=12,
        pixel_spacing=(0.143, 0.143),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        presentation_intent="FOR PRESENTATION",
        pixel_intensity_relationship="LOG",
        burned_in_annotation="NO",
        flags=(),
        pixel_aspect=1.0,
        laterality="",
        study_date="20200102",
    )


def test_absent_facts_are_empty_and_not_invented() -> None:
    facts = image_facts(Dataset())
    assert (facts.pixel_spacing, facts.presentation_intent) == (None, None)
    assert (facts.patient_id, facts.sop_class_uid, facts.view_position, facts.view_source) == ("", "", "UNKNOWN", "")


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"BitsStored": 300, "HighBit": 299}, 16),
        ({"BitsStored": 300}, 16),
        ({"BitsStored": None}, 16),
        ({"BitsStored": 65535}, 16),
        ({"BitsStored": 12, "HighBit": 11}, 12),
    ],
)
def test_bits_stored_are_those_that_were_decoded(elements: dict[str, object], expected: int, tmp_path: Path) -> None:
    read = read_dicom(saved(tmp_path, change(made(RAMP), **elements)))
    facts = image_facts(read)
    np.testing.assert_array_equal(stored_values(read)[0], RAMP)
    assert facts.bits_stored == pixel_data.pixel_layout(read).bits_stored == expected
    assert ("bits" in facts.flags) == (expected == 16)


def test_calibrated_spacing_goes_before_that_of_the_detector(tmp_path: Path) -> None:
    dataset = made(RAMP, ImagerPixelSpacing=[0.2, 0.2], PixelSpacing=[0.15, 0.15])
    assert facts_of(tmp_path, dataset).pixel_spacing == (0.15, 0.15)
    assert facts_of(tmp_path, change(dataset, PixelSpacing=[0, 0])).pixel_spacing == (0.2, 0.2)


def code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"ViewPosition": "pa"}, ("PA", "ViewPosition")),
        ({"ViewPosition": "LL"}, ("LATERAL", "ViewPosition")),
        ({"ViewPosition": "LLD"}, ("UNKNOWN", "")),
        ({"ViewPosition": "RLD", "SeriesDescription": "Chest LAT"}, ("UNKNOWN", "")),
        ({"ViewPosition": "LLD", "ViewCodeSequence": [code("399067008", "lateral")]}, ("UNKNOWN", "")),
        ({"ViewPosition": "LL", "SeriesDescription": "L lat decubitus"}, ("UNKNOWN", "")),
        ({"ViewCodeSequence": [code("X-1", "left lateral decubitus")]}, ("UNKNOWN", "")),
        ({"SeriesDescription": "LEFT LATERAL DECUB"}, ("UNKNOWN", "")),
        ({"SeriesDescription": "CHEST LAT DEC"}, ("UNKNOWN", "")),
        ({"SeriesDescription": "Torax decúbito lateral"}, ("UNKNOWN", "")),
        ({"SeriesDescription": "Chest lateral, decision pending"}, ("LATERAL", "SeriesDescription")),
        ({"ViewCodeSequence": [code("399348003", "antero-posterior")]}, ("AP", "ViewCodeSequence")),
        ({"ViewCodeSequence": [code("X-1", "left lateral")]}, ("LATERAL", "ViewCodeSequence")),
        ({"ViewCodeSequence": [code("399135007", "left anterior oblique")]}, ("OBLIQUE", "ViewCodeSequence")),
        ({"PatientOrientation": ["P", "F"]}, ("LATERAL", "PatientOrientation")),
        ({"PatientOrientation": ["L", "F"]}, ("UNKNOWN", "")),
        ({"SeriesDescription": "Chest LAT"}, ("LATERAL", "SeriesDescription")),
        ({"SeriesDescription": "THORAX A.P."}, ("AP", "SeriesDescription")),
        ({"SeriesDescription": "Chest PA and lateral"}, ("UNKNOWN", "")),
        ({"SeriesDescription": "Papworth map"}, ("UNKNOWN", "")),
        ({"ViewPosition": "PA", "SeriesDescription": "Chest LAT"}, ("PA", "ViewPosition")),
    ],
)
def test_view_comes_from_the_first_source_that_decides(
    elements: dict[str, object], expected: tuple[str, str], tmp_path: Path
) -> None:
    facts = facts_of(tmp_path, change(made(RAMP), **({"ViewPosition": ""} | elements)))
    assert (facts.view_position, facts.view_source) == expected
