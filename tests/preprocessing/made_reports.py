"""Reports in many house styles, made from sections that are known; the oracle of `test_section_styles.py`.

A style takes the sections of a report (canonical name to body) and gives a text and the sections that ought to be found
in it. Styles differ in what hospitals differ in: headings, their case and mark, breaks, wrapping, what stands around.
"""

import random
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Sections = Mapping[str, str]
ORDER = ("examination", "indication", "comparison", "findings", "impression")
USUAL = {name: (name,) for name in ORDER}
SYNONYMS = {
    "examination": ("exam", "examination", "study", "procedure", "type of examination", "exam performed"),
    "indication": (
        "indication", "clinical indication", "history", "clinical history", "clinical information", "reason for exam",
        "reason for examination", "reason for study", "reason for portable study", "patient's history",
    ),
    "comparison": ("comparison", "comparisons", "prior study", "comparison study", "reference exam"),
    "findings": ("findings", "report", "narrative", "finding"),
    "impression": ("impression", "conclusion", "conclusions", "opinion", "summary", "interpretation", "diagnosis",
                   "impressions", "assessment"),
}  # fmt: skip
"""Variants of headings that the specification names."""
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class MadeReport:
    """A report and the sections that ought to be found in it: canonical name and body, in order."""

    text: str
    sections: tuple[tuple[str, str], ...]


Style = Callable[[Sections, random.Random], MadeReport]


@dataclass(frozen=True)
class Layout:
    """How a hospital lays its reports out.

    Args:
        case: of headings.
        mark: between a heading and its body.
        between: two sections.
        body: what happens to a body.
        headings: variants by canonical name, one of which is drawn.
        order: of the sections.
        whole: what happens to the text, without changing any word.
        top: what stands above.
        bottom: what stands below.
        decorated: a heading with the marks around it.
    """

    case: Callable[[str], str] = str.upper
    mark: str = ": "
    between: str = "\n"
    body: Callable[[str], str] = str
    headings: Mapping[str, tuple[str, ...]] | None = None
    order: tuple[str, ...] = ORDER
    whole: Callable[[str], str] = str
    top: str = ""
    bottom: str = ""
    decorated: str = "{}"

    def __call__(self, sections: Sections, rng: random.Random) -> MadeReport:
        chosen = [(name, self.body(single_blanks(sections[name]))) for name in self.order if name in sections]
        parts = []
        for name, body in chosen:
            heading = self.case(rng.choice((self.headings or USUAL)[name]))
            parts.append((self.decorated.format(heading) + self.mark + body).rstrip(" "))
        text = self.whole(self.top + self.between.join(parts) + self.bottom)
        return MadeReport(text, tuple(chosen))


def single_blanks(text: str) -> str:
    return " ".join(text.split())


def without_stop(text: str) -> str:
    return text.rstrip(" .;")


def with_stop(text: str) -> str:
    return f"{without_stop(text)}." if without_stop(text) else ""


def title(heading: str) -> str:
    return heading[:1].upper() + heading[1:]


def title_all(heading: str) -> str:
    return " ".join(word if word in {"for", "of", "and"} else title(word) for word in heading.split())


def lower_stopless(text: str) -> str:
    return without_stop(text).lower()


def lower_stopped(text: str) -> str:
    return with_stop(text).lower()


def upper_stopless(text: str) -> str:
    return without_stop(text).upper()


def upper_stopped(text: str) -> str:
    return with_stop(text).upper()


def capitalised(text: str) -> str:
    return with_stop(text[:1].upper() + text[1:])


def capitalised_stopless(text: str) -> str:
    return without_stop(text[:1].upper() + text[1:])


def numbered(text: str) -> str:
    sentences = [part for part in re.split(r"(?<=[a-z]\.) (?=[A-Z])", text) if part]
    return "\n" + "\n".join(f"{i}. {sentence}" for i, sentence in enumerate(sentences, 1))


def wrapped(text: str, width: int = 79) -> str:
    return "\n".join("\n".join(textwrap.wrap(line, width)) if line.strip() else "" for line in text.split("\n"))


def indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in wrapped(text, 60).split("\n"))


def crlf_with_mark(text: str) -> str:
    return "\ufeff" + text.replace("\n", "\r\n")


def hard_blanks(text: str) -> str:
    return text.replace(": ", "\u00a0:\u00a0").replace(" ", "\u00a0")


def underlined(sections: Sections, rng: random.Random) -> MadeReport:
    made = Layout(mark=":\n", between="\n\n", case=title)(sections, rng)
    lines = made.text.split("\n")
    drawn = [f"{line[:-1]}\n{'-' * (len(line) - 1)}" if line.removesuffix(":").lower() in ORDER else line
             for line in lines]  # fmt: skip
    return MadeReport("\n".join(drawn), made.sections)


def misspelt(word: str, rng: random.Random, errors: int) -> str:
    """A heading with so many random typing errors, blanks and the first letter kept as they are half of the time."""
    letters = list(word)
    for _ in range(errors):
        places = [i for i, letter in enumerate(letters) if letter != " "]
        place = rng.choice(places)
        error = rng.choice(("drop", "double", "swap", "replace", "insert"))
        if error == "drop":
            del letters[place]
        elif error == "double":
            letters.insert(place, letters[place])
        elif error == "swap" and place + 1 < len(letters) and letters[place + 1] != " ":
            letters[place], letters[place + 1] = letters[place + 1], letters[place]
        elif error == "replace":
            letters[place] = rng.choice(LETTERS)
        else:
            letters.insert(place, rng.choice(LETTERS))
    return "".join(letters)


def with_typing_errors(errors: int, case: Callable[[str], str], between: str) -> Style:
    """One or two typing errors in each heading that is long enough to bear them."""

    def style(sections: Sections, rng: random.Random) -> MadeReport:
        headings = {name: (misspelt(name, rng, errors),) for name in ORDER}
        return Layout(case=case, headings=headings, between=between)(sections, rng)

    return style


VIEW_HEADINGS = {
    **SYNONYMS,
    "findings": (
        "chest, 2 views", "pa and lateral chest", "frontal and lateral views of the chest", "chest pa and lateral",
        "portable ap chest radiograph", "single frontal view of the chest", "two views of the chest", "chest x-ray",
    ),
}  # fmt: skip

BANNER = (
    "ST. ELSEWHERE MEDICAL CENTER\nDepartment of Radiology\n12 Harbour Road, Springfield\n\n"
    "Patient Name: DOE, JANE\nMRN: 00123456    DOB: 01/02/1950    Sex: F\nAccession Number: A1234567\n"
    "Ordering Physician: SMITH, JOHN MD\nDate of Exam: 03/04/2015 13:20\n\n"
)
FOOTER = (
    "\n\nDictated by: Jane Roe, MD\nDictated: 03/04/2015 13:20\nTranscribed by: JR 03/04/2015\nAttending: John Smith\n"
    "E-signed by: John Smith, MD on 03/05/2015 at 08:15\nWorkstation ID: RAD-WS-12\ncc: Dr. A. Brown\nPage 1 of 1\n"
)
ATTESTATION = (
    "\n\nI have personally reviewed the images and the resident's interpretation, and agree with the findings.\n"
    "Electronically signed by John Smith, M.D.\n"
)
WET_READ = (
    "WET READ: JRoe 8:27 AM\n No pneumothorax. Findings discussed with the team.\nWET READ VERSION #1\n"
    "______________________________________________________________________________\n"
    "                                 FINAL REPORT\n"
)
ADDENDUM = (
    "ADDENDUM\nThe lateral view was reviewed again on the following day.\n"
    "________________________________________________________________________\n"
    "                                 FINAL REPORT\n"
)
PRELIMINARY = "PRELIMINARY REPORT:\nNo acute findings. Impression unchanged.\n=====================\nFINAL REPORT\n\n"
PAGE_BREAK = "\n\nPage 1 of 2\n\fPatient: DOE, JANE  MRN: 00123456\n\n"


def with_page_break(sections: Sections, rng: random.Random) -> MadeReport:
    """A page ends in the middle of the last section that has two sentences."""
    made = Layout(between="\n\n")(sections, rng)
    place = made.text.rfind(". ", 0, len(made.text) - 2)
    if place < 0:
        return made
    return MadeReport(made.text[: place + 1] + PAGE_BREAK + made.text[place + 2 :], made.sections)


def combined(sections: Sections, rng: random.Random) -> MadeReport:
    """One section for findings and impression."""
    both = " ".join(with_stop(sections[name]) for name in ("findings", "impression") if name in sections)
    joined = {**{name: body for name, body in sections.items() if name not in {"findings", "impression"}}}
    order = ("examination", "indication", "comparison", "findings_and_impression")
    headings = {**SYNONYMS, "findings_and_impression": ("findings and impression", "findings/impression",
                "findings & impression", "impression and findings")}  # fmt: skip
    if both:
        joined["findings_and_impression"] = both
    return Layout(headings=headings, order=order, between="\n\n")(joined, rng)


def with_empty_sections(sections: Sections, rng: random.Random) -> MadeReport:
    """Headings of a template that nobody filled in stand directly above the next."""
    made = Layout(headings=SYNONYMS, case=title_all)(sections, rng)
    return MadeReport("Technique:\nRecommendation:\n" + made.text + "\nComment:\nAddendum:\n", made.sections)


def with_times_and_names(sections: Sections, rng: random.Random) -> MadeReport:
    """Times, names and ratios with colons inside sections are no headings."""
    body = {name: with_stop(text) for name, text in sections.items()}
    for name in ("findings", "impression"):
        if body.get(name):
            body[name] += (
                "\nDR SMITH: informed at 13:20 on 2015-03-04T13:20:05.\nThe following findings: none. Ratio 1:2."
            )
    parts = [f"{name.upper()}: {body[name]}" for name in ORDER if name in body]
    return MadeReport("\n".join(parts), tuple((name, body[name]) for name in ORDER if name in body))


def hospital(**kwargs: object) -> Layout:
    return Layout(**{"headings": SYNONYMS, **kwargs})  # type: ignore[arg-type]


STYLES: dict[str, Style] = {
    # One section a line, one paragraph a section.
    "upper headings with synonyms": hospital(),
    "title headings with synonyms": hospital(case=title_all, between="\n\n"),
    "lower-case report": hospital(case=str.lower, body=str.lower, between="\n\n"),
    "all-caps report": hospital(body=str.upper),
    "all-caps report, wrapped": hospital(body=str.upper, whole=wrapped),
    "no blank behind the colon": hospital(mark=":"),
    "blanks before the colon": hospital(mark="   :   ", case=title_all),
    "full-width colon": hospital(mark="：", between="\n\n"),
    "a dash for the colon": hospital(mark=" - ", case=title_all),
    "a long dash for the colon": hospital(mark=" — "),
    "heading alone on its line": hospital(mark="\n", between="\n\n", case=title_all),
    "heading alone, no blank lines": hospital(mark="\n"),
    "lower-case heading alone on its line": hospital(mark="\n", between="\n\n", case=str.lower),
    "upper headings and nothing else": hospital(mark=" ", body=capitalised),
    "upper headings and nothing else, all-caps": hospital(mark=" ", body=upper_stopped),
    "title headings and nothing else": hospital(mark=" ", case=title, body=capitalised, between="\n\n"),
    "underlined": underlined,
    "Markdown bold": hospital(decorated="**{}:**", mark=" ", case=title_all, between="\n\n"),
    "Markdown bold headings alone": hospital(decorated="**{}**", mark="\n\n", between="\n\n"),
    "HTML bold": hospital(decorated="<b>{}:</b>", mark=" ", case=title_all),
    "square brackets": hospital(decorated="[{}]", mark=" "),
    "stars on both sides": hospital(decorated="*** {} ***", mark="\n"),
    "full stop for the colon": hospital(mark=". "),
    "arrow for the colon": hospital(mark=" >> ", case=title_all),
    "colon and dash": hospital(mark=":- "),
    "numbered headings": hospital(decorated="1. {}:", mark=" "),
    "bulleted headings": hospital(decorated="• {}:", mark=" ", case=title_all),
    "Markdown headings": hospital(decorated="## {}", mark="\n\n", case=title_all, between="\n\n"),
    "CRLF and byte order mark": hospital(between="\n\n", whole=crlf_with_mark),
    "hard blanks": hospital(whole=hard_blanks),
    "tabs behind headings": hospital(mark=":\t", case=title_all),
    "tab-separated": hospital(mark="\t", between="\t"),
    "HL7-like separators": hospital(between="||"),
    "HL7-like separators, bars for colons": hospital(mark="|", between="||", case=title_all),
    "indented": hospital(between="\n\n", whole=indented),
    "wrapped at 79": hospital(case=title_all, whole=wrapped),
    "old Mac line ends": hospital(whole=lambda text: text.replace("\n", "\r")),
    # Everything on one line.
    "one line, upper headings": hospital(between=" "),
    "one line, upper headings, no full stops": hospital(between=" ", body=without_stop),
    "one line, title headings": hospital(between=" ", case=title_all, body=with_stop),
    "one line, title headings, no full stops": hospital(between=" ", case=title_all, body=without_stop),
    "one line, lower case": hospital(between=" ", case=str.lower, body=lower_stopped),
    "one line, lower case, no full stops": hospital(between=" ", case=str.lower, body=lower_stopless),
    "one line, all-caps, no full stops": hospital(between=" ", body=upper_stopless),
    "one line, dashes": hospital(between=" ", mark=" - ", case=title_all, body=with_stop),
    "one line, upper headings, no colon": hospital(between=" ", mark=" ", body=capitalised),
    "one line, upper headings, no colon, no full stops": hospital(between=" ", mark=" ", body=capitalised_stopless),
    "one line, title headings, no colon": hospital(between=" ", mark=" ", case=title, body=capitalised),
    "one line, title headings, no colon, no full stops": hospital(
        between=" ", mark=" ", case=title, body=capitalised_stopless
    ),
    "one line, lower case, no colon": hospital(between=" ", mark=" ", case=str.lower, body=lower_stopped),
    "one line, lower case, no colon, no full stops": hospital(
        between=" ", mark=" ", case=str.lower, body=lower_stopless
    ),
    "one line, all-caps, no colon": hospital(between=" ", mark=" ", body=upper_stopped),
    "one line, all-caps, no colon, no full stops": hospital(between=" ", mark=" ", body=upper_stopless),
    "one line, all-caps, no colon, wrapped": hospital(between=" ", mark=" ", body=upper_stopped, whole=wrapped),
    "one line, wrapped at 79": hospital(between=" ", case=title_all, body=with_stop, whole=wrapped),
    # Headings.
    "one typing error, upper": with_typing_errors(1, str.upper, "\n"),
    "one typing error, title": with_typing_errors(1, title, "\n\n"),
    "two typing errors, upper": with_typing_errors(2, str.upper, "\n"),
    "two typing errors, title": with_typing_errors(2, title, "\n\n"),
    "one typing error, one line": with_typing_errors(1, str.upper, " "),
    "view headings": Layout(headings=VIEW_HEADINGS),
    "view headings in title case": Layout(headings=VIEW_HEADINGS, case=title_all, between="\n\n"),
    "combined findings and impression": combined,
    "impression first": hospital(order=("impression", "examination", "indication", "comparison", "findings")),
    "numbered impression": Layout(body=numbered, between="\n\n", mark=":"),
    "empty sections": with_empty_sections,
    "times and names": with_times_and_names,
    # What stands around.
    "letterhead and footer": hospital(top=BANNER, bottom=FOOTER),
    "letterhead and footer, lower-case report": hospital(
        top=BANNER, bottom=FOOTER, case=str.lower, body=str.lower, between="\n\n"
    ),
    "footer behind an all-caps report": hospital(top=BANNER.upper(), bottom=FOOTER.upper(), body=str.upper),
    "attestation": hospital(case=title_all, bottom=ATTESTATION),
    "attestation on the same line": hospital(
        between=" ", body=with_stop, bottom=" I have personally reviewed the images. Electronically signed by J. Doe MD"
    ),
    "wet read above": hospital(top=WET_READ, between="\n \n "),
    "addendum above": hospital(top=ADDENDUM),
    "preliminary report above": hospital(top=PRELIMINARY, case=title_all),
    "page break": with_page_break,
}
