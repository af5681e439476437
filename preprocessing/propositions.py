"""A sentence as a row of phrases, cut into propositions: the stretches that one cue can reach; used by `assertions`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from preprocessing.lexicon import ROLE, WORD, Meaning, RulePack

NEGATION, NEGATION_AFTER = ROLE["negation"], ROLE["negation_after"]
UNCERTAINTY, UNCERTAINTY_AFTER = ROLE["uncertainty"], ROLE["uncertainty_after"]
NOT_EXCLUDED = ROLE["not_excluded"]
VERBS, THERE_IS, PERCEIVED = ROLE["verbs"], ROLE["there_is"], ROLE["perceived"]
JOINED_BY, ALTERNATIVES, ACCOMPANYING = ROLE["joined_by"], ROLE["alternatives"], ROLE["accompanying"]
DETERMINERS, QUALIFIERS, PREPOSITIONS = ROLE["determiners"], ROLE["qualifiers"], ROLE["prepositions"]

_CLAUSE_END, _ASIDE, _OPENING, _CLOSING = ROLE["clause_end"], ROLE["aside"], ROLE["opening"], ROLE["closing"]
_MAY_OPEN = _CLAUSE_END | THERE_IS | _ASIDE | ACCOMPANYING | JOINED_BY
_PREDICATES = VERBS | NEGATION_AFTER | UNCERTAINTY_AFTER
_OF_LISTS = PERCEIVED | NEGATION_AFTER | UNCERTAINTY_AFTER
_SAYS_SO = _PREDICATES | PERCEIVED | NEGATION | UNCERTAINTY | NOT_EXCLUDED


@dataclass(slots=True)
class Phrase:
    """One phrase of the rule pack, or one word that is in none.

    Args:
        meaning: what it says.
        roles: those of the meaning.
        word: its first word.
        start, end: its characters in the sentence.
    """

    meaning: Meaning
    roles: int
    word: str
    start: int
    end: int


_OTHER_WORD = Phrase(Meaning(), 0, "", 0, 0)
"""Stands for each word that is in no phrase of the rules."""


def phrases_of(sentence: str, pack: RulePack) -> list[Phrase]:
    """The phrases of a sentence, the longest at each place; none where no phrase says anything of a picture."""
    found = list(WORD.finditer(_lower(sentence)))
    corrections, tree = pack.corrections, pack.tree
    words = [corrections[match[0]] for match in found]
    words.append("")  # ends every search
    begin, count, has_content = 0, len(found), False
    row: list[Phrase] = []
    while begin < count:
        node = tree.get(words[begin])
        meaning, place, end = None, begin + 1, begin + 1
        while node is not None:
            if node.meaning is not None:
                meaning, end = node.meaning, place
            node = node.children.get(words[place]) if node.children else None
            place += 1
        if meaning is None:
            row.append(_OTHER_WORD)
        else:
            has_content = has_content or meaning.has_content
            row.append(Phrase(meaning, meaning.roles, words[begin], found[begin].start(), found[end - 1].end()))
        begin = end
    return row if has_content else []


def _lower(sentence: str) -> str:
    lower = sentence.lower()
    if len(lower) == len(sentence):
        return lower
    return "".join(c if len(c.lower()) != 1 else c.lower() for c in sentence)  # a capital dotted I becomes two


def has_any(phrases: Sequence[Phrase], roles: int) -> bool:
    """Whether one of the phrases has one of the roles."""
    return any(phrase.roles & roles for phrase in phrases)


def propositions(phrases: Sequence[Phrase]) -> Iterator[Sequence[Phrase]]:
    """Cut a sentence into propositions; those that say nothing, and words that only end a clause, are left out.

    What stands in parentheses and makes a statement of its own comes apart, before the proposition that it interrupts.
    """
    asides: list[Sequence[Phrase]] = []
    if has_any(phrases, _OPENING):
        phrases, asides = _without_asides(phrases)
    for part in (*asides, phrases):
        yield from (cut for cut in _cut(part) if _has_content(cut))


def _without_asides(phrases: Sequence[Phrase]) -> tuple[Sequence[Phrase], list[Sequence[Phrase]]]:
    kept: list[Phrase] = []
    asides: list[Sequence[Phrase]] = []
    place = 0
    while place < len(phrases):
        close = place
        if phrases[place].roles & _OPENING:
            close = next((end for end in range(place, len(phrases)) if phrases[end].roles & _CLOSING), len(phrases))
            inner = phrases[place + 1 : close]
            if _has_content(inner) and (inner[0].roles & (QUALIFIERS | DETERMINERS) or has_any(inner, _SAYS_SO)):
                asides.append(inner)
            else:
                kept += inner
        else:
            kept.append(phrases[place])
        place = close + 1
    return kept, asides


def _cut(phrases: Sequence[Phrase]) -> Iterator[Sequence[Phrase]]:
    begin = 0
    for place, phrase in enumerate(phrases):
        if not phrase.roles & _MAY_OPEN:
            continue
        if phrase.roles & _CLAUSE_END:
            if _ends_clause(phrases, place):
                yield phrases[begin:place]
                begin = place + 1
        elif place > begin and _opens_proposition(phrases, begin, place):
            yield phrases[begin:place]
            begin = place
    yield phrases[begin:]


def _ends_clause(phrases: Sequence[Phrase], place: int) -> bool:
    """Whether a word that ends clauses does: not where only cues follow, as in "unlikely but not excluded"."""
    following = phrases[place + 1 :]
    end = next((n for n, phrase in enumerate(following) if phrase.roles & _CLAUSE_END), len(following))
    return _has_content(following[:end])


def _opens_proposition(phrases: Sequence[Phrase], begin: int, place: int) -> bool:
    """Whether a new proposition begins at a phrase inside a clause."""
    roles, before = phrases[place].roles, phrases[begin:place]
    if roles & THERE_IS:
        return _has_content(before)
    if roles & _ASIDE:
        return True
    if roles & ACCOMPANYING:
        begins_anew = place + 1 < len(phrases) and phrases[place + 1].roles & (QUALIFIERS | DETERMINERS)
        return before[-1].word == "," or (bool(begins_anew) and has_any(before, NEGATION))
    return _joins_proposition(phrases, before, place)


def _joins_proposition(phrases: Sequence[Phrase], before: Sequence[Phrase], place: int) -> bool:
    """Whether a comma or "and" joins two statements and not two things of one."""
    ahead = _segment(phrases, place + 1)
    if not ahead or ahead[0].roles & (ALTERNATIVES | JOINED_BY):
        return False
    is_negated, has_verb = has_any(before, NEGATION), has_any(before, VERBS | THERE_IS)
    has_state = any(phrase.meaning.state for phrase in before)
    if _has_own_state(ahead) and (is_negated or has_state):
        return True
    if is_negated and _is_qualified(ahead) and not _has_alternative(phrases, place + 1):
        return True
    verb = next((n for n, phrase in enumerate(ahead) if phrase.roles & _PREDICATES), None)
    if verb is None or not _has_content(ahead[:verb]):
        return False
    if phrases[place].word == "," and not has_any(ahead[:verb], JOINED_BY | ALTERNATIVES):
        # "A, B is not seen": no list is without an "and". "No A, B is seen" is one all the same.
        has_cue = has_any(ahead[verb:], NEGATION_AFTER | UNCERTAINTY_AFTER)
        is_denied_list = is_negated and has_any(ahead[verb:], PERCEIVED)
        return has_cue or ((is_negated or has_verb or has_state) and not is_denied_list)
    if phrases[place].word == "," or (not has_verb and has_any(ahead[verb:], _OF_LISTS)):
        return False  # the verb is that of the whole list
    return has_verb or (is_negated and bool(ahead[0].roles & DETERMINERS))


def _is_qualified(phrases: Sequence[Phrase]) -> bool:
    """Whether it begins as what is there does ("small", "left", "large left"); denied things too are just "large"."""
    first = phrases[1] if phrases[0].meaning.state and len(phrases) > 1 else phrases[0]
    return bool(first.roles & QUALIFIERS)


def _segment(phrases: Sequence[Phrase], start: int) -> Sequence[Phrase]:
    """From `start` to the next comma or end of the clause."""
    end = start
    while end < len(phrases) and phrases[end].word != "," and not phrases[end].roles & (_CLAUSE_END | THERE_IS):
        end += 1
    return phrases[start:end]


def _has_content(phrases: Sequence[Phrase]) -> bool:
    return any(phrase.meaning.has_content for phrase in phrases)


def _has_own_state(phrases: Sequence[Phrase]) -> bool:
    """Whether a structure and its state are both there: "heart size normal"."""
    return any(phrase.meaning.structure for phrase in phrases) and any(phrase.meaning.state for phrase in phrases)


def _has_alternative(phrases: Sequence[Phrase], start: int) -> bool:
    """Whether an "or" comes before the clause ends."""
    for place in range(start, len(phrases)):
        if phrases[place].roles & (_CLAUSE_END | ALTERNATIVES):
            return bool(phrases[place].roles & ALTERNATIVES)
    return False
