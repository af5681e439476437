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

_CODES = {
    "PA": "272479007 R-40888 R-10214",
    "AP": "399348003 R-10206",
    "LATERAL": "399067008 R-102CD 399173006 R-10236 399198007 R-10232",
    "OBLIQUE": (
        "399182000 R-102C1 399184004 R-10238 399236003 R-10234 399135007 R-10220 399356000 R-40985 399006002 R-10212 "
        "399038007 R-10210 399312000 R-10208 399059000 R-10216 399160007 R-10204 260427002 R-40783 260426006 R-40782 "
        "399368009 R-10226 399099002 R-10230 399004004 R-10246 399225005 R-10250 399288005 R-10248 399132005 R-10252 "
        "399325008 R-10254"
    ),
}

VIEW_CODES = {code: view for view, codes in _CODES.items() for code in codes.split()}
"""Codes of CID 4010 "DX View" (PS3.16) that name one of the views, in SNOMED CT and in the older SNOMED RT.

Not those that leave it open ("frontal") or that no chest is seen in.
"""

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
    along_rows = text(dataset, "PatientOrientation").split("\\")[0].upper()
    if along_rows[:1] in ("A", "P") and not {"L", "R"} & set(along_rows):
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
