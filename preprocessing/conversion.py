"""One file to its arrays in the store and its rows of the image table: what a worker of `ingest` does.

Never raises for a bad file: what is wrong with it comes back as a reason. Originals of identifiers travel in
`Converted` to the process that keeps the private ledger, and go nowhere else.
"""

import ctypes
import hashlib
import io
import json
import os.path
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cache
from pathlib import Path, PurePath
from typing import Any

import cv2
import numpy as np
import polars as pl
from numpy.typing import NDArray

from preprocessing.dicom import MAXIMUM_BYTES, ImageFacts, image_facts, parse_dicom
from preprocessing.errors import UnusableFile
from preprocessing.files import StoreNotWritable, write_atomically
from preprocessing.header_facts import PHOTOMETRICS
from preprocessing.identity import day_shift, pseudonym
from preprocessing.manifest import ManifestRow
from preprocessing.preparation import Preparation, PreparedImage, prepare_frames, prepare_picture
from preprocessing.rasters import RASTER_SUFFIXES, exchanged, raster_picture
from preprocessing.selection import SelectionPolicy, check_selected
from preprocessing.sources import SourceImage, source_bytes
from preprocessing.store import IMAGE_SCHEMA


@dataclass(frozen=True)
class ConversionSettings:
    """What every worker needs: folder of the store, key of the pseudonyms, and what is done to which images."""

    store: Path
    key: bytes = field(repr=False)
    preparation: Preparation
    selection: SelectionPolicy
    image_format: str


@dataclass(frozen=True)
class Originals:
    """Identities of one file as its header or the manifest has them; blank where unknown."""

    sop: str = ""
    study: str = ""
    patient: str = ""
    accession: str = ""


@dataclass(frozen=True)
class Converted:
    """Outcome of one file.

    Args:
        file: pseudonym of its name.
        reason: why it was left out, with `detail` for people; blank for a file that was taken.
        rows: rows of the image table, one a frame; their arrays are in the store.
        sop, study, patient, accession: pseudonyms; blank where unknown. `sop` tells images apart: it stands for the SOP
            Instance UID, or for the manifest's path.
        is_nameless: whether the file names no patient, so that its study stands for one.
        day: date of the study, shifted by a number of days that is the patient's own (`identity.day_shift`).
        originals: what the pseudonyms stand for; for the private side table and nothing else.
    """

    file: str
    reason: str = ""
    detail: str = ""
    rows: tuple[dict[str, Any], ...] = ()
    sop: str = ""
    study: str = ""
    patient: str = ""
    accession: str = ""
    is_nameless: bool = False
    day: int | None = None
    originals: Originals = field(default=Originals(), repr=False)


def convert(settings: ConversionSettings, source: SourceImage) -> Converted:
    """Convert one file: write its arrays, return its rows; or return the reason why not.

    Raises:
        StoreNotWritable: the store cannot be written, which ends the job and is no fault of the file.
    """
    tune_process()
    row = source.row
    known = Originals(study=row.study, patient=row.patient) if row else Originals()
    try:
        data = source_bytes(source)
        if row is not None and _is_raster(source):
            known = replace(known, sop=f"manifest\0{os.path.normpath(row.image)}")
            picture = raster_picture(data)
            raster = prepare_picture(exchanged(picture) if row.inverted else picture, settings.preparation)
            return _stored(settings, source, known, [raster], _manifest_columns(row), "")
        dataset = parse_dicom(data)
        facts = image_facts(dataset)
        known = _originals(row, facts)
        selected = check_selected(dataset, facts, settings.selection, is_listed=row is not None)
        check_size(facts, settings.preparation)
        known, missing = _without_blanks(source, known)
        columns = _header_columns(facts, row, (*facts.flags, *selected, *missing))
        # All of them before the first is written: a frame that cannot be decoded loses the file.
        frames = list(prepare_frames(dataset, facts, settings.preparation))
        return _stored(settings, source, known, frames, columns, facts.study_date)
    except StoreNotWritable:
        raise
    except Exception as error:
        return _left_out(settings, source, known, *why_left_out(error))


def why_left_out(error: Exception) -> tuple[str, str]:
    """Reason and detail of a file that raised something while it was read; never its message, which may quote it."""
    if isinstance(error, UnusableFile):
        return error.reason, error.detail
    if isinstance(error, MemoryError):
        return "out_of_memory", "there was not enough memory for this image"
    if isinstance(error, OSError):
        return "read_error", f"the file cannot be read (errno {error.errno})"
    return "unexpected_error", f"conversion failed ({type(error).__name__})"


@cache
def tune_process() -> None:
    """Make a process that converts one image after another fast at it: what a worker does before its first."""
    cv2.setNumThreads(1)  # the pool has a process a core already
    # glibc gives the memory of a large picture back to the system at once, and has it zeroed again for the next one,
    # which takes longer than all the arithmetic. Elsewhere there is no `mallopt`, and no need for it is known.
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            mallopt(parameter, 1 << 30)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def _left_out(
    settings: ConversionSettings, source: SourceImage, known: Originals, reason: str, detail: str
) -> Converted:
    return Converted(reason=reason, detail=detail, **_pseudonyms(settings.key, source, known))


def _pseudonyms(key: bytes, source: SourceImage, known: Originals) -> dict[str, Any]:
    named = {
        "sop": known.sop and pseudonym(key, "image", known.sop),
        "study": known.study and pseudonym(key, "study", known.study),
        "patient": known.patient and pseudonym(key, "patient", known.patient),
        "accession": known.accession and pseudonym(key, "accession", known.accession),
    }
    return {"file": pseudonym(key, "file", source.origin), "originals": known, **named}


def _is_raster(source: SourceImage) -> bool:
    return PurePath(source.member or source.path).suffix.lower() in RASTER_SUFFIXES


def _originals(row: ManifestRow | None, facts: ImageFacts) -> Originals:
    return Originals(
        sop=facts.sop_instance_uid,
        study=row.study if row else facts.study_instance_uid,
        patient=row.patient if row else facts.patient_id,
        accession=facts.accession_number,
    )


def _without_blanks(source: SourceImage, known: Originals) -> tuple[Originals, tuple[str, ...]]:
    """Fill blanks with something that keeps this image apart from all others; return flags for them."""
    sop = known.sop or f"file\0{source.origin}"
    study = known.study or f"image\0{sop}"
    patient = known.patient or f"study\0{study}"
    missing = {
        "no_sop_instance_uid": not known.sop,
        "no_study_instance_uid": not known.study,
        "no_patient_id": not known.patient,
    }
    flags = tuple(flag for flag, holds in missing.items() if holds)
    return Originals(sop, study, patient, known.accession), flags


def _manifest_columns(row: ManifestRow) -> dict[str, Any]:
    return {
        "view": row.view,
        "view_source": "manifest" if row.view != "UNKNOWN" else "",
        "flags": (),
        "modality": "",
        "transfer_syntax": "",
        "photometric": "",
        "bits_stored": None,
        "row_mm": None,
        "column_mm": None,
    }


def _header_columns(facts: ImageFacts, row: ManifestRow | None, flags: tuple[str, ...]) -> dict[str, Any]:
    from_manifest = row is not None and row.view != "UNKNOWN"
    row_mm, column_mm = facts.pixel_spacing or (None, None)
    photometric = facts.photometric_interpretation
    return {
        "view": row.view if row is not None and from_manifest else facts.view_position,
        "view_source": "manifest" if from_manifest else facts.view_source,
        "flags": flags,
        "modality": facts.modality,
        "transfer_syntax": facts.transfer_syntax_uid,
        "photometric": photometric if photometric in {*PHOTOMETRICS, ""} else "other",
        "bits_stored": facts.bits_stored,
        "row_mm": row_mm,
        "column_mm": column_mm,
    }


def _stored(
    settings: ConversionSettings,
    source: SourceImage,
    known: Originals,
    images: Sequence[PreparedImage],
    columns: dict[str, Any],
    study_date: str,
) -> Converted:
    """Write the array of every frame and complete the rows.

    Arrays are named by the file and not by the image, so that two files that claim to be one image never write to one
    name.
    """
    named = _pseudonyms(settings.key, source, known)
    several = len(images) > 1
    rows = []
    for frame, image in enumerate(images, 1):
        content = _encoded(image.array, settings.image_format)
        rows.append(
            {
                **columns,
                **_columns_of(image),
                "image": pseudonym(settings.key, "image", f"{known.sop}\0{frame}") if several else named["sop"],
                "study": named["study"],
                "patient": named["patient"],
                "file": named["file"],
                "frame": frame,
                "preset": settings.preparation.preset,
                "flags": sorted({*columns["flags"], *image.flags}),
                "path": array_path(named["file"] + (f"_{frame}" if several else ""), settings.image_format),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        )
        _check_row(rows[-1], known)
        _write_array(settings.store, rows[-1]["path"], content)
    return Converted(
        rows=tuple(rows),
        is_nameless="no_patient_id" in columns["flags"],
        day=_shifted_day(study_date, day_shift(settings.key, named["patient"])),
        **named,
    )


def _columns_of(image: PreparedImage) -> dict[str, Any]:
    geometry = image.geometry
    return {
        "voi": image.voi,
        "decoder": image.decoder,
        "rows": geometry.rows,
        "columns": geometry.columns,
        "size": geometry.size,
        "scale_rows": geometry.scale_rows,
        "scale_columns": geometry.scale_columns,
        "offset_rows": geometry.offset_rows,
        "offset_columns": geometry.offset_columns,
        "mean": round(image.mean, 6),
        "deviation": round(image.deviation, 6),
        "clipped": round(image.clipped, 6),
    }


def _shifted_day(study_date: str, shift: int) -> int | None:
    try:
        return date(int(study_date[:4]), int(study_date[4:6]), int(study_date[6:])).toordinal() + shift
    except ValueError:
        return None


def array_path(name: str, image_format: str) -> str:
    """Where an array lies in the store; two digits make 256 folders, so that none gets too long."""
    return f"images/{name[:2]}/{name}.{image_format}"


def array_file(path: str) -> str:
    """Pseudonym of the file that an array is of, by the path that `array_path` gave it."""
    return PurePath(path).stem.partition("_")[0]


def check_size(facts: ImageFacts, preparation: Preparation) -> None:
    """Refuse, before any is decoded, frames whose arrays would have no room together.

    Raises:
        UnusableFile: `too_large`.
    """
    if facts.frames * preparation.size**2 * preparation.bit_depth // 8 > MAXIMUM_BYTES:
        raise UnusableFile("too_large", f"{facts.frames} frames are declared; arrays of this size have no room")


def _check_row(row: dict[str, Any], known: Originals) -> None:
    """Refuse what the tables cannot hold, here where it costs one file and not the job."""
    try:
        pl.DataFrame([row], schema=IMAGE_SCHEMA)
        json.dumps(row, allow_nan=False)  # as the ledger keeps it
        for original in (known.sop, known.study, known.patient, known.accession):
            original.encode()
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
        raise UnusableFile("impossible_value", "a value in the header is out of range for the tables") from error


def _encoded(array: NDArray[np.unsignedinteger[Any]], image_format: str) -> bytes:
    if image_format == "png":
        return bytes(cv2.imencode(".png", array)[1])
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _write_array(store: Path, path: str, content: bytes) -> None:
    """Write an array.

    Raises:
        StoreNotWritable: for instance on a full disk.
    """
    array = store / path
    try:
        array.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(array, content)
    except OSError as error:
        raise StoreNotWritable(error.errno or 0) from error
