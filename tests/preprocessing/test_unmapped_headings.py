"""Labels that a hospital may want to add to its headings are counted; names, dates and known headings are not."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from linear_time import assert_linear_time

from preprocessing.heading_words import normalised
from preprocessing.headings import default_vocabulary
from preprocessing.sections import Section, split_sections
from preprocessing.unmapped_headings import unmapped_headings


def unmapped(text: str) -> list[str]:
    return unmapped_headings(text, split_sections(text))


@pytest.mark.parametrize(
    ("line", "label"),
    [
        ("CARDIAC SILHOUETTE: Normal.", "cardiac silhouette"),
        ("Cardiac Silhouette: Normal.", "cardiac silhouette"),
        ("**Quality Assurance:** none", "quality assurance"),
        ("LINES & TUBES: none", "lines and tubes"),
        ("Limits of the Study:\nRotated.", "limits of the study"),
        ("\nCAVEATS\nRotated.", "caveats"),
    ],
)
def test_labels_that_look_like_headings_are_listed(line: str, label: str) -> None:
    assert unmapped(f"FINDINGS: Clear.\n{line}\n") == [label]


@pytest.mark.parametrize(
    "line",
    [
        "DR SMITH: please advance.",
        "Dr. Jane Roe: agrees.",
        "Mrs Roe: informed.",
        "03/04/2015: film.",
        "MARCH 4 2015: film.",
        "At 13:20 the ward was called.",
        "IMPRESSION: Normal.",
        "IMPRESION: Normal.",
        "CHEST, 2 VIEWS: Clear.",
        "MRN: 0012345",
        "Electronically signed by: Jane Roe\nJANE ROE: MD",
        "Not seen on this study: effusion.",
        "the tube: advance it.",
        "A long sentence that goes on and on before it comes to its colon: x",
    ],
)
def test_names_dates_known_headings_and_signatures_are_not_listed(line: str) -> None:
    assert unmapped(f"FINDINGS: Clear.\n{line}\n") == []


def test_each_label_is_listed_once_in_the_order_of_the_report() -> None:
    assert unmapped("FINDINGS: Clear.\nQUELLE: x\nCAVEATS: y\nQuelle: z\n") == ["quelle", "caveats"]


@given(st.lists(st.sampled_from(["FINDINGS: ", "Quelle: ", "DR ROE: ", "\n", "\n\n", "CAVEATS", "a b. ", "é", ":"])))
def test_what_is_listed_stands_in_the_report_and_is_no_known_heading(parts: list[str]) -> None:
    text = "".join(parts)
    found = unmapped(text)
    assert len(set(found)) == len(found)
    assert all(label in normalised(text) for label in found)
    assert all(default_vocabulary().recognised(label.upper()) is None for label in found)


def test_real_reports_have_few(shared_data: Path) -> None:
    counts: Counter[str] = Counter()
    paths = sorted((shared_data / "openi" / "txt").glob("*.txt"))
    for path in paths:
        counts.update(unmapped(path.read_text(encoding="utf-8")))
    with (shared_data / "openi" / "reports.jsonl").open(encoding="utf-8") as lines:
        assert len(paths) == sum(1 for line in lines if json.loads(line))
    assert sum(counts.values()) < 0.05 * len(paths)


@pytest.mark.parametrize("unit", ["A: ", "A:\n", "\n\nAB\n", "Quelle: x\n", "A ", "a and b: \n", "# "])
def test_time_is_linear_in_hostile_text(unit: str) -> None:
    def made(length: int) -> tuple[str, list[Section]]:
        text = unit * (length // len(unit)) + "x"
        return text, split_sections(text)

    assert_linear_time(lambda argument: unmapped_headings(*argument), made)
