"""The labeler's rule pack as a table of phrases: read from `rules/observations.yaml`, used by `assertions`.

Phrases are written in a small notation (`opacit(y|ies)`, `(left |) lung`), spelt out here, and kept as a tree of words
in which the longest phrase at a place is found by looking up one word after the other.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from preprocessing.errors import InputError
from preprocessing.heading_words import SpellingIndex

RULES = Path(__file__).parent / "rules" / "observations.yaml"
WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+(?:[.,]\d+)*|[,;:/()?&–—]|(?<=\s)--?(?=\s)")
"""What counts as a word, in lower case: marks that structure a sentence do too; hyphens and full stops do not."""

CUES = (
    *("negation", "negation_after", "uncertainty", "uncertainty_after"),
    *("not_excluded", "no_cue", "no_statement", "clause_end"),
)
GRAMMAR = (
    *("there_is", "verbs", "perceived", "determiners", "joined_by", "alternatives"),
    *("qualifiers", "prepositions", "accompanying", "aside"),
)
_PARTS = frozenset(
    {"version", "sections", "otherwise", "observations", "implies", "not_pathology", "structures", "states"}
    | {"statements", "other_findings", "other_meanings", "edema_severity", "cues", "grammar", "spelling"}
)
PARENTHESES = {"(": "opening", ")": "closing"}
ROLE = {name: 1 << number for number, name in enumerate((*CUES, *GRAMMAR, *PARENTHESES.values()))}
"""Each cue, word class and parenthesis as a bit, so that a phrase may have several and a test for any is fast."""

_MOST_SPELLINGS = 20_000
"""Ways to spell out one phrase; more is a mistake in the file."""

_SHORTEST_CORRECTED = 6
"""Letters; shorter words are too near to one another."""

_LONGEST_CORRECTED = 40
_REMEMBERED = 1 << 14
"""Words whose spelling was looked up."""

Tree = dict[str, "Node"]
"""First words of phrases."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a phrase says; a phrase may say several things at once ("interstitial edema": an observation and a grade).

    Args:
        observations: names of what it mentions.
        is_finding: whether it mentions something that has no label.
        statement: what it decides by itself, as (observation, value).
        structure: the anatomical structure that it names, or blank.
        state: the state of a structure that it names, or blank.
        severity: grade of pulmonary edema that it says by itself, or 0.
        grade: grade of an edema that it qualifies, or 0.
        roles: cues and word classes, as bits of `ROLE`.
        has_content: whether it says something of the picture, and not only how something else is said.
        is_mention: whether it names a finding, with a label or without.
    """

    observations: tuple[str, ...] = ()
    is_finding: bool = False
    statement: tuple[tuple[str, int], ...] = ()
    structure: str = ""
    state: str = ""
    severity: int = 0
    grade: int = 0
    roles: int = 0
    has_content: bool = field(init=False)
    is_mention: bool = field(init=False)

    def __post_init__(self) -> None:
        """Work out the last two."""
        mention = bool(self.observations or self.is_finding or self.severity)
        object.__setattr__(self, "is_mention", mention)
        object.__setattr__(self, "has_content", mention or bool(self.statement or self.structure))


@dataclass(slots=True)
class Node:
    """Where the words of some phrases lead: to the meaning of the one that ends here, and to further words."""

    meaning: Meaning | None = None
    children: Tree | None = None


@dataclass(frozen=True, eq=False)
class RulePack:
    """A rule pack, ready for use.

    Args:
        version: of the built-in rules, with "+ " and the version of a hospital's own where there is one.
        groups: names of the sections that are read; those of the second where a report has none of the first.
        observations: names in the order of the file.
        pathologies: those that rule out No Finding.
        implied: observation to what it says of others.
        states: (structure, state) to observations with their values.
        tree: the phrases.
        corrections: of words that are misspelt.
    """

    version: str
    groups: tuple[frozenset[str], ...]
    observations: tuple[str, ...]
    pathologies: frozenset[str]
    implied: Mapping[str, tuple[str, ...]]
    states: Mapping[tuple[str, str], tuple[tuple[str, int], ...]]
    tree: Tree
    corrections: "Corrections"


@lru_cache(maxsize=4)
def rule_pack(path: Path | None = None) -> RulePack:
    """The built-in rules, with those of a hospital's own file added where one is named.

    Raises:
        InputError: when the file cannot be read or has something that is not known; the message names it.
    """
    packs = [_read(RULES)] + ([_read(path)] if path else [])
    names = tuple(dict.fromkeys(name for pack in packs for name in pack.get("observations", {})))
    phrases = {mark: Meaning(roles=ROLE[role]) for mark, role in PARENTHESES.items()}
    for pack, place in zip(packs, (RULES, path), strict=False):
        phrases |= _phrases(pack, names, str(place))
    return RulePack(
        version=" + ".join(pack["version"] for pack in packs),
        groups=tuple(
            frozenset(name for pack in packs for name in pack.get(group, ())) for group in ("sections", "otherwise")
        ),
        observations=names,
        pathologies=frozenset(names) - {name for pack in packs for name in pack.get("not_pathology", ())},
        implied={name: tuple(other) for pack in packs for name, other in pack.get("implies", {}).items()},
        states={
            (structure, state): _decided(values)
            for pack in packs
            for structure, content in pack.get("structures", {}).items()
            for state, values in content.get("states", {}).items()
        },
        tree=_tree(phrases),
        corrections=Corrections(
            (word for pack in packs for word in pack.get("spelling", ())),
            (word for phrase in phrases for word in phrase.split()),
        ),
    )


def _decided(values: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
    return tuple((name, int(value)) for name, value in values.items())


def _read(path: Path) -> dict[str, Any]:
    try:
        # Without YAML's types: "no" and "on" are words here, not truth values.
        pack = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not a readable YAML file of rules ({type(error).__name__})") from error
    if not isinstance(pack, dict) or "version" not in pack:
        raise InputError(f"{path}: a file of rules is a mapping with `version`; see {RULES}")
    unknown = sorted(set(pack) - _PARTS)
    if unknown:
        raise InputError(
            f"{path}: {unknown[0]!r} is no part of a file of rules; use some of {', '.join(sorted(_PARTS))}"
        )
    return pack


def _phrases(pack: Mapping[str, Any], names: Sequence[str], place: str) -> dict[str, Meaning]:
    """Phrase to meaning, of one file."""
    phrases: dict[str, Meaning] = {}
    for where, phrase, meaning in _entries(pack, place):
        for words in spelt_out(phrase, f"{place}: {where}"):
            before = phrases.get(words)
            phrases[words] = meaning if before is None else _both(before, meaning, f"{place}: {where}: {words!r}")
    unknown = {name for meaning in phrases.values() for name, _ in meaning.statement} - set(names)
    if unknown:
        raise InputError(f"{place}: {min(unknown)!r} is not one of the observations; add it there or correct it")
    return phrases


def _both(one: Meaning, other: Meaning, where: str) -> Meaning:
    for name in ("structure", "state", "statement"):
        if getattr(one, name) and getattr(other, name) and getattr(one, name) != getattr(other, name):
            raise InputError(f"{where} stands in two places: {getattr(one, name)} and {getattr(other, name)}; keep one")
    return Meaning(
        observations=tuple(dict.fromkeys(one.observations + other.observations)),
        is_finding=one.is_finding or other.is_finding,
        statement=one.statement or other.statement,
        structure=one.structure or other.structure,
        state=one.state or other.state,
        severity=max(one.severity, other.severity),
        grade=max(one.grade, other.grade),
        roles=one.roles | other.roles,
    )


def _entries(pack: Mapping[str, Any], place: str) -> Iterator[tuple[str, str, Meaning]]:
    """Every phrase of a file with where it stands and what it means."""
    try:
        for name, phrases in pack.get("observations", {}).items():
            yield from ((name, phrase, Meaning(observations=(name,))) for phrase in phrases)
        for name, content in pack.get("structures", {}).items():
            yield from ((name, phrase, Meaning(structure=name)) for phrase in content.get("words", ()))
        for name, phrases in pack.get("states", {}).items():
            yield from ((name, phrase, Meaning(state=name)) for phrase in phrases)
        for statement in pack.get("statements", ()):
            decided = Meaning(statement=_decided(statement["says"]))
            yield from (("statements", phrase, decided) for phrase in statement["phrases"])
        yield from (("other_findings", phrase, Meaning(is_finding=True)) for phrase in pack.get("other_findings", ()))
        yield from (("other_meanings", phrase, Meaning()) for phrase in pack.get("other_meanings", ()))
        severity = pack.get("edema_severity", {})
        for grade, phrases in severity.get("phrases", {}).items():
            yield from (("edema_severity", phrase, Meaning(severity=int(grade))) for phrase in phrases)
        for grade, phrases in severity.get("words", {}).items():
            yield from (("edema_severity", phrase, Meaning(grade=int(grade))) for phrase in phrases)
        for part, known in (("cues", CUES), ("grammar", GRAMMAR)):
            for role, phrases in pack.get(part, {}).items():
                if role not in known:
                    raise KeyError(f"{part}: {role}")
                yield from ((role, phrase, Meaning(roles=ROLE[role])) for phrase in phrases)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{place}: is not built as {RULES.name} is ({type(error).__name__}: {error})") from error


class Corrections(dict[str, str]):
    """From a word to the one of the phrases that it misspells with one error, or else to itself.

    Args:
        words: those that are recognised when misspelt.
        known: those that are no misspelling of others.
    """

    def __init__(self, words: Iterable[str], known: Iterable[str]) -> None:
        super().__init__({word: word for word in known})
        self._known = len(self)
        self._index = SpellingIndex({word: word for word in words})

    def __missing__(self, word: str) -> str:
        """Look up a word that was not seen yet, and remember it as long as there are not too many."""
        if len(word) < _SHORTEST_CORRECTED:
            return word
        nearest = self._index.nearest(word, 1) if len(word) < _LONGEST_CORRECTED else None
        if len(self) < self._known + _REMEMBERED:
            self[word] = nearest or word
        return nearest or word


def spelt_out(phrase: str, where: str = "") -> list[str]:
    """All spellings that a phrase in the file's notation stands for, as words with single blanks between them.

    Raises:
        InputError: for parentheses that do not match, or far too many spellings.
    """
    spellings, rest = _alternatives(phrase, 0)
    if rest != len(phrase):
        raise InputError(f"{where}: {phrase!r}: the parentheses do not match")
    if len(spellings) > _MOST_SPELLINGS:
        raise InputError(f"{where}: {phrase!r} stands for {len(spellings)} phrases; write fewer alternatives")
    words = (" ".join(WORD.findall(f" {spelling.lower()} ")) for spelling in spellings)
    return list(dict.fromkeys(filter(None, words)))


def _alternatives(phrase: str, at: int) -> tuple[list[str], int]:
    """Spellings of what stands from `at` to the closing parenthesis or the end, and where that is."""
    done: list[str] = []
    open_ones = [""]
    while at < len(phrase) and phrase[at] != ")":
        if phrase[at] == "(":
            inner, at = _alternatives(phrase, at + 1)
            if at == len(phrase):
                return [], -1
            open_ones = [before + one for before in open_ones for one in inner]
        elif phrase[at] == "|":
            done, open_ones = done + open_ones, [""]
        else:
            open_ones = [before + phrase[at] for before in open_ones]
        at += 1
    closed = at < len(phrase)
    if closed and not done:  # a parenthesis without bars may be missing
        open_ones = ["", *open_ones]
    return done + open_ones, at


def _tree(phrases: Mapping[str, Meaning]) -> Tree:
    root = Node(children={})
    for words, meaning in phrases.items():
        node = root
        for word in words.split():
            node.children = node.children or {}
            node = node.children.setdefault(word, Node())
        node.meaning = meaning
    return root.children or {}
