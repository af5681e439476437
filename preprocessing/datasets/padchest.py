"""PadChest (Bustos et al. 2020, arXiv:1901.07441): `PADCHEST_chest_x_ray_images_labels_160K*.csv`, PNG of 16 bits.

Images lie in `ImageDir/ImageID`, or all in one folder. Those whose header said MONOCHROME1 were not inverted when they
were made into PNG, and are here. `Labels` is a list as Python writes it; a label that is not in it is absent, and an
image without a list has unknown labels. Reports are in Spanish, without headings. The set has no official split.
"""

import re

from preprocessing.datasets.collection import Collection, Dataset, Tree, read_columns
from preprocessing.datasets.labels import Findings, by_study, findings_of, label_lists, names_of

COLUMNS = ("ImageID", "ImageDir", "StudyID", "PatientID", "Projection", "Labels")
OPTIONAL = ("Report", "PhotometricInterpretation_DICOM")
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")


def read_padchest(tree: Tree) -> Dataset:
    """Read the data set.

    Raises:
        InputError: see `datasets.read_dataset`.
    """
    collection, names = Collection(tree), names_of("padchest")
    path = tree.table("PADCHEST_chest_x_ray_images_labels*.csv*")
    studies: list[str] = []
    found: list[Findings] = []
    rows = read_columns(path, COLUMNS, OPTIONAL).iter_rows()
    for number, (name, folder, study, patient, view, labels, text, photometric) in enumerate(rows, 2):
        origin = f"{path.name} row {number}"
        image = f"{folder}/{name}" if folder and name else name
        if view.upper() == "EXCLUDE":
            collection.leave_out("image", origin, "excluded_by_the_set", image)
            continue
        inverted = photometric.upper() == "MONOCHROME1"
        collection.add(origin, image, study, patient, view=names.view(view), text=text, inverted=inverted)
        listed = listed_labels(labels)
        if listed is None and labels.lower() not in ("", "nan"):
            collection.leave_out("label", origin, "label_value")
        studies.append(study)
        found.append(findings_of(listed or (), names))
    return collection.finished(by_study(collection, label_lists(studies, found)))


def listed_labels(text: str) -> list[str] | None:
    """Strings of a list as Python writes it, escapes left alone; `None` for what is no list."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    return [single or double for single, double in _QUOTED.findall(text)]
