"""covid-chestxray-dataset (Cohen et al. 2020, arXiv:2006.11988): `metadata.csv`, files in `folder/filename`.

CT slices and volumes are left out. An image is a study, since the table does not say which were taken together;
`clinical_notes` is its text. `finding` is a path from the general to the special ("Pneumonia/Viral/COVID-19"), in older
tables a list of last parts: what it names is present, other diagnoses are absent, and "todo" is unknown.
"""

import re

from preprocessing.datasets.collection import Collection, Dataset, Tree, read_columns, stem
from preprocessing.datasets.labels import Findings, by_study, findings_of, label_lists, names_of

COLUMNS = ("patientid", "finding", "view", "modality", "folder", "filename")
_SLICES = frozenset({"axial", "coronal", "sagittal"})


def read_covid_chestxray(tree: Tree) -> Dataset:
    """Read the data set.

    Raises:
        InputError: see `datasets.read_dataset`.
    """
    collection, names = Collection(tree), names_of("covid-chestxray")
    path = tree.table("metadata.csv*")
    studies: list[str] = []
    found: list[Findings] = []
    rows = read_columns(path, COLUMNS, ["clinical_notes"]).iter_rows()
    for number, (patient, finding, view, modality, folder, name, text) in enumerate(rows, 2):
        origin = f"{path.name} row {number}"
        image = f"{folder}/{name}" if folder and name else name
        if modality.lower() != "x-ray" or view.lower() in _SLICES:
            collection.leave_out("image", origin, "other_modality", image)
            continue
        collection.add(origin, image, stem(name), patient, view=names.view(view), text=text)
        studies.append(stem(name))
        found.append(findings_of(re.split("[/,]", finding), names))
    return collection.finished(by_study(collection, label_lists(studies, found)))
