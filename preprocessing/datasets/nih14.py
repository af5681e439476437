"""NIH ChestX-ray14 (Wang et al. 2017, arXiv:1705.02315): `Data_Entry_2017*.csv`, two split lists, PNG files.

The images lie in `images_001/images` to `images_012/images`, or all in one folder. An image is a study: the set says
which patient it is of, and nothing of studies. A label that `Finding Labels` does not list is absent. The official
lists tell training from test patients; validation patients are drawn from the training list.
"""

from pathlib import Path

from preprocessing.datasets.collection import Collection, Dataset, Tree, read_columns, stem
from preprocessing.datasets.labels import Findings, by_study, findings_of, label_lists, names_of
from preprocessing.errors import InputError, UnusableFile
from preprocessing.splits import TRAINING_OR_VALIDATION
from preprocessing.text_files import decoded

COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "View Position")
_NORMAL = "No Finding"


def read_nih14(tree: Tree) -> Dataset:
    """Read the data set.

    Raises:
        InputError: see `datasets.read_dataset`.
    """
    collection, names = Collection(tree), names_of("nih14")
    path = tree.table("Data_Entry_2017*.csv")
    splits = _listed(tree.table("train_val_list*.txt"), TRAINING_OR_VALIDATION)
    for image, split in _listed(tree.table("test_list*.txt"), "test").items():
        if splits.setdefault(image, split) != split:
            raise InputError(
                f"{tree.root}: the training and the test list both name an image; put the official lists there"
            )
    studies: list[str] = []
    found: list[Findings] = []
    for number, (image, findings, patient, view) in enumerate(read_columns(path, COLUMNS).iter_rows(), 2):
        origin, study = f"{path.name} row {number}", stem(image)
        if image and image not in splits:
            collection.leave_out("image", origin, "not_in_split_lists", image)
            continue
        collection.add(origin, image, study, patient, view=view, split=splits.get(image, ""))
        listed = findings_of(findings.split("|"), names)
        contradicts = _NORMAL in listed.present and len(listed.present) > 1
        is_known = listed.present <= set(names.labels) and not contradicts
        if not is_known:
            collection.leave_out("label", origin, "label_value")
        studies.append(study)
        found.append(listed if is_known else Findings())
    return collection.finished(by_study(collection, label_lists(studies, found, names.labels)))


def _listed(path: Path, split: str) -> dict[str, str]:
    try:
        text, _ = decoded(path.read_bytes())
    except (OSError, UnusableFile) as error:
        raise InputError(
            f"{path}: cannot be read as text ({type(error).__name__}); put the official list there"
        ) from None
    return {line.strip(): split for line in text.splitlines() if line.strip()}
