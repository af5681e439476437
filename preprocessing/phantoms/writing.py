"""Writes phantoms: streaming over a pool of processes, and the truth tables beside the files (see `phantoms`)."""

import csv
import io
import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TextIO

import cv2

from preprocessing.errors import InputError
from preprocessing.files import write_atomically
from preprocessing.phantoms.difficulty import LABELS, Difficulty
from preprocessing.phantoms.study import PhantomStudy, make_study

_FORMAT = 1
_CHUNK = 4  # studies a worker takes at a time
_TABLES = {
    "labels.csv": ["study", *LABELS],
    "truth/labels.csv": ["study", *LABELS],
    "truth/findings.csv": [
        *("study", "image", "label", "kind", "side", "zone", "size", "grade", "drawn", "certain"),
        *("row0", "col0", "row1", "col1"),
    ],
    "truth/studies.csv": ["study", "accession", "patient", "image", "view", "lateral", "report", "edema_severity"],
    "truth/sentences.jsonl": [],
}
"""Tables, relative to the output, and their columns; none for lines of JSON."""


@dataclass(frozen=True)
class PhantomSummary:
    """Numbers of studies, images and patients written, and of studies in which each label is certainly there."""

    studies: int
    images: int
    patients: int
    positives: dict[str, int]


@dataclass(frozen=True)
class _Lines:
    """What one study adds to the tables, and to the counts."""

    tables: dict[str, str]
    images: int
    patient: int
    positives: tuple[str, ...]


def write_phantoms(
    out: Path,
    *,
    studies: int,
    size: int,
    seed: int,
    difficulty: Difficulty,
    workers: int = 1,
    on_progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> PhantomSummary:
    """Write synthetic studies and their truth; memory does not grow with their number.

    The files are the same, byte for byte, for the same studies, size, seed, difficulty and versions, whatever the
    number of workers. A folder that already holds this very configuration is completed, all files being made again.

    Args:
        out: folder, made when missing.
        studies: how many; the first ones are the same whatever the number.
        size: long side of the pictures, pixels, at least 64.
        seed: of everything, not negative.
        difficulty: see `Difficulty`; named levels in `DIFFICULTIES`.
        workers: processes.
        on_progress: called with (studies done, studies).

    Raises:
        InputError: an argument out of range, or `out` holds something else.
    """
    _check(studies, size, seed, workers)
    configuration = {"studies": studies, "size": size, "seed": seed, "difficulty": asdict(difficulty)}
    _claim(out, configuration)
    images, patients, positives = 0, 0, dict.fromkeys(LABELS, 0)
    with ExitStack() as stack:
        tables = {name: _open_table(stack, out / name, columns) for name, columns in _TABLES.items()}
        for done, lines in enumerate(_written(out, studies, size, seed, difficulty, workers), 1):
            for name, text in lines.tables.items():
                tables[name].write(text)
            images += lines.images
            patients = max(patients, lines.patient + 1)
            for label in lines.positives:
                positives[label] += 1
            on_progress(done, studies)
    for name in _TABLES:
        (out / f"{name}.partial").replace(out / name)
    summary = PhantomSummary(studies, images, patients, positives)
    write_atomically(out / "phantoms.json", _record(configuration, summary))
    return summary


def _check(studies: int, size: int, seed: int, workers: int) -> None:
    for name, value, least in (("studies", studies, 1), ("size", size, 64), ("seed", seed, 0), ("workers", workers, 1)):
        if value < least:
            raise InputError(f"{name} is {value}; give {least} or more")


def _claim(out: Path, configuration: dict[str, Any]) -> None:
    """Make the folder ours, or refuse one that holds something else."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give the path of a new folder for the phantoms")
    record = out / "phantoms.json"
    if out.is_dir() and any(out.iterdir()):
        try:
            held = json.loads(record.read_bytes())
            same = held["format"] == _FORMAT and held["configuration"] == configuration
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{out} is not empty and holds no phantoms; give the path of a new folder") from None
        if not same:
            raise InputError(f"{out} holds phantoms of another configuration (phantoms.json); give a new folder")
    for folder in ("dicom", "reports", "truth"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    write_atomically(record, _record(configuration, None))


def _record(configuration: dict[str, Any], summary: PhantomSummary | None) -> bytes:
    packages = ("cxr-local-mi", "numpy", "opencv-python-headless", "pydicom", "imagecodecs")
    record = {
        "format": _FORMAT,
        "configuration": configuration,
        "label_names": LABELS,
        "versions": {name: _version(name) for name in packages},
        "complete": summary is not None,
        "counts": asdict(summary) if summary else None,
    }
    return (json.dumps(record, indent=2) + "\n").encode()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout that is not installed
        return None


def _open_table(stack: ExitStack, path: Path, columns: list[str]) -> TextIO:
    table = stack.enter_context(path.with_name(f"{path.name}.partial").open("w", encoding="utf-8", newline=""))
    if columns:
        table.write(_csv_line(columns))
    return table


def _written(out: Path, studies: int, size: int, seed: int, difficulty: Difficulty, workers: int) -> Iterator[_Lines]:
    """Write study after study and yield their lines in order; never more than a few chunks are under way."""
    if workers == 1:
        for index in range(studies):
            yield _write_study(out, seed, index, size, difficulty)
        return
    chunks = (range(start, min(start + _CHUNK, studies)) for start in range(0, studies, _CHUNK))
    # Not forked: OpenCV's threads do not survive it.
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        waiting: deque[Future[list[_Lines]]] = deque()
        for chunk in chunks:
            waiting.append(pool.submit(_write_chunk, out, seed, chunk, size, difficulty))
            if len(waiting) >= 3 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _write_chunk(out: Path, seed: int, indices: range, size: int, difficulty: Difficulty) -> list[_Lines]:
    return [_write_study(out, seed, index, size, difficulty) for index in indices]


def _write_study(out: Path, seed: int, index: int, size: int, difficulty: Difficulty) -> _Lines:
    study = make_study(seed, index, size, difficulty)
    identifiers = study.plan.identifiers
    folder = out / "dicom" / identifiers["PatientID"] / identifiers["StudyInstanceUID"]
    folder.mkdir(parents=True, exist_ok=True)
    for image, content in study.files:
        write_atomically(folder / f"{image}.dcm", content)
    by_accession = study.plan.stream("report name").random() < 0.2
    name = identifiers["AccessionNumber" if by_accession else "StudyInstanceUID"] + ".txt"
    write_atomically(out / "reports" / name, study.report.text.encode())
    positives = tuple(label for label, value in study.truth.items() if value == 1)
    return _Lines(_table_lines(study, name), len(study.files), study.plan.patient, positives)


def _table_lines(study: PhantomStudy, report: str) -> dict[str, str]:
    plan, frontal = study.plan, study.files[0][0]
    uid = plan.identifiers["StudyInstanceUID"]
    edema = max((f.grade for f in plan.findings if f.label == "Edema" and f.drawn), default=0)
    lateral = study.files[1][0] if len(study.files) > 1 else ""
    patient, accession = plan.identifiers["PatientID"], plan.identifiers["AccessionNumber"]
    findings = [
        [
            uid,
            frontal,
            f.label,
            f.kind,
            f.side,
            f.zone,
            f.size,
            f.grade or "",
            int(f.drawn),
            int(f.certain),
            *(box or [""] * 4),
        ]
        for f, box in zip(plan.findings, study.boxes, strict=True)
    ]
    sentences = [
        {
            "study": uid,
            "image": frontal,
            "section": s.section,
            "sentence": s.text,
            "finding": "|".join(s.labels) or None,
            "status": s.status,
            "box": s.box,
        }
        for s in study.report.statements
    ]
    return {
        "labels.csv": _csv_line([uid, *study.labels.values()]),
        "truth/labels.csv": _csv_line([uid, *study.truth.values()]),
        "truth/findings.csv": "".join(map(_csv_line, findings)),
        "truth/studies.csv": _csv_line([uid, accession, patient, frontal, plan.pose.view, lateral, report, edema]),
        "truth/sentences.jsonl": "".join(json.dumps(s, ensure_ascii=False) + "\n" for s in sentences),
    }


def _csv_line(values: list[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue()
