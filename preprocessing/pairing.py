"""Reports and labels to studies: by study id, else by accession number, or by a table; never by a guess."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import polars as pl

from preprocessing.errors import UnusableFile
from preprocessing.identity import pseudonym
from preprocessing.report_pairs import Pairs
from preprocessing.report_reading import StudyText
from preprocessing.report_records import ADDENDUM, PRELIMINARY, RejectedReport, ReportRecord
from preprocessing.report_versions import SEVERAL, Version, judged

PAIRING_REASONS: dict[str, str] = {
    "no_such_study": "no image has its study id or accession number",
    "no_usable_image": "all images of its study were left out",
    "ambiguous_accession": "its accession number belongs to several studies",
    "contradicting_keys": "its study id and accession numbers belong to different studies",
    "contradicting_pairs": "rows of the pairing table name different studies for it",
    "pair_without_report": "a row of the pairing table that names no report",
    "duplicate": "the study has this very report already",
    "superseded": "a later version of the report replaces it",
    "several_reports": "reports with different texts name the same study",
    "addendum_alone": "an addendum without the report that it adds to",
}
"""Reasons for reports that could be read and were given to no study, and what each one means."""

ReadText = Callable[[int, str, tuple[str, ...]], StudyText]
"""Reads one report: its number among all (the first is 1), its text and flags -> what its study gets from it."""


class StudyIndex:
    """Finds the study that a key means.

    Args:
        files: `ledger.FILE_SCHEMA`; those with a blank reason are in the store.
        key: of the pseudonyms.
    """

    def __init__(self, files: pl.DataFrame, key: bytes) -> None:
        self._key = key
        self._in_store = set(files.filter(pl.col("reason") == "")["study"])
        self._left_out = set(files["study"]) - self._in_store - {""}
        # A file without a study is not known to be of the study that others with its accession number name.
        study = pl.when(pl.col("study") == "").then("file").otherwise("study")
        named = files.filter(pl.col("accession") != "")
        self._by_accession = dict(named.group_by("accession").agg(study.unique().alias("studies")).iter_rows())

    def find(self, *keys: str) -> str:
        """Pseudonym of the study that keys of one report mean. A key that means no study says nothing.

        Raises:
            UnusableFile: `contradicting_keys`, `ambiguous_accession`, `no_usable_image` or `no_such_study`.
        """
        found = [studies for key in keys if (studies := self._studies_of(key))]
        if not found:
            raise _unpaired("no_such_study")
        common = set.intersection(*found)
        if len(common) != 1:
            raise _unpaired("ambiguous_accession" if common else "contradicting_keys")
        (study,) = common
        if study not in self._in_store:
            raise _unpaired("no_usable_image")
        return study

    def _studies_of(self, key: str) -> set[str]:
        study = pseudonym(self._key, "study", key)
        studies: set[str] = set(self._by_accession.get(pseudonym(self._key, "accession", key), ()))
        return studies | {study} if study in self._in_store or study in self._left_out else studies

    def find_or_none(self, key: str) -> str | None:
        """Pseudonym of the study, or `None` where `find` raises."""
        try:
            return self.find(key)
        except UnusableFile:
            return None


def _unpaired(reason: str) -> UnusableFile:
    return UnusableFile(reason, PAIRING_REASONS[reason])


@dataclass
class PairedReports:
    """Outcome of pairing.

    Args:
        texts: pseudonym of the study to its text; studies without a report are not in it.
        taken: number of each report that a study got, and that study.
        rejects: (origin, reason, detail) of every report that was left out, duplicates included, and of every row of
            the pairing table that named none.
        seen, paired: numbers of reports, those rows included.
    """

    texts: dict[str, StudyText] = field(default_factory=dict)
    taken: dict[int, str] = field(default_factory=dict)
    rejects: list[tuple[str, str, str]] = field(default_factory=list)
    seen: int = 0
    paired: int = 0

    def leave_out(self, rejects: Iterable[tuple[str, str, str]]) -> None:
        """Count reports that were left out before they could be paired."""
        before = len(self.rejects)
        self.rejects += rejects
        self.seen += len(self.rejects) - before


@dataclass(frozen=True, slots=True)
class _Candidate:
    number: int
    origin: str
    version: Version
    text: StudyText


def pair_reports(
    reports: Iterable[ReportRecord | RejectedReport],
    studies: StudyIndex,
    read: ReadText,
    pairs: Pairs | None = None,
) -> PairedReports:
    """Give every study its report. Texts are not kept beyond what is read of them.

    Of several versions, the one that replaces the others is taken (`report_versions`). An addendum alone is left out,
    and the report of its study gets the flag `addendum_left_out`.
    """
    outcome = PairedReports()
    candidates: defaultdict[str, list[_Candidate]] = defaultdict(list)
    with_addendum: set[str] = set()
    for report in reports:
        outcome.seen += 1
        try:
            if isinstance(report, RejectedReport):
                raise UnusableFile(report.reason, report.detail)
            study = studies.find(*(pairs.keys_of(report) if pairs else report.keys))
            if report.status == ADDENDUM:
                with_addendum.add(study)
                raise _unpaired("addendum_alone")
        except UnusableFile as error:
            outcome.rejects.append((report.origin, error.reason, error.detail))
            continue
        flags = (*report.flags, *(("preliminary",) if report.status in PRELIMINARY else ()))
        text = read(outcome.seen, report.text, flags)
        candidates[study].append(_Candidate(outcome.seen, report.origin, _version(report), text))
    for study, versions in candidates.items():
        outcome.texts[study] = _chosen(study, versions, outcome)
        if study in with_addendum:
            flags = (*outcome.texts[study].flags, "addendum_left_out")
            outcome.texts[study] = replace(outcome.texts[study], flags=flags)
    outcome.paired = outcome.seen - len(outcome.rejects)
    rows = pairs.unused() if pairs else ()
    reason = "pair_without_report"
    outcome.leave_out((f"pairing table row {row}", reason, PAIRING_REASONS[reason]) for row in rows)
    return outcome


def _version(report: ReportRecord) -> Version:
    words = hashlib.sha256(" ".join(report.text.split()).encode("utf-8", "surrogatepass")).digest()
    return Version(words, report.status, report.issued)


def _chosen(study: str, candidates: Sequence[_Candidate], outcome: PairedReports) -> StudyText:
    """What a study gets from its candidates; the others become rejects."""
    text = StudyText(SEVERAL, SEVERAL)
    for candidate, reason in zip(candidates, judged([one.version for one in candidates]), strict=True):
        if reason:
            outcome.rejects.append((candidate.origin, reason, PAIRING_REASONS[reason]))
        else:
            text = candidate.text
            outcome.taken[candidate.number] = study
    return text
