"""The scan of headers against the slow way that `ingest` takes, which is the oracle throughout."""

import functools
import os
import signal
import zipfile
from collections import Counter
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_dicom import ENCODERS, JPEG_12, JPEG_LOSSLESS, JPEG_LS, as_bytes, change, encapsulated, made, saved
from pydicom import Dataset, dcmwrite
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from preprocessing import header_scan, plain_elements
from preprocessing.dicom import image_facts, parse_dicom
from preprocessing.errors import InputError, UnusableFile
from preprocessing.header_scan import Scanned, scan_archive, scan_image
from preprocessing.plain_elements import MoreNeeded, NotPlain
from preprocessing.plain_headers import plain_header
from preprocessing.selection import SelectionPolicy, check_selected
from preprocessing.sources import SourceImage

REAL = Path(__file__).parents[3] / "shared" / "data"
REAL_FILES = sorted(path for folder in ("dicom_real", "dicom_derived") for path in (REAL / folder).glob("*"))
NOT_PLAIN = {  # of the real files, those that pydicom has to read
    "ExplVR_LitEndNoMeta.dcm",
    "MR_small_bigendian.dcm",
    "MR_truncated.dcm",
    "badVR.dcm",
    "bad_sequence.dcm",
    "chrKoreanMulti.dcm",
    "image_dfl.dcm",
    "liver_1frame.dcm",
    "meta_missing_tsyntax.dcm",
    "not_dicom_html.dcm",
    "parametric_map_float.dcm",
}
EXAMPLES = int(os.environ.get("HEADER_SCAN_EXAMPLES", "300"))
ACCEPTING = SelectionPolicy("convert", "accept", "accept")
RAMP = (np.arange(8 * 10, dtype=np.uint16).reshape(8, 10) * 4) % 4096


def by_pydicom(data: bytes, policy: SelectionPolicy = ACCEPTING) -> Scanned:
    facts = None
    try:
        if not data:
            raise UnusableFile("empty_file", "")
        dataset = parse_dicom(data)
        facts = image_facts(dataset)
        return Scanned("", facts, check_selected(dataset, facts, policy))
    except UnusableFile as error:
        return Scanned(error.reason, facts)


def scanned(path: Path, policy: SelectionPolicy = ACCEPTING) -> Scanned:
    return scan_image(SourceImage(str(path), path.name), policy)


def outcome(found: Scanned) -> tuple[object, ...]:
    return found.reason, found.facts, found.flags


def agreed(folder: Path, content: bytes | Dataset) -> Scanned:
    path = saved(folder, content)
    for policy in (SelectionPolicy(), ACCEPTING):
        found = scanned(path, policy)
        assert outcome(found) == outcome(by_pydicom(path.read_bytes(), policy))
    return found


def code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


def rich(syntax: str = "1.2.840.10008.1.2.1", words: np.ndarray = RAMP, **elements: object) -> Dataset:
    """A radiograph with all that the scan reads, and sequences of both kinds in one another."""
    dataset = made(words, syntax, BitsStored=12, HighBit=11, StudyDate="20200102", AccessionNumber="A1")
    dataset.SpecificCharacterSet, dataset.ImageType = "ISO_IR 100", ["ORIGINAL", "PRIMARY"]
    dataset.PresentationIntentType, dataset.PixelIntensityRelationship = "FOR PRESENTATION", "LOG"
    dataset.BurnedInAnnotation, dataset.PresentationLUTShape = "NO", "IDENTITY"
    dataset.SeriesDescription, dataset.ViewPosition, dataset.BodyPartExamined = "Thorax seitlich LAT", "", ""
    dataset.ImagerPixelSpacing, dataset.PixelAspectRatio = [0.143, 0.144], [1, 2]
    dataset.ShutterShape, dataset.ImageLaterality = ["RECTANGULAR", "CIRCULAR"], "U"
    dataset.PatientOrientation, dataset.NumberOfFrames = ["L", "F"], len(words) if words.ndim == 3 else 1
    dataset.AnatomicRegionSequence = [code("51185008", "Chest")]
    dataset.ViewCodeSequence = [code("399348003", "antero-posterior"), code("X", "lateral")]
    dataset.ViewCodeSequence[0].ViewModifierCodeSequence = [code("399110001", "erect")]
    dataset.RequestAttributesSequence = [code("1", "asked"), code("2", "again")]
    dataset.RequestAttributesSequence[0].RequestedProcedureCodeSequence = [code("3", "inside")]
    for holder, keyword in (
        (dataset, "ViewCodeSequence"),
        (dataset, "RequestAttributesSequence"),
        (dataset.RequestAttributesSequence[0], "RequestedProcedureCodeSequence"),
    ):
        holder[keyword].is_undefined_length = True
        holder[keyword].value[0].is_undefined_length_sequence_item = True
    dataset.private_block(0x0019, "MAKER", create=True).add_new(1, "UN", b"\x01\x02")
    return change(dataset, **elements)


# Real files


@pytest.mark.parametrize("path", REAL_FILES or [Path("none")], ids=lambda path: path.name)
def test_every_real_file_is_judged_as_by_pydicom(path: Path, shared_data: Path) -> None:
    for policy in (SelectionPolicy(), ACCEPTING):
        found = scanned(path, policy)
        assert outcome(found) == outcome(by_pydicom(path.read_bytes(), policy))
    assert found.is_plain == (path.name not in NOT_PLAIN and path.suffix == ".dcm")


# Made files


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", ImplicitVRLittleEndian, RLELossless, *ENCODERS])
@pytest.mark.parametrize("frames", [1, 3])
def test_plain_headers_of_every_syntax_need_no_pydicom(syntax: str, frames: int, tmp_path: Path) -> None:
    words = np.stack([RAMP] * frames) if frames > 1 else RAMP
    found = agreed(tmp_path, rich(syntax, words))
    assert found.is_plain
    assert found.facts
    assert (found.facts.view_position, found.facts.view_source) == ("AP", "ViewCodeSequence")
    assert found.facts.body_part == "CHEST"
    assert found.facts.frames == frames


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_other_encodings_are_left_to_pydicom(syntax: str, tmp_path: Path) -> None:
    assert not agreed(tmp_path, rich(syntax)).is_plain


def test_files_without_preamble_or_meta_information_are_left_to_pydicom(tmp_path: Path) -> None:
    whole = as_bytes(rich())
    start = 144 + int.from_bytes(whole[140:144], "little")
    for content in (whole[132:], whole[128:], whole[start:], bytes(128) + b"DICM" + whole[start:], b"", b"DICM"):
        assert not agreed(tmp_path, content).is_plain


def test_meta_information_without_its_length_is_plain(tmp_path: Path) -> None:
    stream = BytesIO()
    dcmwrite(stream, rich(), enforce_file_format=False)
    content = stream.getvalue()
    assert content[132:136] != b"\x02\0\0\0"
    assert agreed(tmp_path, content).is_plain


def test_an_enhanced_object_is_left_to_pydicom(tmp_path: Path) -> None:
    item, measures = Dataset(), Dataset()
    measures.PixelSpacing = [0.3, 0.3]
    item.PixelMeasuresSequence = [measures]
    found = agreed(tmp_path, rich(SharedFunctionalGroupsSequence=[item]))
    assert not found.is_plain
    assert found.facts
    assert found.facts.pixel_spacing == (0.3, 0.3)


@pytest.mark.parametrize(
    ("declared", "name", "plain"),
    [
        (None, "Müller".encode("latin-1"), True),
        ("ISO_IR 100", "Müller".encode("latin-1"), True),
        ("ISO_IR 192", "Müller".encode(), True),
        ("ISO_IR 192", b"\xff\xfe\xfdxx", False),
        ("ISO_IR 144", b"\xbb\xee\xda", False),
        ("ISO_IR 144", b"Mueller", True),
        ("ISO 2022 IR 87", b"a\x1b$B;3\x1b(B", False),
        (["", "ISO 2022 IR 87"], b"Yamada", False),
        ("no such set", b"Mueller", False),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_character_sets(declared: str | None, name: bytes, plain: bool, tmp_path: Path) -> None:
    place = b"0123456789"
    dataset = change(
        rich(), SpecificCharacterSet=declared, SeriesDescription=place.decode(), PatientName=place.decode()
    )
    content = as_bytes(dataset).replace(place, name.ljust(len(place))[: len(place)])
    assert agreed(tmp_path, content).is_plain == plain


@pytest.mark.parametrize(
    "elements",
    [
        {"Rows": None},
        {"Modality": None},
        {"Modality": "CT"},
        {"Modality": ["DX", "CR"]},
        {"BodyPartExamined": "HAND"},
        {"PresentationIntentType": "FOR PROCESSING"},
        {"BurnedInAnnotation": "YES"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},
        {"SOPClassUID": None},
        {"SOPInstanceUID": ""},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PhotometricInterpretation": None},
        {"PixelData": None},
        {"PixelData": b""},
        {"NumberOfFrames": 0},
        {"NumberOfFrames": None},
        {"NumberOfFrames": ""},
        {"BitsStored": None, "HighBit": None},
        {"BitsStored": 300},
        {"ImagerPixelSpacing": "", "PixelSpacing": [0.2]},
        {"ImagerPixelSpacing": None},
        {"ImagerPixelSpacing": [1e-5, 2e3]},
        {"PatientID": "one\\two "},
        {"ViewCodeSequence": []},
        {"ViewCodeSequence": None, "SeriesDescription": "pa \\lat"},
        {"ViewCodeSequence": None, "PatientOrientation": ["A", "F"]},
        {"AnatomicRegionSequence": [Dataset()]},
        {"StudyDate": "2020.01.02"},
        {"StudyDate": "20200199"},
        {"StudyDate": "  "},
        {"FrameLaterality": "R", "ImageLaterality": None},
    ],
)
@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", ImplicitVRLittleEndian])
@pytest.mark.filterwarnings("ignore")
def test_headers_with_one_thing_other(elements: dict[str, object], syntax: str, tmp_path: Path) -> None:
    present = {key: value for key, value in elements.items() if value is not None}
    dataset = change(rich(syntax), **present)
    for keyword in elements.keys() - present.keys():
        if keyword in dataset:
            delattr(dataset, keyword)
    agreed(tmp_path, dataset)


def test_overlays_in_the_bits_of_the_pixels(tmp_path: Path) -> None:
    dataset = rich()
    dataset.add_new(0x60000102, "US", 15)
    found = agreed(tmp_path, dataset)
    assert found.facts
    assert "overlay_bits" in found.facts.flags
    dataset.add_new(0x60003000, "OW", b"\0\0")
    found = agreed(tmp_path, dataset)
    assert found.facts
    assert "overlay_bits" not in found.facts.flags


def test_what_lies_behind_the_pixel_data(tmp_path: Path) -> None:
    whole = as_bytes(rich())
    trailing = b"\xfc\xff\xfc\xffOB\0\0\x04\0\0\0abcd"
    late = b"\xe1\x7f\x10\0LO\x02\0ab"
    for content in (whole + trailing, whole + b"\0\0\0", whole + late, encapsulated_bytes() + trailing):
        assert agreed(tmp_path, content).is_plain
    for content in (whole + trailing[:-1], whole[:-1], whole + whole[-2000:], whole + b"\0" * 9):
        agreed(tmp_path, content)


def encapsulated_bytes() -> bytes:
    return as_bytes(rich(JPEG_LS))


def test_compressed_pixel_data_that_are_cut_off_or_hold_no_codestream(tmp_path: Path) -> None:
    whole = encapsulated_bytes()
    for cut in (1, 4, 8, 9, 30, 100):
        agreed(tmp_path, whole[:-cut])
    for frames in ([b"\0" * 16], [b"\xff\xd8\xff\xd9"]):
        agreed(tmp_path, encapsulated(rich(JPEG_12), frames))
    stream = ENCODERS[JPEG_LOSSLESS](RAMP, 12)
    for frames in (1, 2, 3):
        for parts in ([stream], [stream, stream], [stream[:20], stream[20:]], [b"", stream], [b"", b""], []):
            for offsets in ((), (0,), (0, 0), (0, len(stream) + 8)):
                agreed(tmp_path, fragmented(rich(JPEG_LOSSLESS, NumberOfFrames=frames, BitsStored=10), offsets, parts))


def fragmented(dataset: Dataset, offsets: tuple[int, ...], parts: list[bytes]) -> Dataset:
    """Pixel data as they should not be: pydicom's `encapsulate` refuses to write some of these."""
    items = [np.array(offsets, "<u4").tobytes(), *parts]
    written = b"".join(b"\xfe\xff\x00\xe0" + len(item).to_bytes(4, "little") + item for item in items)
    dataset.PixelData = written
    return dataset


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", ImplicitVRLittleEndian])
def test_structures_that_pydicom_reads_in_its_own_way(syntax: str, tmp_path: Path) -> None:
    delimiter, nothing = b"\xfe\xff\x0d\xe0", bytes(4)
    whole = as_bytes(rich(syntax))
    rows, pixels = whole.index(b"\x28\0\x10\0"), whole.index(b"\xe0\x7f\x10\0")
    item = whole.index(b"\xfe\xff\0\xe0", whole.index(b"\x40\0\x75\x02"))
    for content in (
        whole[:rows] + delimiter + nothing + whole[rows:],  # pydicom stops there
        whole[:rows] + whole[pixels:] + whole[rows:],
        whole[:item] + b"\xfe\xff\1\xe0" + whole[item + 4 :],
        whole[:item] + delimiter + nothing + whole[item:],
        whole[:item] + b"\xfe\xff\xdd\xe0" + nothing + whole[item:],
        whole[:item] + b"\xfe\xff\0\xe0" + nothing + whole[item:],
        whole[:136] + b"UL\3\0" + whole[140:143] + whole[144:],
        whole[:136] + b"US" + whole[138:],
    ):
        agreed(tmp_path, content)


@pytest.mark.parametrize("length", [70_000, 5_000_000])
def test_headers_longer_than_what_is_read_first(length: int, tmp_path: Path) -> None:
    dataset = rich()
    dataset.private_block(0x0021, "MAKER", create=True).add_new(1, "OB", b"\1" * length)
    assert agreed(tmp_path, dataset).is_plain == (length < 1 << 22)


@given(st.integers(140, 4000))
@settings(max_examples=60, deadline=None)
def test_wherever_the_first_bytes_end_the_answer_is_the_same_or_more_is_needed(first: int) -> None:
    whole = as_bytes(rich())
    expected = outcome(by_pydicom(whole))
    try:
        header = plain_header(whole[:first], len(whole), lambda position, count: whole[position : position + count])
    except (NotPlain, MoreNeeded):
        assert first < whole.index(b"\xe0\x7f\x10\0OW") + 12
        return
    facts = image_facts(header)
    assert ("", facts, check_selected(header, facts, ACCEPTING)) == expected


# Damaged files


def in_elements(whole: bytes) -> list[bytes]:
    """A file as what is before its data set, and each top-level element, as pydicom finds them."""
    dataset = parse_dicom(whole)
    starts = []
    for key in dataset.keys():  # noqa: SIM118 -- iterating converts the elements
        element = dataset.get_item(key)
        long = not dataset.original_encoding[0] and str(element.VR) in ("SQ", "OB", "OW", "UN")
        starts.append((getattr(element, "value_tell", None) or element.file_tell) - (12 if long else 8))
    return [whole[start:end] for start, end in pairwise([0, *sorted(starts), len(whole)])]


SYNTAXES = ("1.2.840.10008.1.2.1", ImplicitVRLittleEndian, JPEG_LS, JPEG_LOSSLESS)
SEEDS = [in_elements(as_bytes(rich(syntax))) for syntax in SYNTAXES]
SEEDS.append(in_elements(as_bytes(rich(SpecificCharacterSet="ISO_IR 192", PatientName="Müller^Käthe"))))
PLACES = st.floats(0, 1, exclude_max=True)
CHUNKS = st.one_of(st.binary(min_size=1, max_size=4), st.sampled_from([b"\xff\xff\xff\xff", b"\xfe\xff\x0d\xe0"]))
VALUES = st.one_of(
    st.binary(min_size=1, max_size=12),
    st.sampled_from(
        [b"", b" ", b"\\", b"\0\0", b"1\\2", b"-1.5e3", b".5\\", b"YES ", b"LLD ", b"ISO_IR 192", b"\xfc\xe4"]
    ),
    st.text("0123456789. +-e\\", min_size=1, max_size=10).map(str.encode),
)
EDITS = st.one_of(
    st.tuples(st.just("value"), PLACES, VALUES),
    st.tuples(st.just("again"), PLACES, PLACES),
    st.tuples(st.just("drop"), PLACES, st.none()),
)
BLOWS = st.one_of(
    st.tuples(st.just("flip"), PLACES, CHUNKS),
    st.tuples(st.just("insert"), PLACES, CHUNKS),
    st.tuples(st.just("cut"), PLACES, st.integers(1, 40)),
    st.tuples(st.just("end"), PLACES, st.none()),
)


def edited(seed: list[bytes], edits: list[tuple[str, float, Any]]) -> list[bytes]:
    """Elements with another value of the right length, in two places, or left out."""
    elements = seed[1:]
    for kind, place, what in edits:
        index = int(place * len(elements))
        if kind == "value":
            elements[index] = with_value(elements[index], what)
        elif kind == "again":
            elements.insert(int(what * len(elements)), elements[index])
        else:
            del elements[index]
    return [seed[0], *elements]


def with_value(element: bytes, value: bytes) -> bytes:
    if element[4:6] in (b"SQ", b"OB", b"OW", b"UN"):
        return element[:8] + len(value).to_bytes(4, "little") + value
    size = 2 if element[4:6].isalpha() else 4
    return element[: 8 - size] + len(value).to_bytes(size, "little") + value


def struck(whole: bytes, header: int, blows: list[tuple[str, float, Any]]) -> bytes:
    """Bytes of the header changed, put in between or cut out, or the file ended somewhere."""
    data = bytearray(whole)
    for kind, place, what in blows:
        at = 132 + int(place * (header - 132))
        if kind == "end":
            del data[132 + int(place * (len(data) - 132)) :]
        elif kind == "cut":
            del data[at : at + what]
        else:
            data[at : at + (len(what) if kind == "flip" else 0)] = what
    return bytes(data)


SEEN: Counter[tuple[bool, str]] = Counter()


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.sampled_from(SEEDS), st.lists(EDITS, max_size=4), st.lists(BLOWS, max_size=2))
def test_damaged_headers_are_judged_as_by_pydicom(
    tmp_path_factory: pytest.TempPathFactory,
    seed: list[bytes],
    edits: list[tuple[str, float, Any]],
    blows: list[tuple[str, float, Any]],
) -> None:
    elements = edited(seed, edits)
    data = struck(b"".join(elements), len(b"".join(elements[:-1])) + 60, blows)
    path = saved(tmp_path_factory.getbasetemp(), data)
    found, expected = scanned(path), by_pydicom(data)
    SEEN[found.is_plain, found.reason] += 1
    assert outcome(found) == outcome(expected)


# Archives


def test_an_archive_is_counted_with_its_zip_members_and_without_text_that_could_name_anyone(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    saved(folder, rich(), "a.dcm")
    saved(folder, rich(BurnedInAnnotation="YES"), "b.dcm")
    saved(folder, rich(Modality="DOE JANE", PhotometricInterpretation="DOE JANE"), "c.dcm")
    saved(folder, b"no DICOM at all, Doe Jane", "notes.txt")
    saved(folder, rich(DeflatedExplicitVRLittleEndian), "d.dcm")
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        archive.writestr("e.dcm", as_bytes(rich(ImplicitVRLittleEndian)))
    seen: list[int] = []
    summary = scan_archive(folder, SelectionPolicy(), workers=2, on_progress=lambda done, total: seen.append(done))
    assert (summary.files, summary.taken, summary.whole) == (6, 3, 3)
    assert summary.reasons == {"burned_in_annotation": 1, "not_dicom": 1, "other_modality": 1}
    assert summary.tables["modality"] == {"DX": (4, 3), "other": (1, 0)}
    assert summary.tables["burned in"] == {"NO": (4, 3), "YES": (1, 0)}
    assert summary.tables["view"] == {"AP": (5, 3)}
    assert summary.tables["rows x columns"] == {"8 x 10": (5, 3)}
    assert sum(taken for _, taken in summary.tables["transfer syntax"].values()) == 3
    assert "DOE" not in repr(summary).upper()
    assert seen == [6]
    assert sorted(path.name for path in folder.iterdir()) == [
        "a.dcm",
        "b.dcm",
        "c.dcm",
        "d.dcm",
        "more.zip",
        "notes.txt",
    ]


def test_what_is_no_file_or_may_not_be_read_has_the_reason_that_ingest_gives(tmp_path: Path) -> None:
    assert scanned(tmp_path).reason == "not_a_file"
    assert scanned(tmp_path / "gone").reason == "missing_file"
    assert scanned(tmp_path / "nul\0").reason in ("missing_file", "unexpected_error")
    os.mkfifo(tmp_path / "pipe")
    assert scanned(tmp_path / "pipe").reason == "not_a_file"
    with pytest.raises(InputError):
        scan_archive(tmp_path / "gone", SelectionPolicy())


def test_a_file_larger_than_any_radiograph_is_refused_as_by_ingest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, rich())
    monkeypatch.setattr(header_scan, "MAXIMUM_BYTES", 100)
    assert not scanned(path).is_plain


def test_nothing_that_facts_and_selection_read_is_missing_from_what_is_picked_out() -> None:
    """By what they ask of a data set that notes it."""
    asked: set[object] = set()

    class Noting(Dataset):
        def get(self, key: object, default: object = None) -> object:
            asked.add(key)
            return super().get(key, default)  # type: ignore[call-overload]

        def get_item(self, key: object, **options: object) -> object:
            asked.add(key)
            return super().get_item(key, **options)  # type: ignore[call-overload]

        def __contains__(self, name: object) -> bool:
            asked.add(name)
            return super().__contains__(name)  # type: ignore[arg-type]

    for changes in ({}, {"ViewCodeSequence": None}, {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}):
        dataset = parse_dicom(as_bytes(rich(**changes)))
        noting = Noting(dataset)
        noting.set_original_encoding(False, True, "latin-1")
        noting.file_meta, noting.preamble = dataset.file_meta, dataset.preamble
        asked.clear()
        check_selected(noting, image_facts(noting), ACCEPTING)
        keywords = {key for key in asked if isinstance(key, str)}
        assert keywords <= {*plain_elements.KEYWORDS, *plain_elements.ELSEWHERE}


def count_or_die(policy: SelectionPolicy, images: list[SourceImage]) -> Counter[Any]:
    if any("deadly" in image.origin for image in images):
        os.kill(os.getpid(), signal.SIGKILL)
    return header_scan.count_batch(policy, images)


def test_a_file_that_kills_its_worker_costs_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "deadly", "b", "c"):
        saved(tmp_path, made(np.zeros((8, 8), np.uint16)), f"{name}.dcm")
    monkeypatch.setattr(header_scan, "partial", lambda _, policy: functools.partial(count_or_die, policy))
    summary = scan_archive(tmp_path, SelectionPolicy())
    assert (summary.files, summary.taken) == (4, 3)
    assert summary.reasons == {"worker_crashed": 1}
