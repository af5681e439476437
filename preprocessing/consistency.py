"""Files that are sound by themselves and contradict one another: the last word on what is taken.

Called by `ingest` once every file has an outcome; works on the ledger's table (`ledger.FILE_SCHEMA`).
"""

import hashlib
from collections.abc import Callable, Iterator

import polars as pl

from preprocessing.errors import UnusableFile
from preprocessing.ledger import Ledger
from preprocessing.sources import source_bytes

DETAILS: dict[str, str] = {
    "duplicate": "the same file, byte for byte, is in the store already",
    "duplicate_uid": "another file has the same SOP Instance UID and other content; neither was taken",
    "image_of_two_studies": "the manifest gives this image to several studies or patients; it was taken for none",
    "patient_id_missing_in_part": "it has no patient id, and other images of its study have one",
    "study_of_two_patients": "images of its study name different patients",
}
"""Reasons that this module gives, and what each one means."""


def without_contradictions(files: pl.DataFrame, digest: Callable[[str], bytes]) -> pl.DataFrame:
    """Give a reason to files that contradict others.

    Args:
        files: `ledger.FILE_SCHEMA`; those with a blank reason are sound by themselves.
        digest: from a file's pseudonym to a hash of its content; asked only where files claim to be one image.

    Returns:
        The table with more reasons and details.
    """
    files = _with_reasons(files, dict(_duplicates(files, digest)))
    return _with_reasons(files, dict(_torn_studies(files)))


def _duplicates(files: pl.DataFrame, digest: Callable[[str], bytes]) -> Iterator[tuple[str, str]]:
    several = files.filter(pl.col("reason") == "").filter(pl.len().over("sop") > 1)
    digests = {file: digest(file) for file in several["file"]}  # in their order, in which an archive is opened once
    for _, group in several.group_by("sop", maintain_order=True):
        if len({digests[file] for file in group["file"]}) > 1:
            yield from ((file, "duplicate_uid") for file in group["file"])
        elif len(group.select("study", "patient").unique()) > 1:
            yield from ((file, "image_of_two_studies") for file in group["file"])
        else:
            yield from ((file, "duplicate") for file in group["file"][1:])


def _torn_studies(files: pl.DataFrame) -> Iterator[tuple[str, str]]:
    """Whose such studies are cannot be told, and a split could be torn by them.

    Where some images of a study name a patient and others none, those without are left out.
    """
    taken = files.filter(pl.col("reason") == "")
    named = taken.filter(~pl.col("nameless")).group_by("study").agg(pl.col("patient").n_unique().alias("patients"))
    for file, nameless, patients in taken.join(named, on="study").select("file", "nameless", "patients").iter_rows():
        if nameless:
            yield file, "patient_id_missing_in_part"
        elif patients > 1:
            yield file, "study_of_two_patients"


def _with_reasons(files: pl.DataFrame, reasons: dict[str, str]) -> pl.DataFrame:
    found = {file: DETAILS[reason] for file, reason in reasons.items()}
    return files.with_columns(
        pl.col("file").replace_strict(reasons, default=pl.col("reason"), return_dtype=pl.String).alias("reason"),
        pl.col("file").replace_strict(found, default=pl.col("detail"), return_dtype=pl.String).alias("detail"),
    )


def content_digest(ledger: Ledger, file: str) -> bytes:
    """SHA-256 of a file's content, read once and then known to the ledger.

    A file that cannot be read any more is like no other.
    """
    known = ledger.digest(file)
    if known is not None:
        return known
    try:
        digest = hashlib.sha256(source_bytes(ledger.source(file))).digest()
    except UnusableFile:
        return file.encode()
    ledger.keep_digest(file, digest)
    return digest
