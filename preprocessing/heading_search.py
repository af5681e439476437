"""Finds the headings that a line or a colon sets apart; `run_on_headings` finds those that nothing does.

Lines are visited once, and no label is longer than `LONGEST_LABEL` characters, so the time is linear in the length of
the text.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from preprocessing.headings import ADMINISTRATIVE, IN_LABEL, LONGEST_LABEL, HeadingVocabulary

PREAMBLE = "preamble"
SIGNATURE = "signature"
OUTSIDE = frozenset({PREAMBLE, SIGNATURE})
BODY = frozenset({"findings", "impression", "findings_and_impression"})
ENDED_BY_RULE = frozenset({"wet_read", "addendum"})
"""Sections that stand on top of the final report, between drawn lines."""

SUBSTANCE = re.compile(r"[^\W_]")
_OPENING = re.compile(r"\s*(?:#{1,6}\s+|[*_]{1,3}(?=\w)|[>•·-]{1,2}\s*)?")
_CLOSING = re.compile(r"[:*_]{0,3}(?:-{1,2}>?)?[ \t]*")
_ENCLOSED = re.compile(
    r"\s*[#*_=~\-–\[(<\"]{1,6}\s*(?:(?:b|u|strong)>\s*)?([A-Za-z][A-Za-z0-9 &'/,]{1,50}?)\s*"
    r"(?::?\s*(?:</\w{1,6}>|[*_=~\-–\])>\"#]{1,6})\s*:?|:?\s*\Z)[ \t]*"
)
_RULE = re.compile(r"\s*(?:_{5,}|([=*~\-—])\1{2,})\s*\Z")
_DASH = re.compile(r"([A-Za-z][A-Za-z0-9 &'/(),]{1,60}?)(?: *[-–—]{1,2}>? +| *[–—]+ *| *[=;] +| *-*>{1,2} *)")
_STOPPED = re.compile(r"([A-Z][A-Za-z &'/]{3,40}?)\.{1,3}(?:\s+(?=\S)|(?=[A-Z]))")
_NUMBERING = re.compile(r"[\W_]*(?:(?:\d{1,2}|[A-Z])[.)])?[\W_]*\Z")
_MOST_HEADINGS = 100  # of one report; looked back at to tell a letterhead from a footer
_LONGEST_NUMBERING = 8  # characters of "1. ", "(a) " or a bullet before a heading
_LETTERHEAD = 2000  # characters at the top in which the lines of a letterhead are looked for
_FIRST_WORD = re.compile(r"[A-Za-z']+")
_WORD = re.compile(r"[^\s*_]+")
_ENDS_SENTENCE = re.compile(r"(?:[.!?;)\]*_|]|\A)[\s*_]*\Z|\s{2}\Z")
_PAGE = re.compile(r"\bpage:?\s+\d+(?:\s*(?:of|/)\s*\d+|\W*\Z)", re.IGNORECASE)
FULL_LINE = 55  # characters from which a line may have been wrapped
_DECORATION = frozenset('#*_>•·-–=~[(<"')
_ENDS = frozenset(".!?;:")
_SENTENCE_ENDS = frozenset(".!?;")
_NO_HEADING_BEFORE = frozenset(".:;,)")  # no heading goes on in the next line behind these
_RULE_MARKS = frozenset("_=*~-—")


class Heading(NamedTuple):
    """A heading that was found: its canonical name, its words and where it and its text begin."""

    name: str
    label: str
    start: int
    text_start: int
    is_view: bool = False


def marked_headings(text: str, vocabulary: HeadingVocabulary) -> list[Heading]:
    """Headings with a colon, a dash or a line of their own, in order.

    Args:
        text: in which tabs and bars that part sections are line breaks.
        vocabulary: of headings.
    """
    found: list[Heading] = []
    start, before, interrupted = 0, "", ""
    has_pages = "age " in text
    for line in text.splitlines(keepends=True):
        end = start + len(line)
        words = line.strip()
        if not words:
            before = ""
        elif words[0] in _RULE_MARKS and _RULE.match(line):
            _draw_rule(text, found, start, end)
            before = ""
        else:
            count = len(found)
            is_page = has_pages and len(words) <= 2 * LONGEST_LABEL and bool(_PAGE.search(words))
            if is_page and found and found[-1].name not in OUTSIDE:
                interrupted = found[-1].name
                found.append(Heading(_outside(found), "", start, end))
            elif not is_page:
                is_administrative = _take_line(text, line, words, start, before, found, vocabulary)
                if len(found) > count:
                    interrupted = ""
                elif interrupted and not is_administrative and words not in text[: min(found[0].start, _LETTERHEAD)]:
                    found.append(Heading(interrupted, "", start, start))
                    interrupted = ""
            before = line.lstrip()
        start = end
    return found


def _take_line(
    text: str, line: str, words: str, start: int, before: str, found: list[Heading], vocabulary: HeadingVocabulary
) -> bool:
    """Add the headings of a line to those found; tells whether it is a line of a letterhead or footer."""
    is_administrative = False
    colon = _next_colon(line)
    if colon < 0:
        if not _may_open(words, vocabulary):
            return False
    else:
        plain = _plain_heading(line, colon, start, before, vocabulary)
        if plain is not None:
            found.append(plain)
            return False
    for heading in _headings_of_line(line, words, colon, start, before, vocabulary):
        if heading.name != ADMINISTRATIVE:
            earliest = found[-1].text_start if found else 0
            found.append(heading._replace(start=max(heading.start, earliest)))
        else:
            is_administrative = True
            placed = _administrative(text, heading, found)
            if placed is not None:
                found.append(placed)
    return is_administrative


def _next_colon(line: str, position: int = 0) -> int:
    """Place of the next colon that is not one of a clock time ("3:45 P.M."); -1 where there is none."""
    colon = line.find(":", position)
    while colon > 0 and line[colon - 1].isdigit() and line[colon + 1 : colon + 3].isdigit():
        colon = line.find(":", colon + 1)
    return colon


def _draw_rule(text: str, found: list[Heading], start: int, end: int) -> None:
    """A drawn line underlines the heading above it, or ends what stands on top of the final report."""
    if found and not SUBSTANCE.search(text, found[-1].text_start, start):
        found[-1] = found[-1]._replace(text_start=end)
    elif found and found[-1].name in ENDED_BY_RULE:
        found.append(Heading(PREAMBLE, "", start, end))


def _outside(found: list[Heading]) -> str:
    """What letterheads and footers are at this place of a report."""
    return SIGNATURE if any(heading.name in BODY for heading in found[-_MOST_HEADINGS:]) else PREAMBLE


def _administrative(text: str, heading: Heading, found: list[Heading]) -> Heading | None:
    """The section that a line of a letterhead or footer opens; `None` where it belongs to the one before.

    Directly below a heading without text, as in "COMPARISON:" and then "Date: 2010", it is that section's text.
    """
    name = _outside(found)
    if not found or found[-1].name == name:
        return None
    gap = text[found[-1].text_start : heading.start]
    if not gap.strip() and "\n\n" not in gap.replace("\r", ""):
        return None
    return heading._replace(name=name)


def _plain_heading(line: str, colon: int, offset: int, before: str, vocabulary: HeadingVocabulary) -> Heading | None:
    """The heading of a line such as "FINDINGS: Clear.", without any of the difficulties; most lines are such."""
    if colon > LONGEST_LABEL or (before and before.rstrip()[-1] not in _NO_HEADING_BEFORE):
        return None
    label, text = line[:colon].strip(), line[colon + 1 :].lstrip(" ")
    if (
        not label[:1].isalnum()
        or label[-1] in "*_"
        or text[:1] in _DECORATION
        or line[colon + 1 : colon + 2] == "-"
        or ":" in text
    ):
        return None
    known = vocabulary.recognised(label)
    if known is None or known[0] == ADMINISTRATIVE:
        return None
    return Heading(known[0], label, offset, offset + len(line) - len(text), known[1])


def _may_open(words: str, vocabulary: HeadingVocabulary) -> bool:
    """Whether a line without a colon may begin with a heading: a quick test that most lines of prose fail."""
    first = _FIRST_WORD.match(words)
    if not first:
        return words[0] in _DECORATION
    return first.group().lower().replace("'", "") in vocabulary.first_words or (
        len(words) <= LONGEST_LABEL and words.isupper()
    )


def _headings_of_line(
    line: str, words: str, colon: int, offset: int, before: str, vocabulary: HeadingVocabulary
) -> Iterator[Heading]:
    first = _heading_at_line_start(line, words, colon, offset, before, vocabulary)
    position = 0
    if first is not None:
        yield first
        position = first.text_start - offset
        colon = _next_colon(line, position)
    while colon >= 0:
        heading = _heading_before_colon(line, offset, max(position, colon - LONGEST_LABEL), colon, vocabulary)
        position = colon + 1
        if heading is not None:
            yield heading
            position = heading.text_start - offset
        colon = _next_colon(line, position)


def _heading_at_line_start(
    line: str, words: str, colon: int, offset: int, before: str, vocabulary: HeadingVocabulary
) -> Heading | None:
    if words[0].isalnum():
        begin = len(line) - len(line.lstrip())
    else:
        enclosed = _enclosed_heading(line, offset, vocabulary)
        if enclosed is not None:
            return enclosed
        opening = _OPENING.match(line)
        begin = opening.end() if opening else 0
        if not line[begin : begin + 1].isalnum():
            return None
    if begin <= colon <= begin + LONGEST_LABEL:
        label = line[begin:colon].rstrip("*_ ")
        broken = _broken_heading(before, label, vocabulary) if before else None
        if broken is not None:
            name, length = broken
            return Heading(name, label, offset - length, _behind(line, offset, colon + 1))
        known = vocabulary.recognised(label)
        if known is not None:
            return Heading(known[0], label, offset, _behind(line, offset, colon + 1), known[1])
    elif colon < 0 and len(words) <= LONGEST_LABEL and words.count(" ") < 8:
        label = line[begin:].strip().rstrip("*_-–—=. ")
        alone = _name_of_lone_line(label, before, vocabulary) if label else None
        if alone is not None:
            return Heading(alone, label, offset, offset + len(line))
    return _heading_before_dash(line, begin, offset, before, vocabulary)


def _broken_heading(before: str, label: str, vocabulary: HeadingVocabulary) -> tuple[str, int] | None:
    """Name of a heading that the end of a line broke, and how far above it begins: "... Clinical" and "History:".

    Where the end is a heading without its beginning, that has to begin a sentence or a full line has to break it, and
    it is no part of the body: "EXAM: CHEST" and below it "FINDINGS:" are two headings.
    """
    tail = before[-LONGEST_LABEL:]
    if tail.rstrip()[-1] in _NO_HEADING_BEFORE or vocabulary.inner_words.isdisjoint(
        tail.lower().replace("'", "").split()[-3:]
    ):
        return None
    is_whole = vocabulary.recognised(label) is not None
    for word in list(_WORD.finditer(tail))[-3:]:
        first = tail[word.start() :]
        is_broken = len(before) > FULL_LINE or tail[: word.start()].rstrip()[-1:] in _SENTENCE_ENDS
        if is_whole and (not is_broken or vocabulary.is_view_word(word.group())):
            continue
        is_heading_itself = first == before and vocabulary.recognised_alone(first.strip()) is not None
        if (first[0].isupper() or (first[0].isalpha() and label.islower())) and not is_heading_itself:
            name = vocabulary.name_of_unmarked(f"{first} {label}")
            # "EXAM: CHEST" above "FINDINGS:" is no "chest findings".
            is_of_line_above = vocabulary.is_view_word(first.strip()) and vocabulary.name_of(label) == name
            if name is not None and not is_of_line_above:
                return name, len(first)
    return None


def _name_of_lone_line(label: str, before: str, vocabulary: HeadingVocabulary) -> str | None:
    """Canonical name of a heading that has a line to itself and no colon.

    A word alone on its line may be the end of a wrapped sentence; so one that its capitals do not set apart needs a
    line before it that is blank or was not full.
    """
    may_be_wrapped = bool(before) and not (label[0].isupper() and before != before.upper())
    if may_be_wrapped and before.rstrip()[-1] not in _ENDS and (label.islower() or len(before) > FULL_LINE):
        return None
    name = vocabulary.recognised_alone(label)
    return None if name == ADMINISTRATIVE else name


def _enclosed_heading(line: str, offset: int, vocabulary: HeadingVocabulary) -> Heading | None:
    """A heading between marks at the beginning of a line: "*** FINDINGS ***", "[Findings]", "<b>Findings:</b>"."""
    match = _ENCLOSED.match(line)
    name = vocabulary.recognised_alone(match.group(1)) if match else None
    if match is None or name is None or name == ADMINISTRATIVE:
        return None
    return Heading(name, match.group(1), offset, offset + match.end())


def _heading_before_dash(
    line: str, begin: int, offset: int, before: str, vocabulary: HeadingVocabulary
) -> Heading | None:
    """A heading at the beginning of a line with a dash, a full stop or the like in place of the colon."""
    first = _FIRST_WORD.match(line, begin)
    if not first or first.group().lower().replace("'", "") not in vocabulary.first_words:
        return None
    has_ended = not before or before.rstrip()[-1] in _ENDS
    match = None
    if line[begin].isupper() or has_ended:
        match = _DASH.match(line, begin, begin + LONGEST_LABEL)
    if match is None:
        match = _STOPPED.match(line, begin, begin + LONGEST_LABEL)
        stands_out = match is not None and match.group(1).isupper() and before + line != (before + line).upper()
        match = match if has_ended or len(before) < FULL_LINE or stands_out else None
    name = vocabulary.recognised_alone(match.group(1).strip()) if match else None
    if match is None or name is None or name == ADMINISTRATIVE:
        return None
    return Heading(name, match.group(1).strip(), offset, _behind(line, offset, match.end()))


def _heading_before_colon(
    line: str, offset: int, begin: int, colon: int, vocabulary: HeadingVocabulary
) -> Heading | None:
    """The longest heading that ends at a colon inside a line.

    A lower-case label needs the end of a sentence before it, unless the line has no capitals at all; capitalised ones
    do not, since whole reports come on one line: "EXAM: CHEST INDICATION: COUGH FINDINGS: CLEAR".
    """
    window = line[begin:colon]
    last = window.rsplit(None, 1)[-1:]
    if not last or not (vocabulary.may_end_heading(last[0]) or (last[0][0].isupper() and len(last[0]) > 4)):
        return None
    around = line[max(0, begin - LONGEST_LABEL) : colon + LONGEST_LABEL]
    for word in _WORD.finditer(window):
        label = window[word.start() :].rstrip("*_ ")
        if not label[0].isalnum() or IN_LABEL.search(label) or label.count("(") != label.count(")"):
            continue
        before = line[max(0, begin + word.start() - 24) : begin + word.start()]
        name, is_view = _name_before_colon(label, before, window[: word.start()], around, vocabulary)
        if name is not None:
            start = begin + word.start()
            while start > begin and line[start - 1] in "*_":
                start -= 1
            if start <= _LONGEST_NUMBERING and _NUMBERING.match(line[:start]):
                start = 0
            return Heading(name, label, offset + start, _behind(line, offset, colon + 1), is_view)
    return None


def _name_before_colon(
    label: str, before: str, skipped: str, around: str, vocabulary: HeadingVocabulary
) -> tuple[str | None, bool]:
    """Canonical name of a label inside a line, if it is a heading, and whether it names a view.

    Args:
        label: up to the colon.
        before: some of the line before it.
        skipped: what stands between it and the heading before, or the beginning of the line.
        around: some of the line on either side.
        vocabulary: of headings.
    """
    opens = bool(_ENDS_SENTENCE.search(before)) or bool(_NUMBERING.match(skipped))
    if opens and label.isupper() and vocabulary.is_view_heading(label):
        return vocabulary.view_name, True
    name = None
    begins_with_view = vocabulary.is_view_word(label.split()[0])  # "EXAM: PA and lateral chest comparison: none"
    if not begins_with_view and (opens or _stands_out(label, around)):
        name = vocabulary.name_of_whole(label) if opens else vocabulary.name_of(label)
        if name is not None and not opens and _belongs_to_sentence(before, label, name, vocabulary):
            return None, False
    if name is None and _may_be_misspelt(label, opens):
        name = vocabulary.name_of_misspelt(label)
    return (name if name != ADMINISTRATIVE or opens else None), False


def _stands_out(label: str, around: str) -> bool:
    """Whether a label in the middle of a sentence may be a heading: by its capitals, or because there are none."""
    return _is_title(label) or (label.islower() and around.islower())


def _belongs_to_sentence(before: str, label: str, name: str, vocabulary: HeadingVocabulary) -> bool:
    """Whether the words before a label take it into their sentence, as in "the following findings:"."""
    words = before.split()
    if not words:
        return False
    last = words[-1].lower()
    if last in vocabulary.words_before:
        return True
    is_described = vocabulary.is_described(name, last)
    if len(words) > 1 and words[-2].lower() in vocabulary.words_before:  # "NEW SINCE THE PRIOR STUDY: EFFUSION"
        is_longer = not vocabulary.is_view_word(last) and vocabulary.name_of(f"{last} {label}") is not None
        return is_described or is_longer
    return label.islower() and is_described


def _may_be_misspelt(label: str, opens_sentence: bool) -> bool:
    """Whether a label inside a line stands out enough for typing errors in it to be forgiven."""
    return _is_title(label) if opens_sentence else label.isupper() and label.isalpha() and len(label) > 5


def _is_title(label: str) -> bool:
    """Whether every word of more than three letters begins with a capital."""
    return label[:1].isupper() and all(word[:1].isupper() for word in label.split() if len(word) > 3)


def _behind(line: str, offset: int, position: int) -> int:
    """Where the text begins behind a heading that ends at `position`: decoration and blanks are skipped."""
    closing = _CLOSING.match(line, position)
    return offset + (closing.end() if closing else position)
