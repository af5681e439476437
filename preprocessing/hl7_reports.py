"""Reports in HL7 v2 messages: results (ORU, v2.1 to 2.8) and documents (MDM with content)."""

from dataclasses import dataclass, field
from datetime import datetime

from preprocessing.concept_headings import concept_heading, headed, section_name
from preprocessing.errors import UnusableFile
from preprocessing.hl7_messages import Delimiters, Segment, segments_of, unescaped
from preprocessing.report_records import (
    ADDENDUM,
    FORMAT_REASONS,
    WITHDRAWN,
    RejectedReport,
    ReportRecord,
    time_stamp,
    unexpected,
    usable_keys,
)
from preprocessing.text_files import checked_text

_OF_RESULT = {
    "F": "final",
    "U": "final",
    "V": "final",
    "C": "corrected",
    "A": "amended",
    "B": "appended",
    "P": "preliminary",
    "R": "preliminary",
    "S": "partial",
}
"""OBX-11 (table 0085)."""

_OF_ORDER = {
    "F": "final",
    "C": "corrected",
    "P": "preliminary",
    "R": "preliminary",
    "M": "preliminary",
    "A": "partial",
    **dict.fromkeys("OISYZN", "registered"),
    "X": "cancelled",
}
"""OBR-25 (table 0123). `A` says that some of the results are there, and not that a report was amended."""

_OF_DOCUMENT = {"AU": "final", "LA": "final", **dict.fromkeys(("DI", "DO", "IN", "IP", "PA"), "preliminary")}
"""TXA-17 (table 0271)."""

_DOCUMENT_EVENTS = {"T02": "", "T04": "", "T06": ADDENDUM, "T08": "amended", "T10": "corrected"}
"""Events of MDM that carry content, and the status that they imply."""

_DELETED = frozenset("DWX")
_TEXT_TYPES = frozenset({"TX", "FT", "ST", ""})
_CODED_TYPES = frozenset({"CE", "CWE", "CNE", "CF"})
_STUDY_UID = frozenset({"110180", "113014"})  # DCM: Study Instance UID; DICOM Study, as IHE's RAD-28 names it


@dataclass
class _Order:
    """The segments of one report: an OBR with what follows it, and the ORC before it."""

    segments: list[Segment] = field(default_factory=list)

    def values(self, name: str, number: int) -> list[str]:
        """A field of all segments of a name, as written."""
        return [fields[number] for segment, fields in self.segments if segment == name and len(fields) > number]


def read_message(message: bytes, origin: str) -> list[ReportRecord | RejectedReport]:
    """The reports of one message: one for each OBR; `origin` gets " order 2" where there are several.

    Keys, in order: StudyInstanceUID (ZDS-1; OBX-5 of 110180 or 113014), then what hospitals use as accession number:
    OBR-18, OBR-20, OBR-3 and ORC-3; of documents TXA-15 and TXA-14.
    """
    try:
        segments, delimiters, flags = segments_of(message)
        kind = _message_kind(segments[0][1], delimiters)
        orders = _orders(segments)
    except UnusableFile as error:
        return [RejectedReport(origin, error.reason, error.detail)]
    except Exception as error:  # costs one message and not the rest of the file
        return [unexpected(error, origin)]
    reports: list[ReportRecord | RejectedReport] = []
    for number, order in enumerate(orders, 1):
        name = origin if len(orders) == 1 else f"{origin} order {number}"
        try:
            reports.append(_report(order, kind, delimiters, flags, name))
        except UnusableFile as error:
            reports.append(RejectedReport(name, error.reason, error.detail))
        except Exception as error:
            reports.append(unexpected(error, name))
    return reports


def _message_kind(header: list[str], delimiters: Delimiters) -> str:
    """Event of a document, or "ORU"."""
    kind, _, event = header[9].partition(delimiters.component)
    return _checked_kind(kind.strip().upper(), event.partition(delimiters.component)[0].strip().upper())


def _checked_kind(kind: str, event: str) -> str:
    if kind == "ORU":
        return kind
    if kind == "MDM" and event in _DOCUMENT_EVENTS:
        return event
    if kind == "MDM" and event == "T11":
        raise UnusableFile("cancelled", WITHDRAWN["cancelled"])
    raise UnusableFile("other_message", FORMAT_REASONS["other_message"])


def _orders(segments: list[Segment]) -> list[_Order]:
    """The parts of a message that are a report each. A single ZDS stands for all of them, wherever it is."""
    orders: list[_Order] = []
    header, *others = segments
    before = [header]
    for segment in others:
        if segment[0] == "OBR":
            orders.append(_Order([*before, segment]))
            before = [header]
        elif segment[0] == "ORC" or not orders:
            before.append(segment)
        else:
            orders[-1].segments.append(segment)
    if not orders:
        orders = [_Order(before)]
    uids = [segment for segment in segments if segment[0] == "ZDS"]
    for order in orders if len(uids) == 1 else ():
        order.segments.append(uids[0])
    return orders


def _report(order: _Order, kind: str, delimiters: Delimiters, flags: tuple[str, ...], origin: str) -> ReportRecord:
    status = _status(order, kind, delimiters)
    if status in WITHDRAWN:
        raise UnusableFile(status, WITHDRAWN[status])
    runs = _runs(order, delimiters)
    if not runs:
        has_document = any(value.strip() in {"ED", "RP"} for value in order.values("OBX", 2))
        reason = "no_plain_text" if has_document else "no_report"
        raise UnusableFile(reason, FORMAT_REASONS[reason])
    if all(section_name(heading) == ADDENDUM for heading, _ in runs):
        status = ADDENDUM
    text, others = checked_text("\n\n".join(headed(heading, "\n".join(lines)) for heading, lines in runs))
    keys = usable_keys(_keys(order, delimiters))
    if not keys:
        raise UnusableFile("no_key", FORMAT_REASONS["no_key"])
    return ReportRecord(keys, text, origin, tuple(dict.fromkeys([*flags, *others])), status, _issued(order))


def _runs(order: _Order, delimiters: Delimiters) -> list[Segment]:
    """Text of the OBX segments in their order, neighbours of one section together: (heading, lines)."""
    runs: list[Segment] = []
    for name, fields in order.segments:
        if name != "OBX" or len(fields) < 6 or _status_of(fields, 11) in _DELETED:
            continue
        if _observation(fields, delimiters)[0] in _STUDY_UID:
            continue
        lines = _lines(fields[5], fields[2].strip(), delimiters)
        heading = _heading(fields, delimiters)
        if lines and runs and runs[-1][0] == heading:
            runs[-1][1].extend(lines)
        elif any(line.strip() for line in lines):
            runs.append((heading, lines))
    return runs


def _lines(value: str, kind: str, delimiters: Delimiters) -> list[str]:
    """OBX-5 as lines; an empty one is a blank line of the report."""
    if kind in _TEXT_TYPES:
        return [unescaped(repetition, delimiters) for repetition in value.split(delimiters.repetition)]
    if kind not in _CODED_TYPES:
        return []
    lines = []
    for repetition in value.split(delimiters.repetition):
        parts = [unescaped(part, delimiters) for part in repetition.split(delimiters.component)]
        # Text, else original text (CWE.9), else the code itself.
        lines.append(next((parts[n] for n in (1, 8, 4, 0) if n < len(parts) and parts[n].strip()), ""))
    return lines


def _observation(fields: list[str], delimiters: Delimiters) -> tuple[str, str, str, str]:
    """OBX-3 as code, suffix, text and scheme."""
    parts = [*fields[3].split(delimiters.component), "", "", ""]
    code, _, suffix = parts[0].partition(delimiters.subcomponent)
    return code.strip(), suffix.strip().upper(), unescaped(parts[1], delimiters).strip(), parts[2].strip().upper()


def _heading(fields: list[str], delimiters: Delimiters) -> str:
    code, suffix, text, scheme = _observation(fields, delimiters)
    by_suffix = concept_heading(suffix or code, "SUFFIX", "")
    return by_suffix or concept_heading(code, scheme, text) or concept_heading("", "", code)


def _keys(order: _Order, delimiters: Delimiters) -> list[str]:
    uids = order.values("ZDS", 1)
    for name, fields in order.segments:
        if name == "OBX" and len(fields) > 5 and _observation(fields, delimiters)[0] in _STUDY_UID:
            uids.append(fields[5])
    numbers = [("OBR", 18), ("OBR", 20), ("OBR", 3), ("ORC", 3), ("TXA", 15), ("TXA", 14)]
    values = [*uids, *(value for name, number in numbers for value in order.values(name, number))]
    return [_first_component(value, delimiters) for value in values]


def _first_component(value: str, delimiters: Delimiters) -> str:
    for mark in (delimiters.repetition, delimiters.component, delimiters.subcomponent):
        value = value.partition(mark)[0]
    return unescaped(value, delimiters).strip()


def _status(order: _Order, kind: str, delimiters: Delimiters) -> str:
    """OBR-25 or TXA-17; where they say nothing, or final while results were corrected, what the results say."""
    results = {_OF_RESULT.get(_status_of(fields, 11), "") for name, fields in order.segments if name == "OBX"} - {""}
    stated = next((_OF_ORDER[v] for v in map(str.strip, order.values("OBR", 25)) if v in _OF_ORDER), "")
    if kind != "ORU":
        document = next((_OF_DOCUMENT[v] for v in map(str.strip, order.values("TXA", 17)) if v in _OF_DOCUMENT), "")
        stated = document if document == "preliminary" else _DOCUMENT_EVENTS[kind] or document
    by_results = next(
        (s for s in ("preliminary", "partial", "corrected", "amended", "appended", "final") if s in results), ""
    )
    if not stated or (stated == "final" and by_results in {"corrected", "amended", "appended"}):
        stated = by_results
    deleted = [_status_of(fields, 11) for name, fields in order.segments if name == "OBX"]
    if deleted and set(deleted) <= _DELETED:
        return "entered_in_error" if "W" in deleted or "D" in deleted else "cancelled"
    return stated


def _status_of(fields: list[str], number: int) -> str:
    return fields[number].strip().upper() if len(fields) > number else ""


def _issued(order: _Order) -> datetime | None:
    """OBR-22 (results changed), TXA-6 (originated) or MSH-7 (sent), the first that is there."""
    values = [*order.values("OBR", 22), *order.values("TXA", 6), *order.values("MSH", 7)]
    return next((moment for moment in map(time_stamp, values) if moment), None)
