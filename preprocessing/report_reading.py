"""One report to what its study gets from it: sections, sentences and labels."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from preprocessing.headings import HeadingVocabulary, default_vocabulary
from preprocessing.labels import Evidence, label_names, labels_of
from preprocessing.lexicon import RulePack, rule_pack
from preprocessing.sections import report_text, section_spans, split_sections
from preprocessing.sentences import Sentence, split_sentences, words_in
from preprocessing.text_identifiers import Identifier, find_identifiers, redacted_span
from preprocessing.unmapped_headings import unmapped_headings

REPORT_STATUS: dict[str, str] = {
    "paired": "a report was found and has sentences",
    "no_report": "no report names this study",
    "no_usable_text": "the report has no text that the policy takes; `report_reason` says why",
    "several_reports": "reports with different texts name this study; none was taken",
}
"""Values of `report_status` in the studies table."""


@dataclass(frozen=True)
class ReportRules:
    """How reports are read.

    Args:
        policy: which sections become sentences, one of `sections.POLICIES`.
        minimum_words: words that a sentence must have; redactions and numbers are not words.
        redact: whether what looks like an identifier is replaced in the sentences.
        vocabulary: of headings.
        pack: of labels.
    """

    policy: str = "findings+impression"
    minimum_words: int = 1
    redact: bool = False
    vocabulary: HeadingVocabulary = field(default_factory=default_vocabulary)
    pack: RulePack = field(default_factory=rule_pack)


@dataclass(frozen=True, slots=True)
class StudyText:
    """What a study got from its report; see `store.STUDY_SCHEMA`."""

    status: str = "no_report"
    reason: str = ""
    flags: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()
    edema_severity: int | None = None


@dataclass(frozen=True, slots=True)
class ReadReport:
    """One report as it was read.

    Args:
        text: what its study gets.
        labels: values in the order of `labels.label_names`: 1, 0, -1 or `None`.
        evidence: where the report says so.
        unmapped: its labels that look like headings and are in no vocabulary, each once.
        identifiers: how many of each kind its sentences hold, or held before they were redacted.
    """

    text: StudyText
    labels: tuple[int | None, ...]
    evidence: tuple[Evidence, ...]
    unmapped: frozenset[str]
    identifiers: Mapping[str, int]


def read_report(text: str, flags: Sequence[str], rules: ReportRules) -> ReadReport:
    """Sections, sentences and labels of one report. Labels are read from the text as it is, before it is redacted."""
    sections = split_sections(text, rules.vocabulary)
    cut: dict[int, list[Sentence]] = {}  # where a section's text begins -> its sentences

    def sentences_of(start: int, end: int) -> list[Sentence]:
        if start not in cut:
            cut[start] = split_sentences(text[start:end], start)
        return cut[start]

    read = section_spans(text, sections, rules.pack.groups)
    labelled = [(section.name, sentences_of(start, end)) for section, start, end in read]
    labels = labels_of(text, labelled, rules.pack)
    spans = report_text(text, rules.policy, sections)
    taken = [sentence for span in spans for sentence in sentences_of(*span)]
    identifiers = _in_sentences(find_identifiers(text), taken)
    words = _sentence_texts(text, taken, identifiers if rules.redact else [])
    texts = tuple(sentence for sentence in words if words_in(sentence) >= rules.minimum_words)
    return ReadReport(
        StudyText(
            "paired" if texts else "no_usable_text",
            "" if texts else "no_sentence_long_enough" if spans else "no_section_of_the_policy",
            tuple(flags),
            tuple(section.name for section in sections),
            texts,
            labels.edema_severity,
        ),
        tuple(labels.values.get(name) for name in label_names(rules.pack)),
        labels.evidence,
        frozenset(unmapped_headings(text, sections, rules.vocabulary)),
        Counter(identifier.kind for identifier in identifiers),
    )


def _in_sentences(identifiers: Sequence[Identifier], sentences: Sequence[Sentence]) -> list[Identifier]:
    """Those that lie in one of the sentences; both are in order and do not overlap."""
    places = sorted((sentence.start, sentence.end) for sentence in sentences)
    found, place = [], 0
    for one in identifiers:
        while place < len(places) and places[place][1] <= one.start:
            place += 1
        if place < len(places) and places[place][0] < one.end:
            found.append(one)
    return found


def _sentence_texts(text: str, sentences: Sequence[Sentence], identifiers: Sequence[Identifier]) -> list[str]:
    """Words of the sentences, identifiers replaced."""
    if not identifiers:
        return [sentence.text for sentence in sentences]
    return [" ".join(redacted_span(text, s.start, s.end, identifiers).split()) for s in sentences]
