"""Typed reading of single header elements that may be absent, empty or malformed, for all that read headers.

Real headers break their value representation often: text in decimal strings, words of the wrong sign, empty values.
Nothing here raises for what a file holds.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from warnings import WarningMessage, catch_warnings, simplefilter

from pydicom import DataElement, Dataset
from pydicom.dataelem import RawDataElement
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

PYDICOM_LOGGER = logging.getLogger("pydicom")


@contextmanager
def caught_warnings() -> Iterator[list[WarningMessage]]:
    """Keep pydicom's warnings, which quote values of the header, from stderr and from its logger; yields them."""
    was_disabled, PYDICOM_LOGGER.disabled = PYDICOM_LOGGER.disabled, True
    try:
        with catch_warnings(record=True) as caught:
            simplefilter("always")
            yield caught
    finally:
        PYDICOM_LOGGER.disabled = was_disabled


def raw_element(dataset: Dataset, key: str | BaseTag) -> DataElement | RawDataElement | None:
    """Return an element without converting its value; None if absent, or if pydicom converts and cannot."""
    try:
        return dataset.get_item(key)
    except Exception:
        return None


def text(dataset: Dataset, keyword: str) -> str:
    """Return the element as stripped text; several values stay joined by a backslash; "" if absent or unreadable."""
    try:
        value = dataset.get(keyword)
    except Exception:  # whatever pydicom raises, a value that cannot be read is as good as none
        return ""
    if value is None:
        return ""
    if isinstance(value, str):  # nearly always; asking for a MultiValue first costs more than all the rest
        return str(value).strip(" \0")
    parts = value if isinstance(value, MultiValue | list) else [value]
    return "\\".join(str(part) for part in parts).strip(" \0")


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """Return the element's values as floats: () if absent or empty, NaN in the place of a value that is no number."""
    element = raw_element(dataset, keyword)
    if element is None or element.value in (None, b"", ""):
        return ()
    try:
        value = dataset[keyword].value
    except Exception:  # text in a decimal string, a value of odd length, ...
        raw = element.value
        value = raw.decode("latin-1").split("\\") if isinstance(raw, bytes) else raw
    if isinstance(value, int | float):
        return (_number(value),)
    values = value if isinstance(value, list | tuple | MultiValue) else [value]
    return tuple(_number(item) for item in values)


def integer(dataset: Dataset, keyword: str) -> int | None:
    """Return the element's first value as an integer; None if absent, empty or no whole number."""
    values = numbers(dataset, keyword)
    if not values or not math.isfinite(values[0]) or values[0] != int(values[0]):
        return None
    return int(values[0])


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """Return the items of a sequence; [] if absent, empty or no sequence."""
    try:
        value = dataset.get(keyword)
        return [item for item in value if isinstance(item, Dataset)] if value else []
    except Exception:
        return []


def signed_word(value: int, *, signed: bool, bits: int = 16) -> int:
    """Read a 16-bit word again with the right sign: US and SS are confused in explicit headers (PS3.5 6.2)."""
    word = value & ((1 << bits) - 1)
    return word - (1 << bits) if signed and word >> (bits - 1) else word


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan
