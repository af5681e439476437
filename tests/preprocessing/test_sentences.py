"""Sections are cut into sentences that keep their place."""

from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from linear_time import assert_linear_time

from preprocessing.sentences import split_sentences, words_in

PIECES = st.sampled_from(
    [
        "Clear lungs",
        ".",
        ". ",
        " ",
        "\n",
        "\n\n",
        "\r\n",
        "1.",
        "2) ",
        "- ",
        "2.5 cm",
        "Dr.",
        " a.m.",
        "___",
        "XXXX",
        "?",
        "No.",
        "...",
        "…",
        "C. ",
        "(1) ",
        "3.",
        " 2. ",
        "cm.",
        ".)",
        "\u00a0",
        "\v",
    ]
)


def texts(text: str) -> list[str]:
    return [sentence.text for sentence in split_sentences(text)]


@given(st.one_of(st.text(), st.lists(PIECES).map("".join)), st.integers(0, 1000))
def test_spans_reproduce_sentences(text: str, start: int) -> None:
    sentences = split_sentences(text, start)
    assert [" ".join(text[s.start - start : s.end - start].split()) for s in sentences] == [s.text for s in sentences]
    raw = [text[s.start - start : s.end - start] for s in sentences]
    assert raw == [words.strip() for words in raw]
    assert all(a.end <= b.start for a, b in pairwise(sentences))


@given(
    st.lists(
        st.sampled_from(["Clear lungs.", "No effusion!", "Heart is 2.5 cm.", "1. ", "2) ", "(3) ", "- ", "\n", " "])
    ).map("".join)
)
def test_no_word_is_lost(text: str) -> None:
    kept = "".join(texts(text))
    letters = [c for c in text if c.isalpha()]
    assert [c for c in kept if c.isalpha()] == letters


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Clear lungs. No effusion.", ["Clear lungs.", "No effusion."]),
        ("A 2.5 cm nodule. Stable.", ["A 2.5 cm nodule.", "Stable."]),
        ("Seen by Dr. J. Doe. Clear.", ["Seen by Dr. J. Doe.", "Clear."]),
        ("Edema vs. pneumonia, approx. 2 cm.", ["Edema vs. pneumonia, approx. 2 cm."]),
        ("Tube at 7 a.m. The tip is high.", ["Tube at 7 a.m.", "The tip is high."]),
        ("Tip 4 cm. above the carina.", ["Tip 4 cm. above the carina."]),
        ("1. Clear lungs. 2. No effusion. 3. Normal heart", ["Clear lungs.", "No effusion.", "Normal heart"]),
        ("1) Clear lungs\n2) No effusion\n", ["Clear lungs", "No effusion"]),
        ("- Clear lungs\n- No effusion", ["Clear lungs", "No effusion"]),
        ("1. Would confirm this 2. Otherwise clear.", ["Would confirm this", "Otherwise clear."]),
        ("Clear lungs.No effusion.", ["Clear lungs.", "No effusion."]),
        ("Compared to XXXX. ___ is clear.", ["Compared to XXXX.", "___ is clear."]),
        ("The heart is\nnormal in size. Clear\nlungs.", ["The heart is normal in size.", "Clear lungs."]),
        ("The heart is normal\nNo effusion", ["The heart is normal", "No effusion"]),
        ("Heart normal\nLungs clear\nNormal mediastinum", ["Heart normal", "Lungs clear", "Normal mediastinum"]),
        ("Heart normal\n\nlungs clear", ["Heart normal", "lungs clear"]),
        ("stable. lungs are unchanged.", ["stable.", "lungs are unchanged."]),
        ("Hepatitis C. Clear lungs.", ["Hepatitis C.", "Clear lungs."]),
        ("Fracture at T12. Old.", ["Fracture at T12.", "Old."]),
        ("Tube no. 2 is high. Effusion: no. Clear.", ["Tube no. 2 is high.", "Effusion: no.", "Clear."]),
        ("Seen at 7:34 p.m.. heart stable", ["Seen at 7:34 p.m..", "heart stable"]),
        ("Dr. Ax", ["Dr. Ax"]),
        ("a) Clear lungs\nb) normal heart", ["Clear lungs", "normal heart"]),
        ("(a) Clear.\r\n (b) Normal heart", ["Clear.", "Normal heart"]),
        ("a. Clear lungs\nb. Normal heart", ["Clear lungs", "Normal heart"]),
        ("I. Clear lungs.\nII. Normal heart.\n\nX) Old.", ["Clear lungs.", "Normal heart.", "Old."]),
        ("#1 Clear lungs\n#2: normal heart", ["Clear lungs", "normal heart"]),
        ("Clear (a) lungs and b) heart.", ["Clear (a) lungs and b) heart."]),
        ("The tube\n#2 is high.", ["The tube #2 is high."]),
        ("", []),
        ("2.", []),
    ],
)  # fmt: skip
def test_sentences_as_radiologists_write_them(text: str, expected: list[str]) -> None:
    assert texts(text) == expected


GOLDEN = yaml.safe_load((Path(__file__).parent / "golden_sentence_splits.yaml").read_text(encoding="utf-8"))
PASSAGES = [(kind, passage["text"], passage["sentences"]) for kind, passages in GOLDEN.items() for passage in passages]


def test_the_golden_set_has_passages_enough() -> None:
    assert len(PASSAGES) >= 80


@pytest.mark.parametrize(("kind", "text", "expected"), PASSAGES)
def test_passages_that_general_splitters_break(kind: str, text: str, expected: list[str]) -> None:
    assert texts(text) == expected, kind


@pytest.mark.parametrize(("sentence", "count"), [("XXXX ___.", 0), ("Normal.", 1), ("XXXX is 2.5 cm", 2), ("4", 0)])
def test_redactions_and_numbers_are_not_words(sentence: str, count: int) -> None:
    assert words_in(sentence) == count


def test_clinical_notes_give_sentences_of_a_readable_length(shared_data: Path) -> None:
    notes = [path.read_text(encoding="utf-8") for path in sorted((shared_data / "text").glob("*.txt"))]
    lengths = [len(text.split()) for note in notes for text in texts(note)]
    assert len(notes) >= 60
    assert all(texts(note) for note in notes)
    assert 8 < sum(lengths) / len(lengths) < 25
    assert max(lengths) < 90


@pytest.mark.parametrize(
    "unit",
    [
        ". ",
        "\n",
        "\n\f",
        " ",
        "1. A ",
        "dr. ",
        "a\n",
        ".",
        "A. B. ",
        "- ",
        "x",
        "7",
        "2. ",
        "(2)",
        "1. x 2. y ",
        "\r",
        "…a",
        "\na) ",
        "\nII. A",
        "\n#1 ",
    ],
)
def test_time_is_linear_in_hostile_text(unit: str) -> None:
    assert_linear_time(split_sentences, lambda length: unit * (length // len(unit)) + "x")
