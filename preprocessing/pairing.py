"""Reports and labels to studies: by study id, else by accession number, never by a guess."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import polars as pl

from preprocessing.errors import UnusableFile
from preprocessing.identity import pseudonym
from preprocessing.report_reading import StudyText, read_report
from preprocessing.report_sources import RejectedReport, ReportRecord


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

    def find(self, key: str) -> str:
        """Pseudonym of the study.

        Raises:
            UnusableFile: `ambiguous_accession`, `no_usable_image` or `no_such_study`.
        """
        study = pseudonym(self._key, "study", key)
        studies: set[str] = set(self._by_accession.get(pseudonym(self._key, "accession", key), ()))
        if study in self._in_store or study in self._left_out:
            studies.add(study)
        if not studies:
            raise UnusableFile("no_such_study", "no image has its study id or accession number")
        if len(studies) > 1:
            raise UnusableFile("ambiguous_accession", "its accession number belongs to several studies")
        (study,) = studies
        if study not in self._in_store:
            raise UnusableFile("no_usable_image", "all images of its study were left out")
        return study

    def find_or_none(self, key: str) -> str | None:
        """Pseudonym of the study, or `None` where `find` raises."""
        try:
            return self.find(key)
        except UnusableFile:
            return None


@dataclass
class PairedReports:
    """Outcome of pairing.

    Args:
        texts: pseudonym of the study to its text; studies without a report are not in it.
        rejects: (origin, reason, detail) of every report that was left out, duplicates included.
        seen, paired: numbers of reports.
    """

    texts: dict[str, StudyText] = field(default_factory=dict)
    rejects: list[tuple[str, str, str]] = field(default_factory=list)
    seen: int = 0
    paired: int = 0


def pair_reports(
    reports: Iterable[ReportRecord | RejectedReport], studies: StudyIndex, *, policy: str, minimum_words: int
) -> PairedReports:
    """Give every study its report. Texts are not kept beyond their sentences."""
    outcome = PairedReports()
    first: dict[str, tuple[str, bytes]] = {}  # study -> origin of its report, and a digest of the words
    for report in reports:
        outcome.seen += 1
        try:
            if isinstance(report, RejectedReport):
                raise UnusableFile(report.reason, report.detail)
            study = studies.find(report.key)
        except UnusableFile as error:
            outcome.rejects.append((report.origin, error.reason, error.detail))
            continue
        words = hashlib.sha256(" ".join(report.text.split()).encode("utf-8", "surrogatepass")).digest()
        if study not in first:
            first[study] = (report.origin, words)
            outcome.texts[study] = read_report(report.text, report.flags, policy, minimum_words)
        elif first[study][1] == words:
            outcome.rejects.append((report.origin, "duplicate", "the study has this very report already"))
        else:
            _reject_both(outcome, study, first[study][0], report.origin)
    outcome.paired = outcome.seen - len(outcome.rejects)
    return outcome


def _reject_both(outcome: PairedReports, study: str, first: str, second: str) -> None:
    origins = [second]
    if outcome.texts[study].status != "several_reports":
        origins.append(first)
        outcome.texts[study] = StudyText("several_reports", "several_reports")
    outcome.rejects += [(o, "several_reports", "reports with different texts name the same study") for o in origins]
