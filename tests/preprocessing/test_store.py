"""A store belongs to one configuration, one key and one process at a time; a wrong request leaves nothing behind."""

import errno
import json
import os
from pathlib import Path

import polars as pl
import pytest

from preprocessing.errors import InputError
from preprocessing.files import StoreNotWritable
from preprocessing.store import IDENTITY_SCHEMA, open_store, remove_unlisted_images, write_identities, write_json

CONFIGURATION = {"preset": "voi", "size": 64, "split_fractions": (0.7, 0.1, 0.2)}


def test_a_store_is_stamped_before_anything_else_and_opens_again(tmp_path: Path) -> None:
    for _ in range(2):
        with open_store(tmp_path / "new" / "out", tmp_path / "private", CONFIGURATION) as opened:
            stamp = json.loads((opened.path / "store.json").read_text(encoding="utf-8"))
            assert stamp["configuration"]["preset"] == "voi"
            assert stamp["configuration_hash"] == opened.configuration_hash
            assert opened.key.hex() not in json.dumps(stamp)
            assert opened.key.hex() not in repr(opened)


def test_another_configuration_is_refused_by_name(tmp_path: Path) -> None:
    with open_store(tmp_path / "out", tmp_path / "private", CONFIGURATION):
        pass
    before = sorted(tmp_path.rglob("*"))
    with (
        pytest.raises(InputError, match="preset was 'voi' and is 'percentile'"),
        open_store(tmp_path / "out", tmp_path / "private", {**CONFIGURATION, "preset": "percentile"}),
    ):
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_no_store_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(InputError, match="neither empty nor a store"), open_store(tmp_path, tmp_path.parent / "p", {}):
        pass
    assert (tmp_path / "thesis.txt").exists()
    with pytest.raises(InputError, match="is a file"), open_store(tmp_path / "thesis.txt", tmp_path.parent / "p", {}):
        pass


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": "other", "version": 1, "configuration": {}}'])
def test_a_foreign_stamp_is_refused(tmp_path: Path, content: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "store.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="store of"), open_store(out, tmp_path / "private", {}):
        pass


def test_a_lost_or_another_key_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with open_store(tmp_path / name, tmp_path / f"{name}.private", CONFIGURATION):
            pass
    with (
        pytest.raises(InputError, match="is not the key"),
        open_store(tmp_path / "one", tmp_path / "two.private", CONFIGURATION),
    ):
        pass
    (tmp_path / "one.private" / "key").unlink()
    with (
        pytest.raises(InputError, match="is missing"),
        open_store(tmp_path / "one", tmp_path / "one.private", CONFIGURATION),
    ):
        pass


def test_a_key_may_lie_elsewhere_and_is_never_made_there(tmp_path: Path) -> None:
    key = tmp_path / "vault" / "key"
    with (
        pytest.raises(InputError, match="there is no such key file; make one with"),
        open_store(tmp_path / "out", tmp_path / "private", CONFIGURATION, key=key),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
    key.parent.mkdir()
    key.write_text("ab" * 32, encoding="ascii")
    key.chmod(0o640)
    with (
        pytest.raises(InputError, match="others can read this key"),
        open_store(tmp_path / "out", tmp_path / "private", CONFIGURATION, key=key),
    ):
        pass
    key.chmod(0o600)
    with open_store(tmp_path / "out", tmp_path / "private", CONFIGURATION, key=key) as opened:
        assert opened.key == bytes([0xAB]) * 32
        assert not (tmp_path / "private" / "key").exists()
    with (
        pytest.raises(InputError, match="is missing"),
        open_store(tmp_path / "out", tmp_path / "private", CONFIGURATION),
    ):
        pass
    with (
        pytest.raises(InputError, match="inside"),
        open_store(tmp_path / "out", tmp_path / "private", CONFIGURATION, key=tmp_path / "out" / "key"),
    ):
        pass


def test_two_new_stores_cannot_take_one_private_folder(tmp_path: Path) -> None:
    with open_store(tmp_path / "one", tmp_path / "private", CONFIGURATION):
        with (
            pytest.raises(InputError, match="another job is writing to this private folder"),
            open_store(tmp_path / "two", tmp_path / "private", CONFIGURATION),
        ):
            pass
        assert not (tmp_path / "two").exists()
        assert (tmp_path / "private" / "key").exists()


def test_the_key_must_lie_outside(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="inside"), open_store(tmp_path / "out", tmp_path / "out" / "private", {}):
        pass
    assert not (tmp_path / "out").exists()


def test_two_at_once_are_not_let_in(tmp_path: Path) -> None:
    with open_store(tmp_path / "out", tmp_path / "private", CONFIGURATION):
        with (
            pytest.raises(InputError, match="another job"),
            open_store(tmp_path / "out", tmp_path / "private", CONFIGURATION),
        ):
            pass
        assert (tmp_path / "out" / "store.json").exists()


def test_a_wrong_request_leaves_nothing_of_a_new_store(tmp_path: Path) -> None:
    def request() -> None:
        with open_store(tmp_path / "a" / "out", tmp_path / "b" / "private", CONFIGURATION) as opened:
            (opened.path / "images" / "ab").mkdir(parents=True)
            raise InputError("nothing usable")

    with pytest.raises(InputError, match="nothing usable"):
        request()
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_request_loses_no_work(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def request() -> None:
        with open_store(out, tmp_path / "private", CONFIGURATION):
            (out / "images" / "ab").mkdir(parents=True, exist_ok=True)
            (out / "images" / "ab" / "new.npy").write_bytes(b"new")
            (tmp_path / "private" / "ledger.sqlite").touch()
            raise InputError("no such labels")

    for _ in range(2):
        with pytest.raises(InputError, match="no such labels"):
            request()
        assert [path.name for path in (out / "images" / "ab").iterdir()] == ["new.npy"]
        assert (tmp_path / "private" / "key").exists()
        assert (tmp_path / "private" / "ledger.sqlite").exists()


def test_unlisted_arrays_go(tmp_path: Path) -> None:
    for name in ("aa/1.npy", "aa/2.npy", "bb/3.npy"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    remove_unlisted_images(tmp_path, ["images/aa/1.npy"])
    assert [p.relative_to(tmp_path).as_posix() for p in sorted((tmp_path / "images").rglob("*"))] == [
        "images/aa",
        "images/aa/1.npy",
    ]


def test_leftovers_of_killed_runs_go_when_the_store_opens(tmp_path: Path) -> None:
    out, private = tmp_path / "out", tmp_path / "private"
    with open_store(out, private, CONFIGURATION):
        (out / "images" / "ab").mkdir(parents=True)
    leftovers = [out / ".images.parquet.7.tmp", out / "images" / "ab" / ".x.npy.7.tmp", private / ".key.7.tmp"]
    for leftover in leftovers:
        leftover.touch()
    with open_store(out, private, CONFIGURATION):
        assert not any(leftover.exists() for leftover in leftovers)
    assert (private / "key").exists()


def test_another_source_is_refused_and_not_told(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("one")
    for source in ("one", "link"):
        with open_store(tmp_path / "out", tmp_path / "private", CONFIGURATION, [tmp_path / source, None]) as opened:
            assert str(tmp_path) not in (opened.path / "store.json").read_text(encoding="utf-8")
    for sources in ([tmp_path / "two", None], [None, tmp_path / "one"], [tmp_path / "one", tmp_path / "two"]):
        with (
            pytest.raises(InputError, match="made from another source; ingest both from one parent folder"),
            open_store(tmp_path / "out", tmp_path / "private", CONFIGURATION, sources),
        ):
            pass


def test_a_side_table_belongs_to_one_store(tmp_path: Path) -> None:
    private = tmp_path / "private"
    source = tmp_path / "in"
    with open_store(tmp_path / "one", private, CONFIGURATION, [source]) as opened:
        write_identities(opened, pl.DataFrame([("ab", "patient", "P1")], schema=IDENTITY_SCHEMA, orient="row"))
    before = (private / "identity.parquet").read_bytes()
    for configuration, other in ((CONFIGURATION, tmp_path / "in2"), (CONFIGURATION | {"size": 17}, source)):
        with (
            pytest.raises(InputError, match="another store"),
            open_store(tmp_path / "two", private, configuration, [other]),
        ):
            pass
        assert not (tmp_path / "two").exists()
    (tmp_path / "one").rename(tmp_path / "moved")
    with open_store(tmp_path / "moved", private, CONFIGURATION, [source]):
        pass
    assert (private / "identity.parquet").read_bytes() == before


def test_a_private_folder_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir()
    private.chmod(0o750)
    with pytest.raises(InputError, match="chmod 700"), open_store(tmp_path / "out", private, CONFIGURATION):
        pass
    assert not (tmp_path / "out").exists()
    private.chmod(0o700)
    with open_store(tmp_path / "out", private, CONFIGURATION):
        pass
    private.chmod(0o701)
    with pytest.raises(InputError, match="chmod 700"), open_store(tmp_path / "out", private, CONFIGURATION):
        pass


@pytest.mark.parametrize(
    ("store", "private"), [("file/out", "p"), ("x" * 300, "p"), ("out", "file/p"), ("/proc/o", "p")]
)
def test_places_that_cannot_be_made_are_named(tmp_path: Path, store: str, private: str) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=r"cannot be written|not a key file"),
        open_store(tmp_path / store, tmp_path / private, CONFIGURATION),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_links_that_form_a_loop_are_an_error_of_the_request(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="loop"), open_store(tmp_path / "out", tmp_path / "loop" / "p", CONFIGURATION):
        pass
    with pytest.raises(InputError, match="loop"), open_store(tmp_path / "loop", tmp_path / "p", CONFIGURATION):
        pass


def test_a_disk_that_fills_up_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    def request() -> None:
        with open_store(tmp_path / "out", tmp_path / "private", CONFIGURATION):
            raise StoreNotWritable(errno.ENOSPC)

    with pytest.raises(InputError, match=r"out: cannot be written \(No space left on device\)"):
        request()
    assert list(tmp_path.iterdir()) == []


def test_json_is_strict_and_files_appear_whole(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"value": float("nan")})
    assert os.listdir(tmp_path) == []  # noqa: PTH208 -- hidden files count
