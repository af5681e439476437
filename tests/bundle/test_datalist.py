"""What comes out of a datalist, and one clear sentence for each way in which it cannot be used."""

import copy
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from local_mi.datalist import (
    _patient_subset,
    datalist_hash,
    described,
    known_preprocessing,
    preprocessing_of,
    read_datalist,
    read_images,
    read_labelled,
    read_pairs,
    stored_range,
)
from local_mi.errors import ConfigurationError
from local_mi.images import OWN_SCALE
from local_mi.predictions import write_predictions

LABELS = ["Edema", "Nodule", "Rare"]
Change = Callable[[dict[str, Any]], object]


def content() -> dict[str, Any]:
    """Six studies of four patients; `Rare` is never known in training."""
    rows = [
        ("a", "p0", "PA", ["Edema."], [1, 0, None]),
        ("b", "p0", "LATERAL", ["Edema."], [1, 0, None]),
        ("c", "p1", "AP", [], [0, None, None]),
        ("d", "p2", "PA", ["No edema."], [0, -1, None]),
        ("e", "p3", "PA", ["Nodule."], [None, None, None]),
    ]
    keys = ("study", "patient", "view", "sentences", "label")
    training = [{"image": f"images/{row[0]}.npy", **dict(zip(keys, row, strict=True))} for row in rows]
    test = [{**training[0], "image": "images/f.npy", "study": "f", "patient": "p4", "label": [0, 1, 1]}]
    return {
        "label_names": LABELS,
        "preprocessing": {"preset": "voi", "size": 64, "range": [0, 255]},
        "training": training,
        "validation": [],
        "test": test,
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def write(change: Change = lambda _: None) -> str:
        changed = copy.deepcopy(content())
        change(changed)
        (tmp_path / "images").mkdir(exist_ok=True)
        for name in "abcdef":
            np.save(tmp_path / "images" / f"{name}.npy", np.zeros((4, 4), np.uint8))
        path = tmp_path / "datalist.json"
        path.write_text(json.dumps(changed), encoding="utf-8")
        return str(path)

    return write


def studies(items: list[dict[str, Any]]) -> list[str]:
    return [item["study"] for item in items]


def test_pairs_have_an_image_and_a_sentence(write: Callable[..., str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        pairs = read_pairs(write(), "training", None)
    assert studies(pairs) == ["a", "b", "d", "e"]
    assert all(Path(item["image"]).is_file() for item in pairs)
    assert "1 of 5 items" in caplog.text
    assert "edema" not in caplog.text.lower()  # no report text in logs


def test_only_the_views_asked_for_are_kept(write: Callable[..., str]) -> None:
    assert studies(read_pairs(write(), "training", ["PA"])) == ["a", "d", "e"]
    assert studies(read_images(write(), "training", ["LATERAL", "AP"])) == ["b", "c"]


def test_labels_come_in_the_order_asked_for_and_unlabelled_items_do_not(write: Callable[..., str]) -> None:
    items = read_labelled(write(), "training", None, ["Nodule", "Edema"])
    assert {item["study"]: item["label"] for item in items} == {
        "a": [0, 1],
        "b": [0, 1],
        "c": [None, 0],
        "d": [-1, 0],
    }
    assert all(set(item) == {"image", "file", "study", "patient", "item", "label"} for item in items)


def test_inference_needs_no_label(write: Callable[..., str]) -> None:
    items = read_images(write(), "test", None)
    assert [set(item) for item in items] == [{"image", "file", "study", "patient", "item"}]
    assert items[0]["file"] == items[0]["image"]


def test_absolute_image_paths_are_taken_as_they_are(write: Callable[..., str], tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.npy"
    np.save(elsewhere, np.zeros((4, 4), np.uint8))
    path = write(lambda d: d["test"][0].update(image=str(elsewhere)))
    assert read_images(path, "test", None)[0]["image"] == str(elsewhere)


def test_the_hash_is_of_the_file_and_preprocessing_travels(write: Callable[..., str]) -> None:
    first = datalist_hash(write())
    assert datalist_hash(write()) == first
    assert datalist_hash(write(lambda d: d.update(name="other"))) != first
    assert preprocessing_of(write()) == {"preset": "voi"}, "size and values are the network's own"
    assert preprocessing_of(write(lambda d: d.pop("preprocessing"))) == {}


def test_the_stored_range_is_that_of_eight_bits_where_nothing_else_is_said(write: Callable[..., str]) -> None:
    assert stored_range(write(lambda d: d["preprocessing"].update(range=[0, 65535]))) == (0, 65535)
    assert stored_range(write(lambda d: d["preprocessing"].pop("range"))) == (0, 255)
    assert stored_range(write(lambda d: d.pop("preprocessing"))) == (0, 255)


@pytest.mark.parametrize("found", [None, 255, [0], [0, 0], [255, 0], [-1, 255], [0, 65536], ["0", "255"], "09"])
def test_a_range_that_no_image_has_is_refused(write: Callable[..., str], found: Any) -> None:
    datalist = write(lambda d: d["preprocessing"].update(range=found))
    for use in (stored_range, lambda path: read_images(path, "test", None)):
        with pytest.raises(ConfigurationError, match=r"`range` .* under `preprocessing`; write"):
            use(datalist)


@pytest.mark.parametrize("found", [None, "voi", ["voi"]])
def test_preprocessing_that_is_no_object_is_refused(write: Callable[..., str], found: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"`preprocessing` of datalist .* is not an object"):
        preprocessing_of(write(lambda d: d.update(preprocessing=found)))


REFUSALS: dict[str, tuple[Change, Callable[[str], object], str]] = {
    "empty split": (lambda d: None, lambda p: read_images(p, "validation", None), "split 'validation'.*is empty"),
    "missing split": (lambda d: d.pop("test"), lambda p: read_images(p, "test", None), "split 'test'.*missing"),
    "no such view": (
        lambda d: None,
        lambda p: read_pairs(p, "training", ["OBLIQUE"]),
        r"no image of the views \['OBLIQUE'\]; it has \['AP', 'LATERAL', 'PA'\]: set `views`",
    ),
    "image missing": (
        lambda d: d["test"][0].update(image="images/gone.npy"),
        lambda p: read_images(p, "test", None),
        "gone.npy of datalist .* is missing; run ingest again",
    ),
    "one study alone": (lambda d: None, lambda p: read_pairs(p, "test", None), "fewer than two studies"),
    "one study twice": (
        lambda d: d.update(test=2 * d["test"]),
        lambda p: read_pairs(p, "test", None),
        "fewer than two studies",
    ),
    "unknown label": (
        lambda d: None,
        lambda p: read_labelled(p, "training", None, ["Edema", "Oedema"]),
        "Oedema: not a label of .*, which has Edema, Nodule, Rare; set `label_names`",
    ),
    "label never known": (
        lambda d: None,
        lambda p: read_labelled(p, "training", None, LABELS),
        r"Rare: no known value \(0 or 1\) in split 'training'",
    ),
    "no item with a known label": (
        lambda d: [item.update(label=[None] * 3) for item in d["test"]],
        lambda p: read_labelled(p, "test", None, LABELS),
        "split 'test' .* has no image with a known label",
    ),
    "fraction zero": (
        lambda d: None,
        lambda p: read_labelled(p, "training", None, ["Edema"], patient_fraction=0.0),
        "label_fraction is 0.0; it must be above 0 and at most 1",
    ),
    "fraction above one": (
        lambda d: None,
        lambda p: read_labelled(p, "training", None, ["Edema"], patient_fraction=1.5),
        "label_fraction is 1.5",
    ),
}
MALFORMED: dict[str, tuple[Change, Callable[[str], object]]] = {
    "item without image": (lambda d: d["test"][0].pop("image"), lambda p: read_images(p, "test", None)),
    "item without patient": (lambda d: d["test"][0].pop("patient"), lambda p: read_images(p, "test", None)),
    "item without study": (lambda d: d["training"][0].pop("study"), lambda p: read_pairs(p, "training", None)),
    "item without label": (
        lambda d: d["test"][0].pop("label"),
        lambda p: read_labelled(p, "test", None, ["Edema"]),
    ),
    "too few labels": (
        lambda d: d["test"][0].update(label=[1]),
        lambda p: read_labelled(p, "test", None, ["Nodule"]),
    ),
    "items that are no objects": (lambda d: d.update(test=["a.npy"]), lambda p: read_images(p, "test", None)),
}


@pytest.mark.parametrize(("change", "read", "message"), REFUSALS.values(), ids=REFUSALS)
def test_what_cannot_be_used_is_one_clear_sentence(
    write: Callable[..., str], change: Change, read: Callable[[str], object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as refusal:
        read(write(change))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("change", "read"), MALFORMED.values(), ids=MALFORMED)
def test_an_item_of_another_form_is_refused_by_name_of_the_datalist(
    write: Callable[..., str], change: Change, read: Callable[[str], object]
) -> None:
    with pytest.raises(ConfigurationError, match=r"datalist\.json"):
        read(write(change))


def test_a_missing_datalist_says_which_key_to_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"not found: .*absent\.json; set `dataset_dir`"):
        read_datalist(str(tmp_path / "absent.json"))


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe{}", b"[1, 2]", b'"text"', b"null", b'{"a": 1} x'])
def test_a_datalist_that_is_no_json_object_is_refused(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "datalist.json"
    path.write_bytes(damage)
    with pytest.raises(ConfigurationError, match=r"datalist\.json is not .*JSON.*make it again"):
        read_datalist(str(path))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=80),
    st.floats(0.001, 1),
    st.floats(0.001, 1),
    st.integers(0, 5),
)
def test_a_smaller_fraction_is_a_subset_of_whole_patients(
    patients: list[int], one: float, other: float, seed: int
) -> None:
    items = [{"patient": f"p{patient}", "image": str(k)} for k, patient in enumerate(patients)]
    small, large = (_patient_subset(items, fraction, seed) for fraction in sorted((one, other)))
    assert [item for item in large if item in small] == small
    kept = {item["patient"] for item in small}
    assert [item for item in items if item["patient"] in kept] == small
    assert len(kept) >= 1
    assert _patient_subset(items, 1.0, seed) == items


def test_another_seed_takes_other_patients_and_more_patients_move_nobody() -> None:
    items = [{"patient": f"p{k}"} for k in range(200)]
    first = _patient_subset(items, 0.5, 0)
    assert len(first) == 100
    assert first != _patient_subset(items, 0.5, 1)
    assert _patient_subset(items[::-1], 0.5, 0) == first[::-1]


@pytest.mark.parametrize(("patients", "percent"), [(100, 7), (100, 55), (100, 1), (1000, 11), (30, 10), (200, 29)])
def test_a_fraction_of_patients_is_exact_where_it_is_whole(patients: int, percent: int) -> None:
    """0.07 * 100 is 7.000000000000001 in binary, which must not become 8."""
    items = [{"patient": f"p{k}"} for k in range(patients)]
    assert len(_patient_subset(items, percent / 100, 0)) == -(-patients * percent // 100)


@pytest.mark.parametrize("array", [np.zeros((4, 4), np.float32), np.zeros((1, 4, 4), np.uint8), b"", b"no array"])
def test_images_that_would_be_scaled_wrongly_are_refused(write: Any, tmp_path: Path, array: Any) -> None:
    datalist = write()
    for path in (tmp_path / "images").iterdir():
        path.write_bytes(array) if isinstance(array, bytes) else np.save(path, array)
    with pytest.raises(ConfigurationError, match=r"image .*\.npy is"):
        read_images(datalist, "training", None)


@pytest.fixture
def pictures(tmp_path: Path) -> str:
    """Where the datalist of a folder of pictures would lie, if it had one."""
    folder = tmp_path / "pictures"
    (folder / "b" / "c").mkdir(parents=True)
    (folder / ".trash").mkdir()
    for name in ("z.npy", "b/c/a.npy", "b/a.npy", ".trash/x.npy", "b/._a.npy"):
        with (folder / name).open("wb") as file:
            np.save(file, np.zeros((4, 4), np.uint8))
    (folder / "notes.txt").write_text("no picture")
    return str(folder / "datalist.json")


def test_inference_takes_all_pictures_of_a_folder_without_a_datalist(pictures: str) -> None:
    items = read_images(pictures, "validation", ["LATERAL"])  # of a folder, neither split nor views are known
    assert studies(items) == ["b/a.npy", "b/c/a.npy", "z.npy"]
    assert [item["image"] for item in items] == [str(Path(pictures).parent / study) for study in studies(items)]
    assert tuple(stored_range(pictures)) == OWN_SCALE
    assert known_preprocessing(pictures) is None
    assert described(pictures)["counts"]["test"]["images"] == 3
    before = datalist_hash(pictures)
    Path(items[0]["image"]).unlink()
    assert datalist_hash(pictures) != before


def test_a_datalist_is_what_counts_where_there_is_one(write: Callable[..., str]) -> None:
    assert studies(read_images(write(), "test", None)) == ["f"]
    assert known_preprocessing(write()) == {"preset": "voi"}


def test_training_asks_for_a_datalist(pictures: str) -> None:
    for use in (preprocessing_of, lambda path: read_labelled(path, "training", None, LABELS)):
        with pytest.raises(ConfigurationError, match="datalist not found"):
            use(pictures)


def test_a_folder_without_pictures_is_one_clear_sentence(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(ConfigurationError, match=r"datalist not found.*for inference, a folder of images will do"):
            read_images(str(folder / "datalist.json"), "test", None)


def test_a_name_that_is_no_text_is_predicted_too(pictures: str, tmp_path: Path) -> None:
    folder = Path(pictures).parent
    (folder / "z.npy").rename(os.fsdecode(os.fsencode(folder) + b"/\xff.npy"))
    rows = [(item["study"], item["image"], [0.5]) for item in read_images(pictures, "test", None)]
    write_predictions(str(tmp_path / "predictions.csv"), ["Edema"], rows)
    assert (tmp_path / "predictions.csv").read_text(encoding="utf-8").splitlines()[-1] == "\\udcff.npy,\\udcff.npy,0.5"
