"""A report to its labels, with evidence: observations of CheXpert and NIH ChestX-ray14, and the severity of edema.

Behind `sections` and `sentences`. What is said of an observation in several places is put together here, as the
specification of the CheXpert labeler does (Irvin et al., AAAI 2019), but that absent and uncertain give uncertain.
What becomes of uncertain labels in training is decided in training; here they are -1.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from preprocessing.assertions import Assertion, assertions
from preprocessing.lexicon import RulePack, rule_pack
from preprocessing.rule_files import NO_FINDING, SEVERITY
from preprocessing.sections import Section, section_spans, split_sections
from preprocessing.sentences import Sentence, split_sentences


class Evidence(NamedTuple):
    """Where a report says something of an observation; positions are in the untouched report.

    Args:
        observation: its name, or `SEVERITY`.
        value: 1 present, 0 absent, -1 uncertain; of `SEVERITY` the grade, 0 to 3.
        section: canonical name of the section.
        sentence_start, sentence_end: the sentence.
        start, end: the words that say it.
        cue_start, cue_end: the cue that denies it or leaves it open; both `None` where there is none.
    """

    observation: str
    value: int
    section: str
    sentence_start: int
    sentence_end: int
    start: int
    end: int
    cue_start: int | None
    cue_end: int | None


@dataclass(frozen=True, slots=True)
class ReportLabels:
    """What a report says.

    Args:
        values: observation to 1 present, 0 absent or -1 uncertain; those that are not mentioned are not in it.
        edema_severity: 0 none, 1 vascular congestion, 2 interstitial, 3 alveolar; `None` where no grade is said.
        evidence: every place that counted, in the report's order.
    """

    values: Mapping[str, int]
    edema_severity: int | None
    evidence: tuple[Evidence, ...]


def label_names(pack: RulePack) -> tuple[str, ...]:
    """Names of all labels: No Finding, then the observations in the order of the rule pack."""
    return (NO_FINDING, *pack.observations)


def label_report(text: str, sections: Sequence[Section] | None = None, pack: RulePack | None = None) -> ReportLabels:
    """Label one report.

    Args:
        text: the report, untouched.
        sections: as `split_sections` cuts it.
        pack: the rules; those that come with the package where `None`.
    """
    pack = pack or rule_pack()
    return labels_of(text, labelled_parts(text, split_sections(text) if sections is None else sections, pack), pack)


def labelled_parts(text: str, sections: Sequence[Section], pack: RulePack) -> list[tuple[str, list[Sentence]]]:
    """The sections that labels are read from, as (name, sentences)."""
    read = section_spans(text, sections, pack.groups)
    return [(section.name, split_sentences(text[start:end], start)) for section, start, end in read]


def labels_of(text: str, parts: Iterable[tuple[str, Sequence[Sentence]]], pack: RulePack) -> ReportLabels:
    """Labels from sentences that are known already, as (name of the section, its sentences)."""
    evidence: list[Evidence] = []
    has_text = False
    for section, sentences in parts:
        for sentence in sentences:
            has_text = True
            found = assertions(text[sentence.start : sentence.end], pack)
            evidence += [_placed(assertion, section, sentence) for assertion in found]
    values: dict[str, int] = {}
    severity: int | None = None
    for said in evidence:
        if said.observation == SEVERITY:
            severity = max(said.value, severity or 0)
        else:
            values[said.observation] = together(values.get(said.observation), said.value)
    pathology = any(value != 0 and name in pack.pathologies for name, value in values.items())
    if has_text and not pathology and not severity:
        values[NO_FINDING] = 1
    return ReportLabels(values, severity, tuple(evidence))


def together(one: int | None, other: int) -> int:
    """Two statements about one observation: present beats the others, absent and uncertain give uncertain."""
    if one is None or one == other:
        return other
    return 1 if 1 in (one, other) else -1


def _placed(assertion: Assertion, section: str, sentence: Sentence) -> Evidence:
    cue = assertion.cue
    return Evidence(
        assertion.observation,
        assertion.value,
        section,
        sentence.start,
        sentence.end,
        sentence.start + assertion.start,
        sentence.start + assertion.end,
        None if cue is None else sentence.start + cue[0],
        None if cue is None else sentence.start + cue[1],
    )
