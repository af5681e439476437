"""Which DICOM images are taken: chest radiographs for presentation, in grey, without text burned in.

Everything else is left out with a reason that names what is wrong; called in `conversion` before pixels are decoded.
"""

from pydicom import Dataset

from preprocessing.dicom import REASONS, ImageFacts
from preprocessing.errors import UnusableFile
from preprocessing.header_values import text

MODALITIES = frozenset({"CR", "DX", "RG"})
CHEST_WORDS = ("CHEST", "THORAX", "LUNG")
GREY = frozenset({"MONOCHROME1", "MONOCHROME2", ""})
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""SOP class; those of multi-frame captures are numbered below it."""

DX_FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.1"
FOR_PROCESSING = frozenset(f"1.2.840.10008.5.1.4.1.1.1.{device}.1" for device in (1, 2, 3))
"""SOP classes of DX, mammography and intra-oral images before they are processed for display (PS3.4 B.5)."""

FLAGS: dict[str, str] = {
    "body_part_blank": "the header names no body part",
    "secondary_capture": "stored as a secondary capture, but described as a chest radiograph",
    "pixel_intensity_lin": "pixels are said to be linear in X-ray intensity: perhaps not processed for display",
    "pixel_intensity_log": "pixels are said to be logarithmic, and not said to be for presentation",
}
"""Flags that `check_selected` may return, and what each one means."""

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

# Values that may be repeated in a reject's detail: PS3.3 C.7.3.1.1.1 and PS3.16 annex L, as far as they are common.
# Whatever else stands in these elements may be free text, and is not shown.
_KNOWN_MODALITIES = frozenset(
    {"CT", "MR", "US", "NM", "PT", "MG", "XA", "RF", "OT", "SC", "ES", "IO", "PX", "SEG", "SR", "PR", "KO", "DOC"}
    | {"RTIMAGE", "RTDOSE", "RTPLAN", "RTSTRUCT", "REG", "BMD", "OP", "XC", "GM", "SM", "ECG", "HD"}
)
_KNOWN_BODY_PARTS = frozenset(
    {"ABDOMEN", "ANKLE", "ARM", "BREAST", "CLAVICLE", "CSPINE", "ELBOW", "EXTREMITY", "FEMUR", "FINGER", "FOOT"}
    | {"FOREARM", "HAND", "HEAD", "HEART", "HIP", "HUMERUS", "JAW", "KNEE", "LEG", "LSPINE", "NECK", "PELVIS", "RIB"}
    | {"SHOULDER", "SKULL", "SPINE", "SSPINE", "STERNUM", "THIGH", "TOE", "TSPINE", "WHOLEBODY", "WRIST"}
)


def check_selected(dataset: Dataset, facts: ImageFacts) -> tuple[str, ...]:
    """Check one image against the selection policy.

    Returns:
        Flags for what is doubtful and taken all the same: codes of `FLAGS`.

    Raises:
        UnusableFile: `no_pixel_data`, `no_modality`, `other_modality`, `other_body_part`, `colour`,
            `secondary_capture`, `for_processing` or `burned_in_annotation`.
    """
    modality, body_part = facts.modality, facts.body_part
    if not any(keyword in dataset for keyword in PIXELS):
        if modality in MODALITIES:
            raise UnusableFile(
                "no_pixel_data", "a radiograph's header without pixels: the file was cut short, or stored without them"
            )
        kind = f" (modality {modality})" if modality in _KNOWN_MODALITIES else ""
        raise UnusableFile("no_pixel_data", REASONS["no_pixel_data"] + kind)
    if not modality:
        raise UnusableFile("no_modality", "the header does not say which modality the image is")
    if modality not in MODALITIES:
        named = modality if modality in _KNOWN_MODALITIES else "not known"
        raise UnusableFile("other_modality", f"the modality is {named}; taken are {', '.join(sorted(MODALITIES))}")
    if body_part and not any(word in body_part for word in CHEST_WORDS):
        named = body_part if body_part in _KNOWN_BODY_PARTS else "another than the chest"
        raise UnusableFile("other_body_part", f"the body part is {named}")
    if facts.photometric_interpretation not in GREY or "colour" in facts.flags:
        raise UnusableFile("colour", "a colour image: a secondary capture, not a radiograph")
    captured = f"{facts.sop_class_uid}.".startswith(f"{SECONDARY_CAPTURE}.")
    if captured and not _is_described_as_a_radiograph(dataset, facts):
        raise UnusableFile("secondary_capture", "a secondary capture that is not described as a chest radiograph")
    if facts.sop_class_uid in FOR_PROCESSING or (facts.presentation_intent or "").startswith("FOR PROCESSING"):
        raise UnusableFile(
            "for_processing", "an image FOR PROCESSING: raw detector values, which no policy here renders"
        )
    if facts.burned_in_annotation.startswith("Y"):
        raise UnusableFile("burned_in_annotation", "the header says that text is burned into the pixels")
    flags = {
        "body_part_blank": not body_part,
        "secondary_capture": captured,
        "pixel_intensity_lin": facts.pixel_intensity_relationship == "LIN",
        "pixel_intensity_log": facts.pixel_intensity_relationship == "LOG" and not _is_for_presentation(facts),
    }
    return tuple(flag for flag, holds in flags.items() if holds)


def _is_described_as_a_radiograph(dataset: Dataset, facts: ImageFacts) -> bool:
    """Tell captures that are all there is of a radiograph (as of RSNA's public data) from pictures made out of one."""
    original = text(dataset, "ImageType").upper() in ("", "ORIGINAL", "ORIGINAL\\PRIMARY")
    return bool(facts.body_part) and facts.view_source == "ViewPosition" and original


def _is_for_presentation(facts: ImageFacts) -> bool:
    return facts.presentation_intent == "FOR PRESENTATION" or facts.sop_class_uid == DX_FOR_PRESENTATION
