"""Reports find their studies by their keys or by a table, and one version of several is taken, never by a guess."""

import itertools
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.errors import InputError
from preprocessing.identity import pseudonym
from preprocessing.ledger import FILE_SCHEMA
from preprocessing.pairing import PAIRING_REASONS, PairedReports, StudyIndex, pair_reports
from preprocessing.report_pairs import Pairs, read_pairs
from preprocessing.report_reading import ReportRules, read_report
from preprocessing.report_records import STATUSES, RejectedReport, ReportRecord
from preprocessing.report_versions import Version, judged

KEY = b"k" * 32
CLEAR, EDEMA, MASS = (f"IMPRESSION: There is {what} here." for what in ("nothing", "edema", "a mass"))


def day(number: int) -> datetime:
    return datetime(2024, 1, number, 12)


def index(*images: tuple[str, str, str]) -> StudyIndex:
    """Of images as (study, accession, reason)."""
    blank = dict.fromkeys(("file", "detail", "sop", "patient", "split"), "") | {"nameless": False, "day": None}
    rows = [
        blank
        | {
            "study": study and pseudonym(KEY, "study", study),
            "accession": accession and pseudonym(KEY, "accession", accession),
            "reason": reason,
        }
        for study, accession, reason in images
    ]
    return StudyIndex(pl.DataFrame(rows, schema=FILE_SCHEMA), KEY)


STUDIES = index(
    ("1.1", "A1", ""), ("1.2", "A2", ""), ("1.3", "A3", "modality"), ("1.4", "SHARED", ""), ("1.5", "SHARED", "")
)


def record(
    keys: Iterable[str] = ("1.1",),
    text: str = CLEAR,
    origin: str = "a.txt",
    status: str = "",
    issued: datetime | None = None,
) -> ReportRecord:
    return ReportRecord(tuple(keys), text, origin, (), status, issued)


def paired(*reports: ReportRecord | RejectedReport, pairs: Pairs | None = None) -> PairedReports:
    rules = ReportRules(minimum_words=2)
    outcome = pair_reports(reports, STUDIES, lambda _, text, flags: read_report(text, flags, rules).text, pairs)
    assert len(outcome.taken) == len(set(outcome.taken.values())) == outcome.paired
    assert outcome.seen == outcome.paired + len(outcome.rejects)
    assert {reason for _, reason, _ in outcome.rejects} <= PAIRING_REASONS.keys()
    return outcome


def fate(*reports: ReportRecord, pairs: Pairs | None = None) -> dict[str, str]:
    return {origin: reason for origin, reason, _ in paired(*reports, pairs=pairs).rejects}


def sentences(outcome: PairedReports, study: str = "1.1") -> tuple[str, ...]:
    return outcome.texts[pseudonym(KEY, "study", study)].sentences


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (["1.1"], ""),
        (["A1"], ""),
        (["1.1", "A1"], ""),
        (["elsewhere", "A1"], ""),
        (["1.4", "SHARED"], ""),
        (["SHARED"], "ambiguous_accession"),
        (["unknown", "SHARED"], "ambiguous_accession"),
        (["1.1", "A2"], "contradicting_keys"),
        (["1.1", "SHARED"], "contradicting_keys"),
        (["1.3"], "no_usable_image"),
        (["unknown"], "no_such_study"),
        ([], "no_such_study"),
    ],
)
def test_keys_that_agree_name_a_study_and_others_are_not_guessed_at(keys: list[str], reason: str) -> None:
    assert fate(record(keys)) == ({"a.txt": reason} if reason else {})


def version(status: str, issued: datetime | None, text: str, origin: str) -> ReportRecord:
    return record(text=text, origin=origin, status=status, issued=issued)


@pytest.mark.parametrize(
    ("first", "second", "taken"),
    [
        (("preliminary", None), ("final", None), "second"),
        (("partial", day(1)), ("final", day(2)), "second"),
        (("final", day(1)), ("corrected", day(2)), "second"),
        (("final", day(1)), ("amended", None), "second"),
        (("final", day(1)), ("appended", day(2)), "second"),
        (("preliminary", day(1)), ("corrected", day(2)), "second"),
        (("preliminary", day(1)), ("preliminary", day(2)), "second"),
        (("corrected", day(1)), ("amended", day(2)), "second"),
        (("final", day(1)), ("final", day(2)), ""),
        (("final", day(2)), ("corrected", day(1)), ""),
        (("preliminary", None), ("preliminary", day(2)), ""),
        (("corrected", day(1)), ("corrected", day(1)), ""),
        (("corrected", day(1)), ("corrected", day(2).replace(tzinfo=UTC)), ""),
        (("", day(1)), ("final", day(2)), ""),
        (("", None), ("", None), ""),
    ],
)
def test_status_and_time_decide_between_versions_whatever_their_order(
    first: tuple[str, datetime | None], second: tuple[str, datetime | None], taken: str
) -> None:
    versions = [version(*first, CLEAR, "first"), version(*second, EDEMA, "second")]
    expected = {"first": "superseded"} if taken else dict.fromkeys(("first", "second"), "several_reports")
    for order in itertools.permutations(versions):
        outcome = paired(*order)
        assert {origin: reason for origin, reason, _ in outcome.rejects} == expected
        assert sentences(outcome) == (("There is edema here.",) if taken else ())


def test_a_correction_settles_what_two_finals_leave_open() -> None:
    versions = [
        version("final", day(1), CLEAR, "one"),
        version("final", day(2), EDEMA, "two"),
        version("corrected", day(3), MASS, "three"),
    ]
    for order in itertools.permutations(versions):
        assert fate(*order) == {"one": "superseded", "two": "superseded"}


def test_the_same_words_twice_are_one_report() -> None:
    assert fate(record(origin="a"), record(text=CLEAR.replace(" ", "\r\n"), origin="b")) == {"b": "duplicate"}
    same = [version("preliminary", day(1), CLEAR, "p"), version("final", day(2), CLEAR, "f")]
    assert fate(*same) == {"f": "duplicate"}


def test_an_addendum_is_no_report_and_its_report_is_marked() -> None:
    outcome = paired(version("addendum", day(2), EDEMA, "more"), version("final", day(1), CLEAR, "base"))
    assert [(origin, reason) for origin, reason, _ in outcome.rejects] == [("more", "addendum_alone")]
    assert outcome.texts[pseudonym(KEY, "study", "1.1")].flags == ("addendum_left_out",)
    assert fate(version("addendum", None, EDEMA, "more")) == {"more": "addendum_alone"}


def test_a_preliminary_report_is_taken_and_marked() -> None:
    assert paired(version("preliminary", None, CLEAR, "a")).texts[pseudonym(KEY, "study", "1.1")].flags == (
        "preliminary",
    )


VERSIONS = st.lists(
    st.builds(
        Version,
        words=st.sampled_from([b"1", b"2", b"3"]),
        status=st.sampled_from(sorted(STATUSES - {"addendum"})),
        issued=st.none() | st.integers(1, 4).map(day),
    ),
    max_size=6,
)


@given(VERSIONS, st.randoms(use_true_random=False))
def test_one_version_at_most_is_the_report_in_any_order(versions: list[Version], random: Random) -> None:
    outcomes = judged(versions)
    assert outcomes.count("") <= 1
    assert (outcomes.count("") == 1) != ("several_reports" in outcomes) or not versions
    taken = {version.words for version, outcome in zip(versions, outcomes, strict=True) if not outcome}
    shuffled = random.sample(versions, len(versions))
    again = judged(shuffled)
    assert {version.words for version, outcome in zip(shuffled, again, strict=True) if not outcome} == taken


def table(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["deep/x.hl7", "x.hl7", "x", "K9", "deep/x.hl7 message 2", "./deep/x.hl7"])
def test_a_table_names_a_report_by_path_name_stem_message_or_key(tmp_path: Path, name: str) -> None:
    pairs = read_pairs(table(tmp_path / "p.csv", f"report,accession\n{name},A1\n"))
    assert fate(record(["K9"], origin="deep/x.hl7 message 2 order 1"), pairs=pairs) == {}


def test_a_pairing_table_may_be_of_windows(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_bytes("report,study\nThorax für Müller,1.1\n".encode("cp1252"))
    assert fate(record(["1"], origin="Thorax für Müller.txt"), pairs=read_pairs(tmp_path / "p.csv")) == {}


def test_the_table_counts_before_the_report_s_own_keys(tmp_path: Path) -> None:
    pairs = read_pairs(table(tmp_path / "p.csv", "report,study\na.txt,1.2\n"))
    outcome = paired(record(["1.1"]), record(["1.1"], EDEMA, "other.txt"), pairs=pairs)
    assert sentences(outcome, "1.2") == ("There is nothing here.",)
    assert sentences(outcome, "1.1") == ("There is edema here.",)


def test_rows_that_name_no_report_and_rows_that_contradict_each_other_are_said(tmp_path: Path) -> None:
    pairs = read_pairs(table(tmp_path / "p.csv", "report,study\nnowhere,1.1\na.txt,1.1\na,1.2\n"))
    assert fate(record(["1.1"]), pairs=pairs) == {
        "pairing table row 2": "pair_without_report",
        "a.txt": "contradicting_pairs",
    }


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("report,study\na,1.1\na,1.2\n", "rows 2 and 3"),
        ("report,study\na,\n", "row 2 has no study"),
        ("report,study\n,1.1\n", "row 2 has no report"),
        ("report,patient\na,1\n", "needs a column"),
        ("study,accession\na,1\n", "needs a column"),
    ],
)
def test_a_wrong_pairing_table_is_one_clear_error(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(InputError, match=named):
        read_pairs(table(tmp_path / "p.csv", text))
    assert read_pairs(table(tmp_path / "p.csv", "report,study\na,1.1\na,1.1\n")).unused() == [2]
