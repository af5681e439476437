"""The batch: radiographs and reports to a store with a MONAI datalist.

Discover, convert what is new in a pool of processes or on a cluster, find contradictions, pair reports and labels,
split by patient, write. Arrays are written by the workers and outcomes into the ledger as they come, so that memory
does not grow with pixels and a run that is killed goes on where it was.
"""

import contextlib
import functools
import hashlib
import itertools
import os.path
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from preprocessing.configuration import IngestConfiguration
from preprocessing.consistency import content_digest, without_contradictions
from preprocessing.conversion import ConversionSettings, Converted, array_file, convert
from preprocessing.datasets import FOLDER, Dataset, LeftOut, has_own_reports, read_dataset
from preprocessing.errors import InputError
from preprocessing.identity import fingerprint, pseudonym
from preprocessing.ingest_summary import IngestSummary, counts_of, outcomes
from preprocessing.label_table import read_label_table
from preprocessing.labels import label_names
from preprocessing.ledger import Ledger, open_ledger
from preprocessing.manifest import ManifestRow, read_manifest
from preprocessing.pairing import PairedReports, StudyIndex, pair_reports
from preprocessing.pool import Lost, map_isolated
from preprocessing.rejects import files_left_out, reject_originals, reject_table
from preprocessing.report_pairs import read_pairs
from preprocessing.report_sources import (
    RejectedReport,
    ReportRecord,
    apart_from_reports,
    overlap,
    read_report_file,
    read_reports,
)
from preprocessing.report_tables import ReportsRead
from preprocessing.sources import SourceImage, find_images, manifest_images
from preprocessing.splits import assign_splits
from preprocessing.store import LEDGER, STUDY_SCHEMA, OpenStore, open_store, stored_arrays
from preprocessing.store_files import StoreTables, tool_versions, write_store
from preprocessing.study_table import study_table

TIME_LIMIT = 120.0
"""Seconds that one file may take; a decoder that hangs is ended then, and its file is tried once more."""

OnProgress = Callable[[int, int | None], None]


def ingest(
    source: Path | None,
    store: Path,
    *,
    reports: Path | None = None,
    manifest: Path | None = None,
    labels: Path | None = None,
    pairs: Path | None = None,
    configuration: IngestConfiguration | None = None,
    private: Path | None = None,
    key: Path | None = None,
    identities: bool = True,
    on_progress: OnProgress = lambda done, total: None,
) -> IngestSummary:
    """Fill a store. Only files that are new or changed are converted; what is not in the sources any more leaves it.

    Args:
        source: folder, file, ZIP, DICOMDIR or list (see `sources.find_images`); `None` where the manifest is all; the
            folder of the data set where the configuration names a public one (see `datasets.read_dataset`).
        store: folder to make, or a store of the same sources and configuration to bring up to date.
        reports: folder, file or table (see `report_sources.read_reports`); the folder may be the source, hold it or
            lie in it.
        manifest: table of PNG and JPEG images (see `manifest.read_manifest`).
        labels: table of labels (see `label_table.read_label_table`), in place of those of the data set.
        pairs: table that says which report is of which study (see `report_pairs.read_pairs`).
        configuration: the defaults where `None`.
        private: folder for ledger, side table and key; `<store>.private` where `None`.
        key: file of the key, where it is not in the private folder.
        identities: whether the way back from pseudonyms is kept in the private folder.
        on_progress: called with files done and files to do; with `None` while files are still being found.

    Raises:
        InputError: the request cannot be carried out, the store cannot be written, or not one image could be used.
            What was converted is kept; a store for which nothing was is removed.
    """
    started = time.monotonic()
    configuration = configuration or IngestConfiguration()
    report_rules = configuration.report_rules()
    _check_label_names(label_names(report_rules.pack), configuration.rules)
    private = private or private_folder_of(store)
    dataset = _listed(configuration.dataset, source, manifest, reports, [store, private])
    rows = dataset.rows
    _check_official_splits(rows)
    label_table = _checked_labels(read_label_table(labels) if labels else dataset.labels, labels or source)
    pair_table = read_pairs(pairs) if pairs else None
    others = [path for path in (manifest, labels, pairs, store, private, key) if path]
    among = source if configuration.dataset == FOLDER and overlap(source, reports) else None
    image_places = [*([source] if source and among is None else []), *(row.path for row in rows)]
    if has_own_reports(configuration.dataset, reports):
        reports = None
    records = read_reports(reports, [*image_places, *others], among=among) if reports else ()
    others += [reports] if reports and among is None else []
    with (
        open_store(store, private, configuration.stamp(), [source, manifest], key) as opened,
        open_ledger(private / LEDGER, opened.identity, tool_versions(), identities=identities) as ledger,
    ):
        searched = source if configuration.dataset == FOLDER else None
        found = find_images(searched, [*others, *(row.path for row in rows)]) if searched else ()
        found = apart_from_reports(found, reports) if among and reports else found
        seen = ledger.see(_counted(itertools.chain(found, manifest_images(rows)), on_progress), opened.key)
        if not seen:
            raise InputError(f"{manifest or store}: no image is named; give a folder of DICOM files or a manifest")
        settings = _settings(opened, configuration)
        convert_all = functools.partial(
            _convert_outstanding, ledger, settings, {row.number: row for row in rows}, configuration, on_progress
        )
        files, converted = _convert_new(opened, ledger, convert_all)
        left_out = files_left_out(dataset.left_out, opened.key)
        files, seen = pl.concat([files, left_out]), seen + len(left_out)
        if files.filter(pl.col("reason") == "").is_empty():
            raise InputError(_nothing_usable(source or manifest or store, files))
        index = StudyIndex(files, opened.key)
        reading = ReportsRead(report_rules)
        paired = pair_reports(
            (record for part in (records, _manifest_reports(rows, dataset.base)) for record in part),
            index,
            reading.read,
            pair_table,
        )
        paired.leave_out((one.origin, one.reason, one.detail) for one in dataset.left_out if one.kind == "report")
        label_rows, unmatched = _labels_by_study(label_table, labels or source, index)
        tables = _tables(opened, ledger, files, paired, reading, label_rows, dataset.left_out, configuration)
        summary = _summary(opened, tables, files, seen, converted, paired, reading, len(label_rows), unmatched)
        return write_store(opened, ledger, tables, summary, seed=configuration.seed, started=started)


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


def _listed(
    name: str, source: Path | None, manifest: Path | None, reports: Path | None, excluded: Iterable[Path]
) -> Dataset:
    """Images that a manifest or a data set lists; none where the source is a folder to be searched."""
    if name == FOLDER:
        return Dataset(read_manifest(manifest), manifest.parent) if manifest else Dataset([])
    if source is None or manifest is not None:
        raise InputError(f"data set {name}: name the folder that holds it, and no manifest")
    return read_dataset(name, source, reports, excluded)


def _checked_labels(table: pl.DataFrame | None, path: Path | None) -> pl.DataFrame | None:
    if table is not None:
        _check_label_names(table.columns[1:], path)
    return table


def _check_label_names(names: Iterable[str], path: Path | None) -> None:
    taken = sorted(set(names) & set(STUDY_SCHEMA))
    if taken:
        raise InputError(f"{path}: a label cannot be named {taken[0]!r}, as the studies table has that; rename it")


def _check_official_splits(rows: Iterable[ManifestRow]) -> None:
    official: dict[str, set[str]] = {}
    for row in rows:
        if row.split:
            official.setdefault(row.patient, set()).add(row.split)
    assign_splits((), official, 0, (1.0, 0.0, 0.0))  # raises if a patient is torn


def _counted(images: Iterable[SourceImage], on_progress: OnProgress) -> Iterator[SourceImage]:
    for count, image in enumerate(images, 1):
        if count % 1000 == 0:
            on_progress(count, None)
        yield image


def _convert_new(opened: OpenStore, ledger: Ledger, convert_all: Callable[[], int]) -> tuple[pl.DataFrame, int]:
    """Convert what has no outcome yet, and what ceased to contradict others; return all outcomes, and how many are new.

    Arrays of files that contradict others are not kept, so that those files have to be converted again. `convert_all`
    converts all files without an outcome and returns their number.
    """
    arrays, place = stored_arrays(opened.path), fingerprint(opened.key, "place", [opened.path])
    named = {array_file(path) for path in arrays}
    if not ledger.is_of_place(place):
        # Another store's arrays, or older ones than the ledger's, may have these names.
        arrays = {
            path for path, digest in ledger.hashes() if path in arrays and _has_digest(opened.path / path, digest)
        }
    lacking, outdated = ledger.without_arrays(arrays), ledger.outdated()
    converted = 0
    while True:
        ledger.forget(outdated)
        lacking -= outdated
        if any(file in named for file in ledger.outstanding_files()):
            # Arrays that the datalist names are about to change: the store ceases to be complete.
            (opened.path / "run.json").unlink(missing_ok=True)
        converted += convert_all()
        files = without_contradictions(ledger.files(), functools.partial(content_digest, ledger))
        outdated = lacking.intersection(files.filter(pl.col("reason") == "")["file"])
        if not outdated:
            ledger.keep_place(place)
            return files, converted


def _has_digest(path: Path, digest: str) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == digest
    except OSError:
        return False


def _settings(opened: OpenStore, configuration: IngestConfiguration) -> ConversionSettings:
    return ConversionSettings(
        Path(os.path.realpath(opened.path)),
        opened.key,
        configuration.preparation,
        configuration.selection,
        configuration.image_format,
    )


def _convert_outstanding(
    ledger: Ledger,
    settings: ConversionSettings,
    rows: Mapping[int, ManifestRow],
    configuration: IngestConfiguration,
    on_progress: OnProgress,
) -> int:
    """Convert the files that have no outcome; return their number."""
    total, done = ledger.count_outstanding(), 0
    on_progress(0, total)
    results = _mapped(settings, ledger.outstanding(rows), configuration)
    with contextlib.closing(results):  # an interrupt ends the workers at once
        for done, (image, result) in enumerate(results, 1):
            if isinstance(result, Lost):
                file = pseudonym(settings.key, "file", image.origin)
                result = Converted(file, result.reason, _LOST[result.reason])
            ledger.record(image, result)
            on_progress(done, total)
    ledger.commit()
    return done


def _mapped(
    settings: ConversionSettings, images: Iterable[SourceImage], configuration: IngestConfiguration
) -> Generator[tuple[SourceImage, Converted | Lost]]:
    function = functools.partial(convert, settings)
    if not configuration.scheduler:
        return map_isolated(function, images, workers=configuration.workers, time_limit=TIME_LIMIT)
    from preprocessing.cluster import map_on_dask

    return map_on_dask(
        function, images, scheduler=configuration.scheduler, time_limit=TIME_LIMIT, shared=settings.store
    )


_LOST = {
    "worker_crashed": "the process that converted this file died twice",
    "timed_out": f"the conversion of this file took longer than {TIME_LIMIT:.0f} s, twice",
}


def _nothing_usable(path: Path, files: pl.DataFrame) -> str:
    counted = outcomes(len(files), 0, files["reason"]).reasons
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counted.items(), key=lambda item: -item[1]))
    return f"{path}: none of {len(files)} files is a usable chest radiograph ({reasons}); check the folder"


def _manifest_reports(rows: Iterable[ManifestRow], base: Path) -> Iterator[ReportRecord | RejectedReport]:
    for row in rows:
        origin = f"manifest row {row.number}"
        if row.report:
            yield read_report_file(base / row.report, row.study, f"{origin}: {row.report}")
        elif row.text:
            yield ReportRecord((row.study,), row.text, origin)


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
    ledger: Ledger,
    files: pl.DataFrame,
    paired: PairedReports,
    reading: ReportsRead,
    label_rows: pl.DataFrame,
    left_out: Sequence[LeftOut],
    configuration: IngestConfiguration,
) -> StoreTables:
    """The tables; where no labels were given, those of the reports are the studies'."""
    report_labels = reading.labels(paired.taken)
    if label_rows.width == 1:
        label_rows = report_labels.drop("edema_severity") if len(report_labels) else label_rows
    taken = files.filter(pl.col("reason") == "")
    images = ledger.images().join(taken.select("file"), on="file", how="semi").sort("study", "image")
    studies = study_table(images, taken, paired.texts, configuration.seed, configuration.split_fractions)
    return StoreTables(
        images=images,
        studies=studies.join(label_rows, on="study", how="left").sort("study"),
        rejects=reject_table(files, paired.rejects, left_out, opened.key),
        labels=tuple(label_rows.columns[1:]),
        report_labels=report_labels,
        report_evidence=reading.evidence(paired.taken),
        reports=reject_originals(paired.rejects, left_out, opened.key),
    )


def _summary(
    opened: OpenStore,
    tables: StoreTables,
    files: pl.DataFrame,
    seen: int,
    converted: int,
    paired: PairedReports,
    reading: ReportsRead,
    matched: int,
    unmatched: int,
) -> IngestSummary:
    images, studies = tables.images, tables.studies
    headings, other_headings = reading.unmapped_headings()
    left_out = files.filter(pl.col("reason") != "")
    return IngestSummary(
        store=opened.path,
        private=opened.private,
        files=outcomes(seen, len(files) - len(left_out), left_out["reason"]),
        reports=outcomes(paired.seen, paired.paired, (reason for _, reason, _ in paired.rejects)),
        images=len(images),
        studies=len(studies),
        patients=studies["patient"].n_unique(),
        views=counts_of(images["view"]),
        modalities=counts_of(images["modality"]),
        transfer_syntaxes=counts_of(images["transfer_syntax"]),
        decoders=counts_of(images["decoder"]),
        presets=counts_of(images["preset"]),
        vois=counts_of(images["voi"]),
        original_sizes=counts_of(images.select(pl.format("{}x{}", "rows", "columns")).to_series()),
        flags=counts_of(images["flags"].explode().drop_nulls()),
        splits=counts_of(studies["split"]),
        report_status=counts_of(studies["report_status"]),
        sentences=int(studies["sentences"].list.len().sum()),
        labels_matched=matched,
        labels_unmatched=unmatched,
        labels={name: counts_of(studies[name].drop_nulls().cast(pl.String)) for name in tables.labels},
        label_rules=reading.version,
        edema_severity=counts_of(studies["edema_severity"].drop_nulls().cast(pl.String)),
        identifiers=reading.identifiers(paired.taken),
        unmapped_headings=headings,
        other_unmapped_headings=other_headings,
        converted=converted,
        seconds=0.0,
    )
