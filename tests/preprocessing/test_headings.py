"""The vocabulary of headings, what a hospital changes in it, and the headings that it lacks."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import preprocessing.headings as headings_module
from preprocessing.errors import InputError
from preprocessing.heading_words import edit_distance
from preprocessing.headings import HeadingVocabulary, default_vocabulary, read_vocabulary
from preprocessing.sections import split_sections
from preprocessing.unmapped_headings import unmapped_headings


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


@settings(deadline=None)  # four errors apart takes a moment
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


def written(folder: Path, content: str, name: str = "headings.yaml") -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def names_with(path: Path, text: str) -> list[str]:
    return [section.name for section in split_sections(text, read_vocabulary(path))]


def test_a_hospital_adds_its_own_headings(tmp_path: Path) -> None:
    path = written(tmp_path, "headings:\n  findings: [Befund]\n  impression: [Beurteilung]\n")
    text = "BEFUND: Klar.\nBeurteilung: Normal.\nHISTORY: Cough.\nBEURTELUNG: Und so."
    assert names_with(path, text) == ["findings", "impression", "history", "impression"]
    assert [section.name for section in split_sections(text)] == ["preamble", "history"]


def test_a_heading_that_a_hospital_lists_under_another_name_moves_there(tmp_path: Path) -> None:
    path = written(tmp_path, "headings:\n  comment: [Observations]\n")
    assert names_with(path, "OBSERVATIONS: Clear.") == ["comment"]
    assert [section.name for section in split_sections("OBSERVATIONS: Clear.")] == ["findings"]


def test_a_hospital_removes_a_heading(tmp_path: Path) -> None:
    path = written(tmp_path, "remove: [Note, notes]\n")
    assert names_with(path, "FINDINGS: Clear.\nNOTE: Rotated.") == ["findings"]
    assert names_with(path, "FINDINGS: Clear.\nCOMMENT: Rotated.") == ["findings", "comment"]


def test_an_override_may_be_toml(tmp_path: Path) -> None:
    path = written(tmp_path, '[headings]\nfindings = ["Befund"]\n', "headings.toml")
    assert names_with(path, "BEFUND: Klar.") == ["findings"]


def test_the_example_at_the_head_of_the_rules_is_a_valid_override(tmp_path: Path) -> None:
    rules = (Path(headings_module.__file__).parent / "rules" / "headings.yaml").read_text(encoding="utf-8")
    example = [line.removeprefix("#   ") for line in rules.splitlines() if line.startswith("#   ")]
    path = written(tmp_path, "\n".join(example))
    assert names_with(path, "AUSWERTUNG: Clear.\nOBSERVATIONS: None.\nNOTE: x") == ["findings", "comment"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("headings: [", "not a YAML file"),
        ("", "is empty"),
        ("- findings", "holds no keys"),
        ("heading: {findings: [a]}", "heading is not a key"),
        ("headings: [findings]", "headings is not a mapping"),
        ("headings: {findngs: [a]}", "headings.findngs is not a canonical name; choose one of preamble, findings"),
        ("headings: {findings: befund}", "headings.findings is not a list"),
        ("headings: {findings: [1]}", "headings.findings holds 1, which is not text"),
        ("headings: {findings: ['--']}", "headings.findings holds a variant without letters"),
        ("headings: {findings: [Befund], impression: [befund]}", "under both headings.findings and headings.imp"),
        ("headings: {findings: [Befund]}\nremove: [befund]", "under both headings.findings and remove"),
        ("remove: note", "remove is not a list"),
    ],
)
def test_a_wrong_override_is_named_with_its_key(tmp_path: Path, content: str, message: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(InputError, match=r"headings\.yaml: ") as error:
        read_vocabulary(path)
    assert message in str(error.value)


def test_an_override_that_is_no_text_or_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "headings.yaml"
    with pytest.raises(InputError, match=r"headings\.yaml: cannot be read"):
        read_vocabulary(path)
    path.write_bytes(b"headings: {findings: [\xff\xfe]}")
    with pytest.raises(InputError, match=r"headings\.yaml: not a YAML file in UTF-8"):
        read_vocabulary(path)


def test_unmapped_headings_are_listed_and_names_times_and_known_headings_are_not() -> None:
    text = (
        "FINDINGS: Clear.\nMediastinum: normal\nDR SMITH: agrees\nAT 13:20: x\nDEVICES AND LINES: none\nthe lungs: y\n"
        "Heart rate was not known to them: x\nDEVICES and LINES: z\n\nCAVEATS\nRotated.\nDictated by: x\nQUELLE: y\n"
    )
    assert unmapped_headings(text, split_sections(text)) == ["mediastinum", "devices and lines", "caveats"]


def test_a_heading_that_a_hospital_added_is_mapped(tmp_path: Path) -> None:
    vocabulary = read_vocabulary(written(tmp_path, "headings: {findings: [befund]}"))
    text = "BEFUND: Klar.\nURTEIL: Gut."
    assert unmapped_headings(text, split_sections(text, vocabulary), vocabulary) == ["urteil"]
    assert unmapped_headings(text, split_sections(text)) == ["befund", "urteil"]
