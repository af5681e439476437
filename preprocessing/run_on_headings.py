"""Headings that neither a line nor a colon sets apart, on reports that come on one line.

"EXAM Chest INDICATION Cough FINDINGS The lungs are clear": the words of a heading are looked for in the whole text,
and a heading is told from prose by what stands before and behind it, by its capitals, and by the other headings of the
report. The lists of such words are under `prose` in `rules/headings.yaml`.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from preprocessing.heading_search import BODY, FULL_LINE, PREAMBLE, SIGNATURE, Heading
from preprocessing.headings import HeadingVocabulary

_AROUND = 40  # characters looked at on either side; a bound on them keeps the time linear
_MARK = re.compile(r"\s*(?:[-–—]{1,2}>?\s|[–—]|[=;:>]\s)\s*|\s+")
_WORD = re.compile(r"[\w'’-]+")
_ENDED = re.compile(r"(?:[.!?;:|]|\A)\s*\Z|\s{2}\Z")
_OPENS_TEXT = re.compile(r"[A-Z0-9(\[_*#\"“]|-{2}")
_NAMED_LINE = re.compile(
    r"[\r\n][ \t]*((?:Dr\.? )?(?:[A-Z][\w.'-]*,? +){1,3}[A-Z][\w'-]+, *"
    r"(?:M\.?D|D\.?O|M\.?B\.?B\.?S|FRCR|FRCPC|FACR|Ph\.?D|(?:Consultant )?Radiologist)\b[^\r\n]{0,40})\s*\Z"
)
_SLASHED = re.compile(r"(?:^|(?<=\s))/e?s/(?=\s)", re.MULTILINE)
_FINDINGS = frozenset({"findings", "findings_and_impression"})
_ABOVE_FINDINGS = frozenset({PREAMBLE, "examination", "history", "indication", "technique", "comparison"})
_LONGEST_SIGNATURE = 160  # characters
_ORDER = {
    "examination": 0, "history": 1, "indication": 1, "technique": 2, "comparison": 3, "findings": 4,
    "findings_and_impression": 5, "impression": 6,
}  # fmt: skip
"""Usual order of the sections; without capitals or marks to tell, a heading is not believed where it goes back."""


class _Place(NamedTuple):
    """The words of a heading in the text, and how much stands for their being one."""

    heading: Heading
    stands_out: bool
    is_certain: bool
    opens_sentence: bool


def run_on_headings(text: str, lower: str, marked: Sequence[Heading], vocabulary: HeadingVocabulary) -> list[Heading]:
    """`marked` together with the headings of a report that nothing sets apart, in order.

    Args:
        text: the report.
        lower: the same in lower case, of the same length.
        marked: the headings that were found already.
        vocabulary: of headings.
    """
    places = list(_places(text, lower, marked, vocabulary))
    if not places:
        return list(marked)
    structured = sum(heading.name not in {PREAMBLE, SIGNATURE} for heading in marked) > 1
    if structured:
        stand_out = [place.heading for place in places if place.stands_out]
        return sorted([*marked, *stand_out], key=lambda heading: heading.start)
    certain = [place.heading for place in places if place.is_certain]
    if not marked and [heading.name for heading in certain] == ["comparison"]:
        certain = []  # "COMPARISON 2010. There is no effusion.": the report says more than its first word
    chosen = _in_order(marked, places)
    names = {heading.name for heading in chosen}
    if len(names & _ORDER.keys()) >= 2 and names & BODY:
        return chosen
    return sorted([*marked, *certain], key=lambda heading: heading.start)


def signature_headings(text: str, lower: str, vocabulary: HeadingVocabulary) -> list[Heading]:
    """Phrases that open a signature or attestation, at the beginning of a line or behind a sentence, and "/es/"."""
    slashed = _SLASHED.finditer(lower) if "s/" in lower else ()
    found = [Heading(SIGNATURE, match.group(), match.start(), match.end()) for match in slashed]
    for word in vocabulary.opener_words:  # a loop, since every report passes here and `any` takes twice the time
        if word in lower:
            break
    else:
        return found
    has_capitals = not text.islower()
    for start, end in vocabulary.openers.places(lower):
        before = text[max(0, start - _AROUND) : start]
        on_line = not before.strip(" ") or before.rstrip(" ")[-1] in "\r\n"
        stands_out = text[start].isupper() or (on_line and _ended_line(before)) or not has_capitals
        if stands_out and (on_line or _ENDED.search(before)):
            label = text[start:end]
            name = vocabulary.opener_names[" ".join(_WORD.findall(label.lower().replace("-", " ")))]
            skipped = _MARK.match(text, end)
            found.append(Heading(name, label, start, skipped.end() if skipped else end))
    return found


def signature_line(text: str) -> Heading | None:
    """A name with its degree alone on the last line: "John Smith, MD"."""
    match = _NAMED_LINE.search(text, max(0, len(text) - _LONGEST_SIGNATURE))
    return Heading(SIGNATURE, "", match.start(1), match.start(1)) if match else None


def structured_findings(lower: str, headings: Sequence[Heading], vocabulary: HeadingVocabulary) -> Heading | None:
    """Where findings begin that have no heading but lines of organs: "Lungs: Clear." and below it "Heart: Normal."

    Args:
        lower: the report in lower case.
        headings: of the report, in order.
        vocabulary: of headings.
    """
    if vocabulary.organ_label is None or any(heading.name in _FINDINGS for heading in headings):
        return None
    ends = [*(heading.start for heading in headings), len(lower)]
    for name, begin, end in zip([PREAMBLE, *(heading.name for heading in headings)], [0, *ends], ends, strict=False):
        if name in _ABOVE_FINDINGS:
            labels = [label.start() for label in islice(vocabulary.organ_label.finditer(lower, begin, end), 2)]
            if len(labels) == 2 and (labels[0] == 0 or lower[labels[0] - 1] in "\r\n"):
                return Heading("findings", "", labels[0], labels[0])
    return None


def _ended_line(before: str) -> bool:
    """Whether the text before a line ended its sentence or paragraph."""
    return before.count("\n") > 1 or bool(_ENDED.search(before.rstrip()))


def _opens_line(text: str, start: int) -> bool:
    """Whether the word at `start` begins a line that was not merely wrapped."""
    blank = text[max(0, start - _AROUND) : start]
    gap = blank[len(blank.rstrip()) :]
    if "\n" not in gap and "\r" not in gap:
        return False
    end = start - len(gap)
    line = text[max(0, end - FULL_LINE) : end]
    return gap.count("\n") > 1 or len(line) < FULL_LINE or "\n" in line


def _places(text: str, lower: str, marked: Sequence[Heading], vocabulary: HeadingVocabulary) -> Iterator[_Place]:
    heads = iter([*marked, Heading("", "", len(text) + 1, len(text) + 1)])
    head, taken, has_capitals = next(heads), 0, not text.islower()
    before = head
    for start, end in vocabulary.unmarked.places(lower):
        if start < taken:
            continue
        while head.text_start <= start:
            before, head = head, next(heads)
        if end <= head.start or start >= head.text_start:
            place = _place(text, start, end, has_capitals, vocabulary)
            if place is not None and (place.is_certain or not _opens_body(text, before, start)):
                taken = end
                yield place


def _opens_body(text: str, heading: Heading, start: int) -> bool:
    """Whether the words at `start` are the first below a heading of findings or impression, as in a sentence."""
    return (
        heading.name in BODY and start - heading.text_start < _AROUND and not text[heading.text_start : start].strip()
    )


def _place(text: str, start: int, end: int, has_capitals: bool, vocabulary: HeadingVocabulary) -> _Place | None:
    label = text[start:end]
    name = vocabulary.recognised_alone(label)
    mark = _MARK.match(text, end, end + _AROUND)
    if name is None or mark is None or mark.end() == len(text):
        return None
    before, after = text[max(0, start - _AROUND) : start], text[mark.end() : mark.end() + _AROUND]
    is_marked = bool(mark.group().strip())
    on_line = _opens_line(text, start)
    opens = on_line or bool(_ENDED.search(before))
    words = _WORD.findall(before)
    previous = words[-1].lower() if words and not opens else ""
    following = _WORD.match(after)
    next_word = following.group() if following else ""
    stands_out = label[0].isupper() and (not label.isupper() or _has_lower(before[-20:] + after[:20]))
    continues = next_word.lower() in vocabulary.words_after and not (stands_out and next_word[0].isupper())
    if previous in vocabulary.words_before or (continues and not is_marked):
        return None
    if vocabulary.is_described(name, previous) and not (stands_out and words[-1].islower()):
        return None
    opens_report = not before.strip()
    is_common = label.lower() in vocabulary.common_words and not opens_report
    heading = Heading(name, label, start, mark.end())
    is_alone = is_marked or on_line or (opens and name == "examination")
    is_weak = (is_common and not is_alone) or (name not in _ORDER and not is_marked)
    if stands_out and label.isupper() and len(label) > 2:
        return None if is_weak else _Place(heading, True, True, opens)
    if is_weak:
        return None
    says_what = name in BODY or " " in label or vocabulary.is_view_word(next_word)
    if stands_out:
        capital = bool(_OPENS_TEXT.match(after))
        if not (capital or is_marked or opens):
            return None
        is_certain = (opens and is_marked) or (opens_report and capital and says_what)
        return _Place(heading, opens and is_marked, is_certain, opens)
    if label.isupper() or not has_capitals or not _has_upper(before + after):
        return _Place(heading, False, opens_report and says_what, opens)
    return None


def _in_order(marked: Sequence[Heading], places: Sequence[_Place]) -> list[Heading]:
    """The headings that go together best: as many as can be in the usual order, each section once.

    A heading may go back in the order where a sentence ends before it; those that are certain are always taken.
    """
    certain = [*((heading, True) for heading in marked), *((p.heading, False) for p in places)]
    opening = {place.heading.start: place for place in places}
    best: dict[int, _Chain] = {-1: _Chain(0.0, frozenset(), None, None)}
    for heading, is_marked in sorted(certain, key=lambda item: item[0].start):
        place = opening.get(heading.start)
        rank = _ORDER.get(heading.name, -1)
        is_taken = is_marked or (place is not None and place.is_certain)
        opens = is_taken or (place is not None and place.opens_sentence)
        found = _best_before(best, heading, rank, opens, is_taken)
        if found is None:
            continue
        weight = found.weight + _weight(heading, opens)
        chain = _Chain(weight, found.names | {heading.name}, heading, found)
        reached = max(best, key=lambda r: best[r].weight) if rank < 0 else rank
        if is_taken:
            best = {reached: chain}
        elif reached not in best or best[reached].weight < weight:
            best[reached] = chain
    return _unrolled(max(best.values(), key=lambda chain: chain.weight))


def _weight(heading: Heading, opens_sentence: bool) -> float:
    """How much a heading adds to its chain: prose seldom has a heading of several words, or "indication"."""
    is_telling = " " in heading.label or heading.name == "indication"
    return 1.0 + 0.5 * opens_sentence + 0.25 * is_telling


class _Chain(NamedTuple):
    """Headings that go together, the last first."""

    weight: float
    names: frozenset[str]
    heading: Heading | None
    before: "_Chain | None"


def _best_before(best: dict[int, _Chain], heading: Heading, rank: int, opens: bool, is_taken: bool) -> _Chain | None:
    """The best chain that a heading may be added to; going back in the order costs as much as a heading."""
    chains = []
    for last, chain in best.items():
        is_empty = chain.heading is not None and chain.heading.text_start >= heading.start
        if is_taken or (heading.name not in chain.names and (last < rank or opens) and not is_empty):
            goes_back = last >= rank and not is_taken
            chains.append(chain._replace(weight=chain.weight - goes_back))
    return max(chains, key=lambda chain: chain.weight, default=None)


def _unrolled(chain: _Chain) -> list[Heading]:
    headings = []
    while chain.heading is not None and chain.before is not None:
        headings.append(chain.heading)
        chain = chain.before
    return headings[::-1]


def _has_lower(text: str) -> bool:
    return text != text.upper()


def _has_upper(text: str) -> bool:
    return text != text.lower()
