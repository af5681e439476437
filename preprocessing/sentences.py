"""Sections to sentences with spans; behind `sections.report_text`, before the datalist and the labels.

Radiology prose breaks general splitters: decimals, enumerations ("1. Clear lungs. 2. ..."), redactions (`___`, `XXXX`),
missing blanks behind a full stop, lines ended without one. The text is visited once, from mark to mark.
"""

import re
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

# Words whose full stop never ends a sentence; does so only before a capital; only where no number follows.
_NEVER_LAST = frozenset(
    {
        "dr",
        "drs",
        "mr",
        "mrs",
        "ms",
        "prof",
        "st",
        "vs",
        "e.g",
        "eg",
        "i.e",
        "ie",
        "approx",
        "resp",
        "incl",
        "viz",
        "cf",
    }
    | {"ca", "u.s", "pt", "pts", "hx", "fx", "tx", "dx", "sx", "w/o"}
)
_LAST_BEFORE_CAPITAL = frozenset(
    {"a.m", "p.m", "am", "pm", "etc", "al", "jr", "sr", "m.d", "md", "ph.d", "cm", "mm", "mg", "ml", "hr", "hrs", "min"}
    | {"yr", "yrs", "wk", "wks", "mo", "mos", "in", "ft", "lat", "ap", "pa", "rt", "lt", "bilat", "ant", "post", "sup"}
    | {"inf", "med"}
)
_MONTHS = frozenset({"jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec"})
_LAST_UNLESS_NUMBER = frozenset({"no", "nos", "fig", "figs", "ser", "im", "img", "pg", "vol"}) | _MONTHS
_ABBREVIATIONS = _NEVER_LAST | _LAST_BEFORE_CAPITAL | _LAST_UNLESS_NUMBER
_LONGEST = 1 + max(map(len, _ABBREVIATIONS))
# Where there are no capitals to tell, these go on with the sentence behind an abbreviation.
_CONTINUES = frozenset(
    {"in", "on", "at", "of", "to", "from", "for", "by", "with", "within", "above", "below", "and", "or", "x", "than"}
    | {"greater", "less", "today", "yesterday", "is", "are", "was", "were", "shows", "proximal", "distal", "lateral"}
)
# A single capital behind these is an initial: "read by T. Smith".
_BEFORE_NAMES = frozenset({"by", "and", "with", "to", "from", "for", "per"})
# A number behind these counts or names something and opens no list: "grade 1. Stable".
_COUNTED = frozenset(
    {"is", "are", "was", "of", "to", "than", "and", "or", "at", "in", "no", "no.", "grade", "type", "stage", "level"}
    | {"rib", "ribs", "zone", "view", "views", "image", "images", "number", "figure", "fig.", "day", "series", "x"}
)

_MARK = re.compile(r"[.!?…\r\n)]")
_STOP = re.compile(r"[.!?…]+[\"'”’)\]]*")
_BREAK = re.compile(r"(?:\r\n?|\n)(?:[ \t\u00a0]*(?:\r\n?|\n))*")
_BEFORE_ITEM = re.compile(r"\s+[^\W\d_]")
_RUN_TOGETHER = re.compile(r"[A-Z][A-Za-z ]")
_ENUMERATOR = re.compile(r"\s*(?:\(?(\d{1,2})(?:[.)](?!\d)|\s-)\s*(?=[^\W\d_])|[-*•·‣>]+\s+)?")
# Such begin an item only at the beginning of a line; elsewhere they are the end of a word or an initial.
_LINE_ENUMERATOR = re.compile(
    r"\s*(?:\(?[a-h]\)\s*(?=[^\W\d_])|[a-h]\.\s+(?=[A-Z])|#\d{1,2}[.):]\s*(?=[^\W\d_])|#\d{1,2}\s+(?=[A-Z])"
    r"|\(?(?:I{1,3}|IV|VI{0,3}|IX|X)[.)]\s+(?=[A-Z]))"
)
_ASKS_FOR_MORE = frozenset(",;:(/")  # no sentence ends at a question mark behind these
_ENUMERATING = frozenset("0123456789(-*•·‣>")
_LINE_ENUMERATING = frozenset("abcdefghIVX#(")
_SECOND_ITEM = re.compile(r"(?<=\s)\(?2[.)]\s")
_NEXT = re.compile(r"\s*(\S+)")
_LOOK_AHEAD = 60  # characters; a bound on every look around a mark keeps the time linear
_NARROW = 40  # no text is wrapped to lines shorter than this
_WORD = re.compile(r"[^\W\d_]{2,}")
_REDACTED = re.compile(r"_{2,}|\b[Xx]{3,}\b")


class Sentence(NamedTuple):
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
    for begin, end in _bodies(text):
        body = text[begin:end].strip()
        if _WORD.search(body):
            first = start + text.index(body[0], begin)
            has_single_blanks = body.isprintable() and "  " not in body
            sentences.append(Sentence(body if has_single_blanks else " ".join(body.split()), first, first + len(body)))
    return sentences


def words_in(sentence: str) -> int:
    """Number of words that say something: redactions (`___`, `XXXX`), numbers and marks do not count."""
    return len(_WORD.findall(_REDACTED.sub(" ", sentence)))


def _bodies(text: str) -> Iterator[tuple[int, int]]:
    """Spans of the sentences, list numbers and bullets left out; white space around them and between is theirs."""
    reader = _Reader(text)
    begin, item = _list_number(text, 0)
    passed = begin
    for mark in _MARK.finditer(text):
        at = mark.start()
        if at < passed:
            continue
        kind = text[at]
        if kind in "\r\n":
            passed, ends = reader.line_ends_sentence(at)
            end = passed
        elif kind == "." and at > _LONGEST and text[at + 1 : at + 2] == " " and text[at - _LONGEST : at].isalpha():
            end, ends = at + 1, True  # the word is too long to be an abbreviation
        else:
            passed, end = reader.end_at_mark(begin, at, item)
            ends = end > begin
        if ends:
            yield begin, end
            begin, number = _list_number(text, end)
            item = number or item
            passed = max(passed, begin)
    if begin < len(text):
        yield begin, len(text)


def _list_number(text: str, position: int) -> tuple[int, int]:
    """Where the list number or bullet at `position` ends, and the number; `position` and 0 where there is none."""
    ahead = text[position : position + _LOOK_AHEAD]
    opening = ahead.lstrip()
    first = opening[:1]
    if first in _ENUMERATING:
        match = _ENUMERATOR.match(text, position, position + _LOOK_AHEAD)
        if match and match.group().strip():
            return match.end(), int(match.group(1) or 0)
    if first in _LINE_ENUMERATING and _begins_line(text, position, ahead[: len(ahead) - len(opening)]):
        match = _LINE_ENUMERATOR.match(text, position, position + _LOOK_AHEAD)
        if match:
            return match.end(), 0
    return position, 0


def _begins_line(text: str, position: int, blanks: str) -> bool:
    """Whether what stands behind the blanks at `position` is the first of its line."""
    return position == 0 or text[position - 1] in "\r\n" or "\n" in blanks or "\r" in blanks


class _Reader:
    """Decides at each mark of a text whether a sentence ends there.

    Args:
        text: of a section.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._has_case = not (text.islower() or text.isupper())

    @cached_property
    def _width(self) -> int:
        """Characters of the longest line."""
        return max(map(len, self._text.splitlines()), default=0)

    @cached_property
    def _has_second_item(self) -> bool:
        return bool(_SECOND_ITEM.search(self._text))

    def end_at_mark(self, begin: int, at: int, item: int) -> tuple[int, int]:
        """Where the marks at `at` end, and where the sentence that begins at `begin` does; 0 where it goes on.

        Args:
            begin: of the sentence.
            at: where the mark stands.
            item: number of the list item that the sentence is in; 0 outside lists.
        """
        text = self._text
        digits = at - 1 if text[at - 1 : at].isdigit() else 0
        if digits and text[at] in ".)" and _BEFORE_ITEM.match(text, at + 1, at + _LOOK_AHEAD):
            digits -= text[max(begin, at - 2) : at].isdigit() and at - begin > 1
            return at + 1, self._end_at_number(begin, digits, at, item)
        if text[at] == ")":
            return at + 1, 0
        stop = _STOP.match(text, at)
        end = stop.end() if stop else at + 1
        return end, end if self._stop_ends_sentence(begin, at, end) else 0

    def _stop_ends_sentence(self, begin: int, stop: int, end: int) -> bool:
        text = self._text
        is_run_together = end < len(text) and not text[end].isspace()
        if is_run_together and not _RUN_TOGETHER.match(text, end):
            return False
        if text[stop] == "?" and self._is_query(begin, stop, end):
            return False
        if text[stop] != ".":
            return text[stop] != "…" or not self._goes_on(end)
        if end - stop > 1:
            return not (text.startswith("...", stop) or text[end - 1] in ")]") or not self._goes_on(end)
        words = text[max(begin, stop - 20) : stop].split()
        written = words[-1].lstrip("([\"'“") if words and not text[stop - 1].isspace() else ""
        if len(written) == 1 and written.isalpha():
            return not self._is_initial(written, words[-2].lower() if len(words) > 1 else "", end)
        word = written.lower()
        if word in _ABBREVIATIONS:
            return self._abbreviation_ends_sentence(word, end)
        # "clear.No effusion" and "CLEAR.NO EFFUSION" are two sentences, "U.S.A." is not.
        return not is_run_together or not text[end : end + 2].isupper() or (len(written) > 2 and written.isupper())

    def _is_query(self, begin: int, at: int, end: int) -> bool:
        """Whether a question mark doubts what follows, as British readers write it: "? left lower lobe pneumonia"."""
        before = self._text[max(begin, at - _LONGEST) : at]
        words = before.rstrip()
        if not words or words[-1] in _ASKS_FOR_MORE:
            return True
        return words != before and self._word_after(end)[:1].islower()

    def _abbreviation_ends_sentence(self, word: str, end: int) -> bool:
        after = self._word_after(end)
        if word in _LAST_UNLESS_NUMBER:
            return not after[:1].isdigit()
        if word in _NEVER_LAST:
            return not after
        if not self._has_case:
            return after.lower().rstrip(".,;:") not in _CONTINUES
        return not after or not after[0].islower()

    def _is_initial(self, letter: str, before: str, end: int) -> bool:
        """Whether a single letter and its stop are an initial ("T. Smith") or a genus ("C. difficile").

        "Hepatitis C." ends a sentence, so a capital alone is not enough.
        """
        if not letter.isupper():
            return False
        if before in _BEFORE_NAMES or before.rstrip(".") in _NEVER_LAST or (len(before) == 2 and before[1] == "."):
            return True
        return self._has_case and self._word_after(end)[:1].islower()

    def _goes_on(self, end: int) -> bool:
        """Whether the sentence goes on behind a mark: with a small letter, where there are capitals too."""
        return self._has_case and self._word_after(end)[:1].islower()

    def _word_after(self, position: int) -> str:
        following = _NEXT.match(self._text, position, position + _LOOK_AHEAD)
        return following.group(1) if following else ""

    def line_ends_sentence(self, at: int) -> tuple[int, bool]:
        """Where the line breaks at `at` end, and whether they end a sentence.

        They do at a blank line, before a list item or a label, and where no wrapping made them: a wrapped line is
        broken only where the next word did not fit, so a break before a capital that would have fitted ends a sentence.
        """
        match = _BREAK.match(self._text, at)
        end = match.end() if match else at + 1
        return end, self._break_ends_sentence(at, end)

    def _break_ends_sentence(self, at: int, end: int) -> bool:
        text = self._text
        if text[at:end] not in ("\n", "\r\n", "\r"):
            return True
        word = self._word_after(end)
        if not word:
            return False
        if (word[0] in _ENUMERATING or word[0] in _LINE_ENUMERATING) and _list_number(text, end)[0] > end:
            return True
        if not word[0].isupper() and word[0] != "?":
            return False
        if word[-1] == ":" or (self._has_case and self._width < _NARROW):
            return True
        line = text[max(0, at - self._width) : at]
        return len(line) - 1 - max(line.rfind("\n"), line.rfind("\r")) + 1 + len(word) <= self._width

    def _end_at_number(self, begin: int, first: int, at: int, item: int) -> int:
        """Where the sentence ends at "2." inside a line: before it in a list, behind it in "there are 2."; or 0."""
        text = self._text
        behind = at + 1 if text[at] == "." else 0
        start = first - (text[first - 1 : first] == "(")
        before = text[max(begin, start - 20) : start]
        if start <= begin or not before[-1].isspace():  # the end of a longer number or word
            return behind
        number, words = int(text[first:at]), before.split()
        opens_list = number == 1 and not item and self._has_second_item
        if (item and number == item + 1) or (opens_list and words and words[-1].lower() not in _COUNTED):
            return start
        return behind
