"""The vocabulary of report headings, read from `rules/headings.yaml`; used by `sections.split_sections`.

A label is looked up by its words only (case, punctuation and spacing do not matter), then by edit distance, so that
"IMPRSSION" is an impression and "NDICATION" an indication without a table of typing errors.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from preprocessing.errors import InputError

LONGEST_LABEL = 80
"""Characters of the longest label that is looked at; keeps the search linear in the length of the text."""

_REMEMBERED = 1 << 14
_RULES = Path(__file__).parent / "rules" / "headings.yaml"
_APOSTROPHE = re.compile(r"['’`]")
_NOT_A_WORD = re.compile(r"[\W_]+")


class HeadingVocabulary:
    """Canonical names of headings.

    Args:
        rules: the content of a headings file: `headings`, `openers` and `view_headings`.
    """

    def __init__(self, rules: dict[str, Any]) -> None:
        self._names: dict[str, str] = {}
        self._beginnings: dict[str, str] = {}
        for name, variants in rules["headings"].items():
            for variant in variants:
                words = normalised(variant)
                table = self._beginnings if variant.endswith(" *") else self._names
                if table.setdefault(words, name) != name:
                    raise InputError(f"heading {variant!r} stands under both {table[words]} and {name}; keep one")
        self._deletions = _deletion_table(self._names)
        self._misspelt: dict[tuple[str, int], str | None] = {}
        self._last_words = {words.split()[-1] for words in self._names}
        self._view_body = frozenset(rules["view_headings"]["body"])
        self._view_words = self._view_body | frozenset(rules["view_headings"]["words"])
        self.view_name: str = rules["view_headings"]["opens"]
        self.opener_names: dict[str, str] = {
            " ".join(phrase.lower().split()): name for name, phrases in rules["openers"].items() for phrase in phrases
        }
        phrases = sorted(self.opener_names, key=len, reverse=True)
        self.openers = re.compile(
            "(?:" + "|".join(r"\s+".join(map(re.escape, phrase.split())) for phrase in phrases) + r")\b", re.IGNORECASE
        )

    def name_of(self, label: str) -> str | None:
        """Canonical name of a label whose words are those of a variant; `None` for any other."""
        words = normalised(label)
        name = self._names.get(words)
        return name if name is not None or not words else self._name_by_beginning(words)

    def name_of_misspelt(self, label: str) -> str | None:
        """Canonical name of the nearest variant: edit distance 1 from six letters on, 2 from eight on.

        Two names at the same distance give none. Lower-case labels are allowed one error only, as they may be prose.
        """
        words = normalised(label)
        if not 5 <= len(words) <= LONGEST_LABEL // 2 or len(words.split()) > 5 or any(c.isdigit() for c in words):
            return None
        allowed = 1 if label[:1].islower() else 2
        if (words, allowed) not in self._misspelt:
            if len(self._misspelt) > _REMEMBERED:
                self._misspelt.clear()
            self._misspelt[words, allowed] = _nearest(words, allowed, self._deletions, self._names)
        return self._misspelt[words, allowed]

    def is_view_heading(self, label: str) -> bool:
        """Whether a label is made of words for views and body parts alone, as in "CHEST, 2 VIEWS"."""
        words = normalised(label).split()
        known = [word for word in words if word in self._view_words or word.isdigit()]
        has_body = not self._view_body.isdisjoint(words)
        return len(known) == len(words) and (has_body or len(words) >= 2) and not all(w.isdigit() for w in words)

    def may_end_heading(self, word: str) -> bool:
        """Whether a heading of the vocabulary ends in this word: a quick test before the full search."""
        return normalised(word).rpartition(" ")[2] in self._last_words

    def _name_by_beginning(self, words: str) -> str | None:
        parts = words.split()
        for count in range(min(3, len(parts) - 1), 0, -1):
            name = self._beginnings.get(" ".join(parts[:count]))
            if name is not None and len(parts) <= count + 5:
                return name
        return None


@lru_cache(maxsize=1)
def default_vocabulary() -> HeadingVocabulary:
    """The vocabulary that comes with the package."""
    return read_vocabulary(_RULES)


def read_vocabulary(path: Path) -> HeadingVocabulary:
    """Read a headings file.

    Raises:
        InputError: when the file cannot be read or lacks a part.
    """
    try:
        return HeadingVocabulary(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a headings file ({type(error).__name__}); see rules/headings.yaml") from error


@lru_cache(maxsize=_REMEMBERED)
def normalised(label: str) -> str:
    """The words of a label in lower case: "&" is "and", apostrophes go, all but letters and digits becomes a blank."""
    plain = _APOSTROPHE.sub("", label).replace("&", " and ").lower()
    return _NOT_A_WORD.sub(" ", plain).strip()


def _errors_allowed(words: str) -> int:
    return 0 if len(words) < 6 else 1 if len(words) < 8 else 2


def _deletions(words: str, count: int) -> Iterator[str]:
    """`words` and every string that is left of it after up to `count` deletions."""
    yield words
    if count == 0:
        return
    for i in range(len(words)):
        yield from _deletions(words[:i] + words[i + 1 :], count - 1)


def _deletion_table(variants: Iterable[str]) -> dict[str, frozenset[str]]:
    """Every variant under all that is left of it after as many deletions as it may have errors.

    Two words at edit distance d share a string that each reaches by at most d deletions (Garbe's symmetric delete).
    """
    table: dict[str, set[str]] = {}
    for words in variants:
        for shortened in set(_deletions(words, _errors_allowed(words))):
            table.setdefault(shortened, set()).add(words)
    return {shortened: frozenset(sources) for shortened, sources in table.items()}


def _nearest(words: str, allowed: int, table: dict[str, frozenset[str]], names: dict[str, str]) -> str | None:
    candidates = {v for shortened in set(_deletions(words, allowed)) for v in table.get(shortened, ())}
    distances = {v: edit_distance(words, v) for v in candidates}
    near = {v: d for v, d in distances.items() if 0 < d <= min(allowed, _errors_allowed(v))}
    if not near:
        return None
    least = min(near.values())
    found = {names[v] for v, d in near.items() if d == least}
    return found.pop() if len(found) == 1 else None


def edit_distance(a: str, b: str) -> int:
    """Insertions, deletions, substitutions and swaps of neighbours between two words (optimal string alignment)."""
    two_before: list[int] = []
    before = list(range(len(b) + 1))
    for i, x in enumerate(a):
        row = [i + 1]
        for j, y in enumerate(b):
            cost = min(before[j + 1] + 1, row[j] + 1, before[j] + (x != y))
            if i and j and x == b[j - 1] and a[i - 1] == y:
                cost = min(cost, two_before[j - 1] + 1)
            row.append(cost)
        two_before, before = before, row
    return before[len(b)]
