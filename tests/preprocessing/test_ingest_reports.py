"""Reports of every kind go the whole way into a store; what becomes of each file is said once."""

import json
from pathlib import Path

import polars as pl
import pytest
from made_archive import REPORT, SMALL, items, reasons, write_image, write_report
from made_sr import code, encoded, item, report, text_item

from preprocessing.ingest import ingest
from preprocessing.ingest_summary import IngestSummary

HL7 = "MSH|^~\\&|A|B|C|D|{time}||ORU^R01|1|P|2.3\rOBR|1||{key}{gap}{status}\rOBX|1|TX|1||{text}||||||{status}\r"


def hl7(key: str, text: str, status: str = "F", time: str = "202401021530") -> str:
    return HL7.format(key=key, text=text, status=status, time=time, gap="|" * 22)


def sr(number: int, text: str = "Clear lungs here.") -> bytes:
    findings = item("CONTAINER", code("121070", "Findings"), text_item(text))
    return encoded(report(findings, StudyInstanceUID=f"1.2.{number}", AccessionNumber=f"A{number}"))


def run(tmp_path: Path, **arguments: Path | None) -> IngestSummary:
    summary = ingest(tmp_path / "in", tmp_path / "out", configuration=SMALL, **arguments)  # type: ignore[arg-type]
    for counted in (summary.files, summary.reports):
        assert counted.seen == counted.accepted + counted.duplicates + counted.rejected
    return summary


def sentences(tmp_path: Path) -> list[list[str]]:
    return sorted(sorted(item["sentences"]) for item in items(tmp_path / "out"))


def test_reports_of_every_format_are_paired(tmp_path: Path) -> None:
    for number in range(1, 6):
        write_image(tmp_path / "in" / f"{number}.dcm", number)
    reports = tmp_path / "reports"
    write_report(reports / "A1.txt", "IMPRESSION: One is clear.")
    (reports / "2.dcm").write_bytes(sr(2, "Two is clear."))
    (reports / "3.hl7").write_text(hl7("A3", "IMPRESSION: Three is clear."), encoding="utf-8")
    fhir = {"resourceType": "DiagnosticReport", "status": "final", "conclusion": "Four is clear.",
            "imagingStudy": [{"reference": "urn:oid:1.2.4"}]}  # fmt: skip
    (reports / "4.json").write_text(json.dumps(fhir), encoding="utf-8")
    openi = '<eCitation><uId id="A5"/><AbstractText Label="FINDINGS">Five is clear.</AbstractText></eCitation>'
    (reports / "5.xml").write_text(openi, encoding="utf-8")
    summary = run(tmp_path, reports=reports)
    assert (summary.reports.seen, summary.reports.accepted) == (5, 5)
    assert sentences(tmp_path) == sorted([f"{name} is clear."] for name in ("One", "Two", "Three", "Four", "Five"))


@pytest.mark.parametrize("place", ["in", "in/deep", "."])
def test_reports_may_lie_among_the_images(tmp_path: Path, place: str) -> None:
    write_image(tmp_path / "in" / "deep" / "1.dcm", 1)
    write_image(tmp_path / "in" / "deep" / "2.dcm", 2)
    (tmp_path / "in" / "deep" / "sr.dcm").write_bytes(sr(1))
    write_report(tmp_path / "in" / "deep" / "A2.txt", REPORT)
    (tmp_path / "in" / "deep" / "torn_sr.dcm").write_bytes(sr(2)[:700])
    (tmp_path / "in" / "deep" / "letter.docx").write_bytes(b"x")
    summary = run(tmp_path, reports=tmp_path / place)
    assert (summary.files.seen, summary.files.accepted, summary.reports.seen, summary.reports.accepted) == (3, 2, 3, 2)
    assert list(reasons(tmp_path / "out", "image").values()) == ["not_dicom"]
    assert list(reasons(tmp_path / "out", "report").values()) == ["truncated"]
    again = run(tmp_path, reports=tmp_path / place)
    assert (again.converted, again.reports.accepted) == (0, 2)


def test_versions_of_one_report_in_a_feed(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "1.dcm", 1)
    feed = tmp_path / "feed.hl7"
    versions = [
        hl7("A1", "IMPRESSION: It is preliminary.", "P"),
        hl7("A1", "IMPRESSION: It is corrected.", "C", "202401031530"),
        hl7("A1", "IMPRESSION: It is final.", "F"),
    ]
    feed.write_text("".join(versions), encoding="utf-8")
    summary = run(tmp_path, reports=feed)
    assert sentences(tmp_path) == [["It is corrected."]]
    assert reasons(tmp_path / "out", "report") == {
        "feed.hl7 message 1": "superseded",
        "feed.hl7 message 3": "superseded",
    }
    assert summary.reports.accepted == 1


def test_a_table_pairs_what_names_no_study(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "1.dcm", 1)
    write_report(tmp_path / "reports" / "scan 17.txt", REPORT)
    pairs = tmp_path / "reports" / "pairs.csv"
    pairs.write_text("report,accession\nscan 17,A1\nscan 18,A2\n", encoding="utf-8")
    summary = run(tmp_path, reports=tmp_path / "reports", pairs=pairs)
    assert reasons(tmp_path / "out", "report") == {"pairing table row 3": "pair_without_report"}
    assert (summary.reports.seen, summary.reports.accepted) == (2, 1)
    studies = pl.read_parquet(tmp_path / "out" / "studies.parquet")
    assert studies["report_status"].to_list() == ["paired"]
