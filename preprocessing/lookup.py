"""The standard's grey-scale transformations as pure functions of values: modality LUT (PS3.3 C.11.1), VOI (C.11.2).

Used by `rendering`, which evaluates them once over all possible stored values instead of over pixels.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from preprocessing.errors import InputError
from preprocessing.functional_groups import shallow_copy
from preprocessing.header_values import items, numbers, signed_word, text

Values = NDArray[np.float64]


@dataclass(frozen=True)
class LookupTable:
    """A LUT of PS3.3 C.11.1.1 or C.11.2.1.1.

    Args:
        first: input value that the first entry is for.
        entries: output values.
        bits: bits an entry has by the descriptor.
    """

    first: int
    entries: NDArray[np.integer[Any]]
    bits: int

    def __call__(self, values: Values) -> Values:
        """Map values; those below the first take the first entry, those above the last the last."""
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1)
        return np.asarray(self.entries[index.astype(np.intp)], np.float64)


@dataclass(frozen=True)
class Window:
    """A window of PS3.3 C.11.2.1.2 and its function, "LINEAR", "LINEAR_EXACT" or "SIGMOID"."""

    centre: float
    width: float
    function: str

    def __call__(self, values: Values) -> Values:
        """Map values to [0, 1] by the formulas of C.11.2.1.2.1, C.11.2.1.3.2 and C.11.2.1.3.1."""
        if self.function == "SIGMOID":
            with np.errstate(over="ignore"):
                return np.asarray(1 / (1 + np.exp(-4 * (values - self.centre) / self.width)))
        centre, width = self.centre, self.width
        if self.function == "LINEAR":
            centre, width = centre - 0.5, width - 1
        if width == 0:
            return np.where(values <= centre, 0.0, 1.0)
        return np.clip((values - centre) / width + 0.5, 0.0, 1.0)

    @property
    def is_valid(self) -> bool:
        """Whether the width is one that the function allows: at least 1 for LINEAR, above 0 for the others."""
        finite = math.isfinite(self.centre) and math.isfinite(self.width)
        return finite and (self.width >= 1 if self.function == "LINEAR" else self.width > 0)


def modality_transform(dataset: Dataset, values: Values, *, signed: bool) -> tuple[Values, set[str]]:
    """Apply the modality LUT sequence, else slope and intercept, else nothing.

    Args:
        dataset: header.
        values: stored values.
        signed: whether stored values can be negative, by PixelRepresentation and not by those that occur.

    Returns:
        Modality values, and flags: `modality_lut_malformed`, `rescale_malformed`.
    """
    sequence = items(dataset, "ModalityLUTSequence")
    if sequence:
        table, flags = lookup_table(sequence[0], negative_input=signed)
        if table:
            return table(values), set()
        flags = {"modality_lut_malformed"}
    else:
        flags = set()
    slopes, intercepts = numbers(dataset, "RescaleSlope"), numbers(dataset, "RescaleIntercept")
    if ("RescaleSlope" in dataset and not slopes) or ("RescaleIntercept" in dataset and not intercepts):
        flags = flags | {"rescale_malformed"}
    slope, intercept = slopes[0] if slopes else 1.0, intercepts[0] if intercepts else 0.0
    if not math.isfinite(slope) or not math.isfinite(intercept) or slope == 0:
        return values, flags | {"rescale_malformed"}
    with np.errstate(over="ignore", invalid="ignore"):
        rescaled = values * slope + intercept
    if not np.isfinite(rescaled).all():
        return values, flags | {"rescale_malformed"}
    return rescaled, flags


def voi_lookup(dataset: Dataset, *, negative_input: bool) -> tuple[LookupTable | None, set[str]]:
    """Return the first LUT of the VOI LUT sequence, None if there is none or it is malformed, and flags."""
    sequence = items(dataset, "VOILUTSequence")
    if not sequence:
        return None, set()
    table, flags = lookup_table(sequence[0], negative_input=negative_input)
    if len(sequence) > 1:
        flags.add("voi_first_of_several")
    return table, flags


def voi_window(dataset: Dataset) -> tuple[Window | None, set[str]]:
    """Return the first window that is well formed, None if there is none, and flags."""
    flags = set()
    function = text(dataset, "VOILUTFunction").upper() or "LINEAR"
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        flags.add("voi_function_unknown")
        function = "LINEAR"
    centres, widths = numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth")
    windows = [Window(*pair, function) for pair in zip(centres, widths, strict=False)]
    valid = [window for window in windows if window.is_valid]
    declared = "WindowCenter" in dataset or "WindowWidth" in dataset
    if declared and (not valid or valid[0] is not windows[0] or len(centres) != len(widths)):
        flags.add("window_malformed")
    if len(windows) > 1:
        flags.add("voi_first_of_several")
    return (valid[0] if valid else None), flags


def chosen_voi(dataset: Dataset, choice: int | str) -> tuple[Dataset, int]:
    """Return the header with one of its VOI LUTs and windows as the only one, and the index of that one.

    They are alternatives (PS3.3 C.11.2.1), for instance one for lung and one for bone.

    Args:
        dataset: header; it stays as it is.
        choice: index from 0 among all VOI LUTs and then all windows; or an explanation (LUTExplanation,
            WindowCenterWidthExplanation), letter case aside.

    Raises:
        InputError: there is no such VOI.
    """
    choices = _voi_choices(dataset)
    index = choice if isinstance(choice, int) else _place_of(choice, [explanation for explanation, _ in choices])
    if not 0 <= index < len(choices):
        raise InputError(f"voi {choice!r}: the image has {len(choices)} VOI LUTs and windows, and none is that one")
    header = shallow_copy(dataset)
    for keyword in ("VOILUTSequence", "WindowCenter", "WindowWidth"):
        if keyword in header:
            del header[keyword]
    header.update(choices[index][1])
    return header, index


def _voi_choices(dataset: Dataset) -> list[tuple[str, Dataset]]:
    """Explanation of every VOI LUT and window, and the elements that would stand for it alone."""
    choices = []
    for item in items(dataset, "VOILUTSequence"):
        alone = Dataset()
        alone.VOILUTSequence = [item]
        choices.append((text(item, "LUTExplanation"), alone))
    explanations = [part.strip() for part in text(dataset, "WindowCenterWidthExplanation").split("\\")]
    windows = zip(numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth"), strict=False)
    for number, (centre, width) in enumerate(windows):
        alone = Dataset()
        alone.add_new("WindowCenter", "FD", centre)  # a DS would refuse what is no number
        alone.add_new("WindowWidth", "FD", width)
        choices.append(("".join(explanations[number : number + 1]), alone))
    return choices


def _place_of(wanted: str, explanations: list[str]) -> int:
    """Index of an explanation, letter case aside; -1 if there is none."""
    folded = [explanation.casefold() for explanation in explanations]
    return folded.index(wanted.casefold()) if wanted and wanted.casefold() in folded else -1


def lookup_table(item: Dataset, *, negative_input: bool) -> tuple[LookupTable | None, set[str]]:
    """Read LUTDescriptor and LUTData of one sequence item.

    The three pitfalls of descriptors: 0 entries stand for 65536; the first mapped value is signed if the input can be
    negative, whatever VR it was written with; the output depth is the descriptor's third value and not BitsStored.

    Args:
        item: of a modality or VOI LUT sequence.
        negative_input: whether values below zero can come in.

    Returns:
        The table, None if it is malformed; and flags `lut_malformed`, `lut_depth` (entries deeper than the
        descriptor says, whose true depth was taken).
    """
    descriptor = numbers(item, "LUTDescriptor")
    if len(descriptor) != 3 or not all(value == value and value == int(value) for value in descriptor):
        return None, {"lut_malformed"}
    count = signed_word(int(descriptor[0]), signed=False) or 65536
    first, bits = int(descriptor[1]), signed_word(int(descriptor[2]), signed=False)
    if first >= 0 and negative_input:
        first = signed_word(first, signed=True)
    entries = _entries(item, count, bits)
    if entries is None or not 1 <= bits <= 16:
        return None, {"lut_malformed"}
    if int(entries.max()) >> bits:
        return LookupTable(first, entries, int(entries.max()).bit_length()), {"lut_depth"}
    return LookupTable(first, entries, bits), set()


def _entries(item: Dataset, count: int, bits: int) -> NDArray[np.integer[Any]] | None:
    """Return the entries: 16-bit words, or bytes where 8-bit entries were packed; None if there are too few."""
    order = ">" if item.original_encoding[1] is False else "<"
    try:
        data = item["LUTData"].value
        if not isinstance(data, bytes):
            data = (np.atleast_1d(np.asarray(data, np.int64)) & 0xFFFF).astype(f"{order}u2").tobytes()
    except Exception:  # absent, empty, text
        return None
    if len(data) >= 2 * count:
        return np.frombuffer(data, f"{order}u2", count)
    if bits <= 8 and len(data) >= count:
        return np.frombuffer(data, np.uint8, count)
    return None
