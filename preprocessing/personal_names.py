"""Names of persons in report text, by what stands beside them; a part of `text_identifiers`.

A name is recognised by a title ("Dr. Doe"), a credential ("Jane Doe, MD"), a label ("Patient: DOE, JANE") or a cue
("discussed with Jane Doe"), never by a list of names. The words are in `rules/identifiers.yaml`. Every look to the
left or right is bounded, so that the time is linear in the length of the text.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

Span = tuple[int, int]
Rule = Callable[[str, int, int], Iterator[Span]]
"""Text, start and end of a word -> spans of the names that the word gives away."""

_LETTER = r"[^\W\d_]"
_PART = rf"{_LETTER}(?:{_LETTER}|[\u0300-\u036f]|['’](?={_LETTER})){{0,30}}"
_NAME_WORD = re.compile(rf"{_PART}(?:[-‐‑]{_PART}){{0,3}}")
_GAP = re.compile(r"[ \t\u00a0]{0,4}(?:\^|\r?\n[ \t\u00a0]{0,12})?")  # HL7 writes DOE^JANE
_ROLE_GAP = re.compile(r"\s{0,3}[:(,]?\s{0,3}")  # "resident Jane Doe", "sonographer: Jane Doe", "attending (Jane Doe)"
_LINE_BEGIN = re.compile(r"\n[ \t\u00a0]{0,12}\Z")
_LIST = re.compile(r"\s{0,2}(?:,\s{0,2}(?:and\s{1,2})?|and\s{1,2}|&\s{0,2}|/\s{0,2}|or\s{1,2})", re.IGNORECASE)
_COMMA = re.compile(r"\s?,[ \t\u00a0]{0,2}")
_COLON = re.compile(r"\*{0,2}\s{0,3}[:=]\*{0,2}")  # "**Name:** Jane Doe" in Markdown
_REDACTED = re.compile(r"[Xx]{2,}(?:\W|\Z)")
_POSSESSIVE = re.compile(r"['’][sS]\Z")
_DETERMINERS = frozenset({"the", "a", "an", "his", "her", "their", "this", "that", "patient's", "another"})

# Words of a name, initials and particles apart: fewer where case does not tell a name from the words behind it.
_LONGEST, _LONGEST_IN_CAPITALS, _LONGEST_IN_LOWER_CASE = 4, 3, 2
_WINDOW = 90  # characters looked at to the left
_LONGEST_LIST = 8


class NameRules:
    """The rules for names, by the first word of what gives a name away (of a cue behind the name: by its last).

    Args:
        rules: the content of an identifiers file.
    """

    def __init__(self, rules: dict[str, Any]) -> None:
        self._abbreviated = frozenset(rules["titles"]["abbreviated"])
        self._plural = frozenset(rules["titles"]["plural"])
        self._modalities = frozenset(rules["titles"]["also_modalities"])
        titles = self._abbreviated | frozenset(rules["titles"]["spelled_out"])
        self._particles = frozenset(rules["particles"])
        self._fillers = frozenset(rules["fillers"])
        self._eponyms = frozenset(rules["eponyms"])
        self._also_surnames = frozenset(rules["also_surnames"])
        credentials = rules["credentials"]
        self._credential = re.compile("|".join(_with_stops(credential).pattern for credential in credentials))
        self._ordinary_endings = tuple(rules["ordinary_endings"])
        self._ordinary = titles.union(*(line.split() for line in rules["ordinary"]), map(str.lower, credentials))
        self.by_word: dict[str, tuple[Rule, ...]] = {}
        self._add(titles, self._behind_title)
        self._add(rules["roles"], self._behind_role)
        for credential in credentials:
            letters = {credential, credential[0]} if len(credential) <= 3 else {credential}  # "MD" and "M.D."
            self._add(letters, partial(self._before_credential, _with_stops(credential)))
        for label in rules["labels"]:
            self._add([label], partial(self._behind_label, _phrase(label), with_colon=True))
        for phrase in rules["signatures"]:
            self._add([phrase], partial(self._behind_label, _phrase(phrase), with_colon=False))
        for phrase in rules["cues"]:
            self._add([phrase], partial(self._behind_cue, _phrase(phrase), in_capitals=True))
        for phrase in rules["cues_with_case"]:
            self._add([phrase], partial(self._behind_cue, _phrase(phrase), in_capitals=False))
        for phrase in rules["cues_behind"]:
            self._add([phrase.split()[-1]], partial(self._before_cue, _phrase(phrase, r"\Z")))

    def repeated(self, text: str, found: list[Span]) -> Iterator[Span]:
        """Further places of the names among `found`: "Dr. Doe ... Doe agreed". Eponyms are not looked for."""
        words = {word for start, end in found for word in _NAME_WORD.findall(text, start, end)}
        names = {
            word
            for word in words
            if len(word) > 2 and self._can_be_name(word) and not word.isupper() and word.lower() not in self._eponyms
        }
        if names:
            yield from (match.span() for match in _NAME_WORD.finditer(text) if match.group() in names)

    def _add(self, phrases: Iterable[str], rule: Rule) -> None:
        for phrase in phrases:
            word = re.split(r"[\W_]+", phrase.lower())[0]
            self.by_word[word] = (*self.by_word.get(word, ()), rule)

    def _behind_title(self, text: str, start: int, end: int) -> Iterator[Span]:
        title = text[start:end]
        kind = title.lower()
        has_stop = text.startswith(".", end)
        begin = _gap_end(text, end + has_stop)
        first = _NAME_WORD.match(text, begin)
        if first is None or begin == end:
            return
        word = first.group()
        in_capitals = title.isupper()
        may_be_modality = in_capitals and not has_stop and kind in self._modalities
        if may_be_modality and (word[0].islower() or (kind != "dr" and not word.isupper())):
            return
        if word[0].islower() and word.lower() not in self._particles:
            span = self._name_in_lower_case(text, begin) if kind in self._abbreviated else None
            yield from _some(span)
            return
        # "Dr. Young" is a name, whatever the word; "spoke to the Dr. The ..." is not.
        is_surname = word.lower() in self._also_surnames and has_stop
        is_certain = kind in self._abbreviated and (is_surname or not (in_capitals or word.isupper()))
        is_certain = is_certain and _word_before(text, start) not in _DETERMINERS
        longest = _LONGEST_IN_CAPITALS if in_capitals else _LONGEST
        span = self._name(text, begin, longest, first_is_certain=is_certain, initial_is_enough=True)
        if span is not None:
            yield span
            if kind in self._plural or not in_capitals:
                yield from self._list(text, span[1], longest, with_commas=kind in self._plural)

    def _behind_role(self, text: str, start: int, end: int) -> Iterator[Span]:
        gap = _ROLE_GAP.match(text, end)
        begin = gap.end() if gap else end
        in_capitals = text[start : end + 20].isupper()
        span = self._name(text, begin, _LONGEST_IN_CAPITALS if in_capitals else _LONGEST) if begin > end else None
        if span is None:
            return
        is_one_word = len(text[slice(*span)].split()) == 1
        is_acronym = is_one_word and text[slice(*span)].isupper()  # "general practitioner (GP)"
        if not (is_acronym or (in_capitals and is_one_word)):
            yield span

    def _behind_label(
        self, pattern: re.Pattern[str], text: str, start: int, end: int, *, with_colon: bool
    ) -> Iterator[Span]:
        """A name that fills a field: "Jane Doe", "DOE, JANE M", "Jane Doe / John Roe"."""
        label = pattern.match(text, start)
        if label is None:
            return
        colon = _COLON.match(text, label.end())
        if with_colon and colon is None:
            return
        span = self._name(text, _gap_end(text, colon.end() if colon else label.end()), _LONGEST)
        if span is None:
            return
        comma = _COMMA.match(text, span[1])
        if comma and not self._credential.match(text, comma.end()):
            given = self._name(text, comma.end(), _LONGEST, initial_is_enough=True)
            span = (span[0], given[1]) if given else span
        yield span
        yield from self._list(text, span[1], _LONGEST, with_commas=True)

    def _behind_cue(
        self, pattern: re.Pattern[str], text: str, start: int, end: int, *, in_capitals: bool
    ) -> Iterator[Span]:
        phrase = pattern.match(text, start)
        if phrase is None:
            return
        shouted = phrase.group().isupper()
        begin = self._behind_fillers(text, phrase.end())
        first = _NAME_WORD.match(text, begin)
        if first is None or (shouted and not in_capitals):
            return
        is_acronym = first.group().isupper() and len(first.group()) > 1 and not shouted
        if is_acronym or (not in_capitals and first.group().lower() in self._eponyms):
            return
        longest = _LONGEST_IN_CAPITALS if shouted else _LONGEST
        span = self._name(text, begin, longest)
        if span is not None:
            yield span
            yield from self._list(text, span[1], longest, with_commas=False)

    def _behind_fillers(self, text: str, position: int) -> int:
        """Where the name may begin behind ranks and departments: "the ICU resident, Jane Doe"."""
        begin = _gap_end(text, position)
        for _ in range(6):
            word = _NAME_WORD.match(text, begin)
            if word is None or word.group().lower() not in self._fillers:
                break
            comma = _COMMA.match(text, word.end())
            begin = _gap_end(text, comma.end() if comma else word.end())
        return begin

    def _before_credential(self, pattern: re.Pattern[str], text: str, start: int, end: int) -> Iterator[Span]:
        credential = pattern.match(text, start)
        if credential is None:
            return
        is_verb = credential.group() == "DO" and not text[max(0, start - 3) : start].rstrip().endswith(",")
        if not is_verb:
            yield from _some(self._name_before(text, start))

    def _before_cue(self, pattern: re.Pattern[str], text: str, start: int, end: int) -> Iterator[Span]:
        phrase = pattern.search(text, max(0, end - _WINDOW), end)
        if phrase is not None:
            yield from _some(self._name_before(text, phrase.start()))

    def _name_before(self, text: str, position: int) -> Span | None:
        """The name that ends right before `position`, a comma between allowed."""
        last = _word_before(text, position).rstrip(",|").replace(".", "")
        if last in self._ordinary and last not in self._also_surnames:
            return None
        words: list[re.Match[str]] = []
        right = position
        for word in reversed(list(_NAME_WORD.finditer(text, max(0, position - _WINDOW), position))):
            is_particle = word.group().lower() in self._particles
            may_have_stop = is_particle or len(word.group()) == 1
            between = text[word.end() : right].strip()
            is_linked = between in ("", ",", "|") or (between == "." and may_have_stop)
            can_be_name = is_particle or self._can_be_name(word.group()) or self._can_follow_name(word.group())
            if not is_linked or not can_be_name or len(words) == 2 * _LONGEST:
                break
            words.append(word)
            right = word.start()
        if not any(len(word.group()) > 1 and self._can_be_name(word.group()) for word in words):
            return None
        return words[-1].start(), words[0].end()

    def _list(self, text: str, position: int, longest: int, *, with_commas: bool) -> Iterator[Span]:
        """Names that follow in a list: "Drs. Doe, Roe and Poe"."""
        for _ in range(_LONGEST_LIST):
            link = _LIST.match(text, position)
            if link is None or (link.group().strip() == "," and not with_commas):
                return
            span = None if self._credential.match(text, link.end()) else self._name(text, link.end(), longest)
            if span is None:
                return
            yield span
            position = span[1]

    def _name(
        self,
        text: str,
        begin: int,
        longest: int,
        *,
        first_is_certain: bool = False,
        initial_is_enough: bool = False,
    ) -> Span | None:
        """The name that begins at `begin`: words, initials and particles as far as they can belong to a name.

        Args:
            text: the report.
            begin: where the first word must stand.
            longest: words taken at the most, initials and particles apart.
            first_is_certain: take the first word though it be an ordinary one.
            initial_is_enough: give a name that is an initial alone.
        """
        cursor, end, count, initials = begin, begin, 0, 0
        while count < longest and initials < _LONGEST and (word := _NAME_WORD.match(text, cursor)):
            name = _POSSESSIVE.sub("", word.group())
            is_particle = name.lower() in self._particles
            is_certain = first_is_certain and count == initials == 0 and not _REDACTED.match(name)
            can_be_name = is_particle or is_certain or self._can_be_name(name)
            can_be_name = can_be_name or (cursor > begin and self._can_follow_name(name))
            if not can_be_name or self._is_something_else(text, begin, word):
                break
            if not is_particle or name[0].isupper():
                end = word.start() + len(name)
                count += len(name) > 1 and not is_particle
            initials += len(name) == 1 or is_particle
            has_stop = (len(name) == 1 or is_particle) and text.startswith(".", word.end())
            cursor = _gap_end(text, word.end() + has_stop)
            if cursor == word.end() or len(name) < len(word.group()):
                break
        is_name = end > begin and (count > 0 or initial_is_enough or _is_long(text, begin, end))
        return (begin, end) if is_name else None

    def _name_in_lower_case(self, text: str, begin: int) -> Span | None:
        """ "smith" or "jane smith" behind "dr"."""
        cursor, end = begin, begin
        for _ in range(_LONGEST_IN_LOWER_CASE):
            word = _NAME_WORD.match(text, cursor)
            name = _POSSESSIVE.sub("", word.group()) if word else ""
            if not word or self._is_ordinary(name) or _REDACTED.match(name):
                break
            end = word.start() + len(name)
            cursor = _gap_end(text, word.end())
        return (begin, end) if end > begin else None

    def _is_something_else(self, text: str, begin: int, word: re.Match[str]) -> bool:
        """Whether a word behind the first is a label or a credential, or opens a line with "A" or an eponym."""
        if word.start() == begin:
            return False
        if _COLON.match(text, word.end()) or self._credential.match(text, word.start()):
            return True
        is_article = word.group() in ("A", "I") and not text.startswith(".", word.end())
        may_open_prose = is_article or word.group().lower() in self._eponyms
        return may_open_prose and _LINE_BEGIN.search(text, max(0, word.start() - 14), word.start()) is not None

    def _can_be_name(self, word: str) -> bool:
        return word[0].isupper() and not self._is_ordinary(word) and not _REDACTED.match(word)

    def _can_follow_name(self, word: str) -> bool:
        """ "May" behind "Jane"; in capitals the month or the verb is likelier."""
        return word[0].isupper() and not word.isupper() and word.lower() in self._also_surnames

    def _is_ordinary(self, word: str) -> bool:
        lower = word.lower()
        return len(word) > 1 and (lower in self._ordinary or lower.endswith(self._ordinary_endings))


def _phrase(phrase: str, end: str = r"\b") -> re.Pattern[str]:
    """A phrase with any white space between its words; "..." stands for up to eight words of the same sentence."""
    words = [r"[\w'’/-]{1,30}(?:\s{1,3}[\w'’/-]{1,30}){0,7}?" if w == "..." else re.escape(w) for w in phrase.split()]
    return re.compile(r"\s{1,3}".join(words) + end, re.IGNORECASE)


def _with_stops(credential: str) -> re.Pattern[str]:
    """ "MD", "M.D." and "M. D.", not as a part of a word."""
    stopped = r"\.\s?".join(re.escape(letter) for letter in credential.replace("-", ""))
    return re.compile(rf"(?:{re.escape(credential)}|{stopped}\.)(?![\w-])")


def _gap_end(text: str, position: int) -> int:
    gap = _GAP.match(text, position)
    return gap.end() if gap else position


def _word_before(text: str, position: int) -> str:
    words = text[max(0, position - 24) : position].split()
    return words[-1].lower() if words else ""


def _is_long(text: str, start: int, end: int) -> bool:
    return any(len(word) > 1 for word in _NAME_WORD.findall(text, start, end))


def _some(span: Span | None) -> Iterator[Span]:
    if span is not None:
        yield span
