"""View of a radiograph from its header, in the order of trust of PS3.3 C.8.11.5: position, code, orientation, text."""

import re
from collections.abc import Iterator

from pydicom import Dataset

from preprocessing.header_values import items, text

VIEW_POSITIONS = {
    "PA": "PA",
    "AP": "AP",
    "LL": "LATERAL",
    "RL": "LATERAL",
    "LAT": "LATERAL",
    "LATERAL": "LATERAL",
    "LLAT": "LATERAL",
    "RLAT": "LATERAL",
    "RLO": "OBLIQUE",
    "LLO": "OBLIQUE",
    "LAO": "OBLIQUE",
    "RAO": "OBLIQUE",
    "LPO": "OBLIQUE",
    "RPO": "OBLIQUE",
    "OBL": "OBLIQUE",
    "OBLIQUE": "OBLIQUE",
}
"""Values of ViewPosition seen."""

DECUBITUS = re.compile(r"\b[lr]ld\b|\bdec\b|d[eé]c[uú]b", re.IGNORECASE)
"""Words for a patient who lies on the side: not a projection, and such a picture is like none of the views."""

VIEW_CODES = {
    "272479007": "PA",
    "R-10214": "PA",
    "R-40888": "PA",
    "399348003": "AP",
    "R-10206": "AP",
    "399067008": "LATERAL",
    "R-102CD": "LATERAL",
    "399173006": "LATERAL",
    "R-10236": "LATERAL",
    "399198007": "LATERAL",
    "R-10232": "LATERAL",
    "399182000": "OBLIQUE",
    "R-102C1": "OBLIQUE",
    "399059000": "OBLIQUE",
    "399312000": "OBLIQUE",
    "399135007": "OBLIQUE",
    "399006002": "OBLIQUE",
    "399356000": "OBLIQUE",
    "399038007": "OBLIQUE",
    "399236003": "OBLIQUE",
    "399184004": "OBLIQUE",
}
"""Codes of CID 4010 (PS3.16) in SNOMED CT and, where data sets use them, in SNOMED RT."""

VIEW_WORDS = (
    ("OBLIQUE", r"\b(?:oblique|obl)\b"),
    ("LATERAL", r"\b(?:lateral|lat|ll|rl)\b"),
    ("PA", r"\b(?:pa|p\.a\.|postero-?anterior)(?!\w)"),
    ("AP", r"\b(?:ap|a\.p\.|antero-?posterior)(?!\w)"),
)


def view_position(dataset: Dataset) -> tuple[str, str]:
    """Return the view ("PA", "AP", "LATERAL", "OBLIQUE" or "UNKNOWN") and the element it was read from ("" if none).

    A source that does not decide is passed over: nothing is guessed. A decubitus view is unknown, whatever else is
    said.
    """
    if is_decubitus(" ".join(_descriptions(dataset))):
        return "UNKNOWN", ""
    position = VIEW_POSITIONS.get(text(dataset, "ViewPosition").upper())
    if position:
        return position, "ViewPosition"
    for item in items(dataset, "ViewCodeSequence"):
        view = VIEW_CODES.get(text(item, "CodeValue")) or _from_words(text(item, "CodeMeaning"))
        if view:
            return view, "ViewCodeSequence"
    if text(dataset, "PatientOrientation").split("\\")[0][:1].upper() in ("A", "P"):
        return "LATERAL", "PatientOrientation"  # rows run front to back; a frontal one cannot tell PA from AP
    view = _from_words(text(dataset, "SeriesDescription"))
    return (view, "SeriesDescription") if view else ("UNKNOWN", "")


def is_decubitus(description: str) -> bool:
    """Tell whether words or a code of ViewPosition (LLD, RLD) name a decubitus view."""
    return DECUBITUS.search(description) is not None


def _descriptions(dataset: Dataset) -> Iterator[str]:
    yield from (text(dataset, keyword) for keyword in ("ViewPosition", "SeriesDescription"))
    for view in items(dataset, "ViewCodeSequence"):
        yield text(view, "CodeMeaning")
        yield from (text(modifier, "CodeMeaning") for modifier in items(view, "ViewModifierCodeSequence"))


def _from_words(description: str) -> str:
    """Return the one view that the words name; "" for none, or for several as in "PA and lateral"."""
    named = [view for view, pattern in VIEW_WORDS if re.search(pattern, description, re.IGNORECASE)]
    return named[0] if len(named) == 1 else ""
