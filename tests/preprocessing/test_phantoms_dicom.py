"""Synthetic pictures as DICOM: decodable by others, complete, polarity and windows right, identifiers planted."""

import io
from dataclasses import replace
from itertools import product

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import uid
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_voi_lut, get_decoder

from preprocessing.phantoms import DIFFICULTIES
from preprocessing.phantoms.dicom_files import SYNTAXES, VOI_KINDS, Encoding, dicom_object, file_bytes, stored_values
from preprocessing.phantoms.study import draw_frontal, make_study, plan_study

EASY = DIFFICULTIES["easy"]
PLAIN = Encoding("DX", uid.ExplicitVRLittleEndian, 12, False, "linear", 0.05, 0.9)
IDENTIFIERS = {
    "PatientName": "Quillmarsh^Zoë",
    "PatientID": "MRN1",
    "SpecificCharacterSet": "ISO_IR 100",
    "StudyInstanceUID": "1.2.3",
    "SeriesInstanceUID": "1.2.3.4",
    "SOPInstanceUID": "1.2.3.4.5",
}


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return draw_frontal(plan_study(1, 0, 101, EASY))[0]  # odd, for padding


def reread(picture: np.ndarray, encoding: Encoding) -> tuple[pydicom.Dataset, np.ndarray]:
    stored = stored_values(picture, encoding)
    content = file_bytes(dicom_object(stored, encoding, IDENTIFIERS, "PA", 0.4))
    return pydicom.dcmread(io.BytesIO(content)), stored


@pytest.mark.parametrize(("syntax", "bits"), product(SYNTAXES, (10, 12, 14)))
def test_other_decoders_give_the_stored_values_back(picture: np.ndarray, syntax: str, bits: int) -> None:
    dataset, stored = reread(picture, replace(PLAIN, syntax=syntax, bits=bits))
    assert stored.max() >= 2 ** (bits - 1)
    decoded = 0
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        np.testing.assert_array_equal(dataset.pixel_array, stored)
        decoded += 1
    else:
        decoder = get_decoder(syntax)
        for plugin in decoder.available_plugins:
            np.testing.assert_array_equal(decoder.as_array(dataset, decoding_plugin=plugin)[0], stored)
            decoded += 1
        frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
        if syntax == uid.JPEGLosslessSV1:  # written by libjpeg-turbo, read by lj92
            np.testing.assert_array_equal(imagecodecs.ljpeg_decode(frame), stored)
            decoded += 1
        if syntax == uid.JPEGLSLossless:
            np.testing.assert_array_equal(imagecodecs.jpegls_decode(frame), stored)
            decoded += 1
    assert decoded


def test_jpeg_lossless_keeps_to_the_first_predictor_and_the_stored_precision(picture: np.ndarray) -> None:
    dataset, _ = reread(picture, replace(PLAIN, syntax=uid.JPEGLosslessSV1))
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    assert frame[frame.index(b"\xff\xda") + 7] == 1
    assert frame[frame.index(b"\xff\xc3") + 4] == 12


@given(height=st.integers(1, 9), width=st.integers(1, 300), seed=st.integers(0, 2**32 - 1), levels=st.integers(1, 4095))
def test_rle_survives_any_picture(height: int, width: int, seed: int, levels: int) -> None:
    values = np.random.default_rng(seed).integers(0, levels, (height, width)) / 4095
    dataset, stored = reread(values.astype(np.float32), replace(PLAIN, syntax=uid.RLELossless))
    np.testing.assert_array_equal(dataset.pixel_array, stored)


@pytest.mark.parametrize(("bits", "voi", "inverted"), product((10, 12, 14), VOI_KINDS, (False, True)))
def test_shown_as_the_standard_says_air_is_dark_whatever_the_polarity(
    picture: np.ndarray, bits: int, voi: str, inverted: bool
) -> None:
    dataset, stored = reread(picture, replace(PLAIN, bits=bits, voi=voi, inverted=inverted))
    assert dataset.PhotometricInterpretation == ("MONOCHROME1" if inverted else "MONOCHROME2")
    assert dataset.PresentationLUTShape == ("INVERSE" if inverted else "IDENTITY")
    shown = apply_voi_lut(stored, dataset).astype(float)
    shown /= 4095 if voi == "lut" else 2**bits - 1
    shown = 1 - shown if inverted else shown
    if voi == "linear":
        np.testing.assert_allclose(shown, picture, atol=0.004)
    else:
        order = np.argsort(picture, axis=None)
        assert np.all(np.diff(shown.flat[order][::50]) >= -1e-3)
        assert np.corrcoef(shown.flat, picture.flat)[0, 1] > 0.98


def test_inverted_values_mirror_the_others(picture: np.ndarray) -> None:
    mirrored = stored_values(picture, replace(PLAIN, inverted=True)).astype(int)
    np.testing.assert_array_equal(mirrored + stored_values(picture, PLAIN), 4095)


def test_a_dx_object_has_what_the_standard_demands(picture: np.ndarray) -> None:
    """Type 1 and 2 attributes of the modules of PS3.3 A.26 that pictures of a chest use, from the module tables."""
    dataset = pydicom.dcmread(io.BytesIO(make_study(1, _first("DX"), 64, EASY).files[0][1]))
    demanded = (
        "SOPClassUID SOPInstanceUID PatientName PatientID PatientBirthDate PatientSex StudyInstanceUID StudyDate "
        "StudyTime ReferringPhysicianName StudyID AccessionNumber Modality SeriesInstanceUID SeriesNumber "
        "PresentationIntentType Manufacturer InstanceNumber ImageType "
        "AcquisitionContextSequence AnatomicRegionSequence SamplesPerPixel "
        "PhotometricInterpretation BitsAllocated BitsStored HighBit PixelRepresentation PixelIntensityRelationship "
        "PixelIntensityRelationshipSign RescaleIntercept RescaleSlope RescaleType PresentationLUTShape "
        "LossyImageCompression BurnedInAnnotation DetectorType ImagerPixelSpacing PositionerType ViewPosition "
        "ViewCodeSequence PatientOrientation ImageLaterality BodyPartExamined Rows Columns PixelData"
    )
    missing = [keyword for keyword in demanded.split() if keyword not in dataset]
    assert not missing
    assert dataset.SOPClassUID == dataset.file_meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.1.1"
    assert "WindowCenter" in dataset or "VOILUTSequence" in dataset
    assert dataset.BurnedInAnnotation == "NO"


def _first(modality: str) -> int:
    return next(i for i in range(50) if plan_study(1, i, 64, EASY).views[0].encoding.modality == modality)


def test_a_cr_object_is_one(picture: np.ndarray) -> None:
    dataset = pydicom.dcmread(io.BytesIO(make_study(1, _first("CR"), 64, EASY).files[0][1]))
    assert dataset.SOPClassUID == uid.ComputedRadiographyImageStorage
    assert dataset.Modality == "CR"
    assert list(dataset.PatientOrientation) == ["L", "F"]


def test_all_kinds_of_file_come_up() -> None:
    views = [view for index in range(150) for view in plan_study(4, index, 64, EASY).views]
    assert {v.encoding.syntax for v in views} == set(SYNTAXES)
    assert {v.encoding.voi for v in views} == set(VOI_KINDS)
    assert {v.encoding.bits for v in views} == {10, 12, 14}
    assert {v.encoding.inverted for v in views} == {False, True}
    assert {v.position for v in views} == {"PA", "AP", "LL"}


def test_identifiers_of_a_patient_are_planted_and_the_same_in_each_study_of_theirs() -> None:
    studies = [make_study(6, index, 64, EASY) for index in range(10)]
    headers = [pydicom.dcmread(io.BytesIO(study.files[0][1]), stop_before_pixels=True) for study in studies]
    people = {}
    for study, header in zip(studies, headers, strict=True):
        person = header.PatientID, str(header.PatientName), header.PatientBirthDate, header.PatientSex
        assert all(person)
        assert people.setdefault(study.plan.patient, person) == person
        assert header.InstitutionName
        assert str(header.ReferringPhysicianName)
        private = header[0x0099, 0x1001].value  # bytes where the syntax does not say what it is
        assert header.PatientID in (private if isinstance(private, str) else private.decode("latin-1"))
    assert len(people) == 7
    assert len({person[0] for person in people.values()}) == 7
    for keyword in ("AccessionNumber", "StudyInstanceUID", "SOPInstanceUID"):
        assert len({header[keyword].value for header in headers}) == len(headers)


def test_spacing_times_pixels_is_the_size_of_a_detector() -> None:
    for size in (64, 300):
        header = pydicom.dcmread(io.BytesIO(make_study(1, 0, size, EASY).files[0][1]), stop_before_pixels=True)
        assert max(header.Rows, header.Columns) == size
        assert 350 < float(header.ImagerPixelSpacing[0]) * size < 450
