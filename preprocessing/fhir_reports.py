"""Reports in FHIR R4: DiagnosticReport alone, in Bundles, in lists or one a line (NDJSON).

Of a resource, the elements that are read here go through the models of `fhir.resources`. What a model refuses is
taken out and the rest is read again, flagged `invalid_elements`: hospitals' systems write elements and dates of their
own, and no text is worth less for it. Without a status that FHIR knows, nothing is taken.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeVar

from fhir.resources.R4B.attachment import Attachment
from fhir.resources.R4B.diagnosticreport import DiagnosticReport
from fhir.resources.R4B.domainresource import DomainResource
from fhir.resources.R4B.identifier import Identifier
from fhir.resources.R4B.imagingstudy import ImagingStudy
from fhir.resources.R4B.reference import Reference
from fhir.resources.R4B.servicerequest import ServiceRequest
from pydantic import BaseModel, ValidationError

from preprocessing.concept_headings import headed
from preprocessing.errors import UnusableFile
from preprocessing.html_text import without_tags
from preprocessing.report_records import (
    FORMAT_REASONS,
    LARGEST_OBJECT,
    WITHDRAWN,
    RejectedReport,
    ReportRecord,
    unexpected,
    usable_keys,
)
from preprocessing.text_files import LONGEST_REPORT, checked_text, decode_report, decoded, text_encoding

_ATTEMPTS = 8
_SUBJECT = {"display": "-"}
_ELEMENTS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "DiagnosticReport": (
        (
            "text",
            "contained",
            "identifier",
            "basedOn",
            "status",
            "issued",
            "imagingStudy",
            "conclusion",
            "presentedForm",
        ),
        {"code": {"text": "-"}},
    ),
    "ImagingStudy": (("id", "identifier", "basedOn"), {"status": "unknown", "subject": _SUBJECT}),
    "ServiceRequest": (
        ("id", "identifier", "requisition"),
        {"status": "unknown", "intent": "order", "subject": _SUBJECT},
    ),
}
"""Of each resource, what is read, and what stands for other elements that FHIR requires."""

_OID = "urn:oid:"
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_STATUSES = frozenset(
    {
        "registered",
        "partial",
        "preliminary",
        "final",
        "amended",
        "corrected",
        "appended",
        "cancelled",
        "entered-in-error",
    }
)
Lookup = Mapping[str, dict[str, Any]]
Resource = TypeVar("Resource", bound=BaseModel)


def read_fhir(content: bytes, origin: str) -> list[ReportRecord | RejectedReport]:
    """The reports of one JSON document; " entry 2" and so on are added to `origin` for those of a Bundle or list.

    Raises:
        UnusableFile: `too_long`, `malformed_json` or `other_json`.
    """
    document = _parsed(content)
    resources = _entries(document)
    if not resources:
        raise UnusableFile("no_report", "a Bundle or list without resources")
    if not any(isinstance(r, dict) and isinstance(r.get("resourceType"), str) for _, r in resources):
        raise UnusableFile("other_json", FORMAT_REASONS["other_json"])
    reports = [(i, r) for i, (_, r) in enumerate(resources, 1) if _is(r, "DiagnosticReport")]
    if not reports:
        raise UnusableFile("other_resource", FORMAT_REASONS["other_resource"])
    lookup = _lookup(resources)
    several = isinstance(document, list) or document.get("resourceType") == "Bundle"
    return [_read(resource, lookup, f"{origin} entry {i}" if several else origin) for i, resource in reports]


def _parsed(content: bytes) -> Any:
    if len(content) > LARGEST_OBJECT:
        raise UnusableFile("too_long", f"longer than {LARGEST_OBJECT} bytes")
    text, _ = decoded(content)
    try:
        document = json.loads(text, parse_constant=_refuse, object_pairs_hook=_unique)
        return _without_halves(document) if _HALF.search(text) else document
    except (ValueError, RecursionError):  # also of numbers with more digits than Python reads
        raise UnusableFile("malformed_json", FORMAT_REASONS["malformed_json"]) from None


def _without_halves(document: Any) -> Any:
    """The document with a replacement character for each half of a character, which no model takes."""
    text = json.dumps(document, ensure_ascii=False)
    return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _refuse(constant: str) -> NoReturn:
    raise ValueError


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError
    return found


def _entries(document: Any) -> list[tuple[str, Any]]:
    """Resources with their full URLs, which may be blank; Bundles in lists or Bundles are not opened."""
    if isinstance(document, list):
        return [("", resource) for resource in document]
    if _is(document, "Bundle"):
        entries = document.get("entry")
        entries = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
        return [(entry.get("fullUrl", ""), entry.get("resource")) for entry in entries]
    return [("", document)]


def _is(resource: Any, kind: str) -> bool:
    return isinstance(resource, dict) and resource.get("resourceType") == kind


def _lookup(resources: Sequence[tuple[Any, Any]]) -> Lookup:
    """Resources by what may refer to them: full URL, and type with id."""
    found: dict[str, dict[str, Any]] = {}
    for url, resource in resources:
        if isinstance(resource, dict):
            found[f"{resource.get('resourceType')}/{resource.get('id')}"] = resource
            if isinstance(url, str) and url:
                found[url] = resource
    return found


def _read(resource: dict[str, Any], lookup: Lookup, origin: str) -> ReportRecord | RejectedReport:
    try:
        report, flags = _valid(DiagnosticReport, _as_r4(resource))
        status = _status(report)
        text, others = _text(report)
        keys = usable_keys(list(_keys(report, lookup)))
        if not keys:
            raise UnusableFile("no_key", FORMAT_REASONS["no_key"])
        return ReportRecord(keys, text, origin, (*flags, *others), status, _issued(report))
    except UnusableFile as error:
        return RejectedReport(origin, error.reason, error.detail)
    except Exception as error:  # costs one entry and not the rest of the file
        return unexpected(error, origin)


def _as_r4(resource: dict[str, Any]) -> dict[str, Any]:
    """R5 calls the images of a report `study`."""
    return {**resource, "imagingStudy": resource.get("imagingStudy") or resource.get("study")}


def _read_elements(resource: dict[str, Any]) -> dict[str, Any]:
    """The elements that are read here, with what FHIR requires beside them in place of what the resource has."""
    kind = resource["resourceType"]
    names, required = _ELEMENTS[kind]
    found = {name: resource[name] for name in names if resource.get(name) is not None}
    contained = found.get("contained")
    if isinstance(contained, list):
        known = [one for one in contained if _is(one, "ImagingStudy") or _is(one, "ServiceRequest")]
        found["contained"] = [_read_elements(one) for one in known]
    return {"resourceType": kind, **required, **found}


def _valid(model: type[Resource], resource: dict[str, Any]) -> tuple[Resource, tuple[str, ...]]:
    """The resource without what the model refuses, and flags.

    Raises:
        UnusableFile: `malformed_fhir`, when nothing is left that the model takes.
    """
    flags: tuple[str, ...] = ()
    resource = _read_elements(resource)
    for _ in range(_ATTEMPTS):
        try:
            return model.model_validate(resource), flags
        except ValidationError as error:
            if not flags:
                resource, flags = json.loads(json.dumps(resource)), ("invalid_elements",)
            for wrong in error.errors(include_url=False, include_context=False, include_input=False):
                _remove(resource, wrong["loc"])
        except (ValueError, TypeError, AttributeError, RecursionError):
            break
    raise UnusableFile("malformed_fhir", FORMAT_REASONS["malformed_fhir"])


def _remove(resource: dict[str, Any], location: tuple[int | str, ...]) -> None:
    """Take out the innermost element that a location leads to; of a missing element, what lacks it."""
    path: list[tuple[Any, int | str]] = []
    node: Any = resource
    for key in location:
        inside = key in node if isinstance(node, dict) else isinstance(node, list) and isinstance(key, int)
        if not inside or (isinstance(node, list) and not 0 <= int(key) < len(node)):
            break
        path.append((node, key))
        node = node[key]
    if path:
        parent, key = path[-1]
        if isinstance(parent, list):
            parent[int(key)] = None
            parent[:] = [item for item in parent if item is not None]
        else:
            del parent[key]


def _status(report: DiagnosticReport) -> str:
    status = (report.status or "").strip().lower()
    if status not in _STATUSES:
        raise UnusableFile("malformed_fhir", "has no status that FHIR knows")
    withdrawn = status.replace("-", "_")
    if withdrawn in WITHDRAWN:
        raise UnusableFile(withdrawn, WITHDRAWN[withdrawn])
    return status


def _text(report: DiagnosticReport) -> tuple[str, tuple[str, ...]]:
    """The report as issued where it is plain text, else the conclusion as an impression, else the narrative.

    Plain text that cannot be used (damaged, HTML by another name) is passed over as other forms are.
    """
    forms = [form for form in report.presentedForm or () if isinstance(form, Attachment)]
    plain = [found for form in forms if (found := _plain(form))]
    if plain:
        text, flags = plain[0]
        several = any(other.split() != text.split() for other, _ in plain[1:])
        return text, (*flags, *(("several_forms",) if several else ()))
    if report.conclusion and report.conclusion.strip():
        return checked_text(headed("Impression", report.conclusion.strip()))
    narrative = without_tags(report.text.div) if report.text and report.text.div else ""
    if any(character.isalnum() for character in narrative):
        text, flags = checked_text(narrative)
        return text, (*flags, "narrative")
    reason = "no_plain_text" if forms else "empty_report"
    raise UnusableFile(reason, FORMAT_REASONS[reason])


def _plain(form: Attachment) -> tuple[str, tuple[str, ...]] | None:
    kind, *parameters = (form.contentType or "text/plain").lower().split(";")
    if kind.strip() != "text/plain" or not form.data:
        return None
    charset = next((p.partition("=")[2].strip(" \"'") for p in parameters if p.strip().startswith("charset")), "")
    try:
        encoding = text_encoding(charset)
        if encoding and len(form.data) <= LONGEST_REPORT:
            with suppress(UnicodeError):  # says one thing and is another: found out as for text files
                return checked_text(form.data.decode(encoding))
        return decode_report(form.data)
    except UnusableFile:
        return None


def _keys(report: DiagnosticReport, lookup: Lookup) -> Iterator[str]:
    """Study UIDs, then accession numbers (type ACSN), then what else identifies the report or what it is based on."""
    contained = {f"#{getattr(r, 'id', None)}": r for r in report.contained or ()}
    studies = [_resolved(r, ImagingStudy, contained, lookup) for r in report.imagingStudy or ()]
    studies += [(Reference(), r) for r in contained.values() if isinstance(r, ImagingStudy)]
    references = [*(report.basedOn or ())]
    for _, study in studies:
        references += getattr(study, "basedOn", None) or ()
    orders = [_resolved(r, ServiceRequest, contained, lookup) for r in references]
    of_studies = list(_identifiers(studies))
    of_report = [*(report.identifier or ()), *_identifiers(orders)]
    yield from (_uid(reference.reference or "") for reference, _ in studies)
    yield from (_uid(identifier.value or "") for identifier in of_studies)
    yield from (identifier.value or "" for identifier in (*of_report, *of_studies) if _is_accession(identifier))
    yield from (identifier.value or "" for identifier in of_report)


def _identifiers(resolved: Sequence[tuple[Any, Any]]) -> Iterator[Identifier]:
    for reference, resource in resolved:
        logical = getattr(reference, "identifier", None)
        yield from [logical] if isinstance(logical, Identifier) else []
        for identifier in getattr(resource, "identifier", None) or ():
            if isinstance(identifier, Identifier):
                yield identifier
        requisition = getattr(resource, "requisition", None)
        yield from [requisition] if isinstance(requisition, Identifier) else []


def _resolved(
    reference: Reference, model: type[DomainResource], contained: Mapping[str, Any], lookup: Lookup
) -> tuple[Reference, Any]:
    """A reference with the resource that it refers to, where that is at hand and can be read."""
    target = reference.reference or ""
    if target in contained:
        return reference, contained[target]
    resource = lookup.get(target) or lookup.get("/".join(target.split("/_history/")[0].split("/")[-2:]))
    if resource is None or not _is(resource, model.__name__):
        return reference, None
    try:
        return reference, _valid(model, resource)[0]
    except UnusableFile:
        return reference, None


def _uid(value: str) -> str:
    """The DICOM UID in "urn:oid:1.2.3", "ImagingStudy/1.2.3" or "1.2.3"; blank where there is none."""
    uid = value.strip().rpartition("/")[2].removeprefix(_OID)
    return uid if "." in uid and uid.replace(".", "").isdigit() and len(uid) <= 64 else ""


def _is_accession(identifier: Identifier) -> bool:
    return any(coding.code == "ACSN" for coding in (identifier.type.coding if identifier.type else None) or ())


def _issued(report: DiagnosticReport) -> datetime | None:
    issued = report.issued
    if not isinstance(issued, datetime):
        return None
    try:
        return issued.astimezone(UTC) if issued.tzinfo else issued
    except OverflowError:  # in the year 0 or 10000 of UTC
        return None
