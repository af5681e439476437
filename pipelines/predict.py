"""Batch prediction: radiographs in, a table of calibrated probabilities out, with maps and DICOM results if wanted.

Files are read and decoded by processes of their own, the network runs in a thread, and outcomes are recorded by the
main thread, so that the slowest of the three sets the pace. A run that was stopped goes on; one that is done again
reads only what is new.
"""

import hashlib
import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from local_mi.datalist import SPLITS, checked_items, read_datalist
from local_mi.files import write_json
from local_mi.start import versions

from pipelines.classifier import Classifier
from pipelines.notice import NOTICE
from pipelines.prediction_ledger import Wanted, open_prediction_ledger
from pipelines.prediction_maps import evidence_of
from pipelines.prediction_reading import ReadFile, ReadingSettings, read_file
from pipelines.prediction_results import PredictedFrame, results_writer
from pipelines.prediction_store import check_prepared
from pipelines.prediction_tables import CSV, PARQUET, UNFINISHED, check_label_names, write_tables
from preprocessing.errors import InputError
from preprocessing.files import sweep_temporaries
from preprocessing.manifest import ManifestRow, read_manifest
from preprocessing.pool import Lost, map_isolated
from preprocessing.selection import SelectionPolicy
from preprocessing.sources import SourceImage, find_images, manifest_images
from preprocessing.store import locked
from preprocessing.tables import is_table

AHEAD = 2  # batches that may wait for the network
TIME_LIMIT = 600.0
"""Seconds that a worker may take for one file."""

_LOST = {
    "worker_crashed": "the process that read this file died twice",
    "timed_out": f"reading this file took longer than {TIME_LIMIT:.0f} s, twice",
}

OnProgress = Callable[[int, int | None], None]
Read = tuple[SourceImage, ReadFile]


@dataclass(frozen=True)
class PredictionOptions:
    """How a prediction is done.

    Args:
        selection: which images are taken.
        wanted: what is to be there beside the table.
        workers: processes that read.
        batch_size: images that the network sees at a time.
    """

    selection: SelectionPolicy = field(default_factory=SelectionPolicy)
    wanted: Wanted = field(default_factory=Wanted)
    workers: int = 2
    batch_size: int = 16


@dataclass(frozen=True)
class PredictionSummary:
    """What became of the files of a source.

    Args:
        folder: with the tables.
        counts: files by reason; blank for those that were predicted. Of all runs.
        done: files that were read in this run.
        seconds: wall time of this run.
    """

    folder: Path
    counts: dict[str, int]
    done: int
    seconds: float

    def lines(self) -> list[str]:
        """For people."""
        predicted, files = self.counts.get("", 0), sum(self.counts.values())
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.counts.items() if reason)
        left_out = f"; left out: {reasons}" if reasons else ""
        return [
            f"{files} files, {predicted} predicted{left_out}",
            f"{self.done} files read now, in {self.seconds:.0f} s",
            f"table: {self.folder / CSV}",
        ]


def predict(
    source: Path,
    folder: Path,
    classifier: Classifier,
    options: PredictionOptions,
    on_progress: OnProgress = lambda done, total: None,
) -> PredictionSummary:
    """Predict every image of a source; only files that are new or changed are read.

    Args:
        source: folder, file, ZIP, DICOMDIR or list (`sources.find_images`), table (`manifest.read_manifest`), or a
            store of the classifier's preset.
        folder: for `predictions.parquet`, `predictions.csv`, `run.json` and the results; made if needed.
        classifier: what predicts.
        options: how.
        on_progress: called with files done and files to do.

    Raises:
        InputError: the source cannot be used, the folder is of another source or model, or another job's.
        OSError: the results cannot be written; what was predicted is kept.
    """
    started, began = time.monotonic(), datetime.now(UTC)
    check_label_names(classifier.label_names)
    if source.exists() and folder.exists() and source.samefile(folder):
        raise InputError(f"{folder} is the source itself; name another folder for the predictions")
    find = _finder(source, folder, classifier)
    find()  # what is wrong with the source is said before anything is written
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # as private as the images
    program = version("cxr-local-mi")
    with (
        locked(folder, "folder of predictions"),
        open_prediction_ledger(folder, _stamp(source, classifier, options), program) as ledger,
    ):
        sweep_temporaries((folder,))
        for leftover in folder.glob(f"{UNFINISHED}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        is_outstanding = partial(ledger.is_outstanding, wanted=options.wanted)
        total, done = sum(map(is_outstanding, find())), 0
        on_progress(0, total)
        results = results_writer(folder, classifier, options.wanted, program)
        predicted = _predicted(filter(is_outstanding, find()), classifier, options)
        with closing(predicted):  # an interrupt ends the workers at once
            for done, (image, read, frames) in enumerate(predicted, 1):
                rows = results(image, read, frames, ledger.result_names(image))
                ledger.record(image, rows[0]["reason"], rows, options.wanted)
                on_progress(done, total)
        ledger.commit()
        if not (ledger.are_tables_current() and (folder / PARQUET).exists() and (folder / CSV).exists()):
            write_tables(folder, classifier, ledger.pages())
            ledger.keep_tables()
        summary = PredictionSummary(folder, ledger.counts(), done, round(time.monotonic() - started, 3))
        write_json(folder / "run.json", _record(summary, classifier, options, began))
    return summary


def _finder(source: Path, folder: Path, classifier: Classifier) -> Callable[[], Iterator[SourceImage]]:
    """What lists the images, time and again; a datalist or table is read once."""
    if (source / "datalist.json").is_file():
        return partial(manifest_images, list(_rows_of_store(source / "datalist.json", classifier)))
    if is_table(source):
        return partial(manifest_images, read_manifest(source))
    return partial(find_images, source, [folder])


def _rows_of_store(datalist: Path, classifier: Classifier) -> Iterator[ManifestRow]:
    """The images of a store, which must have been prepared as those that the classifier was trained on."""
    check_prepared(datalist, classifier.preparation.preset)
    content = read_datalist(str(datalist))
    items = [item for split in SPLITS if content.get(split) for item in checked_items(content, str(datalist), split)]
    for number, item in enumerate(items):
        path = datalist.parent / item["image"]
        view = str(item.get("view", "UNKNOWN"))
        yield ManifestRow(number, item["image"], path, item["study"], item["patient"], view, "", "", "")


def _stamp(source: Path, classifier: Classifier, options: PredictionOptions) -> dict[str, str]:
    place = hashlib.sha256(os.fsencode(os.path.realpath(source))).hexdigest()
    selection = json.dumps(asdict(options.selection), sort_keys=True)
    return {"model": classifier.digest(), "source": place, "selection of images": selection}


def _predicted(
    images: Iterable[SourceImage], classifier: Classifier, options: PredictionOptions
) -> Generator[tuple[SourceImage, ReadFile, list[PredictedFrame]]]:
    """Yield every file with the predictions of its frames; files are read while the network works."""
    settings = ReadingSettings(classifier.preparation, options.selection, classifier.views)
    reading = map_isolated(partial(read_file, settings), images, workers=options.workers, time_limit=TIME_LIMIT)
    waiting: deque[tuple[list[Read], Future[list[list[PredictedFrame]]]]] = deque()
    with closing(reading), ThreadPoolExecutor(1) as network:
        read_files = ((image, _outcome(read)) for image, read in reading)
        while batch := list(islice(read_files, options.batch_size)):
            waiting.append((batch, network.submit(_predict_batch, classifier, options, [read for _, read in batch])))
            if len(waiting) > AHEAD:
                yield from _finished(waiting.popleft())
        while waiting:
            yield from _finished(waiting.popleft())


def _outcome(read: ReadFile | Lost) -> ReadFile:
    return ReadFile(read.reason, _LOST[read.reason]) if isinstance(read, Lost) else read


def _finished(
    waiting: tuple[list[Read], Future[list[list[PredictedFrame]]]],
) -> Iterator[tuple[SourceImage, ReadFile, list[PredictedFrame]]]:
    batch, future = waiting
    for (image, read), frames in zip(batch, future.result(), strict=True):
        yield image, read, frames


def _predict_batch(
    classifier: Classifier, options: PredictionOptions, batch: list[ReadFile]
) -> list[list[PredictedFrame]]:
    """Predictions of each file's frames, `batch_size` frames at a time."""
    prepared = [frame for read in batch for frame in read.frames]
    arrays = [frame.array for frame in prepared]
    chunks = (arrays[start : start + options.batch_size] for start in range(0, len(prepared), options.batch_size))
    try:
        predictions = [prediction for chunk in chunks for prediction in classifier.predict(np.stack(chunk))]
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{classifier.device} has not enough memory for {options.batch_size} images at a time; lower --batch-size"
        ) from error
    explain = options.wanted.maps or options.wanted.dicom
    frames = iter(
        [
            PredictedFrame(one, evidence_of(classifier, frame, one) if explain else ())
            for frame, one in zip(prepared, predictions, strict=True)
        ]
    )
    return [list(islice(frames, len(read.frames))) for read in batch]


def _record(
    summary: PredictionSummary, classifier: Classifier, options: PredictionOptions, began: datetime
) -> dict[str, Any]:
    names = classifier.label_names
    return {
        "notice": NOTICE,
        "started": began.isoformat(timespec="seconds"),
        "seconds": summary.seconds,
        "files_read": summary.done,
        "files": sum(summary.counts.values()),
        "predicted": summary.counts.get("", 0),
        "left_out": {reason: count for reason, count in summary.counts.items() if reason},
        "model_sha256": classifier.sha256,
        "label_names": names,
        "calibrated": classifier.temperatures is not None,
        "thresholds": {name: classifier.calibrated_threshold(label) for label, name in enumerate(names)},
        "image_size": classifier.image_size,
        "views": classifier.views,
        "preparation": asdict(classifier.preparation),
        "selection": asdict(options.selection),
        "device": str(classifier.device),
        "versions": {"cxr-local-mi": version("cxr-local-mi")} | versions(),
    }
