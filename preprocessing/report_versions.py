"""Which of several texts for one study is the report: what the status and the time of each version decide.

HL7 v2 (tables 0085 and 0123): a final result replaces a preliminary one, a corrected one replaces a final one. FHIR R4
(diagnostic-report-status): amended, corrected and appended ones were final before, and each version is a whole report.
DICOM SR (PS3.3, C.17.2): a verified document follows unverified ones. Times decide among preliminary and among amended
ones alone: two final reports with different texts may be of two examinations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from preprocessing.report_records import AMENDED, PRELIMINARY

SUPERSEDED, DUPLICATE, SEVERAL = "superseded", "duplicate", "several_reports"


@dataclass(frozen=True, slots=True)
class Version:
    """One text for a study.

    Args:
        words: a digest of its words, by which texts are the same or not.
        status, issued: as in `ReportRecord`.
    """

    words: bytes
    status: str
    issued: datetime | None


def supersedes(one: Version, other: Version) -> bool:
    """Whether one version replaces another; not where a time contradicts the status, or either has none."""
    ranks = _rank(one), _rank(other)
    if ranks[0] is None or ranks[1] is None:
        return False
    order = _order(one.issued, other.issued)
    if ranks[0] != ranks[1]:
        return ranks[0] > ranks[1] and order >= 0
    return one.status in PRELIMINARY | AMENDED and order > 0


def judged(versions: Sequence[Version]) -> list[str]:
    """What becomes of each: blank for the report, else `superseded`, `duplicate` or `several_reports`.

    At most one is the report. The outcome does not depend on the order of different texts; of the same text, the first
    version is the report unless another replaces it.
    """
    replaced = [
        any(supersedes(other, version) and other.words != version.words for other in versions) for version in versions
    ]
    texts = {version.words for version, gone in zip(versions, replaced, strict=True) if not gone}
    outcomes = []
    taken = False
    for version, gone in zip(versions, replaced, strict=True):
        if gone and version.words not in texts:
            outcomes.append(SUPERSEDED)
        elif len(texts) > 1:
            outcomes.append(SEVERAL)
        else:
            outcomes.append(DUPLICATE if taken else "")
            taken = True
    return outcomes


def _rank(version: Version) -> int | None:
    if version.status in PRELIMINARY:
        return 0
    return {"final": 1, **dict.fromkeys(AMENDED, 2)}.get(version.status)


def _order(one: datetime | None, other: datetime | None) -> int:
    """1 where the first is later, -1 where it is earlier, 0 where that cannot be said."""
    if one is None or other is None or (one.tzinfo is None) != (other.tzinfo is None):
        return 0
    return (one > other) - (one < other)
