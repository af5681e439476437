"""FHIR DiagnosticReports: the text as issued, the keys of the study wherever they stand, and vendors' oddities."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.errors import UnusableFile
from preprocessing.fhir_reports import read_fhir
from preprocessing.report_records import FORMAT_REASONS, STATUSES, RejectedReport, ReportRecord
from preprocessing.text_files import checked_text

Resource = dict[str, Any]
ACCESSION = {
    "type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]},
    "value": "A1",
}


def report(**elements: Any) -> Resource:
    made = {
        "resourceType": "DiagnosticReport",
        "id": "r1",
        "status": "final",
        "code": {"text": "Chest"},
        "identifier": [ACCESSION],
        "conclusion": "No acute disease.",
        "issued": "2024-01-02T15:00:00+02:00",
    } | elements
    return {name: value for name, value in made.items() if value is not None}


def form(content: bytes, kind: str | None = "text/plain", **others: str) -> Resource:
    return {**({"contentType": kind} if kind else {}), "data": base64.b64encode(content).decode(), **others}


def study(uid: str = "1.2.1", number: str = "s1") -> Resource:
    return {
        "resourceType": "ImagingStudy",
        "id": number,
        "status": "available",
        "subject": {"reference": "Patient/1"},
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}],
    }


def bundle(*resources: Resource, url: str = "") -> Resource:
    entries = [{"resource": r, **({"fullUrl": f"{url}{r['id']}"} if url else {})} for r in resources]
    return {"resourceType": "Bundle", "type": "collection", "entry": entries}


def read(document: Any) -> list[ReportRecord | RejectedReport]:
    return read_fhir(json.dumps(document).encode(), "a.json")


def only(document: Any) -> ReportRecord:
    (found,) = read(document)
    assert isinstance(found, ReportRecord), found
    assert found.status in STATUSES
    return found


def reason(document: Any) -> str:
    (found,) = read(document)
    assert isinstance(found, RejectedReport), found
    assert found.reason in FORMAT_REASONS
    return found.reason


def test_a_conclusion_is_an_impression() -> None:
    record = only(report())
    assert record == ReportRecord(
        ("A1",), "Impression:\nNo acute disease.", "a.json", (), "final", datetime(2024, 1, 2, 13, tzinfo=UTC)
    )
    whole = "FINDINGS: Clear.\r\nIMPRESSION: Normal."
    assert only(report(conclusion=whole)).text == whole


def test_the_report_as_issued_is_taken_before_its_conclusion() -> None:
    forms = [form(b"%PDF-1.4", "application/pdf"), form("FINDINGS: Größe normal.".encode())]
    assert only(report(presentedForm=forms)).text == "FINDINGS: Größe normal."
    assert only(report(presentedForm=forms[:1])).text == "Impression:\nNo acute disease."
    two = [form(b"FINDINGS: Clear."), form(b"FINDINGS: Edema.")]
    assert only(report(presentedForm=two)).flags == ("several_forms",)


@pytest.mark.parametrize(
    ("attachment", "text"),
    [
        (form("Größe".encode("latin-1"), "text/plain; charset=ISO-8859-1"), "Größe"),
        (form("Größe".encode("utf-16-le"), 'text/plain;charset="utf-16le"'), "Größe"),
        (form("Größe".encode(), "text/plain; charset=us-ascii"), "Größe"),
        (form("Größe".encode(), "text/plain; charset=klingon"), "Größe"),
        (form(b"Clear.", None), "Clear."),
        ({"contentType": "TEXT/PLAIN", "data": "Q2xl\r\nYXI="}, "Clear"),
    ],
)
def test_attachments_are_decoded_as_they_say_or_as_they_are(attachment: Resource, text: str) -> None:
    assert only(report(presentedForm=[attachment], conclusion=None)).text == text


@pytest.mark.parametrize(
    "attachment",
    [
        form(b"<p>Clear.</p>", "text/html"),
        form(b"%PDF-1.4", "application/pdf"),
        form(b"{\\rtf1 Clear.}", "application/rtf"),
        form(b"%PDF-1.4"),
        {"contentType": "text/plain", "url": "http://ris.example/1"},
        {"contentType": "text/plain", "data": "abc"},
    ],
)
def test_what_is_not_plain_text_is_no_text(attachment: Resource) -> None:
    assert reason(report(presentedForm=[attachment], conclusion=None)) == "no_plain_text"
    assert only(report(presentedForm=[attachment])).text == "Impression:\nNo acute disease."


def test_the_narrative_is_the_last_resort() -> None:
    narrative = {
        "status": "generated",
        "div": "<div><h1>FINDINGS:</h1><p>Clear &amp; dry.<br/>Normal <b>heart</b>.</p></div>",
    }
    assert only(report(text=narrative)).text == "Impression:\nNo acute disease."
    record = only(report(text=narrative, conclusion=None))
    assert (record.text, record.flags) == ("FINDINGS:\nClear & dry.\nNormal heart.", ("narrative",))
    assert reason(report(conclusion=None)) == "empty_report"


@pytest.mark.parametrize(
    "status", ["registered", "partial", "preliminary", "final", "amended", "corrected", "appended"]
)
def test_the_status_is_kept(status: str) -> None:
    assert only(report(status=status)).status == status


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("cancelled", "cancelled"),
        ("entered-in-error", "entered_in_error"),
        ("done", "malformed_fhir"),
        (None, "malformed_fhir"),
        (3, "malformed_fhir"),
    ],
)
def test_withdrawn_reports_and_those_without_status_are_rejected(status: object, expected: str) -> None:
    assert reason(report(status=status)) == expected


@pytest.mark.parametrize(
    "elements",
    [
        {"imagingStudy": [{"reference": "urn:oid:1.2.1"}]},
        {"imagingStudy": [{"reference": "https://pacs.example/fhir/ImagingStudy/1.2.1"}]},
        {"imagingStudy": [{"identifier": {"system": "urn:dicom:uid", "value": "urn:oid:1.2.1"}}]},
        {"study": [{"identifier": {"system": "urn:dicom:uid", "value": "urn:oid:1.2.1"}}]},
        {"contained": [study()], "imagingStudy": [{"reference": "#s1"}]},
        {"contained": [study()]},
    ],
)
def test_the_study_is_found_in_references_and_contained_resources(elements: Resource) -> None:
    assert only(report(**elements)).keys == ("1.2.1", "A1")


@pytest.mark.parametrize("url", ["", "https://ris.example/ImagingStudy/", "urn:uuid:"])
def test_references_are_resolved_inside_a_bundle(url: str) -> None:
    target = f"{url}s1" if url else "ImagingStudy/s1"
    order = {
        "resourceType": "ServiceRequest",
        "id": "o1",
        "status": "active",
        "intent": "order",
        "subject": {"reference": "Patient/1"},
        "identifier": [{"value": "P7"}],
        "requisition": {"value": "G8"},
    }
    based_on = [{"reference": f"{url}o1" if url else "ServiceRequest/o1"}]
    document = bundle(order, report(imagingStudy=[{"reference": target}], basedOn=based_on), study(), url=url)
    record = only(document)
    assert (record.keys, record.origin) == (("1.2.1", "A1", "P7", "G8"), "a.json entry 2")


def test_a_url_with_a_version_refers_to_the_resource_of_that_id() -> None:
    reference = [{"reference": "https://pacs.example/fhir/ImagingStudy/s1/_history/2"}]
    assert only(bundle(report(imagingStudy=reference), study())).keys == ("1.2.1", "A1")


def test_what_is_no_character_is_replaced() -> None:
    record = only(report(conclusion="IMPRESSION: Clear \ud800 lungs."))
    assert (record.text, record.flags) == ("IMPRESSION: Clear \ufffd lungs.", ("replacement_characters",))


def test_other_identifiers_are_tried_last() -> None:
    identifiers = [{"system": "http://ris.example", "value": "R5"}, ACCESSION]
    based_on = [{"identifier": {"value": "P6"}}]
    assert only(report(identifier=identifiers, basedOn=based_on)).keys == ("A1", "R5", "P6")
    assert reason(report(identifier=None)) == "no_key"


@pytest.mark.parametrize(
    "elements",
    [
        {"vendorField": {"a": 1}},
        {"issued": "2024-01-02"},
        {"performer": [{"display": "", "reference": 7}]},
        {"id": "x_" * 50},
        {"code": None, "category": "RAD"},
        {"contained": [{"resourceType": "Patient", "id": "p", "birthDate": "unknown"}]},
        {"extension": [{"valueString": "no url"}]},
        {"presentedForm": [{"contentType": "text/plain", "data": "Q2xlYXI=", "size": "many", "vendor": 1}]},
    ],
)
def test_oddities_elsewhere_lose_no_text(elements: Resource) -> None:
    record = only(report(**elements))
    assert record.text in {"Impression:\nNo acute disease.", "Clear"}
    assert record.keys == ("A1",)
    assert record.flags == (("invalid_elements",) if {"issued", "presentedForm"} & elements.keys() else ())


def test_a_study_that_lacks_what_fhir_requires_is_still_found() -> None:
    bare = {"resourceType": "ImagingStudy", "id": "s1", "identifier": [{"value": "urn:oid:1.2.1"}], "started": "?"}
    reference = [{"reference": "ImagingStudy/s1"}]
    assert only(bundle(report(imagingStudy=reference), bare)).keys == ("1.2.1", "A1")


def test_reports_of_a_bundle_do_not_depend_on_each_other() -> None:
    bad, good = report(status="nonsense"), report(conclusion="Edema.")
    first, second = read(bundle(bad, good))
    assert isinstance(first, RejectedReport)
    assert isinstance(second, ReportRecord)
    assert [r.origin for r in read([good, bad])] == ["a.json entry 1", "a.json entry 2"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"resourceType": "DiagnosticReport", "status"', "malformed_json"),
        (b'{"resourceType": "DiagnosticReport", "x": NaN}', "malformed_json"),
        (b'{"resourceType": "DiagnosticReport", "status": "final", "status": "final"}', "malformed_json"),
        (b'{"resourceType": "DiagnosticReport", "x": ' + b"[" * 1_000_000, "malformed_json"),
        (b'{"resourceType": "DiagnosticReport", "x": ' + b'{"a":' * 900_000 + b"1" + b"}" * 900_001, "malformed_json"),
        (b'{"resourceType": "DiagnosticReport", "x": ' + b"9" * 10_000 + b"}", "malformed_json"),
        (b'{"resourceType": "Patient", "id": "1"}', "other_resource"),
        (b'{"resourceType": "Bundle", "type": "collection"}', "no_report"),
        (b'{"resourceType": "Bundle", "type": "collection", "entry": "x"}', "no_report"),
        (b"[1, 2]", "other_json"),
        (b'{"a": 1}', "other_json"),
    ],
)
def test_documents_that_cannot_be_read_are_rejected(content: bytes, expected: str) -> None:
    with pytest.raises(UnusableFile) as raised:
        read_fhir(content, "a.json")
    assert raised.value.reason == expected
    assert expected in FORMAT_REASONS


def test_nesting_that_json_allows_does_no_harm() -> None:
    nested: Any = {"url": "x"}
    for _ in range(400):
        nested = {"url": "x", "extension": [nested]}
    (found,) = read(report(extension=[nested]))
    assert isinstance(found, ReportRecord) or found.reason == "malformed_fhir"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "identifier",
                "basedOn",
                "imagingStudy",
                "conclusion",
                "presentedForm",
                "text",
                "contained",
                "issued",
                "study",
            ]
        ),
        JSON | st.lists(JSON, max_size=2),
    )
)
def test_any_content_of_the_elements_gives_a_report_or_a_reason(elements: Resource) -> None:
    (found,) = read({"resourceType": "DiagnosticReport", "status": "final"} | elements)
    assert isinstance(found, ReportRecord) or found.reason in FORMAT_REASONS


@pytest.mark.parametrize(
    ("charset", "content"),
    [("punycode", "a" * 60_000), ("utf-7", "+AGE-"), ("unicode_escape", r"\x41"), ("\0", "Clear."), ("zip", "Clear.")],
)
def test_a_charset_that_is_none_of_texts_is_found_out_from_the_bytes(charset: str, content: str) -> None:
    """Python's codec for the first takes time that grows with the square of the length."""
    assert only(report(presentedForm=[form(content.encode(), f"text/plain; charset={charset}")])).text == content


def test_an_attachment_longer_than_any_report_is_not_decoded() -> None:
    long = form(b"Clear. " * 800_000, "text/plain; charset=utf-8")
    assert only(report(presentedForm=[long])).text == "Impression:\nNo acute disease."


def test_a_time_before_all_times_is_none_and_loses_no_report() -> None:
    found = read(bundle(report(issued="0001-01-01T00:00:00+14:00"), report(id="r2")))
    assert [one.issued if isinstance(one, ReportRecord) else one for one in found] == [
        None,
        datetime(2024, 1, 2, 13, 0, tzinfo=UTC),
    ]


def test_styles_and_scripts_of_a_narrative_are_no_text() -> None:
    div = "<div><style>p {color: red}</style><script>var x = 1;</script><style/><p>Clear.</p></div>"
    assert only(report(text={"status": "generated", "div": div}, conclusion=None)).text == "Clear."


def test_what_no_rule_foresaw_costs_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """No content is known to do this, so the failure is put in."""

    def failing(text: str) -> tuple[str, tuple[str, ...]]:
        if "ZWIEBEL" in text:
            raise ZeroDivisionError(text)
        return checked_text(text)

    monkeypatch.setattr("preprocessing.fhir_reports.checked_text", failing)
    found = read(bundle(report(conclusion="ZWIEBEL"), report(id="r2")))
    assert [type(one) for one in found] == [RejectedReport, ReportRecord]
    assert getattr(found[0], "reason", "") == "unexpected_error"
    assert "ZWIEBEL" not in str(found)


@pytest.mark.parametrize(
    ("charset", "encoding", "text"),
    [
        ("ISO_8859-1", "latin-1", "Größe"),
        ("utf8", "utf-8", "Größe"),
        ("Windows-1251", "cp1251", "Лёгкие"),
        ("windows-31j", "cp932", "胸部①"),
        ("KS_C_5601-1987", "euc-kr", "흉부"),
        ("GB18030", "gb18030", "胸部"),
        ("utf-16le", "utf-16-le", "Größe"),
    ],
)
def test_encodings_are_known_by_their_many_names(charset: str, encoding: str, text: str) -> None:
    attachment = form(text.encode(encoding), f"text/plain; charset={charset}")
    assert only(report(presentedForm=[attachment])).text == text
