"""Batch prediction: what training saw is what the network sees, and every file is in the table, once."""

import json
import shutil
import signal
import sqlite3
import zipfile
from pathlib import Path

import cv2
import nibabel
import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from local_mi.errors import ConfigurationError
from made_classifier import CALIBRATION, NAMES, NETWORK, PREPARATION, random_network, write_classifier
from monai.networks import nets
from pydicom import dcmread
from warm_python import WarmPython

from pipelines.classifier import Classifier, Prediction, load_classifier
from pipelines.demo import DemoResult
from pipelines.export import export_run
from pipelines.notice import NOTICE
from pipelines.predict import PredictionOptions, predict
from pipelines.prediction_ledger import Wanted
from pipelines.prediction_maps import NOTHING, caption, evidence_of, evidence_picture, labels_to_show
from pipelines.prediction_reading import ReadingSettings, read_file
from preprocessing.configuration import IngestConfiguration
from preprocessing.errors import InputError
from preprocessing.geometry import Geometry
from preprocessing.ingest import ingest
from preprocessing.phantoms import DIFFICULTIES, write_phantoms
from preprocessing.preparation import PreparedImage
from preprocessing.readers import read_square
from preprocessing.sources import SourceImage

ONE = PredictionOptions(workers=1, batch_size=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("model") / "classifier")


@pytest.fixture(scope="module")
def classifier(model: Path) -> Classifier:
    return load_classifier(model)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of DICOM files, frontal and lateral, in several transfer syntaxes."""
    out = tmp_path_factory.mktemp("phantoms") / "out"
    write_phantoms(out, studies=10, size=128, seed=3, difficulty=DIFFICULTIES["easy"])
    return out / "dicom"


def frontal(phantoms: Path) -> list[Path]:
    return [path for path in sorted(phantoms.rglob("*.dcm")) if dcmread(path).ViewPosition in ("PA", "AP")]


@pytest.fixture
def some(phantoms: Path, tmp_path: Path) -> Path:
    """Six frontal images in a folder of one's own."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number, path in enumerate(frontal(phantoms)[:6]):
        shutil.copy(path, folder / f"{number}.dcm")
    return folder


def table(folder: Path) -> pl.DataFrame:
    return pl.read_parquet((folder / "predictions.parquet").read_bytes())


def probabilities(folder: Path) -> np.ndarray:
    return table(folder).filter(pl.col("reason") == "").select(NAMES).to_numpy()


def expected(paths: list[Path], seed: int = 0) -> np.ndarray:
    """Logits by plain PyTorch on pictures by the reader that MONAI users call: (N, L)."""
    squares = np.stack([np.rint(read_square(path, PREPARATION["size"]) * 255) / 255 for path in paths])
    images = F.adaptive_avg_pool2d(torch.from_numpy(squares.astype(np.float32))[:, None], 64)
    with torch.no_grad():
        return random_network(seed)(images).double().numpy()


def test_probabilities_are_those_of_the_network_after_the_temperature(
    some: Path, tmp_path: Path, classifier: Classifier
) -> None:
    predict(some, tmp_path / "out", classifier, ONE)
    logits = expected(sorted(some.iterdir()))
    temperatures = np.array([2.0, 0.5, 1.0])  # the last one has none
    np.testing.assert_allclose(probabilities(tmp_path / "out"), 1 / (1 + np.exp(-logits / temperatures)), atol=1e-5)
    assert (logits > 0).any()
    assert (logits < 0).any()


def test_decisions_are_on_the_probability_before_the_temperature(some: Path, tmp_path: Path, model: Path) -> None:
    logits = expected(sorted(some.iterdir()))
    raw = 1 / (1 + np.exp(-logits))
    threshold = float(np.median(raw[:, 0]))  # far from what the temperature makes of it
    folder = write_classifier(
        tmp_path / "model", calibration={"temperature": dict.fromkeys(NAMES, 3.0), "threshold": {"Edema": threshold}}
    )
    classifier = load_classifier(folder)
    predict(some, tmp_path / "out", classifier, ONE)
    found = table(tmp_path / "out")
    assert found["Edema present"].to_list() == (raw[:, 0] >= threshold).tolist()
    assert found["Fracture present"].to_list() == [None] * len(found)
    on_their_scale = classifier.calibrated_threshold(0)
    assert on_their_scale is not None
    assert found["Edema present"].to_list() == (found["Edema"] >= on_their_scale - 1e-12).to_list()


def test_each_row_says_what_it_is_of_and_what_made_it(some: Path, tmp_path: Path, classifier: Classifier) -> None:
    predict(some, tmp_path / "out", classifier, ONE)
    found = table(tmp_path / "out")
    headers = [dcmread(path) for path in sorted(some.iterdir())]
    assert found["file"].to_list() == [f"{number}.dcm" for number in range(6)]
    assert found["sop_instance_uid"].to_list() == [header.SOPInstanceUID for header in headers]
    assert found["study_instance_uid"].to_list() == [header.StudyInstanceUID for header in headers]
    assert found["view"].to_list() == [header.ViewPosition for header in headers]
    assert set(found["model_sha256"]) == {classifier.sha256}
    assert set(found["preset"]) == {"voi"}
    assert set(found["notice"]) == {NOTICE}
    as_text = pl.read_csv(tmp_path / "out" / "predictions.csv", infer_schema_length=None)
    assert as_text.columns == found.columns
    assert as_text["Edema"].to_list() == found["Edema"].to_list()


def test_every_file_left_out_is_in_the_table_with_its_reason(
    some: Path, phantoms: Path, tmp_path: Path, classifier: Classifier
) -> None:
    lateral = next(path for path in sorted(phantoms.rglob("*.dcm")) if dcmread(path).ViewPosition == "LL")
    whole = (some / "0.dcm").read_bytes()
    files = {
        "a_note.txt": b"not an image",
        "b_empty.dcm": b"",
        "c_cut.dcm": whole[: len(whole) // 2],
        "d_lateral.dcm": lateral.read_bytes(),
        "e_broken.png": b"\x89PNG\r\n\x1a\n" + b"\0" * 40,
        "f.zip": b"PK\x03\x04 damaged",
    }
    for name, content in files.items():
        (some / name).write_bytes(content)
    summary = predict(some, tmp_path / "out", classifier, ONE)
    reasons = dict(table(tmp_path / "out").select("file", "reason").iter_rows())
    assert {name: reasons[name] for name in files if name != "f.zip"} == {
        "a_note.txt": "not_dicom",
        "b_empty.dcm": "empty_file",
        "c_cut.dcm": "truncated",
        "d_lateral.dcm": "other_view",
        "e_broken.png": "decode_failed",
    }
    assert len(reasons) == 12
    assert summary.counts[""] == 6
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (record["files"], record["predicted"]) == (12, 6)
    assert sum(record["left_out"].values()) == 6


def test_a_second_run_reads_nothing_and_changes_no_table(some: Path, tmp_path: Path, classifier: Classifier) -> None:
    predict(some, tmp_path / "out", classifier, ONE)
    before = {name: (tmp_path / "out" / name).read_bytes() for name in ("predictions.parquet", "predictions.csv")}
    again = predict(some, tmp_path / "out", classifier, ONE)
    assert again.done == 0
    assert {name: (tmp_path / "out" / name).read_bytes() for name in before} == before


def test_tables_that_a_killed_run_left_behind_or_somebody_removed_are_written_again(
    some: Path, tmp_path: Path, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    predict(some, out, classifier, ONE)
    shutil.copy(some / "0.dcm", some / "new.dcm")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pipelines.predict.write_tables", die)
        with pytest.raises(KeyboardInterrupt):
            predict(some, out, classifier, ONE)
    assert len(table(out)) == 6
    assert predict(some, out, classifier, ONE).done == 0
    assert len(table(out)) == 7
    (out / "predictions.csv").unlink()
    predict(some, out, classifier, ONE)
    assert len(pl.read_csv(out / "predictions.csv")) == 7


def test_only_what_is_new_or_changed_is_read_and_what_is_gone_stays_in_the_table(
    some: Path, phantoms: Path, tmp_path: Path, classifier: Classifier
) -> None:
    predict(some, tmp_path / "out", classifier, ONE)
    (some / "0.dcm").unlink()
    shutil.copy(frontal(phantoms)[6], some / "1.dcm")
    shutil.copy(frontal(phantoms)[7], some / "new.dcm")
    again = predict(some, tmp_path / "out", classifier, ONE)
    assert again.done == 2
    found = table(tmp_path / "out")
    assert found["file"].to_list() == [*(f"{number}.dcm" for number in range(6)), "new.dcm"]
    assert found["sop_instance_uid"][1] == dcmread(frontal(phantoms)[6]).SOPInstanceUID


def test_a_run_that_was_interrupted_goes_on_and_ends_with_the_same_tables(
    some: Path, tmp_path: Path, classifier: Classifier
) -> None:
    def interrupt(done: int, total: int | None) -> None:
        if done == 3:
            raise KeyboardInterrupt

    options = PredictionOptions(workers=1, batch_size=1)
    predict(some, tmp_path / "whole", classifier, options)
    with pytest.raises(KeyboardInterrupt):
        predict(some, tmp_path / "out", classifier, options, interrupt)
    assert not (tmp_path / "out" / "predictions.csv").exists()
    assert predict(some, tmp_path / "out", classifier, options).done == 3
    assert table(tmp_path / "out").equals(table(tmp_path / "whole"))


KILLED = """
import os, signal, sys, time
from pathlib import Path
from pipelines.classifier import load_classifier
from pipelines.predict import PredictionOptions, predict
from pipelines.prediction_ledger import Wanted

def told(done, total):
    time.sleep(0.05)
    if done == 40:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    source, out, model = map(Path, sys.argv[1:])
    options = PredictionOptions(wanted=Wanted(maps=True), workers=1, batch_size=1)
    predict(source, out, load_classifier(model), options, told)
"""


def test_a_killed_run_loses_no_more_than_a_second_and_leaves_no_half_file(
    phantoms: Path, tmp_path: Path, model: Path, classifier: Classifier, warm_python: WarmPython
) -> None:
    source, out, script = tmp_path / "in", tmp_path / "out", tmp_path / "killed.py"
    source.mkdir()
    paths = frontal(phantoms)
    for number in range(60):
        shutil.copy(paths[number % len(paths)], source / f"{number}.dcm")
    script.write_text(KILLED)
    assert warm_python.run(script, source, out, model).returncode == -signal.SIGKILL
    done = _recorded(out / "predictions.sqlite")
    assert 15 <= done <= 40  # of two seconds, one at most is lost
    summary = predict(source, out, classifier, PredictionOptions(wanted=Wanted(maps=True), workers=1))
    assert summary.done == 60 - done
    assert summary.counts == {"": 60}
    assert not [path for path in out.rglob("*") if path.name.endswith(".tmp")]


def _recorded(ledger: Path) -> int:
    """Outcomes on the disk, by another reader."""
    if not ledger.exists():
        return 0
    with sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM outcomes").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


def test_two_at_once_do_not_mix(some: Path, tmp_path: Path, classifier: Classifier) -> None:
    def second(done: int, total: int | None) -> None:
        with pytest.raises(InputError, match="another job is writing"):
            predict(some, tmp_path / "out", classifier, ONE)

    predict(some, tmp_path / "out", classifier, ONE, second)
    assert len(table(tmp_path / "out")) == 6


def test_a_folder_of_another_model_source_or_selection_is_refused(
    some: Path, tmp_path: Path, classifier: Classifier
) -> None:
    predict(some, tmp_path / "out", classifier, ONE)
    other = load_classifier(write_classifier(tmp_path / "other", random_network(1)))
    with pytest.raises(InputError, match="another model"):
        predict(some, tmp_path / "out", other, ONE)
    elsewhere = shutil.copytree(some, tmp_path / "elsewhere")
    with pytest.raises(InputError, match="another source"):
        predict(elsewhere, tmp_path / "out", classifier, ONE)
    accepting = IngestConfiguration(captures="accept").selection
    with pytest.raises(InputError, match="another selection"):
        predict(some, tmp_path / "out", classifier, PredictionOptions(selection=accepting))


def test_lists_archives_and_tables_give_what_a_folder_gives(some: Path, tmp_path: Path, classifier: Classifier) -> None:
    predict(some, tmp_path / "folder", classifier, ONE)
    (tmp_path / "list.txt").write_text("".join(f"in/{number}.dcm\n" for number in range(6)))
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        for path in sorted(some.iterdir()):
            archive.write(path, path.name)
    rows = [f"in/{number}.dcm,s,p" for number in range(6)]
    (tmp_path / "table.csv").write_text("\n".join(["image,study,patient", *rows]))
    for name in ("list.txt", "archive.zip", "table.csv"):
        predict(tmp_path / name, tmp_path / f"out_{name}", classifier, ONE)
        np.testing.assert_array_equal(probabilities(tmp_path / f"out_{name}"), probabilities(tmp_path / "folder"))


def test_pictures_are_predicted_and_those_that_a_table_calls_inverted_are_turned(
    some: Path, tmp_path: Path, classifier: Classifier
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (90, 120), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "plain.png"), picture)
    cv2.imwrite(str(tmp_path / "inverted.png"), 255 - picture)
    (tmp_path / "t.csv").write_text("image,study,patient,inverted\nplain.png,s,p,0\ninverted.png,s,p,1\n")
    predict(tmp_path / "t.csv", tmp_path / "out", classifier, ONE)
    inverted, plain = probabilities(tmp_path / "out")
    np.testing.assert_allclose(inverted, plain, atol=1e-6)


@pytest.fixture(scope="module")
def store(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores") / "store"
    ingest(phantoms, folder, configuration=IngestConfiguration(size=96))
    return folder


def test_a_store_of_the_preset_gives_what_its_original_files_give(
    store: Path, phantoms: Path, tmp_path: Path, classifier: Classifier
) -> None:
    predict(store, tmp_path / "of_store", classifier, ONE)
    predict(phantoms, tmp_path / "of_files", classifier, ONE)
    found, wanted = (np.sort(probabilities(tmp_path / name)[:, 0]) for name in ("of_store", "of_files"))
    assert len(found) >= len(frontal(phantoms))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_numbers_and_decisions_are_those_of_the_bundles_own_inference(demo: DemoResult, tmp_path: Path) -> None:
    """From training to table: MONAI's workflow wrote the one, in `evaluate`, and `export` and `predict` the other."""
    run = demo.folder / "classifier_local"
    export_run(run, tmp_path / "export", ["safetensors"])
    predict(demo.folder / "store", tmp_path / "out", load_classifier(tmp_path / "export"), ONE)
    found = table(tmp_path / "out").with_columns(image=pl.col("file").str.split("/").list.last())
    wanted = pl.read_csv(run / "predictions_test.csv").join(found, on="image", suffix=" found")
    assert len(wanted) == len(pl.read_csv(run / "predictions_test.csv")) > 5
    chosen = {
        (m["label"], m["metric"]): m["value"]
        for m in json.loads((run / "metrics.json").read_text())["metrics"]
        if m["blanks"] == "masked"
    }
    compared = 0
    for label in json.loads((tmp_path / "export" / "classifier" / "config.json").read_text())["label_names"]:
        raw = wanted[label].to_numpy()
        logits = np.log(raw / (1 - raw)) / (chosen.get((label, "temperature")) or 1.0)
        np.testing.assert_allclose(wanted[f"{label} found"].to_numpy(), 1 / (1 + np.exp(-logits)), atol=1e-5)
        threshold = chosen.get((label, "threshold"))
        clear = np.abs(raw - (threshold or 0)) > 1e-6
        decisions = wanted[f"{label} present"].to_list()
        if threshold is None:
            assert set(decisions) == {None}
        else:
            assert np.array(decisions)[clear].tolist() == (raw >= threshold)[clear].tolist()
            compared += 1
    assert compared


def test_a_store_whose_values_do_not_fill_their_bits_is_refused(
    store: Path, tmp_path: Path, classifier: Classifier
) -> None:
    content = json.loads((store / "datalist.json").read_text())
    content["preprocessing"]["range"] = [0, 4095]
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "datalist.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="full range"):
        predict(tmp_path / "store", tmp_path / "out", classifier, ONE)


def test_a_store_of_another_preset_is_refused(phantoms: Path, tmp_path: Path, classifier: Classifier) -> None:
    ingest(phantoms, tmp_path / "store", configuration=IngestConfiguration(size=96, preset="percentile"))
    with pytest.raises(InputError, match="preset percentile"):
        predict(tmp_path / "store", tmp_path / "out", classifier, ONE)
    assert not (tmp_path / "out").exists()


def test_heat_maps_lie_over_the_image_and_carry_the_notice(some: Path, tmp_path: Path, classifier: Classifier) -> None:
    predict(some, tmp_path / "out", classifier, PredictionOptions(wanted=Wanted(maps=True), workers=1))
    found = table(tmp_path / "out")
    drawn = 0
    for row in found.iter_rows(named=True):
        shown = [
            n
            for n, name in enumerate(NAMES)
            if (row[name] >= 0.5 if row[f"{name} present"] is None else row[f"{name} present"])
        ]
        folder = tmp_path / "out" / "maps" / row["results"]
        names = sorted(path.name for path in folder.glob("*.nii.gz")) if folder.exists() else []
        assert [int(name.split("_")[1]) for name in names] == shown
        header = dcmread(some / row["file"])
        for name in names:
            image = nibabel.load(folder / name)
            assert image.shape == (header.Rows, header.Columns)
            assert image.header["descrip"].item().decode() == NOTICE
            assert cv2.imread(str(folder / name.replace(".nii.gz", ".png"))) is not None
            drawn += 1
    assert drawn


def test_a_heat_map_is_the_class_activation_map_of_the_label(classifier: Classifier) -> None:
    """For a head on the mean of the last map, Grad-CAM is that map weighed by the head (Zhou et al., CVPR 2016)."""
    image = np.random.default_rng(0).integers(0, 256, (96, 96), dtype=np.uint8)
    found = classifier.evidence(image, 2)
    network = random_network()
    small = F.adaptive_avg_pool2d(torch.from_numpy(image.astype(np.float32) / 255)[None, None], 64)
    features: list[torch.Tensor] = []
    network.layer4.register_forward_hook(lambda _, __, output: features.append(output))
    with torch.no_grad():
        network(small)
        wanted = torch.einsum("c,chw->hw", network.fc.weight[2], features[0][0]).relu() / features[0][0, 0].numel()
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-6)


def test_the_evidence_of_a_densenet_is_its_class_activation_map(tmp_path: Path) -> None:
    arguments = {"spatial_dims": 2, "in_channels": 1, "out_channels": 3, "init_features": 8, "growth_rate": 4}
    arguments |= {"block_config": [2, 2]}
    torch.manual_seed(0)
    network = nets.DenseNet(**arguments).eval()
    described = {"class": "DenseNet", "arguments": arguments, "file": None, "part": None}
    classifier = load_classifier(write_classifier(tmp_path / "model", network, network=described))
    image = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    with torch.no_grad():
        features = network.features(torch.from_numpy(image.astype(np.float32) / 255)[None, None]).relu()[0]
        head = network.class_layers.out.weight[1].detach()
    wanted = torch.einsum("c,chw->hw", head, features).relu() / features[0].numel()
    np.testing.assert_allclose(classifier.evidence(image, 1), wanted.numpy(), atol=1e-6)


def test_the_picture_of_a_map_has_the_radiograph_its_hottest_place_and_words_below() -> None:
    square = np.zeros((96, 96), np.uint8)
    square[:, 24:72] = 128  # a tall picture in its square
    geometry = Geometry(
        rows=200, columns=100, size=96, scale_rows=0.48, scale_columns=0.48, offset_rows=0, offset_columns=24
    )
    prepared = PreparedImage(square, geometry, "", "", (), 0.5, 0.1, 0.0)
    scores = np.zeros((3, 4), np.float32)
    scores[0, 1] = 1  # upper left of what is the picture
    drawn = evidence_picture(prepared, scores, "Edema: 0.80 (present)")
    assert drawn.shape[1] == 384
    picture, words = drawn[:768].astype(int), drawn[768:]
    colour = picture[..., 0] - picture[..., 2]  # grey has none
    row, column = np.unravel_index(colour.argmax(), colour.shape)
    assert row < 256
    assert column < 192
    assert colour[600:].max() == 0
    assert abs(picture[700, 200, 0] - 0.9 * 128) <= 1
    assert words.max() == 255
    assert len(np.unique(words[4:24].max(axis=(0, 2)))) > 1
    assert words[26:].max() == 255, "the notice is the second line"


def test_a_finding_that_no_place_speaks_for_is_said_to_be_one(tmp_path: Path) -> None:
    network = random_network()
    with torch.no_grad():
        network.fc.weight.zero_()
        network.fc.bias.fill_(1)
    classifier = load_classifier(write_classifier(tmp_path / "model", network))
    array = np.random.default_rng(0).integers(0, 256, (96, 96), dtype=np.uint8)
    prepared = PreparedImage(array, Geometry(96, 96, 96, 1, 1, 0, 0), "", "", (), 0.5, 0.1, 0.0)
    (prediction,) = classifier.predict(array[None])
    words = caption(classifier, prediction, 0)
    drawn = evidence_of(classifier, prepared, prediction)[0].picture
    said, unsaid = (evidence_picture(prepared, np.zeros((3, 3), np.float32), text) for text in (words + NOTHING, words))
    np.testing.assert_array_equal(drawn, said)
    assert not np.array_equal(said, unsaid)


def test_findings_alone_are_drawn_and_no_finding_is_none(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "model", label_names=["Edema", "No Finding", "Pleural Effusion"])
    prediction = Prediction(np.array([0.9, 0.9, 0.2]), (None, True, True))
    assert labels_to_show(load_classifier(folder), prediction) == [0, 2]


def test_results_of_a_file_that_changed_take_the_place_of_the_earlier_ones(
    some: Path, tmp_path: Path, classifier: Classifier
) -> None:
    out, options = tmp_path / "out", PredictionOptions(wanted=Wanted(maps=True, dicom=True), workers=1)
    for path in list(some.iterdir())[1:]:
        path.unlink()
    predict(some, out, classifier, options)
    (name,) = table(out)["results"]
    for stale in (out / "maps" / name / "1_09_gone.png", out / "dicom" / name / "09_gone.dcm"):
        stale.parent.mkdir(parents=True, exist_ok=True)
        stale.write_bytes(b"")
    (path,) = some.iterdir()
    dataset = dcmread(path)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.save_as(path)
    predict(some, out, classifier, options)
    (new,) = table(out)["results"]
    assert new != name
    assert not list(out.rglob(f"{name}*"))
    assert (out / "dicom" / new / "report.dcm").exists()


def test_a_classifier_that_was_calibrated_anew_is_another_model(
    some: Path, tmp_path: Path, classifier: Classifier
) -> None:
    predict(some, tmp_path / "out", classifier, ONE)
    calibrated = load_classifier(write_classifier(tmp_path / "model", calibration={"temperature": {}, "threshold": {}}))
    assert calibrated.sha256 == classifier.sha256
    with pytest.raises(InputError, match="another model"):
        predict(some, tmp_path / "out", calibrated, ONE)


def test_a_source_is_no_folder_for_its_predictions(some: Path, classifier: Classifier) -> None:
    with pytest.raises(InputError, match="is the source itself"):
        predict(some, some, classifier, ONE)


def test_headers_of_every_kind_come_back_in_dicom_results(
    some: Path, shared_data: Path, tmp_path: Path, classifier: Classifier
) -> None:
    """Among them one with a VOI LUT and one with other names of the patient."""
    for path in sorted((shared_data / "dicom_real").glob("*")):
        shutil.copy(path, some / path.name)
    options = PredictionOptions(wanted=Wanted(dicom=True), workers=1)
    summary = predict(some, tmp_path / "out", classifier, options)
    found = table(tmp_path / "out").filter(pl.col("reason") == "")
    assert summary.counts[""] > 6
    written = (found["results_detail"] == "").sum()
    assert written == len(list((tmp_path / "out" / "dicom").glob("*/report.dcm")))
    assert written > 6


def test_images_that_claim_one_uid_have_results_of_their_own(
    some: Path, phantoms: Path, tmp_path: Path, classifier: Classifier
) -> None:
    for path in some.iterdir():
        dataset = dcmread(path)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        dataset.save_as(path)
    predict(some, tmp_path / "out", classifier, PredictionOptions(wanted=Wanted(dicom=True), workers=1))
    assert table(tmp_path / "out")["results"].n_unique() == 6


def test_frames_that_would_fill_the_memory_are_refused_as_by_ingest(
    some: Path, tmp_path: Path, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preprocessing.conversion.MAXIMUM_BYTES", 96 * 96 - 1)
    settings = ReadingSettings(classifier.preparation, ONE.selection, None)
    read = read_file(settings, SourceImage(str(some / "0.dcm"), "0.dcm"))
    assert (read.reason, read.frames) == ("too_large", ())


def test_a_folder_with_brackets_in_its_name_is_written_to(some: Path, tmp_path: Path, classifier: Classifier) -> None:
    predict(some, tmp_path / "out[1]", classifier, ONE)
    assert len(table(tmp_path / "out[1]")) == 6
    assert (tmp_path / "out[1]").stat().st_mode & 0o077 == 0


def test_a_malformed_element_costs_no_prediction_with_dicom_results(
    some: Path, tmp_path: Path, classifier: Classifier
) -> None:
    content = (some / "0.dcm").read_bytes()
    tag = b"\x20\x00\x13\x00IS"  # InstanceNumber
    place = content.index(tag)
    length = int.from_bytes(content[place + 6 : place + 8], "little")
    (some / "0.dcm").write_bytes(content[: place + 8] + b"1a"[:length].ljust(length) + content[place + 8 + length :])
    predict(some, tmp_path / "out", classifier, PredictionOptions(wanted=Wanted(dicom=True), workers=1))
    assert table(tmp_path / "out")["reason"].to_list() == [""] * 6
    assert table(tmp_path / "out")["results_detail"].to_list() == [""] * 6


def test_names_of_results_do_not_hold_identifiers(some: Path, tmp_path: Path, classifier: Classifier) -> None:
    secret = some / "ZWIEBELKRAUT^OTTILIE.dcm"
    (some / "0.dcm").rename(secret)
    predict(some, tmp_path / "out", classifier, PredictionOptions(wanted=Wanted(True, True), workers=1))
    uids = [dcmread(path).SOPInstanceUID for path in some.iterdir()]
    for path in (tmp_path / "out").rglob("*"):
        assert "ZWIEBEL" not in path.name
        assert not any(uid in path.name for uid in uids)


def test_dicom_results_are_added_to_predictions_that_are_there(
    some: Path, tmp_path: Path, classifier: Classifier
) -> None:
    cv2.imwrite(str(some / "a.png"), np.zeros((64, 64), np.uint8))
    predict(some, tmp_path / "out", classifier, ONE)
    options = PredictionOptions(wanted=Wanted(dicom=True), workers=1)
    assert predict(some, tmp_path / "out", classifier, options).done == 7
    assert predict(some, tmp_path / "out", classifier, options).done == 0
    found = table(tmp_path / "out")
    for row in found.filter(pl.col("file") != "a.png").iter_rows(named=True):
        report = dcmread(tmp_path / "out" / "dicom" / row["results"] / "report.dcm")
        assert report.Modality == "SR"
        assert report.StudyInstanceUID == row["study_instance_uid"]
        evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
        assert evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == row["sop_instance_uid"]
    assert "no DICOM" in found.filter(pl.col("file") == "a.png")["results_detail"].item()


@pytest.mark.parametrize("wanted", [Wanted(), Wanted(maps=True, dicom=True)])
def test_a_network_that_gives_no_number_is_said_to(some: Path, tmp_path: Path, wanted: Wanted) -> None:
    network = random_network()
    with torch.no_grad():
        network.fc.bias[1] = torch.nan
    classifier = load_classifier(write_classifier(tmp_path / "model", network))
    summary = predict(some, tmp_path / "out", classifier, PredictionOptions(wanted=wanted, workers=1))
    assert summary.counts == {"not_finite": 6}
    assert not (tmp_path / "out" / "dicom").exists()
    assert table(tmp_path / "out")["Edema"].to_list() == [None] * 6


def test_a_label_called_as_a_column_is_refused(some: Path, tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "model", label_names=["Edema", "file", "Pleural Effusion"])
    with pytest.raises(InputError, match="'file'"):
        predict(some, tmp_path / "out", load_classifier(folder), ONE)


CHANGED = {
    "views": {"views": "PA"},
    "labels": {"label_names": NAMES[:2]},
    "twice": {"label_names": [*NAMES[:2], NAMES[0]]},
    "side": {"image_size": 0},
}


def spoiled(tmp_path: Path, name: str) -> Path:
    folder = write_classifier(tmp_path / "model")
    weights, config = folder / "model.safetensors", folder / "config.json"
    described = json.loads(config.read_text())
    if name == "pickle":
        torch.save(random_network().state_dict(), weights)
    elif name == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif name == "empty":
        weights.write_bytes(b"")
    elif name == "other weights":
        shutil.copy(write_classifier(tmp_path / "b", random_network(1)) / "model.safetensors", weights)
    elif name == "gone":
        weights.unlink()
    elif name == "other network":
        described["network"]["arguments"] = NETWORK | {"num_classes": 5}
    elif name == "class":
        described["network"]["class"] = "Popen"
    elif name == "encoder":
        described["kind"] = "encoder"
    elif name == "preparation":
        del described["preprocessing"]["size"]
    elif name == "fetching":
        described["network"]["arguments"] = NETWORK | {"pretrained": True}
    elif name == "arguments":
        described["network"]["arguments"] = NETWORK | {"widen_factor": -1}
    elif name in ("preset", "bits"):
        described["preprocessing"] |= {"preset": "mri"} if name == "preset" else {"bit_depth": "16"}
    elif name in ("temperature", "threshold"):
        described["calibration"] = CALIBRATION | {name: {"Edema": -1.0 if name == "temperature" else 2.0}}
    described |= CHANGED.get(name, {})
    if name == "json":
        config.write_text("{")
    else:
        config.write_text(json.dumps(described))
    return folder


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pickle", "no whole safetensors file"),
        ("cut", "no whole safetensors file"),
        ("empty", "no whole safetensors file"),
        ("other weights", "not of one export"),
        ("gone", "cannot be read"),
        ("other network", "does not fit the network"),
        ("class", "network Popen cannot be made"),
        ("fetching", "network resnet18 cannot be made"),
        ("arguments", "network resnet18 cannot be made"),
        ("encoder", r"config.json: kind: .*'classifier'"),
        ("preparation", r"preprocessing.size: Field required; ingest, train and export again"),
        ("preset", r"preprocessing.preset: "),
        ("bits", r"preprocessing.bit_depth: "),
        ("temperature", r"calibration.temperature.Edema: .*greater than 0"),
        ("threshold", r"calibration.threshold.Edema: .*less than or equal to 1"),
        ("views", r"views: .*list"),
        ("labels", r"does not give 2 outputs"),
        ("twice", r"a name twice"),
        ("side", r"image_size: .*greater than or equal to 32"),
        ("json", "holds no exported classifier"),
    ],
)
def test_weights_that_cannot_be_trusted_are_refused(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        load_classifier(spoiled(tmp_path, name))
