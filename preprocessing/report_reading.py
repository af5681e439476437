"""One report to what its study gets from it: sections and sentences, as far as the policy takes them."""

from collections.abc import Sequence
from dataclasses import dataclass

from preprocessing.sections import report_text, split_sections
from preprocessing.sentences import split_sentences, words_in

REPORT_STATUS: dict[str, str] = {
    "paired": "a report was found and has sentences",
    "no_report": "no report names this study",
    "no_usable_text": "the report has no text that the policy takes; `report_reason` says why",
    "several_reports": "reports with different texts name this study; none was taken",
}
"""Values of `report_status` in the studies table."""


@dataclass(frozen=True, slots=True)
class StudyText:
    """What a study got from its report; see `store.STUDY_SCHEMA`."""

    status: str = "no_report"
    reason: str = ""
    flags: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()


def read_report(text: str, flags: Sequence[str], policy: str, minimum_words: int) -> StudyText:
    """Sections and sentences of one report, as far as the policy takes them.

    A sentence with fewer than `minimum_words` words (redactions and numbers not counted) is left out.
    """
    sections = split_sections(text)
    names = tuple(section.name for section in sections)
    spans = report_text(text, policy, sections)
    if not spans:
        return StudyText("no_usable_text", "no_section_of_the_policy", tuple(flags), names)
    found = [sentence.text for start, end in spans for sentence in split_sentences(text[start:end], start)]
    sentences = tuple(sentence for sentence in found if words_in(sentence) >= minimum_words)
    if not sentences:
        return StudyText("no_usable_text", "no_sentence_long_enough", tuple(flags), names)
    return StudyText("paired", "", tuple(flags), names, sentences)
