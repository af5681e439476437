"""VinDr-CXR (Nguyen et al. 2022, doi 10.1038/s41597-022-01498-w): `train/` and `test/` with `<image_id>.dicom`.

`annotations/image_labels_train.csv` has a row for each of three readers of an image, and a label is what most of them
say; where as many say one thing as the other it is unknown. `image_labels_test.csv` has a row an image, a consensus.
The headers name no patient, study or modality: an image is taken for a study and a patient. All images are PA, as the
set's authors say. Validation images are drawn from the official training part.
"""

import polars as pl

from preprocessing.datasets.collection import Collection, Dataset, Tree, read_columns
from preprocessing.datasets.labels import by_study, label_columns, names_of
from preprocessing.splits import TRAINING_OR_VALIDATION

_PARTS = {"train": TRAINING_OR_VALIDATION, "test": "test"}


def read_vindr_cxr(tree: Tree) -> Dataset:
    """Read the data set.

    Raises:
        InputError: see `datasets.read_dataset`.
    """
    collection, names = Collection(tree), names_of("vindr-cxr")
    labels = []
    for part, split in _PARTS.items():
        path = tree.table(f"image_labels_{part}.csv*")
        table = read_columns(path, ["image_id", *names.labels], renamed=names.same)
        ids = table["image_id"].to_list()
        taken: set[str] = set()
        for number, image in enumerate(ids, 2):
            if image not in taken:  # readers of one image follow each other or not
                file = f"{part}/{image}.dicom" if image else ""
                collection.add(f"{path.name} row {number}", file, image, image, view="PA", split=split)
            taken.add(image)
        values = label_columns(collection, table, ids, names, path.name, (1.0, 0.0))
        labels.append(values.group_by("study", maintain_order=True).agg(_majority(name) for name in names.labels))
    return collection.finished(by_study(collection, pl.concat(labels)))


def _majority(name: str) -> pl.Expr:
    """What most readers say; null where there is none, or as many for one as for the other."""
    share = pl.col(name).mean()
    return pl.when(share != 0.5).then(share.round().cast(pl.Int8)).alias(name)
