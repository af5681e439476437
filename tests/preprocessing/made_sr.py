"""DICOM SR files for tests, built element by element with pydicom."""

from io import BytesIO
from typing import Any

from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian

BASIC_TEXT, ENHANCED, COMPREHENSIVE = (UID(f"1.2.840.10008.5.1.4.1.1.88.{n}") for n in (11, 22, 33))


def code(value: str, meaning: str, scheme: str = "DCM") -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def item(
    kind: str, name: Dataset | None = None, *children: Dataset, relationship: str = "CONTAINS", **values: Any
) -> Dataset:
    made = Dataset()
    made.RelationshipType, made.ValueType = relationship, kind
    if name is not None:
        made.ConceptNameCodeSequence = Sequence([name])
    for keyword, value in values.items():
        setattr(made, keyword, value)
    if children:
        made.ContentSequence = Sequence(children)
    return made


def text_item(value: str, name: Dataset | None = None, *children: Dataset, **values: Any) -> Dataset:
    return item("TEXT", name, *children, TextValue=value, **values)


def number_item(name: Dataset, value: str, unit: str) -> Dataset:
    measured = Dataset()
    measured.NumericValue = value
    measured.MeasurementUnitsCodeSequence = Sequence([code(unit, unit, "UCUM")])
    return item("NUM", name, MeasuredValueSequence=Sequence([measured]))


def report(*children: Dataset, sop_class: str = BASIC_TEXT, **values: Any) -> Dataset:
    """A verified report of study 1.2.1 with a title."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = UID(sop_class), "1.2.3.4"
    dataset.StudyInstanceUID, dataset.AccessionNumber = "1.2.1", "A1"
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.Modality, dataset.ValueType, dataset.ContinuityOfContent = "SR", "CONTAINER", "SEPARATE"
    dataset.ContentDate, dataset.ContentTime = "20240102", "101500"
    dataset.CompletionFlag, dataset.VerificationFlag = "COMPLETE", "VERIFIED"
    dataset.ConceptNameCodeSequence = Sequence([code("18748-4", "Diagnostic imaging study", "LN")])
    dataset.ContentSequence = Sequence(children)
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def encoded(dataset: Dataset) -> bytes:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()
