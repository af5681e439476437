"""An outside opinion: DCMTK's `dcm2pnm` shows what `render` shows.

DCMTK cuts grey levels off where we round them, so that up to one level of 255 lies between the two. Where it departs
from the standard (as of 3.6.7), the test that meets it says so.
"""

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_dicom import made, saved
from pydicom import Dataset
from test_rendering import lut_item

from preprocessing.dicom import image_facts, read_dicom, stored_values
from preprocessing.functional_groups import frame_header
from preprocessing.rendering import padding_mask, render

TOOLS = ("dcm2pnm", "dcmj2pnm", "dcml2pnm")  # native and RLE; JPEG; JPEG-LS
pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS), reason="DCMTK is not installed (apt-get install dcmtk)"
)
ONE_LEVEL = 1 + 1e-3
RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def shown_by_dcmtk(path: Path, *options: str) -> np.ndarray:
    """Grey levels (rows, columns) of the first frame, without overlays."""
    errors = []
    for tool in TOOLS:
        with TemporaryDirectory() as folder:
            image = Path(folder) / "image.pgm"
            done = subprocess.run([tool, "-O", *options, str(path), str(image)], capture_output=True, check=False)
            if done.returncode == 0:
                return cv2.imread(str(image), cv2.IMREAD_UNCHANGED).astype(float)
            errors.append(done.stderr)
    raise AssertionError(f"no tool of DCMTK reads it: {errors}")


def shown(dataset: Dataset) -> np.ndarray:
    header = frame_header(dataset, 0)
    return render(header, stored_values(dataset)[0], "voi").pixels * 255.0


def difference(stored: np.ndarray, *options: str, **elements: Any) -> np.ndarray:
    with TemporaryDirectory() as folder:
        path = saved(Path(folder), made(stored, **elements))
        return np.abs(shown(read_dicom(path)) - shown_by_dcmtk(path, *options))


def curve(count: int, bits: int) -> list[int]:
    return [round((2**bits - 1) * (i / (count - 1)) ** 0.7) for i in range(count)]


# Made files


@settings(max_examples=40, deadline=None)
@given(
    bits=st.integers(8, 16),
    signed=st.booleans(),
    function=st.sampled_from(["LINEAR", "SIGMOID", ""]),
    photometric=st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
    slope=st.integers(1, 5),
    intercept=st.integers(-2000, 2000),
    place=st.floats(-0.2, 1.2),
    share=st.floats(0.01, 2),
)
def test_windows_of_any_depth_sign_polarity_and_rescale(
    bits: int, signed: bool, function: str, photometric: str, slope: int, intercept: int, place: float, share: float
) -> None:
    first = -(2 ** (bits - 1)) if signed else 0
    values = np.linspace(first, first + 2**bits - 1, 1024).round().reshape(32, 32)
    word = np.int8 if bits == 8 else np.int16
    words = values.astype(word if signed else np.dtype(word).str.replace("i", "u"))
    elements = {"VOILUTFunction": function} if function else {}
    drawn = difference(
        words,
        "+Wi",
        "1",
        **elements,
        BitsStored=bits,
        HighBit=bits - 1,
        PhotometricInterpretation=photometric,
        RescaleSlope=slope,
        RescaleIntercept=intercept,
        WindowCenter=round((first + place * 2**bits) * slope + intercept, 1),
        WindowWidth=max(1.0, round(share * 2**bits * slope, 1)),
    )
    assert drawn.max() <= ONE_LEVEL


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("centre", "width"), [(2000, 1500), (30, 10), (30.5, 3), (30, 1)])
def test_linear_exact_is_linear_with_its_half_pixel_taken_out(centre: float, width: float, photometric: str) -> None:
    # DCMTK does not know LINEAR_EXACT ("unknown value for 'VOILUTFunction' ... ignoring"). By the formulas of PS3.3
    # C.11.2.1.2 and C.11.2.1.3.2 it is the LINEAR window whose centre is half and whose width is one more.
    drawn = difference(
        RAMP,
        *("+Ww", str(centre + 0.5), str(width + 1)),
        VOILUTFunction="LINEAR_EXACT",
        WindowCenter=centre,
        WindowWidth=width,
        PhotometricInterpretation=photometric,
    )
    assert drawn.max() <= ONE_LEVEL


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("stored", "first", "count", "bits"),
    [
        (RAMP, 0, 4096, 12),
        (RAMP, 1000, 500, 10),
        (RAMP, 0, 4096, 8),  # 8-bit output with more than 256 entries
        (RAMP.astype(np.int16) - 2048, -2048, 4096, 16),
        (np.arange(65536, dtype=np.uint16).reshape(256, 256), 0, 65536, 16),
        (np.arange(-32768, 32768).astype(np.int16).reshape(256, 256), -32768, 65536, 16),
        (RAMP.astype(np.uint8), 0, 256, 8),
    ],
    ids=["whole", "part", "8-bit output", "signed", "65536", "65536 signed", "8-bit"],
)
def test_voi_luts(stored: np.ndarray, first: int, count: int, bits: int, photometric: str) -> None:
    table = lut_item(first, curve(count, bits), bits)
    drawn = difference(stored, "+Wl", "1", VOILUTSequence=[table], PhotometricInterpretation=photometric)
    # DCMTK's inversion of a table is up to 0.09 of a level further off (measured; 0.03 for 12-bit entries).
    assert drawn.max() <= ONE_LEVEL + (0.1 if photometric == "MONOCHROME1" else 0)


@pytest.mark.parametrize(
    ("options", "elements"),
    [
        (
            ("+Wi", "1"),
            {"ModalityLUTSequence": [lut_item(0, curve(4096, 12), 12)], "WindowCenter": 2000, "WindowWidth": 900},
        ),
        (
            ("+Wl", "1"),
            {
                "ModalityLUTSequence": [lut_item(0, curve(4096, 12), 12)],
                "VOILUTSequence": [lut_item(0, curve(4096, 12), 12)],
            },
        ),
        (
            ("+Wl", "1"),
            {"RescaleSlope": 1, "RescaleIntercept": -1024, "VOILUTSequence": [lut_item(-1024, curve(4096, 12), 12)]},
        ),
        (
            ("+Wi", "1"),
            {
                "PhotometricInterpretation": "MONOCHROME1",
                "PresentationLUTShape": "INVERSE",
                "WindowCenter": 2000,
                "WindowWidth": 900,
            },
        ),
        (("+Wi", "1"), {"WindowCenter": [2000, 5], "WindowWidth": [900, 5]}),
    ],
    ids=["modality LUT", "both LUTs", "rescale and LUT", "inverse shape", "first of several"],
)
def test_steps_together(options: tuple[str, ...], elements: dict[str, Any]) -> None:
    assert difference(RAMP, *options, **elements).max() <= ONE_LEVEL


def test_modality_values_between_integers() -> None:
    # DCMTK keeps modality values as integers and cuts 0.5 off here: so many more levels, in a window 1500 wide.
    elements = {"RescaleSlope": 2.5, "RescaleIntercept": -100, "WindowCenter": 5000, "WindowWidth": 1500}
    assert difference(RAMP, "+Wi", "1", **elements).max() <= ONE_LEVEL + 0.5 * 255 / 1499


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_the_only_thing_that_is_shown_otherwise(photometric: str) -> None:
    # DCMTK windows padding as if it were picture; we make it background, whatever the polarity.
    elements = {"PixelPaddingValue": 4000, "PixelPaddingRangeLimit": 4050, "PhotometricInterpretation": photometric}
    drawn = difference(RAMP, "+Wi", "1", WindowCenter=2000, WindowWidth=5000, **elements)
    padding = (RAMP >= 4000) & (RAMP <= 4050)
    assert drawn[~padding].max() <= ONE_LEVEL
    assert drawn[padding].min() > ONE_LEVEL


# Real files

WITH_VOI = (
    "dicom_derived/d01_mono2_12_win.dcm",
    "dicom_derived/d02_mono1_12_win.dcm",
    "dicom_derived/d04_mono2_14_sigmoid.dcm",
    "dicom_derived/d05_mono2_12_voilut.dcm",
    "dicom_derived/d06_implicit_16.dcm",
    "dicom_derived/d07_rle_12.dcm",
    "dicom_derived/d08_jpegls_mono1.dcm",
    "dicom_derived/d10_rescale_signed.dcm",
    "dicom_derived/d11_pad_border.dcm",
    "dicom_derived/d13_multiwin.dcm",
    "dicom_derived/d14_not_chest.dcm",
    "dicom_real/MR_small.dcm",
    "dicom_real/MR_small_RLE.dcm",
    "dicom_real/MR_small_bigendian.dcm",
    "dicom_real/MR_small_implicit.dcm",
    "dicom_real/MR_small_jpeg_ls_lossless.dcm",
    "dicom_real/MR_small_padded.dcm",
    "dicom_real/RG3_JLSL.dcm",
    "dicom_real/RG3_JLSN.dcm",
    "dicom_real/RG3_JPLL.dcm",
    "dicom_real/RG3_JPLY.dcm",
    "dicom_real/RG3_RLE.dcm",
    "dicom_real/RG3_UNC.dcm",
    "dicom_real/bad_sequence.dcm",
    "dicom_real/examples_overlay.dcm",
    "dicom_real/gdcm-CR-MONO1-10-chest.dcm",
    "dicom_real/vlut_04.dcm",
)
WITHOUT_VOI = (
    "dicom_derived/d03_mono1_10_cr_nowin.dcm",
    "dicom_derived/d12_8bit_lateral.dcm",
    "dicom_real/1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm",
    "dicom_real/CT_small.dcm",
    "dicom_real/Fake_MONOHR1.dcm",
    "dicom_real/JPEG-lossy.dcm",
    "dicom_real/JPEGLSNearLossless_16.dcm",
    "dicom_real/emri_small_RLE.dcm",
    "dicom_real/gdcm-CT-MONO2-8-abdo.dcm",
    "dicom_real/image_dfl.dcm",
    "dicom_real/mlut_18.dcm",
)
"""What is not here, DCMTK cannot read (JPEG 2000, HTJ2K), is colour or a mask, or is refused by both."""


def real(name: str, shared_data: Path) -> Path:
    path = shared_data / name
    if not path.exists():
        pytest.skip(f"{name} is not among the real data")
    return path


def comparable(dataset: Dataset) -> np.ndarray:
    """Pixels (rows, columns) that are no padding and have no more bits than the header says.

    In lossy 12-bit JPEG under a 10-bit header, DCMTK drops the bits above those stored: white turns black.
    """
    stored = stored_values(dataset)[0]
    return ~padding_mask(dataset, stored) & (stored.astype(int) >> int(dataset.BitsStored) <= 0)


@pytest.mark.parametrize("name", WITH_VOI)
def test_real_files_with_a_voi(name: str, shared_data: Path) -> None:
    path = real(name, shared_data)
    dataset = read_dicom(path)
    theirs = shown_by_dcmtk(path, *(("+Wl", "1") if "VOILUTSequence" in dataset else ("+Wi", "1")))
    compared = comparable(dataset)
    assert compared.mean() > 0.5
    assert np.abs(shown(dataset) - theirs)[compared].max() <= ONE_LEVEL


@pytest.mark.parametrize("name", WITHOUT_VOI)
def test_real_files_without_a_voi_in_a_window_that_is_given(name: str, shared_data: Path) -> None:
    path = real(name, shared_data)
    dataset = read_dicom(path)
    width = 2 ** image_facts(dataset).bits_stored
    dataset.WindowCenter, dataset.WindowWidth = width // 4, width // 2
    theirs = shown_by_dcmtk(path, "+Ww", str(width // 4), str(width // 2))
    assert np.abs(shown(dataset) - theirs)[comparable(dataset)].max() <= ONE_LEVEL
