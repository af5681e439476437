"""Reports come from folders and tables in any encoding; what is no report is rejected with a reason."""

import os
from pathlib import Path

import polars as pl
import pytest

from preprocessing.errors import InputError
from preprocessing.report_sources import RejectedReport, ReportRecord, read_reports


def test_a_folder_gives_one_record_a_file_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.2.3.txt").write_text("Clear.", encoding="utf-8")
    (tmp_path / "c.txt").write_text("Normal.", encoding="utf-8")
    (tmp_path / "ACC7.TXT").write_text("Edema.", encoding="utf-8")
    (tmp_path / "notes.md").write_text("not a report", encoding="utf-8")
    assert list(read_reports(tmp_path)) == [
        ReportRecord("ACC7", "Edema.", "ACC7.TXT"),
        ReportRecord("1.2.3", "Clear.", "b/1.2.3.txt"),
        ReportRecord("c", "Normal.", "c.txt"),
        RejectedReport("notes.md", "not_a_text_file", "its name does not end with .txt"),
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
        "linked": "not_a_text_file",
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
    assert list(read_reports(tmp_path)) == [ReportRecord("a", text, "a.txt", flags)]


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
    assert first == ReportRecord("1.2", "Clear.\nNormal.", f"reports.{suffix} row 2")
    assert second == ReportRecord("A2", "Edema, mild.", f"reports.{suffix} row 3")
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
