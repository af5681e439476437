"""DICOM SR becomes text with the names of its sections as headings; other objects are rejected by kind."""

from datetime import UTC, datetime
from typing import Any

import pytest
from made_sr import BASIC_TEXT, COMPREHENSIVE, ENHANCED, code, encoded, item, number_item, report, text_item
from pydicom import Dataset
from pydicom.data import get_testdata_file
from pydicom.sequence import Sequence

from preprocessing.errors import UnusableFile
from preprocessing.report_records import FORMAT_REASONS, ReportRecord
from preprocessing.sections import section_text, split_sections
from preprocessing.sr_reports import read_sr

FINDINGS, FINDING = code("121070", "Findings"), code("121071", "Finding")
IMPRESSIONS, IMPRESSION = code("121072", "Impressions"), code("121073", "Impression")


def read(dataset: Dataset) -> ReportRecord:
    return read_sr(encoded(dataset), "a.dcm")


def reason(content: bytes) -> str:
    with pytest.raises(UnusableFile) as raised:
        read_sr(content, "a.dcm")
    assert raised.value.reason in FORMAT_REASONS
    return raised.value.reason


def sections(text: str) -> list[tuple[str, str]]:
    return [(section.name, section_text(text, section)) for section in split_sections(text)]


@pytest.mark.parametrize("sop_class", [BASIC_TEXT, ENHANCED, COMPREHENSIVE])
def test_a_report_of_template_2000_has_its_containers_as_sections(sop_class: str) -> None:
    record = read(
        report(
            item("CODE", code("121049", "Language"), relationship="HAS CONCEPT MOD"),
            item("PNAME", code("121008", "Person Observer Name"), relationship="HAS OBS CONTEXT", PersonName="Zz^Qq"),
            text_item("Hospital Zz", code("121009", "Organization"), relationship="HAS OBS CONTEXT"),
            item("CONTAINER", code("121060", "History"), text_item("Cough.", code("121060", "History"))),
            item("CONTAINER", FINDINGS, text_item("Clear lungs.", FINDING), text_item("Normal heart.", FINDING)),
            item("CONTAINER", IMPRESSIONS, text_item("No acute disease.", IMPRESSION)),
            sop_class=sop_class,
        )
    )
    assert record.text == (
        "History:\nCough.\n\nFindings:\nClear lungs.\nNormal heart.\n\nImpressions:\nNo acute disease."
    )
    assert sections(record.text) == [
        ("history", "Cough."),
        ("findings", "Clear lungs.\nNormal heart."),
        ("impression", "No acute disease."),
    ]
    assert (record.keys, record.status, record.issued) == (("1.2.1", "A1"), "final", datetime(2024, 1, 2, 10, 15))


def test_codes_name_sections_in_any_language() -> None:
    record = read(
        report(
            item("CONTAINER", code("121070", "Befunde"), text_item("Größe normal.", code("121071", "Befund"))),
            item("CONTAINER", code("19005-8", "Beurteilung", "LN"), text_item("Kein Erguss.")),
        )
    )
    assert record.text == "Findings:\nGröße normal.\n\nImpression:\nKein Erguss."


def test_text_items_below_the_title_are_headed_by_their_own_names() -> None:
    record = read(report(text_item("Clear.", FINDINGS), text_item("Normal.", IMPRESSION)))
    assert sections(record.text) == [("findings", "Clear."), ("impression", "Normal.")]


def test_coded_and_measured_items_are_lines_and_children_follow_their_parents() -> None:
    record = read(
        report(
            item(
                "CONTAINER",
                FINDINGS,
                item(
                    "CODE", code("X", "Morphology", "99Z"), ConceptCodeSequence=Sequence([code("M", "Nodule", "SCT")])
                ),
                number_item(code("D", "Diameter", "99Z"), "12", "mm"),
                number_item(code("R", "Ratio", "99Z"), "0.6", "1"),
                text_item("Right lung.", FINDING, text_item("Upper lobe.", FINDING, relationship="HAS PROPERTIES")),
            ),
            sop_class=COMPREHENSIVE,
        )
    )
    assert record.text == "Findings:\nMorphology: Nodule\nDiameter: 12 mm\nRatio: 0.6\nRight lung.\nUpper lobe."


def test_continuous_content_is_running_text() -> None:
    running = item(
        "CONTAINER",
        FINDINGS,
        text_item("A mass of", FINDING),
        number_item(code("D", "Diameter", "99Z"), "3", "cm"),
        text_item("is seen.", FINDING),
        ContinuityOfContent="CONTINUOUS",
    )
    assert read(report(running)).text == "Findings:\nA mass of 3 cm is seen."


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({}, "final"),
        ({"VerificationFlag": "UNVERIFIED"}, "preliminary"),
        ({"PreliminaryFlag": "PRELIMINARY"}, "preliminary"),
        ({"CompletionFlag": "PARTIAL"}, "partial"),
        ({"PredecessorDocumentsSequence": Sequence([Dataset()])}, "amended"),
        ({"VerificationFlag": ""}, ""),
    ],
)
def test_flags_of_the_document_are_its_status(values: dict[str, Any], status: str) -> None:
    assert read(report(text_item("Clear.", FINDING), **values)).status == status


def test_the_time_of_verification_counts_and_zones_are_minded() -> None:
    observer = Dataset()
    observer.VerificationDateTime = "20240102120000"
    made = report(text_item("Clear."), VerifyingObserverSequence=Sequence([observer]), TimezoneOffsetFromUTC="+0200")
    assert read(made).issued == datetime(2024, 1, 2, 10, tzinfo=UTC)


def test_blank_keys_are_looked_for_in_requests_and_evidence() -> None:
    request, evidence = Dataset(), Dataset()
    request.AccessionNumber, request.StudyInstanceUID = "A9", ""
    evidence.StudyInstanceUID = "1.2.9"
    sequences = {
        "ReferencedRequestSequence": Sequence([request]),
        "CurrentRequestedProcedureEvidenceSequence": Sequence([evidence]),
    }
    assert read(report(text_item("Clear."), **sequences)).keys == ("1.2.1", "A1")
    blank = report(text_item("Clear."), StudyInstanceUID="", AccessionNumber="", **sequences)
    assert read(blank).keys == ("1.2.9", "A9")
    assert reason(encoded(report(text_item("Clear."), StudyInstanceUID="", AccessionNumber=""))) == "no_key"


@pytest.mark.parametrize(
    ("name", "values"), [("ISO_IR 100", "latin-1"), ("ISO_IR 192", "utf-8"), ("GB18030", "gb18030")]
)
def test_character_sets_are_minded(name: str, values: str) -> None:
    content = encoded(report(text_item("Größe", FINDING), SpecificCharacterSet=name))
    assert "Größe".encode(values) in content
    assert read_sr(content, "a").text == "Finding:\nGröße"


@pytest.mark.parametrize(
    ("sop_class", "expected"),
    [
        ("1.2.840.10008.5.1.4.1.1.88.59", "key_object_selection"),
        ("1.2.840.10008.5.1.4.1.1.88.67", "dose_report"),
        ("1.2.840.10008.5.1.4.1.1.88.65", "cad_report"),
        ("1.2.840.10008.5.1.4.1.1.88.40", "other_sr"),
        ("1.2.840.10008.5.1.4.1.1.104.1", "encapsulated_document"),
        ("1.2.840.10008.5.1.4.1.1.481.5", "other_dicom"),
    ],
)
def test_objects_of_other_kinds_are_told_apart(sop_class: str, expected: str) -> None:
    assert reason(encoded(report(text_item("Clear."), sop_class=sop_class))) == expected


def observer(kind: str, meaning: str) -> Dataset:
    concept = code("121005", "Observer Type")
    return item("CODE", concept, relationship="HAS OBS CONTEXT", ConceptCodeSequence=Sequence([code(kind, meaning)]))


def test_what_a_device_says_is_a_report_only_where_a_person_says_it_too() -> None:
    device, person = observer("121007", "Device"), observer("121006", "Person")
    assert reason(encoded(report(device, text_item("Clear.")))) == "cad_report"
    assert "Clear." in read_sr(encoded(report(device, person, text_item("Clear."))), "sr").text
    assert "Clear." in read_sr(encoded(report(person, text_item("Clear."))), "sr").text


def test_reports_without_words_are_rejected() -> None:
    number = number_item(code("D", "Diameter", "99Z"), "12", "mm")
    assert reason(encoded(report(item("CONTAINER", FINDINGS, number)))) == "measurements_only"
    assert reason(encoded(report(item("CONTAINER", FINDINGS)))) == "empty_report"
    dose = report(text_item("x"), ConceptNameCodeSequence=Sequence([code("113701", "X-Ray Radiation Dose Report")]))
    assert reason(encoded(dose)) == "dose_report"
    pixels = report(text_item("Clear."), PixelData=b"\0\0", BitsAllocated=8)
    pixels["PixelData"].VR = "OW"
    assert reason(encoded(pixels)) == "sr_with_pixels"
    image = get_testdata_file("CT_small.dcm", read=False)
    with open(str(image), "rb") as file:  # noqa: PTH123
        assert reason(file.read()) == "dicom_image"


def test_a_file_cut_anywhere_is_rejected_or_read_and_never_raises_anything_else() -> None:
    content = encoded(report(item("CONTAINER", FINDINGS, text_item("Clear lungs.", FINDING))))
    whole = read_sr(content, "a").text
    for length in range(0, len(content), 3):
        try:
            outcome = read_sr(content[:length], "a").text in whole
        except UnusableFile as error:
            outcome = error.reason in FORMAT_REASONS
        assert outcome


def test_nesting_without_bound_does_no_harm() -> None:
    nested = text_item("Innermost.", FINDING)
    for _ in range(150):  # what can be written; deeper ones are made of bytes
        nested = item("CONTAINER", FINDINGS, nested)
    assert read(report(nested)).text == "Findings:\nInnermost."
    plain = encoded(report(text_item("Clear.")))
    opening = b"\x40\x00\x30\xa7SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    deep = plain[: plain.index(b"\x40\x00\x30\xa7")] + opening * 200_000
    assert reason(deep) in {"corrupt_header", "truncated"}


def test_real_reports_of_other_software_are_read() -> None:
    with open(str(get_testdata_file("test-SR.dcm", read=False)), "rb") as file:  # noqa: PTH123
        record = read_sr(file.read(), "test-SR.dcm")
    lines = record.text.splitlines()
    assert lines[0] == "Diagnosis:"
    assert any(line.startswith("A mass of 3") and line.endswith("was detected.") for line in lines)
    assert "Sample Text\nA\nB\nC" in record.text
    assert "Sample Text 2" not in record.text  # a concept modifier
    assert record.status == "amended"  # it names the documents before it
    with open(str(get_testdata_file("reportsi.dcm", read=False)), "rb") as file:  # noqa: PTH123
        record = read_sr(file.read(), "reportsi.dcm")
    assert record.status == "partial"
    assert record.text.splitlines() == ["Section Heading:", "", "Report Text:", "Enter text"]
