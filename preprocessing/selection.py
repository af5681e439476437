"""Which DICOM images are taken: chest radiographs for presentation, in grey, without text burned in.

Everything else is left out with a reason that names what is wrong, or taken with a flag where the policy says so;
called in `conversion` before pixels are decoded.
"""

from dataclasses import dataclass

from pydicom import Dataset

from preprocessing.dicom import REASONS, ImageFacts
from preprocessing.errors import UnusableFile
from preprocessing.header_facts import FLAGS as HEADER_FLAGS
from preprocessing.header_values import text
from preprocessing.raw_intensity import is_raw

MODALITIES = frozenset({"CR", "DX", "RG"})
CHEST_WORDS = ("CHEST", "THORAX", "LUNG")
GREY = frozenset({"MONOCHROME1", "MONOCHROME2", ""})
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""SOP class; those of multi-frame captures are numbered below it."""

DX_FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.1"
FLAGS: dict[str, str] = {
    "modality_blank": "the header does not say which modality the image is; a manifest or data set lists it",
    "body_part_blank": "the header names no body part",
    "secondary_capture": "stored as a secondary capture: described as a chest radiograph, or taken by policy",
    "colour": HEADER_FLAGS["colour"],
    "for_processing": "raw detector values, taken by policy",
    "burned_in_annotation": "the header says that text is burned into the pixels; taken by policy",
    "pixel_intensity_lin": "pixels are said to be linear in X-ray intensity: perhaps not processed for display",
    "pixel_intensity_log": "pixels are said to be logarithmic, and not said to be for presentation",
}
"""Flags that `check_selected` may return, and what each one means."""

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

# Values that may be repeated in a reject's detail: PS3.3 C.7.3.1.1.1 and PS3.16 annex L, as far as they are common.
# Whatever else stands in these elements may be free text, and is not shown.
KNOWN_MODALITIES = frozenset(
    {"CT", "MR", "US", "NM", "PT", "MG", "XA", "RF", "OT", "SC", "ES", "IO", "PX", "SEG", "SR", "PR", "KO", "DOC"}
    | {"RTIMAGE", "RTDOSE", "RTPLAN", "RTSTRUCT", "REG", "BMD", "OP", "XC", "GM", "SM", "ECG", "HD"}
)
_KNOWN_BODY_PARTS = frozenset(
    {"ABDOMEN", "ANKLE", "ARM", "BREAST", "CLAVICLE", "CSPINE", "ELBOW", "EXTREMITY", "FEMUR", "FINGER", "FOOT"}
    | {"FOREARM", "HAND", "HEAD", "HEART", "HIP", "HUMERUS", "JAW", "KNEE", "LEG", "LSPINE", "NECK", "PELVIS", "RIB"}
    | {"SHOULDER", "SKULL", "SPINE", "SSPINE", "STERNUM", "THIGH", "TOE", "TSPINE", "WHOLEBODY", "WRIST"}
)


@dataclass(frozen=True)
class SelectionPolicy:
    """What is done with images that are no plain radiographs for presentation.

    Args:
        for_processing: "reject" raw detector values, or "convert" them to a picture by their logarithm.
        burned_in: "reject" or "accept" images whose header says that text is burned in. That a header does not say so
            is no proof that there is none.
        captures: "reject" or "accept" colour, and secondary captures that are not described as a chest radiograph.
    """

    for_processing: str = "reject"
    burned_in: str = "reject"
    captures: str = "reject"


def check_selected(
    dataset: Dataset, facts: ImageFacts, policy: SelectionPolicy = SelectionPolicy(), *, is_listed: bool = False
) -> tuple[str, ...]:
    """Check one image against the selection policy.

    Args:
        dataset, facts: of the image.
        policy: what is done with images that are no plain radiographs for presentation.
        is_listed: whether a manifest or a public data set lists the image as a chest radiograph; its header may leave
            the modality blank then, as VinDr-CXR's do, and not otherwise.

    Returns:
        Flags for what is doubtful and taken all the same: codes of `FLAGS`.

    Raises:
        UnusableFile: `no_pixel_data`, `no_modality`, `other_modality`, `other_body_part`, `colour`,
            `secondary_capture`, `for_processing` or `burned_in_annotation`.
    """
    _check_pixels(dataset, facts)
    _check_chest(facts, is_listed)
    raw, relationship = is_raw(dataset), facts.pixel_intensity_relationship
    captured = f"{facts.sop_class_uid}.".startswith(f"{SECONDARY_CAPTURE}.")
    flags = {
        "modality_blank": not facts.modality,
        "body_part_blank": not facts.body_part,
        "colour": facts.photometric_interpretation not in GREY or "colour" in facts.flags,
        "secondary_capture": captured,
        "for_processing": raw,
        "burned_in_annotation": facts.burned_in_annotation.startswith("Y"),
        "pixel_intensity_lin": relationship == "LIN" and not raw,
        "pixel_intensity_log": relationship == "LOG" and not raw and not _is_for_presentation(facts),
    }
    if flags["colour"] and policy.captures == "reject":
        raise UnusableFile("colour", "a colour image: a secondary capture, not a radiograph")
    if captured and policy.captures == "reject" and not _is_described_as_a_radiograph(dataset, facts):
        raise UnusableFile("secondary_capture", "a secondary capture that is not described as a chest radiograph")
    if raw and policy.for_processing == "reject":
        raise UnusableFile("for_processing", "an image FOR PROCESSING: raw detector values, not a picture")
    if flags["burned_in_annotation"] and policy.burned_in == "reject":
        raise UnusableFile("burned_in_annotation", "the header says that text is burned into the pixels")
    return tuple(flag for flag, holds in flags.items() if holds)


def _check_pixels(dataset: Dataset, facts: ImageFacts) -> None:
    if any(keyword in dataset for keyword in PIXELS):
        return
    if facts.modality in MODALITIES:
        raise UnusableFile(
            "no_pixel_data", "a radiograph's header without pixels: the file was cut short, or stored without them"
        )
    kind = f" (modality {facts.modality})" if facts.modality in KNOWN_MODALITIES else ""
    raise UnusableFile("no_pixel_data", REASONS["no_pixel_data"] + kind)


def _check_chest(facts: ImageFacts, is_listed: bool) -> None:
    """Refuse what is no radiograph, or none of the chest."""
    modality, body_part = facts.modality, facts.body_part
    if not modality and not is_listed:
        raise UnusableFile("no_modality", "the header does not say which modality the image is")
    if modality and modality not in MODALITIES:
        named = modality if modality in KNOWN_MODALITIES else "not known"
        raise UnusableFile("other_modality", f"the modality is {named}; taken are {', '.join(sorted(MODALITIES))}")
    if body_part and not any(word in body_part for word in CHEST_WORDS):
        named = body_part if body_part in _KNOWN_BODY_PARTS else "another than the chest"
        raise UnusableFile("other_body_part", f"the body part is {named}")


def _is_described_as_a_radiograph(dataset: Dataset, facts: ImageFacts) -> bool:
    """Tell captures that are all there is of a radiograph (as of RSNA's public data) from pictures made out of one."""
    original = text(dataset, "ImageType").upper() in ("", "ORIGINAL", "ORIGINAL\\PRIMARY")
    return bool(facts.body_part) and facts.view_source == "ViewPosition" and original


def _is_for_presentation(facts: ImageFacts) -> bool:
    return facts.presentation_intent == "FOR PRESENTATION" or facts.sop_class_uid == DX_FOR_PRESENTATION
