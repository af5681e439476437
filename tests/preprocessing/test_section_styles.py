"""Sections that are known are recovered from reports in the house styles of `made_reports`."""

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from made_reports import STYLES, MadeReport, Sections

from preprocessing.sections import section_text, split_sections

SAMPLE = 300  # reports of each style; all where the figure is near the bar, so that chance does not decide
LEAST = 0.995
# Without capitals, colons, full stops and line breaks, nothing but the words tells "comparison XXXX" at the end of an
# examination from the heading; nor does a capital where every section begins with one.
LEAST_WHERE_WORDS_ALONE_TELL = 0.99
WORDS_ALONE = {
    "one line, title headings, no colon, no full stops",
    "one line, lower case, no colon, no full stops",
    "one line, all-caps, no colon, no full stops",
}
MOST_FALSE = 0.002  # headings found that are none, per section

AROUND = {"preamble", "signature", "wet_read", "addendum", "unheaded"}
WRITTEN: list[Sections] = [
    {
        "examination": "Chest radiograph, two views",
        "indication": "Cough and fever for a week.",
        "comparison": "None available.",
        "findings": "The lungs are clear. No pleural effusion or pneumothorax is seen. Heart size is normal.",
        "impression": "No acute cardiopulmonary findings.",
    },
    {
        "examination": "Portable AP chest",
        "indication": "Intubated, evaluate the tube",
        "findings": "The tube ends 4.2 cm above the carina. Small effusions, unchanged compared with the prior exam.",
        "impression": "1. Tube in place. 2. Unchanged small effusions.",
    },
    {
        "examination": "PA and lateral views of the chest",
        "indication": "History of sarcoidosis",
        "comparison": "Chest radiograph of last year",
        "findings": "Bilateral hilar adenopathy, a typical finding of the disease. Clear lungs.",
        "impression": "Stable examination.",
    },
]


class Score(NamedTuple):
    """Sections recovered exactly, white space aside; sections in all; headings found that are none."""

    recovered: int
    total: int
    false: int


def squeezed(text: str) -> str:
    return "".join(text.split())


def clinical(name: str) -> str:
    """History and indication are one in the gold sections."""
    return "indication" if name == "history" else name


def score(made: MadeReport) -> Score:
    found: dict[str, str] = {}
    headings: Counter[str] = Counter()
    for section in split_sections(made.text):
        name, text = clinical(section.name), squeezed(section_text(made.text, section))
        found[name] = found.get(name, "") + text
        headings[name] += bool(text and section.heading and name not in AROUND)
    recovered = sum(found.get(name, "") == squeezed(body) for name, body in made.sections)
    false = headings - Counter(name for name, _ in made.sections)
    return Score(recovered, len(made.sections), sum(false.values()))


@pytest.fixture(scope="module")
def gold(shared_data: Path) -> list[Sections]:
    with (shared_data / "openi" / "reports.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line)["sections"] for line in lines]


def test_there_are_many_styles() -> None:
    assert len(STYLES) >= 60


@pytest.mark.parametrize("style", STYLES)
def test_every_section_of_written_reports_is_recovered(style: str) -> None:
    rng = random.Random(0)
    for sections in WRITTEN:
        made = STYLES[style](sections, rng)
        assert score(made) == (len(made.sections), len(made.sections), 0), made.text


@pytest.mark.parametrize("style", STYLES)
def test_the_gold_sections_of_open_i_are_recovered_in_every_style(gold: list[Sections], style: str) -> None:
    rng = random.Random(4)
    reports = gold if "no full stops" in style else rng.sample(gold, SAMPLE)
    scores = [score(STYLES[style](sections, rng)) for sections in reports]
    recovered, total, false = (sum(column) for column in zip(*scores, strict=True))
    assert total > 3 * SAMPLE
    assert recovered / total >= (LEAST_WHERE_WORDS_ALONE_TELL if style in WORDS_ALONE else LEAST)
    assert false / total <= MOST_FALSE


@pytest.mark.parametrize("case", [str, str.lower, str.upper])
def test_reports_without_any_heading_have_none(gold: list[Sections], case: Callable[[str], str]) -> None:
    texts = [case(" ".join(s[name] for name in ("findings", "impression") if s.get(name))) for s in gold]
    headed = [text for text in texts if text and [s.name for s in split_sections(text)] != ["unheaded"]]
    assert len(texts) > 1000
    assert len(headed) <= 5  # "Chest: ..." in reports of two body parts names the view


@pytest.mark.parametrize("case", [str, str.lower, str.upper])
def test_clinical_notes_without_headings_have_none(shared_data: Path, case: Callable[[str], str]) -> None:
    notes = [case(path.read_text(encoding="utf-8")) for path in sorted((shared_data / "text").glob("*.txt"))]
    headed = [note for note in notes if [s.name for s in split_sections(note)] != ["unheaded"]]
    assert len(notes) >= 60
    assert len(headed) <= 1
