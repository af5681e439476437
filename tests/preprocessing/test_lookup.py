import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_dicom import change, made, saved
from pydicom import Dataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian
from test_rendering import looked_up, lut_item, windowed

from preprocessing.dicom import read_dicom
from preprocessing.errors import InputError
from preprocessing.lookup import chosen_voi, lookup_table, modality_transform, voi_lookup, voi_window

STORED = np.arange(-40000, 70000, 257).astype(np.float64)


@st.composite
def tables(draw: Any) -> tuple[int, list[int], int]:
    """First mapped value, entries and their bits, of any shape that the standard allows."""
    bits = draw(st.sampled_from([8, 10, 12, 16]))
    count = draw(st.sampled_from([1, 2, 255, 256, 257, 4096, 65535, 65536]))
    first = draw(st.one_of(st.integers(-32768, 32767), st.just(0)))
    seed = draw(st.integers(0, 2**32 - 1))
    return first, np.random.default_rng(seed).integers(0, 2**bits, count).tolist(), bits


@settings(deadline=None)
@given(tables(), st.booleans())
def test_a_table_maps_values_as_the_standard_says(made_table: tuple[int, list[int], int], written_as_us: bool) -> None:
    first, entries, bits = made_table
    item = lut_item(first, entries, bits)
    if written_as_us:
        item.add_new("LUTDescriptor", "US", [len(entries) % 65536, first % 65536, bits])
    table, flags = lookup_table(item, negative_input=True)
    assert table is not None
    assert (table.first, len(table.entries), table.bits, flags) == (first, len(entries), bits, set())
    expected = [looked_up(value, first, entries, bits) for value in STORED]
    np.testing.assert_allclose(table(STORED) / (2**bits - 1), expected, atol=1e-12)


@settings(deadline=None)
@given(tables())
def test_a_modality_lut_gives_its_entries_and_not_a_share_of_its_depth(made_table: tuple[int, list[int], int]) -> None:
    first, entries, bits = made_table
    dataset = change(Dataset(), ModalityLUTSequence=[lut_item(first, entries, bits)], RescaleSlope=3)
    values, flags = modality_transform(dataset, STORED, signed=True)
    expected = [looked_up(value, first, entries, bits) * (2**bits - 1) for value in STORED]
    np.testing.assert_allclose(values, expected, atol=1e-9)
    assert flags == set()


@settings(deadline=None)
@given(st.floats(-1e4, 1e4).filter(bool), st.floats(-1e5, 1e5))
def test_rescaling_is_slope_times_value_plus_intercept(slope: float, intercept: float) -> None:
    dataset = Dataset()
    dataset.add_new("RescaleSlope", "FD", slope)
    dataset.add_new("RescaleIntercept", "FD", intercept)
    values, flags = modality_transform(dataset, STORED, signed=True)
    assert values.tolist() == [slope * value + intercept for value in STORED]
    assert flags == set()


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize(("first", "count"), [(0, 4096), (-700, 65536)])
def test_a_table_is_read_from_a_file_of_any_byte_order(syntax: str, first: int, count: int, tmp_path: Path) -> None:
    entries = (np.arange(count) * 7 % 65521).tolist()
    item = lut_item(first, entries, 16)
    if syntax == ExplicitVRBigEndian:
        item.LUTData = np.array(entries, ">u2").tobytes()
    stored = np.zeros((4, 4), np.int16)
    dataset = read_dicom(saved(tmp_path, made(stored, syntax, VOILUTSequence=[item])))
    table, flags = voi_lookup(dataset, negative_input=True)
    assert table is not None
    assert (table.first, table.entries.tolist(), flags) == (first, entries, set())


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_a_window_is_read_with_its_function(function: str) -> None:
    dataset = change(Dataset(), WindowCenter="-20.5", WindowWidth="3000.25", VOILUTFunction=function)
    window, flags = voi_window(dataset)
    assert window is not None
    expected = [windowed(value, -20.5, 3000.25, function) for value in STORED]
    np.testing.assert_allclose(window(STORED), expected, atol=1e-9)
    assert flags == set()


# The choice among several


def several() -> Dataset:
    tables = [lut_item(0, [0, 9], 4, LUTExplanation="HARD"), lut_item(0, [9, 0], 4)]
    return change(
        Dataset(),
        VOILUTSequence=tables,
        WindowCenter=[1, 2, 3],
        WindowWidth=[10, 20, 30],
        WindowCenterWidthExplanation=["LUNG", "Hard"],
        VOILUTFunction="SIGMOID",
    )


@pytest.mark.parametrize(("choice", "entries"), [(0, [0, 9]), (1, [9, 0]), ("hard", [0, 9])])
def test_a_chosen_table_is_the_only_voi_left(choice: int | str, entries: list[int]) -> None:
    header, index = chosen_voi(several(), choice)
    table, flags = voi_lookup(header, negative_input=False)
    assert table is not None
    assert (table.entries.tolist(), flags) == (entries, set())
    assert voi_window(header) == (None, set())
    assert index == (choice if isinstance(choice, int) else 0)


@pytest.mark.parametrize(("choice", "centre"), [(2, 1), (4, 3), ("lung", 1)])
def test_a_chosen_window_is_the_only_voi_left_and_keeps_its_function(choice: int | str, centre: float) -> None:
    dataset = several()
    before = copy.deepcopy(dataset)
    header, index = chosen_voi(dataset, choice)
    window, flags = voi_window(header)
    assert window is not None
    assert (window.centre, window.width, window.function, flags) == (centre, 10 * centre, "SIGMOID", set())
    assert voi_lookup(header, negative_input=False) == (None, set())
    assert index == centre + 1
    assert dataset == before


def test_a_chosen_window_that_is_malformed_is_flagged_as_ever() -> None:
    header, _ = chosen_voi(change(Dataset(), WindowCenter=[1, 2], WindowWidth=[0, 20]), 0)
    assert voi_window(header) == (None, {"window_malformed"})


@pytest.mark.parametrize("choice", [0, "LUNG", ""])
def test_there_is_nothing_to_choose_from_in_a_header_without_voi(choice: int | str) -> None:
    with pytest.raises(InputError, match="has 0 VOI LUTs and windows"):
        chosen_voi(Dataset(), choice)


def test_a_blank_explanation_names_no_voi() -> None:
    with pytest.raises(InputError, match="has 5 VOI LUTs and windows"):
        chosen_voi(several(), "")
