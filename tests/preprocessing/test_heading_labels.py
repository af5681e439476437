"""What is a heading and what is text with a colon: organs, views, prose."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from linear_time import assert_linear_time

import preprocessing.headings as headings_module
from preprocessing.headings import default_vocabulary
from preprocessing.sections import POLICIES, report_text, section_spans, section_text, split_sections, text_span

ORGANS = [
    "Lungs", "Lung", "Lungs and pleura", "Lungs/Pleura", "Airways", "Pleura", "Pleural spaces", "Heart",
    "Heart and mediastinum", "Cardiac silhouette", "Cardiomediastinal silhouette", "Mediastinum", "Hila", "Aorta",
    "Bones", "Bony thorax", "Osseous structures", "Spine", "Ribs", "Chest wall", "Soft tissues", "Diaphragm",
    "Upper abdomen", "Lines", "Lines and tubes", "Tubes", "Support devices", "Pulmonary vasculature", "Pneumothorax",
    "Right lung", "Left lung", "Both lungs", "The lungs", "Thorax", "Lung volumes", "Lung parenchyma", "Catheters",
    "ETT", "Hardware",
]  # fmt: skip
STRUCTURED = ["Lungs: Clear.", "Pleura: No effusion.", "Heart: Normal size.", "Bones: Intact.", "Lines: None."]


def parsed(text: str) -> list[tuple[str, str]]:
    return [(section.name, section_text(text, section)) for section in split_sections(text)]


@pytest.mark.parametrize("organ", ORGANS)
@pytest.mark.parametrize("case", [str, str.upper, str.lower])
def test_an_organ_is_no_heading(organ: str, case: Callable[[str], str]) -> None:
    assert default_vocabulary().recognised(case(organ)) is None
    assert default_vocabulary().recognised_alone(case(organ)) is None


@pytest.mark.parametrize("case", [str, str.upper, str.lower])
@pytest.mark.parametrize("between", [" ", "\n", "\r\n", "\n\n"])
def test_structured_findings_keep_their_organs(case: Callable[[str], str], between: str) -> None:
    body = case(between.join(STRUCTURED))
    assert parsed(body) == [("unheaded", body)]
    for mark in (" ", between):
        text = f"{case('Findings')}:{mark}{body}\n{case('Impression')}: {case('Normal.')}"
        assert parsed(text) == [("findings", body), ("impression", case("Normal."))]


def test_organs_alone_on_their_lines_stay_in_the_findings() -> None:
    body = "LUNGS:\nClear.\nHEART:\nNormal."
    assert parsed(f"FINDINGS:\n{body}\nIMPRESSION: Normal.") == [("findings", body), ("impression", "Normal.")]


@pytest.mark.parametrize(
    "above", ["", "EXAM: CHEST\n", "TECHNIQUE: PA view.\n\n", "HISTORY: Cough.\nCOMPARISON: None.\n"]
)
@pytest.mark.parametrize("case", [str, str.upper, str.lower])
def test_lines_of_organs_begin_the_findings_where_no_heading_does(above: str, case: Callable[[str], str]) -> None:
    body = case("Lungs/Pleura: Clear.\nThe heart: Normal size. Bones: Intact.")
    text = f"{case(above)}{body}\nIMPRESSION: Normal."
    assert parsed(text)[-2:] == [("findings", body), ("impression", "Normal.")]
    assert [name for name, _ in parsed(text)].count("findings") == 1


def test_one_line_with_an_organ_in_the_history_begins_no_findings() -> None:
    text = "HISTORY: Cough.\nHeart: bypass in 2010.\nIMPRESSION: Normal."
    assert [name for name, _ in parsed(text)] == ["history", "impression"]


@pytest.mark.parametrize(
    "heading",
    [
        "CHEST", "CHEST, 2 VIEWS", "PA AND LATERAL CHEST", "Chest x-ray", "AP PORTABLE", "Portable AP chest radiograph",
        "FRONTAL VIEW OF THE LUNGS", "2 VIEWS OF THE THORAX",
    ],
)  # fmt: skip
def test_views_and_examinations_are_headings(heading: str) -> None:
    assert parsed(f"{heading}: Clear.") == [("findings", "Clear.")]


@pytest.mark.parametrize(
    "prose",
    [
        "Not seen on this study: effusion, pneumothorax.",
        "Not seen on this examination: effusion.",
        "Seen on the prior exam: effusion.",
        "Not seen on the current study: mass, edema.",
        "New since the comparison study: effusion.",
        "The following are absent from this report: priors.",
    ],
)
@pytest.mark.parametrize("case", [str, str.upper, str.lower])
def test_a_sentence_that_goes_on_behind_a_colon_is_no_heading(prose: str, case: Callable[[str], str]) -> None:
    assert parsed(case(prose)) == [("unheaded", case(prose))]
    text = f"FINDINGS: Clear. {case(prose)}\nIMPRESSION: Normal."
    assert parsed(text) == [("findings", f"Clear. {case(prose)}"), ("impression", "Normal.")]


@pytest.mark.parametrize(
    "text",
    ["Comparison XXXX. There is no effusion.", "COMPARISON XXXX. There is no effusion.",
     "comparison xxxx. there is no effusion."],
)  # fmt: skip
def test_a_report_that_begins_with_a_comparison_keeps_its_text(text: str) -> None:
    assert parsed(text) == [("unheaded", text)]


@pytest.mark.parametrize("gap", [" ", "\n", "\n\n", "\r\n"])
@pytest.mark.parametrize("above", ["", "FINDINGS: Clear.\n", "EXAM: Chest\n"])
def test_an_impression_that_begins_with_a_comparison_keeps_its_text(gap: str, above: str) -> None:
    text = f"{above}IMPRESSION:{gap}Comparison XXXX, XXXX Hyperexpansion as before."
    assert parsed(text)[-1] == ("impression", "Comparison XXXX, XXXX Hyperexpansion as before.")


def test_section_spans_are_those_of_the_first_group_with_text() -> None:
    text = "INDICATION: x.\nFINDINGS:  F. \nIMPRESSION: ___\nFINDINGS: G.\n"
    sections = split_sections(text)
    groups = POLICIES["impression-else-findings-else-body"]
    assert [(s.name, text[start:end]) for s, start, end in section_spans(text, sections, groups)] == [
        ("findings", "F."),
        ("findings", "G."),
    ]
    assert section_spans(text, sections, [frozenset({"comment"})]) == []
    assert report_text(text) == [text_span(text, sections[1]), text_span(text, sections[3])]


def test_no_organ_of_structured_findings_is_a_heading_elsewhere() -> None:
    rules = yaml.safe_load((Path(headings_module.__file__).parent / "rules" / "headings.yaml").read_text("utf-8"))
    variants = {variant for names in rules["headings"].values() for variant in names}
    assert variants.isdisjoint(rules["structured_findings"])


@pytest.mark.parametrize(
    "unit", ["lungs ", "lungs and ", "\nlungs", ". heart", "heart/", "\n\theart  ", "EXAM: a\nlungs "]
)
def test_time_is_linear_in_text_full_of_organs(unit: str) -> None:
    assert_linear_time(split_sections, lambda length: "EXAM: a\n" + unit * (length // len(unit)) + "x")


@pytest.mark.parametrize(
    "line", ["AP CHEST, 3:45 P.M., ___.", "PORTABLE CHEST, 11:03 A.M.", "CHEST RADIOGRAPH 10:15 HOURS"]
)
def test_the_colon_of_a_clock_time_is_no_headings_colon(line: str) -> None:
    text = f"{line}\n\nHISTORY: Cough.\nIMPRESSION: Clear.\n"
    found = [(section.name, section_text(text, section)) for section in split_sections(text)]
    assert found == [("preamble", line), ("history", "Cough."), ("impression", "Clear.")]


@pytest.mark.parametrize(
    "line",
    [
        *("Report Dictated By: A. Doe", "Report approved by A. Doe", "Reported and signed by: A. Doe"),
        *("Finalized by John Doe MD", "Final Report Dictated by Resident Doe", "Authorised by A. Doe"),
        *("With kind regards", "Yours sincerely", "Primary Interpreting Staff: Doe", "Primary Diagnostic Code: 1"),
        *("This report was generated with voice recognition software.", "/es/ JOHN DOE, MD", "/es/\nDoe"),
        *("Report finalised by A. Doe", "Final report authorised by A. Doe", "Electronically authored by A. Doe"),
        *("Reviewed by Dr Doe", "Best regards", "Yours faithfully,\nDr Doe", "Sincerely,\nDr Doe"),
        *("I, the attending radiologist, have reviewed the images.", "Signed (Electronic Signature): J. Doe"),
    ],
)
def test_ways_to_sign_are_no_part_of_the_impression(line: str) -> None:
    text = f"FINDINGS: Clear.\nIMPRESSION: Normal.\n{line}\n"
    found = [(section.name, section_text(text, section)) for section in split_sections(text)]
    assert found[:2] == [("findings", "Clear."), ("impression", "Normal.")]
    assert {name for name, _ in found[2:]} == {"signature"}


def test_a_parenthesis_stays_whole_in_a_label() -> None:
    sections = split_sections("IMPRESSION: Normal.\nSigned (Electronic Signature): J. Doe")
    assert [section.heading for section in sections] == ["IMPRESSION", "Signed (Electronic Signature)"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("EXAM: CHEST\nFINDINGS: Clear.", [("examination", "CHEST"), ("findings", "Clear.")]),
        ("EXAM: CR Chest\nHistory: Cough.", [("examination", "CR Chest"), ("history", "Cough.")]),
        ("FINDINGS: Stable Clinical\nImpression: No.", [("findings", "Stable Clinical"), ("impression", "No.")]),
    ],
)
def test_a_heading_takes_no_word_of_the_section_above(text: str, expected: list[tuple[str, str]]) -> None:
    assert parsed(text) == expected


def test_a_full_line_may_break_a_heading() -> None:
    exam = "Portable chest radiograph in one view with the patient upright"
    assert parsed(f"EXAM: {exam} Clinical\nHistory: Cough.") == [("examination", exam), ("history", "Cough.")]


def test_no_full_line_gives_the_part_of_the_body_at_its_end_away() -> None:
    exam = "Portable frontal and lateral radiographs of the patient's Chest"
    assert parsed(f"EXAM: {exam}\nFindings: Clear.") == [("examination", exam), ("findings", "Clear.")]


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        *(("IMP", "impression"), ("DX", "impression"), ("RESULT IMPRESSION", "impression"), ("HX", "history")),
        *(("CLINICAL HX", "history"), ("PROVIDED HISTORY", "history"), ("CLINICAL EVALUATION", "history")),
        *(("PRIOR IMAGES", "comparison"), ("PREVIOUS IMAGES", "comparison")),
        *(("EVALUATION", "findings"), ("RESULT NARRATIVE", "findings")),
    ],
)
@pytest.mark.parametrize("mark", [": ", ":\n", "\n"])
def test_short_headings_need_a_colon_or_a_line(heading: str, name: str, mark: str) -> None:
    assert parsed(f"EXAM: Chest.\n\n{heading}{mark}Clear.") == [("examination", "Chest."), (name, "Clear.")]


@pytest.mark.parametrize("word", ["Evaluation", "Hx", "Imp", "Dx", "Prior images", "HX", "EVALUATION"])
def test_short_headings_in_prose_are_none(word: str) -> None:
    body = f"Clear. {word} limited by rotation."
    assert parsed(f"FINDINGS: {body}") == [("findings", body)]


def test_a_discussion_is_the_findings_where_nothing_else_is() -> None:
    text = "HISTORY: Cough.\nDISCUSSION: Clear.\nIMPRESSION: Normal."
    assert parsed(text) == [("history", "Cough."), ("findings", "Clear."), ("impression", "Normal.")]
    assert [text[start:end] for start, end in report_text(text)] == ["Clear.", "Normal."]
    assert parsed(f"FINDINGS: Heart.\n{text}")[2] == ("comment", "Clear.")


def test_a_view_without_text_does_not_make_a_comment_of_the_discussion() -> None:
    assert ("findings", "Clear.") in parsed("CHEST, 2 VIEWS:\nDISCUSSION: Clear.\nIMPRESSION: Normal.")


def test_a_label_begins_behind_the_sentence_before_it() -> None:
    sections = split_sections("Chest radiograph. History: fever.\nFINDINGS: Clear.")
    assert [(section.name, section.heading) for section in sections] == [
        ("preamble", ""),
        ("history", "History"),
        ("findings", "FINDINGS"),
    ]


def test_a_label_with_an_abbreviation_is_whole() -> None:
    assert parsed("FINDINGS: Clear.\nACC. NO.: 12") == [("findings", "Clear."), ("signature", "12")]


@pytest.mark.parametrize("heading", ["FINDINGS", "HISTORY", "History"])
def test_an_examination_keeps_its_last_word_above_a_heading(heading: str) -> None:
    text = f"EXAM: CHEST\n{heading}: x y.\n"
    found = [(section.name, section_text(text, section)) for section in split_sections(text)]
    assert found == [("examination", "CHEST"), (heading.lower(), "x y.")]


def test_a_heading_of_findings_below_a_view_is_no_text_of_them() -> None:
    assert parsed("CHEST, 2 VIEWS:\nFINDINGS: Clear.\nIMPRESSION: No.") == [
        ("findings", "Clear."),
        ("impression", "No."),
    ]
