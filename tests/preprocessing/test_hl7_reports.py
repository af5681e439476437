"""HL7 v2: results of every version, escapes, delimiters and character sets; one bad message loses no other."""

import logging
from datetime import UTC, datetime
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

import preprocessing.hl7_messages
from preprocessing.hl7_messages import messages_in
from preprocessing.hl7_reports import read_message
from preprocessing.report_records import FORMAT_REASONS, STATUSES, RejectedReport, ReportRecord

HEADER = "MSH|^~\\&|RIS|HOSP|STORE|AI|202401021530||ORU^R01^ORU_R01|17|P|2.5.1"


def segment(name: str, **fields: str) -> str:
    """A segment of numbered fields: `segment("OBR", f3="F1")`."""
    numbers = {int(key[1:]): value for key, value in fields.items()}
    return "|".join([name, *(numbers.get(n, "") for n in range(1, max(numbers) + 1))])


ORDER = segment("OBR", f1="1", f2="P1", f3="F1^RIS", f4="71046^CHEST 2 VIEWS^CPT", f22="202401021500", f25="F")


def message(*segments: str, header: str = HEADER) -> bytes:
    return "\r".join([header, "PID|1||77^^^H||ZWIEBEL^O", *segments, ""]).encode()


def obx(text: str, identifier: str = "71046^CHEST 2 VIEWS^CPT", kind: str = "TX", status: str = "F") -> str:
    return f"OBX|1|{kind}|{identifier}||{text}||||||{status}"


def only(content: bytes) -> ReportRecord:
    (report,) = read_message(content, "a.hl7")
    assert isinstance(report, ReportRecord), report
    assert report.status in STATUSES
    return report


def reason(content: bytes) -> str:
    (report,) = read_message(content, "a.hl7")
    assert isinstance(report, RejectedReport), report
    assert report.reason in FORMAT_REASONS
    return report.reason


def test_lines_repetitions_and_segments_are_lines_of_the_report() -> None:
    record = only(message(ORDER, obx("FINDINGS:"), obx("Clear.~Normal heart."), obx(""), obx("IMPRESSION: Normal.")))
    assert record.text == "FINDINGS:\nClear.\nNormal heart.\n\nIMPRESSION: Normal."
    assert (record.keys, record.status) == (("F1",), "final")
    assert record.issued == datetime(2024, 1, 2, 15, 0)


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (r"a\.br\b", "a\nb"),
        (r"a\F\b\S\c\T\d\R\e\E\f", r"a|b^c&d~e\f"),
        (r"a\X0D0A\b\X0D\\X0A\c", "a\nb\nc"),
        (r"Gr\XC3B6\\XC39F\e", "Größe"),
        (r"a\.sp2\b\.ce\c\.sk3\d", "a\n\nb\nc   d"),
        (r"a\.sp999999999\b", "a\nb"),
        (r"a\.sp500\b", "a" + "\n" * 20 + "b"),
        (r"\H\bold\N\ \.in+4\in\.ti-2\ti\.fi\fi", "bold intifi"),
        (r"\Zvendor\a\C2842\b\M244242\c", r"\Zvendor\abc"),
        (r"C:\Images\x and 5\6", r"C:\Images\x and 5\6"),
        ("heart & lungs ^ ribs", "heart & lungs ^ ribs"),
        ("cut\\", "cut\\"),
    ],
)
def test_escape_sequences_are_resolved(written: str, text: str) -> None:
    assert only(message(ORDER, obx(written))).text == text


@pytest.mark.parametrize("separator", ["\r", "\n", "\r\n"])
def test_segments_end_in_any_line_break_and_broken_lines_are_joined(separator: str) -> None:
    content = message(ORDER, obx("First line.\nSecond line.\n\nThird."), "ZDS|1.2.3^^Application^DICOM")
    record = only(b"\x0b" + content.replace(b"\n", b"\r").replace(b"\r", separator.encode()) + b"\x1c\r")
    assert record.text == "First line.\nSecond line.\n\nThird."
    assert record.keys == ("1.2.3", "F1")


@pytest.mark.parametrize(
    ("identifier", "heading"),
    [
        ("71046&IMP^CHEST^CPT", "Impression"),
        ("71046&GDT^CHEST^CPT", "Findings"),
        ("IMP^^L", "Impression"),
        ("19005-8^Radiology imaging study (impression)^LN", "Impression"),
        ("59776-5^Procedure findings^LN", "Findings"),
        ("18782-3^Radiology Study observation^LN", "Findings"),
        ("X1^IMPRESSION^L", "IMPRESSION"),
    ],
)
def test_identifiers_are_headings_of_text_that_has_none(identifier: str, heading: str) -> None:
    assert only(message(ORDER, obx("Clear.", identifier))).text == f"{heading}:\nClear."
    own = "FINDINGS: Clear. IMPRESSION: Normal."
    assert only(message(ORDER, obx(own, identifier))).text == own


def test_names_of_whole_reports_are_no_headings() -> None:
    for identifier in ("18748-4^Diagnostic imaging study^LN", "RPT^REPORT^L", "71046^CHEST^CPT"):
        assert only(message(ORDER, obx("Clear.", identifier))).text == "Clear."


def test_neighbours_of_one_section_are_under_one_heading() -> None:
    lines = [obx("Clear.", "1&GDT"), obx("Normal heart.", "1&GDT"), obx("No disease.", "1&IMP")]
    assert only(message(ORDER, *lines)).text == "Findings:\nClear.\nNormal heart.\n\nImpression:\nNo disease."


def test_coded_values_give_their_text() -> None:
    lines = [obx("R91^Nodule^I10", kind="CE"), obx("X~^^^^^^^^as dictated", kind="CWE"), obx("12", kind="NM")]
    assert only(message(ORDER, *lines)).text == "Nodule\nX\nas dictated"


def test_delimiters_are_the_message_s_own() -> None:
    content = message(ORDER, obx("heart ~ lungs\\.br\\x \\F\\", "1&IMP")).decode()
    table = str.maketrans({"|": "#", "^": "*", "~": "!", "\\": "/", "&": "%"})
    assert only(content.translate(table).encode()).text == "Impression:\nheart \n lungs\nx #"


@pytest.mark.parametrize(
    ("name", "encoding"),
    [("UNICODE UTF-8", "utf-8"), ("8859/1", "latin-1"), ("8859/15", "iso8859-15"), ("", "utf-8"), ("", "cp1252")],
)
def test_the_character_set_is_the_one_that_is_named_or_found(name: str, encoding: str) -> None:
    content = message(ORDER, obx("Größe normal"), header=f"{HEADER}||||||{name}").decode().encode(encoding)
    record = only(content)
    assert record.text == "Größe normal"
    assert record.flags == (("decoded_as_cp1252",) if encoding == "cp1252" else ())


def test_a_wrong_character_set_is_found_out() -> None:
    content = message(ORDER, obx("Größe"), header=f"{HEADER}||||||UNICODE UTF-8").decode().encode("cp1252")
    assert only(content).text == "Größe"


def test_every_order_is_a_report_with_keys_of_its_own() -> None:
    second = segment("OBR", f2="P2", f3="F2", f18="A2", f20="A3")
    first, other = read_message(
        message(
            "ORC|RE||O1", ORDER, obx("Clear."), "ORC|RE||O2", second, obx("Edema."), obx("1.2.9", "110180^^DCM", "UI")
        ),
        "a",
    )
    assert isinstance(first, ReportRecord)
    assert isinstance(other, ReportRecord)
    assert (first.origin, first.keys, first.text) == ("a order 1", ("F1", "O1"), "Clear.")
    assert (other.origin, other.keys, other.text) == ("a order 2", ("1.2.9", "A2", "A3", "F2", "O2"), "Edema.")
    assert other.issued == datetime(2024, 1, 2, 15, 30)  # of the message, as the order does not say


@pytest.mark.parametrize(
    ("of_order", "of_results", "status"),
    [
        ("F", "FF", "final"),
        ("C", "CC", "corrected"),
        ("P", "PP", "preliminary"),
        ("R", "RR", "preliminary"),
        ("A", "FP", "partial"),
        ("F", "FC", "corrected"),
        ("", "FF", "final"),
        ("", "FP", "preliminary"),
        ("", "", ""),
        ("", "AF", "amended"),
    ],
)
def test_status_is_the_order_s_or_that_of_its_results(of_order: str, of_results: str, status: str) -> None:
    lines = [obx(f"Line {n}.", status=letter) for n, letter in enumerate(of_results)] or [obx("Line.", status="")]
    assert only(message(ORDER.removesuffix("F") + of_order, *lines)).status == status


def test_deleted_results_are_no_text_and_withdrawn_reports_no_reports() -> None:
    assert only(message(ORDER, obx("Wrong.", status="D"), obx("Right."))).text == "Right."
    assert reason(message(ORDER, obx("Wrong.", status="W"))) == "entered_in_error"
    assert reason(message(ORDER.removesuffix("F") + "X", obx("Wrong."))) == "cancelled"


def test_an_addendum_alone_is_known_as_one() -> None:
    assert only(message(ORDER, obx("Late finding.", "1&ADT"))).status == "addendum"
    assert only(message(ORDER, obx("Clear.", "1&GDT"), obx("Late finding.", "1&ADT"))).status == "final"


def test_documents_are_read_with_their_order_numbers() -> None:
    header = HEADER.replace("ORU^R01^ORU_R01", "MDM^T02")
    document = segment("TXA", f2="RAD", f6="202401021400", f14="P7", f15="F7^RIS", f17="LA")
    record = only(message(document, obx("Clear."), header=header))
    assert (record.keys, record.status, record.issued) == (("F7", "P7"), "final", datetime(2024, 1, 2, 14, 0))
    addendum = HEADER.replace("ORU^R01^ORU_R01", "MDM^T06")
    assert only(message(document, obx("More."), header=addendum)).status == "addendum"
    assert reason(message("TXA|1", header=HEADER.replace("ORU^R01^ORU_R01", "MDM^T11"))) == "cancelled"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (message("PV1|1", header=HEADER.replace("ORU^R01^ORU_R01", "ADT^A01")), "other_message"),
        (message(ORDER), "no_report"),
        (message(ORDER, "OBX|1|ED|PDF^^L||RIS^AP^PDF^Base64^JVBERi0xLjQ="), "no_plain_text"),
        (message("OBR|1", obx("Clear.")), "no_key"),
        (message(ORDER, obx("---")), "empty_report"),
        (message(ORDER, obx("<html><body>Clear.</body></html>")), "not_text"),
        (message(ORDER, obx(r"{\E\rtf1 Clear.}")), "not_text"),
        (message(ORDER, obx("^" * 2_000_000)), "malformed_hl7"),
        (b"MSH|^~\\&|RIS", "malformed_hl7"),
        (b"MSH||||||||||||", "other_message"),
        (b"MSH", "malformed_hl7"),
        (b"MSH|^~\\&|a|b|c|d|e||", "other_message"),
        (b"MSH|^^^^|a|b|c|d|e|||||||", "malformed_hl7"),
    ],
)
def test_other_and_damaged_messages_are_rejected_with_their_reason(
    content: bytes, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        assert reason(content) == expected
    assert caplog.records == []


def test_zones_of_time_stamps_are_minded() -> None:
    order = ORDER.replace("202401021500", "20240102150000.123+0200")
    assert only(message(order, obx("Clear."))).issued == datetime(2024, 1, 2, 13, 0, tzinfo=UTC)


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_a_batch_is_cut_into_its_messages_wherever_blocks_end(block: int) -> None:
    parts = [message(ORDER, obx(f"Report {n}.")) for n in range(3)]
    content = b"FHS|^~\\&|\rBHS|^~\\&|\r" + b"".join(parts) + b"BTS|3\rFTS|1\r"

    class Slow(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(block)

    found = list(messages_in(Slow(content)))
    assert found == [*parts[:2], parts[2] + b"BTS|3\rFTS|1\r"]
    assert [only(one).text for one in found] == ["Report 0.", "Report 1.", "Report 2."]


def test_a_message_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing.hl7_messages, "LONGEST_MESSAGE", 3_000_000)
    content = message(ORDER, obx("a" * 10_000_000)) + message(ORDER, obx("Clear."))
    first, second = messages_in(BytesIO(content))
    assert len(first) == 3_000_001
    assert reason(first) == "too_long"
    assert only(second).text == "Clear."


@given(st.text(max_size=200), st.sampled_from(["TX", "FT", "ST", "CE", ""]))
def test_no_text_makes_reading_fail_or_loses_words(text: str, kind: str) -> None:
    escaped = text.replace("\\", r"\E\ ".strip())
    for mark, name in {"|": "F", "^": "S", "&": "T", "~": "R"}.items():
        escaped = escaped.replace(mark, f"\\{name}\\")
    content = message(ORDER, obx(escaped.replace("\r", r"\.br\ ".strip()).replace("\n", r"\.br\ ".strip()), kind=kind))
    (report,) = read_message(content, "a")
    if isinstance(report, ReportRecord):
        words = "".join(text.replace("\x0b", "").replace("\x1c", "").replace("\ufeff", "").split())
        assert "".join(report.text.split()) == words
    else:
        assert report.reason in {"empty_report", "not_text", "no_report"}


@given(st.binary(max_size=300))
def test_any_bytes_behind_a_header_give_a_report_or_a_reason(content: bytes) -> None:
    for report in read_message(HEADER.encode() + b"\r" + content, "a"):
        assert isinstance(report, ReportRecord) or report.reason in FORMAT_REASONS
    assert read_message(b"MSH" + content, "a")


@pytest.mark.parametrize("word", ["CHF", "PTX", "T12"])
def test_a_line_of_three_capitals_is_text_and_loses_nothing(word: str) -> None:
    assert only(message(ORDER, obx(f"IMPRESSION:\r{word}\rEffusion."))).text == f"IMPRESSION:\n{word}\nEffusion."


def test_a_bare_name_of_a_segment_of_results_is_a_segment() -> None:
    assert only(message(ORDER, obx("Clear."), "NTE", "ZDS")).text == "Clear."
