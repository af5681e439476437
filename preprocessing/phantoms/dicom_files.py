"""Synthetic pictures as real DICOM files: CR and DX objects in several syntaxes, with a patient module of inventions.

Part of the phantom generator (see `phantoms`). The attributes follow PS3.3: A.2 and A.26 (the objects), C.7.6.3 (image
pixels), C.8.11.3 (DX image), C.11.2 (VOI). Values are those of a display-ready image, as most archives hold.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from preprocessing.phantoms.canvas import Layer

Stored = NDArray[np.uint16]

SYNTAXES: Mapping[str, float] = {
    uid.ExplicitVRLittleEndian: 0.30,
    uid.ImplicitVRLittleEndian: 0.12,
    uid.DeflatedExplicitVRLittleEndian: 0.06,
    uid.RLELossless: 0.08,
    uid.JPEGLosslessSV1: 0.20,
    uid.JPEGLSLossless: 0.10,
    uid.JPEG2000Lossless: 0.14,
}
"""Transfer syntaxes and how often each is used."""

VOI_KINDS: Mapping[str, float] = {"linear": 0.7, "sigmoid": 0.12, "lut": 0.18}
"""Ways to say how values become grey, and how often each is used."""


@dataclass(frozen=True)
class Encoding:
    """How a picture is stored.

    Args:
        modality: "DX" or "CR".
        syntax: UID of the transfer syntax.
        bits: 10, 12 or 14 bits a value, in 16.
        inverted: MONOCHROME1, where high values are dark.
        voi: one of `VOI_KINDS`.
        floor, ceiling: stored values of black and white, as shares of the greatest value.
    """

    modality: str
    syntax: str
    bits: int
    inverted: bool
    voi: str
    floor: float
    ceiling: float


def sample_encoding(random: np.random.Generator) -> Encoding:
    """A way of storing, at the frequencies of the tables above."""
    kinds, syntaxes = list(VOI_KINDS), list(SYNTAXES)
    return Encoding(
        modality="DX" if random.random() < 0.6 else "CR",
        syntax=syntaxes[int(random.choice(len(syntaxes), p=list(SYNTAXES.values())))],
        bits=int(random.choice([12, 10, 14], p=[0.76, 0.12, 0.12])),
        inverted=bool(random.random() < 0.3),
        voi=kinds[int(random.choice(len(kinds), p=list(VOI_KINDS.values())))],
        floor=float(random.uniform(0.02, 0.12)),
        ceiling=float(random.uniform(0.75, 0.97)),
    )


def stored_values(picture: Layer, encoding: Encoding) -> Stored:
    """Picture (rows, columns) in [0, 1], air dark -> stored values (rows, columns), high is dark if inverted."""
    most = 2**encoding.bits - 1
    values = np.rint(most * (encoding.floor + (encoding.ceiling - encoding.floor) * picture)).astype(np.uint16)
    return np.asarray(most - values if encoding.inverted else values, np.uint16)


def dicom_object(
    stored: Stored, encoding: Encoding, identifiers: Mapping[str, str], view: str, spacing_mm: float
) -> Dataset:
    """A complete CR or DX object around stored values (rows, columns).

    Args:
        stored: from `stored_values`.
        encoding: the same that made them.
        identifiers: values of the patient, study, series and acquisition modules by keyword.
        view: "PA", "AP" or "LL".
        spacing_mm: distance of pixel centres on the detector.
    """
    dataset = Dataset()
    for keyword, value in identifiers.items():
        setattr(dataset, keyword, value)
    dataset.SOPClassUID = (
        uid.DigitalXRayImageStorageForPresentation if encoding.modality == "DX" else uid.ComputedRadiographyImageStorage
    )
    dataset.Modality = encoding.modality
    dataset.ImageType = ["ORIGINAL", "PRIMARY"] if encoding.modality == "CR" else ["DERIVED", "PRIMARY"]
    _add_pixels(dataset, stored, encoding)
    _add_voi(dataset, encoding)
    dataset.ImagerPixelSpacing = [f"{spacing_mm:.6f}"] * 2
    if encoding.modality == "DX":
        _add_dx(dataset, encoding, view, spacing_mm)
    block = dataset.private_block(0x0099, "PHANTOM PRIVATE", create=True)
    block.add_new(0x01, "LO", f"{identifiers['PatientName']} {identifiers['PatientID']}")
    return dataset


def _add_pixels(dataset: Dataset, stored: Stored, encoding: Encoding) -> None:
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME1" if encoding.inverted else "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, encoding.bits, encoding.bits - 1
    dataset.PixelRepresentation = 0
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.UID(encoding.syntax)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.ImplementationClassUID = uid.PYDICOM_IMPLEMENTATION_UID
    encode = _ENCODERS.get(encoding.syntax)
    dataset.PixelData = encapsulate([encode(stored, encoding.bits)]) if encode else stored.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OB" if encode else "OW"
    dataset["PixelData"].is_undefined_length = encode is not None


def _add_voi(dataset: Dataset, encoding: Encoding) -> None:
    """The window or table that takes black and white of the picture to the ends of the display."""
    most = 2**encoding.bits - 1
    black, white = most * encoding.floor, most * encoding.ceiling
    if encoding.inverted:
        black, white = most - white, most - black
    if encoding.voi == "lut":
        way = np.clip((np.arange(most + 1) - black) / (white - black), 0, 1)
        table = np.rint(4095 * (way + 0.08 * np.sin(2 * np.pi * way) / np.pi)).astype("<u2")
        item = Dataset()
        item.add_new("LUTDescriptor", "US", [len(table), 0, 12])
        item.LUTExplanation = "NORMAL"
        item.add_new("LUTData", "OW", table.tobytes())
        dataset.VOILUTSequence = Sequence([item])
        return
    # A sigmoid window of the same width leaves more contrast in the middle and cuts nothing off (C.11.2.1.3.1).
    dataset.WindowCenter = f"{(black + white) / 2:.1f}"
    dataset.WindowWidth = f"{white - black:.1f}"
    dataset.WindowCenterWidthExplanation = "NORMAL"
    if encoding.voi == "sigmoid":
        dataset.VOILUTFunction = "SIGMOID"


def _add_dx(dataset: Dataset, encoding: Encoding, view: str, spacing_mm: float) -> None:
    """What the DX object demands beyond the CR object (C.8.11.1 to C.8.11.4)."""
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.PixelIntensityRelationship = "LOG"
    # 1 where more X-rays give lower values, that is in MONOCHROME2, -1 where they give higher ones (C.8.11.3.1.2).
    dataset.PixelIntensityRelationshipSign = 1 if encoding.inverted else -1
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = 0, 1, "US"
    dataset.PresentationLUTShape = "INVERSE" if encoding.inverted else "IDENTITY"
    dataset.DetectorType = "SCINTILLATOR"
    dataset.PixelSpacing = [f"{spacing_mm / 1.08:.6f}"] * 2
    dataset.PixelSpacingCalibrationType = "GEOMETRY"
    dataset.PositionerType = "NONE"
    dataset.ImageLaterality = "U"
    dataset.AnatomicRegionSequence = Sequence([_code("816094009", "SCT", "Chest")])
    dataset.ViewCodeSequence = Sequence([_code(*_VIEW_CODES[view])])
    dataset.AcquisitionContextSequence = Sequence([])


_VIEW_CODES = {
    "PA": ("272479007", "SCT", "postero-anterior"),
    "AP": ("399348003", "SCT", "antero-posterior"),
    "LL": ("399173006", "SCT", "left lateral"),
}
"""Codes of CID 4010, DX View."""


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def file_bytes(dataset: Dataset) -> bytes:
    """The object as a DICOM file (PS3.10), with preamble and file meta information."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _rle(stored: Stored, bits: int) -> bytes:
    """RLE (PS3.5 annex G): high and low bytes as segments of their own, each row packed by itself."""
    planes = (stored >> 8).astype(np.uint8), (stored & 0xFF).astype(np.uint8)
    segments = [b"".join(imagecodecs.packbits_encode(row.tobytes()) for row in plane) for plane in planes]
    segments = [segment + b"\0" * (len(segment) % 2) for segment in segments]
    header = np.zeros(16, "<u4")
    header[:3] = 2, 64, 64 + len(segments[0])
    return header.tobytes() + b"".join(segments)


def _jpeg_lossless(stored: Stored, bits: int) -> bytes:
    # Not `ljpeg_encode`: its predictor is 6, and this syntax demands the first (PS3.5 A.4.1).
    return bytes(imagecodecs.jpeg_encode(stored, lossless=True, predictor=1, bitspersample=bits))


def _jpeg_ls(stored: Stored, bits: int) -> bytes:
    return bytes(imagecodecs.jpegls_encode(stored))


def _jpeg_2000(stored: Stored, bits: int) -> bytes:
    return bytes(
        imagecodecs.jpeg2k_encode(stored, codecformat="j2k", level=0, reversible=True, bitspersample=bits, mct=False)
    )


_ENCODERS: dict[str, Callable[[Stored, int], bytes]] = {
    uid.RLELossless: _rle,
    uid.JPEGLosslessSV1: _jpeg_lossless,
    uid.JPEGLSLossless: _jpeg_ls,
    uid.JPEG2000Lossless: _jpeg_2000,
}
