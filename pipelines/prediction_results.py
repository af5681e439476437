"""What a file's prediction becomes: its rows in the table, and its maps and DICOM results in folders beside it."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.classifier import Classifier, Prediction
from pipelines.prediction_ledger import Wanted
from pipelines.prediction_maps import Evidence, result_name, write_maps
from pipelines.prediction_reading import ReadFile
from preprocessing.conversion import why_left_out
from preprocessing.errors import InputError
from preprocessing.sources import SourceImage

MAPS, DICOM = "maps", "dicom"
"""Folders of the results."""

NOT_FINITE = {"reason": "not_finite", "detail": "the network gives no finite number for this image"}


@dataclass(frozen=True)
class PredictedFrame:
    """A frame's prediction, and where it comes from, as far as that was wanted."""

    prediction: Prediction
    evidence: tuple[Evidence, ...]


def results_writer(
    folder: Path, classifier: Classifier, wanted: Wanted, program: str
) -> Callable[[SourceImage, ReadFile, list[PredictedFrame], Iterable[str]], list[dict[str, Any]]]:
    """What writes the maps and DICOM results of a file in place of earlier ones (by name), and returns its rows.

    Args:
        folder: of the predictions.
        classifier: that made them.
        wanted: which results.
        program: version of the program.

    Raises:
        InputError: a package is missing that DICOM results need.
    """
    write_dicom = _dicom_writer(classifier, program) if wanted.dicom else None

    def write(
        image: SourceImage, read: ReadFile, frames: list[PredictedFrame], earlier: Iterable[str]
    ) -> list[dict[str, Any]]:
        for name in earlier:
            _remove_results(folder, name)
        if not frames:
            return [_row(image, read, 0)]
        if not all(np.isfinite(frame.prediction.probabilities).all() for frame in frames):
            return [_row(image, read, number) | NOT_FINITE for number in range(1, len(frames) + 1)]
        name = result_name(read, image.origin) if wanted.maps or wanted.dicom else ""
        _remove_results(folder, name)
        detail = write_dicom(folder / DICOM / name, image, read, frames[0]) if write_dicom else ""
        rows = []
        for number, frame in enumerate(frames, 1):
            if wanted.maps:
                write_maps(folder / MAPS / name, classifier, read, number, frame.evidence)
            values = {"probabilities": frame.prediction.probabilities.tolist(), "present": frame.prediction.is_present}
            rows.append(_row(image, read, number, name, detail) | values)
        return rows

    return write


def _dicom_writer(classifier: Classifier, program: str) -> Callable[[Path, SourceImage, ReadFile, PredictedFrame], str]:
    """What writes the DICOM results of a file into a folder, and returns why there are none."""
    try:
        from pipelines.dicom_results import Model
        from pipelines.prediction_dicom import write_dicom_results
    except ModuleNotFoundError as error:
        raise InputError(f"DICOM results need {error.name}: pip install 'cxr-local-mi[dicom-output]'") from error
    preset, is_calibrated = classifier.preparation.preset, classifier.temperatures is not None
    model = Model("cxr-local-mi", program, classifier.sha256, preset, is_calibrated)

    def write(folder: Path, image: SourceImage, read: ReadFile, frame: PredictedFrame) -> str:
        try:
            write_dicom_results(folder, classifier, model, image, read, frame.prediction, frame.evidence)
        except OSError:  # a full disk, which is no fault of the file
            raise
        except Exception as error:  # of the oddest headers, highdicom raises whatever it stumbles over
            return f"no DICOM results: {why_left_out(error)[1]}"
        return ""

    return write


def _row(image: SourceImage, read: ReadFile, frame: int, name: str = "", detail: str = "") -> dict[str, Any]:
    known = {
        "file": image.origin,
        "reason": read.reason,
        "detail": read.detail,
        "study_instance_uid": read.study_uid,
        "sop_instance_uid": read.sop_uid,
        "view": read.view,
        "voi": read.frames[frame - 1].voi if frame else "",
        "flags": " ".join(sorted({*read.flags, *(read.frames[frame - 1].flags if frame else ())})),
        "results": name,
        "results_detail": detail,
    }
    return {key: value.encode("utf-8", "replace").decode() for key, value in known.items()} | {"frame": frame}


def _remove_results(folder: Path, name: str) -> None:
    """Those of an image as it was, perhaps with other findings."""
    if name:
        for kind in (MAPS, DICOM):
            shutil.rmtree(folder / kind / name, ignore_errors=True)
