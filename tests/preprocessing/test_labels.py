"""What a report says of each observation is read from its words, and every label names the words that decided it."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_time import assert_linear_time

from preprocessing.assertions import assertions
from preprocessing.labels import ReportLabels, label_names, label_report, together
from preprocessing.lexicon import rule_pack
from preprocessing.phantoms import DIFFICULTIES, write_phantoms
from preprocessing.rule_files import NO_FINDING, SEVERITY

GOLDEN: dict[str, list[dict[str, Any]]] = yaml.safe_load(
    Path(__file__).with_name("golden_labels.yaml").read_text(encoding="utf-8")
)
GOLDEN["sentences"] += yaml.safe_load(
    Path(__file__).with_name("golden_labels_second.yaml").read_text(encoding="utf-8")
)["sentences"]
PACK = rule_pack()
CHEXPERT = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other"),
    *("Fracture", "Support Devices"),
)
NIH = {
    **{name: name for name in ("Atelectasis", "Cardiomegaly", "Infiltration", "Mass", "Nodule", "Pneumonia", "Edema")},
    **{name: name for name in ("Pneumothorax", "Consolidation", "Emphysema", "Fibrosis")},
    "Effusion": "Pleural Effusion",
    "Pleural_Thickening": "Pleural Thickening",
}
"""Names of the gold standard of Open-i; "Hernia" is left out, as the gold names none."""


def said(text: str) -> dict[str, int]:
    values = dict(label_report(text).values)
    values.pop(NO_FINDING, None)
    return values


def golden(part: str) -> Iterator[Any]:
    for number, entry in enumerate(GOLDEN[part]):
        marks = [pytest.mark.xfail(reason=entry["known_miss"], strict=True)] if "known_miss" in entry else []
        yield pytest.param(entry, id=f"{number}", marks=marks)


@pytest.mark.parametrize("entry", golden("sentences"))
def test_a_sentence_says_what_a_reader_reads(entry: dict[str, Any]) -> None:
    assert said(entry["text"]) == entry["labels"]


@pytest.mark.parametrize("entry", golden("edema_severity"))
def test_edema_has_the_grade_that_is_named(entry: dict[str, Any]) -> None:
    assert label_report(entry["text"]).edema_severity == entry["severity"]


@pytest.mark.parametrize("entry", golden("no_finding"))
def test_no_finding_needs_text_and_no_pathology(entry: dict[str, Any]) -> None:
    assert label_report(entry["text"]).values.get(NO_FINDING) == entry["no_finding"]


def test_the_golden_suite_is_large_and_few_of_it_are_known_misses() -> None:
    entries = [entry for part in GOLDEN.values() for entry in part]
    misses = [entry for entry in entries if "known_miss" in entry]
    assert len({entry["text"] for entry in GOLDEN["sentences"]}) == len(GOLDEN["sentences"]) >= 880
    assert len(misses) <= 0.02 * len(entries)


def test_labels_have_the_names_of_chexpert_and_of_nih() -> None:
    names = label_names(PACK)
    assert names[: len(CHEXPERT)] == CHEXPERT
    assert set(NIH.values()) | {"Hernia"} <= set(names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("HISTORY: Pneumothorax.\nFINDINGS: Clear lungs.", None),
        ("INDICATION: r/o pneumothorax\nCOMPARISON: prior with pneumothorax.\nIMPRESSION: Normal.", None),
        ("FINDINGS: Pneumothorax.\nIMPRESSION: Normal.", 1),
        ("FINDINGS: Normal.\nIMPRESSION: Pneumothorax.", 1),
        ("FINDINGS: No pneumothorax.\nIMPRESSION: Possible pneumothorax.", -1),
        ("FINDINGS: No pneumothorax.\nADDENDUM: There is a small pneumothorax.", 1),
        ("There is a pneumothorax.", 1),
        ("Portable chest. Pneumothorax.\nFINDINGS: Clear lungs.", None),
    ],
)
def test_only_what_describes_the_picture_counts(text: str, expected: int | None) -> None:
    assert said(text).get("Pneumothorax") == expected


def test_an_empty_report_has_no_labels_and_not_even_no_finding() -> None:
    for text in ("", " \n", "FINDINGS:\nIMPRESSION:\n", "FINDINGS: ___\n", "INDICATION: Cough."):
        assert label_report(text) == ReportLabels({}, None, ())


@pytest.mark.parametrize("text", ["Kerley B lines are present.", "Mild pulmonary vascular congestion."])
def test_what_is_a_grade_of_edema_is_a_finding(text: str) -> None:
    assert NO_FINDING not in label_report(text).values


@pytest.mark.parametrize(
    ("one", "other", "both"), [(None, 0, 0), (0, 0, 0), (0, -1, -1), (0, 1, 1), (-1, -1, -1), (-1, 1, 1), (1, 1, 1)]
)
def test_present_beats_uncertain_and_absent_with_uncertain_is_uncertain(one: Any, other: int, both: int) -> None:
    assert together(one, other) == both
    assert one is None or together(other, one) == both


def test_evidence_stands_where_it_says_in_the_untouched_report() -> None:
    text = "FINDINGS:\r\n  There is no left\r\n pleural effusion.  Heart size is\tmildly enlarged.\r\n"
    found = {e.observation: e for e in label_report(text).evidence}
    effusion, heart = found["Pleural Effusion"], found["Cardiomegaly"]
    assert text[effusion.start : effusion.end] == "pleural effusion"
    assert text[effusion.cue_start : effusion.cue_end] == "no"
    assert text[effusion.sentence_start : effusion.sentence_end] == "There is no left\r\n pleural effusion."
    assert text[heart.start : heart.end] == "Heart size is\tmildly enlarged"
    assert heart.cue_start is None


WORDS = st.sampled_from(
    [
        *("No", "no evidence of", "not", "possible", "may represent", "cannot exclude", "versus", "or", "and", "with"),
        *(",", ";", ".", ":", "(", ")", "-", "?", "but", "there is", "is", "are", "the", "small", "left", "unchanged"),
        *("heart", "heart size", "lungs", "mediastinum", "normal", "enlarged", "clear", "effusion", "edema", "mild"),
        *("pneumothorax", "atelectasis", "resolved", "not seen", "history of", "XXXX", "7", "İ", "ß", "\n"),
    ]
)


@settings(deadline=None)  # the first example reads the rules
@given(st.one_of(st.text(), st.lists(WORDS, max_size=30).map(" ".join)))
def test_any_text_is_read_and_every_label_has_its_evidence(text: str) -> None:
    labels = label_report(text)
    for e in labels.evidence:
        assert 0 <= e.sentence_start <= e.start < e.end <= e.sentence_end <= len(text)
        assert e.value in ((0, 1, 2, 3) if e.observation == SEVERITY else (1, 0, -1))
        assert (e.cue_start is None) == (e.cue_end is None)
        assert e.cue_start is None or e.sentence_start <= e.cue_start < (e.cue_end or 0) <= e.sentence_end
    for name, value in labels.values.items():
        own = {e.value for e in labels.evidence if e.observation == name}
        expected = 1 if 1 in own or name == NO_FINDING else -1 if -1 in own else 0
        assert value == expected
    grades = [e.value for e in labels.evidence if e.observation == SEVERITY]
    assert labels.edema_severity == (max(grades) if grades else None)


@settings(deadline=None)
@given(st.lists(WORDS, max_size=20).map(" ".join))
def test_case_and_white_space_do_not_matter(sentence: str) -> None:
    def values(text: str) -> list[tuple[str, int]]:
        return [(a.observation, a.value) for a in assertions(text, PACK)]

    sentence = sentence.replace("\n", " ").replace("ß", "").replace("İ", "")  # which change with their case
    assert values(sentence.upper()) == values(sentence)
    assert values(sentence.replace(" ", " \n  ")) == values(sentence)


@settings(deadline=None)
@given(st.permutations(["No effusion.", "Possible edema.", "The heart is enlarged.", "Lungs are clear.", "A nodule."]))
def test_the_order_of_sentences_does_not_matter(sentences: list[str]) -> None:
    expected = label_report("FINDINGS: No effusion. Possible edema. The heart is enlarged. Lungs are clear. A nodule.")
    assert label_report("FINDINGS: " + " ".join(sentences)).values == expected.values


@pytest.fixture(scope="module")
def open_i(shared_data: Path) -> list[tuple[dict[str, int], dict[str, int]]]:
    """Gold and found labels of every report of Open-i that has gold ones."""
    with (shared_data / "openi" / "reports.jsonl").open(encoding="utf-8") as lines:
        reports = [report for report in map(json.loads, lines) if report.get("labels14")]
    folder = shared_data / "openi" / "txt"
    texts = [(folder / f"{report['id']}.txt").read_text(encoding="utf-8") for report in reports]
    return [(report["labels14"], dict(label_report(text).values)) for report, text in zip(reports, texts, strict=True)]


def f1(pairs: list[tuple[dict[str, int], dict[str, int]]], gold_name: str, *, open_as: str) -> float:
    """F1 of one label by plain counting; uncertain reports count as "absent" or "present", or are "left out"."""
    true = found = both = 0
    for gold, labels in pairs:
        value = labels.get(NIH[gold_name])
        if value == -1 and open_as == "left out":
            continue
        is_found = value == 1 or (value == -1 and open_as == "present")
        true += gold[gold_name] == 1
        found += is_found
        both += is_found and gold[gold_name] == 1
    return 2 * both / (true + found)


def test_labels_agree_with_librarians_where_the_report_is_certain(
    open_i: list[tuple[dict[str, int], dict[str, int]]],
) -> None:
    assert len(open_i) == 1360
    certain = {name: f1(open_i, name, open_as="left out") for name in NIH}
    strict = {name: f1(open_i, name, open_as="absent") for name in NIH}
    assert sum(certain.values()) / len(certain) >= 0.90
    assert sum(strict.values()) / len(strict) >= 0.83
    assert min(certain.values()) >= 0.75


def test_negated_findings_of_open_i_are_not_taken_for_present(
    open_i: list[tuple[dict[str, int], dict[str, int]]],
) -> None:
    # Librarians call a report normal when nothing in it is abnormal: hardly a label may be present there.
    normal = [labels for gold, labels in open_i if gold["normal"] == 1]
    wrong = [name for labels in normal for name, v in labels.items() if v == 1 and name in set(NIH.values())]
    assert len(normal) == 492
    assert len(wrong) <= 3


def test_labels_of_synthetic_reports_are_those_of_the_pictures_that_they_describe(tmp_path: Path) -> None:
    # A picture's findings were drawn first, so they are an oracle that no words went into.
    write_phantoms(tmp_path / "p", studies=150, size=64, seed=5, difficulty=DIFFICULTIES["easy"])
    with (tmp_path / "p" / "labels.csv").open(encoding="utf-8") as lines:
        rows = {row.pop("study"): row for row in csv.DictReader(lines)}
    compared = equal = 0
    for path in (tmp_path / "p" / "reports").glob("*.txt"):
        labels = label_report(path.read_text(encoding="utf-8")).values
        for name, written in rows.get(path.stem, {}).items():
            drawn = int(float(written)) if written else None
            if name != NO_FINDING or drawn == 1:
                compared += 1
                equal += labels.get(name) == drawn
    assert compared > 700
    assert equal / compared >= 0.995


@pytest.mark.parametrize(
    "unit",
    ["no effusion or ", "heart and ", ", ", "(", "possible ", "not ", "heart is normal and ", "a, b or c ", "x" * 50],
)
def test_time_is_linear_in_one_long_sentence(unit: str) -> None:
    assert_linear_time(lambda text: assertions(text, PACK), lambda length: unit * (length // len(unit)) + "effusion")
