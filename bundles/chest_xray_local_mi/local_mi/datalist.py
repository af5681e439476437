"""From a MONAI datalist on disk to the items that training and evaluation read.

A datalist is strict JSON: `label_names`, and lists of items under `training`, `validation` and `test`. An item holds
`image` (a path relative to the datalist), `study`, `patient`, `view`, `sentences` (list of text), `label` (1, 0, -1
uncertain, null unknown, in the order of `label_names`) and `edema_severity` (0 to 3, or null). `preprocessing` says how
the images were made; of it, the bundle reads `preset` and `range`, the stored values of black and white.

Inference needs no datalist: a folder of images without one is read as `image_folder` says.
"""

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from local_mi.errors import ConfigurationError
from local_mi.image_folder import FOLDER_SPLIT, folder_content
from local_mi.images import OWN_SCALE, is_image, read_image
from local_mi.labels import KNOWN, SEVERITY, Item, Policy, apply_policies, labels_by_name

logger = logging.getLogger(__name__)

SPLITS = ("training", "validation", "test")
EIGHT_BITS = (0, 255)  # of black and white where a datalist does not say
SIXTEEN_BITS_MAXIMUM = 65535


def read_datalist(datalist: str) -> dict[str, Any]:
    """The whole datalist as a dictionary.

    Raises:
        ConfigurationError: the file is missing or is not a JSON object.
    """
    path = Path(datalist)
    if not path.is_file():
        raise ConfigurationError(
            f"datalist not found: {path}; set `dataset_dir` to a store made by ingest; "
            "for inference, a folder of images will do"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_refuse_constant)
    except ValueError as error:
        raise ConfigurationError(f"datalist {path} is not valid JSON; make it again with ingest") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"datalist {path} is not a JSON object; make it again with ingest")
    return content


def datalist_hash(datalist: str) -> str:
    """SHA-256 in hexadecimal of the datalist file, or of a folder's file names: whether two runs saw the same data."""
    if content := folder_content(datalist):
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()
    read_datalist(datalist)
    return hashlib.sha256(Path(datalist).read_bytes()).hexdigest()


def preprocessing_of(datalist: str) -> dict[str, Any]:
    """How the images of the datalist were made: the `preset`, if it says so; travels with weights.

    Size, format and bit depth are left out: the network sees images of its own size with values in [0, 1] whichever
    they are.

    Raises:
        ConfigurationError: the datalist is missing or not one.
    """
    preprocessing = _preprocessing(read_datalist(datalist), datalist)
    return {"preset": preprocessing["preset"]} if "preset" in preprocessing else {}


def known_preprocessing(datalist: str) -> dict[str, Any] | None:
    """As `preprocessing_of`; None of a folder of images, which does not say how they were made.

    Raises:
        ConfigurationError: the datalist is not one, or there is neither a datalist nor an image.
    """
    return None if folder_content(datalist) else preprocessing_of(datalist)


def described(datalist: str) -> dict[str, Any]:
    """What a run's record says of its data, beside their hash.

    Returns:
        `prepared_as`, all that the datalist says of how its images were made; and `counts`, of each split the number of
        `images`, `studies` and `patients`, of all views.

    Raises:
        ConfigurationError: the datalist is missing or not one.
    """
    content = folder_content(datalist) or read_datalist(datalist)
    splits = {split: [item for item in content.get(split) or [] if isinstance(item, dict)] for split in SPLITS}
    counts = {
        split: {"images": len(items)}
        | {
            name: len({item.get(key) for item in items})
            for name, key in (("studies", "study"), ("patients", "patient"))
        }
        for split, items in splits.items()
    }
    return {"prepared_as": _preprocessing(content, datalist), "counts": counts}


def stored_range(datalist: str) -> tuple[float, float]:
    """The stored values that stand for black and white; those of 8 bits where the datalist does not say.

    Where there is no datalist, `OWN_SCALE`: other programs give images of their own to the transforms.

    Raises:
        ConfigurationError: the datalist is not one, or has a `range` that no 8-bit or 16-bit image has.
    """
    if not Path(datalist).is_file():
        return OWN_SCALE
    return _stored_range(read_datalist(datalist), datalist)


def _stored_range(content: dict[str, Any], datalist: str) -> tuple[float, float]:
    found = _preprocessing(content, datalist).get("range", EIGHT_BITS)
    try:
        low, high = found
        valid = 0 <= low < high <= SIXTEEN_BITS_MAXIMUM
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ConfigurationError(
            f"datalist {datalist} has the `range` {found} under `preprocessing`; write the values of black and white, "
            "[0, 255] or [0, 65535]"
        )
    return low, high


def _preprocessing(content: dict[str, Any], datalist: str) -> dict[str, Any]:
    preprocessing = content.get("preprocessing", {})
    if not isinstance(preprocessing, dict):
        raise ConfigurationError(f"`preprocessing` of datalist {datalist} is not an object; make it again with ingest")
    return preprocessing


def read_pairs(
    datalist: str, split: str, views: Sequence[str] | None, label_names: Sequence[str] | None = None
) -> list[Item]:
    """Items of a split that have both an image and at least one sentence: the pairs of pretraining.

    Args:
        datalist: path of the datalist.
        split: `training`, `validation` or `test`.
        views: the view positions to keep; None keeps all.
        label_names: the labels wanted, by name: each item then has `label` in their order, null where it has none.

    Raises:
        ConfigurationError: fewer than two studies remain, an image file is missing, a label is not in the datalist, or
            is nowhere known among the pairs of the training split.
    """
    content = read_datalist(datalist)
    items = _items_of_split(content, datalist, split, views)
    said = [[sentence for sentence in item.get("sentences", []) if _says_something(sentence)] for item in items]
    pairs = [item | {"sentences": sentences} for item, sentences in zip(items, said, strict=True) if sentences]
    if len(pairs) < len(items):
        logger.info(
            "%d of %d items of '%s' have no sentence and are left out", len(items) - len(pairs), len(items), split
        )
    if len({item["study"] for item in pairs}) < 2:
        raise ConfigurationError(
            f"split '{split}' of {datalist} has fewer than two studies with an image and a sentence; "
            "mutual information needs mismatched pairs, so ingest more studies with reports"
        )
    if label_names:
        pairs = _with_labels(pairs, content, label_names)
        _check_known(pairs, label_names, split, datalist)
    return pairs


def _says_something(sentence: str) -> bool:
    return any(map(str.isalnum, sentence))


def read_labelled(
    datalist: str,
    split: str,
    views: Sequence[str] | None,
    label_names: Sequence[str],
    *,
    patient_fraction: float = 1.0,
    seed: int = 0,
    uncertain: Policy | Mapping[str, Policy] = "ignore",
    blanks: str = "masked",
) -> list[Item]:
    """Items of a split that have at least one label to learn from, with `label` in the order of `label_names`.

    Args:
        datalist: path of the datalist.
        split: `training`, `validation` or `test`.
        views: the view positions to keep; None keeps all.
        label_names: the labels wanted, by name.
        patient_fraction: the share of the split's patients to keep, in (0, 1]. The order of patients is a hash of
            patient and seed, so that a smaller fraction is a subset of a larger one.
        seed: of that order, and of targets that are drawn.
        uncertain: what uncertain labels are taken for, and `blanks`, blank ones: see `labels.apply_policies`.
        blanks: see there.

    Raises:
        ConfigurationError: a label is not in the datalist, is nowhere known in the training split, or no item remains.
    """
    content = read_datalist(datalist)
    items = _with_labels(_items_of_split(content, datalist, split, views), content, label_names)
    targets = apply_policies(items, label_names, uncertain, blanks, seed)
    labelled = [
        item | {"label": target} for item, target in zip(items, targets, strict=True) if any(map(_is_known, target))
    ]
    if not labelled:
        raise ConfigurationError(f"split '{split}' of {datalist} has no image with a known label")
    _check_known(labelled, label_names, split, datalist)
    subset = _patient_subset(labelled, patient_fraction, seed)
    if unknown := _never_known(subset, label_names):
        logger.warning("no known value among %.3g of the patients: %s", patient_fraction, ", ".join(unknown))
    return [_for_classifier(item) | {"label": item["label"]} for item in subset]


def _check_known(items: list[Item], label_names: Sequence[str], split: str, datalist: str) -> None:
    """A label that is nowhere known is an error in the training split, and a warning elsewhere."""
    if unknown := _never_known(items, label_names):
        if split == "training":
            raise ConfigurationError(
                f"{', '.join(unknown)}: no known value (0 or 1) in split '{split}' of {datalist}; "
                "leave these out of `label_names` or use more data"
            )
        logger.warning("no known value in split '%s': %s", split, ", ".join(unknown))


def _never_known(items: list[Item], label_names: Sequence[str]) -> list[str]:
    return [name for k, name in enumerate(label_names) if not any(_is_known(item["label"][k]) for item in items)]


def _is_known(target: float | None) -> bool:
    """Whether a target takes part: 0, 1, or drawn between them for an uncertain label."""
    return target is not None and KNOWN[0] <= target <= KNOWN[1]


def read_images(
    datalist: str, split: str, views: Sequence[str] | None, stored: Sequence[float] | None = None
) -> list[Item]:
    """Items of a split with `image`, `file`, `study`, `patient` and `item` alone: what inference needs.

    Args:
        datalist: path of the datalist. Where there is none, all images of its folder are taken, whatever the split and
            the views, and `study` is the path of the file in it.
        split: `training`, `validation` or `test`.
        views: the view positions to keep; None keeps all.
        stored: the stored values that stand for black and white; None where the datalist says them.

    Raises:
        ConfigurationError: the split is empty, an image file is missing, or there is neither a datalist nor an image.
    """
    if (content := folder_content(datalist)) is not None:
        split, views = FOLDER_SPLIT, None
    else:
        content = read_datalist(datalist)
    return [_for_classifier(item) for item in _items_of_split(content, datalist, split, views, stored)]


def _check_item(item: Any, where: str, labels: int) -> None:
    """An item is an object with image, study and patient; its label, if there, has a value a name; sentences a list.

    Args:
        item: to check.
        where: it stands, for the error.
        labels: number of the datalist's `label_names`.

    Raises:
        ConfigurationError: something is missing or of another kind.
    """
    if not isinstance(item, dict):
        raise ConfigurationError(f"{where} is not an object; make the datalist again with ingest")
    missing = [key for key in ("image", "study", "patient") if not isinstance(item.get(key), str)]
    if missing:
        raise ConfigurationError(f"{where} has no {' and no '.join(missing)}; make the datalist again with ingest")
    if not isinstance(item.get("sentences", []), list):
        raise ConfigurationError(f"{where} has `sentences` that are not a list; make the datalist again with ingest")
    if not all(isinstance(sentence, str) for sentence in item.get("sentences", [])):
        raise ConfigurationError(f"{where} has a sentence that is no text; make the datalist again with ingest")
    label = item.get("label", [])
    if not isinstance(label, list) or len(label) not in (0, labels):
        raise ConfigurationError(f"{where} has a `label` that does not match the {labels} `label_names`")
    if not all(value in (1, 0, -1, None) for value in label):
        raise ConfigurationError(f"{where} has a label value that is none of 1, 0, -1 and null")
    if item.get(SEVERITY) not in (0, 1, 2, 3, None):
        raise ConfigurationError(f"{where} has an `{SEVERITY}` that is none of 0, 1, 2, 3 and null")


def checked_items(content: dict[str, Any], datalist: str, split: str) -> list[Item]:
    """The items of a split as they stand in the datalist; their images need not be there.

    Raises:
        ConfigurationError: the split is empty, or an item is not as `_check_item` wants it.
    """
    items: list[Item] = content.get(split) or []
    if not items:
        raise ConfigurationError(f"split '{split}' of {datalist} is empty or missing; ingest more patients")
    for number, item in enumerate(items):
        _check_item(item, f"item {number} of split '{split}' of {datalist}", len(content.get("label_names", [])))
    return items


def _items_of_split(
    content: dict[str, Any],
    datalist: str,
    split: str,
    views: Sequence[str] | None,
    stored: Sequence[float] | None = None,
) -> list[Item]:
    if isinstance(views, str):
        raise ConfigurationError(f"`views` is the text {views!r}; write a list, for instance \"['PA','AP']\"")
    items = checked_items(content, datalist, split)
    _refuse_straddling(content, datalist, split)
    kept = [{**item, "item": k} for k, item in enumerate(items) if views is None or item.get("view") in views]
    if not kept:
        found = sorted({str(item.get("view")) for item in items})
        raise ConfigurationError(
            f"split '{split}' of {datalist} has no image of the views {list(views or [])}; it has {found}: set `views`"
        )
    root = Path(datalist).parent
    for item in kept:
        path = root / item["image"]
        if not path.is_file():
            raise ConfigurationError(f"image {path} of datalist {datalist} is missing; run ingest again")
        item["image"] = str(path)
    _check_image(Path(kept[0]["image"]), stored or _stored_range(content, datalist))
    return kept


def _refuse_straddling(content: dict[str, Any], datalist: str, split: str) -> None:
    """A patient in two splits would let a network be tested on whom it was trained on."""
    elsewhere = {
        item.get("patient")
        for other in SPLITS
        if other != split
        for item in content.get(other) or []
        if isinstance(item, dict)
    }
    numbers = [number for number, item in enumerate(content[split]) if item["patient"] in elsewhere]
    if numbers:
        more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
        raise ConfigurationError(
            f"the patients of items {', '.join(map(str, numbers[:5]))}{more} of split '{split}' of {datalist} are in "
            "another split too; a patient belongs to one split alone: make the datalist again with ingest"
        )


def _check_image(path: Path, stored: Sequence[float]) -> None:
    """The first image stands for all: what is wrong with it is said before anything is built, and not by a worker."""
    if is_image(path):  # others are read by whatever reader the configuration names
        read_image(path, stored)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not strict JSON")


def _for_classifier(item: Item) -> Item:
    return {"image": item["image"], "file": item["image"]} | {key: item[key] for key in ("study", "patient", "item")}


def _with_labels(items: list[Item], content: dict[str, Any], label_names: Sequence[str]) -> list[Item]:
    """The items with `label` in the order of `label_names`."""
    labels = labels_by_name(items, content.get("label_names", []), label_names)
    return [item | {"label": label} for item, label in zip(items, labels, strict=True)]


def _patient_subset(items: list[Item], fraction: float, seed: int) -> list[Item]:
    if not (isinstance(fraction, int | float) and 0 < fraction <= 1):
        raise ConfigurationError(f"label_fraction is {fraction}; it must be above 0 and at most 1")
    patients = sorted(
        {item["patient"] for item in items},
        key=lambda patient: hashlib.sha256(f"{seed}/{patient}".encode()).digest(),
    )
    kept = set(patients[: math.ceil(round(fraction * len(patients), 9))])  # 0.07 * 100 is 7.000000000000001
    return [item for item in items if item["patient"] in kept]
