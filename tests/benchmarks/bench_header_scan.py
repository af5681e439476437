"""Headers of many files, read several ways on the same files in the same run; prints a Markdown table.

The files are made in a temporary folder: radiographs whose headers have about 120 elements, private ones and sequences
among them, as those of digital systems have. Name folders of other files as arguments to measure on those too. Files
are in the page cache. A rate is files a second of processor time, so that other work on the machine does not change it,
as a median over rounds; the last column is the peak memory of a process that does nothing else.
"""

import os
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import pydicom
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from preprocessing.dicom import image_facts, read_dicom
from preprocessing.errors import UnusableFile
from preprocessing.header_scan import read_plain_header, scan_image
from preprocessing.plain_elements import ITEM_KEYWORDS, KEYWORDS
from preprocessing.selection import SelectionPolicy, check_selected
from preprocessing.sources import SourceImage

FILES, PRIVATE, ROUNDS = 4000, 30, 5
POLICY = SelectionPolicy()


def this_project(path: str) -> object:
    return scan_image(SourceImage(path, ""), POLICY)


def as_ingest(path: str) -> object:
    with suppress(UnusableFile):
        dataset = read_dicom(Path(path))
        return check_selected(dataset, image_facts(dataset), POLICY)
    return None


def pydicom_tags(path: str) -> object:
    return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*KEYWORDS, *ITEM_KEYWORDS], force=True)


def pydicom_header(path: str) -> object:
    return pydicom.dcmread(path, stop_before_pixels=True, force=True)


def bytes_alone(path: str) -> object:
    descriptor = os.open(path, os.O_RDONLY)
    data = os.read(descriptor, 1 << 16)
    os.close(descriptor)
    return data


WAYS: dict[str, Callable[[str], object]] = {
    "here: header, facts, selection": this_project,
    "as `ingest`: whole file, facts, selection": as_ingest,
    "pydicom, `specific_tags`, no facts": pydicom_tags,
    "pydicom, `stop_before_pixels`, no facts": pydicom_header,
    "floor: open and read 64 KB": bytes_alone,
}


def radiograph(number: int) -> Dataset:
    """One of many that differ: identifiers, size, exposure; two syntaxes; some with a sequence of undefined length."""
    dataset = pydicom.dcmread(pydicom.data.get_testdata_file("CT_small.dcm"))
    for element in [element for element in dataset if element.tag.is_private or element.tag.group == 0x7FE0]:
        del dataset[element.tag]
    meta = dataset.file_meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.PatientID, dataset.PatientName = generate_uid(), str(number), f"Doe^{number}"
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "DX", "CHEST", ("PA", "AP", "LL", "")[number % 4]
    dataset.PresentationIntentType, dataset.PixelIntensityRelationship = "FOR PRESENTATION", "LOG"
    dataset.BurnedInAnnotation, dataset.PresentationLUTShape, dataset.SeriesDescription = "NO", "IDENTITY", "Chest"
    dataset.Rows, dataset.Columns = 30 + number % 40, 40 + number % 30
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0
    dataset.ImagerPixelSpacing = [0.143, 0.143]
    dataset.AnatomicRegionSequence = [code("51185008", "Chest")]
    dataset.ViewCodeSequence = [code("399348003", "antero-posterior")]
    dataset.ViewCodeSequence[0].ViewModifierCodeSequence = [code("399110001", "erect")]
    dataset.RequestAttributesSequence = [code("1", "Request")]
    dataset["RequestAttributesSequence"].is_undefined_length = bool(number % 2)
    block = dataset.private_block(0x0019, "MAKER OF DETECTORS", create=True)
    for element in range(PRIVATE):
        block.add_new(element, "LO", f"value {element} of {number}")
    dataset.PixelData = bytes(2 * dataset.Rows * dataset.Columns)
    dataset["PixelData"].VR = "OW"
    return dataset


def code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


def write_archive(folder: Path) -> list[str]:
    paths = []
    for number in range(FILES):
        dataset = radiograph(number)
        implicit = number % 5 == 0
        if implicit:
            dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
        paths.append(str(folder / f"{number}.dcm"))
        pydicom.dcmwrite(paths[-1], dataset, implicit_vr=implicit, little_endian=True, force_encoding=True)
    return paths


def measure(name: str, paths: list[str]) -> tuple[float, int]:
    """Return files a second and peak memory in MiB; in a process of its own."""
    way, rounds = WAYS[name], []
    warnings.simplefilter("ignore")
    for path in paths[:50]:
        way(path)
    repeats = max(1, 1000 // len(paths))
    for _ in range(ROUNDS):
        started = time.process_time()
        for path in paths * repeats:
            way(path)
        rounds.append(len(paths) * repeats / (time.process_time() - started))
    return statistics.median(rounds), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def print_table(title: str, paths: list[str]) -> None:
    plain = [path for path in paths if read_plain_header(path) is not None]
    elements = statistics.median(len(list(pydicom.dcmread(path, force=True).iterall())) for path in plain[:20])
    print(f"\n{title}: {len(paths)} files, about {elements:.0f} elements; {len(paths) - len(plain)} read whole\n")
    print("| way | files/s/core | µs a file | peak MiB |\n|---|---|---|---|")
    for name in WAYS:
        with get_context("spawn").Pool(1) as pool:
            rate, peak = pool.apply(measure, (name, paths))
        print(f"| {name} | {rate:,.0f} | {1e6 / rate:.0f} | {peak} |")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print_table("made", write_archive(Path(folder)))
    for named in sys.argv[1:]:
        found = sorted(str(path) for path in Path(named).rglob("*") if path.is_file())
        print_table(Path(named).name, found)


if __name__ == "__main__":
    main()
