"""What a study gets from its report, and what is told of all reports together."""

from collections import Counter

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from linear_time import assert_linear_time

from preprocessing.labels import Evidence, label_names, label_report
from preprocessing.lexicon import rule_pack
from preprocessing.report_reading import ReportRules, read_report
from preprocessing.report_tables import EVIDENCE_SCHEMA, REPORTS_TO_NAME, EvidenceColumns, ReportsRead

REPORT = (
    "INDICATION: Pneumonia.\nFINDINGS: Small left effusion. Discussed with Dr. Jane Miller on 12/31/2019.\n"
    "ADDENDUM: There is also a nodule.\nIMPRESSION: Mild edema.\n"
)


def test_sentences_are_those_of_the_policy_and_labels_those_of_what_describes_the_picture() -> None:
    read = read_report(REPORT, ("decoded_as_cp1252",), ReportRules(policy="impression"))
    assert read.text.status == "paired"
    assert read.text.flags == ("decoded_as_cp1252",)
    assert read.text.sections == ("indication", "findings", "addendum", "impression")
    assert read.text.sentences == ("Mild edema.",)
    assert read.text.edema_severity == 1
    labels = dict(zip(label_names(rule_pack()), read.labels, strict=True))
    assert {name for name, value in labels.items() if value == 1} == {
        *("Pleural Effusion", "Nodule", "Lung Lesion", "Edema")
    }
    assert read.identifiers == {}  # none in the impression


def test_identifiers_are_counted_and_replaced_where_that_is_asked_for() -> None:
    plain, redacted = (read_report(REPORT, (), ReportRules(redact=redact)) for redact in (False, True))
    assert plain.identifiers == redacted.identifiers == {"name": 1, "date": 1}
    assert "Discussed with Dr. Jane Miller on 12/31/2019." in plain.text.sentences
    assert not any(word in " ".join(redacted.text.sentences) for word in ("Jane", "Miller", "12/31", "2019"))
    assert "Small left effusion." in redacted.text.sentences
    assert plain.labels == redacted.labels


def test_a_report_of_which_redaction_leaves_nothing_has_no_usable_text() -> None:
    report = "IMPRESSION: Dr. Jane Miller.\n"
    assert read_report(report, (), ReportRules()).text.status == "paired"
    read = read_report(report, (), ReportRules(redact=True, minimum_words=2))
    assert (read.text.status, read.text.reason, read.text.sentences) == (
        *("no_usable_text", "no_sentence_long_enough"),
        (),
    )


@pytest.mark.parametrize(
    ("report", "reason"),
    [("INDICATION: Cough.\n", "no_section_of_the_policy"), ("FINDINGS: XXXX ___.\n", "no_sentence_long_enough")],
)
def test_why_there_are_no_sentences(report: str, reason: str) -> None:
    assert read_report(report, (), ReportRules()).text.reason == reason


@pytest.mark.parametrize("unit", ["Seen on 12/31/2019. ", "No effusion. ", "Dr. Smith. Edema, ", "FINDINGS: a\nb. "])
def test_time_is_linear_in_the_length_of_a_report(unit: str) -> None:
    assert_linear_time(
        lambda text: read_report(text, (), ReportRules()), lambda length: "FINDINGS: " + unit * (length // len(unit))
    )


PLACES = st.builds(
    Evidence,
    st.sampled_from(["Edema", "Nodule", "Mass"]),
    st.integers(-1, 3),
    st.sampled_from(["findings", "impression"]),
    *[st.integers(0, 5_000_000)] * 4,
    *[st.none() | st.integers(0, 5_000_000)] * 2,
)


@given(st.lists(st.lists(PLACES, max_size=4), max_size=6), st.sets(st.integers(0, 5)))
def test_evidence_in_columns_is_the_evidence_of_the_reports_that_were_taken(
    reports: list[list[Evidence]], taken: set[int]
) -> None:
    columns = EvidenceColumns()
    for number, evidence in enumerate(reports):
        columns.add(number, evidence)
    studies = {number: f"study {number}" for number in taken}
    rows = [
        (studies[number], *place) for number, evidence in enumerate(reports) if number in taken for place in evidence
    ]
    table = columns.table(studies)
    assert dict(table.schema) == EVIDENCE_SCHEMA
    assert Counter(table.iter_rows()) == Counter(rows)
    order = table.select("study", "start", "end", "observation").rows()
    assert order == sorted(order)


def test_labels_of_studies_are_those_of_the_reports_that_they_got() -> None:
    reading = ReportsRead(ReportRules())
    texts = {1: "FINDINGS: No effusion.", 2: "FINDINGS: Severe edema.", 3: "FINDINGS: A nodule."}
    for number, text in texts.items():
        reading.read(number, text, ())
    table = reading.labels({3: "a", 1: "b"})
    names = label_names(rule_pack())
    assert table.columns == ["study", *names, "edema_severity"]
    assert table["study"].to_list() == ["a", "b"]
    assert set(table.schema.dtypes()[1:]) == {pl.Int8()}
    for study, number in (("a", 3), ("b", 1)):
        (row,) = table.filter(pl.col("study") == study).select(names).rows()
        assert {name: v for name, v in zip(names, row, strict=True) if v is not None} == label_report(
            texts[number]
        ).values
    assert reading.labels({2: "c"})["edema_severity"].to_list() == [3]
    assert reading.labels({}).columns == table.columns


def test_a_heading_that_nobody_mapped_is_named_once_it_stands_in_several_reports() -> None:
    reading = ReportsRead(ReportRules())
    for number in range(REPORTS_TO_NAME):
        reading.read(number, "FINDINGS:\nClear.\nDEVICES SEEN:\nNone.\nDEVICES SEEN:\nNone.\n", ())
    reading.read(99, "FINDINGS:\nClear.\nONCE ONLY:\nx.\n", ())
    assert reading.unmapped_headings() == ({"devices seen": REPORTS_TO_NAME}, 1)
