"""A store is a function of its sources, key and configuration: however often, and however rudely, it was made."""

import hashlib
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import pytest
from made_archive import SMALL, contents, environment, items, reasons, result, write_image, write_report
from made_dicom import made, saved
from pydicom.fileset import FileSet

from preprocessing.configuration import IngestConfiguration
from preprocessing.errors import InputError
from preprocessing.identity import KEY_BYTES
from preprocessing.ingest import ingest


def key_file(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "the.key"
    path.write_text("ab" * KEY_BYTES + "\n", encoding="ascii")
    path.chmod(0o600)
    return path


def fresh(tmp_path: Path, name: str = "fresh", **arguments: Any) -> dict[str, bytes]:
    """What an undisturbed run over `in` makes, with the key of all stores here."""
    arguments = {"configuration": SMALL, "key": tmp_path / "the.key"} | arguments
    ingest(tmp_path / "in", tmp_path / name, **arguments)
    return result(tmp_path / name)


def test_a_later_run_converts_the_new_files_alone_and_gives_what_one_run_over_all_gives(tmp_path: Path) -> None:
    key, source, store = key_file(tmp_path), tmp_path / "in", tmp_path / "out"
    for number in range(4):
        write_image(source / f"{number}.dcm", number)
    (source / "clutter").write_bytes(b"x")
    write_report(tmp_path / "reports" / "1.2.1.txt")
    arguments = {"configuration": SMALL, "key": key, "reports": tmp_path / "reports"}
    assert ingest(source, store, **arguments).converted == 5
    assert ingest(source, store, **arguments).converted == 0
    kept = {path: path.stat().st_mtime_ns for path in (store / "images").rglob("*.npy")}
    write_image(source / "a" / "4.dcm", 4)
    write_image(source / "twin of 2", 2)  # a duplicate of a file that is in the store
    write_image(source / "other than 3", 3, WindowCenter="9")  # contradicts a file that is in the store
    write_report(tmp_path / "reports" / "1.2.4.txt")
    summary = ingest(source, store, **arguments)
    assert summary.converted == 3
    assert ingest(source, store, **arguments).converted == 0
    assert (summary.files.seen, summary.files.accepted, summary.files.duplicates) == (8, 4, 1)
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items() if path.exists())
    assert result(store) == fresh(tmp_path, reports=tmp_path / "reports")
    write_image(source / "0.dcm", 0, WindowCenter="77")  # changed
    (source / "1.dcm").unlink()  # gone
    (source / "other than 3").unlink()  # and with it the contradiction
    assert ingest(source, store, **arguments).converted == 2  # the array of 3 was not kept
    assert result(store) == fresh(tmp_path, "fresh2", reports=tmp_path / "reports")
    assert len(items(store)) == 4


def test_what_another_day_may_mend_is_tried_again(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "1.dcm", 1)
    (tmp_path / "in" / "2.dcm").symlink_to(tmp_path / "elsewhere")
    ingest(tmp_path / "in", tmp_path / "out", configuration=SMALL)
    assert reasons(tmp_path / "out") == {"2.dcm": "missing_file"}
    write_image(tmp_path / "elsewhere", 2)
    assert ingest(tmp_path / "in", tmp_path / "out", configuration=SMALL).converted == 1
    assert len(items(tmp_path / "out")) == 2


RUN = """
import sys
from pathlib import Path
from preprocessing.configuration import IngestConfiguration
from preprocessing.ingest import ingest

if __name__ == "__main__":
    source, store, key = map(Path, sys.argv[1:])
    ingest(source, store, key=key, configuration=IngestConfiguration(size=48, workers=2))
"""


def grow(source: Path, chain: int) -> None:
    """Add, change and remove files, a little of each."""
    for number in range(40 * chain, 40 * (chain + 1)):
        write_image(source / f"{number % 7}" / f"{number}.dcm", number, PatientID=f"P{number // 3}")
    (source / f"clutter {chain}").write_bytes(b"x")
    write_image(source / f"twin {chain}.dcm", 40 * chain, PatientID=f"P{40 * chain // 3}")
    if chain:
        write_image(source / "1" / "1.dcm", 1, WindowCenter=str(chain), PatientID="P0")
        (source / "2" / f"{chain * 7 + 2}.dcm").unlink()


@pytest.mark.parametrize("chain", range(2))
def test_a_run_that_is_killed_again_and_again_ends_as_an_undisturbed_one(tmp_path: Path, chain: int) -> None:
    """Five kills of a first run, and five of a run over a store that there is already."""
    key, source, store = key_file(tmp_path), tmp_path / "in", tmp_path / "out"
    script = tmp_path / "run.py"
    script.write_text(RUN, encoding="utf-8")
    command = [sys.executable, script, source, store, key]
    moments = random.Random(chain)
    grow(source, 0)
    if chain:
        subprocess.run(command, check=True, timeout=60, env=environment())
        grow(source, chain)
    longest = 4.0
    for _ in range(5):
        started = time.monotonic()
        with subprocess.Popen(command, start_new_session=True, env=environment()) as run:
            try:
                run.wait(moments.uniform(0.5, longest))
            except subprocess.TimeoutExpired:
                os.kill(run.pid, signal.SIGKILL)  # the job alone: its workers must notice
            else:
                longest = min(longest, time.monotonic() - started)
                assert run.returncode == 0
    subprocess.run(command, check=True, timeout=60, env=environment())
    killed = result(store)
    assert killed == fresh(tmp_path, configuration=IngestConfiguration(size=48, workers=2))
    assert not [path for path in store.rglob("*") if path.name.endswith(".tmp")]


@pytest.mark.parametrize("image_format", ["npy", "png"])
@pytest.mark.parametrize("bit_depth", [8, 16])
def test_stores_of_every_form_hold_the_same_pictures(tmp_path: Path, image_format: str, bit_depth: int) -> None:
    for number in range(2):
        write_image(tmp_path / "in" / f"{number}.dcm", number)
    key = key_file(tmp_path)
    configuration = replace(SMALL, image_format=image_format, bit_depth=bit_depth)
    for name, asked in (("plain", replace(SMALL, bit_depth=16)), ("out", configuration)):
        ingest(tmp_path / "in", tmp_path / name, configuration=asked, key=key)
    plain, found = (pl.read_parquet(tmp_path / name / "images.parquet") for name in ("plain", "out"))
    same = ["path", "sha256"]
    assert found.drop(same).equals(plain.drop(same))
    most = 2**bit_depth - 1
    for before, path in zip(plain["path"], found["path"], strict=True):
        expected = np.load(tmp_path / "plain" / before) / 65535
        stored = tmp_path / "out" / path
        array = np.load(stored) if image_format == "npy" else cv2.imread(str(stored), cv2.IMREAD_UNCHANGED)
        assert array.dtype == (np.uint8 if bit_depth == 8 else np.uint16)
        assert np.abs(array / most - expected).max() <= 0.51 / most
        assert path.endswith(image_format)
    assert (tmp_path / "out" / "contact_sheet.png").read_bytes() == (
        (tmp_path / "plain" / "contact_sheet.png").read_bytes()
        if bit_depth == 16
        else (tmp_path / "out" / "contact_sheet.png").read_bytes()
    )


def test_another_configuration_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "1.dcm", 1)
    ingest(tmp_path / "in", tmp_path / "out", configuration=SMALL)
    before = contents(tmp_path)
    for change in ({"bit_depth": 16}, {"burned_in": "accept"}, {"crop": True}, {"preset": "percentile"}):
        with pytest.raises(InputError, match=next(iter(change)).replace("_", "[_ ]")):
            ingest(tmp_path / "in", tmp_path / "out", configuration=replace(SMALL, **change))
    assert contents(tmp_path) == before
    ingest(tmp_path / "in", tmp_path / "out", configuration=replace(SMALL, workers=1))  # changes nothing in a store


def as_zip(source: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                opened.write(path, path.relative_to(source))
    return archive


def as_list(source: Path, listing: Path) -> Path:
    names = [str(path) for path in sorted(source.rglob("*")) if path.is_file()]
    listing.write_text("\n".join(["# a list", *names, ""]), encoding="utf-8")
    return listing


def as_directory(source: Path, folder: Path) -> Path:
    medium = FileSet()
    for path in sorted(source.rglob("*.dcm")):
        medium.add(path)
    medium.write(folder)
    return folder / "DICOMDIR"


@pytest.mark.parametrize(("form", "name"), [(as_zip, "a.zip"), (as_list, "a.txt"), (as_directory, "medium")])
def test_archives_lists_and_media_give_the_pictures_of_their_folder(
    tmp_path: Path, form: Callable[[Path, Path], Path], name: str
) -> None:
    key = key_file(tmp_path)
    for number in range(3):
        module = {"InstanceNumber": 1, "SeriesNumber": 1, "StudyID": "1", "StudyDate": "20200101", "StudyTime": "1200"}
        write_image(tmp_path / "in" / f"{number}.dcm", number, PatientName="Doe", **module)
    ingest(tmp_path / "in", tmp_path / "folder", configuration=SMALL, key=key)
    source = form(tmp_path / "in", tmp_path / name)
    summary = ingest(source, tmp_path / "out", configuration=SMALL, key=key)
    assert (summary.files.seen, summary.files.accepted) == (3, 3)
    tables = [pl.read_parquet(tmp_path / store / "images.parquet") for store in ("folder", "out")]
    same = ["image", "study", "patient", "view", "sha256", "mean", "rows"]
    assert tables[0].select(same).equals(tables[1].select(same))
    assert ingest(source, tmp_path / "out", configuration=SMALL, key=key).converted == 0


def test_a_grown_archive_is_read_for_its_new_members_alone(tmp_path: Path) -> None:
    for number in range(3):
        write_image(tmp_path / "in" / f"{number}.dcm", number)
    archive = as_zip(tmp_path / "in", tmp_path / "a.zip")
    ingest(archive, tmp_path / "out", configuration=SMALL)
    added = write_image(tmp_path / "3.dcm", 3)
    with zipfile.ZipFile(archive, "a") as opened:
        opened.write(added, "3.dcm")
    assert ingest(archive, tmp_path / "out", configuration=SMALL).converted == 1
    assert len(items(tmp_path / "out")) == 4


def test_policies_let_in_what_is_left_out_by_default(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "plain.dcm", 1)
    write_image(tmp_path / "in" / "raw.dcm", 2, PresentationIntentType="FOR PROCESSING")
    write_image(tmp_path / "in" / "burned.dcm", 3, BurnedInAnnotation="YES")
    write_image(tmp_path / "in" / "capture.dcm", 4, SOPClassUID="1.2.840.10008.5.1.4.1.1.7", ImageType="DERIVED")
    ingest(tmp_path / "in", tmp_path / "strict", configuration=SMALL)
    assert reasons(tmp_path / "strict") == {
        "raw.dcm": "for_processing",
        "burned.dcm": "burned_in_annotation",
        "capture.dcm": "secondary_capture",
    }
    lenient = replace(SMALL, for_processing="convert", burned_in="accept", captures="accept")
    summary = ingest(tmp_path / "in", tmp_path / "lenient", configuration=lenient)
    assert reasons(tmp_path / "lenient") == {}
    assert summary.flags["raw_converted"] == 1
    assert summary.flags["burned_in_annotation"] == 1


def test_without_identities_no_way_leads_back(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "1.dcm", 1, PatientID="ZWIEBEL", AccessionNumber="LAUCH")
    write_image(tmp_path / "in" / "2.dcm", 2, PatientID="ZWIEBEL", Modality="CT")
    ingest(tmp_path / "in", tmp_path / "out", configuration=SMALL, identities=False)
    private = tmp_path / "out.private"
    assert sorted(path.name for path in private.iterdir()) == [".lock", "key", "ledger.sqlite"]
    for name, content in (contents(private) | contents(tmp_path / "out")).items():
        for planted in (b"ZWIEBEL", b"LAUCH", b"1.dcm", b"1.2.3.1"):
            assert planted not in content, name
    write_image(tmp_path / "in" / "3.dcm", 3)
    assert ingest(tmp_path / "in", tmp_path / "out", configuration=SMALL, identities=False).converted == 1
    with pytest.raises(InputError, match="no-identities"):
        ingest(tmp_path / "in", tmp_path / "out", configuration=SMALL)


def test_identities_that_were_kept_can_be_left_out_later(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "1.dcm", 1, PatientID="ZWIEBEL")
    ingest(tmp_path / "in", tmp_path / "out", configuration=SMALL)
    private = tmp_path / "out.private"
    assert b"ZWIEBEL" in b"".join(contents(private).values())
    ingest(tmp_path / "in", tmp_path / "out", configuration=SMALL, identities=False)
    assert b"ZWIEBEL" not in b"".join(contents(private).values())


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda key: key.unlink(), "the.key"),
        (lambda key: key.chmod(0o644), "600"),
        (lambda key: key.write_text("short\n"), "the.key"),
        (lambda key: key.write_text("cd" * KEY_BYTES + "\n"), "key"),
    ],
    ids=["missing", "readable by everyone", "damaged", "another"],
)
def test_a_key_that_cannot_be_used_is_refused(tmp_path: Path, spoil: Callable[[Path], object], named: str) -> None:
    write_image(tmp_path / "in" / "1.dcm", 1)
    key = key_file(tmp_path)
    ingest(tmp_path / "in", tmp_path / "out", configuration=SMALL, key=key)
    spoil(key)
    before = result(tmp_path / "out")
    with pytest.raises(InputError, match=named):
        ingest(tmp_path / "in", tmp_path / "out", configuration=SMALL, key=key)
    assert result(tmp_path / "out") == before


def test_two_stores_with_one_key_have_the_same_pseudonyms(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "1.dcm", 1)
    key = key_file(tmp_path)
    for name in ("a", "b"):
        ingest(tmp_path / "in", tmp_path / name, configuration=SMALL, key=key)
    assert result(tmp_path / "a") == result(tmp_path / "b")
    ingest(tmp_path / "in", tmp_path / "c", configuration=SMALL)  # a key of its own
    assert items(tmp_path / "c")[0]["patient"] != items(tmp_path / "a")[0]["patient"]
    assert stat.S_IMODE((tmp_path / "c.private" / "key").stat().st_mode) == 0o600


def test_a_store_and_its_private_folder_may_move_together(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "1.dcm", 1)
    ingest(tmp_path / "in", tmp_path / "out", configuration=SMALL)
    for name in ("out", "out.private"):
        (tmp_path / "moved").mkdir(exist_ok=True)
        shutil.move(tmp_path / name, tmp_path / "moved" / name)
    assert ingest(tmp_path / "in", tmp_path / "moved" / "out", configuration=SMALL).converted == 0


def test_a_manifest_row_that_says_something_else_is_read_again(tmp_path: Path) -> None:
    key, table = key_file(tmp_path), tmp_path / "images.csv"
    for name in "ab":
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((20, 30), 99, np.uint8))
    arguments = {"manifest": table, "configuration": SMALL, "key": key}
    table.write_text("image,study,patient,view,split\na.png,s1,p1,PA,train\nb.png,s2,p2,PA,train\n", encoding="utf-8")
    assert ingest(None, tmp_path / "out", **arguments).converted == 2
    changed = "image,study,patient,view,split\nc.png,s3,p0,AP,test\na.png,s1,p0,LL,test\nb.png,s2,p2,PA,train\n"
    table.write_text(changed, encoding="utf-8")
    assert ingest(None, tmp_path / "out", **arguments).converted == 2  # a, and c, which is not there
    ingest(None, tmp_path / "fresh", **arguments)
    assert result(tmp_path / "out") == result(tmp_path / "fresh")
    assert sorted(item["view"] for item in items(tmp_path / "out")) == ["LATERAL", "PA"]


def test_a_private_folder_that_serves_two_places_mixes_nothing(tmp_path: Path) -> None:
    path, private = write_image(tmp_path / "in" / "1.dcm", 1), tmp_path / "private"
    for store in ("a", "b"):
        ingest(tmp_path / "in", tmp_path / store, configuration=SMALL, private=private)
    write_image(path, 1, WindowCenter="100", WindowWidth="10")
    for store in ("b", "a"):
        assert ingest(tmp_path / "in", tmp_path / store, configuration=SMALL, private=private).converted == 1
        (row,) = pl.read_parquet(tmp_path / store / "images.parquet").iter_rows(named=True)
        assert hashlib.sha256((tmp_path / store / row["path"]).read_bytes()).hexdigest() == row["sha256"]


def test_a_store_ceases_to_be_complete_only_where_an_array_may_change(tmp_path: Path) -> None:
    """Not for a file that can never be read; but where the ledger is gone, everything is made again."""
    write_image(tmp_path / "in" / "1.dcm", 1)
    (tmp_path / "in" / "2.dcm").symlink_to(tmp_path / "nowhere")
    ingest(tmp_path / "in", tmp_path / "out", configuration=SMALL)
    complete = []

    def look(done: int, total: int | None) -> None:
        complete.append((tmp_path / "out" / "run.json").exists())

    ingest(tmp_path / "in", tmp_path / "out", configuration=SMALL, on_progress=look)
    assert all(complete)
    (tmp_path / "out.private" / "ledger.sqlite").unlink()
    ingest(tmp_path / "in", tmp_path / "out", configuration=SMALL, on_progress=look)
    assert not complete[-1]


def test_a_file_whose_greys_are_no_numbers_costs_itself(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "1.dcm", 1)
    write_image(tmp_path / "in" / "2.dcm", 2, RescaleSlope="1E308", RescaleIntercept="-1E308")
    for _ in range(2):
        summary = ingest(tmp_path / "in", tmp_path / "out", configuration=SMALL)
        assert summary.files.accepted == 2
    assert summary.flags["rescale_malformed"] == 1


def test_frames_without_end_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "1.dcm", 1)
    many = made(np.zeros((3000, 1, 1), np.uint16), SOPInstanceUID="1.2.3.4")
    saved(tmp_path / "in", many, "many.dcm")
    ingest(tmp_path / "in", tmp_path / "out", configuration=replace(SMALL, size=1024))
    assert reasons(tmp_path / "out") == {"many.dcm": "too_large"}
