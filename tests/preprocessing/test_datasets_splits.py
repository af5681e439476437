"""Official parts of data sets are kept; where they have no validation part, it is drawn from the training part."""

from hypothesis import given
from hypothesis import strategies as st

from preprocessing.splits import TRAINING_OR_VALIDATION, assign_splits, official_split, split_of

patients = st.lists(st.text("0123456789abcdef", min_size=1, max_size=8), unique=True, min_size=1)


@given(patients, st.integers(0, 5))
def test_a_patient_for_training_or_validation_is_never_for_test(found: list[str], seed: int) -> None:
    official = {patient: {TRAINING_OR_VALIDATION} for patient in found}
    splits = assign_splits(found, official, seed, (0.7, 0.1, 0.2))
    assert set(splits.values()) <= {"training", "validation"}
    alone = {patient: assign_splits([patient], official, seed, (0.7, 0.1, 0.2))[patient] for patient in found}
    assert splits == alone  # no patient moves another


def test_official_parts_stay_and_the_rest_is_divided_in_proportion() -> None:
    found = [f"p{number}" for number in range(20_000)]
    official = {patient: {TRAINING_OR_VALIDATION} for patient in found} | {"a": {"test"}, "b": {"validation"}}
    splits = assign_splits([*found, "a", "b", "c"], official, 3, (0.7, 0.1, 0.2))
    assert (splits["a"], splits["b"]) == ("test", "validation")
    assert splits["c"] == split_of("c", 3, (0.7, 0.1, 0.2))
    share = sum(splits[patient] == "validation" for patient in found) / len(found)
    assert abs(share - 1 / 8) < 0.01  # four standard deviations are 0.0094


def test_without_fractions_all_of_them_are_for_training() -> None:
    found = {"a": {TRAINING_OR_VALIDATION}, "b": {TRAINING_OR_VALIDATION}}
    assert set(assign_splits(found, found, 0, (0.0, 0.0, 1.0)).values()) == {"training"}
    assert set(assign_splits(found, found, 0, (0.0, 0.5, 0.5)).values()) == {"validation"}
    assert set(assign_splits(found, found, 0, (0.5, 0.0, 0.5)).values()) == {"training"}


def test_the_names_of_parts() -> None:
    assert official_split("train_val") == TRAINING_OR_VALIDATION
    assert [official_split(name) for name in ("train", "validate", "TEST", "fold 1")] == [
        *("training", "validation", "test", None)
    ]
