"""What a DICOM object that goes back to the archive takes over from its source image, and the UIDs that it gets itself.

Before `dicom_results`, which builds the objects. Archives file by study and patient: those modules (PS3.3 C.7.1.1 and
C.7.2.1) are taken over as far as they can be read. Nothing else of the source's header is.
"""

import json
import re
from collections.abc import Iterable
from datetime import datetime
from uuid import UUID, uuid5

from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import PersonName

from preprocessing.errors import UnusableFile
from preprocessing.header_values import items, text

MANUFACTURER = "cxr-local-mi"
LONG_STRING = 64
"""Bytes that the value representation LO surely holds: characters by PS3.5 6.2, but not all readers count so."""

_NAMESPACE = UUID("c94542c3-d448-4ba2-bbf3-84399e937ac3")
"""Of all UIDs made here. Never to be changed: what was sent before would be sent again as another object."""

_NAMES = ("PatientName", "ReferringPhysicianName")
_IDENTIFIERS = ("PatientID", "StudyID", "AccessionNumber")
_OPTIONAL = ("IssuerOfPatientID", "StudyDescription")
_NOT_IN_NAMES = re.compile(r"[\x00-\x1f\x7f\\]")
"""Control characters, and what parts the names of several persons."""

_SEXES = frozenset({"M", "F", "O"})
_TIME = re.compile(r"([01][0-9]|2[0-3])([0-5][0-9]([0-5][0-9](\.[0-9]{1,6})?)?)?")
_UID = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)+")
"""Leading zeros, which PS3.5 9.1 forbids, are let through: some devices write them, and a reference has to match."""


def usable_uid(source: Dataset, keyword: str) -> str:
    """A UID of the source, as it stands there.

    Raises:
        UnusableFile: `missing_uid`.
    """
    value = text(source, keyword)
    if not _UID.fullmatch(value):
        raise UnusableFile("missing_uid", f"{keyword} is missing or no UID, so that no result can refer to the image")
    return value


def derived_uid(*parts: str) -> str:
    """A UID that is the same for the same parts, on every machine (PS3.5 B.2, RFC 9562 version 5)."""
    return f"2.25.{uuid5(_NAMESPACE, json.dumps(parts)).int}"


def derived_number(uid: str) -> int:
    """An instance number, 1 to 99,999, from a UID: a result is made without knowing how many others there are."""
    return int(uid.rpartition(".")[2]) % 99_999 + 1


def patient_and_study(source: Dataset) -> Dataset:
    """The patient and study modules of a derived object.

    Identifiers are never shortened or repaired, be they too long for the standard: what was left could be another
    patient's. Dates, times and sex that the standard does not know are left blank.

    Raises:
        UnusableFile: `missing_uid`, without StudyInstanceUID.
    """
    taken = Dataset()
    taken.StudyInstanceUID = usable_uid(source, "StudyInstanceUID")
    for keyword in _NAMES:
        setattr(taken, keyword, _NOT_IN_NAMES.sub(" ", _readable(source, keyword)))
    for keyword in _IDENTIFIERS:
        setattr(taken, keyword, _readable(source, keyword))
    for keyword in _OPTIONAL:
        if value := long_string(_readable(source, keyword)):
            setattr(taken, keyword, value)
    sex = text(source, "PatientSex").upper()
    taken.PatientSex = sex if sex in _SEXES else ""
    taken.PatientBirthDate = _date(text(source, "PatientBirthDate"))
    taken.StudyDate, taken.StudyTime = _date(text(source, "StudyDate")), _time(text(source, "StudyTime"))
    if text(source, "PatientIdentityRemoved").upper() == "YES":
        taken.PatientIdentityRemoved = "YES"
        taken.DeidentificationMethod = _deidentification(source)
    return taken


def _readable(source: Dataset, keyword: str) -> str:
    """Text as it stands in the header; "" where it is absent, unreadable or no text at all."""
    try:
        value = source.get(keyword)
    except Exception:  # whatever pydicom raises, as in `header_values.text`
        return ""
    return text(source, keyword) if isinstance(value, str | PersonName | MultiValue | int | float) else ""


def character_set(texts: Iterable[str]) -> str | None:
    """Specific Character Set of an object with these texts: none for ASCII, which all archives read; else UTF-8.

    Not the source's: findings may be in another script than the patient's name.
    """
    return None if all(part.isascii() for part in texts) else "ISO_IR 192"


def _date(value: str) -> str:
    """YYYYMMDD, also of a date with the dots of ACR-NEMA; "" of anything else."""
    digits = value.replace(".", "")
    try:
        return f"{datetime.strptime(digits, '%Y%m%d'):%Y%m%d}" if re.fullmatch("[0-9]{8}", digits) else ""
    except ValueError:
        return ""


def _time(value: str) -> str:
    """HHMMSS.FFFFFF or what there is of it, also of a time with the colons of ACR-NEMA; "" of anything else."""
    digits = value.replace(":", "")
    return digits if _TIME.fullmatch(digits) else ""


def _deidentification(source: Dataset) -> list[str]:
    """How the source lost its identity: required beside the statement that it did (PS3.3 C.7.1.1)."""
    methods = [text(source, "DeidentificationMethod")]
    methods += [text(item, "CodeMeaning") for item in items(source, "DeidentificationMethodCodeSequence")]
    return [long_string(method) for method in methods if method] or ["as the source image"]


def long_string(value: str) -> str:
    """One line without backslash and control characters, cut short with dots where LO holds no more."""
    encoded = one_line(value).replace("\\", "/").encode()
    whole = len(encoded) <= LONG_STRING
    return encoded.decode() if whole else f"{encoded[: LONG_STRING - 3].decode(errors='ignore')}..."


def one_line(value: str) -> str:
    """Words with single spaces between them, and nothing that cannot be printed."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in value).split())
