"""Reports are cut at their headings, and nothing of them is lost."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.errors import InputError
from preprocessing.heading_words import edit_distance
from preprocessing.headings import HeadingVocabulary, default_vocabulary, read_vocabulary
from preprocessing.sections import POLICIES, report_text, section_text, split_sections

HEADINGS = [
    "FINDINGS:",
    "Impression",
    "impression:",
    "WET READ:",
    "CHEST, 2 VIEWS:",
    "NDICATION:",
    "**",
    "____",
    "-----",
]
PROSE = ["1. ", "The lungs are clear.", "XXXX", "___", " - ", ":", "é"]
BLANKS = ["\n", "\r\n", "\n\n", " ", "  ", "\t", "\v", "\u00a0", "\ufeff"]
FRAGMENTS = st.sampled_from([*HEADINGS, *PROSE, *BLANKS])


def parsed(text: str) -> list[tuple[str, str]]:
    return [(section.name, section_text(text, section)) for section in split_sections(text)]


@given(st.one_of(st.text(), st.lists(FRAGMENTS).map("".join)))
def test_sections_tile_any_text(text: str) -> None:
    sections = split_sections(text)
    assert "".join(text[s.start : s.end] for s in sections) == text
    assert all(s.start <= s.text_start <= s.end for s in sections)
    assert all(s.start < s.end for s in sections)
    assert all(s.heading in text[s.start : s.text_start] for s in sections)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FINDINGS: Clear.\nIMPRESSION: Normal.", [("findings", "Clear."), ("impression", "Normal.")]),
        ("Findings:Clear.\r\nImpression:Normal.", [("findings", "Clear."), ("impression", "Normal.")]),
        ("findings: clear.\nimpression: normal.", [("findings", "clear."), ("impression", "normal.")]),
        ("\ufeff  FINDINGS\u00a0: Clear.", [("findings", "Clear.")]),
        ("FINDINGS\nClear.\n\nIMPRESSION\nNormal.", [("findings", "Clear."), ("impression", "Normal.")]),
        ("Findings - Clear.\nImpression — Normal.", [("findings", "Clear."), ("impression", "Normal.")]),
        ("FINDINGS Clear lungs.\nIMPRESSION 1. Normal.", [("findings", "Clear lungs."), ("impression", "1. Normal.")]),
        ("Findings\n--------\nClear.\nImpression\n==========\nNo.", [("findings", "Clear."), ("impression", "No.")]),
        ("**Findings:** Clear.\n\n**Impression:** Normal.", [("findings", "Clear."), ("impression", "Normal.")]),
        ("## Findings\nClear.\n## Impression\nNo.", [("findings", "Clear."), ("impression", "No.")]),
        ("CHEST, 2 VIEWS: Clear.", [("findings", "Clear.")]),
        ("PATIENT'S HISTORY: Cough.", [("history", "Cough.")]),
        ("FINDINGS & IMPRESSION: Clear.", [("findings_and_impression", "Clear.")]),
        ("EXAM: CHEST INDICATION: COUGH", [("examination", "CHEST"), ("indication", "COUGH")]),
        ("findings: clear. impression: normal.", [("findings", "clear."), ("impression", "normal.")]),
        ("INDICATION:\nFINDINGS: Clear.", [("indication", ""), ("findings", "Clear.")]),
        ("NDICATION: Cough.", [("indication", "Cough.")]),
        ("IMPERSSION: Normal.", [("impression", "Normal.")]),
        ("REASON FOR PORTABLE STUDY: Cough.", [("indication", "Cough.")]),
        ("PROVISIONAL FINDINGS IMPRESSION (PFI): Clear.", [("impression", "Clear.")]),
        ("FINDINGS: Seen.\nDR SMITH: agrees.", [("findings", "Seen.\nDR SMITH: agrees.")]),
        ("FINDINGS: The following findings: effusion.", [("findings", "The following findings: effusion.")]),
        ("FINDINGS: No mass\nimpression on it.", [("findings", "No mass\nimpression on it.")]),
        ("EXAM:\nCHEST, 2 VIEWS: PA\nFINDINGS: No.", [("examination", "CHEST, 2 VIEWS: PA"), ("findings", "No.")]),
        ("FINDINGS: A.\nFINDINGS: B.", [("findings", "A."), ("findings", "B.")]),
        ("IMPRESSION: A.\nFINDINGS: B.", [("impression", "A."), ("findings", "B.")]),
        ("Cough for a week.\nIMPRESSION: A.", [("preamble", "Cough for a week."), ("impression", "A.")]),
        ("Cough for a week. Clear lungs.", [("unheaded", "Cough for a week. Clear lungs.")]),
        ("IMPRESSION: A.\nElectronically signed by Dr Y", [("impression", "A."), ("signature", "Dr Y")]),
        ("IMPRESSION: A.\nReported by Dr. X for Dr. Y", [("impression", "A."), ("signature", "Dr. X for Dr. Y")]),
        ("FINDINGS: As\nreported by the ward.", [("findings", "As\nreported by the ward.")]),
        ("IMPRESSION: at 13:20 seen: clear", [("impression", "at 13:20 seen: clear")]),
        ("", []),
        (" \n", [("unheaded", "")]),
    ],
)  # fmt: skip
def test_headings_as_hospitals_write_them(text: str, expected: list[tuple[str, str]]) -> None:
    assert parsed(text) == expected


def test_a_wet_read_on_top_is_apart_from_the_final_report() -> None:
    text = "WET READ: 8:27 AM\n Effusion.\n______________\n                 FINAL REPORT\n FINDINGS: Clear.\n"
    assert parsed(text) == [("wet_read", "8:27 AM\n Effusion."), ("preamble", ""), ("findings", "Clear.")]
    (span,) = report_text(text)
    assert text[slice(*span)] == "Clear."


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("findings+impression", ["F.", "I."]),
        ("findings", ["F."]),
        ("impression", ["I."]),
        ("impression-else-findings-else-body", ["I."]),
    ],
)
def test_policies_choose_sections(policy: str, expected: list[str]) -> None:
    text = "INDICATION: x.\nFINDINGS: F.\nIMPRESSION: I.\n"
    assert [text[start:end] for start, end in report_text(text, policy)] == expected


def test_the_body_of_an_unheaded_note_is_used_only_when_the_policy_says_so() -> None:
    text = "Fever. Normal appearances."
    assert report_text(text, "findings+impression") == []
    assert report_text(text, "impression-else-findings-else-body") == [(0, len(text))]


def test_a_section_with_nothing_but_marks_is_not_used() -> None:
    assert report_text("FINDINGS: ___\nIMPRESSION: ...\n") == []


def test_the_gold_sections_of_open_i_are_recovered(shared_data: Path) -> None:
    with (shared_data / "openi" / "reports.jsonl").open(encoding="utf-8") as lines:
        reports = [json.loads(line) for line in lines]
    found = total = 0
    for report in reports:
        text = (shared_data / "openi" / "txt" / f"{report['id']}.txt").read_text(encoding="utf-8")
        by_name: dict[str, str] = {}
        for name, words in parsed(text):
            gold_name = "indication" if name == "history" else name
            by_name[gold_name] = f"{by_name.get(gold_name, '')} {words}"
        for name, gold in report["sections"].items():
            total += 1
            found += "".join(by_name.get(name, "").split()) == "".join(gold.split())
    assert total > 6000
    assert found / total >= 0.995


def test_most_headings_of_a_public_list_are_known(shared_data: Path) -> None:
    labels = (shared_data / "text_extras" / "section_titles.txt").read_text(encoding="utf-8").split("\n")
    vocabulary = default_vocabulary()
    known = [
        label
        for label in filter(None, labels)
        if vocabulary.name_of(label) or vocabulary.name_of_misspelt(label) or vocabulary.is_view_heading(label)
    ]
    assert len(known) / len(labels) > 0.8


def one_error_away(word: str) -> set[str]:
    parts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    return (
        {a + b[1:] for a, b in parts if b}
        | {a + c + b for a, b in parts for c in "abc"}
        | {a + c + b[1:] for a, b in parts if b for c in "abc"}
        | {a + b[1] + b[0] + b[2:] for a, b in parts if len(b) > 1}
    )


@given(st.text("abc", max_size=4), st.text("abc", max_size=4))
def test_edit_distance_is_the_fewest_errors_from_one_word_to_the_other(a: str, b: str) -> None:
    reached, errors = {a}, 0
    while b not in reached:
        reached |= {after for word in reached for after in one_error_away(word) if len(after) < 6}
        errors += 1
    assert edit_distance(a, b) == errors


def test_a_word_between_two_names_is_no_heading() -> None:
    vocabulary = HeadingVocabulary(
        {
            "headings": {"one": ["abcdefg"], "two": ["abcdefh"]},
            "openers": {"one": ["x"]},
            "view_headings": {"opens": "one", "body": [], "words": []},
        }
    )
    assert vocabulary.name_of_misspelt("ABCDEFX") is None


def test_a_broken_headings_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "headings.yaml"
    path.write_text("headings: [", encoding="utf-8")
    with pytest.raises(InputError, match=r"headings\.yaml"):
        read_vocabulary(path)


def test_policies_are_those_of_the_specification() -> None:
    assert set(POLICIES) == {"findings+impression", "impression", "findings", "impression-else-findings-else-body"}


@pytest.mark.parametrize(
    "unit",
    [":", "\n", " ", "A B C D: ", "FINDINGS:\n----\n", "Abcdefgh ijk:\n", "WET READ: a\n-----\n", "\n\f", "- ", "_"],
)
def test_time_is_linear_in_hostile_text(unit: str) -> None:
    def seconds(length: int) -> float:
        text = unit * (length // len(unit)) + "x"
        begin = time.perf_counter()
        split_sections(text)
        return time.perf_counter() - begin

    seconds(10_000)
    # Ten times the text in far less than a hundred times the time; the constant forgives a busy machine.
    assert seconds(200_000) < 30 * seconds(20_000) + 0.5
