"""Report text to sections; the first step from a report to the sentences that pretraining reads.

`split_sections` cuts a report at its headings into spans that tile the untouched text; `report_text` picks the spans
that a named policy sends to pretraining; `sentences.split_sentences` cuts those further. The headings, with their
canonical names, are in `rules/headings.yaml`, which a hospital may extend.

`heading_search` finds the headings that a line or a colon sets apart, `run_on_headings` those of reports that come on
one line. Everything takes time linear in the length of the text.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from preprocessing.heading_search import OUTSIDE, PREAMBLE, SUBSTANCE, Heading, marked_headings
from preprocessing.headings import HeadingVocabulary, default_vocabulary
from preprocessing.run_on_headings import run_on_headings, signature_headings, signature_line, structured_findings

UNHEADED = "unheaded"

# Names of the sections that each policy takes, in order of preference: the first group that has text is used.
# `findings_and_impression` stands for either.
POLICIES: dict[str, tuple[frozenset[str], ...]] = {
    "findings+impression": (frozenset({"findings", "impression", "findings_and_impression"}),),
    "findings": (frozenset({"findings", "findings_and_impression"}),),
    "impression": (frozenset({"impression", "findings_and_impression"}),),
    "impression-else-findings-else-body": (
        frozenset({"impression", "findings_and_impression"}),
        frozenset({"findings"}),
        frozenset({PREAMBLE, UNHEADED}),
    ),
}

_PLAIN = {
    **dict.fromkeys(map(ord, "\u00a0\u2007\u202f\ufeff\u200b"), " "), ord("："): ":", ord("﹕"): ":", ord("’"): "'"
}  # fmt: skip
_INNER_BREAK = re.compile(r"(?<=\S)[ ]*\t(?![ \t]*:)|\|")
_MARGIN = "".join(c for c in map(chr, range(0x3001)) if c.isspace()) + "|\ufeff"
_BARS = frozenset("|\ufeff")


class Section(NamedTuple):
    """One section of a report, as character positions in the untouched text.

    Args:
        name: canonical name (see `rules/headings.yaml`), `preamble` or `unheaded`.
        heading: the heading as written, without decoration and colon; empty where there is none.
        start: where the section begins, heading included; the previous section ends there.
        end: where the next section begins, or the length of the report.
        text_start: where the section's text begins, behind the heading; between `start` and `end`.
    """

    name: str
    heading: str
    start: int
    end: int
    text_start: int


def split_sections(text: str, vocabulary: HeadingVocabulary | None = None) -> list[Section]:
    """Cut a report into sections whose spans tile it: each begins where the one before ends, and nothing is lost.

    Text before the first heading is `preamble`; a report without a heading is one `unheaded` section; an empty text
    has no sections. White space and rules before the first heading belong to its section.
    """
    if not text:
        return []
    headings = _without_echoes(text, _headings(text, vocabulary or default_vocabulary()))
    if not headings:
        return [Section(UNHEADED, "", 0, len(text), 0)]
    starts = [heading.start for heading in headings]
    sections = []
    if SUBSTANCE.search(text, 0, starts[0]):
        sections.append(Section(PREAMBLE, "", 0, starts[0], 0))
    else:
        starts[0] = 0
    for heading, start, end in zip(headings, starts, [*starts[1:], len(text)], strict=True):
        if start < end:  # a section that goes on behind a page break may end at once
            sections.append(Section(heading.name, heading.label, start, end, min(heading.text_start, end)))
    return sections


def report_text(
    text: str, policy: str = "findings+impression", sections: Sequence[Section] | None = None
) -> list[tuple[int, int]]:
    """Spans `(start, end)` of the text that a policy of `POLICIES` sends to pretraining, in the report's order.

    White space at both ends is left out of a span, sections without words are left out altogether; an empty list means
    that the report has nothing that the policy takes.

    Raises:
        KeyError: for a policy that is not in `POLICIES`.
    """
    if sections is None:
        sections = split_sections(text)
    return [(start, end) for _, start, end in section_spans(text, sections, POLICIES[policy])]


def section_spans(
    text: str, sections: Sequence[Section], groups: Sequence[frozenset[str]]
) -> list[tuple[Section, int, int]]:
    """Sections of the first group of names that has text, each with the span of its words, in the report's order.

    Args:
        text: the report.
        sections: what `split_sections` made of it.
        groups: of canonical names, in order of preference; as in `POLICIES`.
    """
    for names in groups:
        spans = [(section, *text_span(text, section)) for section in sections if section.name in names]
        spans = [span for span in spans if SUBSTANCE.search(text, span[1], span[2])]
        if spans:
            return spans
    return []


def section_text(text: str, section: Section) -> str:
    """The words of one section, behind its heading, without white space at both ends."""
    start, end = text_span(text, section)
    return text[start:end]


def text_span(text: str, section: Section) -> tuple[int, int]:
    """Where the words of one section begin and end, behind its heading and without white space at both ends."""
    body = text[section.text_start : section.end]
    words = body.strip()
    if words and (words[0] in _BARS or words[-1] in _BARS):
        words = words.strip(_MARGIN)
    start = section.text_start + (body.find(words) if words else 0)
    return start, start + len(words)


def _without_echoes(text: str, headings: list[Heading]) -> list[Heading]:
    """Drop a heading that stands right behind another and says the same again or only names the view.

    "EXAMINATION: CHEST, 2 VIEWS:" is an examination, and "INDICATION: INDICATION: cough" one indication.
    """
    kept: list[Heading] = []
    for heading in headings:
        follows_directly = bool(kept) and not SUBSTANCE.search(text, kept[-1].text_start, heading.start)
        if follows_directly and not kept[-1].label and heading.name == kept[-1].name:
            kept[-1] = heading._replace(start=kept[-1].start)  # a rule, and below it "FINAL REPORT"
        elif follows_directly and kept[-1].is_view and heading.name == kept[-1].name and not heading.is_view:
            kept[-1] = heading._replace(start=kept[-1].start)  # "CHEST, 2 VIEWS:", and below it "FINDINGS:"
        elif not (follows_directly and (heading.is_view or (heading.label and heading.name == kept[-1].name))):
            kept.append(heading)
    return kept


def _headings(text: str, vocabulary: HeadingVocabulary) -> list[Heading]:
    """Headings in order of their place in the text."""
    plain = text if text.isascii() else text.translate(_PLAIN)
    lower = _lower(plain)
    lined = _INNER_BREAK.sub(_as_breaks, plain) if "\t" in plain or "|" in plain else plain
    found = marked_headings(lined, vocabulary)
    names = [heading.name for heading in found]
    if "findings_and_impression" not in names and not ("findings" in names and "impression" in names):
        found = run_on_headings(plain, lower, found, vocabulary)
    signatures = signature_headings(plain, lower, vocabulary)
    if signatures:
        starts = [heading.start for heading in found]
        outside = [
            signature
            for signature in signatures
            if (before := bisect_right(starts, signature.start)) == 0 or signature.start >= found[before - 1].text_start
        ]
        found = sorted([*found, *outside], key=lambda heading: heading.start)
    found = _with_stand_ins(found, vocabulary)
    organs = structured_findings(lower, found, vocabulary) if found else None
    if organs is not None:
        found = sorted([*found, organs], key=lambda heading: heading.start)
    if found and found[-1].name not in OUTSIDE:
        named = signature_line(plain)
        if named is not None and named.start >= found[-1].text_start:
            found.append(named)
    return found if plain is text else [_as_written(text, plain, heading) for heading in found]


def _with_stand_ins(headings: list[Heading], vocabulary: HeadingVocabulary) -> list[Heading]:
    """The headings, where those that stand in for a section that the report lacks have its name."""
    names = {heading.name for heading in headings if not heading.is_view}
    if "findings" in names or "findings_and_impression" in names:
        return headings
    return [
        heading if name is None or name in names else heading._replace(name=name)
        for heading in headings
        for name in [vocabulary.name_in_place(heading.label)]
    ]


def _as_written(text: str, plain: str, heading: Heading) -> Heading:
    """The heading with the hard blanks and curly apostrophes of the report."""
    place = plain.find(heading.label, heading.start, heading.text_start)
    return heading._replace(label=text[place : place + len(heading.label)]) if place >= 0 else heading


def _as_breaks(match: re.Match[str]) -> str:
    return "\n" * len(match.group())


def _lower(text: str) -> str:
    """The text in lower case, of the same length."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
