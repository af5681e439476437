"""The vocabulary of report headings: `rules/headings.yaml`, and what a hospital's own file adds or changes.

A label is looked up by its words only (case, punctuation and spacing do not matter), then by edit distance, so that
"IMPRSSION" is an impression and "NDICATION" an indication without a table of typing errors.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from preprocessing.errors import InputError
from preprocessing.heading_words import SpellingIndex, normalised

LONGEST_LABEL = 80
"""Characters of the longest label that is looked at; keeps the search linear in the length of the text."""

ADMINISTRATIVE = "administrative"
"""Labels of letterheads and footers; no section of its own: `preamble` above the findings, `signature` below."""

IN_LABEL = re.compile(r"[.;>\]]\s")
"""Behind these a label goes on only where all of it is a variant, as "ACC. NO." is."""

_REMEMBERED = 1 << 14
_RULES = Path(__file__).parent / "rules" / "headings.yaml"
_OVERRIDE_KEYS = ("headings", "remove")
# Sections whose headings may be qualified or joined with others; the first of them names a joint heading.
_QUALIFIED = ("findings_and_impression", "impression", "findings", "indication", "history", "comparison")
_BETWEEN_PARTS = re.compile(r" and | or ")
_GAP = r"(?:\s+|\s*/\s*|-)"
_OPENER_GAP = r"(?:,?\s+|\s*/\s*|-)"


class HeadingVocabulary:
    """Canonical names of headings.

    Args:
        rules: the content of `rules/headings.yaml`.
    """

    def __init__(self, rules: Mapping[str, Any]) -> None:
        self._names: dict[str, str] = {}
        self._beginnings: dict[str, str] = {}
        for name, variants in rules["headings"].items():
            for variant in variants:
                words = normalised(variant)
                table = self._beginnings if variant.endswith(" *") else self._names
                if table.setdefault(words, name) != name:
                    raise InputError(f"heading {variant!r} stands under both {table[words]} and {name}; keep one")
        self.canonical_names = frozenset(rules["headings"])
        self._spelling = SpellingIndex({w: name for w, name in self._names.items() if name != ADMINISTRATIVE})
        self._before_colon: dict[str, tuple[str, bool] | None] = {}
        self._alone: dict[str, str | None] = {}
        self._misspelt: dict[tuple[str, int], str | None] = {}
        self._last_words = {words.split()[-1] for words in self._names}
        self.first_words = frozenset(words.split()[0] for words in [*self._names, *self._beginnings])
        self.inner_words = frozenset(word for words in [*self._names, *self._beginnings] for word in words.split()[:-1])
        self.inner_words |= {words.split()[-1] for words in self._beginnings}
        self._view_body = frozenset(rules["view_headings"]["body"])
        self._organs = frozenset(rules["view_headings"].get("organs", ()))
        self._view_words = self._view_body | self._organs | frozenset(rules["view_headings"]["words"])
        self.organ_label = _organ_label(rules.get("structured_findings", ()))
        self._qualifiers = frozenset(rules.get("qualifiers", ()))
        self.view_name: str = rules["view_headings"]["opens"]
        self.opener_names: dict[str, str] = {
            normalised(phrase): name for name, phrases in rules["openers"].items() for phrase in phrases
        }
        self.openers = UnmarkedHeadings(
            _phrases(self.opener_names, gap=_OPENER_GAP), {words.split()[0] for words in self.opener_names}
        )
        self.opener_words = _covering(self.opener_names)
        self._stand_ins = {words: name for name, variants in rules.get("stand_ins", {}).items() for words in variants}
        prose = rules.get("prose", {})
        self.common_words = frozenset(prose.get("common", ()))
        self._set_apart = frozenset(prose.get("set_apart", ()))
        self.words_before = frozenset(prose.get("before", ()))
        self.words_after = frozenset(prose.get("after", ()))
        self._describing = {name: frozenset(words) for name, words in prose.get("describing", {}).items()}
        self.unmarked = self._unmarked_headings()

    def name_of(self, label: str) -> str | None:
        """Canonical name of a label whose words are those of a variant; `None` for any other."""
        words = normalised(label)
        name = self._names.get(words)
        return name if name is not None or not words else self._name_by_beginning(words)

    def name_of_whole(self, label: str) -> str | None:
        """As `name_of` for a label that is known to be all of it; it may join several or qualify one.

        "HISTORY/INDICATION" and "X-RAY FINDINGS" are such; inside a line the words before may be another section's.
        """
        return self.name_of(label) or self._name_of_parts(normalised(label.replace("/", " and ")))

    def name_of_unmarked(self, label: str) -> str | None:
        """As `name_of`, where no colon says how long the label is: further words are taken up to "exam" or "study"."""
        name = self._names.get(normalised(label))
        return name or (self.name_of(label) if self.unmarked.phrases.fullmatch(label) else None)

    def name_of_misspelt(self, label: str) -> str | None:
        """Canonical name of the nearest variant: edit distance 1 from six letters on, 2 from eight on.

        Two names at the same distance give none. Lower-case labels are allowed one error only, as they may be prose.
        """
        words = normalised(label)
        if not 5 <= len(words) <= LONGEST_LABEL // 2 or len(words.split()) > 5 or any(c.isdigit() for c in words):
            return None
        key = (words, 1 if label[:1].islower() else 2)
        if key not in self._misspelt:
            _remember(self._misspelt, key, self._spelling.nearest(*key))
        return self._misspelt[key]

    def is_view_heading(self, label: str) -> bool:
        """Whether a label is made of words for views and body parts alone, as in "CHEST, 2 VIEWS"."""
        words = normalised(label).split()
        known = [word for word in words if word in self._view_words or word.isdigit()]
        has_body = not self._view_body.isdisjoint(words)
        if len(known) < len(words) or all(word.isdigit() for word in words):
            return False
        return has_body or (len(words) >= 2 and self._organs.isdisjoint(words))

    def recognised(self, label: str) -> tuple[str, bool] | None:
        """Canonical name of a label before a colon, however written, and whether it names a view.

        Remembers the labels that it has seen, for a hospital uses the same few in every report.
        """
        try:
            return self._before_colon[label]
        except KeyError:
            name = self.name_of(label)
            if name is None and not IN_LABEL.search(label):
                name = self.name_of_whole(label) or self.name_of_misspelt(label)
            is_view = name is None and self.is_view_heading(label)
            found = (self.view_name, True) if is_view else (name, False) if name else None
            _remember(self._before_colon, label, found)
            return found

    def recognised_alone(self, label: str) -> str | None:
        """Canonical name of a label on a line of its own; one in capitals may have typing errors."""
        try:
            return self._alone[label]
        except KeyError:
            name = self.name_of_unmarked(label) or self._name_of_parts(normalised(label.replace("/", " and ")))
            if name is None and label.isupper():
                name = self.name_of_misspelt(label)
            _remember(self._alone, label, name)
            return name

    def may_end_heading(self, word: str) -> bool:
        """Whether a heading of the vocabulary ends in this word: a quick test before the full search."""
        return word.lower() in self._last_words or normalised(word).rpartition(" ")[2] in self._last_words

    def is_described(self, name: str, before: str) -> bool:
        """Whether the word before the heading's describes it, as in "acute findings" or "medical history"."""
        return before in self._describing.get(name, ())

    def name_in_place(self, label: str) -> str | None:
        """Canonical name of the section that a heading stands in for, where a report has no other heading of it."""
        return self._stand_ins.get(normalised(label))

    def is_view_word(self, word: str) -> bool:
        """Whether a word names a view or a part of the body, with which an examination begins."""
        return word.lower() in self._view_words

    def _name_of_parts(self, words: str) -> str | None:
        """Canonical name of several headings in one ("HISTORY/INDICATION"), or of one that is qualified."""
        parts = _BETWEEN_PARTS.split(words)
        if len(parts) > 1 and len(words) <= LONGEST_LABEL // 2:
            names = [self.name_of(part) or self._name_of_qualified(part) for part in parts]
            return _joint_name([name for name in names if name is not None]) if None not in names else None
        return self._name_of_qualified(words)

    def _name_of_qualified(self, words: str) -> str | None:
        *before, last = words.split()
        name = self._names.get(last)
        qualifiers = self._qualifiers | self._view_words
        is_qualified = bool(before) and before[0] not in self.words_before and qualifiers.issuperset(before)
        return name if is_qualified and name in _QUALIFIED else None

    def _name_by_beginning(self, words: str) -> str | None:
        parts = words.split()
        for count in range(min(3, len(parts) - 1), 0, -1):
            name = self._beginnings.get(" ".join(parts[:count]))
            if name is not None and len(parts) <= count + 5:
                return name
        return None

    def _unmarked_headings(self) -> "UnmarkedHeadings":
        names = {
            words: name
            for words, name in self._names.items()
            if name != ADMINISTRATIVE
            and words not in self._set_apart
            and self._view_body.isdisjoint(words.split()[1:] or ())
            and words[:6] != "chest "
        }
        examinations = [words for words, name in names.items() if name == "examination" and " " not in words]
        return UnmarkedHeadings(_phrases(names, self._beginnings, examinations), self.first_words)


class UnmarkedHeadings:
    """Finds the places of a text where the words of a heading stand, whatever stands around them.

    Args:
        phrases: matches a heading of the vocabulary.
        first_words: with which headings begin.
    """

    def __init__(self, phrases: re.Pattern[str], first_words: Iterable[str]) -> None:
        self.phrases = phrases
        self._anchor = re.compile(rf"(?<!\w){_tree(first_words)}(?!\w)")

    def places(self, lower: str) -> Iterable[tuple[int, int]]:
        """Start and end of every phrase in a text that is in lower case; the longest at each place, some overlap."""
        for anchor in self._anchor.finditer(lower):
            phrase = self.phrases.match(lower, anchor.start(), anchor.start() + LONGEST_LABEL)
            if phrase:
                yield phrase.span()


@lru_cache(maxsize=1)
def default_vocabulary() -> HeadingVocabulary:
    """The vocabulary that comes with the package."""
    return HeadingVocabulary(_built_in_rules())


def heading_vocabulary(path: Path | None = None) -> HeadingVocabulary:
    """The vocabulary that comes with the package, with a hospital's own file where one is named (`read_vocabulary`)."""
    return read_vocabulary(path) if path else default_vocabulary()


def read_vocabulary(path: Path) -> HeadingVocabulary:
    """The vocabulary of the package with what a hospital's file (YAML, or TOML by its suffix) adds or changes.

    The file holds `headings`, canonical name to variants, and may hold `remove`, variants that are no headings there.
    A variant of the package that the file lists under another name moves to that name.

    Raises:
        InputError: for a file that cannot be read or is not of that form; names the file and the key.
    """
    override = _override(path)
    rules = _built_in_rules()
    claimed: dict[str, str] = {}
    for name, variants in override["headings"].items():
        if name not in rules["headings"]:
            known = ", ".join(rules["headings"])
            raise InputError(f"{path}: headings.{name} is not a canonical name; choose one of {known}")
        for variant in _listed(path, f"headings.{name}", variants):
            key = _key(variant)
            if claimed.setdefault(key, name) != name:
                raise InputError(
                    f"{path}: {variant!r} stands under both headings.{claimed[key]} and headings.{name}; keep one"
                )
    gone = {_key(variant) for variant in _listed(path, "remove", override["remove"])}
    both = sorted(gone & claimed.keys())
    if both:
        raise InputError(f"{path}: {both[0]!r} stands under both headings.{claimed[both[0]]} and remove; keep one")
    for name, variants in rules["headings"].items():
        kept = [variant for variant in variants if _key(variant) not in gone | claimed.keys()]
        rules["headings"][name] = kept + [variant for variant, owner in claimed.items() if owner == name]
    return HeadingVocabulary(rules)


def _organ_label(words: Iterable[str]) -> re.Pattern[str] | None:
    """Matches a label of structured findings at the beginning of a line or behind a sentence."""
    one = _either(words)
    if one is None:
        return None
    joined = rf"{one}(?:(?:[ \t]{{1,3}}|[ \t]?[/&,][ \t]?)(?:and[ \t])?{one}){{0,3}}"
    return re.compile(rf"(?:^|(?<=[.;]))[ \t]*(?:the |left |right )?{joined}[ \t]?:", re.MULTILINE)


def _either(words: Iterable[str]) -> str | None:
    found = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
    return rf"(?:{found})(?!\w)" if found else None


def _joint_name(names: list[str]) -> str:
    """The section that a heading of several names opens: the one that says most, else the first."""
    if {"findings", "impression"} <= set(names):
        return "findings_and_impression"
    return next((name for name in _QUALIFIED if name in names), names[0])


def _remember(known: dict[Any, Any], label: Any, found: Any) -> None:
    if len(known) >= _REMEMBERED:
        known.clear()
    known[label] = found


def _built_in_rules() -> dict[str, Any]:
    rules: dict[str, Any] = yaml.safe_load(_RULES.read_text(encoding="utf-8"))
    return rules


def _override(path: Path) -> dict[str, Any]:
    """The content of a hospital's file, with both keys."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = tomllib.loads(text) if path.suffix.lower() == ".toml" else yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({type(error).__name__}); name a file of headings") from error
    except (UnicodeDecodeError, yaml.YAMLError, tomllib.TOMLDecodeError) as error:
        kind = "TOML" if path.suffix.lower() == ".toml" else "YAML"
        raise InputError(f"{path}: not a {kind} file in UTF-8; see the head of rules/headings.yaml") from error
    if not content:
        raise InputError(f"{path}: is empty; list variants under `headings`, as at the head of rules/headings.yaml")
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: holds no keys; list variants under `headings`, as at the head of rules/headings.yaml"
        )
    for key in content:
        if key not in _OVERRIDE_KEYS:
            raise InputError(f"{path}: {key} is not a key of a headings file; use {' and '.join(_OVERRIDE_KEYS)}")
    headings = content.get("headings", {})
    if not isinstance(headings, dict):
        raise InputError(f"{path}: headings is not a mapping; write canonical names, each with a list of variants")
    return {"headings": headings, "remove": content.get("remove", [])}


def _listed(path: Path, key: str, variants: Any) -> list[str]:
    if not isinstance(variants, list):
        raise InputError(f"{path}: {key} is not a list; write the variants between square brackets or one a line")
    for variant in variants:
        if not isinstance(variant, str):
            raise InputError(f"{path}: {key} holds {variant!r}, which is not text; put it between quotation marks")
        if not normalised(variant):
            raise InputError(f"{path}: {key} holds a variant without letters or digits; take it out")
    return variants


def _key(variant: str) -> str:
    """What makes two variants the same: their words, and whether further words may follow."""
    return normalised(variant) + (" *" if variant.endswith(" *") else "")


def _phrases(
    phrases: Iterable[str],
    beginnings: Iterable[str] = (),
    beginnings_end_in: Iterable[str] = (),
    gap: str = _GAP,
) -> re.Pattern[str]:
    """Matches the longest of the phrases, at a word's end; a beginning takes up to three words before its last one."""
    ends = "|".join(map(re.escape, beginnings_end_in))
    alternatives = [rf"{_spaced(words)}(?:\s+\w+){{0,3}}?\s+(?:{ends})" for words in beginnings if ends]
    alternatives += [_spaced(words, gap) for words in sorted(phrases, key=len, reverse=True)]
    return re.compile(rf"(?:{'|'.join(alternatives)})(?!\w)", re.IGNORECASE)


def _covering(phrases: Iterable[str]) -> tuple[str, ...]:
    """Words such that every phrase holds one: a text without any of them holds no phrase."""
    words: list[str] = []
    for phrase in sorted(phrases, key=len):
        if not any(word in phrase.split() for word in words):
            words.append(max(phrase.split(), key=len))
    return tuple(words)


def _spaced(words: str, gap: str = _GAP) -> str:
    """The words of a variant as they stand in text: "&" or "/" for "and", "patient's" for "patients"."""
    text = gap.join(re.sub(r"(?<=\w{3})s\Z", "['’]?s", re.escape(word)) for word in words.split())
    return text.replace(f"{gap}and{gap}", r"(?:\s+and\s+|\s*[/&]\s*)")


def _tree(words: Iterable[str]) -> str:
    """A pattern that matches any of the words; a letter that several begin with is tried once."""
    by_letter: dict[str, set[str]] = {}
    for word in words:
        by_letter.setdefault(word[:1], set()).add(word[1:])
    optional = "?" if "" in by_letter else ""
    branches = [
        re.escape(letter) + (_tree(rest) if rest != {""} else "")
        for letter, rest in sorted(by_letter.items())
        if letter
    ]
    return f"(?:{'|'.join(branches)}){optional}"
