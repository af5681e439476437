"""The command `label` shows a radiologist why a report got its labels."""

import json
from pathlib import Path

import pytest
from commands import Run, assert_refused

TEXT = (
    "INDICATION: Chest pain.\nFINDINGS: There is a small left pleural effusion. No pneumothorax.\n"
    "IMPRESSION: Possible pneumonia. Mild edema.\n"
)


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_sections_and_evidence_are_marked_in_plain_text(run: Run, report: Path) -> None:
    done = run("label", report)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "[findings] FINDINGS" in lines
    assert "  There is a small left [pleural effusion]." in lines
    assert "      + Pleural Effusion: 'pleural effusion'" in lines
    assert "      - Pneumothorax: 'pneumothorax' because of 'No'" in lines
    assert "      ? Pneumonia: 'pneumonia' because of 'Possible'" in lines
    assert lines[lines.index("labels") + 1 :] == [
        *("  + Edema", "  ? Pneumonia", "  - Pneumothorax", "  + Pleural Effusion", "  1 Edema Severity"),
    ]
    assert "\x1b" not in done.stdout


def test_json_has_every_label_and_where_it_stands(run: Run, report: Path) -> None:
    (line,) = run("label", report, "--json").stdout.splitlines()
    content = json.loads(line)
    assert content["labels"] | {"Pneumonia": -1, "Pneumothorax": 0, "Edema Severity": 1} == content["labels"]
    assert content["labels"]["Fracture"] is None
    assert "".join(TEXT[s["start"] : s["end"]] for s in content["sections"]) == TEXT
    for place in content["evidence"]:
        assert TEXT[place["start"] : place["end"]].lower() in ("pleural effusion", "pneumothorax", "pneumonia", "edema")


def test_every_report_of_a_file_is_shown(run: Run, tmp_path: Path) -> None:
    table = tmp_path / "reports.csv"
    table.write_text('study,text\n1,"FINDINGS: Nodule."\n2,\n3,"FINDINGS: Hernia, hiatal hernia."\n', encoding="utf-8")
    done = run("label", table)
    assert "+ Nodule" in done.stdout
    assert "+ Hernia" in done.stdout
    assert "row 3: empty_report" in done.stderr
    assert len(run("label", table, "--json").stdout.splitlines()) == 2


def test_a_hospitals_own_files_are_used(run: Run, report: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("version: ours\nobservations:\n  Pain: [chest pain]\nsections: [indication]\n", encoding="utf-8")
    content = json.loads(run("label", report, "--json", "--rules", rules).stdout)
    assert content["labels"]["Pain"] == 1
    assert "+ ours (" in content["rules"]


def test_what_cannot_be_labelled_is_one_sentence_without_its_words(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "pdf.txt").write_bytes(b"%PDF-1.7 secret words")
    assert_refused(run("label", tmp_path / "empty.txt"), "empty.txt")
    done = run("label", tmp_path / "pdf.txt")
    assert_refused(done, "pdf.txt", "PDF")
    assert "secret" not in done.stderr
    assert_refused(run("label", tmp_path), "folder")
    assert_refused(run("label", tmp_path / "nowhere.txt"), "nowhere.txt")
    assert_refused(run("label", tmp_path / "empty.txt", "--rules", tmp_path / "none.yaml"), "none.yaml")
