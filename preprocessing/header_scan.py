"""What is in an archive, from its headers alone: kinds of image, and what `ingest` would take or leave out.

The command line's `scan` calls `scan_archive`. A header is read by `plain_headers` from the first bytes of its file,
and by `preprocessing.dicom` from the whole file where it is not plain; facts and selection are those of `ingest`. What
is wrong with pixels only shows when they are decoded: a scan does not find it.
"""

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from pydicom import Dataset
from pydicom._uid_dict import UID_dictionary

from preprocessing.dicom import MAXIMUM_BYTES, ImageFacts, image_facts, parse_dicom
from preprocessing.errors import UnusableFile
from preprocessing.header_facts import PHOTOMETRICS
from preprocessing.plain_elements import MoreNeeded, NotPlain
from preprocessing.plain_headers import plain_header
from preprocessing.pool import Lost, map_isolated
from preprocessing.selection import KNOWN_MODALITIES, MODALITIES, SelectionPolicy, check_selected
from preprocessing.sources import SourceImage, find_images, source_bytes

FIRST_BYTES, MOST_BYTES = 1 << 15, 1 << 22
"""Read of a file: nearly all headers end in the first 32 KB; look-up tables and icons can take megabytes."""

BATCH = 256
"""Files that a worker is given at a time: some 50 ms, next to which the pipe costs nothing."""

TIME_LIMIT = 600.0
"""Seconds that a batch may take, all of its files read whole from a slow disk."""

TAKEN = "taken"
INTENTS = frozenset({"FOR PRESENTATION", "FOR PROCESSING"})

OnProgress = Callable[[int, int | None], None]
Key = tuple[str, str, bool]


@dataclass(frozen=True)
class Scanned:
    """One file of an archive.

    Args:
        reason: why it would be left out; blank if it would be taken.
        facts: None for what cannot be read as DICOM.
        flags: of `check_selected`, for what would be taken.
        is_plain: whether its first bytes were enough.
    """

    reason: str
    facts: ImageFacts | None = None
    flags: tuple[str, ...] = ()
    is_plain: bool = False


@dataclass(frozen=True)
class ScanSummary:
    """Counts of one archive, without identifiers, names or text that could hold them.

    Args:
        files: all that were found.
        taken: files that selection would take.
        whole: files that were read whole because their header is not plain.
        reasons: the other files, by reason.
        tables: for modality, view and so on: value -> (files, of which would be taken), the most frequent first.
    """

    files: int
    taken: int
    whole: int
    reasons: dict[str, int]
    tables: dict[str, dict[str, tuple[int, int]]]


def scan_archive(
    source: Path, policy: SelectionPolicy, *, workers: int = 1, on_progress: OnProgress = lambda done, total: None
) -> ScanSummary:
    """Count what is in an archive; writes nothing.

    Args:
        source: anything that `find_images` takes: a folder, a ZIP archive, a DICOMDIR, a list of files.
        policy: what `ingest` would be told.
        workers: processes.
        on_progress: called with the files done, and their number once it is known.

    Raises:
        InputError: the source is not there, cannot be read or holds no file.
    """
    counts: Counter[Key] = Counter()
    done = 0
    for files, found in _counted(policy, _batches(find_images(source, ())), workers):
        counts += found
        done += files
        on_progress(done, None)
    return _summary(counts)


def _counted(
    policy: SelectionPolicy, batches: Iterable[list[SourceImage]], workers: int
) -> Iterator[tuple[int, Counter[Key]]]:
    """Yield number of files and counts of each batch; of one that was lost, file by file, to lose no more than one."""
    lost: list[list[SourceImage]] = []
    for batch, found in map_isolated(partial(count_batch, policy), batches, workers=workers, time_limit=TIME_LIMIT):
        if not isinstance(found, Lost):
            yield len(batch), found
        elif len(batch) == 1:
            yield 1, Counter({("reason", found.reason, False): 1})
        else:
            lost += ([image] for image in batch)
    if lost:
        yield from _counted(policy, lost, workers)


def count_batch(policy: SelectionPolicy, images: list[SourceImage]) -> Counter[Key]:
    """Scan some files; what a worker does. Counts are by (table, value, whether the file would be taken)."""
    counts: Counter[Key] = Counter()
    for image in images:
        scanned = scan_image(image, policy)
        taken = not scanned.reason
        counts["reason", scanned.reason or TAKEN, taken] += 1
        counts["read whole", "", False] += not scanned.is_plain
        if scanned.facts:
            counts.update((table, value, taken) for table, value in _shown(scanned.facts).items())
    return counts


def scan_image(image: SourceImage, policy: SelectionPolicy) -> Scanned:
    """Read one header and judge it as `ingest` would; never raises for what a file holds."""
    facts: ImageFacts | None = None
    header = None if image.member else read_plain_header(image.path)
    is_plain = header is not None
    try:
        dataset = parse_dicom(source_bytes(image)) if header is None else header
        facts = image_facts(dataset)
        return Scanned("", facts, check_selected(dataset, facts, policy), is_plain)
    except UnusableFile as unusable:
        return Scanned(unusable.reason, facts, (), is_plain)
    except MemoryError:
        return Scanned("out_of_memory")
    except OSError:
        return Scanned("read_error")
    except Exception:  # as in `conversion`: one file does not end the scan of an archive
        return Scanned("unexpected_error", facts, (), is_plain)


def read_plain_header(path: str) -> Dataset | None:
    """Read the header of a file from its first bytes; None if pydicom has to read it, or if there is no such file."""
    try:
        status = os.stat(path)  # noqa: PTH116 -- a Path costs as much as the call
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAXIMUM_BYTES:
            return None
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError):
        return None
    try:
        return _read_plain_header(descriptor, status.st_size)
    except (OSError, NotPlain, MoreNeeded):
        return None
    finally:
        os.close(descriptor)


def _read_plain_header(descriptor: int, size: int) -> Dataset:
    data = os.read(descriptor, FIRST_BYTES)

    def read_at(position: int, count: int) -> bytes:
        if position + count <= len(data):
            return data[position : position + count]
        os.lseek(descriptor, position, os.SEEK_SET)
        return os.read(descriptor, count)

    try:
        return plain_header(data, size, read_at)
    except MoreNeeded:
        if len(data) >= size:
            raise
    data += os.read(descriptor, MOST_BYTES - len(data))
    return plain_header(data, size, read_at)


def _batches(images: Iterator[SourceImage]) -> Iterator[list[SourceImage]]:
    while batch := list(islice(images, BATCH)):
        yield batch


def _shown(facts: ImageFacts) -> dict[str, str]:
    """Return the facts that are counted; header text only where it is one of a closed set, as it may hold anything."""
    return {
        "modality": _known(facts.modality, MODALITIES | KNOWN_MODALITIES),
        "view": facts.view_position,
        "transfer syntax": _syntax(facts.transfer_syntax_uid),
        "photometric": _known(facts.photometric_interpretation, PHOTOMETRICS),
        "presentation intent": _known(facts.presentation_intent or "", INTENTS),
        "burned in": _known(facts.burned_in_annotation, frozenset({"YES", "NO"})),
        "frames": str(facts.frames),
        "rows x columns": f"{facts.rows} x {facts.columns}",
    }


def _known(value: str, values: frozenset[str]) -> str:
    return value if value in values else "other" if value else "blank"


def _syntax(uid: str) -> str:
    name, kind, *_ = UID_dictionary.get(uid, ("private or unknown", "Transfer Syntax"))
    return name if kind == "Transfer Syntax" else "private or unknown"


def _summary(counts: Counter[Key]) -> ScanSummary:
    whole = counts.pop(("read whole", "", False), 0)
    tables: dict[str, Counter[str]] = {}
    taken: dict[str, Counter[str]] = {}
    for (table, value, is_taken), count in counts.items():
        tables.setdefault(table, Counter())[value] += count
        taken.setdefault(table, Counter())[value] += count * is_taken
    reasons = tables.pop("reason", Counter())
    return ScanSummary(
        files=reasons.total(),
        taken=reasons.pop(TAKEN, 0),
        whole=whole,
        reasons=dict(_ordered(reasons)),
        tables={
            table: {value: (count, taken[table][value]) for value, count in _ordered(values)}
            for table, values in tables.items()
        },
    )


def _ordered(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
