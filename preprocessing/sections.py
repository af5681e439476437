"""Report text to sections; the first step from a report to the sentences that pretraining reads.

`split_sections` cuts a report at its headings into spans that tile the untouched text; `report_text` picks the spans
that a named policy sends to pretraining; `sentences.split_sentences` cuts those further. The headings, with their
canonical names, are in `rules/headings.yaml`, which a hospital may extend.

Everything here takes time linear in the length of the text: lines are visited once, and a label is never longer than
`LONGEST_LABEL` characters.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from preprocessing.headings import LONGEST_LABEL, HeadingVocabulary, default_vocabulary

PREAMBLE = "preamble"
UNHEADED = "unheaded"
ENDED_BY_RULE = frozenset({"wet_read", "addendum"})
"""Sections that stand on top of the final report, between drawn lines."""

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

_LINE = re.compile(r"[^\r\n\v\f\x85\u2028\u2029]*(?:\r\n|[\r\n\v\f\x85\u2028\u2029]|\Z)")
_OPENING = re.compile(r"[\s\ufeff]*(?:#{1,6}\s+|[*_]{1,3}(?=\w)|>\s*)?")
_CLOSING = re.compile(r"[*_]{0,3}[ \t\u00a0]*")
_RULE = re.compile(r"[\s\ufeff]*(?:_{5,}|([=*~\-\u2014])\1{2,})\s*\Z")
_DASH = re.compile(
    r"([A-Za-z][A-Za-z0-9 \t&'’/(),]{1,60}?)(?:[ \t\u00a0]+-{1,2}[ \t\u00a0]+|[ \t\u00a0]*[–—][ \t\u00a0]*)"
)
_CAPITALS = re.compile(r"((?:[A-Z][A-Z&'’/]+[ \t\u00a0]+){1,4})(?=[A-Z]?[a-z]{2}|[A-Z] [a-z]|\d{1,2}[.)])")
_WORD = re.compile(r"[^\s*_]+")
_ENDS_SENTENCE = re.compile(r"(?:[.!?;)\]*_|]|\A)[\s*_]*\Z|\t\s*\Z|\s{2}\Z")
_SUBSTANCE = re.compile(r"[^\W_]")


@dataclass(frozen=True, slots=True)
class Section:
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


@dataclass(frozen=True, slots=True)
class _Heading:
    """A heading that was found: its canonical name, its words and where it and its text begin."""

    name: str
    label: str
    start: int
    text_start: int
    is_view: bool = False


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
    if _SUBSTANCE.search(text, 0, starts[0]):
        sections.append(Section(PREAMBLE, "", 0, starts[0], 0))
    else:
        starts[0] = 0
    for heading, start, end in zip(headings, starts, [*starts[1:], len(text)], strict=True):
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
    for names in POLICIES[policy]:
        spans = [_trimmed(text, section.text_start, section.end) for section in sections if section.name in names]
        spans = [(start, end) for start, end in spans if _SUBSTANCE.search(text, start, end)]
        if spans:
            return spans
    return []


def section_text(text: str, section: Section) -> str:
    """The words of one section, behind its heading, without white space at both ends."""
    start, end = _trimmed(text, section.text_start, section.end)
    return text[start:end]


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    body = text[start:end]
    start += len(body) - len(body.lstrip())
    return start, max(start, end - (len(body) - len(body.rstrip())))


def _without_echoes(text: str, headings: list[_Heading]) -> list[_Heading]:
    """Drop a heading that stands right behind another and says the same again or only names the view.

    "EXAMINATION: CHEST, 2 VIEWS:" is an examination, and "INDICATION: INDICATION: cough" one indication.
    """
    kept: list[_Heading] = []
    for heading in headings:
        follows_directly = bool(kept) and not _SUBSTANCE.search(text, kept[-1].text_start, heading.start)
        if follows_directly and not kept[-1].label and heading.name == kept[-1].name:
            kept[-1] = replace(heading, start=kept[-1].start)  # a rule, and below it "FINAL REPORT"
        elif not (follows_directly and (heading.is_view or (heading.label and heading.name == kept[-1].name))):
            kept.append(heading)
    return kept


def _headings(text: str, vocabulary: HeadingVocabulary) -> list[_Heading]:
    """Headings in order of their place in the text."""
    found: list[_Heading] = []
    after_blank = True
    for match in _LINE.finditer(text):
        start, end = match.span()
        line = match.group()
        if not _RULE.match(line):
            found += _headings_of_line(line, start, after_blank, vocabulary)
        elif found and not _SUBSTANCE.search(text, found[-1].text_start, start):
            # The underline of a heading belongs to the heading.
            found[-1] = replace(found[-1], text_start=end)
        elif found and found[-1].name in ENDED_BY_RULE:
            found.append(_Heading(PREAMBLE, "", start, end))
        after_blank = not line.strip()
    return found


def _headings_of_line(line: str, offset: int, after_blank: bool, vocabulary: HeadingVocabulary) -> Iterator[_Heading]:
    first = _heading_at_line_start(line, offset, after_blank, vocabulary)
    position = 0
    if first is not None:
        yield first
        position = first.text_start - offset
    colon = line.find(":", position)
    while colon >= 0:
        heading = _heading_before_colon(line, offset, max(position, colon - LONGEST_LABEL), colon, vocabulary)
        position = colon + 1
        if heading is not None:
            yield heading
            position = heading.text_start - offset
        colon = line.find(":", position)


def _heading_at_line_start(line: str, offset: int, after_blank: bool, vocabulary: HeadingVocabulary) -> _Heading | None:
    opening = _OPENING.match(line)
    begin = opening.end() if opening else 0
    head = line[begin : begin + LONGEST_LABEL]
    if not head or not (head[0].isalpha() or head[0].isdigit()):
        return None
    colon = head.find(":")
    if colon >= 0:
        label = head[:colon].rstrip("*_ \t\u00a0")
        name = vocabulary.name_of(label) or vocabulary.name_of_misspelt(label)
        is_view = name is None and vocabulary.is_view_heading(label)
        if is_view:
            name = vocabulary.view_name
        if name is not None:
            return _Heading(name, label, offset, _behind(line, offset, begin + colon + 1), is_view)
    elif len(line) - begin <= LONGEST_LABEL:
        label = head.strip().rstrip("*_")
        name = _name_of_lone_line(label, after_blank, vocabulary)
        if name is not None:
            return _Heading(name, label, offset, offset + len(line))
    return _heading_without_colon(head, line, offset, begin, vocabulary)


def _name_of_lone_line(label: str, after_blank: bool, vocabulary: HeadingVocabulary) -> str | None:
    """Canonical name of a heading that has a line to itself and no colon.

    A lower-case word alone on its line may be the end of a wrapped sentence, so it needs a blank line before it.
    """
    if label[:1].isupper() or after_blank:
        name = vocabulary.name_of(label)
        if name is not None:
            return name
    return vocabulary.name_of_misspelt(label) if label.isupper() else None


def _heading_without_colon(
    head: str, line: str, offset: int, begin: int, vocabulary: HeadingVocabulary
) -> _Heading | None:
    """A heading followed by a dash, a heading in capitals followed by a sentence, or an opening phrase."""
    dash = _DASH.match(head)
    if dash and head[0].isupper():
        name = vocabulary.name_of(dash.group(1))
        if name is not None:
            return _Heading(name, dash.group(1).strip(), offset, _behind(line, offset, begin + dash.end()))
    capitals = _CAPITALS.match(head)
    if capitals:
        name = vocabulary.name_of(capitals.group(1))
        if name is not None:
            return _Heading(name, capitals.group(1).strip(), offset, offset + begin + capitals.end())
    opener = vocabulary.openers.match(head)
    if opener and head[0].isupper():  # a wrapped line of prose may begin with the same words
        name = vocabulary.opener_names[" ".join(opener.group().lower().split())]
        return _Heading(name, opener.group(), offset, _behind(line, offset, begin + opener.end()))
    return None


def _heading_before_colon(
    line: str, offset: int, begin: int, colon: int, vocabulary: HeadingVocabulary
) -> _Heading | None:
    """The longest heading that ends at a colon inside a line.

    Lower-case words need the end of a sentence before them; capitalised ones do not, since whole reports come on one
    line: "EXAM: CHEST INDICATION: COUGH FINDINGS: CLEAR".
    """
    window = line[begin:colon]
    words = list(_WORD.finditer(window))
    if not words or not (vocabulary.may_end_heading(words[-1].group()) or window.isupper()):
        return None
    for word in words:
        label = window[word.start() :].rstrip("*_ \t\u00a0")
        opens_sentence = bool(_ENDS_SENTENCE.search(line[max(0, begin + word.start() - 8) : begin + word.start()]))
        opens_sentence = opens_sentence or not window[: word.start()].strip("*_ \t\u00a0")
        name = vocabulary.name_of(label) if opens_sentence or _is_title(label) else None
        if name is None and opens_sentence and label.isupper():
            name = vocabulary.name_of_misspelt(label)
        is_view = name is None and opens_sentence and label.isupper() and vocabulary.is_view_heading(label)
        if is_view:
            name = vocabulary.view_name
        if name is not None:
            start = begin + word.start()
            while start > begin and line[start - 1] in "*_":
                start -= 1
            return _Heading(name, label, offset + start, _behind(line, offset, colon + 1), is_view)
    return None


def _is_title(label: str) -> bool:
    """Whether every word of more than three letters begins with a capital."""
    return label[:1].isupper() and all(word[:1].isupper() for word in label.split() if len(word) > 3)


def _behind(line: str, offset: int, position: int) -> int:
    """Where the text begins behind a heading that ends at `position`: decoration and blanks are skipped."""
    closing = _CLOSING.match(line, position)
    return offset + (closing.end() if closing else position)
