"""What `ingest` leaves out, as tables of pseudonyms: images and reports, and labels of public data sets."""

from collections.abc import Iterable, Sequence

import polars as pl

from preprocessing.datasets import LeftOut
from preprocessing.identity import pseudonym
from preprocessing.ledger import FILE_SCHEMA
from preprocessing.store import REJECT_SCHEMA


def files_left_out(left_out: Iterable[LeftOut], key: bytes) -> pl.DataFrame:
    """Images of a data set that are not converted, as the ledger has the others (`ledger.FILE_SCHEMA`)."""
    unknown = dict.fromkeys(("sop", "study", "patient", "accession", "split"), "") | {"nameless": False, "day": None}
    rows = [
        unknown | {"file": pseudonym(key, "file", one.origin), "reason": one.reason, "detail": one.detail}
        for one in left_out
        if one.kind == "image"
    ]
    return pl.DataFrame(rows, schema=FILE_SCHEMA)


def reject_table(
    files: pl.DataFrame, reports: Iterable[tuple[str, str, str]], left_out: Iterable[LeftOut], key: bytes
) -> pl.DataFrame:
    """The rejects (`store.REJECT_SCHEMA`).

    Args:
        files: outcomes (`ledger.FILE_SCHEMA`), those of `files_left_out` among them.
        reports: (origin, reason, detail) of each report that was left out.
        left_out: of a data set; labels are taken from it.
        key: of the pseudonyms.
    """
    rows = [(pseudonym(key, "report", origin), "report", reason, detail) for origin, reason, detail in reports]
    rows += [
        (pseudonym(key, "file", one.origin), "label", one.reason, one.detail) for one in left_out if one.kind == "label"
    ]
    images = files.filter(pl.col("reason") != "").select("file", pl.lit("image").alias("kind"), "reason", "detail")
    return pl.concat([images, pl.DataFrame(rows, schema=REJECT_SCHEMA, orient="row")]).sort("kind", "file")


def reject_originals(
    reports: Iterable[tuple[str, str, str]], left_out: Sequence[LeftOut], key: bytes
) -> list[tuple[str, str, str]]:
    """(pseudonym, kind, original) of what `reject_table` has and the ledger has not."""
    found = [(pseudonym(key, "report", origin), "report", origin) for origin, _, _ in reports]
    return found + [
        (pseudonym(key, "file", one.origin), "file", one.origin) for one in left_out if one.kind != "report"
    ]
