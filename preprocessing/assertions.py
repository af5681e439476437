"""What one sentence of a report asserts, denies or leaves open; between `sentences` and `labels`.

A sentence is read as a row of phrases of the rule pack (`lexicon`), cut into propositions (`propositions`), and in each
the cues decide what is said of the observations and of the states of structures. NegEx and its successors give a cue a
window of words; here its reach ends where another statement begins, so that "no A, B or C" denies three things and
"no A, the heart is enlarged" one.
"""

import functools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from preprocessing.cues import ANY_CUE, Cues
from preprocessing.lexicon import ROLE, RulePack
from preprocessing.propositions import (
    ACCOMPANYING,
    ALTERNATIVES,
    DETERMINERS,
    JOINED_BY,
    NEGATION,
    NOT_EXCLUDED,
    PERCEIVED,
    PREPOSITIONS,
    QUALIFIERS,
    UNCERTAINTY,
    VERBS,
    Phrase,
    has_any,
    phrases_of,
    propositions,
)
from preprocessing.rule_files import SEVERITY

EDEMA = "Edema"
"""The observation that is graded."""

_LONGEST = 250
"""Phrases of the longest sentence that anybody writes; longer ones are read in pieces, which keeps the time linear."""

_LONGEST_REMEMBERED = 400  # characters
_WORDS_TO_ALTERNATIVE = 4
_PHRASES_TO_GRADE = 6
_STOPS_LIST = VERBS | UNCERTAINTY | NEGATION | NOT_EXCLUDED | PREPOSITIONS | PERCEIVED
_NO_CUE = ROLE["no_cue"]


class Assertion(NamedTuple):
    """What a sentence says of one observation.

    Args:
        observation: its name; `SEVERITY` for a grade of edema.
        value: 1 present, 0 absent, -1 uncertain; of `SEVERITY` the grade, 0 to 3.
        start: first character of the words that say it, in the sentence.
        end: behind their last character.
        cue: the same two of the cue that denies it or leaves it open; `None` where there is none.
    """

    observation: str
    value: int
    start: int
    end: int
    cue: tuple[int, int] | None = None


@dataclass(slots=True)
class _Claim:
    """Something that a proposition speaks of, before its cues are heeded.

    Args:
        at: number of the phrase where cues are before or behind.
        values: observations and what is said of them where no cue says otherwise.
        first, last: phrases whose words say it.
        is_mention: whether it names the observation, and not a structure in some state.
        is_settled: whether cues do not matter to it.
    """

    at: int
    values: tuple[tuple[str, int], ...]
    first: int
    last: int
    is_mention: bool = False
    is_settled: bool = False


def assertions(sentence: str, pack: RulePack) -> tuple[Assertion, ...]:
    """What a sentence says, in the order in which it says it; positions are in `sentence`.

    Radiologists use the same sentences again and again (of Open-i's, more than half stand in an earlier report), so the
    latest are remembered.
    """
    if len(sentence) > _LONGEST_REMEMBERED:
        return _assertions(sentence, pack)
    return remembered_assertions(sentence, pack)


def _assertions(sentence: str, pack: RulePack) -> tuple[Assertion, ...]:
    phrases = phrases_of(sentence, pack)
    pieces = (phrases[begin : begin + _LONGEST] for begin in range(0, len(phrases), _LONGEST))
    return tuple(found for piece in pieces for part in propositions(piece) for found in _asserted(part, pack))


remembered_assertions = functools.lru_cache(maxsize=1 << 14)(_assertions)


def _asserted(phrases: Sequence[Phrase], pack: RulePack) -> list[Assertion]:
    """What one proposition says."""
    claims = sorted([*_mentions(phrases), *_states(phrases, pack)], key=lambda claim: claim.at)
    roles = functools.reduce(operator.or_, [phrase.roles for phrase in phrases])
    cues = Cues(phrases, [claim.at for claim in claims if not claim.is_settled]) if roles & ANY_CUE else None
    open_by = _alternatives(phrases, claims) if roles & ALTERNATIVES else {}
    said: list[Assertion] = []
    for claim in claims:
        denying = opening = None
        if not claim.is_settled:
            denying, opening = cues.deciding(claim.at) if cues else (None, None)
            opening = opening or open_by.get(claim.at)
        if cues and cues.is_no_statement(claim.at) and not denying:
            continue
        cue = denying or opening
        place = (phrases[claim.first].start, phrases[claim.last].end, (cue.start, cue.end) if cue else None)
        for observation, usual in claim.values:
            value = _heeded(observation, usual, denied=denying is not None, left_open=cue is not None)
            if value is not None:
                said += [Assertion(name, value, *place) for name in (observation, *pack.implied.get(observation, ()))]
        grade = _grade(phrases, claim, denied=denying is not None)
        if grade is not None:
            said.append(Assertion(SEVERITY, grade, *place))
    return list(dict.fromkeys(said))  # a phrase may say by itself what another of its observations implies


def _heeded(observation: str, value: int, *, denied: bool, left_open: bool) -> int | None:
    """A value under its cue: a denied normal state says nothing ("not clear"); perhaps normal is uncertain."""
    if denied:
        return 0 if value else None
    return -1 if left_open and observation != SEVERITY else value


def _mentions(phrases: Sequence[Phrase]) -> Iterator[_Claim]:
    """Observations by name, findings without a label, statements, and what grades an edema without naming it."""
    for place, phrase in enumerate(phrases):
        meaning = phrase.meaning
        if meaning.is_mention:
            yield _Claim(place, tuple((name, 1) for name in meaning.observations), place, place, is_mention=True)
        elif meaning.statement:
            yield _Claim(place, meaning.statement, place, place, is_settled=True)


def _states(phrases: Sequence[Phrase], pack: RulePack) -> Iterator[_Claim]:
    """Structures in a state: "enlarged heart", "heart size and mediastinum are normal", "lungs normal and clear"."""
    if not any(phrase.meaning.structure for phrase in phrases):
        return
    waiting: list[int] = []  # structures that no state was said of yet
    bound: list[int] = []  # those of the state before
    taken = last = -1
    for place, phrase in enumerate(phrases):
        meaning = phrase.meaning
        if meaning.structure and place > taken:
            waiting.append(place)
        elif meaning.state and not _belongs_to_mention(phrases, place):
            is_predicate = bool(waiting) and not has_any(phrases[waiting[-1] + 1 : place], DETERMINERS | ACCOMPANYING)
            described = [] if is_predicate else _described(phrases, place)
            if described:
                waiting, bound, taken = [], described, described[-1]
            elif is_predicate:
                waiting, bound = [], waiting
            elif not _goes_on(phrases, last, place):
                bound = []
            for structure in bound:
                values = pack.states.get((phrases[structure].meaning.structure, meaning.state))
                if values:
                    yield _Claim(place, values, min(structure, place), max(structure, place))
            last = place


def _goes_on(phrases: Sequence[Phrase], last: int, state: int) -> bool:
    """Whether a state is said of what the last one was said of ("normal and clear"), and not of something unknown."""
    following = phrases[state + 1] if state + 1 < len(phrases) else None
    between = phrases[last + 1 : state]
    return all(phrase.roles & (JOINED_BY | VERBS | QUALIFIERS) for phrase in between) and (
        following is None or bool(following.roles)
    )


def _belongs_to_mention(phrases: Sequence[Phrase], place: int) -> bool:
    """Whether an adjective is one of a finding, and not of a structure: "large effusion"."""
    following = next((phrase for phrase in phrases[place + 1 :] if not phrase.roles & QUALIFIERS), None)
    return following is not None and following.meaning.is_mention


def _described(phrases: Sequence[Phrase], state: int) -> list[int]:
    """Structures behind a state that is their adjective: "normal heart size and mediastinal contours"."""
    found: list[int] = []
    other_words = 0
    for place in range(state + 1, len(phrases)):
        phrase = phrases[place]
        if phrase.meaning.structure:
            found.append(place)
            other_words = 0
        elif phrase.meaning.state or phrase.roles & (VERBS | NEGATION | UNCERTAINTY):
            break
        elif found and phrase.word == "," and has_any(phrases[place + 1 : place + 2], DETERMINERS):
            break  # "apart from the enlarged heart, the lungs ..."
        elif not (phrase.roles & (JOINED_BY | ALTERNATIVES | DETERMINERS | QUALIFIERS) or phrase.word in ("of", "in")):
            other_words += 1
            if other_words > 1:
                break
    return found


def _alternatives(phrases: Sequence[Phrase], claims: Sequence[_Claim]) -> dict[int, Phrase]:
    """Places of mentions beside an "or", each with that word: "atelectasis or infiltrate" asserts neither."""
    found: dict[int, Phrase] = {}
    mentions = [claim.at for claim in claims if claim.is_mention]
    for place, phrase in enumerate(phrases):
        if not phrase.roles & ALTERNATIVES or phrase.roles & NEGATION:
            continue
        before = [at for at in mentions if place - _WORDS_TO_ALTERNATIVE <= at < place]
        behind = [at for at in mentions if place < at <= place + _WORDS_TO_ALTERNATIVE]
        if phrase.word != "or":  # "versus" and the like: one on each side, also where the other has no label
            found |= dict.fromkeys(before[-1:] + behind[:1], phrase)
        elif before and behind and not has_any(phrases[: before[-1]], _NO_CUE):
            found[behind[0]] = phrase
            found |= dict.fromkeys(_listed(phrases, mentions, place), phrase)
    return found


def _listed(phrases: Sequence[Phrase], mentions: Sequence[int], place: int) -> Iterator[int]:
    """Mentions before an "or" that are its alternatives: one, or all of "A, B, or C" with adjectives between.

    Without a comma before "or" the first may be what the others explain: "an opacity, atelectasis or pneumonia".
    """
    last, is_list = place, phrases[place - 1].word == ","
    for at in reversed([at for at in mentions if at < place]):
        between = phrases[at + 1 : last]
        if len(between) > _WORDS_TO_ALTERNATIVE or has_any(between, _STOPS_LIST):
            return
        if last != place and not any(phrase.word == "," for phrase in between):
            return
        yield at
        last = at
        if not is_list:
            return


def _grade(phrases: Sequence[Phrase], claim: _Claim, *, denied: bool) -> int | None:
    """The grade that a claim about edema says: the highest that is named by it or by the words beside it."""
    meaning = phrases[claim.at].meaning
    is_edema = EDEMA in meaning.observations
    normal = (EDEMA, 0) in claim.values
    if not (normal or meaning.severity or is_edema):
        return None
    if normal or denied:
        return 0
    beside = [phrases[place].meaning.grade for place in _beside(phrases, claim.at)] if is_edema else []
    return max([meaning.severity, *beside]) or None


def _beside(phrases: Sequence[Phrase], at: int) -> Iterator[int]:
    """Places of the words that may qualify what stands at `at`."""
    for place in range(at - 1, max(at - 1 - _PHRASES_TO_GRADE, -1), -1):
        if phrases[place].meaning.has_content or phrases[place].roles & VERBS:
            break
        yield place
    for place in range(at + 1, min(at + 1 + _PHRASES_TO_GRADE, len(phrases))):
        if phrases[place].meaning.is_mention or _belongs_to_mention(phrases, place):
            break
        yield place
