"""Sections to sentences with spans; behind `sections.report_text`, before the datalist and the labels.

Radiology prose breaks general splitters: decimals, enumerations ("1. Clear lungs. 2. ..."), redactions (`___`, `XXXX`),
missing blanks behind a full stop, lines ended without one. The text is visited once, from mark to mark.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

# Words whose full stop never ends a sentence, and those whose full stop does so only before a capital.
_NEVER_LAST = frozenset({"dr", "drs", "mr", "mrs", "ms", "prof", "st", "vs", "e.g", "eg", "i.e", "ie"}) | frozenset(
    {"approx", "resp", "incl", "viz", "cf", "ca"}
)
_LAST_BEFORE_CAPITAL = frozenset({"a.m", "p.m", "am", "pm", "etc", "al", "jr", "sr", "m.d", "md"}) | frozenset(
    {"cm", "mm", "mg", "ml", "hr", "hrs", "min", "yr", "yrs", "wk", "wks", "mo", "mos", "in", "ft"}
    | {"lat", "ap", "pa", "rt", "lt", "bilat"}
)
_LAST_UNLESS_NUMBER = frozenset({"no", "nos", "fig", "figs", "ser", "im", "img", "pg", "vol"})

_MARK = re.compile(
    r"(?P<blank>(?:\r\n?|\n)(?:[ \t\u00a0]*(?:\r\n?|\n))+)"
    r"|(?P<line>\r\n?|\n)"
    r"|(?P<stop>(?<![.!?])[.!?]++[\"'”’)\]]*+)(?=\s|\Z|[A-Z][a-z ])"
    r"|(?P<number>(?<=\s)\(?\d{1,2}[.)](?=\s+[A-Z]))"
)
_ENUMERATOR = re.compile(r"\s*(?:\(?(\d{1,2})(?:[.)](?!\d)|\s-)\s*(?=[^\W\d_])|[-*•·‣>]+\s+)?")
_LAST_WORD = re.compile(r"[^\s(\[\"'“]*\Z")
_NEXT = re.compile(r"\s*(\S+)")
_LOOK_AHEAD = 60  # characters; a bound on every look around a mark keeps the time linear
_WORD = re.compile(r"[^\W\d_]{2,}")
_REDACTED = re.compile(r"_{2,}|\b[Xx]{3,}\b")


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence.

    Args:
        text: its words with single blanks between them, without list number or bullet.
        start: first character of it in the text that `split_sentences` was told the start of.
        end: behind its last character.
    """

    text: str
    start: int
    end: int


def split_sentences(text: str, start: int = 0) -> list[Sentence]:
    """Cut a section's text into sentences; spans are positions in `text` plus `start`.

    A sentence's text is that of its span with white space made single. Fragments without a word are left out,
    as are list numbers and bullets: nothing else is lost.
    """
    sentences = []
    for begin, end in pairwise(_boundaries(text)):
        raw = text[begin:end]
        opening = _ENUMERATOR.match(raw, 0, _LOOK_AHEAD)
        body = raw[opening.end() if opening else 0 :].lstrip()
        if _WORD.search(body):
            first = start + end - len(body)
            sentences.append(Sentence(" ".join(body.split()), first, first + len(body.rstrip())))
    return sentences


def words_in(sentence: str) -> int:
    """Number of words that say something: redactions (`___`, `XXXX`), numbers and marks do not count."""
    return len(_WORD.findall(_REDACTED.sub(" ", sentence)))


def _boundaries(text: str) -> Iterator[int]:
    """Positions where sentences begin, and the end of the text."""
    yield 0
    width = max((len(line) for line in text.splitlines()), default=0)
    begin, line_begin, number_end, item = 0, 0, *_list_number(text, 0)
    for mark in _MARK.finditer(text):
        kind, end = mark.lastgroup, mark.end()
        if kind == "number":
            # "... pleural effusion 2. Cardiomegaly": the next number of a list, the full stop forgotten.
            ends = item > 0 and mark.group().strip("(.)") == str(item + 1)
            end = mark.start()
        elif kind == "stop":
            ends = end > number_end and _stop_ends_sentence(text, begin, mark)
        else:
            ends = kind == "blank" or _line_was_ended(text, mark.start() - line_begin, end, width)
            line_begin = end
        if ends and end > begin:
            yield end
            number_end, number = _list_number(text, end)
            begin, item = end, number or item
    if begin < len(text):
        yield len(text)


def _list_number(text: str, position: int) -> tuple[int, int]:
    """Where the list number or bullet at `position` ends, and the number; `position` and 0 where there is none."""
    match = _ENUMERATOR.match(text, position, position + _LOOK_AHEAD)
    if not match or not match.group().strip():
        return position, 0
    return match.end(), int(match.group(1) or 0)


def _stop_ends_sentence(text: str, begin: int, mark: re.Match[str]) -> bool:
    if mark.group()[0] != "." or mark.group().startswith(".."):
        return True
    word = _word_before(text, begin, mark.start())
    following = _NEXT.match(text, mark.end(), mark.end() + _LOOK_AHEAD)
    after = following.group(1) if following else ""
    if word in _NEVER_LAST:
        return not after
    if word in _LAST_BEFORE_CAPITAL:
        return not after or not after[0].islower()
    if word in _LAST_UNLESS_NUMBER:
        return not after[:1].isdigit()
    return not (len(word) == 1 and _is_initial(text, begin, mark.start() - 1))


def _word_before(text: str, begin: int, position: int) -> str:
    match = _LAST_WORD.search(text[max(begin, position - 20) : position])
    return match.group().lower() if match else ""


def _is_initial(text: str, begin: int, position: int) -> bool:
    """Whether the single letter at `position` is an initial: a capital behind a title or an initial ("Dr. J. Doe").

    "Hepatitis C." ends a sentence, so a capital alone is not enough.
    """
    before = text[max(begin, position - 12) : position].split()
    behind = before[-1].lower() if before else ""
    return text[position].isupper() and (behind.rstrip(".") in _NEVER_LAST or (len(behind) == 2 and behind[1] == "."))


def _line_was_ended(text: str, length: int, next_line: int, width: int) -> bool:
    """Whether a single line break ends a sentence.

    It does before a list item, and where the next line begins with a capital though its first word would have fitted
    on the line (`length` of `width` characters): a wrapped line is broken only when the word did not fit.
    """
    following = _NEXT.match(text, next_line, next_line + _LOOK_AHEAD)
    if not following:
        return False
    if _list_number(text, next_line)[0] > next_line:
        return True
    word = following.group(1)
    return word[0].isupper() and length + 1 + len(word) <= width
