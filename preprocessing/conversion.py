"""One file to its arrays in the store and its rows of the image table: what a worker of `ingest` does.

Never raises for a bad file: what is wrong with it comes back as a reason. Originals of identifiers travel in
`Converted` to the parent process, which writes them to the private side table and nowhere else.
"""

import hashlib
import io
import os.path
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
from numpy.typing import NDArray

from preprocessing.dicom import ImageFacts, image_facts, read_dicom, stored_values
from preprocessing.errors import UnusableFile
from preprocessing.files import StoreNotWritable, write_atomically
from preprocessing.geometry import fit_square
from preprocessing.identity import pseudonym
from preprocessing.manifest import ManifestRow
from preprocessing.rasters import RASTER_SUFFIXES, raster_picture
from preprocessing.rendering import Picture, render
from preprocessing.selection import check_selected
from preprocessing.store import IDENTITY_SCHEMA, IMAGE_SCHEMA


@dataclass(frozen=True, slots=True)
class SourceImage:
    """A file to convert.

    Args:
        path: where it is.
        origin: its name relative to the source as `files.path_text`, by which runs know it again; an identifier.
        row: what the manifest says about it; its identities and view count before the header's.
    """

    path: Path
    origin: str
    row: ManifestRow | None = None


@dataclass(frozen=True)
class ConversionSettings:
    """What every worker needs: folder of the store, key of the pseudonyms, preset and side of the square in pixels."""

    store: Path
    key: bytes = field(repr=False)
    preset: str
    size: int


@dataclass(frozen=True)
class Converted:
    """Outcome of one file.

    Args:
        source: the task.
        reason: why it was left out, with `detail` for people; blank for a file that was taken.
        rows: rows of the image table, one a frame; their `file` is set.
        sop: what tells images apart: SOP Instance UID, or the manifest's path.
        study, accession, patient: originals; blank where unknown.
        names: (pseudonym, kind, original) of everything that was replaced.
    """

    source: SourceImage
    reason: str = ""
    detail: str = ""
    rows: tuple[dict[str, Any], ...] = ()
    sop: str = ""
    study: str = ""
    accession: str = ""
    patient: str = ""
    names: tuple[tuple[str, str, str], ...] = ()

    @property
    def is_nameless(self) -> bool:
        """Whether the file names no patient, so that its study stands for one."""
        return self.patient.startswith(_STUDY_AS_PATIENT)


_STUDY_AS_PATIENT = "study\0"


@dataclass(frozen=True)
class _Identities:
    """Originals of one file, blanks filled with something that keeps it apart from all others."""

    sop: str
    study: str
    patient: str
    flags: tuple[str, ...]


def convert(settings: ConversionSettings, source: SourceImage) -> Converted:
    """Convert one file: write its arrays, return its rows; or return the reason why not.

    Raises:
        StoreNotWritable: the store cannot be written, which ends the job and is no fault of the file.
    """
    cv2.setNumThreads(1)  # the pool has a process a core already
    row = source.row
    outcome = Converted(source, study=row.study if row else "", patient=row.patient if row else "")
    try:
        if row is not None and source.path.suffix.lower() in RASTER_SUFFIXES:
            return _convert_raster(settings, outcome, row)
        dataset = read_dicom(source.path)
        facts = image_facts(dataset)
        outcome = replace(
            outcome,
            study=outcome.study or facts.study_instance_uid,
            accession=facts.accession_number,
            patient=outcome.patient or facts.patient_id,
        )
        flags = check_selected(dataset, facts)
        stored = stored_values(dataset)
        pictures = (render(dataset, frame, settings.preset) for frame in stored)
        identities = _identities(source, facts)
        shared = _header_columns(facts, row, (*facts.flags, *flags, *identities.flags))
        return _stored(settings, outcome, identities, pictures, len(stored), facts.pixel_aspect, shared)
    except UnusableFile as error:
        return replace(outcome, reason=error.reason, detail=error.detail)
    except MemoryError:
        return replace(outcome, reason="out_of_memory", detail="there was not enough memory for this image")
    except StoreNotWritable:
        raise
    except OSError as error:
        return replace(outcome, reason="read_error", detail=f"the file cannot be read (errno {error.errno})")
    except Exception as error:
        # The message may quote the file; the type alone is safe to show.
        return replace(outcome, reason="unexpected_error", detail=f"conversion failed ({type(error).__name__})")


def _convert_raster(settings: ConversionSettings, outcome: Converted, row: ManifestRow) -> Converted:
    picture = raster_picture(outcome.source.path)
    identities = _Identities(f"manifest\0{os.path.normpath(row.image)}", row.study, row.patient, ())
    shared: dict[str, Any] = {
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
    return _stored(settings, outcome, identities, iter([picture]), 1, 1.0, shared)


def _identities(source: SourceImage, facts: ImageFacts) -> _Identities:
    row = source.row
    sop = facts.sop_instance_uid or f"file\0{source.origin}"
    study = (row.study if row else facts.study_instance_uid) or f"image\0{sop}"
    patient = (row.patient if row else facts.patient_id) or _STUDY_AS_PATIENT + study
    missing = {
        "no_sop_instance_uid": not facts.sop_instance_uid,
        "no_study_instance_uid": not (row or facts.study_instance_uid),
        "no_patient_id": not (row or facts.patient_id),
    }
    return _Identities(sop, study, patient, tuple(flag for flag, holds in missing.items() if holds))


def _header_columns(facts: ImageFacts, row: ManifestRow | None, flags: tuple[str, ...]) -> dict[str, Any]:
    from_manifest = row is not None and row.view != "UNKNOWN"
    row_mm, column_mm = facts.pixel_spacing or (None, None)
    return {
        "view": row.view if row is not None and from_manifest else facts.view_position,
        "view_source": "manifest" if from_manifest else facts.view_source,
        "flags": flags,
        "modality": facts.modality,
        "transfer_syntax": facts.transfer_syntax_uid,
        "photometric": facts.photometric_interpretation,
        "bits_stored": facts.bits_stored,
        "row_mm": row_mm,
        "column_mm": column_mm,
    }


def _stored(
    settings: ConversionSettings,
    outcome: Converted,
    identities: _Identities,
    pictures: Iterator[Picture],
    frames: int,
    pixel_aspect: float,
    shared: dict[str, Any],
) -> Converted:
    """Write every frame and complete the rows."""
    key = settings.key
    study, patient = pseudonym(key, "study", identities.study), pseudonym(key, "patient", identities.patient)
    file = pseudonym(key, "file", outcome.source.origin)
    names = [(study, "study", identities.study), (patient, "patient", identities.patient)]
    rows = []
    for frame, picture in enumerate(pictures, 1):
        name = identities.sop if frames == 1 else f"{identities.sop}\0{frame}"
        image = pseudonym(key, "image", name)
        names.append((image, "image", name))
        square, geometry = fit_square(picture.pixels, settings.size, pixel_aspect)
        path = array_path(image)
        content = _npy(np.rint(square * 255).astype(np.uint8))
        rows.append(
            {
                **shared,
                "image": image,
                "study": study,
                "patient": patient,
                "file": file,
                "frame": frame,
                "preset": settings.preset,
                "voi": picture.voi,
                "flags": sorted({*shared["flags"], *picture.flags}),
                "rows": geometry.rows,
                "columns": geometry.columns,
                "size": geometry.size,
                "scale_rows": geometry.scale_rows,
                "scale_columns": geometry.scale_columns,
                "offset_rows": geometry.offset_rows,
                "offset_columns": geometry.offset_columns,
                **_statistics(picture.pixels),
                "path": path,
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        )
        _check_row(rows[-1], names)
        _write_array(settings.store, path, content)
    return replace(
        outcome,
        rows=tuple(rows),
        sop=identities.sop,
        study=identities.study,
        patient=identities.patient,
        names=tuple(names),
    )


def array_path(image: str) -> str:
    """Where an image's array lies in the store; two digits make 256 folders, so that none gets too long."""
    return f"images/{image[:2]}/{image}.npy"


def _statistics(pixels: NDArray[np.float32]) -> dict[str, float]:
    """Mean, standard deviation and share of clipped pixels (0 or 1), before scaling: outliers are looked at first."""
    clipped = np.count_nonzero((pixels <= 0) | (pixels >= 1)) / pixels.size
    mean, deviation = float(pixels.mean(dtype=np.float64)), float(pixels.std(dtype=np.float64))
    return {"mean": round(mean, 6), "deviation": round(deviation, 6), "clipped": round(clipped, 6)}


def _check_row(row: dict[str, Any], names: Iterable[tuple[str, str, str]]) -> None:
    """Refuse what the tables cannot hold, here where it costs one file and not the job."""
    try:
        pl.DataFrame([row], schema=IMAGE_SCHEMA)
        pl.DataFrame(list(names), schema=IDENTITY_SCHEMA, orient="row")
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
        raise UnusableFile("impossible_value", "a value in the header is out of range for the tables") from error


def _npy(array: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _write_array(store: Path, path: str, content: bytes) -> None:
    """Write an array unless it is there already; before one changes, the store ceases to be complete.

    Raises:
        StoreNotWritable: for instance on a full disk.
    """
    array = store / path
    try:
        if array.exists():
            if array.read_bytes() == content:
                return
            (store / "run.json").unlink(missing_ok=True)
        array.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(array, content)
    except OSError as error:
        raise StoreNotWritable(error.errno or 0) from error
