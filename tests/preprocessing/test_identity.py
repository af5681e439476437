"""Pseudonyms depend on a key that is kept from others; splits depend on the patient alone."""

import hashlib
import hmac
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.errors import InputError
from preprocessing.identity import KINDS, load_or_create_key, make_private_folder, pseudonym
from preprocessing.splits import assign_splits, official_split, split_of

FRACTIONS = (0.7, 0.1, 0.2)


def test_a_pseudonym_is_the_hmac_of_rfc_2104() -> None:
    key = bytes(range(32))
    # Written out from RFC 2104: H((K ^ opad) || H((K ^ ipad) || text)), blocks of 64 bytes.
    padded = key + bytes(32)
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in padded) + b"patient\x00P1").digest()
    outer = hashlib.sha256(bytes(b ^ 0x5C for b in padded) + inner).hexdigest()
    assert pseudonym(key, "patient", "P1") == outer[:24]
    assert hmac.new(key, b"patient\x00P1", hashlib.sha256).hexdigest() == outer


def test_key_kind_and_value_all_matter() -> None:
    made = {pseudonym(key, kind, value) for key in (b"a" * 32, b"b" * 32) for kind in KINDS for value in ("1", "2", "")}
    assert len(made) == 2 * len(KINDS) * 3
    with pytest.raises(ValueError, match="kind"):
        pseudonym(b"a" * 32, "name", "x")


def test_a_new_key_is_for_its_owner_alone_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "private" / "key"
    key = load_or_create_key(path)
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert load_or_create_key(path) == key
    assert load_or_create_key(tmp_path / "other" / "key") != key


def test_a_folder_that_others_can_enter_is_not_private(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o755)
    with pytest.raises(InputError, match="chmod 700"):
        make_private_folder(tmp_path / "shared")
    with pytest.raises(InputError, match="chmod 700"):
        load_or_create_key(tmp_path / "shared" / "key")
    assert not (tmp_path / "shared" / "key").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    load_or_create_key(path)
    path.chmod(mode)
    with pytest.raises(InputError, match="chmod 600"):
        load_or_create_key(path)


@pytest.mark.parametrize("content", ["", "abc", "zz" * 32, "ab" * 31])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key"
    path.write_text(content, encoding="ascii")
    path.chmod(0o600)
    with pytest.raises(InputError, match="key"):
        load_or_create_key(path)


@given(st.sets(st.text(), min_size=1, max_size=20), st.text(), st.integers())
def test_one_patient_more_moves_nobody(patients: set[str], newcomer: str, seed: int) -> None:
    before = assign_splits(patients, {}, seed, FRACTIONS)
    after = assign_splits({*patients, newcomer}, {}, seed, FRACTIONS)
    assert all(after[patient] == split for patient, split in before.items())


def test_splits_have_the_sizes_asked_for_and_change_with_the_seed() -> None:
    patients = [f"patient {number}" for number in range(10_000)]
    first, second = ([split_of(patient, seed, FRACTIONS) for patient in patients] for seed in (0, 1))
    # Four standard deviations of a binomial with n = 10,000.
    for split, fraction in zip(("training", "validation", "test"), FRACTIONS, strict=True):
        assert abs(first.count(split) / 10_000 - fraction) < 4 * (fraction * (1 - fraction) / 10_000) ** 0.5
    assert first != second
    assert {split_of(patient, 0, (0.0, 1.0, 0.0)) for patient in patients} == {"validation"}


def test_official_splits_are_kept_and_must_not_tear_a_patient() -> None:
    kept = assign_splits(["a", "b"], {"a": {"test"}}, 0, (1.0, 0.0, 0.0))
    assert kept == {"a": "test", "b": "training"}
    with pytest.raises(InputError, match="1 patients"):
        assign_splits(["a"], {"a": {"test", "training"}}, 0, FRACTIONS)
    assert [official_split(name) for name in ("train", "Val", "TEST", "other")] == [
        "training",
        "validation",
        "test",
        None,
    ]
