"""Every image of a folder, archive, disc or list comes once, whatever it is called, and no archive can do harm."""

import multiprocessing
import os
import pickle
import stat
import struct
import subprocess
import time
import tracemalloc
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.fileset import FileSet

from preprocessing import archives
from preprocessing.dicom import REASONS
from preprocessing.errors import InputError, UnusableFile
from preprocessing.manifest import ManifestRow
from preprocessing.sources import SourceImage, find_images, manifest_images, source_bytes
from tests.preprocessing.made_dicom import made


def found(source: Path, *excluded: Path) -> dict[str, SourceImage]:
    """What there is, by origin; an origin that comes twice is a failure."""
    images = list(find_images(source, excluded))
    by_origin = {image.origin: image for image in images}
    assert len(by_origin) == len(images)
    return by_origin


def content(image: SourceImage) -> bytes | str:
    """What an image holds, or the reason why it cannot be read."""
    try:
        return source_bytes(image)
    except UnusableFile as error:
        unusable = error
    assert unusable.reason in REASONS
    assert image.path not in str(unusable)
    return unusable.reason


def contents(source: Path, *excluded: Path) -> dict[str, bytes | str]:
    return {origin: content(image) for origin, image in found(source, *excluded).items()}


def zipped(path: Path, members: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method) as archive:
        warnings.simplefilter("ignore")  # two members with one name are meant
        for name, data in members:
            archive.writestr(name, data)
    return path


def tree(folder: Path, **files: bytes) -> Path:
    for name, data in files.items():
        file = folder / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return folder


def patched(path: Path, change: Callable[[bytearray], None]) -> Path:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    return path


def in_directory(data: bytearray, offset: int, form: str, *values: int) -> None:
    """Overwrite fields of the first entry of the central directory (PKWARE APPNOTE, 4.3.12)."""
    struct.pack_into(form, data, data.index(b"PK\x01\x02") + offset, *values)


FLAGS, METHOD, CRC, COMPRESSED, SIZE, PLACE = 8, 10, 16, 20, 24, 42


# --- Folders


def test_a_folder_comes_in_the_order_of_names_with_hidden_files_and_without_what_is_excluded(tmp_path: Path) -> None:
    tree(tmp_path, b__1=b"1", a=b"2", **{".hidden": b"3", "store__x": b"4", "reports.csv": b"5"})
    (tmp_path / "link_to_reports").symlink_to("reports.csv")
    origins = list(contents(tmp_path, tmp_path / "store", tmp_path / "b" / ".." / "reports.csv"))
    assert origins == [".hidden", "a", "b/1"]


def test_links_to_folders_and_closed_folders_become_rejects_and_loops_end(tmp_path: Path) -> None:
    tree(tmp_path, in__a=b"1")
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    (tmp_path / "in" / "loop").symlink_to("loop")
    (tmp_path / "in" / "gone").symlink_to("nowhere")
    (tmp_path / "file").symlink_to("in/a")
    os.mkfifo(tmp_path / "pipe")
    assert contents(tmp_path) == {
        "file": b"1",
        "in/a": b"1",
        "in/gone": "missing_file",
        "in/loop": "missing_file",
        "in/up": "not_a_file",
        "pipe": "not_a_file",
    }


def test_a_folder_that_cannot_be_listed_is_a_reject_unless_it_is_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(tmp_path, closed__a=b"1", b=b"2")
    scandir = os.scandir

    def refuse(path: str | Path) -> object:  # permissions do not stop the superuser, who may be running this
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert contents(tmp_path) == {"b": b"2", "closed": "not_a_file"}
    with pytest.raises(InputError, match="Permission denied"):
        find_images(tmp_path / "closed", [])


def test_folders_deeper_than_calls_may_be_nested(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=here)
        here, above = os.open("d", os.O_RDONLY, dir_fd=here), here
        os.close(above)
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    try:
        assert list(contents(tmp_path).values()) == ["empty_file"]
    finally:  # pytest's own way to remove it nests calls
        subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)


def test_many_files_come_one_by_one(tmp_path: Path) -> None:
    for number in range(10_000):
        (tmp_path / f"{number}.dcm").touch()
    tracemalloc.start()
    assert sum(1 for _ in find_images(tmp_path, [])) == 10_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000 * 600  # the listing of the one folder


# --- Versions and what travels


def test_a_version_changes_with_the_file_and_a_member_s_with_its_content_only(tmp_path: Path) -> None:
    tree(tmp_path, a=b"one")
    zipped(tmp_path / "z.zip", [("b", b"one"), ("c", b"two")])
    before = found(tmp_path)
    os.utime(tmp_path / "a", ns=(1, 1))
    zipped(tmp_path / "z.zip", [("b", b"one"), ("c", b"owt")], zipfile.ZIP_STORED)
    after = found(tmp_path)
    assert {origin for origin in before if before[origin].version != after[origin].version} == {"a", "z.zip!/c"}
    assert all(image.version for image in (*before.values(), *after.values()))


def test_what_is_not_there_has_no_version(tmp_path: Path) -> None:
    (tmp_path / "gone").symlink_to("nowhere")
    assert found(tmp_path)["gone"].version == ""


def test_images_travel_to_other_processes(tmp_path: Path) -> None:
    tree(tmp_path, a=b"1")
    zipped(tmp_path / "z.zip", [(f"{number}", f"content {number}".encode() * 5000) for number in range(40)])
    images = list(find_images(tmp_path, []))
    assert len(pickle.dumps(images)) < 200 * len(images)
    expected = [content(image) for image in images]  # leaves the archive open here, as a fork would find it
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(source_bytes, images, chunksize=1) == expected


def test_paths_do_not_depend_on_the_folder_that_the_reader_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(tmp_path, a=b"1")
    monkeypatch.chdir(tmp_path)
    (image,) = find_images(Path("a"), [])
    monkeypatch.chdir("/")
    assert source_bytes(image) == b"1"


# --- Archives


def test_archives_are_known_by_content_in_folders_too(tmp_path: Path) -> None:
    zipped(tmp_path / "scans.dcm", [("p/1", b"1"), ("p/", b""), ("__MACOSX/p/._1", b"apple")])
    (tmp_path / "not.zip").write_bytes(b"no archive")
    dicom = bytearray(132) + b"rest"
    dicom[:4], dicom[128:132] = b"PK\x03\x04", b"DICM"
    (tmp_path / "both").write_bytes(dicom)
    expected = {"scans.dcm!/__MACOSX/p/._1": b"apple", "scans.dcm!/p/1": b"1"}
    assert contents(tmp_path) == {"both": bytes(dicom), "not.zip": b"no archive", **expected}
    assert contents(tmp_path / "scans.dcm") == expected


def test_an_archive_behind_a_program_is_opened_if_it_is_called_zip(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", [("1", b"1")])
    path.write_bytes(b"#!program" + path.read_bytes())
    assert contents(path) == {"a.zip!/1": b"1"}


def test_members_with_one_name_and_names_that_imitate_origins_stay_apart(tmp_path: Path) -> None:
    names = ["a", "a", "a", "a\\#2", "a//b", "a/b", "a/./b", "a (2)", "ü", "\\a"]
    zipped(tmp_path / "z.zip", [(name, f"{number}".encode()) for number, name in enumerate(names)])
    tree(tmp_path, **{"z.zip!__a": b"10", "manifest image 2: x": b"11"})
    (tmp_path / "z.zip!\\x21").write_bytes(b"12")
    values = contents(tmp_path)
    assert values.pop("z.zip!/\\\\a") == "unsafe_path"
    assert sorted(values.values(), key=str) == sorted((f"{n}".encode() for n in range(13) if n != 9), key=str)
    row = ManifestRow(2, "x", tmp_path / "x", "", "", "", "", "", "")
    assert next(manifest_images([row])).origin not in values


def test_members_without_a_name_are_members(tmp_path: Path) -> None:
    def unname(data: bytearray) -> None:  # cut at the NUL, as zipfile does
        for sign, start in ((b"PK\x03\x04", 30), (b"PK\x01\x02", 46)):
            data[data.index(sign) + start] = 0

    path = patched(zipped(tmp_path / "z", [("x", b"1"), ("y", b"2")]), unname)
    assert sorted(contents(path).values(), key=str) == [b"1", b"2"]


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "\\x", "..\\x", "C:\\x", "c:x", "a/.."])
def test_names_that_lead_out_of_an_archive_are_refused(tmp_path: Path, name: str) -> None:
    path = zipped(tmp_path / "z.zip", [(name, b"1"), ("ok", b"2"), ("a..b", b"3")])
    assert list(contents(path).values()) == ["unsafe_path", b"2", b"3"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_is_wrong_with_one_member_costs_that_one(tmp_path: Path, method: int) -> None:
    inner = zipped(tmp_path / "inner", [("1", b"1")]).read_bytes()
    random = np.random.default_rng(0).bytes(3000)
    path = zipped(tmp_path / "z", [("bad", random), ("good", b"1"), ("empty", b""), ("inner.zip", inner)], method)

    def damage(data: bytearray) -> None:
        data[1000:1010] = bytes(10)

    expected = ["corrupt_archive", b"1", "empty_file", "nested_archive"]
    assert list(contents(patched(path, damage)).values()) == expected


@pytest.mark.parametrize("bits", [0x0001, 0x0041])
def test_encrypted_members_are_named_as_such(tmp_path: Path, bits: int) -> None:
    path = zipped(tmp_path / "z", [("a", b"1"), ("b", b"2")])
    patched(path, lambda data: in_directory(data, FLAGS, "<H", bits))
    assert list(contents(path).values()) == ["encrypted", b"2"]


def test_an_encrypted_directory_is_one_reject(tmp_path: Path) -> None:
    def encrypt(data: bytearray) -> None:
        struct.pack_into("<H", data, 6, 0x2041)
        in_directory(data, 0, "<I", 0xABABABAB)

    path = patched(zipped(tmp_path / "z.zip", [("a", b"1"), ("b", b"2")]), encrypt)
    assert contents(path) == {"z.zip": "encrypted"}


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 9, 99])
def test_compression_without_a_bound_is_not_read(tmp_path: Path, method: int) -> None:
    is_written = method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)  # sound then: refused for its method alone
    path = zipped(tmp_path / "z", [("a", bytes(1000))], method if is_written else zipfile.ZIP_DEFLATED)
    patched(path, lambda data: in_directory(data, METHOD, "<H", method))
    assert list(contents(path).values()) == ["corrupt_archive"]


@pytest.mark.parametrize("cut", [-1, 60, 5])
def test_an_archive_that_ends_early_is_one_reject_and_whole_again_later(tmp_path: Path, cut: int) -> None:
    path = zipped(tmp_path / "z.zip", [(f"{number}", b"x" * 100) for number in range(5)])
    whole = path.read_bytes()
    tree(tmp_path, a=b"1").joinpath("z.zip").write_bytes(whole[:cut])
    assert contents(tmp_path) == {"a": b"1", "z.zip": "corrupt_archive"}
    assert contents(path) == {"z.zip": "corrupt_archive"}
    path.write_bytes(whole)
    assert len(contents(tmp_path)) == 6


def test_names_that_are_not_what_they_are_flagged_to_be_are_one_reject(tmp_path: Path) -> None:
    path = zipped(tmp_path / "z.zip", [("ü", b"1")])
    path.write_bytes(path.read_bytes().replace("ü".encode(), b"\xff\xff"))
    assert contents(path) == {"z.zip": "corrupt_archive"}


def test_an_archive_of_nothing_is_a_reject_in_a_folder_and_no_source(tmp_path: Path) -> None:
    path = zipped(tmp_path / "z.zip", [])
    assert contents(tmp_path) == {"z.zip": "empty_file"}
    with pytest.raises(InputError, match="holds no files"):
        find_images(path, [])


def test_archives_that_vanish_or_change_while_the_job_runs(tmp_path: Path) -> None:
    path = zipped(tmp_path / "z.zip", [("a", b"1"), ("b", b"2")])
    one, two = find_images(path, [])
    assert source_bytes(one) == b"1"
    zipped(path, [("a", b"other")])
    assert (content(one), content(two)) == (b"other", "missing_file")
    path.unlink()
    assert content(one) == "missing_file"
    path.mkdir()
    assert content(one) == "read_error"


def test_an_archive_of_more_than_four_gigabytes_or_65535_members_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("big", "w", force_zip64=True) as member:
            member.write(b"1")
        for number in range(70_000):
            archive.writestr(f"{number}", b"")
    started = time.monotonic()
    images = list(find_images(path, []))
    assert len(images) == 70_001
    assert time.monotonic() - started < 20
    assert source_bytes(images[0]) == b"1"
    started = time.monotonic()
    assert {content(image) for image in images[-2000:]} == {"empty_file"}
    assert time.monotonic() - started < 5  # opened once: every time takes half a second


# --- Bombs


def peak_of(image: SourceImage) -> tuple[bytes | str, int]:
    content(image)  # opens the archive
    tracemalloc.start()
    value = content(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return value, peak


@pytest.mark.parametrize("claim", [10, 1 << 29])
def test_a_bomb_that_lies_about_its_size_is_stopped(tmp_path: Path, claim: int) -> None:
    path = zipped(tmp_path / "z", [("a", bytes(100 << 20))])
    patched(path, lambda data: in_directory(data, SIZE, "<I", claim))
    value, peak = peak_of(next(find_images(path, [])))
    assert value == "corrupt_archive"
    assert peak < (5 << 20 if claim == 10 else 400 << 20)


def test_a_bomb_that_says_its_size_is_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAXIMUM_BYTES", 1 << 20)
    path = zipped(tmp_path / "z", [("a", bytes(20 << 20)), ("b", bytes(1 << 20))])
    large, largest = find_images(path, [])
    value, peak = peak_of(large)
    assert value == "too_large"
    assert peak < 1 << 20
    assert content(largest) == bytes(1 << 20)


def test_members_that_share_compressed_bytes_are_refused(tmp_path: Path) -> None:
    """Both ways of D. Fifield, A better zip bomb (WOOT 2019): entries of one place, and of places within others."""
    path = zipped(tmp_path / "one", [("a", b"1"), ("a", b"1"), ("b", b"2")])
    one_place = bytearray(path.read_bytes())
    second = one_place.index(b"PK\x01\x02", one_place.index(b"PK\x01\x02") + 1)
    struct.pack_into("<I", one_place, second + PLACE, 0)
    path.write_bytes(one_place)
    assert list(contents(path).values()) == ["corrupt_archive", "corrupt_archive", b"2"]
    path = zipped(tmp_path / "two", [("a", b"1"), ("b", b"2")])
    patched(path, lambda data: in_directory(data, COMPRESSED, "<I", 60))
    assert list(contents(path).values()) == ["corrupt_archive", b"2"]


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_no_damage_to_an_archive_raises_anything_but_a_reason(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = zipped(tmp_path_factory.mktemp("fuzz") / "z.zip", [("a", b"1" * 50), ("b/c", b"2"), ("d", b"")])
    raw = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4)):
        raw[place] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        assert contents(path)
    except InputError:  # nothing left that looks like a member
        return


# --- Discs


def disc(folder: Path, count: int = 2) -> Path:
    """A DICOMDIR, written by pydicom, and the images that it names."""
    files = FileSet()
    for number in range(count):
        image = made(np.full((2, 2), number, np.uint16), PatientID=f"{number}", InstanceNumber=1)
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number + 1}"
        image.StudyDate, image.StudyTime, image.StudyID, image.SeriesNumber = "20200101", "10", "1", 1
        files.add(image)
    files.write(folder)
    return folder / "DICOMDIR"


def records(path: Path, change: Callable[[list[object]], None]) -> None:
    dataset = dcmread(path)
    images = [item for item in dataset.DirectoryRecordSequence if item.DirectoryRecordType == "IMAGE"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        change(images)
        dataset.save_as(path)


def test_a_disc_names_its_images_and_a_folder_with_one_has_one_file_more(tmp_path: Path) -> None:
    path = disc(tmp_path)
    images = found(path)
    on_disk = {
        file.relative_to(tmp_path).as_posix(): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()
    }
    assert len(images) == 2
    assert {**contents(path), "DICOMDIR": on_disk["DICOMDIR"]} == on_disk
    assert contents(tmp_path) == on_disk
    path.rename(tmp_path / "renamed.dcm")
    assert found(tmp_path / "renamed.dcm") == images


def test_discs_that_are_mounted_in_lower_case(tmp_path: Path) -> None:
    path = disc(tmp_path, 1)
    (origin,) = found(path)
    file = tmp_path / origin
    lower = tmp_path / origin.lower()
    lower.parent.mkdir(parents=True)
    file.rename(lower)
    assert contents(path) == {origin: lower.read_bytes()}


def test_files_that_a_disc_names_and_lacks_or_may_not_name(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"secret")
    (tmp_path / "disc").mkdir()
    path = disc(tmp_path / "disc", 5)

    def change(images: list[object]) -> None:
        names = [["..", "outside"], "/etc/hostname", ["GONE", "IM1"], ["GONE", "IM1"]]
        for image, name in zip(images, names, strict=False):
            image.ReferencedFileID = name
        images[4].RecordInUseFlag = 0

    records(path, change)
    assert contents(path) == {
        "../outside": "unsafe_path",
        "/etc/hostname": "unsafe_path",
        "GONE/IM1": "missing_file",
    }


def test_a_disc_that_names_no_image_or_is_damaged_is_no_source(tmp_path: Path) -> None:
    path = disc(tmp_path, 1)
    whole = path.read_bytes()
    records(path, lambda images: setattr(images[0], "DirectoryRecordType", "PRESENTATION"))
    with pytest.raises(InputError, match="names no image"):
        find_images(path, [])
    path.write_bytes(whole[:-30])
    with pytest.raises(InputError, match="damaged"):
        find_images(path, [])


# --- Lists


def listed(folder: Path, *lines: str | bytes) -> Path:
    path = folder / "list.txt"
    path.write_bytes(b"\n".join(os.fsencode(line) for line in lines))
    return path


def test_a_list_names_files_folders_and_archives_and_each_comes_once(tmp_path: Path) -> None:
    tree(tmp_path, **{"in__a": b"1", "in__sub__b": b"2", "in__#c": b"3", "far": b"4", "in__list.txt": b""})
    zipped(tmp_path / "in" / "z", [("d", b"5")])
    far = os.fspath(tmp_path / "far")
    lines = ["\ufeff# comment", "sub/b", "", "./a\r", "sub//b", "sub/../a", far, "../far", "gone", "   ", "z", "#c"]
    path = listed(tmp_path / "in", *lines)
    assert contents(path) == {"sub/b": b"2", "a": b"1", far: b"4", "gone": "missing_file", "z!/d": b"5"}
    path = listed(tmp_path / "in", "./#c", ".", "sub", "sub/b")
    assert contents(path) == {"#c": b"3", "a": b"1", "z!/d": b"5", "sub/b": b"2"}
    assert contents(path, tmp_path / "in" / "sub", tmp_path / "in" / "#c") == {"a": b"1", "z!/d": b"5"}


def test_lists_of_what_cannot_be_opened_lose_nothing(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    lines = ["loop", "pipe", "x" * 300, "/" + "y/" * 3000, b"\xff"]
    path = listed(tmp_path, *lines)
    assert list(contents(path).values()) == ["missing_file", "not_a_file", "read_error", "read_error", "missing_file"]


def test_dots_behind_links_lead_where_the_system_says(tmp_path: Path) -> None:
    tree(tmp_path, a__b__f=b"1", a__g=b"right", g=b"wrong")
    (tmp_path / "link").symlink_to("a/b")
    assert list(contents(listed(tmp_path, "link/../g")).values()) == [b"right"]


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "names no files"), (b"#\n \n", "names no files"), ("a".encode("utf-16"), "not a text")]
)
def test_lists_that_are_none(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        find_images(path, [])


def test_a_dicom_file_called_txt_is_no_list(tmp_path: Path) -> None:
    made(np.zeros((2, 2), np.uint16)).save_as(tmp_path / "image.txt")
    assert list(found(tmp_path / "image.txt")) == ["image.txt"]


def test_a_long_list_comes_in_seconds(tmp_path: Path) -> None:
    path = listed(tmp_path, *(f"folder/{number}.dcm" for number in range(20_000)))
    started = time.monotonic()
    assert sum(1 for _ in find_images(path, [tmp_path / "store"])) == 20_000
    assert time.monotonic() - started < 10


# --- Sources that are none


def test_sources_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "empty" / "empty").mkdir(parents=True)
    (tmp_path / "file").write_bytes(b"1")
    messages = {
        "pipe": "neither a file nor a folder",
        "loop": "cannot be read",
        "empty": "holds no files",
        "gone": "no such file",
        "file/below": "no such file",
        "nul\0": "no such file",
    }
    for name, message in messages.items():
        with pytest.raises(InputError, match=message):
            find_images(tmp_path / name, [])
    with pytest.raises(InputError, match="holds no files"):
        find_images(tmp_path / "empty", [tmp_path / "nul\0"])


def test_rows_of_a_manifest_come_by_path_without_their_reports(tmp_path: Path) -> None:
    tree(tmp_path, a=b"1", b=b"2")
    rows = [
        ManifestRow(number, image, tmp_path / image, "s", "p", "PA", "a report", "", "")
        for number, image in [(2, "b"), (4, "a"), (3, "a"), (5, "n\0")]
    ]
    images = list(manifest_images(rows))
    assert [image.origin for image in images] == [
        "manifest image 1: a",
        "manifest image 2: a",
        "manifest image 1: b",
        "manifest image 1: n\0",
    ]
    assert [content(image) for image in images] == [b"1", b"1", b"2", "missing_file"]
    assert all(image.row is not None and image.row.text == "" for image in images)
    assert [bool(image.version) for image in images] == [True, True, True, False]


# --- Any names


class RawNames(zipfile.ZipInfo):
    """Writes names as the bytes that they are, as archivers of old do."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return os.fsencode(self.filename), self.flag_bits


BYTES = st.sampled_from(
    [b"a", b"B", b"\xff", "ü".encode(), b"!", b"\\", b" ", b"#", b".zip", b".txt", b"DICOMDIR", b"x"]
)
NAMES = st.lists(BYTES, min_size=1, max_size=3).map(b"".join)
TREES = st.lists(st.lists(NAMES, min_size=1, max_size=3).map(tuple), min_size=1, max_size=6, unique=True)


def is_free(path: tuple[bytes, ...], others: list[tuple[bytes, ...]]) -> bool:
    """Whether no other path needs this one, or a part of it, to be what it is not."""
    return not any(other[: len(path)] == path or path[: len(other)] == other for other in others)


@given(TREES)
@settings(max_examples=60, deadline=None)
def test_a_tree_its_archive_and_its_list_hold_the_same(
    tmp_path_factory: pytest.TempPathFactory, paths: list[tuple[bytes, ...]]
) -> None:
    kept: list[tuple[bytes, ...]] = []
    for path in paths:
        if is_free(path, kept):
            kept.append(path)
    place = tmp_path_factory.mktemp("tree")
    folder = place / "in"
    folder.mkdir()
    names = [os.fsdecode(b"/".join(path)) for path in kept]
    with zipfile.ZipFile(place / "z", "w") as archive:
        for number, name in enumerate(names):
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"%d" % number)
            if not archives.is_unsafe(name):
                archive.writestr(RawNames(name), b"%d" % number)
    expected = Counter(b"%d" % number for number in range(len(names)))
    assert Counter(contents(folder).values()) == expected
    list_of = listed(place, *(f"in/{name}" for name in names))
    assert Counter(contents(list_of).values()) == expected
    assert Counter(contents(listed(place, "in", *(f"in/{name}" for name in names[::2]))).values()) == expected
    safe = Counter(b"%d" % number for number, name in enumerate(names) if not archives.is_unsafe(name))
    if safe:
        assert Counter(contents(place / "z").values()) == safe
    assert stat.S_ISDIR(folder.stat().st_mode)
