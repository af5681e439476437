"""Synthetic reports: sections in several styles, wording that fits the finding, truth sentence by sentence."""

import re
from collections import Counter
from functools import cache

import numpy as np
import pytest

from preprocessing.phantoms import DIFFICULTIES
from preprocessing.phantoms.plan import DEVICES, Finding, sample_findings
from preprocessing.phantoms.reports import Report, phrases, write_report

FACTS = {
    "age": "61",
    "person": "woman",
    "radiologist": "Wexcombe",
    "referrer": "Okonjari",
    "patient": "Quillmarsh, Dagny",
    "record": "MRN7",
    "birth": "01/02/1960",
    "accession": "AC9",
    "institution": "Nordhaven Test Infirmary",
}
BOX = (1, 2, 3, 4)


def report(findings: list[Finding], seed: int = 0) -> Report:
    return write_report(np.random.default_rng(seed), findings, [BOX] * len(findings), "pa", FACTS)


@cache
def many() -> list[tuple[tuple[Finding, ...], Report]]:
    random = np.random.default_rng(8)
    lots = [sample_findings(random, DIFFICULTIES["medium"]) for _ in range(400)]
    return [(findings, report(list(findings), seed)) for seed, findings in enumerate(lots)]


def test_every_finding_is_mentioned_with_its_box_and_what_is_not_drawn_without() -> None:
    for findings, written in many():
        for finding in findings:
            status = "positive" if finding.certain else "uncertain"
            said = [s for s in written.statements if finding.label in s.labels and s.status == status]
            assert said
            assert {s.box for s in said} <= {BOX if f.drawn else None for f in findings if f.label == finding.label}


def test_nothing_is_denied_that_is_there_and_nothing_affirmed_that_is_not() -> None:
    for findings, written in many():
        present = {f.label for f in findings}
        for statement in written.statements:
            if statement.status == "negative":
                assert not present & set(statement.labels)
                assert statement.box is None
            if statement.status in ("positive", "uncertain"):
                assert set(statement.labels) <= present | {"No Finding"}


def test_labels_follow_the_statements() -> None:
    for findings, written in many():
        values = written.label_values()
        for finding in findings:
            assert values[finding.label] == (1 if finding.certain else -1)
        ill = any(f.label != "Support Devices" for f in findings)
        assert values["No Finding"] == int(not ill)


SIDES = {"right", "left"}


def test_sentences_name_side_and_zone_of_the_finding_and_no_other() -> None:
    for side in SIDES:
        for zone in ("upper", "mid", "lower"):
            for seed in range(12):
                written = report([Finding("Consolidation", side=side, zone=zone, size="moderate")], seed)
                for statement in written.statements:
                    if statement.status == "positive":
                        words = set(re.findall(r"[a-z]+", statement.text.lower()))
                        assert words & SIDES == {side}
                        assert words & {"upper", "mid", "lower"} == {zone}


@pytest.mark.parametrize("kind", DEVICES)
def test_devices_are_called_by_name(kind: str) -> None:
    words = {
        "endotracheal tube": r"endotracheal|ET tube",
        "central line": r"central",
        "pacemaker": r"pacemaker",
        "nasogastric tube": r"nasogastric|NG tube|enteric",
        "sternal wires": r"wires",
    }
    for seed in range(8):
        written = report([Finding("Support Devices", kind=kind, side="left", distance=4.0)], seed)
        assert re.search(words[kind], " ".join(s.text for s in written.statements if s.status == "positive"), re.I)


def test_wording_varies() -> None:
    said = [s for _, written in many() for s in written.statements]
    texts = Counter(s.text for s in said if "Pleural Effusion" in s.labels)
    assert len(texts) > 40


def test_sentences_are_clean_english_typography() -> None:
    for _, written in many():
        for statement in written.statements:
            assert re.fullmatch(r"[A-Z0-9][^\n{}]*\.", statement.text), statement.text
            assert "  " not in statement.text
            assert not re.search(r"\b[Aa] [aeio]", statement.text), statement.text


def test_house_styles_differ_and_some_headings_are_misspelt_or_missing() -> None:
    texts = [written.text for _, written in many()]
    for shape in (r"^FINDINGS: \w", r"^FINDINGS:$", r"^Findings:", r"^findings:"):
        assert any(re.search(shape, text, re.M) for text in texts), shape
    misspelt = [wrong for name, words in phrases()["misspelt"].items() if name != "addendum" for wrong in words]
    share = np.mean([any(re.search(rf"^{wrong}:", text, re.M | re.I) for wrong in misspelt) for text in texts])
    assert 0.03 < share < 0.3
    without = np.mean([not re.search(r"^(impress?s?ion|conclusion|impression):", text, re.M | re.I) for text in texts])
    assert 0.03 < without < 0.3
    assert any(re.search(r"^addendum:", text, re.M | re.I) for text in texts)


def test_names_and_record_numbers_are_planted_outside_the_true_sentences() -> None:
    signed = [written for _, written in many() if "Wexcombe" in written.text]
    named = [written for _, written in many() if "Quillmarsh, Dagny" in written.text and "MRN7" in written.text]
    assert 0.15 < len(signed) / len(many()) < 0.5
    assert named
    planted = ("Wexcombe", "Okonjari", "Quillmarsh", "MRN7", "AC9", "Nordhaven")
    assert not [s for _, written in many() for s in written.statements if any(p in s.text for p in planted)]


def test_misspelt_headings_are_within_two_edits() -> None:
    """By the textbook recurrence of the Levenshtein distance."""

    def distance(a: str, b: str) -> int:
        row = list(range(len(b) + 1))
        for i, x in enumerate(a, 1):
            row, previous = [i], row
            for j, y in enumerate(b, 1):
                row.append(min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (x != y)))
        return row[-1]

    for name, words in phrases()["misspelt"].items():
        assert all(min(distance(word, right) for right in phrases()["headings"][name]) <= 2 for word in words)
