"""Identities planted in headers, names and reports are in nothing that the pipeline writes or says, errors included."""

import io
import json
import shutil
import sqlite3
import stat
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_once import made_once
from PIL import Image, PngImagePlugin
from planted_archive import PLANTED, STUDIES, Archive, accession_number, patient_id, plant_archive, study_uid
from safetensors.numpy import save_file
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from traces import plain_hashes, traces, traces_in_text
from warm_python import WarmPython

from pipelines.demo import demo_settings

WANTED = [text for texts in PLANTED.values() for text in texts]
IDENTIFIERS = [make(number) for make in (patient_id, accession_number, study_uid) for number in range(0, STUDIES, 4)]
"""Of some studies, since who writes a plain hash writes that of each; a search for a hash is one of megabytes."""
TINY = {"max_epochs": 1, "val_interval": 1, "image_size": 64, "num_workers": 0, "views": None}

Command = Sequence[str | Path]


@dataclass
class Session:
    """Commands run on a planted archive, with all that they said."""

    folder: Path
    archive: Archive
    codes: dict[str, int] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs"

    def private(self, name: str) -> Path:
        return self.folder / "private" / name

    def side_by_side(self, python: WarmPython, *chains: Mapping[str, Command]) -> None:
        """Run chains of commands, one after the other in each chain; two interpreters take as long as one."""
        with ThreadPoolExecutor(len(chains)) as pool:
            for chain in [pool.submit(self._run_chain, python, chain) for chain in chains]:
                chain.result()

    def _run_chain(self, python: WarmPython, chain: Mapping[str, Command]) -> None:
        for name, command in chain.items():
            arguments = list(map(str, command))
            done = python.run("pipelines.cli", *arguments, env={"COLUMNS": "2000", "NO_COLOR": "1"})
            text = done.stdout + done.stderr
            for path in filter(Path.is_absolute, map(Path, arguments)):  # named in the question, named in the answer
                text = text.replace(str(path), "...")
            self.codes[name], self.said[name] = done.returncode, text


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, warm_python: WarmPython) -> Session:
    return made_once(tmp_path_factory, "leaks", lambda folder: _session(folder, warm_python))


def _session(folder: Path, python: WarmPython) -> Session:
    session = Session(folder, plant_archive(folder))
    (folder / "private").mkdir()
    session.outputs.mkdir()
    session.side_by_side(python, _first_ingests(session), _later_ingests(session))
    session.side_by_side(python, _trainings(session), _refused_ingests(session))
    session.side_by_side(python, _uses_of_the_classifier(session), _uses_of_the_encoder(session))
    return session


def _first_ingests(session: Session) -> dict[str, Command]:
    made = session.archive
    return {
        "ingest": _ingest(session, "store", made.folder, *_tables(made)),
        "scan": ["scan", made.folder],
        "scan of an archive": ["scan", made.archive],
    }


def _later_ingests(session: Session) -> dict[str, Command]:
    made = session.archive
    table = ["--reports", made.report_table, "--labels", made.labels, "--no-identities"]
    form = ["--image-format", "png", "--bit-depth", "16", "--workers", "2"]
    return {
        "ingest of an archive": _ingest(session, "archived", made.archive, *table, *form),
        "ingest with identities": _ingest(session, "renounced", made.folder, *_tables(made)),
        "ingest without identities": _ingest(session, "renounced", made.folder, *_tables(made), "--no-identities"),
    }


def _tables(made: Archive) -> list[str | Path]:
    return ["--reports", made.reports, "--labels", made.labels, "--key", made.key]


def _ingest(session: Session, store: str, source: Path, *options: str | Path) -> list[str | Path]:
    private = ["--private", session.private(store)]
    return ["ingest", source, session.outputs / store, "--size", "64", *private, *options]


def _refused_ingests(session: Session) -> dict[str, Command]:
    made, outputs, folder = session.archive, session.outputs, session.folder
    shutil.copytree(outputs / "store", outputs / "damaged_ledger")
    shutil.copytree(session.private("store"), session.private("damaged_ledger"))
    session.private("damaged_ledger").joinpath("ledger.sqlite").write_bytes(b"SQLite format 3\0ZWIEBELKRAUT" * 100)
    shutil.copytree(outputs / "store", outputs / "damaged_stamp")
    (outputs / "damaged_stamp" / "store.json").write_text("{", encoding="utf-8")
    session.private("open").mkdir(mode=0o755)
    tables = {
        "unknown": "study,Edema\nMRN-77412Q-000,1\nZWIEBELKRAUT,0\n",
        "value": f"study,Edema\n{study_uid(0)},ZWIEBELKRAUT\n",
        "repeated": "study,OTTILIEGUNDE,OTTILIEGUNDE\nx,1,1\n",
        "headless": "ZWIEBELKRAUT,MRN-77412Q\nOTTILIEGUNDE,KNOBLAUCH\n",
        "torn": "image,study,patient,split\nMRN-77412Q.png,s1,ZWIEBELKRAUT,train\nb.png,s2,ZWIEBELKRAUT,test\n",
        "blank": "image,study,patient\nMRN-77412Q.png,,ZWIEBELKRAUT\n",
        "gone": "image,study,patient\ngeheimordner/MRN-77412Q.png,ACC551ZZ-000,ZWIEBELKRAUT\n",
    }
    for name, content in tables.items():
        (folder / f"geheimtabelle_{name}.csv").write_text(content, encoding="utf-8")
    table = {name: folder / f"geheimtabelle_{name}.csv" for name in tables}
    clutter = folder / "geheimordner_clutter"
    clutter.mkdir()
    (clutter / "ZWIEBELKRAUT.txt").write_text("OTTILIEGUNDE", encoding="utf-8")
    return {
        "no label fits": _ingest(session, "no_label", made.folder, "--labels", table["unknown"], "--no-identities"),
        "a label is no number": _ingest(session, "value", made.folder, "--labels", table["value"]),
        "a label twice": _ingest(session, "repeated", made.folder, "--labels", table["repeated"]),
        "no column study": _ingest(session, "headless", made.folder, "--labels", table["headless"]),
        "no column text": _ingest(session, "headless", made.folder, "--reports", table["headless"]),
        "a patient in two splits": _ingest(session, "torn", table["torn"]),
        "a manifest with blanks": _ingest(session, "blank", table["blank"]),
        "a manifest of what is gone": _ingest(session, "gone", table["gone"]),
        "the key is missing": _ingest(session, "store", made.folder),
        "no such key": _ingest(session, "store", made.folder, "--key", folder / "geheimordner_key"),
        "another source": _ingest(session, "store", made.archive, "--key", made.key),
        "another configuration": [*_ingest(session, "store", made.folder, "--key", made.key), "--preset", "percentile"],
        "a damaged ledger": _ingest(session, "damaged_ledger", made.folder, "--key", made.key),
        "a damaged stamp": _ingest(session, "damaged_stamp", made.folder, "--key", made.key),
        "an open private folder": _ingest(session, "open", made.folder),
        "clutter": _ingest(session, "clutter", clutter),
        "scan of nothing": ["scan", folder / "geheimordner_nowhere"],
    }


def _trainings(session: Session) -> dict[str, Command]:
    store, outputs = session.outputs / "store", session.outputs
    settings = demo_settings(TINY)
    settings["train"]["label_fraction"] = 1.0
    given = {
        stage: [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]
        for stage, keys in settings.items()
    }
    weights = outputs / "pretrain" / "models" / "image_encoder.safetensors"
    return {
        "pretrain": ["pretrain", store, outputs / "pretrain", *given["pretrain"]],
        "train": ["train", store, outputs / "classifier", "--pretrained", weights, *given["train"]],
    }


def _uses_of_the_classifier(session: Session) -> dict[str, Command]:
    store, outputs = session.outputs / "store", session.outputs
    damaged_array, damaged_list = outputs / "damaged_array", outputs / "damaged_list"
    for damaged in (damaged_array, damaged_list):
        shutil.copytree(store, damaged)
    last = json.loads((store / "datalist.json").read_text(encoding="utf-8"))["test"][-1]
    (damaged_array / last["image"]).write_bytes(b"\x93NUMPY")
    datalist = (store / "datalist.json").read_text(encoding="utf-8")
    (damaged_list / "datalist.json").write_text(datalist[: len(datalist) // 2], encoding="utf-8")
    run = outputs / "classifier"
    return {
        "evaluate": ["evaluate", store, run],
        "inference": ["inference", store, run],
        "a damaged array": ["inference", damaged_array, run],
        "a damaged datalist": ["evaluate", damaged_list, run],
        "no store": ["pretrain", session.archive.folder, outputs / "run_of_nothing"],
    }


def _uses_of_the_encoder(session: Session) -> dict[str, Command]:
    outputs, source = session.outputs, session.archive.folder
    run, sentence = outputs / "pretrain", "There is a pleural effusion."
    good = next(source.glob("ZWIEBELKRAUT_*/*.dcm"))
    return {
        "evaluate the encoder": ["evaluate", outputs / "store", run, "--stage", "pretrain"],
        "export": ["export", run, outputs / "encoder"],
        "ground": ["ground", run, good, sentence, outputs / "ground" / "picture.png"],
    }


DONE = (
    "scan",
    "scan of an archive",
    "ingest",
    "ingest of an archive",
    "ingest with identities",
    "ingest without identities",
)
DONE += ("pretrain", "train", "evaluate", "inference", "evaluate the encoder", "export", "ground")


def test_every_command_did_what_it_was_to_do(session: Session) -> None:
    for name, code in session.codes.items():
        assert code == (0 if name in DONE else 2), (name, session.said[name][-2000:])
    assert set(DONE) < set(session.codes)
    for output in ("pretrain/models/pretrained.pt", "classifier/predictions.csv", "encoder/encoder/model.safetensors"):
        assert (session.outputs / output).is_file()
    assert (session.outputs / "ground" / "picture.png").is_file()


def test_the_archive_was_of_every_kind(session: Session) -> None:
    """Leaving out and taking were both put to work, and reports were paired: silence is not the reason for no trace."""
    for store in ("store", "archived"):
        rejects = pl.read_parquet(session.outputs / store / "rejects.parquet")
        assert {"truncated", "duplicate", "duplicate_uid", "burned_in_annotation", "other_modality"} < set(
            rejects["reason"]
        )
        assert {"study_of_two_patients", "not_dicom", "no_such_study"} < set(rejects["reason"])
        studies = pl.read_parquet(session.outputs / store / "studies.parquet")
        assert (studies["report_status"] == "paired").sum() > STUDIES / 2
        assert {"history", "indication", "signature", "preamble"} < set(studies["sections"].explode())


def test_no_output_names_anyone(session: Session) -> None:
    assert traces(session.outputs, WANTED) == set()


def test_no_answer_names_anyone(session: Session) -> None:
    assert {name: found for name, text in session.said.items() if (found := traces_in_text(text, WANTED))} == {}


def test_no_output_holds_a_plain_hash(session: Session) -> None:
    hashes = plain_hashes(IDENTIFIERS)
    assert traces(session.outputs, hashes) == set()
    assert not any(traces_in_text(text, hashes) for text in session.said.values())


def test_the_private_folder_is_its_owners_alone(session: Session) -> None:
    for name in ("store", "archived", "renounced"):
        private = session.private(name)
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in private.iterdir()}
        modes.pop(".lock")  # empty
        assert set(modes.values()) == {0o600}
    originals = traces(session.private("store"), WANTED)
    assert {"MRN-77412Q", "ACC551ZZ", "geheimdatei"} <= {text for text, _ in originals}
    assert {"decoded identity.parquet", "decoded ledger.sqlite"} <= {place for _, place in originals}


@pytest.mark.parametrize("name", ["archived", "renounced", "no_label"])
def test_without_identities_no_original_is_left(session: Session, name: str) -> None:
    """From the start, renounced later, and in a run that was refused when the files had been seen."""
    assert (session.private(name) / "ledger.sqlite").exists()
    assert traces(session.private(name), [*WANTED, *plain_hashes(IDENTIFIERS)]) == set()


def test_the_search_finds_what_was_planted(session: Session) -> None:
    made = session.archive
    in_folder = traces(made.folder, WANTED)
    in_reports = {text for text, _ in traces(made.reports, WANTED)}
    in_names = traces_in_text(made.report_table.name, WANTED)
    assert {text for text, _ in in_folder} | in_reports | in_names == set(WANTED)
    assert {"ZWIEBELKRAUT", "ACC551ZZ", "BÄRLAUCHER"} <= in_reports
    (made.reports.parent / "zipped").mkdir()
    shutil.copy(made.archive, made.reports.parent / "zipped" / "x")
    assert {text for text, _ in traces(made.reports.parent / "zipped", WANTED)} >= {text for text, _ in in_folder}


@pytest.mark.parametrize("written", ["BÄRLAUCHER", "bärlaucher"])
def test_the_search_reads_every_kind_of_file(tmp_path: Path, written: str) -> None:
    _write_one_of_each_kind(tmp_path, written)
    hidden = {path.relative_to(tmp_path).parts[0] for path in tmp_path.iterdir()}
    found = {place.split("!")[0].split(" ")[-1].split("/")[0] for _, place in traces(tmp_path, ["BÄRLAUCHER"])}
    assert found == hidden
    assert traces(tmp_path, ["ZWIEBELKRAUT"]) == set()
    (tmp_path / "hash").write_text(f"id {next(iter(plain_hashes([written])))}...", encoding="utf-8")
    assert traces(tmp_path, plain_hashes([written]))


def _write_one_of_each_kind(folder: Path, text: str) -> None:
    for encoding in ("utf-8", "latin-1", "utf-16-le", "utf-16-be"):
        (folder / encoding).write_bytes(f"x {text} y".encode(encoding))
    (folder / f"{text}.txt").touch()
    (folder / "link").symlink_to(text)
    pl.DataFrame({"a": [text] * 300, "b": [[text]] * 300}).write_parquet(folder / "a.parquet")
    (folder / "a.json").write_text(json.dumps({"a": {text: 1}}), encoding="utf-8")
    with sqlite3.connect(folder / "a.sqlite") as connection:
        connection.execute("CREATE TABLE t (a TEXT)")
        connection.execute("INSERT INTO t VALUES (?)", (text,))
    connection.close()
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", text * 50)
    with zipfile.ZipFile(folder / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.zip", inner.getvalue())
    information = PngImagePlugin.PngInfo()
    information.add_text("a", text, zip=True)
    Image.new("L", (4, 4)).save(folder / "a.png", pnginfo=information)
    save_file({"a": np.zeros(1)}, folder / "a.safetensors", metadata={"a": json.dumps(text)})
    writer = EventFileWriter(str(folder / "tensorboard"))
    event = Event(wall_time=0)
    event.summary.value.add(tag=text, simple_value=1)
    writer.add_event(event)
    writer.close()
