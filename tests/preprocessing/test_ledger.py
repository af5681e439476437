"""The ledger knows what was done, forgets what has changed, and keeps identities only where they are wanted."""

import errno
import os
import sqlite3
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import preprocessing.ledger
from preprocessing.conversion import Converted, Originals
from preprocessing.errors import InputError
from preprocessing.files import StoreNotWritable
from preprocessing.identity import pseudonym
from preprocessing.ledger import FILE_SCHEMA, Ledger, open_ledger
from preprocessing.manifest import ManifestRow
from preprocessing.sources import SourceImage
from preprocessing.store import IMAGE_SCHEMA, stored_arrays

KEY = b"k" * 32
VERSIONS = {"numpy": "2"}
EMPTY: dict[str, Any] = dict.fromkeys(IMAGE_SCHEMA)


def opened(path: Path, store: str = "s", *, identities: bool = True, versions: dict[str, str] = VERSIONS) -> Any:
    return open_ledger(path, store, versions, identities=identities)


def source(name: str, version: str = "1", row: ManifestRow | None = None) -> SourceImage:
    return SourceImage(f"/in/{name}", name, "", version, row)


def taken(name: str, frames: int = 1) -> Converted:
    file = pseudonym(KEY, "file", name)
    rows = [
        EMPTY
        | {"path": f"images/{file[:2]}/{file}_{frame}.npy", "image": f"i{name}{frame}", "frame": frame, "file": file}
        for frame in range(1, frames + 1)
    ]
    originals = Originals(f"sop {name}", f"study {name}", f"patient {name}", f"accession {name}")
    return Converted(file, rows=tuple(rows), sop=f"s{name}", study=f"t{name}", patient=f"p{name}", originals=originals)


def left_out(name: str, reason: str) -> Converted:
    return Converted(pseudonym(KEY, "file", name), reason, "why")


def outstanding(ledger: Ledger) -> list[str]:
    return [image.origin for image in ledger.outstanding({})]


def write_arrays(store: Path, *outcomes: Converted) -> None:
    for outcome in outcomes:
        for row in outcome.rows:
            (store / row["path"]).parent.mkdir(parents=True, exist_ok=True)
            (store / row["path"]).touch()


def test_what_is_recorded_is_not_outstanding_in_the_next_run(tmp_path: Path) -> None:
    images = [source(name) for name in ("b", "a", "c")]
    write_arrays(tmp_path, taken("b"))
    with opened(tmp_path / "ledger") as ledger:
        assert ledger.see(images, KEY) == 3
        assert outstanding(ledger) == ["b", "a", "c"], "in the order of discovery"
        ledger.record(images[0], taken("b"))
        ledger.record(images[1], left_out("a", "not_dicom"))
        assert (outstanding(ledger), ledger.count_outstanding()) == (["c"], 1)
    assert stat.S_IMODE((tmp_path / "ledger").stat().st_mode) == 0o600
    with opened(tmp_path / "ledger") as ledger:
        ledger.see(images, KEY)
        assert ledger.outdated() == set()
        ledger.forget([])
        assert outstanding(ledger) == ["c"]
        assert ledger.files()["reason"].to_list() == ["not_dicom", ""], "in the order of names"
        assert dict(ledger.files().schema) == FILE_SCHEMA
        assert dict(ledger.images().schema) == IMAGE_SCHEMA


def test_a_page_ends_where_the_next_begins(tmp_path: Path) -> None:
    names = [f"{number:04}" for number in range(2501)]
    with opened(tmp_path / "ledger") as ledger:
        ledger.see(map(source, names), KEY)
        found = []
        for image in ledger.outstanding({}):  # as `ingest` does: recorded while more are drawn
            found.append(image.origin)
            ledger.record(image, left_out(image.origin, "not_dicom"))
        assert found == names
        assert ledger.files().height == 2501


@pytest.mark.parametrize("change", ["version", "unknown version", "transient"])
def test_what_has_changed_is_outdated(tmp_path: Path, change: str) -> None:
    before = source("a", "" if change == "unknown version" else "1")
    outcome = left_out("a", "timed_out") if change == "transient" else taken("a", frames=2)
    write_arrays(tmp_path, outcome, taken("b"))
    with opened(tmp_path / "ledger") as ledger:
        ledger.see([before, source("b")], KEY)
        ledger.record(before, outcome)
        ledger.record(source("b"), taken("b"))
    with opened(tmp_path / "ledger") as ledger:
        ledger.see([replace(before, version="2") if change == "version" else before, source("b")], KEY)
        assert ledger.outdated() == {outcome.file}
        ledger.forget([outcome.file])
        assert outstanding(ledger) == ["a"]
        assert ledger.images()["image"].to_list() == ["ib1"]
        assert set(ledger.identities()["original"]) == {"b", "sop b", "study b", "patient b", "accession b"}


def test_an_array_that_is_gone_is_missed(tmp_path: Path) -> None:
    outcomes = [taken("a", frames=2), taken("b"), taken("c")]
    write_arrays(tmp_path, *outcomes)
    with opened(tmp_path / "ledger") as ledger:
        ledger.see(map(source, "abc"), KEY)
        for name, outcome in zip("abc", outcomes, strict=True):
            ledger.record(source(name), outcome)
        assert ledger.without_arrays(stored_arrays(tmp_path)) == set()
        for row in (outcomes[0].rows[1], outcomes[2].rows[0]):
            (tmp_path / row["path"]).unlink()
        assert ledger.without_arrays(stored_arrays(tmp_path)) == {outcomes[0].file, outcomes[2].file}


def test_what_is_gone_is_forgotten_and_not_outdated(tmp_path: Path) -> None:
    with opened(tmp_path / "ledger") as ledger:
        ledger.see([source("a"), source("b")], KEY)
        ledger.record(source("a"), taken("a"))
        ledger.record(source("b"), left_out("b", "not_dicom"))
        ledger.see([source("b")], KEY)
        write_arrays(tmp_path, taken("a"))
        assert ledger.outdated() == set()
        ledger.forget([])
        assert ledger.files()["reason"].to_list() == ["not_dicom"]
        assert ledger.images().is_empty()
        assert ledger.identities()["original"].to_list() == ["b"]


def test_frames_have_identities_of_their_own(tmp_path: Path) -> None:
    with opened(tmp_path / "ledger") as ledger:
        ledger.see([source("a"), source("b")], KEY)
        ledger.record(source("a"), taken("a", frames=2))
        ledger.record(source("b"), taken("b"))
        names = ledger.identities().filter(pl.col("kind") == "image")
        assert dict(names.select("pseudonym", "original").iter_rows()) == {
            "ia1": "sop a\0" + "1",
            "ia2": "sop a\0" + "2",
            "ib1": "sop b",
        }


def test_identities_that_are_not_wanted_are_erased_for_good(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    file = pseudonym(KEY, "file", "WARD7/a.dcm")
    outcome = replace(taken("a"), file=file, originals=Originals("1.2.WARD7", "WARD7", "DOE^WARD7", "WARD7"))
    with opened(path) as ledger:
        ledger.see([source("WARD7/a.dcm")], KEY)
        ledger.record(source("WARD7/a.dcm"), outcome)
    assert b"WARD7" in path.read_bytes()
    with opened(path, identities=False) as ledger:
        ledger.see([source("WARD7/a.dcm")], KEY)
        assert outstanding(ledger) == []
        assert ledger.identities().is_empty()
    assert b"WARD7" not in path.read_bytes()
    with pytest.raises(InputError, match="without identities"), opened(path):
        pass


def test_what_converted_is_remembered(tmp_path: Path) -> None:
    for version, name in (("1", "a"), ("2", "b"), ("2", "c")):
        with opened(tmp_path / "ledger", versions={"numpy": version}) as ledger:
            ledger.record(source(name), taken(name))
            found = ledger.versions()
    assert found == [{"versions": {"numpy": "1"}, "files": 1}, {"versions": {"numpy": "2"}, "files": 2}]


def test_a_manifest_row_comes_back_whole(tmp_path: Path) -> None:
    row = ManifestRow(7, "a.png", Path("/in/a.png"), "s", "p", "PA", "", "", "test")
    with opened(tmp_path / "ledger") as ledger:
        ledger.see([source("a", row=row)], KEY)
        (image,) = ledger.outstanding({7: row})
        assert image.row == row
        ledger.record(image, taken("a"))
        assert ledger.files()["split"].to_list() == ["test"]


def test_names_that_are_no_text_survive(tmp_path: Path) -> None:
    path = os.fsdecode(b"/in/f\xfcr.dcm")
    with opened(tmp_path / "ledger") as ledger:
        ledger.see([SourceImage(path, r"f\xfcr.dcm", "", "1")], KEY)
        (image,) = ledger.outstanding({})
        assert image.path == path


def test_a_ledger_belongs_to_one_store(tmp_path: Path) -> None:
    with opened(tmp_path / "ledger", "one"):
        pass
    with pytest.raises(InputError, match="another store"), opened(tmp_path / "ledger", "two"):
        pass


@pytest.mark.parametrize("damage", ["text", "middle"])
def test_a_damaged_ledger_is_one_sentence(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "ledger"
    with opened(path) as ledger:
        ledger.see(map(source, map(str, range(3000))), KEY)
    content = bytearray(path.read_bytes())
    content[0 if damage == "text" else 4096 :] = b"x" * (len(content) - (0 if damage == "text" else 4096))
    path.write_bytes(content)

    def use() -> None:
        with opened(path) as ledger:
            ledger.see([source("a")], KEY)

    with pytest.raises(InputError, match="is damaged; delete it"):
        use()


@pytest.mark.parametrize(
    ("name", "number"),
    [("SQLITE_FULL", errno.ENOSPC), ("SQLITE_READONLY", errno.EACCES), ("SQLITE_IOERR_WRITE", errno.EIO)],
)
def test_a_disk_that_takes_no_more_is_no_defect(tmp_path: Path, name: str, number: int) -> None:
    def fail() -> None:
        with opened(tmp_path / "ledger"):
            error = sqlite3.OperationalError("no")
            error.sqlite_errorname = name  # type: ignore[misc]
            raise error

    with pytest.raises(StoreNotWritable) as raised:
        fail()
    assert raised.value.number == number


def test_work_that_a_kill_costs_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing.ledger, "COMMIT_SECONDS", 0.0)
    with opened(tmp_path / "ledger") as ledger:
        ledger.see([source("a")], KEY)
        ledger.record(source("a"), taken("a"))
        with sqlite3.connect(f"file:{tmp_path / 'ledger'}?mode=ro&nolock=1", uri=True) as other:
            assert other.execute("SELECT count(*) FROM outcomes").fetchone() == (1,)
