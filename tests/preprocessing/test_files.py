"""A file appears whole or not at all, and no two paths have the same text."""

import hashlib
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.files import path_text, sweep_temporaries, write_atomically


def test_a_file_replaces_another_and_keeps_to_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_atomically(path, b"one")
    assert write_atomically(path, [b"t", b"wo"], mode=0o600) == hashlib.sha256(b"two").hexdigest()
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "a"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"a": b"old"}


def test_only_temporary_names_are_swept(tmp_path: Path) -> None:
    for name in (".a.7.tmp", "a.tmp", ".lock", "b"):
        (tmp_path / name).touch()
    sweep_temporaries([tmp_path, tmp_path / "missing"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "a.tmp", "b"]


PARTS = [b"\xff", b"\\xff", b"\\", b"x", "ü".encode(), b"\xfc"]
NAMES = st.lists(st.sampled_from(PARTS), min_size=1, max_size=3).map(b"".join)


@given(NAMES, NAMES)
def test_names_of_any_bytes_become_text_and_stay_apart(one: bytes, two: bytes) -> None:
    texts = [path_text(os.fsdecode(name)) for name in (one, two)]
    assert (texts[0] == texts[1]) == (one == two)
    texts[0].encode("utf-8")


def test_a_backslash_in_a_name_is_not_taken_for_an_escape() -> None:
    assert path_text(os.fsdecode(b"a\xff")) == "a\\xff"
    assert path_text(r"a\xff") == r"a\\xff"
    assert path_text("Größe/ü") == "Größe/ü"
