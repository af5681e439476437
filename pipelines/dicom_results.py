"""Results that go back to the archive: a structured report of findings, and a secondary capture of the evidence.

After prediction, before files and networks: pure functions from a source image and what a model says of it to DICOM
objects, by highdicom. The report is a Comprehensive SR (PS3.3 A.35.3) by the template Measurement Report (PS3.16
TID 1500), which viewers read; it needs nothing of the 3D form, which fewer archives take. Both objects go into the
study of the source and say everywhere that a person sees that they are not for clinical use.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sc import SCImage
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    ComprehensiveSR,
    DeviceObserverIdentifyingAttributes,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ComputedRadiographyImageStorage
from pydicom.valuerep import DSfloat

from pipelines.derived_objects import (
    MANUFACTURER,
    character_set,
    derived_number,
    derived_uid,
    long_string,
    one_line,
    patient_and_study,
    usable_uid,
)
from pipelines.finding_codes import PRIVATE_SCHEME, finding_code
from pipelines.notice import NOTICE
from preprocessing.header_values import caught_warnings, text

REPORT_SERIES = "NOT FOR CLINICAL USE: model findings, unverified"
CAPTURE_SERIES = "NOT FOR CLINICAL USE: model evidence, unverified"
REPORT_SERIES_NUMBER, CAPTURE_SERIES_NUMBER = 9001, 9002

PROCEDURE = Code("399208008", "SCT", "Plain chest X-ray")
CERTAINTY = codes.DCM.CertaintyOfFinding
"""How sure a device is of a finding, 0 to 100 %: what reports of computer-aided detection have (PS3.16 CID 6048)."""

THRESHOLD = Code("THRESHOLD", PRIVATE_SCHEME, "Decision threshold")


@dataclass(frozen=True)
class Finding:
    """What a model says of one label.

    Args:
        name: the label, of any length.
        probability: in [0, 1].
        is_present: the decision; None where the model has no threshold.
        threshold: of the probability, in [0, 1].
    """

    name: str
    probability: float
    is_present: bool | None
    threshold: float | None

    def __post_init__(self) -> None:
        for share in (self.probability, 0.0 if self.threshold is None else self.threshold):
            if not 0 <= share <= 1:  # NaN included
                raise ValueError(f"{self.name}: no share of one: {share}")


@dataclass(frozen=True)
class Model:
    """Which weights said so.

    Args:
        name, version: for people.
        sha256: of the weights, in hexadecimal: two models are one if it is the same.
        preset: how DICOM pixels became pictures (`preprocessing.rendering.PRESETS`).
        calibrated: whether the probabilities are calibrated; else they are scores.
    """

    name: str
    version: str
    sha256: str
    preset: str
    calibrated: bool


def structured_report(source: Dataset, findings: Sequence[Finding], model: Model) -> Dataset:
    """A report of a model's findings in one image: complete, preliminary, verified by nobody.

    The same source and weights have the same SOP Instance UID; the reports of a study and model are one series.

    Args:
        source: the header of the image; its pixels are not looked at.
        findings: at least one, in the order in which they are shown.
        model: see `Model`.

    Returns:
        A Comprehensive SR, ready for `save_as(path, enforce_file_format=True)`.

    Raises:
        UnusableFile: `missing_uid`, without a UID of the image's class, instance, series or study.
    """
    with caught_warnings():  # they quote the header
        shared = patient_and_study(source)
        image = _referenced(source)
        uid = derived_uid("report", image.ReferencedSOPInstanceUID, model.sha256.lower(), *map(_said, findings))
        report = ComprehensiveSR(
            evidence=[_evidence(shared, image, usable_uid(source, "SeriesInstanceUID"))],
            content=_content(image, findings[:1], model),
            series_instance_uid=derived_uid("reports", shared.StudyInstanceUID, model.sha256.lower()),
            series_number=REPORT_SERIES_NUMBER,
            series_description=REPORT_SERIES,
            sop_instance_uid=uid,
            instance_number=derived_number(uid),
            is_complete=True,
            is_final=False,
            is_verified=False,
            coding_schemes=[CodingSchemeIdentificationItem(PRIVATE_SCHEME, name=f"Labels of {MANUFACTURER}")],
            **_equipment(model, shared, [finding.name for finding in findings]),
        )
        evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
        evidence.ReferencedSOPSequence = [image]
        # highdicom copies and searches its content several times, which takes most of the time for all findings.
        for finding in findings[1:]:
            report.ContentSequence[-1].ContentSequence.extend(_group(image, finding, model))
    return _plain(report)


def _said(finding: Finding) -> str:
    """What a report says of a finding, as far as it is the same on all machines: another threshold, another report."""
    threshold = None if finding.threshold is None else f"{finding.threshold:.4f}"
    return f"{finding.name} {finding.probability:.4f} {finding.is_present} {threshold}"


def secondary_capture(source: Dataset, picture: NDArray[np.uint8], finding: str, model: Model) -> Dataset:
    """A picture that shows what a finding rests on.

    The same source, weights and finding have the same SOP Instance UID; the captures of a study and model are one
    series.

    Args:
        source: the header of the image; its pixels are not looked at.
        picture: (rows, columns, 3), red, green, blue.
        finding: name of the label.
        model: see `Model`.

    Returns:
        A Secondary Capture Image, uncompressed, ready for `save_as(path, enforce_file_format=True)`.

    Raises:
        UnusableFile: `missing_uid`, without a UID of the image's class, instance or study.
    """
    with caught_warnings():
        shared = patient_and_study(source)
        image = _referenced(source)
        shown = hashlib.sha256(picture.tobytes()).hexdigest()  # of one object, archives keep what they have
        uid = derived_uid("capture", image.ReferencedSOPInstanceUID, model.sha256.lower(), finding, shown)
        capture = SCImage(
            pixel_array=np.ascontiguousarray(picture),
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            patient_orientation=("L", "F"),
            study_instance_uid=shared.StudyInstanceUID,
            series_instance_uid=derived_uid("captures", shared.StudyInstanceUID, model.sha256.lower()),
            series_number=CAPTURE_SERIES_NUMBER,
            series_description=CAPTURE_SERIES,
            sop_instance_uid=uid,
            instance_number=derived_number(uid),
            **_equipment(model, shared, [finding]),
        )
        capture.update(shared)
        _describe(capture, source, image, finding, model)
    return _plain(capture)


def _describe(capture: Dataset, source: Dataset, image: Dataset, finding: str, model: Model) -> None:
    """Say of a capture where it comes from, what it shows and what it is not for."""
    capture.PatientOrientation = None  # a picture may hold several panels
    capture.ConversionType = "WSD"  # workstation
    capture.BodyPartExamined = "CHEST"
    name = one_line(f"{model.name} {model.version}")
    derivation = f"Evidence of the model {name} for the finding: {one_line(finding)}"
    capture.DerivationDescription = f"{NOTICE.upper()}. {derivation}".replace("\\", "/")[:1024]
    capture.ImageComments = f"{NOTICE.upper()}. {one_line(finding)}. Not verified by a person.".replace("\\", "/")
    purpose = CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)
    item = Dataset()
    item.update(image)
    item.PurposeOfReferenceCodeSequence = [purpose]
    capture.SourceImageSequence = [item]
    burned = text(source, "BurnedInAnnotation").upper()
    if burned in ("YES", "NO"):  # nobody knows otherwise
        capture.BurnedInAnnotation = burned
    if text(source, "LossyImageCompression") == "01":  # once lossy, always lossy (PS3.3 C.7.6.1.1.5)
        capture.LossyImageCompression = "01"


def _plain(built: Dataset) -> Dataset:
    """The data set alone, without what highdicom's classes keep beside it."""
    plain = Dataset(built)
    plain.file_meta = built.file_meta
    return plain


def _referenced(source: Dataset) -> Dataset:
    """The item of a sequence that refers to the source."""
    item = Dataset()
    item.ReferencedSOPClassUID = usable_uid(source, "SOPClassUID")
    item.ReferencedSOPInstanceUID = usable_uid(source, "SOPInstanceUID")
    return item


def _evidence(shared: Dataset, image: Dataset, series: str) -> Dataset:
    """The source as highdicom takes it: of a class that it knows, which private and retired ones are not."""
    evidence = Dataset()
    evidence.update(shared)
    evidence.SOPClassUID = ComputedRadiographyImageStorage
    evidence.SOPInstanceUID, evidence.SeriesInstanceUID = image.ReferencedSOPInstanceUID, series
    return evidence


def _equipment(model: Model, shared: Dataset, names: Sequence[str]) -> dict[str, Any]:
    """What both objects say of where they come from, and how their texts are encoded."""
    texts = [model.name, model.version, model.preset, *names, *(str(element.value) for element in shared)]
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": long_string(model.name),
        "software_versions": long_string(model.version),
        "content_qualification": "RESEARCH",
        "specific_character_set": character_set(texts),
    }


def _content(image: Dataset, findings: Sequence[Finding], model: Model) -> MeasurementReport:
    """The content tree, with algorithm and disclaimer once and above the findings, not within each of them."""
    observer = DeviceObserverIdentifyingAttributes(
        uid=derived_uid("device", model.sha256.lower()),
        name=model.name,
        manufacturer_name=MANUFACTURER,
    )
    content = MeasurementReport(
        observation_context=ObservationContext(ObserverContext(codes.DCM.Device, observer)),
        procedure_reported=PROCEDURE,
        imaging_measurements=[_group(image, finding, model) for finding in findings],
    )
    root = content[0].ContentSequence
    for item in (*_algorithm(model), _disclaimer(model)):
        root.insert(len(root) - 1, item)
    return content


def _algorithm(model: Model) -> AlgorithmIdentification:
    parameters = [f"SHA-256 of the weights: {model.sha256}", f"Preparation of the pixels: {model.preset}"]
    return AlgorithmIdentification(model.name, model.version, parameters, manufacturer=MANUFACTURER)


def _disclaimer(model: Model) -> TextContentItem:
    kind = "calibrated probabilities" if model.calibrated else "scores that are not calibrated, no probabilities"
    statement = f"{NOTICE.upper()}. Made by a model, not verified by a person. Certainties are {kind}."
    return TextContentItem(codes.DCM.Comment, statement, RelationshipTypeValues.CONTAINS)


def _group(image: Dataset, finding: Finding, model: Model) -> MeasurementsAndQualitativeEvaluations:
    """One finding (TID 1501): how sure the model is, from where on it says present, what it says."""
    code = finding_code(finding.name)
    instance = image.ReferencedSOPInstanceUID
    uid = derived_uid("finding", instance, model.sha256.lower(), finding.name)
    measurements = [_percent(CERTAINTY, finding.probability)]
    if finding.threshold is not None:
        measurements.append(_percent(THRESHOLD, finding.threshold))
    decisions = []
    if finding.is_present is not None:
        decisions.append(QualitativeEvaluation(code, codes.SCT.Present if finding.is_present else codes.SCT.Absent))
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid, one_line(finding.name)),
        finding_type=code,
        measurements=measurements,
        qualitative_evaluations=decisions,
        source_images=[SourceImageForMeasurementGroup(image.ReferencedSOPClassUID, instance)],
    )


def _percent(name: Code, share: float) -> Measurement:
    """A share of one in percent: two decimals for people, all of it as Floating Point Value (PS3.3 C.18.1)."""
    measurement = Measurement(name, 100.0 * float(share), codes.UCUM.Percent)
    measurement[0].MeasuredValueSequence[0].NumericValue = DSfloat(f"{100.0 * float(share):.2f}")
    return measurement
