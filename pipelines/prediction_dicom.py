"""DICOM objects of a prediction, as files that `archive.send_files` sends: a report, and captures of the evidence.

Apart from `predict`, since highdicom need not be installed.
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from pydicom import Dataset

from pipelines.classifier import Classifier, Prediction
from pipelines.dicom_results import Finding, Model, secondary_capture, structured_report
from pipelines.prediction_maps import Evidence, finding_name
from pipelines.prediction_reading import ReadFile
from preprocessing.dicom import image_facts, parse_dicom
from preprocessing.errors import UnusableFile
from preprocessing.files import write_atomically
from preprocessing.sources import SourceImage, source_bytes

REPORT = "report.dcm"


def write_dicom_results(
    folder: Path,
    classifier: Classifier,
    model: Model,
    image: SourceImage,
    read: ReadFile,
    prediction: Prediction,
    evidence: Sequence[Evidence],
) -> None:
    """Write the structured report of a DICOM file of one frame, and a secondary capture of each finding's evidence.

    Raises:
        UnusableFile: the file is no DICOM, cannot be referred to, has several frames, or is another one by now.
        OSError: they cannot be written.
    """
    if not read.sop_uid:
        raise UnusableFile("not_dicom", "DICOM results refer to a DICOM image with a SOP Instance UID; this is none")
    if len(read.frames) > 1:
        raise UnusableFile("number_of_frames", "DICOM results are made of images of one frame")
    source = parse_dicom(source_bytes(image))  # again, since headers do not travel well between processes
    if image_facts(source).sop_instance_uid != read.sop_uid:
        raise UnusableFile("read_error", "the file has changed since it was predicted")
    objects = {REPORT: structured_report(source, findings(classifier, prediction), model)}
    for one in evidence:
        finding = classifier.label_names[one.label]
        capture = secondary_capture(source, one.picture, finding, model)
        objects[f"{finding_name(classifier, one.label)}.dcm"] = capture
    folder.mkdir(parents=True, exist_ok=True)
    for file, dataset in objects.items():
        write_atomically(folder / file, _content(dataset))


def findings(classifier: Classifier, prediction: Prediction) -> list[Finding]:
    """A prediction as the report states it."""
    values = zip(classifier.label_names, prediction.probabilities, prediction.is_present, strict=True)
    return [
        Finding(name, float(p), present, classifier.calibrated_threshold(label))
        for label, (name, p, present) in enumerate(values)
    ]


def _content(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
