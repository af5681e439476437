"""The batch: DICOM files (or a manifest of PNG and JPEG files) and reports to a store with a MONAI datalist.

Discover, convert in a pool of processes, find duplicates, pair reports and labels, split by patient, write. Images
are written by the workers; this process keeps table rows only, so that memory does not grow with pixels.
"""

import contextlib
import functools
import hashlib
import os.path
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from preprocessing.conversion import ConversionSettings, Converted, SourceImage, convert
from preprocessing.discovery import find_images, manifest_images
from preprocessing.errors import InputError
from preprocessing.identity import pseudonym
from preprocessing.ingest_summary import IngestSummary, counts_of, outcomes
from preprocessing.label_table import read_label_table
from preprocessing.manifest import ManifestRow, read_manifest
from preprocessing.pairing import PairedReports, StudyIndex, StudyText, pair_reports
from preprocessing.pool import Lost, map_isolated
from preprocessing.rendering import PRESETS
from preprocessing.report_sources import RejectedReport, ReportRecord, read_report_file, read_reports
from preprocessing.sections import POLICIES
from preprocessing.splits import assign_splits
from preprocessing.store import IMAGE_SCHEMA, REJECT_SCHEMA, STUDY_SCHEMA, OpenStore, open_store
from preprocessing.store_files import StoreTables, write_store

TIME_LIMIT = 120.0
"""Seconds that one file may take; a decoder that hangs is ended then, and its file is tried once more."""

OnProgress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class IngestConfiguration:
    """What is stamped on the store, but for `workers`, which changes nothing in it.

    Args:
        preset: way to render, one of `rendering.PRESETS`.
        size: side of the stored square in pixels.
        text_policy: which sections become sentences, one of `sections.POLICIES`.
        minimum_words: words that a sentence must have; redactions and numbers are not words.
        split_fractions: of patients in training, validation and test; they add up to 1.
        seed: of the split and of the contact sheet's sample.
        workers: processes that convert.
    """

    preset: str = "voi"
    size: int = 512
    text_policy: str = "findings+impression"
    minimum_words: int = 1
    split_fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    seed: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        """Raises InputError for a value that cannot be used."""
        wrong = {
            f"preset is {self.preset!r}; choose one of {', '.join(PRESETS)}": self.preset not in PRESETS,
            f"text policy is {self.text_policy!r}; choose one of {', '.join(POLICIES)}": self.text_policy
            not in POLICIES,
            f"size is {self.size}; choose 16 to 8192 pixels": not 16 <= self.size <= 8192,
            f"workers is {self.workers}; choose at least 1": self.workers < 1,
            f"minimum words is {self.minimum_words}; choose at least 1": self.minimum_words < 1,
            f"split fractions are {self.split_fractions}; choose three that add up to 1": (
                len(self.split_fractions) != 3
                or min(self.split_fractions) < 0
                or abs(sum(self.split_fractions) - 1) > 1e-9
            ),
        }
        for message, holds in wrong.items():
            if holds:
                raise InputError(message)

    def stamp(self) -> dict[str, Any]:
        """What two runs into one store must agree on."""
        return {name: value for name, value in asdict(self).items() if name != "workers"}


def ingest(
    source: Path | None,
    store: Path,
    *,
    reports: Path | None = None,
    manifest: Path | None = None,
    labels: Path | None = None,
    configuration: IngestConfiguration | None = None,
    private: Path | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> IngestSummary:
    """Fill a store. Every run converts everything again, and what is not in the sources any more leaves the store.

    Args:
        source: folder of DICOM files, searched in depth, or one file; `None` where the manifest is all.
        store: folder to make, or a store of the same sources and configuration to make again.
        reports: folder of `.txt` files or table (see `report_sources.read_reports`).
        manifest: table of PNG and JPEG images (see `manifest.read_manifest`).
        labels: table of labels (see `label_table.read_label_table`).
        configuration: the defaults where `None`.
        private: folder for key and side table; `<store>.private` where `None`.
        on_progress: called with files done and files in all.

    Raises:
        InputError: the request cannot be carried out, the store cannot be written, or not one image could be used;
            nothing new is left behind.
    """
    started = time.monotonic()
    configuration = configuration or IngestConfiguration()
    private = private or private_folder_of(store)
    rows = read_manifest(manifest) if manifest else []
    _check_official_splits(rows)
    label_table = _read_labels(labels) if labels else None
    others = [path for path in (reports, manifest, labels, store, private) if path]
    images = find_images(source, [*others, *(row.path for row in rows)]) if source else []
    images += manifest_images(rows)
    if not images:
        raise InputError(f"{manifest or store}: no image is named; give a folder of DICOM files or a manifest")
    records = [read_reports(reports, [image.path for image in images])] if reports else []
    with open_store(store, private, configuration.stamp(), [source, manifest]) as opened:
        converted = _convert_all(opened, images, configuration, on_progress)
        taken, left_out = _sort_out(converted)
        if not taken:
            raise InputError(_nothing_usable(source or manifest or store, left_out))
        index = StudyIndex(taken, left_out)
        paired = pair_reports(
            (record for part in (*records, _manifest_reports(rows, manifest)) for record in part),
            index,
            policy=configuration.text_policy,
            minimum_words=configuration.minimum_words,
        )
        label_rows, unmatched = _labels_by_study(label_table, labels, index)
        tables = _tables(opened, taken, left_out, paired, label_rows, configuration)
        summary = _summary(opened, tables, len(images), len(taken), paired, len(label_rows), unmatched)
        return write_store(opened, tables, summary, seed=configuration.seed, started=started)


def private_folder_of(store: Path) -> Path:
    """`<store>.private` beside the store.

    Raises:
        InputError: when there is no beside.
    """
    if store.name in ("", ".."):  # "." or "a/..": known by their places only
        store = Path(os.path.realpath(store))
    if not store.name:
        raise InputError(f"{store}: is no place for a store; name a folder in it")
    return store.with_name(store.name + ".private")


def _read_labels(path: Path) -> pl.DataFrame:
    table = read_label_table(path)
    taken = sorted(set(table.columns[1:]) & set(STUDY_SCHEMA))
    if taken:
        raise InputError(f"{path}: a label cannot be named {taken[0]!r}, as the studies table has that; rename it")
    return table


def _check_official_splits(rows: Iterable[ManifestRow]) -> None:
    official: dict[str, set[str]] = {}
    for row in rows:
        if row.split:
            official.setdefault(row.patient, set()).add(row.split)
    assign_splits((), official, 0, (1.0, 0.0, 0.0))  # raises if a patient is torn


def _convert_all(
    opened: OpenStore, images: Sequence[SourceImage], configuration: IngestConfiguration, on_progress: OnProgress
) -> list[Converted]:
    """Outcomes of all files, in the order of the files."""
    settings = ConversionSettings(
        Path(os.path.realpath(opened.path)), opened.key, configuration.preset, configuration.size
    )
    by_origin: dict[str, Converted] = {}
    on_progress(0, len(images))
    results = map_isolated(
        functools.partial(convert, settings), images, workers=configuration.workers, time_limit=TIME_LIMIT
    )
    with contextlib.closing(results):  # an interrupt ends the workers at once
        for image, result in results:
            if isinstance(result, Lost):
                result = Converted(image, result.reason, _LOST[result.reason])
            by_origin[image.origin] = result
            on_progress(len(by_origin), len(images))
    return [by_origin[image.origin] for image in images]


_LOST = {
    "worker_crashed": "the process that converted this file died twice",
    "timed_out": f"the conversion of this file took longer than {TIME_LIMIT:.0f} s, twice",
}


def _sort_out(converted: Iterable[Converted]) -> tuple[list[Converted], list[Converted]]:
    """Divide outcomes into those taken and those left out, once the files are known that contradict each other."""
    taken: list[Converted] = []
    left_out: list[Converted] = []
    by_sop: dict[str, list[Converted]] = {}
    for outcome in converted:
        if outcome.reason:
            left_out.append(outcome)
        else:
            by_sop.setdefault(outcome.sop, []).append(outcome)
    for group in by_sop.values():
        if len(group) > 1 and len({_digest(outcome.source.path) for outcome in group}) > 1:
            detail = "another file has the same SOP Instance UID and other content; neither was taken"
            left_out += [replace(outcome, reason="duplicate_uid", detail=detail) for outcome in group]
        elif len({(outcome.study, outcome.patient) for outcome in group}) > 1:
            detail = "the manifest gives this image to several studies or patients; it was taken for none"
            left_out += [replace(outcome, reason="image_of_two_studies", detail=detail) for outcome in group]
        else:
            taken.append(group[0])
            detail = "the same file, byte for byte, is in the store already"
            left_out += [replace(outcome, reason="duplicate", detail=detail) for outcome in group[1:]]
    return _without_torn_studies(taken, left_out)


def _without_torn_studies(
    taken: Sequence[Converted], left_out: list[Converted]
) -> tuple[list[Converted], list[Converted]]:
    """Leave out studies that name two patients: whose they are cannot be told, and a split could be torn by them.

    Where some images of a study name a patient and others none, those without are left out.
    """
    patients: dict[str, set[str]] = {}
    for outcome in taken:
        if not outcome.is_nameless:
            patients.setdefault(outcome.study, set()).add(outcome.patient)
    kept: list[Converted] = []
    left_out = list(left_out)
    for outcome in taken:
        named = len(patients.get(outcome.study, ()))
        if outcome.is_nameless and named:
            detail = "it has no patient id, and other images of its study have one"
            left_out.append(replace(outcome, reason="patient_id_missing_in_part", detail=detail))
        elif named > 1:
            detail = "images of its study name different patients"
            left_out.append(replace(outcome, reason="study_of_two_patients", detail=detail))
        else:
            kept.append(outcome)
    return kept, left_out


def _digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:  # gone since it was converted: not known to be the same
        return hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).digest()


def _nothing_usable(path: Path, left_out: Sequence[Converted]) -> str:
    counted = outcomes(len(left_out), 0, (outcome.reason for outcome in left_out)).reasons
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counted.items(), key=lambda item: -item[1]))
    return f"{path}: none of {len(left_out)} files is a usable chest radiograph ({reasons}); check the folder"


def _manifest_reports(rows: Iterable[ManifestRow], manifest: Path | None) -> Iterator[ReportRecord | RejectedReport]:
    for row in rows:
        origin = f"manifest row {row.number}"
        if row.report and manifest is not None:
            yield read_report_file(manifest.parent / row.report, row.study, f"{origin}: {row.report}")
        elif row.text:
            yield ReportRecord(row.study, row.text, origin)


def _labels_by_study(table: pl.DataFrame | None, path: Path | None, index: StudyIndex) -> tuple[pl.DataFrame, int]:
    """The label table with pseudonyms for studies, and the number of its rows that found none."""
    if table is None:
        return pl.DataFrame(schema={"study": pl.String}), 0
    found = [index.find_or_none(key) for key in table["study"]]
    matched = table.with_columns(pl.Series("study", found, dtype=pl.String)).drop_nulls("study")
    if matched.is_empty():
        raise InputError(f"{path}: not one of its {len(table)} studies is among the images; check the column `study`")
    if matched["study"].is_duplicated().any():
        raise InputError(f"{path}: names a study both by its id and by its accession number; keep one row")
    return matched, len(table) - len(matched)


def _tables(
    opened: OpenStore,
    taken: Sequence[Converted],
    left_out: Sequence[Converted],
    paired: PairedReports,
    label_rows: pl.DataFrame,
    configuration: IngestConfiguration,
) -> StoreTables:
    key = opened.key
    image_rows = [row for outcome in taken for row in outcome.rows]
    images = pl.DataFrame(image_rows, schema=IMAGE_SCHEMA).sort("study", "image")
    studies = _study_table(images, taken, paired, configuration).join(label_rows, on="study", how="left").sort("study")
    named = {outcome.source.origin: pseudonym(key, "file", outcome.source.origin) for outcome in (*taken, *left_out)}
    reports = {origin: pseudonym(key, "report", origin) for origin, _, _ in paired.rejects}
    rejects = [(named[o.source.origin], "image", o.reason, o.detail) for o in left_out]
    rejects += [(reports[origin], "report", reason, detail) for origin, reason, detail in paired.rejects]
    names = [name for outcome in taken for name in outcome.names]
    names += [(name, "file", origin) for origin, name in named.items()]
    names += [(name, "report", origin) for origin, name in reports.items()]
    return StoreTables(
        images=images,
        studies=studies,
        rejects=pl.DataFrame(sorted(rejects, key=lambda r: (r[1], r[0])), schema=REJECT_SCHEMA, orient="row"),
        labels=tuple(label_rows.columns[1:]),
        names=names,
    )


def _study_table(
    images: pl.DataFrame, taken: Sequence[Converted], paired: PairedReports, configuration: IngestConfiguration
) -> pl.DataFrame:
    official: dict[str, set[str]] = {}
    for outcome in taken:
        if outcome.source.row is not None and outcome.source.row.split:
            official.setdefault(outcome.rows[0]["patient"], set()).add(outcome.source.row.split)
    grouped = images.group_by("study", "patient").len().sort("study")
    splits = assign_splits(grouped["patient"], official, configuration.seed, configuration.split_fractions)
    rows = []
    for study, patient, count in grouped.iter_rows():
        text = paired.texts.get(study, StudyText())
        report = (text.status, text.reason, list(text.flags), list(text.sections), list(text.sentences))
        rows.append((study, patient, splits[patient], count, *report))
    return pl.DataFrame(rows, schema=STUDY_SCHEMA, orient="row")


def _summary(
    opened: OpenStore,
    tables: StoreTables,
    seen: int,
    accepted: int,
    paired: PairedReports,
    matched: int,
    unmatched: int,
) -> IngestSummary:
    images, studies, rejects = tables.images, tables.studies, tables.rejects
    image_reasons = rejects.filter(pl.col("kind") == "image")["reason"].to_list()
    report_reasons = [reason for _, reason, _ in paired.rejects]
    return IngestSummary(
        store=opened.path,
        private=opened.private,
        files=outcomes(seen, accepted, image_reasons),
        reports=outcomes(paired.seen, paired.paired, report_reasons),
        images=len(images),
        studies=len(studies),
        patients=studies["patient"].n_unique(),
        views=counts_of(images["view"]),
        modalities=counts_of(images["modality"]),
        transfer_syntaxes=counts_of(images["transfer_syntax"]),
        vois=counts_of(images["voi"]),
        flags=counts_of(images["flags"].explode().drop_nulls()),
        splits=counts_of(studies["split"]),
        report_status=counts_of(studies["report_status"]),
        sentences=int(studies["sentences"].list.len().sum()),
        labels_matched=matched,
        labels_unmatched=unmatched,
        seconds=0.0,
    )
