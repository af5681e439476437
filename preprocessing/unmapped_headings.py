"""Labels that look like headings and that the vocabulary does not know, so that a hospital can add them to its file."""

import re
from collections.abc import Sequence

from preprocessing.heading_search import SIGNATURE
from preprocessing.heading_words import normalised
from preprocessing.headings import HeadingVocabulary, default_vocabulary
from preprocessing.sections import Section

LONGEST = 40
"""Characters of the longest label that is reported."""

_MOST_WORDS = 5
_LABEL = re.compile(r"[#>*_\s]*([A-Z][A-Za-z&'’/() -]+?)[*_ ]*:")
_SMALL_WORDS = frozenset({"and", "of", "for", "the", "to", "in", "on", "with", "or", "by"})
_PERSONS = frozenset(
    {"dr", "drs", "mr", "mrs", "ms", "miss", "prof", "doctor", "nurse", "sir", "md", "do", "phd", "rn"}
)


def unmapped_headings(text: str, sections: Sequence[Section], vocabulary: HeadingVocabulary | None = None) -> list[str]:
    """Labels of a report that look like headings but are not in the vocabulary, normalised, each once, in order.

    A label is one to five capitalised words at the beginning of a line, with a colon behind them, or words in capitals
    that have a line to themselves below a blank one. What names a person ("DR SMITH") or holds a digit is none, nor is
    anything in a signature. A surname alone cannot be told from a heading: report only those that come in several
    reports.

    Args:
        text: the report.
        sections: what `split_sections` made of it.
        vocabulary: that it was split with.
    """
    known = vocabulary or default_vocabulary()
    found: dict[str, None] = {}
    for section in sections:
        if section.name == SIGNATURE:
            continue
        before, is_shouted = "x", text[section.start : section.end].isupper()
        for line in text[section.start : section.end].splitlines():
            label = _label_of(line)
            if label is None and not before.strip() and not is_shouted:
                label = _shouted(line)
            if label is not None and known.recognised(label) is None and _looks_like_heading(label):
                found[normalised(label)] = None
            before = line
    return list(found)


def _label_of(line: str) -> str | None:
    """What stands before the first colon of a line, where it is short enough."""
    colon = line.find(":", 0, LONGEST)
    match = _LABEL.match(line, 0, colon + 1) if colon > 0 else None
    return match.group(1).strip() if match else None


def _shouted(line: str) -> str | None:
    """A line of words in capitals and nothing else."""
    words = line.strip(" \t*_#")
    return words if len(words) <= LONGEST and words.isupper() and words.replace(" ", "").isalpha() else None


def _looks_like_heading(label: str) -> bool:
    words = normalised(label).split()
    if not 1 <= len(words) <= _MOST_WORDS or len("".join(words)) < 3 or not _PERSONS.isdisjoint(words):
        return False
    written = re.findall(r"[A-Za-z]+", label)
    return all(word[0].isupper() or word in _SMALL_WORDS for word in written)
