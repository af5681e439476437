"""The words of a heading and how far apart two headings are; used by `headings.HeadingVocabulary`."""

import re
from collections.abc import Iterable, Iterator, Mapping

_APOSTROPHE = re.compile(r"['’`]")
_NOT_A_WORD = re.compile(r"[\W_]+")


def normalised(label: str) -> str:
    """The words of a label in lower case: "&" is "and", apostrophes go, all but letters and digits becomes a blank."""
    plain = _APOSTROPHE.sub("", label).replace("&", " and ").lower()
    return _NOT_A_WORD.sub(" ", plain).strip()


def edit_distance(a: str, b: str) -> int:
    """Insertions, deletions, substitutions and swaps of neighbours between two words (Damerau 1964).

    Lowrance and Wagner's table, in which the letters between two that were swapped may have errors of their own.
    """
    far = len(a) + len(b)
    table = [[far] * (len(b) + 2) for _ in range(len(a) + 2)]
    for i in range(len(a) + 1):
        table[i + 1][1] = i
    for j in range(len(b) + 1):
        table[1][j + 1] = j
    last_row: dict[str, int] = {}
    for i, x in enumerate(a, 1):
        last_column = 0
        for j, y in enumerate(b, 1):
            row, column = last_row.get(y, 0), last_column
            if x == y:
                last_column = j
            table[i + 1][j + 1] = min(
                table[i][j] + (x != y),
                table[i + 1][j] + 1,
                table[i][j + 1] + 1,
                table[row][column] + (i - row - 1) + 1 + (j - column - 1),
            )
        last_row[x] = i
    return table[len(a) + 1][len(b) + 1]


def errors_allowed(words: str) -> int:
    """Typing errors that a heading may have: none below six letters, one below eight, two from there on."""
    return 0 if len(words) < 6 else 1 if len(words) < 8 else 2


class SpellingIndex:
    """Finds the variant nearest to a misspelt label without comparing it to every variant.

    Two words at edit distance d share a string that each reaches by at most d deletions (Garbe's symmetric delete).

    Args:
        names: canonical name of every variant.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self._sources = _deletion_table(names)

    def nearest(self, words: str, allowed: int) -> str | None:
        """Canonical name of the nearest variant within `allowed` errors; two names at the same distance give none."""
        candidates = {v for shortened in set(_deletions(words, allowed)) for v in self._sources.get(shortened, ())}
        distances = {v: edit_distance(words, v) for v in candidates}
        near = {v: d for v, d in distances.items() if 0 < d <= min(allowed, errors_allowed(v))}
        if not near:
            return None
        least = min(near.values())
        found = {self._names[v] for v, d in near.items() if d == least}
        return found.pop() if len(found) == 1 else None


def _deletions(words: str, count: int) -> Iterator[str]:
    """`words` and every string that is left of it after up to `count` deletions."""
    yield words
    if count == 0:
        return
    for i in range(len(words)):
        yield from _deletions(words[:i] + words[i + 1 :], count - 1)


def _deletion_table(variants: Iterable[str]) -> dict[str, frozenset[str]]:
    """Every variant under all that is left of it after as many deletions as it may have errors."""
    table: dict[str, set[str]] = {}
    for words in variants:
        for shortened in set(_deletions(words, errors_allowed(words))):
            table.setdefault(shortened, set()).add(words)
    return {shortened: frozenset(sources) for shortened, sources in table.items()}
