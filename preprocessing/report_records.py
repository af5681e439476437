"""What every source of reports gives: a record for each report, or a rejection with the reason.

The statuses are those of FHIR's DiagnosticReport (R4, code system diagnostic-report-status), to which the readers of
HL7 v2 and DICOM SR translate theirs.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

LARGEST_OBJECT = 64_000_000
"""Bytes of the largest DICOM object or JSON document that is read as a report; of NDJSON, of each line."""

PRELIMINARY = frozenset({"registered", "partial", "preliminary"})
AMENDED = frozenset({"amended", "corrected", "appended"})
ADDENDUM = "addendum"
"""Status of a text that adds to a report without repeating it; no status of FHIR, where every version is complete."""

STATUSES = PRELIMINARY | AMENDED | {"final", ADDENDUM, ""}
"""Values of `ReportRecord.status`; blank where a source does not say."""

WITHDRAWN = {
    "cancelled": "the report was cancelled",
    "entered_in_error": "the report was entered in error, as its status says",
}
"""Reasons for reports that their own status takes back."""

FORMAT_REASONS: dict[str, str] = {
    "not_a_text_file": "its name does not end with .txt, and it is in none of the formats of reports",
    "not_a_file": "a folder, device, socket or pipe",
    "missing_file": "there is no such file",
    "unreadable": "the file or folder may not be read, or the file system failed",
    "too_long": "longer than any report or message",
    "not_text": "no plain text: PDF, RTF, HTML, an office document, base64 or binary data, as a whole or pasted in",
    "compressed": "a compressed file",
    "empty_report": "holds no words",
    "no_key": "names neither study nor accession number",
    "malformed_row": "a row of a table with fewer or more cells than its header",
    "no_report": "a message, bundle or file of a known format without a report in it",
    "no_plain_text": "the report is there only as PDF, RTF, HTML or a link",
    "other_message": "an HL7 message of another kind than a result or a document",
    "other_resource": "a FHIR resource of another kind than a report",
    "other_json": "JSON that is not FHIR",
    "other_xml": "XML that is no report of Open-i",
    "fhir_xml": "FHIR as XML, which is not read",
    "malformed_hl7": "an HL7 message that cannot be taken apart",
    "malformed_json": "JSON that cannot be read, with NaN, with one key twice or nested too deeply",
    "malformed_fhir": "a FHIR resource whose parts are not what FHIR says, status included",
    "malformed_xml": "XML that cannot be read",
    "xml_entities": "XML with entities of its own, which can name other files or grow without bound",
    "dicom_image": "a DICOM image",
    "other_dicom": "a DICOM object that is neither a report nor an image",
    "encapsulated_document": "a PDF or another document inside a DICOM object",
    "key_object_selection": "a DICOM SR that points at images",
    "dose_report": "a DICOM SR of radiation dose",
    "cad_report": "a DICOM SR written by computer-aided detection, or by a device without a person",
    "other_sr": "a DICOM SR of a kind that holds no report",
    "measurements_only": "a DICOM SR with measurements and without text",
    "sr_with_pixels": "a DICOM SR with pixel data, which no SR has",
    "not_dicom": "the file is not DICOM",
    "corrupt_header": "a DICOM object that cannot be taken apart",
    "corrupt_deflate": "a deflated DICOM object that does not inflate",
    "truncated": "a DICOM object that ends early",
    "too_large": "a DICOM object that inflates to more than any report",
    "unexpected_error": "a failure that no rule foresaw",
    **WITHDRAWN,
}
"""Reasons of `RejectedReport`, and what each one means; those of pairing are in `pairing.PAIRING_REASONS`."""


@dataclass(frozen=True, slots=True)
class ReportRecord:
    """One report.

    Args:
        keys: what may name its study, to be tried in order: StudyInstanceUID or manifest study id before accession
            numbers.
        text: the report as written; of formats that keep its sections apart, rendered with their names as headings.
        origin: where it came from, relative to the source ("a/b.txt", "feed.hl7 message 3"); an identifier.
        flags: how it was decoded, and what was odd.
        status: one of `STATUSES`.
        issued: when this version was issued, to the minute or finer; `None` where that is not known.
    """

    keys: tuple[str, ...]
    text: str
    origin: str
    flags: tuple[str, ...] = ()
    status: str = ""
    issued: datetime | None = None


@dataclass(frozen=True, slots=True)
class RejectedReport:
    """A report that cannot be used, with the reason; `origin` as in `ReportRecord`."""

    origin: str
    reason: str
    detail: str


def unexpected(error: Exception, origin: str) -> RejectedReport:
    """What a failure that no rule foresaw costs; its message is not kept, since it may quote the report."""
    return RejectedReport(origin, "unexpected_error", f"reading failed ({type(error).__name__})")


def usable_keys(keys: list[str]) -> tuple[str, ...]:
    """The keys without white space around them, blanks, repetitions and what is no text (lone surrogates)."""
    stripped = (key.strip(" \t\r\n\0") for key in keys)
    return tuple(dict.fromkeys(key for key in stripped if key and key.isprintable()))


def time_stamp(value: str, zone: str = "") -> datetime | None:
    """A DT of DICOM, or a time stamp of HL7 v2, which are written alike; `None` if coarser than a minute or wrong.

    Args:
        value: "YYYYMMDDhhmm[ss[.ffffff]][+zzzz]".
        zone: offset where the value has none.
    """
    digits, sign, offset = value, "", zone
    for mark in "+-":
        if mark in value:
            digits, sign, offset = value.partition(mark)
            offset = sign + offset
    digits = digits.partition(".")[0].strip()
    try:
        moment = datetime.strptime(digits[:14].ljust(14, "0"), "%Y%m%d%H%M%S") if len(digits) in (12, 14) else None
        if moment is None or not offset:
            return moment
        hours, minutes = int(offset[1:3]), int(offset[3:5])
        delta = timedelta(hours=hours, minutes=minutes) * (-1 if offset[0] == "-" else 1)
        return moment.replace(tzinfo=timezone(delta)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
