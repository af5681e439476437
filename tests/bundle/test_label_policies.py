"""What training makes of labels that are uncertain, blank or rare, and the grades of an edema as labels."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_store
from hypothesis import given, settings
from hypothesis import strategies as st
from local_mi.datalist import read_labelled
from local_mi.errors import ConfigurationError
from local_mi.labels import apply_policies, labels_by_name, positive_weight
from local_mi.objectives import masked_binary_cross_entropy

NAMES = ["A", "B"]
ITEMS = [{"study": "s0", "label": [-1, 1]}, {"study": "s1", "label": [None, -1]}, {"study": "s2", "label": [0, None]}]


@pytest.mark.parametrize(
    ("uncertain", "blanks", "expected"),
    [
        ("ignore", "masked", [[-1, 1], [None, -1], [0, None]]),
        ("zeros", "masked", [[0, 1], [None, 0], [0, None]]),
        ("ones", "masked", [[1, 1], [None, 1], [0, None]]),
        ("ignore", "negative", [[-1, 1], [0, -1], [0, 0]]),
        ({"A": "ones"}, "masked", [[1, 1], [None, -1], [0, None]]),
        ({"A": "ones", "default": "zeros"}, "masked", [[1, 1], [None, 0], [0, None]]),
        ([0.7, 0.7], "masked", [[0.7, 1], [None, 0.7], [0, None]]),
    ],
)
def test_uncertain_and_blank_labels_become_what_their_policy_says(
    uncertain: Any, blanks: str, expected: list[list[Any]]
) -> None:
    assert apply_policies(ITEMS, NAMES, uncertain, blanks, seed=0) == expected


def test_smoothed_targets_fill_their_range_evenly_and_stay_the_same() -> None:
    items = [{"study": f"s{k}", "label": [-1]} for k in range(4000)]
    drawn = [row[0] for row in apply_policies(items, ["A"], [0.55, 0.85], "masked", seed=3)]
    assert drawn == [row[0] for row in apply_policies(items[::-1], ["A"], [0.55, 0.85], "masked", seed=3)][::-1]
    assert min(drawn) >= 0.55
    assert max(drawn) <= 0.85
    mean, deviation = sum(drawn) / 4000, 0.3 / math.sqrt(12)
    assert abs(mean - 0.7) < 4 * deviation / math.sqrt(4000)
    assert drawn != [row[0] for row in apply_policies(items, ["A"], [0.55, 0.85], "masked", seed=4)]


@pytest.mark.parametrize(
    ("uncertain", "blanks", "said"),
    [
        ("twos", "masked", "`uncertain` of A is 'twos'"),
        ([0.8, 0.2], "masked", "write ignore, zeros, ones, or two targets"),
        ([0.5], "masked", "two targets"),
        ({"C": "ones"}, "masked", "names C, which is not among `label_names`"),
        ("ignore", "positive", "write masked or negative"),
    ],
)
def test_an_unknown_policy_is_refused(uncertain: Any, blanks: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        apply_policies(ITEMS, NAMES, uncertain, blanks, seed=0)


def test_a_policy_reaches_the_items_of_training_and_their_loss(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", studies=24)
    path = store / "datalist.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["training"][0]["label"] = [-1, None, None]
    path.write_text(json.dumps(content), encoding="utf-8")
    names = ["Upper", "Lower"]
    without = read_labelled(str(path), "training", None, names)
    assert len(without) == len(content["training"]) - 1
    smoothed = read_labelled(str(path), "training", None, names, uncertain=[0.6, 0.8])
    assert len(smoothed) == len(content["training"])
    target = smoothed[0]["label"][0]
    assert 0.6 <= target <= 0.8
    logits = torch.tensor([[0.3, 2.0]])
    loss = masked_binary_cross_entropy(logits, torch.tensor([[target, math.nan]]))
    p = 1 / (1 + math.exp(-0.3))
    assert float(loss) == pytest.approx(-(target * math.log(p) + (1 - target) * math.log(1 - p)), rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([0, 1, -1, None]), min_size=1, max_size=12))
def test_balanced_positives_weigh_as_much_as_the_negatives(values: list[int | None]) -> None:
    items = [{"label": [value]} for value in values]
    weight = float(positive_weight(items, "balanced")[0])
    positives, negatives = values.count(1), values.count(0)
    assert weight == (pytest.approx(negatives / positives) if positives and negatives else 1.0)
    assert positive_weight(items, "none").tolist() == [1.0]


def test_the_loss_counts_a_positive_as_often_as_its_weight_says() -> None:
    logits, labels = torch.tensor([[0.5], [-1.0], [0.2]]), torch.tensor([[1.0], [0.0], [math.nan]])
    once = masked_binary_cross_entropy(logits[:1], labels[:1])
    weighted = masked_binary_cross_entropy(logits, labels, torch.tensor([3.0]))
    plain = masked_binary_cross_entropy(logits, labels)
    assert float(weighted) == pytest.approx(float(plain) + 2 * float(once) / 2)


def test_another_class_weighting_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="write none or balanced"):
        positive_weight(ITEMS, "squared")


def test_the_grades_of_an_edema_are_its_cumulative_decisions() -> None:
    names = [f"Edema Severity >= {grade}" for grade in (1, 2, 3)]
    items = [{"label": [1], "edema_severity": grade} for grade in (0, 1, 2, 3, None)]
    assert labels_by_name(items, ["A"], [*names, "A"]) == [
        [0, 0, 0, 1],
        [1, 0, 0, 1],
        [1, 1, 0, 1],
        [1, 1, 1, 1],
        [None, None, None, 1],
    ]


@pytest.mark.parametrize("grade", [4, -1, "2", 1.5])
def test_a_grade_beyond_the_scale_is_refused_by_its_item(tmp_path: Path, grade: Any) -> None:
    store = write_store(tmp_path / "store", studies=12)
    path = store / "datalist.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["training"][2]["edema_severity"] = grade
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"item 2 of split 'training'.*`edema_severity`"):
        read_labelled(str(path), "training", None, ["Upper"])


def test_a_patient_in_two_splits_is_refused_whichever_split_is_read(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", studies=24)
    path = store / "datalist.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["test"][1]["patient"] = content["training"][3]["patient"]
    path.write_text(json.dumps(content), encoding="utf-8")
    for split, number in (("training", 3), ("test", 1)):
        with pytest.raises(ConfigurationError, match=f"the patients of items {number} of split '{split}'"):
            read_labelled(str(path), split, None, ["Upper"])
    read_labelled(str(path), "validation", None, ["Upper"])
