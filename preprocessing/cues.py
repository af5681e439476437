"""Which cue of a proposition reaches which of the things that it speaks of; used by `assertions`."""

from collections.abc import Sequence

from preprocessing.lexicon import ROLE
from preprocessing.propositions import (
    ACCOMPANYING,
    JOINED_BY,
    NEGATION,
    NEGATION_AFTER,
    NOT_EXCLUDED,
    PREPOSITIONS,
    QUALIFIERS,
    UNCERTAINTY,
    UNCERTAINTY_AFTER,
    VERBS,
    Phrase,
)

_NO_STATEMENT = ROLE["no_statement"]
_BEFORE_AND_AFTER = ((NEGATION, NEGATION_AFTER), (UNCERTAINTY, UNCERTAINTY_AFTER), (NOT_EXCLUDED, 0))
ANY_CUE = NEGATION | NEGATION_AFTER | UNCERTAINTY | UNCERTAINTY_AFTER | NOT_EXCLUDED | _NO_STATEMENT
"""Roles of phrases that may decide what is said."""


class Cues:
    """The cues of one proposition, and which of them reaches a place.

    Args:
        phrases: of the proposition.
        places: of its claims; they decide which way a cue reaches that may stand on either side.
    """

    def __init__(self, phrases: Sequence[Phrase], places: Sequence[int]) -> None:
        self._phrases, self._places = phrases, places
        self._reach_on: dict[int, list[int]] = {}  # kind of cue to the places of those that reach to what follows
        self._reach_back: dict[int, list[int]] = {}
        self._no_statement = range(0)
        for place, phrase in enumerate(phrases):
            roles = phrase.roles & ANY_CUE
            if not roles:
                continue
            if roles & _NO_STATEMENT and not self._no_statement:
                end = next((p for p in range(place + 1, len(phrases)) if _ends_history(phrases[p])), len(phrases))
                self._no_statement = range(place, end)
            for kind, after in _BEFORE_AND_AFTER:
                if roles & (kind | after):
                    reach = self._reach(place, kind, bool(roles & kind), bool(roles & after))
                    if reach is not None:
                        reach.setdefault(kind, []).append(place)

    def deciding(self, place: int) -> tuple[Phrase | None, Phrase | None]:
        """The cue that denies what stands at a place, or the one that leaves it open.

        What cannot be excluded is open, whatever was denied before. What is denied is not open because it was doubted
        ("nothing suspicious for X"), but where the denial itself is doubted ("probably no X").
        """
        negation, uncertainty = self._nearest(place, NEGATION), self._nearest(place, UNCERTAINTY)
        excluded = self._nearest(place, NOT_EXCLUDED)
        behind = [p for p in self._reach_back.get(UNCERTAINTY, ()) if p > place]
        if excluded is not None and negation is not None and excluded < negation < place:
            excluded = None  # "no new A and no B"
        if excluded is not None or behind:
            return None, self._phrases[behind[0] if excluded is None else excluded]
        if negation is None:
            return None, None if uncertainty is None else self._phrases[uncertainty]
        if negation - 1 in self._reach_on.get(UNCERTAINTY, ()):
            return None, self._phrases[negation - 1]
        return self._phrases[negation], None

    def is_no_statement(self, place: int) -> bool:
        """Whether what stands there is not said of this picture."""
        return place in self._no_statement

    def _nearest(self, place: int, kind: int) -> int | None:
        before = [p for p in self._reach_on.get(kind, ()) if p < place]
        if before:
            return before[-1]
        return next((p for p in self._reach_back.get(kind, ()) if p > place), None)

    def _reach(self, place: int, kind: int, on: bool, back: bool) -> dict[int, list[int]] | None:
        """Whether a cue reaches to what follows or to what precedes it; "probable" may do either."""
        something_behind = any(p > place for p in self._places)
        something_before = any(p < place for p in self._places)
        following = self._phrases[place + 1] if place + 1 < len(self._phrases) else None
        if on and not back:  # "effusion: none"
            return self._reach_on if something_behind or following is not None else self._reach_back
        if back and not on:  # "not seen: effusion"
            return self._reach_on if something_behind and not something_before else self._reach_back
        if something_behind and (kind == UNCERTAINTY or not something_before):
            return self._reach_on
        if something_behind and following and (following.meaning.has_content or following.roles & QUALIFIERS):
            return self._reach_on
        ends = following is None or bool(following.roles & (PREPOSITIONS | JOINED_BY))
        if following is not None and kind == UNCERTAINTY and self._phrases[place - 1].word == ",":
            return None  # "a fracture, probably in the past": of its age or cause
        return self._reach_back if something_before and (ends or kind == NEGATION) else None


def _ends_history(phrase: Phrase) -> bool:
    """Whether what is told of the past ends: "history of CHF, now with edema"."""
    return phrase.word == "," or bool(phrase.roles & (VERBS | ACCOMPANYING))
