"""Header of one image -> `ImageFacts`: what ingest selects by and stores, and what is odd about the file.

Part of `preprocessing.dicom`, after a file was parsed and before its pixels are decoded.
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from pydicom import Dataset
from pydicom.charset import convert_encodings

from preprocessing.codestreams import Codestream
from preprocessing.functional_groups import frame_header
from preprocessing.header_values import caught_warnings, integer, items, numbers, raw_element, text
from preprocessing.pixel_data import declared_bits, first_codestream, frame_count, has_undefined_length, transfer_syntax
from preprocessing.views import view_position

FLAGS: dict[str, str] = {
    "no_preamble": "the 128-byte preamble and DICM are absent",
    "no_file_meta": "the file meta information is absent",
    "transfer_syntax_assumed": "the header names no transfer syntax; the one in which it could be parsed was taken",
    "character_set": "the declared character set is unknown, or text that it cannot decode was replaced",
    "codestream_precision": "the codestream's precision is not BitsStored; the codestream was trusted",
    "codestream_sign": "the codestream's sign is not PixelRepresentation; the header was trusted",
    "bits": "BitsStored or HighBit is absent or impossible; the nearest possible was taken",
    "high_bit": "HighBit is not BitsStored - 1",
    "number_of_frames": "NumberOfFrames is unreadable, negative or zero",
    "multi_frame": "more than one frame",
    "colour": "colour pixels, converted to grey",
    "non_square_pixels": "pixels are not square",
    "shutter": "a rectangular shutter or collimator is declared",
    "shutter_not_rectangular": "a circular or polygonal shutter or collimator is declared, and was not looked at",
    "overlay_bits": "an overlay is said to lie in bits of the pixels that hold no grey; they were masked",
    "polarity_contradiction": "PresentationLUTShape contradicts PhotometricInterpretation, which was followed",
    "photometric_missing": "PhotometricInterpretation is absent; MONOCHROME2 was taken",
    "study_date": "StudyDate is not a date",
    "pixel_data_padded": "native pixel data are longer than declared by more than a padding byte",
    "odd_length": "the pixel data have an odd number of bytes",
}
"""Flags that `image_facts` may set, and what each one means."""


PHOTOMETRICS = frozenset(
    {"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"}
)
"""Photometric interpretations that may be repeated; anything else in that element may be free text."""


@dataclass(frozen=True)
class ImageFacts:
    """What the header of one image says; absent text is "", absent numbers None.

    Identifiers are the file's own: they must not leave ingest (see `preprocessing.identity`).

    Args:
        sop_class_uid: from the data set, else from the file meta information.
        view_position: "PA", "AP", "LATERAL", "OBLIQUE" or "UNKNOWN".
        view_source: element that the view was read from.
        frames: number of frames; 0 if the element is unreadable.
        bits_stored: the codestream's precision where pixels are compressed; else that of the header, made possible as
            for decoding.
        pixel_spacing: (row, column) distance of pixel centres in mm: PixelSpacing, else ImagerPixelSpacing, else
            NominalScannedPixelSpacing (PS3.3 10.7.1, C.8.11.7).
        presentation_intent: "FOR PRESENTATION", "FOR PROCESSING" or None.
        flags: codes of `FLAGS`, sorted.
        pixel_aspect: height of a pixel over its width, from the spacing or PixelAspectRatio (PS3.3 C.7.6.3.1.7).
        laterality: "L", "R", "U" (unpaired) or "B" (both) of the body part, by ImageLaterality, FrameLaterality or
            Laterality.
        study_date: yyyymmdd.
    """

    sop_instance_uid: str
    study_instance_uid: str
    sop_class_uid: str
    patient_id: str
    accession_number: str
    modality: str
    body_part: str
    view_position: str
    view_source: str
    photometric_interpretation: str
    rows: int
    columns: int
    frames: int
    bits_stored: int
    pixel_spacing: tuple[float, float] | None
    transfer_syntax_uid: str
    presentation_intent: str | None
    pixel_intensity_relationship: str
    burned_in_annotation: str
    flags: tuple[str, ...]
    pixel_aspect: float
    laterality: str
    study_date: str


def image_facts(dataset: Dataset) -> ImageFacts:
    """Read the facts of one image from its header; never raises, whatever the header holds.

    Of an enhanced multi-frame object these are the facts of its first frame.
    """
    with caught_warnings() as caught:
        dataset = frame_header(dataset, 0)
        spacing = _pixel_spacing(dataset)
        aspect = _pixel_aspect(dataset, spacing)
        codestream = first_codestream(dataset)
        view, view_source = view_position(dataset)
        declared_date = text(dataset, "StudyDate")
        facts = {
            "sop_instance_uid": text(dataset, "SOPInstanceUID"),
            "study_instance_uid": text(dataset, "StudyInstanceUID"),
            "sop_class_uid": sop_class(dataset),
            "patient_id": text(dataset, "PatientID"),
            "accession_number": text(dataset, "AccessionNumber"),
            "modality": text(dataset, "Modality").upper(),
            "body_part": _body_part(dataset),
            "photometric_interpretation": text(dataset, "PhotometricInterpretation").upper(),
            "transfer_syntax_uid": transfer_syntax(dataset),
            "presentation_intent": text(dataset, "PresentationIntentType").upper() or None,
            "pixel_intensity_relationship": text(dataset, "PixelIntensityRelationship").upper(),
            "burned_in_annotation": text(dataset, "BurnedInAnnotation").upper(),
            "laterality": _laterality(dataset),
            "study_date": _date(declared_date),
        }
        text(dataset, "PatientName")  # read for its character set alone
        _warn_of_unknown_character_set(dataset)
        flags = _flags(dataset, codestream, aspect)
        numbers_found = {
            "rows": integer(dataset, "Rows") or 0,
            "columns": integer(dataset, "Columns") or 0,
            "frames": max(frame_count(dataset) or 0, 0),
            "bits_stored": codestream.precision if codestream else declared_bits(dataset)[1],
        }
    if any("encoding" in str(warning.message) for warning in caught):
        flags.add("character_set")
    if declared_date and not facts["study_date"]:
        flags.add("study_date")
    return ImageFacts(
        **facts,  # type: ignore[arg-type]
        **numbers_found,  # type: ignore[arg-type]
        view_position=view,
        view_source=view_source,
        pixel_spacing=spacing,
        flags=tuple(sorted(flags)),
        pixel_aspect=aspect,
    )


def _warn_of_unknown_character_set(dataset: Dataset) -> None:
    """Have pydicom warn again of a character set that there is none of, as it does while it parses a file."""
    with suppress(Exception):
        convert_encodings(dataset.get("SpecificCharacterSet") or "ISO_IR 6")


def sop_class(dataset: Dataset) -> str:
    """Return the SOP class UID of the data set, else of the file meta information, else ""."""
    meta = getattr(dataset, "file_meta", None) or Dataset()
    return text(dataset, "SOPClassUID") or text(meta, "MediaStorageSOPClassUID")


def _body_part(dataset: Dataset) -> str:
    """BodyPartExamined, else the meaning of the first AnatomicRegionSequence item, in capitals."""
    regions = items(dataset, "AnatomicRegionSequence")
    return (text(dataset, "BodyPartExamined") or (text(regions[0], "CodeMeaning") if regions else "")).upper()


def _laterality(dataset: Dataset) -> str:
    values = [text(dataset, keyword).upper() for keyword in ("ImageLaterality", "FrameLaterality", "Laterality")]
    return next((value for value in values if value in ("L", "R", "U", "B")), "")


def _date(declared: str) -> str:
    """Return yyyymmdd, also for the yyyy.mm.dd of ACR-NEMA (PS3.5 6.2); "" for what is no day of the calendar."""
    digits = declared.replace(".", "")
    if len(digits) == 8 and digits.isascii() and digits.isdigit():
        with suppress(ValueError):
            datetime.strptime(digits, "%Y%m%d")
            return digits
    return ""


def _pixel_spacing(dataset: Dataset) -> tuple[float, float] | None:
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        spacing = numbers(dataset, keyword)
        if len(spacing) == 2 and all(0 < value < 1000 for value in spacing):
            return spacing[0], spacing[1]
    return None


def _pixel_aspect(dataset: Dataset, spacing: tuple[float, float] | None) -> float:
    if spacing:
        return spacing[0] / spacing[1]
    ratio = numbers(dataset, "PixelAspectRatio")  # vertical \ horizontal
    return ratio[0] / ratio[1] if len(ratio) == 2 and all(0 < value < 1e6 for value in ratio) else 1.0


def _flags(dataset: Dataset, codestream: Codestream | None, aspect: float) -> set[str]:
    """Return the codes of `FLAGS` that hold, but for those found while text is decoded."""
    meta = getattr(dataset, "file_meta", None) or Dataset()
    photometric, shape = text(dataset, "PhotometricInterpretation"), text(dataset, "PresentationLUTShape")
    allocated, stored = integer(dataset, "BitsAllocated") or 0, integer(dataset, "BitsStored") or 0
    high_bit = integer(dataset, "HighBit")
    frames = frame_count(dataset)
    possible_bits = high_bit is not None and 1 <= stored <= high_bit + 1 <= allocated
    signed = integer(dataset, "PixelRepresentation") == 1
    shutters = text(dataset, "ShutterShape") + text(dataset, "CollimatorShape")
    found = {
        "no_preamble": getattr(dataset, "preamble", None) is None,
        "no_file_meta": not meta,
        "transfer_syntax_assumed": "TransferSyntaxUID" not in meta,
        "codestream_precision": codestream is not None and codestream.precision != stored,
        "codestream_sign": codestream is not None and codestream.family == "jpeg2000" and codestream.signed != signed,
        "bits": "PixelData" in dataset and not possible_bits,
        "high_bit": possible_bits and high_bit != stored - 1,
        "number_of_frames": frames is None or frames < 1,
        "multi_frame": frames is not None and frames > 1,
        "colour": (integer(dataset, "SamplesPerPixel") or 1) > 1 or photometric == "PALETTE COLOR",
        "non_square_pixels": abs(aspect - 1) > 1e-3,
        "shutter": "RECTANGULAR" in shutters,
        "shutter_not_rectangular": "CIRCULAR" in shutters or "POLYGONAL" in shutters,
        "overlay_bits": _has_overlay_bits(dataset),
        "polarity_contradiction": (photometric, shape) in (("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE")),
        "photometric_missing": not photometric,
        "pixel_data_padded": _is_padded(dataset, allocated, frames or 1),
        "odd_length": _is_odd(dataset),
    }
    return {flag for flag, holds in found.items() if holds}


def _is_padded(dataset: Dataset, allocated: int, frames: int) -> bool:
    element = raw_element(dataset, "PixelData")
    if element is None or has_undefined_length(element) or not isinstance(element.value, bytes):
        return False
    pixels = frames * (integer(dataset, "Rows") or 0) * (integer(dataset, "Columns") or 0)
    declared = pixels * (integer(dataset, "SamplesPerPixel") or 1) * allocated // 8
    return 0 < declared < len(element.value) - 1


def _is_odd(dataset: Dataset) -> bool:
    value = getattr(raw_element(dataset, "PixelData"), "value", None)
    return isinstance(value, bytes) and len(value) % 2 == 1


def _has_overlay_bits(dataset: Dataset) -> bool:
    """Tell whether an overlay (groups 6000 to 601E) has a bit of the pixels and no data of its own (PS3.5 8.1.2)."""
    groups = {tag >> 16 for tag in list(dataset.keys()) if 0x6000 <= tag >> 16 <= 0x601E}
    return any((group, 0x0102) in dataset and (group, 0x3000) not in dataset for group in groups)
