"""BRAX (Reis et al. 2022, doi 10.1038/s41597-022-01608-8): `master_spreadsheet_update.csv`, PNG files by `PngPath`.

A study is an AccessionNumber; labels are CheXpert's 14, of the study, and a blank is unknown. The set has no official
split.
"""

from preprocessing.datasets.collection import Collection, Dataset, Tree, read_columns, without_suffix
from preprocessing.datasets.labels import by_study, label_columns, names_of

COLUMNS = ("PngPath", "PatientID", "AccessionNumber", "ViewPosition")


def read_brax(tree: Tree) -> Dataset:
    """Read the data set.

    Raises:
        InputError: see `datasets.read_dataset`.
    """
    collection, names = Collection(tree, without_suffix), names_of("chexpert")
    path = tree.table("master_spreadsheet_update.csv*", "master_spreadsheet.csv*")
    table = read_columns(path, [*COLUMNS, *names.labels], renamed=names.same)
    for number, (image, patient, study, view) in enumerate(table.select(COLUMNS).iter_rows(), 2):
        collection.add(f"{path.name} row {number}", image, study, patient, view=view)
    labels = label_columns(collection, table, table["AccessionNumber"].to_list(), names, path.name)
    return collection.finished(by_study(collection, labels))
