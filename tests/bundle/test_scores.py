"""Predictions are joined with labels and patients by study and image, and refused by row where they cannot be."""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from local_mi.errors import ConfigurationError
from local_mi.predictions import PredictionTable
from local_mi.scores import Scores, blanks_as_negative, combine_views, read_scores

NAN = math.nan
LABELS = [[1, 0, None], [1, 0, None], [-1, 1, 0], [None, None, None]]
ITEMS = [
    {"image": f"images/{name}.png", "study": study, "patient": patient, "view": "PA", "label": label}
    for name, study, patient, label in zip(
        "abcd", ["s1", "s1", "s2", "s3"], ["p1", "p1", "p2", "p1"], LABELS, strict=True
    )
]
ROWS = [["s1", "a.png", "0.9", "0.1"], ["s1", "b.png", "0.7", "0.3"], ["s2", "c.png", "0", "1"]]


def write_datalist(folder: Path, items: Sequence[dict[str, object]] = ITEMS) -> str:
    path = folder / "datalist.json"
    path.write_text(json.dumps({"label_names": ["A", "B", "C"], "test": items}), encoding="utf-8")
    return str(path)


def write_table(
    folder: Path, rows: Sequence[Sequence[str]], header: Sequence[str] = ("study", "image", "A", "B")
) -> str:
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return str(folder / "predictions.csv")


def read(folder: Path, rows: Sequence[Sequence[str]], labels: Sequence[str] = ("A", "B")) -> Scores:
    return read_scores(write_table(folder, rows), write_datalist(folder), "test", labels)


def test_rows_are_joined_by_study_and_image_with_labels_by_name(tmp_path: Path) -> None:
    table = write_table(
        tmp_path,
        [["x", "0.25", "s2", "c.png", "0.5"], ["y", "1", "s1", "b.png", "0"]],
        ["remark", "C", "study", "image", "A"],
    )
    scores = read_scores(table, write_datalist(tmp_path), "test", ["C", "A"])
    assert scores.label_names == ("C", "A")
    assert scores.study.tolist() == ["s2", "s1"]
    assert scores.patient.tolist() == ["p2", "p1"]
    assert scores.image.tolist() == [str(tmp_path / "images" / name) for name in ("c.png", "b.png")]
    np.testing.assert_array_equal(scores.probabilities, [[0.25, 0.5], [1, 0]])
    np.testing.assert_array_equal(scores.labels, [[0, -1], [NAN, 1]])


def test_what_inference_writes_is_read(tmp_path: Path) -> None:
    table = PredictionTable(str(tmp_path / "predictions.csv"), ["A", "B"])
    batch = {"study": ["s1", "s2"], "file": ["/somewhere/a.png", "/somewhere/c.png"]}
    table(SimpleNamespace(state=SimpleNamespace(output={"pred": torch.tensor([[0.5, 0.25], [1, 0]])}, batch=batch)))
    table._write()
    scores = read_scores(table.path, write_datalist(tmp_path), "test", ["A", "B"])
    np.testing.assert_array_equal(scores.probabilities, [[0.5, 0.25], [1, 0]])


@pytest.mark.parametrize("cell", ["", "nan", "high", "-0.1", "1.01", "inf"])
def test_a_probability_that_is_none_is_refused_by_row_and_label(tmp_path: Path, cell: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^row 3 of .*predictions\.csv: the probability of B is "):
        read(tmp_path, [ROWS[0], ["s1", "b.png", "0.7", cell], ROWS[2]])


def test_a_row_that_ends_early_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^row 4 of .*probability of B is"):
        read(tmp_path, [*ROWS[:2], ROWS[2][:3]])


def test_five_rows_are_named_and_the_others_counted(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^rows 2, 3, 4, 5, 6 and 2 more of .*: unknown study") as raised:
        read(tmp_path, [["nobody", "a.png", "0.5", "0.5"]] + [[f"n{k}", "a.png", "0.5", "0.5"] for k in range(6)])
    assert "nobody" not in str(raised.value)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([*ROWS, ROWS[1]], r"^row 5 of .*: the study and image of an earlier row"),
        ([*ROWS, ["s9", "a.png", "0.5", "0.5"]], r"^row 5 of .*: unknown study"),
        ([*ROWS, ["s2", "a.png", "0.5", "0.5"]], r"^row 5 of .*: unknown image"),
        ([], r"predictions\.csv are empty"),
        (ROWS[:2], "one patient only"),
        ([ROWS[0], ["s3", "d.png", "0.5", "0.5"]], "one patient only"),
    ],
)
def test_a_table_that_cannot_be_evaluated_is_refused(tmp_path: Path, rows: list[list[str]], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        read(tmp_path, rows)


def test_blank_lines_count_as_rows_but_are_skipped(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^row 4 of .*: unknown study"):
        read(tmp_path, [ROWS[0], [], ["s9", "a.png", "0.5", "0.5"], ROWS[2]])


@pytest.mark.parametrize("header", [["study", "image", "A"], ["study", "A", "B"], ["study", "image", "A", "B", "B"]])
def test_a_column_must_be_there_once(tmp_path: Path, header: list[str]) -> None:
    table = write_table(tmp_path, [["s1", "a.png", "0.5", "0.5", "0.5"]], header)
    with pytest.raises(ConfigurationError, match=r"predictions\.csv does not have one column (B|image);"):
        read_scores(table, write_datalist(tmp_path), "test", ["A", "B"])


def test_files_that_are_missing_or_no_table_are_refused(tmp_path: Path) -> None:
    datalist = write_datalist(tmp_path)
    with pytest.raises(ConfigurationError, match="predictions not found"):
        read_scores(str(tmp_path / "none.csv"), datalist, "test", ["A"])
    (tmp_path / "binary.csv").write_bytes(b"study,image\xff\xfe\n")
    with pytest.raises(ConfigurationError, match="not a CSV in UTF-8"):
        read_scores(str(tmp_path / "binary.csv"), datalist, "test", ["A"])
    with pytest.raises(ConfigurationError, match=r"split 'validation' of .* is empty"):
        read_scores(write_table(tmp_path, ROWS), datalist, "validation", ["A"])
    with pytest.raises(ConfigurationError, match="D: not a label"):
        read_scores(write_table(tmp_path, ROWS), datalist, "test", ["D"])


def test_a_label_value_that_is_none_is_refused(tmp_path: Path) -> None:
    datalist = write_datalist(tmp_path, [ITEMS[0], {**ITEMS[2], "label": [2, 0, None]}])
    with pytest.raises(ConfigurationError, match=r"item 1 of split 'test'.* none of 1, 0, -1 and null"):
        read_scores(write_table(tmp_path, ROWS[::2]), datalist, "test", ["A"])


def scores_of(studies: str, labels: list[float], probabilities: list[float]) -> Scores:
    return Scores(
        ("A",),
        np.array(list(studies)),
        np.array([f"p{study}" for study in studies]),
        np.array([f"i{k}" for k in range(len(studies))]),
        np.array(probabilities)[:, None],
        np.array(labels)[:, None],
    )


@pytest.mark.parametrize(("how", "expected"), [("mean", [0.5, 0.2, 0.6]), ("max", [0.9, 0.2, 0.7])])
def test_views_are_combined_in_the_order_of_first_appearance(how: str, expected: list[float]) -> None:
    scores = scores_of("zazmm", [1, 0, 1, NAN, NAN], [0.9, 0.2, 0.1, 0.5, 0.7])
    combined = combine_views(scores, how)  # type: ignore[arg-type]
    assert combined.study.tolist() == ["z", "a", "m"]
    assert combined.patient.tolist() == ["pz", "pa", "pm"]
    assert combined.image.tolist() == ["i0", "i1", "i3"]
    np.testing.assert_allclose(combined.probabilities[:, 0], expected)
    np.testing.assert_array_equal(combined.labels[:, 0], [1, 0, NAN])


@pytest.mark.parametrize("labels", [[1, 0], [1, NAN], [-1, 0]])
def test_images_of_a_study_must_agree_in_their_labels(labels: list[float]) -> None:
    with pytest.raises(ConfigurationError, match="different labels"):
        combine_views(scores_of("aa", labels, [0.5, 0.5]), "mean")


def test_an_unknown_way_to_combine_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'mean' or 'max'"):
        combine_views(scores_of("ab", [1, 0], [0.5, 0.5]), "median")  # type: ignore[arg-type]


def test_blanks_become_negative_and_uncertain_labels_stay() -> None:
    scores = scores_of("abcd", [1, NAN, -1, 0], [0.5] * 4)
    np.testing.assert_array_equal(blanks_as_negative(scores).labels[:, 0], [1, 0, -1, 0])
    np.testing.assert_array_equal(scores.labels[:, 0], [1, NAN, -1, 0])
