"""The labeler's rule pack as a table of phrases: read from `rules/observations.yaml`, used by `assertions`.

Phrases are written in a small notation (`opacit(y|ies)`, `(left |) lung`), spelt out here, and kept as a tree of words
in which the longest phrase at a place is found by looking up one word after the other.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import get_args

from preprocessing.errors import InputError
from preprocessing.heading_words import SpellingIndex
from preprocessing.rule_files import RULES, Cue, RuleFile, WordClass, read_rule_file

WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+(?:[.,]\d+)*|[,;:/()?&–—]|(?<=\s)--?(?=\s)")
"""What counts as a word, in lower case: marks that structure a sentence do too; hyphens and full stops do not."""

PARENTHESES = {"(": "opening", ")": "closing"}
ROLE = {name: 1 << number for number, name in enumerate((*get_args(Cue), *get_args(WordClass), *PARENTHESES.values()))}
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


def rule_pack(path: Path | None = None) -> RulePack:
    """The built-in rules, with those of a hospital's own file added where one is named.

    Raises:
        InputError: when the file cannot be read or has something that is not known; the message names it.
    """
    return _built(RULES, path) if path else _built_in()


@lru_cache(maxsize=1)
def _built_in() -> RulePack:
    return _built(RULES)


def _built(*places: Path) -> RulePack:
    files = [read_rule_file(place) for place in places]
    names = tuple(dict.fromkeys(name for file in files for name in file.observations))
    known_states = {state for file in files for state in file.states}
    phrases = {mark: Meaning(roles=ROLE[role]) for mark, role in PARENTHESES.items()}
    for file, place in zip(files, places, strict=True):
        _check_names(file, place, names, known_states)
        phrases |= _phrases(file, place)
    return RulePack(
        version=" + ".join(file.version for file in files),
        groups=(
            frozenset(name for file in files for name in file.sections),
            frozenset(name for file in files for name in file.otherwise),
        ),
        observations=names,
        pathologies=frozenset(names) - {name for file in files for name in file.not_pathology},
        implied={name: tuple(others) for file in files for name, others in file.implies.items()},
        states={
            (structure, state): tuple(values.items())
            for file in files
            for structure, content in file.structures.items()
            for state, values in content.states.items()
        },
        tree=_tree(phrases),
        corrections=Corrections(
            (word for file in files for word in file.spelling),
            (word for phrase in phrases for word in phrase.split()),
        ),
    )


def _check_names(file: RuleFile, place: Path, names: Sequence[str], states: Collection[str]) -> None:
    for part, named in file.named().items():
        if not named <= set(names):
            raise InputError(f"{place}: {part}: {min(named - set(names))!r} is not one of the observations")
    for name, structure in file.structures.items():
        if not set(structure.states) <= set(states):
            raise InputError(f"{place}: structures: {name}: one of its states is not among `states`")


def _phrases(file: RuleFile, place: Path) -> dict[str, Meaning]:
    """Phrase to meaning, of one file."""
    phrases: dict[str, Meaning] = {}
    for where, phrase, meaning in _entries(file):
        for words in spelt_out(phrase, f"{place}: {where}"):
            before = phrases.get(words)
            phrases[words] = meaning if before is None else _both(before, meaning, f"{place}: {where}: {words!r}")
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


def _entries(file: RuleFile) -> Iterator[tuple[str, str, Meaning]]:
    """Every phrase of a file with where it stands and what it means."""

    def each(where: str, phrases: Iterable[str], meaning: Meaning) -> Iterator[tuple[str, str, Meaning]]:
        return ((where, phrase, meaning) for phrase in phrases)

    for name, phrases in file.observations.items():
        yield from each(name, phrases, Meaning(observations=(name,)))
    for name, structure in file.structures.items():
        yield from each(name, structure.words, Meaning(structure=name))
    for name, phrases in file.states.items():
        yield from each(name, phrases, Meaning(state=name))
    for statement in file.statements:
        yield from each("statements", statement.phrases, Meaning(statement=tuple(statement.says.items())))
    yield from each("other_findings", file.other_findings, Meaning(is_finding=True))
    yield from each("other_meanings", file.other_meanings, Meaning())
    for grade, phrases in file.edema_severity.phrases.items():
        yield from each("edema_severity", phrases, Meaning(severity=grade))
    for grade, phrases in file.edema_severity.words.items():
        yield from each("edema_severity", phrases, Meaning(grade=grade))
    for role, phrases in (*file.cues.items(), *file.grammar.items()):
        yield from each(role, phrases, Meaning(roles=ROLE[role]))


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
        if not _SHORTEST_CORRECTED <= len(word) < _LONGEST_CORRECTED:
            return word
        nearest = self._index.nearest(word, 1)
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
