"""DICOM files made by the tests: the smallest radiograph that a reader must accept, and one change at a time to it."""

from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid

JPEG_LOSSLESS, JPEG_12 = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.51"
JPEG_LS, JPEG_2000, HTJ2K = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201"

ENCODERS = {
    JPEG_LOSSLESS: lambda words, bits: imagecodecs.ljpeg_encode(words, bitspersample=bits),
    JPEG_LS: lambda words, bits: imagecodecs.jpegls_encode(words),
    JPEG_2000: lambda words, bits: imagecodecs.jpeg2k_encode(words, bitspersample=bits, codecformat="j2k"),
    HTJ2K: lambda words, bits: imagecodecs.htj2k_encode(words),
}


def made(stored: np.ndarray, syntax: str = ExplicitVRLittleEndian, **elements: Any) -> FileDataset:
    """A chest radiograph with these words as its pixels, and elements set, or left out where they are None."""
    words = np.asarray(stored)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["image"])
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = (
        generate_uid(entropy_srcs=["s"]),
        generate_uid(entropy_srcs=["e"]),
    )
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "DX", "CHEST", "PA"
    dataset.PatientName, dataset.PatientID = "Doe^Jane", "0815"
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
    dataset.Rows, dataset.Columns = words.shape[-2:]
    if words.ndim == 3:
        dataset.NumberOfFrames = len(words)
    width = words.dtype.itemsize * 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = width, width, width - 1
    dataset.PixelRepresentation = int(words.dtype.kind == "i")
    change(dataset, **elements)
    write_pixels(dataset, words)
    return dataset


def change(dataset: Dataset, **elements: Any) -> Dataset:
    for keyword, value in elements.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def write_pixels(dataset: FileDataset, words: np.ndarray) -> None:
    syntax = dataset.file_meta.TransferSyntaxUID
    frames = words if words.ndim == 3 else words[None]
    if syntax == RLELossless:
        encoded = [_rle(frame) for frame in frames]
    elif syntax in ENCODERS:
        unsigned = [frame.view(f"u{frame.dtype.itemsize}") for frame in frames]
        encoded = [ENCODERS[syntax](frame, dataset.get("BitsStored")) for frame in unsigned]
    else:
        order = ">" if syntax == "1.2.840.10008.1.2.2" else "<"
        data = np.ascontiguousarray(words).astype(words.dtype.newbyteorder(order)).tobytes()
        dataset.PixelData = data + b"\0" * (len(data) % 2)
        dataset["PixelData"].VR = "OW" if words.dtype.itemsize > 1 else "OB"
        return
    encapsulated(dataset, encoded)


def encapsulated(dataset: FileDataset, frames: list[bytes]) -> FileDataset:
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return dataset


def _rle(frame: np.ndarray) -> bytes:
    from pydicom.pixels.encoders.native import _encode_segment

    planes = frame.astype(frame.dtype.newbyteorder(">")).view(np.uint8).reshape(*frame.shape, -1)
    segments = [_encode_segment(planes[..., i].tobytes(), frame.shape[1]) for i in range(planes.shape[-1])]
    segments = [bytes(segment) + b"\0" * (len(segment) % 2) for segment in segments]
    offsets = np.cumsum([64, *(len(segment) for segment in segments)])[: len(segments)]
    header = np.zeros(16, "<u4")
    header[0], header[1 : 1 + len(segments)] = len(segments), offsets
    return header.tobytes() + b"".join(segments)


def as_bytes(dataset: FileDataset) -> bytes:
    buffer = BytesIO()
    big = dataset.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.2"
    encoding = {"implicit_vr": False, "little_endian": False, "force_encoding": True}
    dcmwrite(buffer, dataset, **(encoding if big else {"enforce_file_format": True}))
    return buffer.getvalue()


def saved(folder: Path, content: FileDataset | bytes, name: str = "image.dcm") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else as_bytes(content))
    return path
