"""Reports come from folders and tables in any encoding; what is no report is rejected with a reason."""

import base64
import gzip
import json
import os
import random
import tracemalloc
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from linear_time import assert_linear_time
from made_archive import write_image
from made_sr import encoded, report, text_item

from preprocessing.errors import InputError, UnusableFile
from preprocessing.report_records import FORMAT_REASONS
from preprocessing.report_sources import RejectedReport, ReportRecord, apart_from_reports, overlap, read_reports
from preprocessing.sources import find_images
from preprocessing.text_files import checked_text, decode_report, decoded


def test_a_folder_gives_one_record_a_file_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.2.3.txt").write_text("Clear.", encoding="utf-8")
    (tmp_path / "c.txt").write_text("Normal.", encoding="utf-8")
    (tmp_path / "ACC7.TXT").write_text("Edema.", encoding="utf-8")
    (tmp_path / "notes.md").write_text("not a report", encoding="utf-8")
    assert list(read_reports(tmp_path)) == [
        ReportRecord(("ACC7",), "Edema.", "ACC7.TXT"),
        ReportRecord(("1.2.3",), "Clear.", "b/1.2.3.txt"),
        ReportRecord(("c",), "Normal.", "c.txt"),
        RejectedReport("notes.md", "not_a_text_file", FORMAT_REASONS["not_a_text_file"]),
    ]


def test_what_lies_in_the_folder_is_read_within_bounds_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "good.txt").write_text("Clear.", encoding="utf-8")
    os.mkfifo(tmp_path / "pipe.txt")
    with (tmp_path / "huge.txt").open("wb") as file:
        file.truncate(10**13)  # sparse, and more than any memory
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    (tmp_path / "dangling.txt").symlink_to("nowhere")
    (tmp_path / "closed").mkdir()
    (tmp_path / "linked").symlink_to("closed")
    (tmp_path / "image.dcm").touch()
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = list(read_reports(tmp_path, images=[tmp_path / "image.dcm"]))
    assert {r.origin: r.reason if isinstance(r, RejectedReport) else r.text for r in found} == {
        "good.txt": "Clear.",
        "pipe.txt": "not_a_file",
        "huge.txt": "too_long",
        "loop.txt": "unreadable",
        "dangling.txt": "missing_file",
        "closed": "unreadable",
        "linked": "not_a_file",
    }


def test_a_name_that_is_not_utf_8_becomes_text(tmp_path: Path) -> None:
    Path(os.fsdecode(bytes(tmp_path) + b"/f\xfcr.txt")).write_text("Clear.", encoding="utf-8")
    (record,) = read_reports(tmp_path)
    assert record.origin == r"f\xfcr.txt"


@pytest.mark.parametrize(
    ("content", "text", "flags"),
    [
        ("Größe 38 °C".encode(), "Größe 38 °C", ()),
        ("Größe".encode("utf-8-sig"), "Größe", ()),
        ("Größe".encode("utf-16"), "Größe", ()),
        ("Größe “q”".encode("cp1252"), "Größe “q”", ("decoded_as_cp1252",)),
        ("Gr\x81\xf6\xdfe".encode("latin-1"), "Gr\x81\xf6\xdfe", ("decoded_as_latin1",)),
        ("38\ufffd C".encode(), "38\ufffd C", ("replacement_characters",)),
    ],
)
def test_encodings_are_found_out(tmp_path: Path, content: bytes, text: str, flags: tuple[str, ...]) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    assert list(read_reports(tmp_path)) == [ReportRecord(("a",), text, "a.txt", flags)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty_report"),
        (b" \n --- \n", "empty_report"),
        (b"%PDF-1.7 ...", "not_text"),
        (b"{\\rtf1 Clear}", "not_text"),
        (b"\n<HTML><body>Clear", "not_text"),
        (b"Clear\x00lungs", "not_text"),
        (b"\xff\xfeA", "not_text"),
        (b"a" * 5_000_001, "too_long"),
    ],
)
def test_what_is_no_report_is_rejected(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "secret.txt").write_bytes(content)
    (rejected,) = read_reports(tmp_path)
    assert isinstance(rejected, RejectedReport)
    assert (rejected.reason, rejected.origin) == (reason, "secret.txt")
    assert "secret" not in rejected.detail
    assert "lungs" not in rejected.detail


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_gives_one_record_a_row(tmp_path: Path, suffix: str) -> None:
    table = pl.DataFrame(
        {
            "StudyInstanceUID": ["1.2", None, None, "1.4"],
            "accession": ["A1", "A2", " ", "A4"],
            "report": ["Clear.\nNormal.", "Edema, mild.", "Orphan.", ""],
        }
    )
    path = tmp_path / f"reports.{suffix}"
    table.write_csv(path) if suffix == "csv" else table.write_parquet(path)
    first, second, third, fourth = read_reports(path)
    assert first == ReportRecord(("1.2", "A1"), "Clear.\nNormal.", f"reports.{suffix} row 2")
    assert second == ReportRecord(("A2",), "Edema, mild.", f"reports.{suffix} row 3")
    assert isinstance(third, RejectedReport)
    assert third.reason == "no_key"
    assert isinstance(fourth, RejectedReport)
    assert fourth.reason == "empty_report"


def test_a_windows_table_is_read(tmp_path: Path) -> None:
    path = tmp_path / "reports.csv"
    path.write_bytes("study,text\n1.2,Größe normal\n".encode("cp1252"))
    (record,) = read_reports(path)
    assert isinstance(record, ReportRecord)
    assert record.text == "Größe normal"


def test_a_wrong_source_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "no_key.csv").write_text("name,text\na,b\n", encoding="utf-8")
    (tmp_path / "report.docx").write_bytes(b"x")
    for name in ("missing", "empty", "no_key.csv", "report.docx", "x" * 300):
        with pytest.raises(InputError, match=name):
            read_reports(tmp_path / name)


def test_the_real_clinical_notes_are_all_read(shared_data: Path) -> None:
    records = list(read_reports(shared_data / "text"))
    assert len(records) >= 60
    assert all(isinstance(record, ReportRecord) for record in records)


HL7 = "MSH|^~\\&|A|B|C|D|202401021530||ORU^R01|1|P|2.3\rOBR|1||F1\rOBX|1|TX|1||{}||||||F\r"
FHIR = {"resourceType": "DiagnosticReport", "status": "final", "identifier": [{"value": "R1"}], "conclusion": "Clear."}
OPENI = '<eCitation><uId id="CXR1"/><AbstractText Label="FINDINGS">Clear.</AbstractText></eCitation>'


def outcomes(found: Iterable[ReportRecord | RejectedReport]) -> dict[str, str]:
    """Text or reason by origin; each origin once."""
    pairs = [(r.origin, r.reason if isinstance(r, RejectedReport) else r.text) for r in found]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def test_a_folder_may_hold_any_mix_of_formats_whatever_their_names(tmp_path: Path) -> None:
    (tmp_path / "sr").write_bytes(encoded(report(text_item("Clear."))))
    (tmp_path / "one.txt").write_text(HL7.format("Clear."), encoding="utf-8")
    (tmp_path / "feed").write_bytes(b"\x0b" + (HL7.format("One.") + "\x1c\r\x0b" + HL7.format("Two.")).encode())
    (tmp_path / "wide.hl7").write_bytes(HL7.format("Größe.").encode("utf-16"))
    (tmp_path / "r.json").write_text(json.dumps(FHIR, indent=1), encoding="utf-8")
    (tmp_path / "r.ndjson").write_text("\n\n".join([json.dumps(FHIR), "{broken", '{"resourceType": "Patient"}']))
    (tmp_path / "bundle").write_text(json.dumps({"resourceType": "Bundle", "entry": [{"resource": FHIR}]}))
    (tmp_path / "1.xml").write_text(OPENI, encoding="utf-8")
    (tmp_path / "plain.txt").write_text("Clear.", encoding="utf-8")
    (tmp_path / "letter.docx").write_bytes(b"PK\x03\x04")
    impression = "Impression:\nClear."
    assert outcomes(read_reports(tmp_path)) == {
        "sr": "Clear.",
        "one.txt": "Clear.",
        "feed message 1": "One.",
        "feed message 2": "Two.",
        "wide.hl7": "Größe.",
        "r.json": impression,
        "r.ndjson line 1": impression,
        "r.ndjson line 3": "malformed_json",
        "r.ndjson line 5": "other_resource",
        "bundle entry 1": impression,
        "1.xml": "FINDINGS: Clear.",
        "plain.txt": "Clear.",
        "letter.docx": "not_a_text_file",
    }
    for name in ("sr", "one.txt", "feed", "r.ndjson", "1.xml", "plain.txt"):
        alone = outcomes(read_reports(tmp_path / name))
        assert alone.items() <= outcomes(read_reports(tmp_path)).items()


def test_a_bad_first_line_loses_no_other(tmp_path: Path) -> None:
    lines = ['\ufeff{"resourceType": "DiagnosticReport", "sta', json.dumps(FHIR)]
    (tmp_path / "r.ndjson").write_text("\n".join(lines), encoding="utf-8")
    assert outcomes(read_reports(tmp_path)) == {
        "r.ndjson line 1": "malformed_json",
        "r.ndjson line 2": "Impression:\nClear.",
    }


def test_one_bad_message_loses_no_other(tmp_path: Path) -> None:
    bad = HL7.format("x").replace("ORU", "ADT")
    (tmp_path / "feed.hl7").write_text("FHS|^~\\&|\r" + HL7.format("One.") + bad + "MSH|^^^|\r" + HL7.format("Two."))
    assert outcomes(read_reports(tmp_path)) == {
        "feed.hl7 message 1": "One.",
        "feed.hl7 message 2": "other_message",
        "feed.hl7 message 3": "malformed_hl7",
        "feed.hl7 message 4": "Two.",
    }


ENTITIES = '<!DOCTYPE e [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
SECRET = "ZWIEBELKRAUT"
SR = encoded(report(text_item(f"Clear {SECRET}.")))
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty.txt": (b"", "empty_report"),
    "nul.txt": (f"Clear\0{SECRET}".encode(), "not_text"),
    "half_utf16.txt": (b"\xff\xfeA", "not_text"),
    "pdf.txt": (f"%PDF-1.7 {SECRET}".encode(), "not_text"),
    "late_pdf.txt": (f"\r\n{SECRET}\r\n%PDF-1.7 ...".encode(), "not_text"),
    "ps.txt": (b"%!PS-Adobe-3.0", "not_text"),
    "doc.txt": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "not_text"),
    "docx.txt": (b"PK\x03\x04word/document.xml", "not_text"),
    "html.txt": (f"<!DOCTYPE html><p>{SECRET}".encode(), "not_text"),
    "pasted_html.txt": (f"Clear.\n<table class=x><tr><td>{SECRET}</td></tr></table>".encode(), "not_text"),
    "rtf.txt": (f"{{\\rtf1 {SECRET}}}".encode(), "not_text"),
    "pasted_rtf.txt": (f"FINDINGS: {{\\rtf1\\ansi {SECRET}}}".encode(), "not_text"),
    "headless_rtf.txt": (rf"\pard\plain\fs20 {SECRET}\par".encode(), "not_text"),
    "base64.txt": (base64.b64encode(bytes(range(256)) * 20), "not_text"),
    "binary.txt": (bytes(range(1, 256)) * 20, "not_text"),
    "picture.txt": (b"\x89PNG\r\n\x1a\n", "not_text"),
    "long.txt": (b"Clear. " * 800_000, "too_long"),
    "gz.txt": (gzip.compress(SECRET.encode()), "compressed"),
    "reports.gz": (gzip.compress(SECRET.encode()), "compressed"),
    "torn.hl7": (f"MSH|^~\\&|{SECRET}".encode(), "malformed_hl7"),
    "no_msh.hl7": (b"FHS|^~\\&|\rBHS|^~\\&|\rBTS|0\rFTS|1\r", "no_report"),
    "deep.hl7": (HL7.format("^&" * 600_000).encode(), "malformed_hl7"),
    "torn.json": (f'{{"resourceType": "DiagnosticReport", "id": "{SECRET}'.encode(), "malformed_json"),
    "nan.json": (b'{"resourceType": "DiagnosticReport", "x": NaN}', "malformed_json"),
    "twice.json": (b'{"resourceType": "DiagnosticReport", "id": "1", "id": "2"}', "malformed_json"),
    "deep.json": (b'{"resourceType": ' + b"[" * 2_000_000, "malformed_json"),
    "other.json": (f'{{"name": "{SECRET}"}}'.encode(), "other_json"),
    "lol.xml": (f'<?xml version="1.0"?>{ENTITIES}<eCitation>&b;</eCitation>'.encode(), "xml_entities"),
    "file.xml": (b'<!DOCTYPE e [<!ENTITY x SYSTEM "file:///etc/passwd">]><eCitation>&x;</eCitation>', "xml_entities"),
    "torn.xml": (f"<eCitation>{SECRET}".encode(), "malformed_xml"),
    "deep.xml": (b"<eCitation>" + b"<a>" * 1_000_000, "malformed_xml"),
    "other.xml": (f"<note>{SECRET}</note>".encode(), "other_xml"),
    "fhir.xml": (b'<DiagnosticReport xmlns="http://hl7.org/fhir"/>', "fhir_xml"),
    "torn.dcm": (SR[: SR.index(SECRET.encode())], "truncated"),
    "magic.dcm": (b"\0" * 128 + b"DICM", "other_dicom"),
    "huge.dcm": (b"\0" * 128 + b"DICM" + b"\0" * 64_000_001, "too_long"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_rejection_and_harms_no_other(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    content, reason = HOSTILE[name]
    (tmp_path / name).write_bytes(content)
    (tmp_path / "~good.txt").write_text("Clear.", encoding="utf-8")
    rejected, good = read_reports(tmp_path)
    assert isinstance(good, ReportRecord)
    assert isinstance(rejected, RejectedReport)
    assert (rejected.origin, rejected.reason) == (name, reason)
    assert reason in FORMAT_REASONS
    assert SECRET not in rejected.detail
    assert name not in rejected.detail
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("content", "text", "flags"),
    [
        ("Größe".encode("utf-16-le"), "Größe", ("decoded_as_utf16",)),
        ("Größe".encode("utf-16-be"), "Größe", ("decoded_as_utf16",)),
        (
            "Größe\r\n".encode() + "Höhe “q”".encode("cp1252"),
            "Größe\r\nHöhe “q”",
            ("mixed_encodings", "decoded_as_cp1252"),
        ),
        (b"Clear.<BR>Normal, p < 5.", "Clear.<BR>Normal, p < 5.", ("html_tags",)),
        (b"FINDINGS: A < b > c, <5 mm, 3<x.", "FINDINGS: A < b > c, <5 mm, 3<x.", ()),
    ],
)
def test_what_can_be_read_is_read(tmp_path: Path, content: bytes, text: str, flags: tuple[str, ...]) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    assert list(read_reports(tmp_path)) == [ReportRecord(("a",), text, "a.txt", flags)]


@given(st.text(min_size=1, max_size=80), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_text_of_any_language_survives_its_encoding(text: str, encoding: str) -> None:
    assume(not text.startswith("\ufeff"))
    assert decoded(text.encode(encoding)) == (text, ())


@given(st.binary(max_size=200))
def test_any_bytes_are_a_report_or_a_reason(content: bytes) -> None:
    try:
        outcome = bool(decode_report(content)[0].encode("utf-8"))
    except UnusableFile as error:
        outcome = error.reason in FORMAT_REASONS
    assert outcome


@pytest.mark.parametrize(
    "unit", [b"<", b"<p ", b"\\par", b"{\\rtf", b"A" * 59 + b" ", b"a1B" * 30, b"\xff\n", b"%PDF", b"\x01 a"]
)
def test_hostile_text_is_read_in_time_that_grows_with_its_length(unit: bytes) -> None:
    def read(content: bytes) -> None:
        with suppress(UnusableFile):
            decode_report(content)

    assert_linear_time(read, lambda length: b"x\n" + unit * (length // len(unit)), length=1_000_000)


def test_rows_of_a_table_do_not_depend_on_each_other(tmp_path: Path) -> None:
    path = tmp_path / "reports.csv"
    rows = ["study,text", "1.1,Clear.", "1.2", "1.3,<html></html>", '1.4,"One,\nTwo."', ",Orphan.", "1.5,Größe"]
    path.write_bytes("\n".join(rows[:-1]).encode() + b"\n" + rows[-1].encode("cp1252"))
    assert list(outcomes(read_reports(path)).values()) == [
        "Clear.",
        "malformed_row",
        "not_text",
        "One,\nTwo.",
        "no_key",
        "Größe",
    ]


def test_a_compressed_or_damaged_table_is_read_or_one_clear_error(tmp_path: Path) -> None:
    content = gzip.compress(b"study,text\n1.1,Clear.\n" * 500)
    (tmp_path / "good.csv.gz").write_bytes(content)
    (tmp_path / "torn.csv.gz").write_bytes(content[:-20])
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    assert len(list(read_reports(tmp_path / "good.csv.gz"))) == 999
    for name in ("torn.csv.gz", "torn.parquet"):
        with pytest.raises(InputError, match=name):
            list(read_reports(tmp_path / name))


def test_memory_does_not_grow_with_the_number_of_reports(tmp_path: Path) -> None:
    text = "FINDINGS: " + "The lungs are clear. " * 500
    (tmp_path / "feed.hl7").write_text(HL7.format(text) * 600, encoding="utf-8")
    (tmp_path / "feed.ndjson").write_text((json.dumps(FHIR | {"conclusion": text}) + "\n") * 600, encoding="utf-8")
    (tmp_path / "reports.csv").write_text("study,text\n" + f'1.1,"{text}"\n' * 600, encoding="utf-8")
    for name in ("feed.hl7", "feed.ndjson", "reports.csv"):
        next(read_reports(tmp_path / name))  # what is imported and kept for good
        tracemalloc.start()
        count = sum(isinstance(one, ReportRecord) for one in read_reports(tmp_path / name))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert count == 600
        assert peak < 5_000_000 < (tmp_path / name).stat().st_size


def test_among_images_files_are_taken_that_are_reports_and_no_others(tmp_path: Path) -> None:
    images = tmp_path / "in"
    write_image(images / "chest.dcm", 1)
    (images / "sr.dcm").write_bytes(SR)
    (images / "torn.dcm").write_bytes(SR[:600])
    (images / "letter.docx").write_bytes(b"PK\x03\x04")
    (images / "1.2.txt").write_text("Clear.", encoding="utf-8")
    (images / "data.json").write_text("{}", encoding="utf-8")
    (tmp_path / "beside.docx").write_bytes(b"PK\x03\x04")
    inside = {"sr.dcm": f"Clear {SECRET}.", "torn.dcm": "truncated", "1.2.txt": "Clear."}
    assert outcomes(read_reports(images, among=images)) == inside
    around = outcomes(read_reports(tmp_path, among=images))
    assert around == {f"in/{name}": outcome for name, outcome in inside.items()} | {"beside.docx": "not_a_text_file"}
    found = list(find_images(images, []))
    left = {image.origin for image in apart_from_reports(found, images)}
    assert left == {"chest.dcm", "letter.docx", "data.json"}
    assert left | inside.keys() == {image.origin for image in found}
    assert {image.origin for image in apart_from_reports(found, tmp_path / "elsewhere")} == left | inside.keys()


def test_folders_overlap_when_one_holds_the_other(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "ab").mkdir()
    (tmp_path / "link").symlink_to("a")
    assert overlap(tmp_path / "a", tmp_path / "a" / "b")
    assert overlap(tmp_path / "a" / "b", tmp_path / "a")
    assert overlap(tmp_path / "link", tmp_path / "a")
    assert not overlap(tmp_path / "a", tmp_path / "ab")
    assert not overlap(tmp_path / "a", tmp_path / "none")
    assert not overlap(tmp_path / "a", None)


@pytest.mark.parametrize(
    "body",
    [
        'A1,"Lungs clear\nA2,Effusion\n',
        'A1,"Lungs clear\nA2,Effusion\nA3,"Normal"\n',
        'A1,"Lungs" clear\nA2,Effusion\n',
    ],
)
def test_a_quotation_mark_out_of_place_merges_no_reports(tmp_path: Path, body: str) -> None:
    path = tmp_path / "reports.csv"
    path.write_text("study,text\nA0,Clear.\n" + body, encoding="utf-8")
    with pytest.raises(InputError, match=r"reports\.csv: .* line 3") as raised:
        list(read_reports(path))
    assert "ungs" not in str(raised.value)
    assert "Effusion" not in str(raised.value)


def test_a_row_with_more_cells_than_the_header_is_rejected_and_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "reports.csv"
    path.write_text('study,text\nA1,Lungs clear, no effusion\nA2,"Clear, dry."\n', encoding="utf-8")
    assert list(outcomes(read_reports(path)).values()) == ["malformed_row", "Clear, dry."]


def test_a_line_of_a_table_is_never_taken_for_utf_16(tmp_path: Path) -> None:
    path = tmp_path / "reports.csv"
    path.write_bytes(b"study,text\n\xff\xfeA1,Clear.\n" + "A3,Größe".encode())
    assert list(read_reports(path)) == [
        ReportRecord(("ÿþA1",), "Clear.", "reports.csv row 2"),
        ReportRecord(("A3",), "Größe", "reports.csv row 3"),
    ]


@pytest.mark.parametrize("values", [[b"ZWIEBEL\xff\xfe"], [["ZWIEBEL"]], [{"text": "ZWIEBEL"}]])
def test_columns_of_parquet_that_hold_no_text_are_one_clear_error(tmp_path: Path, values: list[object]) -> None:
    path = tmp_path / "reports.parquet"
    pl.DataFrame({"study": ["1.1"], "text": values}).write_parquet(path)
    with pytest.raises(InputError, match=r"reports\.parquet: column 2 ") as raised:
        list(read_reports(path))
    assert "ZWIEBEL" not in str(raised.value)


def test_damaged_pages_of_parquet_are_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "reports.parquet"
    texts = [f"ZWIEBEL {number} {'clear ' * (number % 7)}" for number in range(2000)]
    pl.DataFrame({"study": [str(n) for n in range(2000)], "text": texts}).write_parquet(path)
    content = bytearray(path.read_bytes())
    content[40:4000] = b"\xa5" * 3960
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"reports\.parquet") as raised:
        list(read_reports(path))
    assert "ZWIEBEL" not in str(raised.value)


@pytest.mark.parametrize(
    "start", ['<?xml version="1.0"?>\n<note>', "\ufeff\n<ClinicalDocument xmlns='urn:hl7-org:v3'>"]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_document_in_xml_is_no_text(tmp_path: Path, start: str, encoding: str) -> None:
    (tmp_path / "1.txt").write_text(start + "Clear.</note>", encoding=encoding)
    assert outcomes(read_reports(tmp_path)) == {"1.txt": "not_text"}


def test_what_no_rule_foresaw_costs_one_line_or_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No content is known to do this, so the failure is put in."""

    def failing(text: str) -> tuple[str, tuple[str, ...]]:
        if "ZWIEBEL" in text:
            raise ZeroDivisionError(text)
        return checked_text(text)

    monkeypatch.setattr("preprocessing.fhir_reports.checked_text", failing)
    monkeypatch.setattr("preprocessing.hl7_reports.checked_text", failing)
    lines = [json.dumps(FHIR | {"conclusion": text}) for text in ("One.", "ZWIEBEL", "Two.")]
    (tmp_path / "b.ndjson").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "c.hl7").write_text("".join(HL7.format(text) for text in ("One.", "ZWIEBEL", "Two.")))
    found = list(read_reports(tmp_path))
    assert [one.text if isinstance(one, ReportRecord) else one.reason for one in found] == [
        *("Impression:\nOne.", "unexpected_error", "Impression:\nTwo."),
        *("One.", "unexpected_error", "Two."),
    ]
    assert "ZWIEBEL" not in str(found)


def test_damage_anywhere_in_a_parquet_file_is_read_over_or_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "reports.parquet"
    texts = [f"ZWIEBEL {number} {'clear ' * (number % 7)}" for number in range(300)]
    pl.DataFrame({"study": [str(n) for n in range(300)], "text": texts}).write_parquet(path)
    content, chance = path.read_bytes(), random.Random(1)
    refusals = []
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(chance.choice([1, 3, 10])):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            list(read_reports(path))
        except InputError as error:
            refusals.append(str(error))
    assert len(refusals) > 200
    assert "ZWIEBEL" not in str(refusals)
