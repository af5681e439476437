"""Reports are cut at their headings, and nothing of them is lost."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_time import assert_linear_time

from preprocessing.sections import POLICIES, report_text, section_text, split_sections
from preprocessing.sentences import split_sentences
from preprocessing.unmapped_headings import unmapped_headings

HEADINGS = [
    "FINDINGS:",
    "Impression",
    "impression:",
    "WET READ:",
    "CHEST, 2 VIEWS:",
    "NDICATION:",
    "COMPARISON",
    "STUDY:",
    "Reason for",
    "Exam",
    "FINDINGS The",
    "CLINICAL\u00a0HISTORY",
    "Patient’s history：",
    "MRN: 1",
    "Page 1 of 2",
    "Electronically signed by",
    "J. Doe, MD",
    "**",
    "____",
    "-----",
]
PROSE = ["1. ", "The lungs are clear.", "the findings", "XXXX", "___", " - ", ":", "é", "İ", "Dr. "]
BLANKS = ["\n", "\r\n", "\n\n", " ", "  ", "\t", "\v", "\u00a0", "\ufeff", "|", "||"]
FRAGMENTS = st.sampled_from([*HEADINGS, *PROSE, *BLANKS])


def parsed(text: str) -> list[tuple[str, str]]:
    return [(section.name, section_text(text, section)) for section in split_sections(text)]


@settings(deadline=None)  # the first reads the vocabulary
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


# What the specification marks as failures of the public parser in use, each by its name.


@pytest.mark.parametrize("indent", ["", "  ", "\t", "\u00a0"])
def test_headings_with_and_without_leading_space(indent: str) -> None:
    text = f"{indent}FINDINGS: Clear.\n{indent}IMPRESSION: Normal."
    assert parsed(text) == [("findings", "Clear."), ("impression", "Normal.")]


def test_lower_case_headings() -> None:
    assert parsed("findings: clear.\n\nimpression: normal.") == [("findings", "clear."), ("impression", "normal.")]


def test_headings_without_a_space_behind_the_colon() -> None:
    assert parsed("FINDINGS:Clear.\nImpression:Normal.") == [("findings", "Clear."), ("impression", "Normal.")]


@pytest.mark.parametrize("mark", [" - ", "- ", " -- ", "—", " – ", " = ", "; ", "\n", "\n\n", " ", "  ", "\t"])
@pytest.mark.parametrize("case", [str.upper, str.title])
def test_a_dash_or_nothing_in_place_of_the_colon(mark: str, case: Callable[[str], str]) -> None:
    text = f"{case('indication')}{mark}Cough.\n\n{case('findings')}{mark}Clear.\n\n{case('impression')}{mark}Normal."
    assert parsed(text) == [("indication", "Cough."), ("findings", "Clear."), ("impression", "Normal.")]


@pytest.mark.parametrize("form", ["**{}:** ", "**{}**: ", "__{}:__ ", "**{}**\n", "### {}\n", "*{}*\n", "> {}: "])
def test_markdown_headings(form: str) -> None:
    text = form.format("Findings") + "Clear.\n\n" + form.format("Impression") + "Normal."
    assert parsed(text) == [("findings", "Clear."), ("impression", "Normal.")]


@pytest.mark.parametrize(
    "form",
    [
        "[{}] ", "[{}]:\n", "<{}>", "({})\n", "*** {} ***\n", "== {} ==\n", "---{}---\n", "{}:: ", "{}. ", "{} >> ",
        "{}->", "{} :- ", "•{}: ", "- {}: ", "1. {}: ", "A) {}: ", '"{}": ', "{}\n=====\n", "_{}_ ", "<b>{}:</b> ",
        "#{}\n", "{}\t: ",
    ],
)  # fmt: skip
@pytest.mark.parametrize("case", [str.upper, str.title])
def test_marks_around_headings_belong_to_them(form: str, case: Callable[[str], str]) -> None:
    bodies = {"indication": "Cough.", "findings": "The lungs are clear.", "impression": "No disease."}
    text = "\n".join(form.format(case(name)) + body for name, body in bodies.items())
    assert parsed(text) == list(bodies.items())


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        ("HISTORY/INDICATION", "indication"),
        ("Clinical History and Reason for Exam", "indication"),
        ("IMPRESSION AND RECOMMENDATIONS", "impression"),
        ("FINDINGS/CONCLUSION", "findings_and_impression"),
        ("X-RAY FINDINGS", "findings"),
        ("Radiological Impression", "impression"),
        ("PAST MEDICAL HISTORY", "history"),
    ],
)
def test_headings_that_join_or_qualify_others(heading: str, name: str) -> None:
    assert parsed(f"{heading}: Something.") == [(name, "Something.")]


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        ("CHEST, 2 VIEWS", "findings"),
        ("PA & LATERAL CHEST", "findings"),
        ("PATIENT'S HISTORY", "history"),
        ("PATIENT’S HISTORY", "history"),
        ("FINDINGS & IMPRESSION", "findings_and_impression"),
        ("FINDINGS/IMPRESSION", "findings_and_impression"),
        ("CHEST X-RAY (2 VIEWS)", "findings"),
    ],
)
def test_digits_ampersands_and_apostrophes_in_headings(heading: str, name: str) -> None:
    (section,) = split_sections(f"{heading}: Clear.")
    assert (section.name, section.heading) == (name, heading)


@pytest.mark.parametrize("case", [str, str.lower, str.upper])
@pytest.mark.parametrize("colon", [":", ""])
@pytest.mark.parametrize("stop", [".", ""])
def test_the_whole_report_on_one_line(case: Callable[[str], str], colon: str, stop: str) -> None:
    bodies = {"examination": "Chest two views", "indication": "Cough", "findings": "The lungs are clear",
              "impression": "No acute disease"}  # fmt: skip
    text = case(" ".join(f"{name.title()}{colon} {body}{stop}" for name, body in bodies.items()))
    assert parsed(text) == [(name, case(body + stop)) for name, body in bodies.items()]


def test_an_empty_section_does_not_swallow_the_next() -> None:
    expected = [("indication", ""), ("findings", "Clear."), ("comment", ""), ("impression", "")]
    assert parsed("INDICATION:\nFINDINGS: Clear.\nCOMMENT:\nIMPRESSION:\n") == expected
    assert parsed("Indication: Findings: Clear. Comment: Impression:") == expected


def test_a_heading_on_the_very_first_line() -> None:
    first, *_ = split_sections("FINDINGS: Clear.\nIMPRESSION: Normal.")
    assert (first.name, first.start, first.text_start) == ("findings", 0, 10)


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        ("NDICATION", "indication"),
        ("INIDCATION", "indication"),
        ("Impresion", "impression"),
        ("IMPRESSSIONS", "impression"),
        ("Findngs", "findings"),
        ("COMPARSON", "comparison"),
        ("Examintaion", "examination"),
        ("HISTROY", "history"),
        ("CLINCAL HISTROY", "history"),
    ],
)
def test_misspelt_headings_are_known_by_their_letters(heading: str, name: str) -> None:
    assert parsed(f"{heading}: Something.") == [(name, "Something.")]


def test_reason_for_portable_study_is_the_indication() -> None:
    assert parsed("REASON FOR PORTABLE STUDY: Cough.") == [("indication", "Cough.")]
    assert parsed("REASON FOR PORTABLE STUDY\nCough.") == [("indication", "Cough.")]


def test_a_provisional_findings_impression_is_an_impression() -> None:
    for heading in ("PFI", "PROVISIONAL FINDINGS IMPRESSION (PFI)"):
        assert parsed(f"{heading}: Clear.") == [("impression", "Clear.")]


def test_shouted_prose_with_a_colon_is_no_heading() -> None:
    text = "FINDINGS: Tube high.\nDR SMITH: please advance.\nNOTIFIED AT 13:20: ward.\nSTAT: yes."
    assert [name for name, _ in parsed(text)] == ["findings"]


# End of that list.


@pytest.mark.parametrize(
    "prose",
    [
        "The following findings: effusion, edema.",
        "These findings were discussed. Findings are stable.",
        "No acute cardiopulmonary findings. Impression of a mass on the trachea.",
        "In comparison to the prior study, no change. Comparison is made with CT.",
        "This examination is limited. Study of poor quality.",
        "Please see the report of the CT. The clinical history is cough.",
        "There is an impression on the esophagus. Clinical correlation is advised.",
        "Views of the chest at 13:20 show the tube. Ratio 1:2.",
        "Physical examination revealed crackles. Past history of asthma.",
        "The reason for the exam was fever. History of sarcoidosis.",
    ],
)
@pytest.mark.parametrize("case", [str, str.lower, str.upper])
def test_words_of_headings_inside_prose_are_no_headings(prose: str, case: Callable[[str], str]) -> None:
    assert parsed(case(prose)) == [("unheaded", case(prose))]
    text = f"FINDINGS: {case(prose)}\nIMPRESSION: Normal."
    assert parsed(text) == [("findings", case(prose)), ("impression", "Normal.")]


@pytest.mark.parametrize(
    "footer",
    [
        "Dictated by: Jane Roe, MD\nTranscribed by: JR",
        "Electronically signed by Jane Roe",
        "E-signed by: Jane Roe on 3/4/2015 at 08:15",
        "Attending: Jane Roe",
        "Approved: 3/4/2015",
        "Date/Time: 3/4/2015 13:20",
        "Workstation ID: RAD-12",
        "MRN: 0012345",
        "cc: Dr. A. Brown",
        "I have personally reviewed the images and agree with the above.",
        "This report was electronically signed by J. Roe.",
        "Jane Roe, M.D.",
        "Dr. Jane Q. Roe, Consultant Radiologist",
        "Page 1 of 1",
        "DICTATED BY: JANE ROE",
        "electronically signed by jane roe",
    ],
)
@pytest.mark.parametrize("gap", ["\n", "\n\n", "\r\n"])
def test_signatures_and_footers_are_no_part_of_the_impression(footer: str, gap: str) -> None:
    text = f"FINDINGS: Clear.{gap}IMPRESSION: No disease.{gap}{footer.replace(chr(10), gap)}\n"
    assert parsed(text)[:2] == [("findings", "Clear."), ("impression", "No disease.")]
    assert {name for name, _ in parsed(text)[2:]} == {"signature"}


def test_an_attestation_on_the_line_of_the_impression_is_cut_off() -> None:
    text = "FINDINGS: Clear. IMPRESSION: No disease. I have personally reviewed the images. Signed by Dr. Roe."
    assert parsed(text)[:2] == [("findings", "Clear."), ("impression", "No disease.")]
    assert {name for name, _ in parsed(text)[2:]} == {"signature"}


def test_a_letterhead_and_lines_of_the_patient_above_are_preamble() -> None:
    text = "GENERAL HOSPITAL\nPatient: DOE\nMRN: 1\nEXAM: Chest\nOrdering Physician: Roe\nAge: 50\nFINDINGS: Clear."
    assert [name for name, _ in parsed(text)] == ["preamble", "examination", "preamble", "findings"]
    assert parsed(text)[1] == ("examination", "Chest")


def test_a_section_goes_on_behind_a_page_break() -> None:
    page_break = "Page 1 of 2\n\fGENERAL HOSPITAL\nPatient: DOE\n\n"
    text = f"GENERAL HOSPITAL\nFINDINGS: Clear.\n{page_break}No effusion.\nIMPRESSION: No."
    names = [name for name, _ in parsed(text)]
    assert names == ["preamble", "findings", "signature", "findings", "impression"]
    assert [text[slice(*span)] for span in report_text(text)] == ["Clear.", "No effusion.", "No."]


def test_described_findings_on_one_line_are_no_heading() -> None:
    text = "exam chest indication abnormal findings last week impression normal chest"
    expected = [("examination", "chest"), ("indication", "abnormal findings last week"), ("impression", "normal chest")]
    assert parsed(text) == expected


def test_the_words_of_a_heading_with_an_article_are_no_heading_on_a_line_of_their_own() -> None:
    assert [name for name, _ in parsed("IMPRESSION: Stable.\n\n**the findings**\n")] == ["impression"]


def test_a_page_break_directly_above_a_signature_leaves_no_empty_section() -> None:
    sections = split_sections("FINDINGS: Clear.\nPage 1 of 2\nJane Roe, MD")
    assert [section.name for section in sections] == ["findings", "signature", "signature"]


def test_a_phrase_of_a_signature_inside_a_heading_does_not_cut_it() -> None:
    text = "  Reason for  Electronically signed by 1. NDICATION: Cough."
    assert all(s.heading in text[s.start : s.text_start] for s in split_sections(text))


def test_a_heading_broken_by_the_end_of_a_line() -> None:
    text = "EXAM: Chest. Clinical\nHistory: Cough. Reason for\nExam: Fever.\nFINDINGS: No."
    assert parsed(text) == [
        ("examination", "Chest."),
        ("history", "Cough."),
        ("indication", "Fever."),
        ("findings", "No."),
    ]


def test_a_heading_keeps_its_hard_blanks() -> None:
    (section,) = split_sections("CLINICAL\u00a0HISTORY：Cough.")
    assert (section.name, section.heading) == ("history", "CLINICAL\u00a0HISTORY")


def test_an_addendum_on_top_is_apart_from_the_final_report() -> None:
    text = "ADDENDUM\nLateral view reviewed.\n________\n  FINAL REPORT\nFINDINGS: Clear.\nADDENDUM: Again."
    assert [name for name, _ in parsed(text)] == ["addendum", "preamble", "findings", "addendum"]


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


def test_policies_are_those_of_the_specification() -> None:
    assert set(POLICIES) == {"findings+impression", "impression", "findings", "impression-else-findings-else-body"}


@pytest.mark.parametrize(
    "unit",
    [
        ":", "\n", " ", "_", "x", "7", ".", "- ", "a|", "\n\f", "A B C D: ", "Abcdefgh ijk:\n", "FINDINGS:\n----\n",
        "WET READ: a\n-----\n", "Findings ", "findings ", "a findings: ", "reason for ", "exam. findings the ",
        "FINDINGS: a\nPage 1 of 2\n", "MRN: 1\nPage 1 of 2\nb\n", "EXAM: x\nMRN: 1\n", "Signed by x. ", "İ: ",
        "clinical\nhistory:\n", "IMPRESION: ", "[a ", "** a ",
    ],
)  # fmt: skip
def test_time_is_linear_in_hostile_text(unit: str) -> None:
    assert_linear_time(split_sections, lambda length: unit * (length // len(unit)) + "x")


def test_two_megabytes_of_hostile_text_take_seconds() -> None:
    units = ["x", ":", "\n", "A: ", "7", ".", " ", "Findings ", "findings: ", "Signed by x.\n", "? ", "lungs: "]
    text = "\n".join(unit * (2_000_000 // len(units) // len(unit) + 1) for unit in units) + "x"
    begin = time.perf_counter()
    sections = split_sections(text)
    sentences = split_sentences(text)
    names = unmapped_headings(text, sections)
    assert time.perf_counter() - begin < 40
    assert sections[-1].end == len(text)
    assert len(names) <= len(sentences) + len(sections)
