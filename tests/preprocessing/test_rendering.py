import math
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_dicom import change, made
from pydicom import Dataset
from pydicom.pixels import apply_modality_lut

from preprocessing.dicom import image_facts, read_dicom, stored_values
from preprocessing.geometry import Geometry
from preprocessing.lookup import Window
from preprocessing.rendering import FLAGS, PERCENTILES, Picture, exposed_area, fit_square, render

DERIVED = sorted((Path(__file__).parents[3] / "shared" / "data" / "dicom_derived").glob("*.dcm"))
EXPECTED = [path.name for path in DERIVED if path.with_suffix(".expected.png").exists()] or ["none"]
UNEXPECTED = [path.name for path in DERIVED if not path.with_suffix(".expected.png").exists()] or ["none"]
RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


# The oracle: PS3.3 C.11.1 and C.11.2 in Python's own floats, one pixel at a time, written from the standard's text.


def windowed(x: float, centre: float, width: float, function: str) -> float:
    if function == "LINEAR":
        if x <= centre - 0.5 - (width - 1) / 2:
            return 0.0
        if x > centre - 0.5 + (width - 1) / 2:
            return 1.0
        return (x - (centre - 0.5)) / (width - 1) + 0.5
    if function == "LINEAR_EXACT":
        if x <= centre - width / 2:
            return 0.0
        if x > centre + width / 2:
            return 1.0
        return (x - centre) / width + 0.5
    exponent = -4 * (x - centre) / width
    return 1 / (1 + math.exp(exponent)) if exponent < 700 else 0.0


def looked_up(x: float, first: int, entries: list[int], bits: int) -> float:
    if x < first:
        return entries[0] / (2**bits - 1)
    if x >= first + len(entries):
        return entries[-1] / (2**bits - 1)
    return entries[int(x) - first] / (2**bits - 1)


def oracle(
    stored: np.ndarray, display: Any, slope: float = 1, intercept: float = 0, inverted: bool = False
) -> np.ndarray:
    greys = [display(int(value) * slope + intercept) for value in stored.ravel()]
    return np.array([1 - grey if inverted else grey for grey in greys]).reshape(stored.shape)


def rendered(stored: np.ndarray, preset: str = "voi", **elements: Any) -> Picture:
    picture = render(made(stored, **elements), stored, preset)
    assert picture.pixels.dtype == np.float32
    assert picture.pixels.shape == stored.shape
    assert set(picture.flags) <= set(FLAGS)
    return picture


def lut_item(first: int, entries: list[int], bits: int, **changes: Any) -> Dataset:
    """A VOI or modality LUT item; the descriptor's count wraps to 0 at 65536, and a negative first makes it SS."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    item.add_new("LUTData", "OW", np.array(entries, "<u2").tobytes())
    return change(item, **changes)


# Real files


@pytest.mark.parametrize("name", EXPECTED)
def test_derived_files_match_the_display_that_the_standard_defines(name: str, shared_data: Path) -> None:
    dataset = read_dicom(shared_data / "dicom_derived" / name)
    expected = cv2.imread(str(shared_data / "dicom_derived" / name.replace(".dcm", ".expected.png")), -1)
    picture = render(dataset, stored_values(dataset)[0], "voi")
    assert np.abs(picture.pixels * 255 - expected).max() <= 1


@pytest.mark.parametrize("name", UNEXPECTED)
def test_derived_files_without_voi_have_the_polarity_of_their_reference(name: str, shared_data: Path) -> None:
    dataset = read_dicom(shared_data / "dicom_derived" / name)
    reference = cv2.imread(str(shared_data / "dicom_derived" / name.replace(".dcm", ".reference.png")), -1)
    for preset in ("voi", "percentile", "mimic-jpg"):
        pixels = render(dataset, stored_values(dataset)[0], preset).pixels
        assert np.corrcoef(pixels.ravel(), reference.ravel())[0, 1] > 0.9


def test_the_same_chest_in_both_polarities_looks_the_same(shared_data: Path) -> None:
    folder = shared_data / "dicom_real"
    names = ("1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm", "Fake_MONOHR1.dcm")
    upright, inverted = (read_dicom(folder / name) for name in names)
    pictures = [render(dataset, stored_values(dataset)[0], "percentile").pixels for dataset in (upright, inverted)]
    np.testing.assert_allclose(pictures[0], 1 - pictures[1], atol=1e-6)  # its pixels were not inverted, only its label


def test_modality_lut_of_a_real_file_is_that_of_pydicom(shared_data: Path) -> None:
    path = shared_data / "dicom_real" / "mlut_18.dcm"
    dataset = read_dicom(path)
    theirs = apply_modality_lut(pydicom.dcmread(path).pixel_array, pydicom.dcmread(path)).astype(np.float64)
    low, high = np.percentile(theirs, PERCENTILES, method="inverted_cdf")
    ours = render(dataset, stored_values(dataset)[0], "voi").pixels
    np.testing.assert_allclose(ours, np.clip((theirs - low) / (high - low), 0, 1), atol=1e-6)


def test_voi_lut_of_a_real_file_is_its_table(shared_data: Path) -> None:
    path = shared_data / "dicom_real" / "vlut_04.dcm"
    dataset, item = read_dicom(path), pydicom.dcmread(path).VOILUTSequence[0]
    count, first, bits = (int(value) for value in item.LUTDescriptor)
    data = item.LUTData
    entries = np.frombuffer(data, "<u2").tolist() if isinstance(data, bytes) else [int(entry) for entry in data]
    stored = stored_values(dataset)[0]
    assert len(entries) == count
    expected = oracle(stored[::9, ::9], lambda x: looked_up(x, first, entries, bits))
    np.testing.assert_allclose(render(dataset, stored, "voi").pixels[::9, ::9], expected, atol=1e-6)


# VOI and polarity


FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


@given(
    function=st.sampled_from(FUNCTIONS),
    centre=st.floats(-5000, 5000),
    width=st.one_of(st.floats(1, 10000), st.just(1.0)),
    values=st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=20),
)
def test_windows_are_the_formulas_of_the_standard(
    function: str, centre: float, width: float, values: list[int]
) -> None:
    ours = Window(centre, width, function)(np.array(values, np.float64))
    theirs = [windowed(value, centre, width, function) for value in values]
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


@pytest.mark.parametrize(("inverted", "function", "signed"), product([False, True], FUNCTIONS, [False, True]), ids=str)
def test_polarity_window_and_rescale_together(inverted: bool, function: str, signed: bool) -> None:
    stored = RAMP.astype(np.int16) - 2048 if signed else RAMP
    picture = rendered(
        stored,
        PhotometricInterpretation="MONOCHROME1" if inverted else "MONOCHROME2",
        RescaleSlope="2.5",
        RescaleIntercept="-100",
        WindowCenter="900.5",
        WindowWidth="3000",
        VOILUTFunction=function,
    )
    expected = oracle(stored, lambda x: windowed(x, 900.5, 3000, function), 2.5, -100, inverted)
    np.testing.assert_allclose(picture.pixels, expected, atol=1e-6)
    assert (picture.voi, picture.flags) == (f"window_{function.lower()}", ())


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("voi", ["lut", "window", "none"])
@pytest.mark.parametrize("preset", ["voi", "percentile", "mimic-jpg"])
def test_air_is_dark_for_every_polarity_voi_and_preset(inverted: bool, voi: str, preset: str) -> None:
    stored = RAMP[::-1, ::-1].copy() if inverted else RAMP  # the first pixel sees air
    elements: dict[str, Any] = {"PhotometricInterpretation": "MONOCHROME1" if inverted else "MONOCHROME2"}
    elements |= {"PresentationLUTShape": "INVERSE" if inverted else "IDENTITY"}
    if voi == "lut":
        elements["VOILUTSequence"] = [lut_item(0, list(range(4096)), 12)]
    if voi == "window":
        elements |= {"WindowCenter": 2048, "WindowWidth": 4096}
    pixels = rendered(stored, preset, **elements).pixels
    assert pixels[0, 0] < 0.01
    assert pixels[-1, -1] > 0.99
    assert (np.diff(pixels.ravel()) >= 0).all()


def test_inverse_presentation_lut_shape_alone_does_not_invert() -> None:
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    assert rendered(RAMP, PresentationLUTShape="INVERSE", **window).pixels[0, 0] == 0


@pytest.mark.parametrize(
    ("first", "count", "bits", "signed"),
    [
        (0, 4096, 12, False),
        (100, 1000, 10, False),
        (0, 4096, 8, False),  # 8-bit output with more than 256 entries
        (-2048, 4096, 16, True),
        (-500, 1000, 12, True),
        (0, 65536, 16, False),  # the descriptor says 0 entries
    ],
)
@pytest.mark.parametrize("inverted", [False, True])
def test_voi_luts_of_every_shape(first: int, count: int, bits: int, signed: bool, inverted: bool) -> None:
    entries = [round((2**bits - 1) * (i / (count - 1)) ** 0.7) for i in range(count)]
    stored = RAMP.astype(np.int16) - 2048 if signed else RAMP
    photometric = "MONOCHROME1" if inverted else "MONOCHROME2"
    item = lut_item(first, entries, bits)
    picture = rendered(stored, VOILUTSequence=[item], PhotometricInterpretation=photometric)
    expected = oracle(stored, lambda x: looked_up(x, first, entries, bits), inverted=inverted)
    np.testing.assert_allclose(picture.pixels, expected, atol=1e-6)
    assert (picture.voi, picture.flags) == ("lut", ())


def test_unsigned_pixels_with_a_negative_first_mapped_value() -> None:
    entries = list(range(4296))
    picture = rendered(RAMP, VOILUTSequence=[lut_item(-200, entries, 16)])
    np.testing.assert_allclose(picture.pixels, oracle(RAMP, lambda x: looked_up(x, -200, entries, 16)), atol=1e-6)


def test_negative_first_mapped_value_that_was_written_as_unsigned() -> None:
    stored, entries = RAMP.astype(np.int16) - 2048, list(range(4096))
    item = lut_item(0, entries, 12)
    item.add_new("LUTDescriptor", "US", [4096, 65536 - 2048, 12])
    expected = oracle(stored, lambda x: looked_up(x, -2048, entries, 12))
    np.testing.assert_allclose(rendered(stored, VOILUTSequence=[item]).pixels, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.int16, np.int32])
def test_the_sign_of_a_lut_is_that_of_what_pixels_could_store_and_not_of_those_that_occur(dtype: type) -> None:
    stored, entries = RAMP.astype(dtype), list(range(5120))  # none is negative
    item = lut_item(0, entries, 13)
    item.add_new("LUTDescriptor", "US", [5120, 65536 - 1024, 13])
    picture = rendered(stored, VOILUTSequence=[item])
    np.testing.assert_allclose(picture.pixels, oracle(stored, lambda x: looked_up(x, -1024, entries, 13)), atol=1e-6)
    assert (picture.voi, picture.flags) == ("lut", ())


def test_the_sign_of_a_lut_follows_the_rescale_intercept() -> None:
    stored, entries = RAMP + np.uint16(1024), list(range(5120))  # all at least 0 after rescaling
    item = lut_item(0, entries, 13)
    item.add_new("LUTDescriptor", "US", [5120, 65536 - 1024, 13])
    picture = rendered(stored, VOILUTSequence=[item], RescaleIntercept="-1024", RescaleSlope="1")
    expected = oracle(stored, lambda x: looked_up(x, -1024, entries, 13), intercept=-1024)
    np.testing.assert_allclose(picture.pixels, expected, atol=1e-6)


def test_unsigned_pixels_keep_a_first_mapped_value_above_32767() -> None:
    stored, entries = RAMP + np.uint16(50_000), list(range(4096))
    picture = rendered(stored, VOILUTSequence=[lut_item(50_000, entries, 12)])
    expected = oracle(stored, lambda x: looked_up(x, 50_000, entries, 12))
    np.testing.assert_allclose(picture.pixels, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.int16, np.int32])
def test_the_sign_of_a_modality_lut_is_that_of_pixel_representation(dtype: type) -> None:
    stored, entries = RAMP.astype(dtype), list(range(5120))
    item = lut_item(0, entries, 13)
    item.add_new("LUTDescriptor", "US", [5120, 65536 - 1024, 13])
    elements = {"ModalityLUTSequence": [item], "WindowCenter": 2560, "WindowWidth": 5120}
    expected = oracle(stored, lambda x: windowed(float(entries[int(x) + 1024]), 2560, 5120, "LINEAR"))
    np.testing.assert_allclose(rendered(stored, **elements).pixels, expected, atol=1e-6)


def test_eight_bit_entries_may_be_packed_two_to_a_word() -> None:
    entries, stored = list(range(255, -1, -1)), np.arange(256, dtype=np.uint8).reshape(16, 16)
    packed = lut_item(0, entries, 8, LUTData=bytes(entries))
    np.testing.assert_allclose(
        rendered(stored, VOILUTSequence=[packed]).pixels,
        rendered(stored, VOILUTSequence=[lut_item(0, entries, 8)]).pixels,
    )


def test_entries_deeper_than_the_descriptor_says_are_flagged_and_keep_their_depth() -> None:
    picture = rendered(RAMP, VOILUTSequence=[lut_item(0, list(range(4096)), 8)])
    np.testing.assert_allclose(picture.pixels, RAMP / 4095, atol=1e-6)
    assert picture.flags == ("lut_depth",)


def test_a_lut_is_preferred_to_a_window_and_the_first_of_several_is_taken() -> None:
    rising, falling = list(range(4096)), list(range(4095, -1, -1))
    items = [lut_item(0, rising, 12), lut_item(0, falling, 12)]
    picture = rendered(RAMP, VOILUTSequence=items, WindowCenter=5, WindowWidth=2)
    np.testing.assert_allclose(picture.pixels, RAMP / 4095, atol=1e-6)
    assert (picture.voi, picture.flags) == ("lut", ("voi_first_of_several",))
    windows = rendered(RAMP, WindowCenter=[2048, 100], WindowWidth=[4096, 10])
    np.testing.assert_allclose(windows.pixels, oracle(RAMP, lambda x: windowed(x, 2048, 4096, "LINEAR")), atol=1e-6)
    assert windows.flags == ("voi_first_of_several",)


@pytest.mark.parametrize(
    "changes",
    [
        {"LUTData": None},
        {"LUTData": ""},
        {"LUTData": b"\0\0\0\0"},
        {"LUTDescriptor": [4096, 0]},
        {"LUTDescriptor": [4096, 0, 0]},
        {"LUTDescriptor": [4096, 0, 40]},
        {"LUTDescriptor": None},
    ],
)
def test_a_malformed_voi_lut_falls_to_the_window_and_then_to_percentiles(changes: dict[str, Any]) -> None:
    item = lut_item(0, list(range(4096)), 12, **changes)
    picture = rendered(RAMP, VOILUTSequence=[item], WindowCenter=2048, WindowWidth=4096)
    assert (picture.voi, picture.flags) == ("window_linear", ("lut_malformed",))
    assert rendered(RAMP, VOILUTSequence=[item]).voi == "percentile"


@pytest.mark.parametrize(
    "elements",
    [
        {"WindowCenter": 100, "WindowWidth": 0},
        {"WindowCenter": 100, "WindowWidth": -5},
        {"WindowCenter": 100, "WindowWidth": 0.5},
        {"WindowCenter": 100, "WindowWidth": 0, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": "", "WindowWidth": ""},
        {"WindowCenter": 100},
        {"WindowWidth": 100},
    ],
)
def test_a_malformed_window_is_flagged_and_percentiles_are_taken(elements: dict[str, Any]) -> None:
    picture = rendered(RAMP, **elements)
    assert picture.voi == "percentile"
    assert picture.flags == ("no_voi", "window_malformed")
    np.testing.assert_array_equal(picture.pixels, rendered(RAMP, "percentile").pixels)


@pytest.mark.parametrize("value", [b"wide", b"nan ", b"1,5 ", b"inf "])
def test_a_window_of_text_is_flagged(value: bytes, tmp_path: Path) -> None:
    from made_dicom import as_bytes, saved

    whole = as_bytes(made(RAMP, WindowCenter=2048, WindowWidth=8765)).replace(b"8765", value)
    dataset = read_dicom(saved(tmp_path, whole))
    picture = render(dataset, stored_values(dataset)[0], "voi")
    assert (picture.voi, picture.flags) == ("percentile", ("no_voi", "window_malformed"))


def test_narrow_windows_are_those_of_the_standard() -> None:
    assert rendered(RAMP, WindowCenter=100, WindowWidth=1).voi == "window_linear"
    narrow = rendered(RAMP, WindowCenter=100, WindowWidth=0.5, VOILUTFunction="LINEAR_EXACT")
    np.testing.assert_allclose(narrow.pixels, oracle(RAMP, lambda x: windowed(x, 100, 0.5, "LINEAR_EXACT")), atol=1e-6)


def test_the_next_good_window_is_taken_for_a_malformed_first() -> None:
    picture = rendered(RAMP, WindowCenter=[5, 2048], WindowWidth=[0, 4096])
    np.testing.assert_allclose(picture.pixels, oracle(RAMP, lambda x: windowed(x, 2048, 4096, "LINEAR")), atol=1e-6)
    assert picture.flags == ("voi_first_of_several", "window_malformed")


def test_an_unknown_voi_function_is_flagged_and_read_as_linear() -> None:
    picture = rendered(RAMP, WindowCenter=2048, WindowWidth=4096, VOILUTFunction="CUBIC")
    assert (picture.voi, picture.flags) == ("window_linear", ("voi_function_unknown",))


# Modality


@pytest.mark.parametrize(
    "elements", [{"RescaleSlope": 0, "RescaleIntercept": 5}, {"RescaleSlope": "", "RescaleIntercept": ""}]
)
def test_a_slope_of_zero_or_nothing_leaves_stored_values(elements: dict[str, Any]) -> None:
    picture = rendered(RAMP, WindowCenter=2048, WindowWidth=4096, **elements)
    np.testing.assert_allclose(picture.pixels, oracle(RAMP, lambda x: windowed(x, 2048, 4096, "LINEAR")), atol=1e-6)
    assert picture.flags == ("rescale_malformed",)


def test_a_modality_lut_goes_before_slope_and_intercept() -> None:
    entries = [(i * 7) % 4096 for i in range(4096)]
    elements = {"ModalityLUTSequence": [lut_item(0, entries, 12)], "RescaleSlope": 9, "RescaleIntercept": 9}
    picture = rendered(RAMP, WindowCenter=2048, WindowWidth=4096, **elements)
    expected = oracle(RAMP, lambda x: windowed(entries[int(x)], 2048, 4096, "LINEAR"))
    np.testing.assert_allclose(picture.pixels, expected, atol=1e-6)
    bad = rendered(RAMP, ModalityLUTSequence=[lut_item(0, entries, 12, LUTData=b"")])
    assert "modality_lut_malformed" in bad.flags


@given(
    stored=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=4, max_size=4),
    centre=st.integers(-(10**9), 10**9),
    width=st.integers(1, 10**9),
)
def test_words_of_32_bits_are_rendered_by_the_same_formula(stored: list[int], centre: int, width: int) -> None:
    words = np.array(stored, np.int32).reshape(2, 2)
    pixels = rendered(words, WindowCenter=centre, WindowWidth=width).pixels
    np.testing.assert_allclose(pixels, oracle(words, lambda x: windowed(x, centre, width, "LINEAR")), atol=1e-6)


# Padding and statistics


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("preset", ["voi", "percentile", "mimic-jpg"])
@pytest.mark.parametrize(("value", "limit"), [(0, None), (4095, None), (4000, 4095), (50, 0)])
def test_padding_is_background_and_outside_every_statistic(
    inverted: bool, preset: str, value: int, limit: int | None
) -> None:
    low, high = min(value, limit if limit is not None else value), max(value, limit if limit is not None else value)
    picture = np.random.default_rng(3).integers(1000, 3000, (40, 40)).astype(np.uint16)
    padded = picture.copy()
    padded[:10], padded[10:12] = low, high
    elements = {"PixelPaddingValue": value} | ({} if limit is None else {"PixelPaddingRangeLimit": limit})
    elements |= {"PhotometricInterpretation": "MONOCHROME1" if inverted else "MONOCHROME2"}
    with_padding = rendered(padded, preset, **elements)
    without = render(
        made(padded[12:], PhotometricInterpretation=elements["PhotometricInterpretation"]), padded[12:], preset
    )
    assert (with_padding.pixels[:12] == 0).all()
    np.testing.assert_array_equal(with_padding.pixels[12:], without.pixels)
    assert "padding" in with_padding.flags


def test_negative_padding_is_found_though_written_as_unsigned() -> None:
    stored = RAMP.astype(np.int16)
    stored[0] = -2000
    dataset = made(stored, WindowCenter=0, WindowWidth=8000)
    dataset.add_new("PixelPaddingValue", "US", 65536 - 2000)
    assert (render(dataset, stored, "voi").pixels[0] == 0).all()


def test_padding_is_compared_with_stored_values_and_not_with_rescaled_ones() -> None:
    picture = rendered(RAMP, PixelPaddingValue=100, RescaleSlope=1, RescaleIntercept=100, WindowCenter=1, WindowWidth=1)
    assert picture.pixels[100 // 64, 100 % 64] == 0
    assert picture.pixels[0, 1] == 1


@given(st.lists(st.integers(0, 65535), min_size=2, max_size=60), st.booleans())
def test_percentiles_are_numpys_nearest_rank(values: list[int], negative_slope: bool) -> None:
    stored = np.array([values], np.uint16)
    slope = -1 if negative_slope else 1
    modality = stored.astype(np.float64) * slope
    low, high = np.percentile(modality, PERCENTILES, method="inverted_cdf")
    ours = rendered(stored, "percentile", RescaleSlope=slope, RescaleIntercept=0).pixels
    if high > low:
        np.testing.assert_allclose(ours, np.clip((modality - low) / (high - low), 0, 1), atol=1e-6)
    else:
        assert (ours == 0).all() or np.ptp(modality) > 0


def test_percentiles_are_taken_inside_the_shutter() -> None:
    stored = np.full((50, 50), 65535, np.uint16)
    stored[10:40, 5:45] = np.random.default_rng(1).integers(100, 200, (30, 40))
    elements = {
        "ShutterShape": "RECTANGULAR",
        "ShutterUpperHorizontalEdge": 11,
        "ShutterLowerHorizontalEdge": 40,
        "ShutterLeftVerticalEdge": 6,
        "ShutterRightVerticalEdge": 45,
    }
    inside = np.ascontiguousarray(stored[10:40, 5:45])
    np.testing.assert_array_equal(rendered(stored, **elements).pixels[10:40, 5:45], rendered(inside).pixels)
    impossible = made(stored, **(elements | {"ShutterLowerHorizontalEdge": 5000}))
    assert exposed_area(impossible, 50, 50) == (slice(0, 50), slice(0, 50))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_the_mimic_preset_is_opencv_equalisation_of_min_max_bytes(photometric: str) -> None:
    stored = np.random.default_rng(0).normal(2000, 300, (80, 60)).astype(np.uint16)
    least, greatest = stored.min(), stored.max()
    levels = ((stored - least) / (greatest - least) * 255).astype(np.uint8)
    levels = 255 - levels if photometric == "MONOCHROME1" else levels
    picture = rendered(stored, "mimic-jpg", PhotometricInterpretation=photometric, WindowCenter=1, WindowWidth=1)
    assert np.abs(picture.pixels * 255 - cv2.equalizeHist(levels)).max() < 0.01
    assert picture.voi == "equalised"


@pytest.mark.parametrize("preset", ["voi", "percentile", "mimic-jpg"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32])
def test_constant_pictures_are_flagged_and_finite(preset: str, dtype: type) -> None:
    picture = rendered(np.full((5, 4), 77, dtype), preset)
    assert "constant" in picture.flags
    assert np.ptp(picture.pixels) == 0
    assert 0 <= picture.pixels[0, 0] <= 1


def test_a_window_beside_all_values_is_flagged_as_flat() -> None:
    assert rendered(RAMP, WindowCenter=60000, WindowWidth=10).flags == ("flat",)


def test_a_picture_of_padding_alone_is_background() -> None:
    picture = rendered(np.zeros((4, 4), np.uint16), "percentile", PixelPaddingValue=0)
    assert (picture.pixels == 0).all()


def test_an_unknown_preset_is_an_error() -> None:
    with pytest.raises(ValueError, match="voi, percentile, mimic-jpg"):
        render(made(RAMP), RAMP, "clahe")


# Geometry

sides = st.integers(1, 70)


@given(rows=sides, columns=sides, size=st.integers(8, 64), aspect=st.floats(0.5, 2), points=st.data())
def test_points_come_back_from_the_square(rows: int, columns: int, size: int, aspect: float, points: Any) -> None:
    square, geometry = fit_square(np.ones((rows, columns), np.float32), size, aspect)
    assert square.shape == (size, size)
    there = np.array([[points.draw(st.floats(-0.5, rows)), points.draw(st.floats(-0.5, columns))]])
    np.testing.assert_allclose(geometry.to_original(geometry.to_stored(there)), there, atol=1e-9)
    corners = geometry.to_stored(np.array([[-0.5, -0.5], [rows - 0.5, columns - 0.5]]))
    filled = np.argwhere(square > 0)  # the picture is white: what is white in the square is where its corners say
    np.testing.assert_allclose(corners[0] + 0.5, filled.min(0), atol=1e-9)
    np.testing.assert_allclose(corners[1] + 0.5, filled.max(0) + 1, atol=1e-9)
    assert np.abs((corners[0] + corners[1]) / 2 - (size - 1) / 2).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(("rows", "columns"), [(300, 200), (200, 300), (20, 30), (64, 64)])
def test_a_mark_lies_where_the_geometry_says(rows: int, columns: int) -> None:
    pixels = np.zeros((rows, columns), np.float32)
    top, left = rows // 4, columns // 3 * 2
    mark = slice(top, top + rows // 10), slice(left, left + columns // 10)
    pixels[mark] = 1
    square, geometry = fit_square(pixels, 64)
    weights = square / square.sum()
    found = [(weights.sum(1) * np.arange(64)).sum(), (weights.sum(0) * np.arange(64)).sum()]
    centre = np.array([[top + (rows // 10 - 1) / 2, left + (columns // 10 - 1) / 2]])
    np.testing.assert_allclose(found, geometry.to_stored(centre)[0], atol=0.3)


def test_shrinking_averages_blocks_and_the_long_side_fills_the_square() -> None:
    pixels = np.random.default_rng(0).random((128, 64)).astype(np.float32)
    square, geometry = fit_square(pixels, 32)
    blocks = pixels.reshape(32, 4, 16, 4).mean((1, 3))
    np.testing.assert_allclose(square[:, 8:24], blocks, atol=1e-6)
    assert (square[:, :8] == 0).all()
    assert (square[:, 24:] == 0).all()
    assert geometry == Geometry(128, 64, 32, 0.25, 0.25, 0, 8)


def test_pixels_twice_as_high_as_wide_become_square() -> None:
    facts = image_facts(made(np.zeros((50, 100), np.uint16), ImagerPixelSpacing=[0.4, 0.2]))
    square, geometry = fit_square(np.ones((50, 100), np.float32), 64, facts.pixel_aspect)
    assert square.min() > 0.999  # 50 rows of 0.4 mm are as long as 100 columns of 0.2 mm
    assert (geometry.scale_rows, geometry.scale_columns) == (64 / 50, 64 / 100)


def test_padding_of_more_bits_than_pixels_have_is_none() -> None:
    """As in a header of 12 bits that outlived its conversion to 8: the word is not cut to a white of 255."""
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    plain = rendered(ramp, WindowCenter=128, WindowWidth=256)
    for padding in (4095, 1023, 256):
        picture = rendered(ramp, WindowCenter=128, WindowWidth=256, PixelPaddingValue=padding)
        assert "padding" not in picture.flags
        np.testing.assert_array_equal(picture.pixels, plain.pixels)
