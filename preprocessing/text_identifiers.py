"""What in a report's text looks as if it identified a person: found, counted by kind, replaced by `___`.

Between reading a report and storing its sentences. Rules only (`rules/identifiers.yaml`), no model. Not a
de-identification that can be relied on alone; `LIMITS` says what is not found.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from preprocessing.errors import InputError
from preprocessing.identifying_numbers import Found, NumberRules, without_digits
from preprocessing.personal_names import NameRules

KINDS = ("name", "date", "age", "phone", "record_number", "email_or_url", "address")
LIMITS = """\
Rules, not understanding. Found: names beside a title, credential, role, label or cue of rules/identifiers.yaml, and
the same name elsewhere in the report; dates with a day or a month, and a time of day behind a date; ages from 90 on;
telephone, pager and extension numbers; record and other numbers behind a word for them, and any of six digits or
more; e-mail and web addresses; streets, post boxes, cities with a US post code.
Not found: a name that nothing announces ("Smith saw the patient", "JANE DOE" on a line of its own), names in lower
case without a title, nicknames, scripts without capitals, initials of typists; places, hospitals, employers, makers;
days of the week, holidays, "3 days ago", "3/4" where it may be a fraction, a month alone unless behind a word such as
"in"; times of day by themselves; numbers of five digits or fewer without a word for them; whatever else tells a
person apart, such as a rare disease or an occupation. English only.
Measured with made-up identifiers in 40 carrier sentences written after the rules, 60 times each, at first sight:
whole found 83 % of names (earlier such sets: 100, 89 and 86 %), 94 % of dates, all 60 to 300 of each other kind; an
earlier set had 87 % of telephone numbers. In 1,383 de-identified public reports one place was found: a date left in.
"""
REDACTION = "___"
"""As MIMIC-CXR writes it; `sentences.words_in` does not count it."""

_RULES = Path(__file__).parent / "rules" / "identifiers.yaml"
_NO_LETTERS = {code: " " for code in (*range(128), *range(0x2010, 0x2028)) if not chr(code).isalpha()}
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True, slots=True)
class Identifier:
    """A place of a text that looks as if it identified a person.

    Args:
        kind: one of `KINDS`.
        start: its first character.
        end: behind its last character.
    """

    kind: str
    start: int
    end: int


class IdentifierRules:
    """The rules of an identifiers file.

    Args:
        rules: its content; see `rules/identifiers.yaml`.
    """

    def __init__(self, rules: dict[str, Any]) -> None:
        self.names = NameRules(rules)
        self.numbers = NumberRules(rules)
        self._words = self.numbers.months.union(self.names.by_word)
        self._words_and_numbers = self._words | frozenset(self.numbers.by_word)

    def find(self, text: str) -> Iterator[Found]:
        """All that looks like an identifier, in no order, overlaps included."""
        lower = text.replace("\u0130", "I").lower()  # the one capital that is two characters in lower case
        yield from without_digits(text, lower)
        words = self._words
        if _DIGIT.search(text):
            yield from self.numbers.by_form(text, lower)
            words = self._words_and_numbers
        names: list[tuple[int, int]] = []
        for word in words.intersection(lower.translate(_NO_LETTERS).split()):
            number_rule = self.numbers.by_word.get(word)
            name_rules = self.names.by_word.get(word, ())
            for start, end in _places(lower, word):
                if number_rule:
                    yield from number_rule(text, start, end)
                for name_rule in name_rules:
                    names += name_rule(text, start, end)
        if names:
            names += self.names.repeated(text, names)
        yield from (("name", *span) for span in names)


def _places(lower: str, word: str) -> Iterator[tuple[int, int]]:
    """Where a word stands as a whole; digits beside it do not matter, as in "31DEC2019"."""
    start = lower.find(word)
    while start >= 0:
        end = start + len(word)
        if not (start and lower[start - 1].isalpha()) and not lower[end : end + 1].isalpha():
            yield start, end
        start = lower.find(word, end)


@lru_cache(maxsize=1)
def default_rules() -> IdentifierRules:
    """The rules that come with the package."""
    return read_rules(_RULES)


def read_rules(path: Path) -> IdentifierRules:
    """Read an identifiers file.

    Raises:
        InputError: when the file cannot be read or lacks a part.
    """
    try:
        return IdentifierRules(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: not an identifiers file ({type(error).__name__}); see rules/identifiers.yaml"
        ) from error


def find_identifiers(text: str, rules: IdentifierRules | None = None) -> list[Identifier]:
    """What looks like an identifier, in order of its place, without overlaps.

    Of kinds that overlap, the longer names the whole. What is redacted already (`___`, `XXXX`) is not found.
    """
    found = sorted((rules or default_rules()).find(text), key=lambda item: (item[1], -item[2]))
    identifiers: list[Identifier] = []
    for kind, start, end in found:
        if identifiers and start < identifiers[-1].end:
            last = identifiers[-1]
            longer = kind if end - start > last.end - last.start else last.kind
            identifiers[-1] = Identifier(longer, last.start, max(last.end, end))
        else:
            identifiers.append(Identifier(kind, start, end))
    return identifiers


def redact(text: str, identifiers: Sequence[Identifier]) -> str:
    """The text with each identifier replaced by `REDACTION`; all else stands as it was."""
    return redacted_span(text, 0, len(text), identifiers)


def redacted_span(text: str, start: int, end: int, identifiers: Sequence[Identifier]) -> str:
    """`text[start:end]` with each identifier, or the part of it that lies in the span, replaced by `REDACTION`.

    Args:
        text: the whole report.
        start: first character of the span.
        end: behind its last character.
        identifiers: those of the whole report, in order and without overlaps, as `find_identifiers` gives them.
    """
    parts = []
    position = start
    for index in range(bisect_right(identifiers, start, key=lambda identifier: identifier.end), len(identifiers)):
        identifier = identifiers[index]
        if identifier.start >= end:
            break
        parts += [text[position : max(position, identifier.start)], REDACTION]
        position = identifier.end
    return "".join([*parts, text[position:end]])
