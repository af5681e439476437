"""DICOM results: valid, in the study of their image, to the last digit what the model said, one object each time."""

import io
import logging
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from highdicom.sr import srread
from pydicom import DataElement, Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from pipelines.dicom_results import Finding, Model, secondary_capture, structured_report
from pipelines.finding_codes import FINDING_CODES, finding_code
from preprocessing.errors import UnusableFile
from preprocessing.phantoms import DIFFICULTIES, make_study
from preprocessing.sr_reports import read_sr

LONG = "Any opacity in the left upper zone that was not there in the radiograph of the day before"
FINDINGS = [
    Finding("No Finding", 0.0, False, 0.25),
    Finding("Pleural Effusion", 0.12345678901234567, False, 1 / 3),
    Finding("Edema", float(np.float32(0.7)), True, 0.7),
    Finding("Edema Severity >= 1", 1.0, True, 1.0),
    Finding("Lung Opacity", 1e-9, None, None),
    Finding(LONG, 0.4999, None, None),
    Finding("Épanchement pleural \\ 胸水", 0.5, True, 0.5),
]
MODEL = Model("chest classifier", "1.2", "0123456789abcdef" * 4, "voi", calibrated=True)
PICTURE = np.random.default_rng(0).integers(0, 256, (33, 35, 3), dtype=np.uint8)  # an odd number of bytes
REAL = (
    "dicom_real/1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm",
    "dicom_real/chrKoreanMulti.dcm",
    "dicom_real/gdcm-CR-MONO1-10-chest.dcm",
    "dicom_real/RG3_RLE.dcm",
    "dicom_real/vlut_04.dcm",  # a secondary capture
    "dicom_derived/d01_mono2_12_win.dcm",
)


@pytest.fixture(scope="module")
def phantom() -> bytes:
    return make_study(3, 1, 64, DIFFICULTIES["easy"]).files[0][1]


@pytest.fixture
def source(phantom: bytes) -> Dataset:
    return pydicom.dcmread(io.BytesIO(phantom))


def both(source: Dataset) -> tuple[Dataset, Dataset]:
    return structured_report(source, FINDINGS, MODEL), secondary_capture(source, PICTURE, "Pleural Effusion", MODEL)


def content(dataset: Dataset) -> bytes:
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def reread(dataset: Dataset) -> Dataset:
    return pydicom.dcmread(io.BytesIO(content(dataset)))


def groups(report: Dataset) -> list[list[Dataset]]:
    """The items of each finding, by hand."""
    measurements = next(item for item in report.ContentSequence if named(item) == "Imaging Measurements")
    return [list(group.ContentSequence) for group in measurements.ContentSequence]


def named(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeMeaning)


# Valid

# Of these dciodvfy warns without a fault: a designator that begins with 99 is private by PS3.16 8, blank values are
# the source's, and so is a name without a caret.
HARMLESS = ("<99CXRLMI>", "needed to build DICOMDIR", "Retired Person Name form")


def complaints(path: Path) -> list[str]:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (apt-get install dicom3tools)")
    done = subprocess.run(["dciodvfy", path], capture_output=True, check=False)
    lines = (done.stdout + done.stderr).decode(errors="replace").splitlines()
    assert any(line in ("ComprehensiveSR", "SCImage") for line in lines)  # it knows what it looks at
    return [line for line in lines if line.startswith(("Error", "Warning")) and not any(h in line for h in HARMLESS)]


def shown_by_dcmtk(path: Path) -> str:
    if shutil.which("dsrdump") is None:
        pytest.skip("dsrdump is not installed (apt-get install dcmtk)")
    done = subprocess.run(["dsrdump", "+Pl", path], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def check_valid(source: Dataset, folder: Path) -> None:
    for kind, dataset in zip(("report", "capture"), both(source), strict=True):
        path = folder / f"{kind}.dcm"
        path.write_bytes(content(dataset))
        assert complaints(path) == []
    assert "NOT FOR CLINICAL USE" in shown_by_dcmtk(folder / "report.dcm").partition("Measurement Group")[0]


@pytest.mark.parametrize("index", range(3))
def test_validators_find_no_fault_in_results_of_phantoms(index: int, tmp_path: Path) -> None:
    for _, file in make_study(3, index, 64, DIFFICULTIES["hard"]).files:
        check_valid(pydicom.dcmread(io.BytesIO(file)), tmp_path)


@pytest.mark.parametrize("name", REAL)
def test_validators_find_no_fault_in_results_of_real_images(name: str, shared_data: Path, tmp_path: Path) -> None:
    source = pydicom.dcmread(shared_data / name)
    check_valid(source, tmp_path)
    for result in map(reread, both(source)):
        for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "AccessionNumber"):
            assert str(result.get(keyword) or "") == str(source.get(keyword) or "")


# What the model said


def test_every_number_decision_and_reference_is_read_back(source: Dataset) -> None:
    report = reread(structured_report(source, FINDINGS, MODEL))
    image = (source.SOPClassUID, source.SOPInstanceUID)
    for finding, items in zip(FINDINGS, groups(report), strict=True):
        by_name = {named(item): item for item in items}
        assert by_name["Tracking Identifier"].TextValue == finding.name
        code = by_name["Finding"].ConceptCodeSequence[0]
        shares = {
            name: by_name[name].MeasuredValueSequence[0]
            for name in ("Certainty of Finding", "Decision threshold")
            if name in by_name
        }
        expected = {"Certainty of Finding": finding.probability}
        if finding.threshold is not None:
            expected["Decision threshold"] = finding.threshold
        assert {n: v.FloatingPointValue / 100 for n, v in shares.items()} == pytest.approx(expected, rel=1e-15, abs=0)
        assert {n: str(v.NumericValue) for n, v in shares.items()} == {n: f"{100 * s:.2f}" for n, s in expected.items()}
        assert {v.MeasurementUnitsCodeSequence[0].CodeValue for v in shares.values()} == {"%"}
        decision = by_name.get(code.CodeMeaning)
        said = decision and decision.ConceptCodeSequence[0].CodeMeaning
        assert said == {None: None, True: "Present", False: "Absent"}[finding.is_present]
        reference = by_name["Source of Measurement"].ReferencedSOPSequence[0]
        assert (reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID) == image
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0]
    series = evidence.ReferencedSeriesSequence[0]
    assert (evidence.StudyInstanceUID, series.SeriesInstanceUID) == (source.StudyInstanceUID, source.SeriesInstanceUID)
    instance = series.ReferencedSOPSequence[0]
    assert (instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID) == image


def test_highdicom_reads_the_template(source: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "report.dcm"
    path.write_bytes(content(structured_report(source, FINDINGS, MODEL)))
    report = srread(path)
    found = report.content.get_image_measurement_groups()
    assert [group.tracking_identifier for group in found] == [finding.name for finding in FINDINGS]
    for group, finding in zip(found, FINDINGS, strict=True):
        (certainty,) = group.get_measurements(codes.DCM.CertaintyOfFinding)
        assert certainty.value == pytest.approx(100 * finding.probability, rel=1e-15, abs=0)
        assert group.source_images[0].referenced_sop_instance_uid == source.SOPInstanceUID
        values = [evaluation.value for evaluation in group.get_qualitative_evaluations()]
        expected = {None: [], True: [codes.SCT.Present], False: [codes.SCT.Absent]}[finding.is_present]
        assert values == expected


def test_the_report_names_algorithm_weights_and_preparation_once(source: Dataset) -> None:
    report = structured_report(source, FINDINGS, MODEL)
    said = [(named(item), item.TextValue) for item in report.ContentSequence if item.ValueType == "TEXT"]
    assert ("Algorithm Name", MODEL.name) in said
    assert ("Algorithm Version", MODEL.version) in said
    assert ("Algorithm Parameters", f"SHA-256 of the weights: {MODEL.sha256}") in said
    assert ("Algorithm Parameters", "Preparation of the pixels: voi") in said


@pytest.mark.parametrize(("calibrated", "words"), [(True, "are calibrated"), (False, "not calibrated")])
def test_nobody_takes_a_result_for_clinical_or_a_score_for_a_probability(
    calibrated: bool, words: str, source: Dataset
) -> None:
    model = Model("m", "1", "ab" * 32, "voi", calibrated)
    report = structured_report(source, FINDINGS, model)
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    (comment,) = [item.TextValue for item in report.ContentSequence if named(item) == "Comment"]
    assert "NOT FOR CLINICAL USE" in comment
    assert "not verified by a person" in comment
    assert words in comment
    capture = secondary_capture(source, PICTURE, "Edema", model)
    assert "DERIVED" in capture.ImageType
    for said in (report.SeriesDescription, capture.SeriesDescription):
        assert "NOT FOR CLINICAL USE" in said
        assert "unverified" in said
    for said in (capture.ImageComments, capture.DerivationDescription):
        assert "NOT FOR CLINICAL USE" in said
        assert "Edema" in said
    assert {report.ContentQualification, capture.ContentQualification} == {"RESEARCH"}


@pytest.mark.parametrize("share", [-0.01, 1.01, float("nan")])
def test_what_is_no_share_is_no_finding(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        Finding("Edema", share, None, None)
    with pytest.raises(ValueError, match="share"):
        Finding("Edema", 0.5, True, share)


# Codes


def verhoeff_holds(number: str) -> bool:
    """SNOMED CT's check digit (Release File Specification 6.3): the dihedral group of ten elements."""

    def product(a: int, b: int) -> int:
        turn = (a + b) % 5 if a < 5 else (a - b) % 5
        return turn + 5 * ((a >= 5) != (b >= 5))

    step = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]
    total = 0
    for place, digit in enumerate(map(int, reversed(number))):
        for _ in range(place % 8):
            digit = step[digit]
        total = product(total, digit)
    return total == 0


def test_codes_are_those_of_their_schemes() -> None:
    known = {code.value: code for code in FINDING_CODES.values()}
    assert all(verhoeff_holds(code.value) for code in known.values() if code.scheme_designator == "SCT")
    assert not verhoeff_holds("46621008")
    assert known["60046008"] == codes.SCT.PleuralEffusion
    assert finding_code(" pleural  EFFUSION").value == "60046008"


def test_other_labels_have_a_private_code_of_their_whole_name() -> None:
    names = ["No Finding", "Edema Severity >= 1", "Edema Severity >= 2", LONG + " a", LONG + " b", "胸水" * 40]
    made = [finding_code(name) for name in names]
    assert {code.scheme_designator for code in made} == {"99CXRLMI"}
    assert len({code.value for code in made}) == len(names)
    assert all(len(code.value) <= 16 and len(code.meaning.encode()) <= 64 for code in made)
    assert finding_code("edema  severity >= 1").value == made[1].value


# Which objects are one

PINNED = [
    (
        "2.25.160079567707038917566684382272568845684",
        "2.25.134149826392308818282141847655347955134",
        54103,
    ),
    (
        "2.25.99371274412204520496547018801188712039",
        "2.25.205013642818503522082936771992289187908",
        3701,
    ),
]
"""What has been sent to archives: other numbers would be other objects."""


def test_the_same_results_are_the_same_objects_on_every_machine(source: Dataset) -> None:
    source.StudyInstanceUID, source.SeriesInstanceUID, source.SOPInstanceUID = "1.2.3", "1.2.3.4", "1.2.3.4.5"
    uids = [(result.SeriesInstanceUID, result.SOPInstanceUID, result.InstanceNumber) for result in both(source)]
    assert uids == PINNED


def test_other_images_weights_and_findings_are_other_objects_in_the_series_of_study_and_weights(
    source: Dataset, phantom: bytes
) -> None:
    sibling, stranger = (pydicom.dcmread(io.BytesIO(phantom)) for _ in range(2))
    sibling.SOPInstanceUID, sibling.SeriesInstanceUID = "1.2.3.1", "1.2.3.2"
    stranger.StudyInstanceUID, stranger.SOPInstanceUID = "1.2.4", "1.2.4.1"
    other = Model("chest classifier", "1.2", "f" * 64, "voi", calibrated=True)
    made = [
        *both(source),
        secondary_capture(source, PICTURE, "Edema", MODEL),
        *both(sibling),
        *both(stranger),
        structured_report(source, FINDINGS, other),
        secondary_capture(source, PICTURE, "Edema", other),
    ]
    assert len({dataset.SOPInstanceUID for dataset in made}) == len(made)
    series = [dataset.SeriesInstanceUID for dataset in made]
    assert series[0] == series[3]
    assert series[1] == series[2] == series[4]
    assert len(set(series)) == 6
    assert {str(dataset.StudyInstanceUID) for dataset in made} == {str(source.StudyInstanceUID), "1.2.4"}
    again = structured_report(source, FINDINGS, Model("renamed", "2", MODEL.sha256.upper(), "voi", False))
    assert again.SOPInstanceUID == made[0].SOPInstanceUID
    elsewhere = secondary_capture(source, PICTURE[::-1], "Edema", MODEL)
    assert elsewhere.SOPInstanceUID not in {dataset.SOPInstanceUID for dataset in made}
    lowered = structured_report(source, [replace(FINDINGS[0], threshold=0.2), *FINDINGS[1:]], MODEL)
    assert lowered.SOPInstanceUID != made[0].SOPInstanceUID  # an archive would keep what it has


def test_what_a_model_said_is_no_report_to_learn_from(source: Dataset) -> None:
    content = io.BytesIO()
    structured_report(source, FINDINGS, MODEL).save_as(content, enforce_file_format=True)
    with pytest.raises(UnusableFile, match="cad_report"):
        read_sr(content.getvalue(), "sr")


# Captures


def test_a_capture_holds_the_very_pixels_and_names_its_source(source: Dataset) -> None:
    capture = reread(secondary_capture(source, PICTURE[:, ::-1], "胸水", MODEL))
    np.testing.assert_array_equal(capture.pixel_array, PICTURE[:, ::-1])
    assert (capture.SOPClassUID, capture.PhotometricInterpretation) == (SecondaryCaptureImageStorage, "RGB")
    assert "胸水" in capture.DerivationDescription
    (reference,) = capture.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == source.SOPClassUID
    assert reference.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"  # PS3.16 CID 7202
    assert not capture.PatientOrientation  # L\\F is what the frontal phantom has, and a picture may hold panels


@pytest.mark.parametrize(("said", "expected"), [("YES", "YES"), ("no", "NO"), ("", None), ("maybe", None)])
def test_a_capture_says_of_burned_in_text_what_its_source_says(
    said: str, expected: str | None, source: Dataset
) -> None:
    source.BurnedInAnnotation = said
    assert secondary_capture(source, PICTURE, "Edema", MODEL).get("BurnedInAnnotation") == expected


def test_a_capture_of_a_lossy_image_is_lossy(source: Dataset) -> None:
    assert "LossyImageCompression" not in secondary_capture(source, PICTURE, "Edema", MODEL)
    source.LossyImageCompression = "01"
    assert secondary_capture(source, PICTURE, "Edema", MODEL).LossyImageCompression == "01"


# Odd headers


def without(*keywords: str) -> Callable[[Dataset], None]:
    def change(source: Dataset) -> None:
        for keyword in keywords:
            if keyword in source:
                delattr(source, keyword)

    return change


def with_(**values: Any) -> Callable[[Dataset], None]:
    def change(source: Dataset) -> None:
        for keyword, value in values.items():
            setattr(source, keyword, value)

    return change


def with_a_name_of_bytes(source: Dataset) -> None:
    source[0x00100010] = DataElement(0x00100010, "OB", b"\xff\xfe")
    source.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    del source.PixelData


ODD: Mapping[str, tuple[Callable[[Dataset], None], dict[str, str]]] = {
    "hardly anything": (
        without(
            *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
            *("AccessionNumber", "ReferringPhysicianName", "InstanceNumber", "SpecificCharacterSet", "SeriesNumber"),
        ),
        {"PatientID": "", "PatientName": "", "StudyDate": "", "AccessionNumber": "", "PatientSex": ""},
    ),
    "dates of old": (
        with_(StudyDate="1997.04.24", StudyTime="12:30:05.5", PatientBirthDate="19500230", PatientSex="f"),
        {"StudyDate": "19970424", "StudyTime": "123005.5", "PatientBirthDate": "", "PatientSex": "F"},
    ),
    "no dates": (
        with_(StudyDate="yesterday", StudyTime="noon", PatientBirthDate="0000", PatientSex="female"),
        {"StudyDate": "", "StudyTime": "", "PatientBirthDate": "", "PatientSex": ""},
    ),
    "three scripts": (
        with_(PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう", SpecificCharacterSet=["", "ISO 2022 IR 87"]),
        {"PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう"},
    ),
    "a name of bytes": (with_a_name_of_bytes, {"PatientName": ""}),
    "a name of one part": (with_(PatientName="Anonymized"), {"PatientName": "Anonymized"}),
    "two names": (with_(PatientName="Doe^Jane\\Doe^John"), {"PatientName": "Doe^Jane Doe^John"}),
    "a character set that there is none of": (with_(SpecificCharacterSet="ISO-IR_nonsense"), {}),
    "a private class": (with_(SOPClassUID="1.3.46.670589.11.0.0.12.1"), {}),
    "an identity removed": (
        with_(PatientIdentityRemoved="YES"),
        {"PatientIdentityRemoved": "YES", "DeidentificationMethod": "as the source image"},
    ),
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_headers_give_valid_objects_in_silence(
    odd: str, source: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change, expected = ODD[odd]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is wrong with it on purpose
        change(source)
        odd_source = reread(source)
    caplog.clear()
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        results = both(odd_source)
        paths = [tmp_path / "report.dcm", tmp_path / "capture.dcm"]
        for path, result in zip(paths, results, strict=True):
            path.write_bytes(content(result))
    assert caplog.records == []
    for path in paths:
        assert complaints(path) == []
        result = pydicom.dcmread(path)
        assert {keyword: str(result[keyword].value or "") for keyword in expected} == expected


def test_identifiers_are_never_cut_short_nor_told_to_a_log(source: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source.PatientID, source.AccessionNumber = "9" * 70, "A\\B"
    caplog.clear()
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        for result in both(source):
            assert result.PatientID == "9" * 70
            assert "\\".join(result.AccessionNumber) == "A\\B"
    assert caplog.records == []


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SOPInstanceUID", "SOPClassUID"])
@pytest.mark.parametrize("value", [None, "", "Doe^Jane", "1.2\\1.3", "1" * 65])
def test_an_image_without_identity_is_unusable(keyword: str, value: str | None, source: Dataset) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        setattr(source, keyword, value)
    for make in (
        lambda: structured_report(source, FINDINGS, MODEL),
        lambda: secondary_capture(source, PICTURE, "Edema", MODEL),
    ):
        with pytest.raises(UnusableFile) as raised:
            make()
        assert raised.value.reason == "missing_uid"
        assert keyword in raised.value.detail
        assert not value or value not in str(raised.value)


def test_only_the_report_needs_the_series_of_its_image(source: Dataset) -> None:
    del source.SeriesInstanceUID
    with pytest.raises(UnusableFile, match="SeriesInstanceUID"):
        structured_report(source, FINDINGS, MODEL)
    secondary_capture(source, PICTURE, "Edema", MODEL)


# Nothing more than the study had

TAKEN = frozenset(
    {"PatientName", "PatientID", "IssuerOfPatientID", "StudyID", "AccessionNumber", "ReferringPhysicianName"}
    | {"StudyDescription"}
)


def texts(dataset: Dataset) -> Iterator[tuple[str, str]]:
    for element in dataset.iterall():
        if element.VR not in ("SQ", "OB", "OW", "UI"):
            yield element.keyword, str(element.value)


def test_nothing_else_of_the_header_comes_along(source: Dataset) -> None:
    for keyword, planted in (("InstitutionName", "LEAK1"), ("OperatorsName", "LEAK2"), ("OtherPatientIDs", "LEAK3")):
        setattr(source, keyword, planted)
    for keyword in ("PatientComments", "PatientAddress", "MilitaryRank", "ProtocolName", "StationName"):
        setattr(source, keyword, f"LEAK-{keyword}")
    source.RequestAttributesSequence = [Dataset()]
    source.RequestAttributesSequence[0].RequestedProcedureDescription = "LEAK4"
    own = {value for keyword, value in texts(source) if keyword in TAKEN}
    strange = {value for keyword, value in texts(source) if len(value) > 4} - own
    for result in both(source):
        assert b"LEAK" not in content(result)
        values = dict(texts(result))
        assert {values[keyword] for keyword in TAKEN} == own
        shared = set(values.values()) & strange
        assert shared <= {source.StudyDate, source.StudyTime, source.PatientBirthDate, "CHEST"}
        assert all(element.tag.group % 2 == 0 for element in result.iterall())
