"""Reports in DICOM SR: Basic Text, Enhanced, Comprehensive, Comprehensive 3D and Extensible SR (PS3.3 A.35, C.17.3).

The content tree becomes text in its own order. Names of containers and of text items become headings where they are
names of sections (`concept_headings`); what describes the observer, the acquisition or a concept is left out.
"""

import re
from datetime import datetime

from pydicom import Dataset

from preprocessing.concept_headings import concept_heading, section_name
from preprocessing.dicom import parse_dicom
from preprocessing.errors import UnusableFile
from preprocessing.header_values import caught_warnings, items, text
from preprocessing.report_records import FORMAT_REASONS, ReportRecord, time_stamp, usable_keys
from preprocessing.text_files import checked_text

_SR = "1.2.840.10008.5.1.4.1.1.88."
_TEXT_CLASSES = frozenset({f"{_SR}{number}" for number in ("1", "2", "11", "22", "33", "34", "35")})
_OTHER_CLASSES = {
    f"{_SR}59": "key_object_selection",
    **{f"{_SR}{number}": "dose_report" for number in ("67", "68", "73", "76")},
    **{f"{_SR}{number}": "cad_report" for number in ("50", "65", "69")},
}
_ENCAPSULATED = "1.2.840.10008.5.1.4.1.1.104."
_DOSE_TITLES = frozenset({"113701", "113500", "113507"})
"""Titles (DCM) of dose reports, which may come as Enhanced SR too (PS3.16, TID 10001, 10021, 10030)."""

_OBSERVER_TYPE, _DEVICE = "121005", "121007"
"""DCM codes. What a device alone says, as models of pathologies do, is no reading to learn from."""

_NOT_CONTENT = frozenset({"HAS OBS CONTEXT", "HAS ACQ CONTEXT", "HAS CONCEPT MOD"})
_BLANK_LINES = re.compile(r"\n{3,}")
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)


def is_report_class(uid: str) -> bool:
    """Whether a SOP class is one of structured reports or encapsulated documents, of whatever kind."""
    return uid.startswith((_SR, _ENCAPSULATED))


def read_sr(content: bytes, origin: str) -> ReportRecord:
    """One report from the content of a DICOM file.

    Its keys are StudyInstanceUID and AccessionNumber; where one of them is blank, that of the referenced requests, and
    for the study that of the evidence. Status: preliminary unless complete, verified and not flagged as preliminary;
    amended where it is none of these and names predecessors (C.17.2).

    Raises:
        UnusableFile: a reason of `FORMAT_REASONS`.
    """
    dataset = parse_dicom(content)
    with caught_warnings():  # of character sets too, which are looked at when a value is asked for
        _check_class(dataset)
        lines, kinds = _rendered(dataset)
        if not kinds & {"TEXT", "CODE"} or ("TEXT" not in kinds and "NUM" in kinds):
            reason = "measurements_only" if "NUM" in kinds else "empty_report"
            raise UnusableFile(reason, FORMAT_REASONS[reason])
        report, flags = checked_text(_BLANK_LINES.sub("\n\n", "\n".join(lines).strip()))
        return ReportRecord(_keys(dataset), report, origin, flags, _status(dataset), _issued(dataset))


def _check_class(dataset: Dataset) -> None:
    sop_class = text(dataset, "SOPClassUID") or text(
        getattr(dataset, "file_meta", Dataset()), "MediaStorageSOPClassUID"
    )
    reason = _OTHER_CLASSES.get(sop_class, "")
    if sop_class.startswith(_ENCAPSULATED):
        reason = "encapsulated_document"
    elif not sop_class.startswith(_SR):
        reason = "dicom_image" if any(tag in dataset for tag in _PIXELS) else "other_dicom"
    elif any(tag in dataset for tag in _PIXELS):
        reason = "sr_with_pixels"
    elif not reason and sop_class not in _TEXT_CLASSES:
        reason = "other_sr"
    elif not reason and _name(dataset)[0] in _DOSE_TITLES:
        reason = "dose_report"
    elif not reason and _observers(dataset) == {_DEVICE}:
        reason = "cad_report"
    if reason:
        raise UnusableFile(reason, FORMAT_REASONS[reason])


def _observers(dataset: Dataset) -> set[str]:
    """Codes of the types of observer that a report names (PS3.16, TID 1002): person or device."""
    return {
        text(code, "CodeValue")
        for item in items(dataset, "ContentSequence")
        if _name(item)[0] == _OBSERVER_TYPE
        for code in items(item, "ConceptCodeSequence")
    }


def _rendered(dataset: Dataset) -> tuple[list[str], set[str]]:
    """Lines of the report, and the value types that they came from. No recursion: trees may be nested without bound."""
    lines: list[str] = []
    kinds: set[str] = set()
    stack = [(item, "", _is_continuous(dataset)) for item in reversed(items(dataset, "ContentSequence"))]
    while stack:
        item, section, running = stack.pop()
        if text(item, "RelationshipType") in _NOT_CONTENT:
            continue
        kind = text(item, "ValueType")
        value = _value(item, kind)
        if kind == "CONTAINER":
            running = _is_continuous(item)
            section = _opened(lines, _name(item), section)
            lines += [""] if running else []
        elif value and running:
            lines[-1:] = [" ".join([*lines[-1:], value]).strip()]
        elif value:
            section = _written(lines, _name(item), section, kind, value)
        if value:
            kinds.add(kind)
        stack += [(child, section, running) for child in reversed(items(item, "ContentSequence"))]
    title = concept_heading(*_name(dataset))
    if section_name(title) and not any(line.endswith(":") for line in lines):
        lines.insert(0, f"{title}:")
    return lines, kinds


def _opened(lines: list[str], name: tuple[str, str, str], section: str) -> str:
    """Begin a container, with a heading unless it is of the section that is being written; return its section."""
    heading = concept_heading(*name)
    own = section_name(heading)
    label = heading if own != section else ""
    if not own:
        label = name[2]
    if label:
        lines += ["", f"{label}:"]
    elif lines and not lines[-1].endswith(":"):
        lines.append("")
    return own or section


def _written(lines: list[str], name: tuple[str, str, str], section: str, kind: str, value: str) -> str:
    """Write a value, below its name where that is another section than the one being written; return its section."""
    heading = concept_heading(*name)
    own = section_name(heading)
    if own and own != section:
        lines += ["", f"{heading}:"]
    lines.append(value if kind == "TEXT" or own else f"{name[2]}: {value}")
    return own or section


def _value(item: Dataset, kind: str) -> str:
    if kind == "TEXT":
        return text(item, "TextValue").replace("\r\n", "\n").replace("\r", "\n").strip()
    if kind == "CODE":
        return _meaning(item, "ConceptCodeSequence")
    if kind == "NUM":
        for measured in items(item, "MeasuredValueSequence")[:1]:
            unit = next((text(code, "CodeValue") for code in items(measured, "MeasurementUnitsCodeSequence")), "")
            return f"{text(measured, 'NumericValue')} {'' if unit == '1' else unit}".strip()  # "1" is UCUM for no unit
    return ""


def _name(item: Dataset) -> tuple[str, str, str]:
    """Code, scheme and meaning of the concept that an item is named by; blank where it has none."""
    for code in items(item, "ConceptNameCodeSequence")[:1]:
        return text(code, "CodeValue"), text(code, "CodingSchemeDesignator"), text(code, "CodeMeaning")
    return "", "", ""


def _meaning(item: Dataset, keyword: str) -> str:
    return next((text(code, "CodeMeaning") for code in items(item, keyword)), "")


def _is_continuous(item: Dataset) -> bool:
    return text(item, "ContinuityOfContent") == "CONTINUOUS"


def _keys(dataset: Dataset) -> tuple[str, ...]:
    requests = items(dataset, "ReferencedRequestSequence")
    evidence = [
        *items(dataset, "CurrentRequestedProcedureEvidenceSequence"),
        *items(dataset, "PertinentOtherEvidenceSequence"),
    ]
    studies, accessions = [text(dataset, "StudyInstanceUID")], [text(dataset, "AccessionNumber")]
    if not any(studies):
        studies = [text(item, "StudyInstanceUID") for item in requests]
    if not any(studies):
        studies = [text(item, "StudyInstanceUID") for item in evidence]
    if not any(accessions):
        accessions = [text(item, "AccessionNumber") for item in requests]
    keys = usable_keys([*studies, *accessions])
    if not keys:
        raise UnusableFile("no_key", FORMAT_REASONS["no_key"])
    return keys


def _status(dataset: Dataset) -> str:
    complete, verified = text(dataset, "CompletionFlag"), text(dataset, "VerificationFlag")
    if complete == "PARTIAL":
        return "partial"
    if verified == "UNVERIFIED" or text(dataset, "PreliminaryFlag") == "PRELIMINARY":
        return "preliminary"
    if verified != "VERIFIED":
        return ""
    return "amended" if items(dataset, "PredecessorDocumentsSequence") else "final"


def _issued(dataset: Dataset) -> datetime | None:
    """When this version was verified, else when its content was made."""
    verified = max(
        (text(item, "VerificationDateTime") for item in items(dataset, "VerifyingObserverSequence")), default=""
    )
    zone = text(dataset, "TimezoneOffsetFromUTC")
    return time_stamp(verified, zone) or time_stamp(text(dataset, "ContentDate") + text(dataset, "ContentTime"), zone)
