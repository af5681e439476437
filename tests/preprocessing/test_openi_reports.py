"""Open-i's XML: sections and ids as the collection has them, held against an independent reading of all of it."""

import json
import time
from pathlib import Path

import pytest

from preprocessing.errors import UnusableFile
from preprocessing.openi_reports import read_openi
from preprocessing.report_records import FORMAT_REASONS
from preprocessing.sections import section_text, split_sections

FORM = b'<eCitation><uId id="CXR7"/><Abstract>%s</Abstract><parentImage id="CXR7_IM-1"/></eCitation>'
BOMB = b"""<?xml version="1.0"?><!DOCTYPE z [<!ENTITY a "lol">%s]><eCitation>&j;</eCitation>""" % b"".join(
    b'<!ENTITY %c "%s">' % (ord("a") + n, b"&%c;" % (ord("a") + n - 1) * 100) for n in range(1, 10)
)


def test_labels_become_headings_and_images_keys() -> None:
    record = read_openi(
        FORM % b'<AbstractText Label="FINDINGS">Clear &lt; 5 mm.</AbstractText><AbstractText Label="INDICATION"/>'
        b'<AbstractText Label="IMPRESSION">No\n  effusion.</AbstractText><AbstractText>Bare.</AbstractText>',
        "7.xml",
    )
    assert record.text == "FINDINGS: Clear < 5 mm.\n\nIMPRESSION: No effusion.\n\nBare."
    assert record.keys == ("CXR7", "CXR7_IM-1")


def test_a_document_type_that_declares_nothing_is_no_harm() -> None:
    form = FORM % b"<AbstractText Label='FINDINGS'>Clear.</AbstractText>"
    record = read_openi(b'<!DOCTYPE eCitation SYSTEM "http://example.org/nowhere.dtd">' + form, "7.xml")
    assert record.text == "FINDINGS: Clear."


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (FORM % b"", "empty_report"),
        (b"<eCitation><AbstractText>x</AbstractText></eCitation>", "no_key"),
        (b"<eCitation><uId", "malformed_xml"),
        (b'<?xml version="1.0" encoding="klingon"?><eCitation/>', "malformed_xml"),
        (b"<note>secret</note>", "other_xml"),
        (b'<DiagnosticReport xmlns="http://hl7.org/fhir"/>', "fhir_xml"),
        (BOMB, "xml_entities"),
        (b'<!DOCTYPE e [<!ENTITY x SYSTEM "file:///etc/passwd">]><eCitation>&x;</eCitation>', "xml_entities"),
        (b"<eCitation>" * 400_000, "malformed_xml"),
        (b"<eCitation>" * 200_000 + b"</eCitation>" * 200_000, "no_key"),
        (b"<a>" + b"x" * 5_000_000, "too_long"),
    ],
)
def test_what_is_no_report_is_rejected_in_time(content: bytes, reason: str) -> None:
    started = time.monotonic()
    with pytest.raises(UnusableFile) as raised:
        read_openi(content, "a.xml")
    assert raised.value.reason == reason
    assert reason in FORMAT_REASONS
    assert "secret" not in str(raised.value)
    assert time.monotonic() - started < 20


def test_the_whole_collection_gives_the_sections_that_it_has(shared_data: Path) -> None:
    """The oracle was made by another program; its examinations are captions of images, and no part of the report."""
    lines = (shared_data / "openi" / "reports.jsonl").read_text(encoding="utf-8").splitlines()
    known = {row["id"]: row for row in map(json.loads, lines)}
    files = sorted((shared_data / "openi" / "xml").glob("*.xml"))
    assert len(files) == len(known) == 1383
    empty = read = 0
    for file in files:
        row = known[file.stem]
        wanted = {name: text for name, text in row["raw_sections"].items() if name != "examination"}
        try:
            record = read_openi(file.read_bytes(), file.name)
        except UnusableFile as error:
            empty += error.reason == "empty_report" and not wanted
            continue
        read += 1
        assert record.keys == (row["id"], *row["images"])
        found = {}
        for part in record.text.split("\n\n"):
            label, _, text = part.partition(": ")
            found[label.lower()] = text
        assert found == {name: " ".join(text.split()) for name, text in wanted.items()}
    assert (empty, read) == (7, 1376)


def test_the_section_parser_finds_the_sections_of_the_collection_again(shared_data: Path) -> None:
    lines = (shared_data / "openi" / "reports.jsonl").read_text(encoding="utf-8").splitlines()
    known = {row["id"]: row for row in map(json.loads, lines)}
    wrong = []
    files = sorted((shared_data / "openi" / "xml").glob("*.xml"))[::10]
    for file in files:
        wanted = {n: " ".join(t.split()) for n, t in known[file.stem]["raw_sections"].items() if n != "examination"}
        text = read_openi(file.read_bytes(), file.name).text if wanted else ""
        found: dict[str, str] = {}
        for section in split_sections(text):
            body = " ".join(section_text(text, section).split())
            found[section.name] = f"{found[section.name]} {body}" if section.name in found else body
        wrong += [file.stem] if found != wanted else []
    assert len(wrong) <= 0.005 * len(files)
