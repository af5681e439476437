"""Coded names of sections, as DICOM SR and HL7 v2 have them, to headings that `sections` will find in the text."""

from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

from preprocessing.heading_words import normalised
from preprocessing.headings import default_vocabulary
from preprocessing.sections import UNHEADED, split_sections

_RULES = Path(__file__).parent / "rules" / "concept_headings.yaml"
_SCHEMES = {"LOINC": "LN", "L": "LN"}


@lru_cache(maxsize=1 << 14)
def concept_heading(code: str, scheme: str, meaning: str) -> str:
    """Heading for a coded name: its meaning where the vocabulary knows that, else what the code stands for, else "".

    Args:
        code, scheme: for instance "19005-8" and "LN"; `SUFFIX` is the scheme of HL7's suffixes.
        meaning: as written, in whatever language.
    """
    words = normalised(meaning) if len(meaning) <= 80 else ""
    if words in _rules()["whole_reports"]:
        return ""
    if words and default_vocabulary().name_of(meaning):
        return meaning.strip().rstrip(":")
    headings: dict[str, str] = _rules().get(_SCHEMES.get(scheme, scheme), {})
    return headings.get(code, "")


def section_name(heading: str) -> str:
    """Canonical name of a heading; blank where it is none."""
    return default_vocabulary().name_of(heading) or "" if heading else ""


def headed(heading: str, text: str) -> str:
    """The text below a heading; as it is where it has headings of its own, or where there is none to give."""
    if not heading or any(section.name != UNHEADED for section in split_sections(text)):
        return text
    return f"{heading}:\n{text}"


@cache
def _rules() -> dict[str, Any]:
    rules: dict[str, Any] = yaml.safe_load(_RULES.read_text(encoding="utf-8"))
    return rules
