"""Dates, ages over 89, telephone and record numbers, addresses in report text; a part of `text_identifiers`.

A number is judged by its form and by the words beside it, which are in `rules/identifiers.yaml`. Measurements,
fractions, vertebral levels, series and image numbers and ICD codes are no identifiers. Every look to the left or
right is bounded, so that the time is linear in the length of the text.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

Found = tuple[str, int, int]
"""Kind, start, end."""
Rule = Callable[[str, int, int], Iterator[Found]]

# Groups of figures are found first, which is quick; the patterns see these alone. What stands beside is looked at last.
_FIGURES = re.compile(r"\d[\d ./()\-\r\n]{2,}")
_FULL_DATE = re.compile(r"\d{1,4} ?([/.\-]) ?\d{1,2} ?\1 ?(?:\d{4}|\d{2})(?![\d/]|[.\-]\d)")
_PART_DATE = re.compile(r"\d{1,2}/(?:\d{4}|\d{1,2})(?![\d/%]|[.\-]\d)|\d{1,2}-(?:19|20)\d\d(?![\d/%]|[.\-]\d)")
_LONG_NUMBER = re.compile(r"\d{6,}|\d{2,3}(?:-\d{2,4}){2,4}(?!-?\d)|\d{1,12}(?:\.\d{1,64}){4,20}")
_PHONE = re.compile(
    r"\d{3}(?:\)(?:[ -]|\r?\n|)|[ .\-/]|\r?\n)\d{3}(?:[ .\-]|\r?\n)\d{4}(?!\d)"  # 212 555 0123, (212) 555-0123
    r"|1[ .\-]\(?\d{3}\)?[ .\-]\d{3}[ .\-]\d{4}(?!\d)"
    r"|\d{3}-\d{4}(?![\d\-/])"
    r"|0\d{1,4}(?:[ /]|\r?\n)\d{2,4}(?:(?:[ \-]|\r?\n)\d{2,4}){1,3}(?!\d)"  # 020 7946 0123
)
_ABROAD = re.compile(r"\+\d{1,3}(?:(?:[ .\-]|\r?\n|)\(?\d{1,4}\)?){2,5}(?!\d)")
_INTERNET_ADDRESS = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}(?!\.?\d)")
_AGE = re.compile(
    r"(9\d|1[01]\d)(?:\s?-?\s?(?:y(?:ea)?rs?['’]?\s?-?\s?(?:of age|olds?\b)|y\s?[./]?\s?o\b|y\.o|yo[mf]\b|y\b)"
    r"|(?=\s?(?-i:[MF])\b))",
    re.IGNORECASE,
)
_AGED = re.compile(r"\b(?:aged?|age of|age is)\s?:?\s?\Z", re.IGNORECASE)
_AGE_IN_WORDS = re.compile(
    r"\b(?:ninety(?:[ -](?:one|two|three|four|five|six|seven|eight|nine))?(?=[ -]years?[ -]old)"
    r"|one hundred(?: and)?(?: [a-z]{3,5})?(?=[ -]years?[ -]old)|nonagenarian|centenarian"
    r"|(?<=her )nineties|(?<=his )nineties|(?<=their )nineties|(?<=her )90s|(?<=his )90s)\b",
    re.IGNORECASE,
)
_NUMBER_SIGN = re.compile(r"#\s?(\d{4,})")
_MAIL = re.compile(r"[\w.+%'’\-]{0,64}\Z")
_MAIL_HOST = re.compile(r"[A-Za-z0-9\-]{1,63}(?:\.[A-Za-z0-9\-]{1,63}){1,5}")
_URL = re.compile(
    r"(?:https?://|www\.)[^\s<>\"]{2,300}|\b[a-z0-9\-]{2,63}\.(?:com|org|net|edu|gov)\b(?:/[^\s<>\"]{0,300})?",
    re.IGNORECASE,
)
_DOMAINS = (".com", ".org", ".net", ".edu", ".gov")
_POST_CODE = re.compile(r"\d{5}(?:-\d{4})?(?![\d-])")
_CITY_BEFORE = re.compile(r"(?:[A-Z][a-z.]{1,20}\s){0,2}[A-Z][A-Za-z.]{1,20},\s?[A-Z]{2}\.?\s{1,2}\Z")
_POST_BOX = re.compile(r"\bp\.?\s?o\.?\s{0,2}box\s{1,2}\d{1,8}", re.IGNORECASE)
_TIME_BEHIND = re.compile(
    r"(?:T|[ ,]{1,2}(?:at |@ ?)?)\d{1,2}[:.]\d\d(?::\d\d(?:\.\d{1,6})?)?(?: ?[AaPp]\.?[Mm]\b\.?)?(?!\d)"
    r"|[ ,]{1,2}(?:at |@ ?)?(?:\d{1,2} ?[AaPp]\.?[Mm]\b\.?|\d{4} ?(?:hours|hrs?)\b)"
)
_WORD_BEFORE = re.compile(r"([^\W\d_]+)[\s:,.(]{1,3}\Z")
_PART_OF_SOMETHING = re.compile(
    r"\s?%|(?:th|rd|nd)\b"
    r"|\s?(?:of (?:the|a|an|its|his|her)|cm|mm|ml|inch|inches|views?|images?|slices?|lung|ribs?|strength|french|fr)\b",
    re.IGNORECASE,
)
_UNIT = re.compile(r"\s?(?:cm|mm|ml|%)", re.IGNORECASE)
_DAY_BEFORE = re.compile(r"(?<![\d/.])(\d{1,2})(st|nd|rd|th)?(?: day)?(?:\sof\s|[ \-/]|\r?\n|)\Z", re.IGNORECASE)
_YEAR_BEFORE = re.compile(r"(?<!\d)(?:19|20)\d\d[ \-/]\Z")
_YEAR = re.compile(
    r"(?:\.?[ ,\-/]{1,2}|\.|[.,]?\r?\n|)(?:of )?((?:19|20)\d\d|['’]\d\d|(?<=[\-/])\d\d)(?!\d|[.:]\d)", re.IGNORECASE
)
_DAY_BEHIND = re.compile(
    r"\.?(?:[ \-/]{1,2}|\r?\n(?!\d{1,2}[.)]\s)|)(?:the )?"
    r"([0-3]?\d)(st|nd|rd|th)?(?![\d%/a-z]|[.:]\d| ?(?:mm|cm|x|views?)\b)",
    re.IGNORECASE,
)
_MONTH_CUE = re.compile(
    r"\b(?:in|since|of|last|from|until|till|early|late|mid|to|and|through|by|this|next)[ \-]\Z", re.IGNORECASE
)
_RECORD_BEHIND = re.compile(
    r"\.?(?:\s{0,2}(?:number|numbers|num|no|nr|code|id|is|was|of)\b\.?|\s{0,2}[#:=(\-]){0,4}\s{0,2}"
    r"([A-Za-z]{0,5}-?\d[A-Za-z0-9]{0,20}(?:[\-/.][A-Za-z0-9]{1,16}|[ ]\d{2,4}(?!\d| ?[a-z]{2})){0,4})",
    re.IGNORECASE,
)
_PHONE_BEHIND = re.compile(
    r"\.?(?:\s{0,2}(?:number|num|no|is|was|at|me|us|back)\b\.?|\s{0,2}[#:=(x\-]){0,4}\s{0,2}"
    r"(\+?\(?\d[\d\-.() /]{0,18}\d)(?![\d/%]|\s?(?:cm|mm|x|views?|am|pm|a\.m|p\.m|hours|hrs?|h|min|minutes|days?)\b)",
    re.IGNORECASE,
)
_STREET_BEFORE = re.compile(
    r"\d{1,5}[A-Za-z]?\s(?:(?:[NSEW]\.?|North|South|East|West)\s)?"
    r"(?:[A-Z][\w.'’]{0,20}\s|\d{1,3}(?:st|nd|rd|th|ST|ND|RD|TH)\s){1,3}\Z"
)
_INTERNAL = re.compile(r"\d-\d{4}")
_NUMBER_MARK = re.compile(r"[#:=]")
_GLUED = re.compile(r"[A-Za-z0-9\-]{0,40}")
_GLUED_BEFORE = re.compile(r"[A-Za-z0-9\-]{0,40}\Z")
_EXTENSION = re.compile(r"\bx ?(\d-\d{4}|\d{4,5})(?!\.?\d)", re.IGNORECASE)
_JOINS_NUMBERS = frozenset("0123456789./")
_WINDOW = 90  # characters looked at to the left


class NumberRules:
    """The rules for numbers: those that a word gives away by that word, and those of their own form.

    Args:
        rules: the content of an identifiers file.
    """

    def __init__(self, rules: dict[str, Any]) -> None:
        cues = rules["date_cues"]
        self._strong = frozenset(cues["strong"])
        self._cues = self._strong | frozenset(cues["weak"])
        self._no_dates_behind = frozenset(rules["not_dates_behind"])
        self._also_words = frozenset(rules["months"]["also_words"])
        months = (*rules["months"]["full"], *rules["months"]["short"])
        self.months = frozenset(months) - self._also_words
        self.by_word: dict[str, Rule] = {}
        for month in months:
            self.by_word[month] = self._date_at_month
        for cue in rules["record_cues"]:
            self.by_word[cue.strip("#")] = _record_behind
        for least, digits in ((3, "three"), (5, "five"), (7, "seven")):
            self.by_word |= {cue: partial(_phone_behind, least) for cue in rules["phone_cues"][digits]}
        for street in rules["streets"]:
            self.by_word[street] = _street_at

    def by_form(self, text: str, lower: str) -> Iterator[Found]:
        """Dates in figures, ages, telephone and long numbers, post codes behind a city, numeric internet addresses."""
        for figures in _FIGURES.finditer(text):
            start, end = figures.span()
            yield from self._dates(text, start, end)
            if end - start >= 6:
                yield from _numbers(text, start, end)
        yield from _ages(text)
        if "+" in text:
            yield from _numbers_abroad(text)
        if "x" in lower:
            yield from (("phone", *match.span(1)) for match in _EXTENSION.finditer(text))
        if "#" in text:
            yield from (("record_number", *match.span(1)) for match in _NUMBER_SIGN.finditer(text))

    def _dates(self, text: str, begin: int, end: int) -> Iterator[Found]:
        for match in _FULL_DATE.finditer(text, begin, end):
            start = match.start()
            is_alone = text[max(0, start - 1) : start] not in _JOINS_NUMBERS
            if is_alone and _is_date(match) and not _UNIT.match(text, match.end()):
                yield "date", start, _time_end(text, match.end())
        for match in _PART_DATE.finditer(text, begin, end):
            if self._is_part_date(text, match):
                yield "date", match.start(), _time_end(text, match.end())

    def _is_part_date(self, text: str, match: re.Match[str]) -> bool:
        """Whether "3/14" or "3/2019" is meant as a date."""
        start = match.start()
        if start and (text[start - 1].isalnum() or text[start - 1] in "/.-+_"):
            return False
        first, _, second = match.group().replace("-", "/").partition("/")
        if len(second) == 4:
            return 1 <= int(first) <= 12 and second[:2] in ("19", "20")
        month_and_day = 1 <= int(first) <= 12 and 1 <= int(second) <= 31
        day_and_month = 1 <= int(first) <= 31 and 1 <= int(second) <= 12
        if not (month_and_day or day_and_month) or _PART_OF_SOMETHING.match(text, match.end()):
            return False
        before = _WORD_BEFORE.search(text, max(0, start - 24), start)
        word = before.group(1).lower() if before else ""
        if word in self._no_dates_behind:
            return False
        could_be_fraction = int(first) < int(second) <= 5 and "0" not in (first[0], second[0])
        if word in self._cues:
            return word in self._strong or not could_be_fraction
        padded = "0" in (first[0], second[0])
        # "10/15" may as well be a score, "9/20" a share: common denominators need a cue.
        return padded or (month_and_day and int(second) > 12 and second not in ("15", "16", "20", "30"))

    def _date_at_month(self, text: str, start: int, end: int) -> Iterator[Found]:
        word = text[start:end]
        is_certain = word.lower() not in self._also_words or (word[0].isupper() and not word.isupper())
        day = _DAY_BEFORE.search(text, max(0, start - 14), start)
        if day and 1 <= int(day.group(1)) <= 31:
            year = _YEAR.match(text, end)
            if is_certain or year or day.group(2):
                yield "date", day.start(), _time_end(text, year.end() if year else end)
                return
        year = _YEAR_BEFORE.search(text, max(0, start - 6), start)
        begin = year.start() if year else start
        day = _DAY_BEHIND.match(text, end)
        if day and 1 <= int(day.group(1)) <= 31:
            behind = _YEAR.match(text, day.end())
            if is_certain or year or behind or day.group(2):
                yield "date", begin, _time_end(text, behind.end() if behind else day.end())
                return
        behind = _YEAR.match(text, end)
        if behind or year:
            yield "date", begin, behind.end() if behind else end
        elif is_certain and word[0].isupper() and _MONTH_CUE.search(text, max(0, start - 10), start):
            yield "date", start, end


def without_digits(text: str, lower: str) -> Iterator[Found]:
    """What identifies without a figure: e-mail and web addresses, ages in words."""
    if "@" in text:
        for place in re.finditer("@", text):
            host = _MAIL_HOST.match(text, place.end())
            user = _MAIL.search(text[max(0, place.start() - 64) : place.start()])
            if host and user and user.group():
                yield "email_or_url", place.start() - len(user.group()), host.end()
    if "www." in lower or "://" in lower or any(map(lower.__contains__, _DOMAINS)):
        yield from (("email_or_url", *match.span()) for match in _URL.finditer(text))
    if "ninet" in lower or "hundred" in lower or "enarian" in lower or "90s" in lower:
        yield from (("age", *match.span()) for match in _AGE_IN_WORDS.finditer(text))
    if "box" in lower:
        yield from (("address", *match.span()) for match in _POST_BOX.finditer(text))


def _numbers(text: str, begin: int, end: int) -> Iterator[Found]:
    for match in _PHONE.finditer(text, begin, end):
        start = match.start()
        if not (start and (text[start - 1].isalnum() or text[start - 1] in "/.-_")):
            yield "phone", start - text.startswith("(", max(0, start - 1)), match.end()
    for match in _INTERNET_ADDRESS.finditer(text, begin, end):
        if text[max(0, match.start() - 1) : match.start()] not in _JOINS_NUMBERS:
            yield "email_or_url", *match.span()
    for match in _LONG_NUMBER.finditer(text, begin, end):
        yield from _long_number(text, match)
    code = _POST_CODE.match(text, begin)
    if code:
        city = _CITY_BEFORE.search(text, max(0, begin - _WINDOW), begin)
        if city:
            yield "address", city.start(), code.end()


def _numbers_abroad(text: str) -> Iterator[Found]:
    for match in _ABROAD.finditer(text):
        if sum(c.isdigit() for c in match.group()) >= 8:
            yield "phone", *match.span()


def _long_number(text: str, match: re.Match[str]) -> Iterator[Found]:
    number, start, end = match.group(), *match.span()
    if start > 1 and text[start - 1] == "." and text[start - 2].isdigit():
        return
    if number.isdigit() and len(number) in (8, 12, 14) and _is_calendar_day(number):
        yield "date", start, end
    elif number.isdigit() or "." in number or sum(c.isdigit() for c in number) >= 7:
        before, behind = _GLUED_BEFORE.search(text[max(0, start - 40) : start]), _GLUED.match(text, end)
        begin = start - len(before.group()) if before else start
        yield "record_number", begin + (text[begin] == "-"), behind.end() if behind else end


def _is_calendar_day(number: str) -> bool:
    return number[:2] in ("19", "20") and 1 <= int(number[4:6]) <= 12 and 1 <= int(number[6:8]) <= 31


def _is_date(match: re.Match[str]) -> bool:
    """Whether the three numbers are year, month and day in an order that is in use."""
    separator = match.group(1)
    a, b, c = (part.strip() for part in match.group().split(separator))
    if len(a) > 2:
        return len(a) == 4 and a[:2] in ("19", "20") and 1 <= int(b) <= 12 and 1 <= int(c) <= 31 and len(c) == 2
    if separator == "." and len(c) == 2 and not len(a) == len(b) == 2:
        return False
    if len(c) == 4 and c[:2] not in ("18", "19", "20"):
        return False
    return (1 <= int(a) <= 12 and 1 <= int(b) <= 31) or (1 <= int(a) <= 31 and 1 <= int(b) <= 12)


def _time_end(text: str, end: int) -> int:
    """The end of a time of day that follows a date; by itself, a time of day identifies nobody."""
    time = _TIME_BEHIND.match(text, end)
    return time.end() if time else end


def _ages(text: str) -> Iterator[Found]:
    for match in re.finditer(r"9\d|1[01]\d", text):
        start, end = match.span()
        if (start and (text[start - 1].isalnum() or text[start - 1] in ".,/-_")) or text[end : end + 1].isdigit():
            continue
        form = _AGE.match(text, start)
        by_sex = form is not None and form.end() == form.end(1)
        before = text[max(0, start - 3) : start].rstrip()
        if form and (not by_sex or not before or before[-1] in ":.("):
            yield "age", start, form.end(1)
        elif _AGED.search(text, max(0, start - 10), start):
            yield "age", start, end


def _record_behind(text: str, start: int, end: int) -> Iterator[Found]:
    match = _RECORD_BEHIND.match(text, end)
    if not match or match.start(1) == end:
        return
    value = match.group(1)
    digits = sum(c.isdigit() for c in value)
    is_year = len(value) == 4 and value[:2] in ("19", "20") and not _NUMBER_MARK.search(text, end, match.start(1))
    if digits >= 4 and not is_year:
        yield "record_number", match.start(1), match.end(1)


def _phone_behind(least: int, text: str, start: int, end: int) -> Iterator[Found]:
    match = _PHONE_BEHIND.match(text, end)
    if not match or match.start(1) == end:
        return
    number = match.group(1)
    is_long_enough = sum(c.isdigit() for c in number) >= least or _INTERNAL.fullmatch(number)
    if is_long_enough and not _FULL_DATE.fullmatch(number):
        yield "phone", match.start(1), match.end(1)


def _street_at(text: str, start: int, end: int) -> Iterator[Found]:
    before = _STREET_BEFORE.search(text, max(0, start - _WINDOW), start)
    if before and text[start].isupper():
        yield "address", before.start(), end
