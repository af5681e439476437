"""Prompts are scored and reports found as the run's network says; what cannot be used is said and stops nothing."""

import json
import math
import shutil
from pathlib import Path
from statistics import mean
from typing import Any
from zipfile import ZipFile

import cv2
import numpy as np
import polars as pl
import pytest
import torch
import yaml
from local_mi.checkpoints import keep, read_record
from local_mi.datalist import SPLITS
from local_mi.errors import ConfigurationError
from local_mi.evaluation import evaluate_scores
from local_mi.scores import read_scores
from local_mi.tokens import text_batch
from local_mi.weights import save_encoder
from made_run import SENTENCES, write_run
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from pipelines.bundle import ENCODER, PRETRAINED, bundle_folder, evaluate, pretrained_network
from pipelines.prompts import PROMPTS, Prompts, read_prompts
from pipelines.zero_shot import nearest_reports, score_prompts
from preprocessing.errors import InputError
from preprocessing.readers import read_square

LABELS = ["Pleural Effusion", "Cardiomegaly"]
ASKED = {
    "Pleural Effusion": {"positive": [SENTENCES[0], "Pleural effusion."], "negative": ["No effusion.", SENTENCES[3]]},
    "Cardiomegaly": {"positive": SENTENCES[1], "negative": [SENTENCES[3]]},
    "Clear": SENTENCES[3],
}


@pytest.fixture(scope="module", params=["local", "global", "local+global"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "run", objective=request.param)


@pytest.fixture(scope="module")
def local_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen studies to test on, the last of them lateral alone, and two each to train and to validate on."""
    folder, random = tmp_path_factory.mktemp("store"), np.random.default_rng(0)
    splits: dict[str, list[dict[str, Any]]] = {"training": [], "validation": [], "test": []}
    for k in range(18):
        split = "training" if k < 2 else "validation" if k < 4 else "test"
        said = [text for n, text in enumerate(SENTENCES) if 7 * k & 1 << n] or ["--"]  # no two of the test split alike
        label = [k % 2, None if k % 3 == 0 else k % 4 // 2]
        for view in ("LATERAL",) if k == 17 else ("PA", "AP", "LATERAL") if k % 5 == 0 else ("PA",):
            picture = np.clip(random.normal(128, 60, (64, 64)) + 40 * k % 90, 0, 255).astype(np.uint8)
            np.save(folder / f"i{k}{view}.npy", picture)
            item = {"image": f"i{k}{view}.npy", "study": f"s{k}", "patient": f"p{k}", "view": view}
            splits[split].append(item | {"sentences": said, "label": label})
    content = {"label_names": LABELS, "preprocessing": {"preset": "voi", "range": [0, 255]}, **splits}
    (folder / "datalist.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    (tmp_path / "asked.yaml").write_text(yaml.safe_dump(ASKED, sort_keys=False))
    return tmp_path / "asked.yaml"


def items_of(store: Path, split: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads((store / "datalist.json").read_text())[split]
    return items


def slow_score(run: Path, picture: np.ndarray, sentence: str) -> float:
    """One image with one sentence by the network's own methods; the regions aggregated here."""
    network = pretrained_network(run)
    text = text_batch([sentence], str(run / "models" / "text_model"), "sentence", 64)
    image, score = torch.from_numpy(np.float32(picture) / 255)[None, None], 0.0
    with torch.no_grad():
        if network.local_critic is not None:
            score += math.log(mean(math.exp(value) for value in network.region_scores(image, text).flatten().tolist()))
        if network.global_critic is not None:
            score += float(network.report_scores(image, text))
    return score


def test_a_cell_is_what_the_network_says_of_the_image_and_the_labels_prompts(
    run: Path, store: Path, prompts: Path, tmp_path: Path
) -> None:
    done = score_prompts(run, store, prompts, tmp_path / "out" / "scores.csv")
    table, columns = pl.read_csv(done.csv), pl.read_parquet(done.parquet)
    assert table.rows() == columns.rows(), "numbers read back as they were"
    assert table.columns == ["study", "image", *ASKED, "reason", "detail", "notice"]
    frontal = [item for item in items_of(store, "test") if item["view"] != "LATERAL"]
    assert table.select("study", "image").rows() == [(item["study"], item["image"]) for item in frontal]
    assert (done.images, done.unreadable) == (len(frontal), 0)
    for row in (0, 7):
        picture = np.load(store / frontal[row]["image"])
        for label in LABELS:
            sides = [ASKED[label][side] for side in ("positive", "negative")]
            texts = [[side] if isinstance(side, str) else side for side in sides]
            present, absent = (mean(slow_score(run, picture, text) for text in side) for side in texts)
            expected = math.exp(present) / (math.exp(present) + math.exp(absent))
            assert table[label][row] == pytest.approx(expected, abs=1e-4)
        assert table["Clear"][row] == pytest.approx(slow_score(run, picture, SENTENCES[3]), abs=1e-3)


def test_the_probabilities_can_be_evaluated_as_a_classifiers(
    local_run: Path, store: Path, prompts: Path, tmp_path: Path
) -> None:
    done = score_prompts(local_run, store, prompts, tmp_path / "scores.csv", split="test")
    scores = read_scores(str(done.csv), str(store / "datalist.json"), "test", LABELS)
    metrics = evaluate_scores(scores, None, resamples=10)
    rows = {row["image"]: row for row in pl.read_csv(done.csv).iter_rows(named=True)}
    for k, label in enumerate(LABELS):
        by_value: dict[int | None, list[float]] = {0: [], 1: [], None: []}
        for item in items_of(store, "test"):
            if item["image"] in rows:
                by_value[item["label"][k]].append(rows[item["image"]][label])
        pairs = [(one > other) + (one == other) / 2 for one in by_value[1] for other in by_value[0]]
        found = next(m.value for m in metrics if (m.label, m.metric, m.blanks) == (label, "auroc", "masked"))
        assert found == pytest.approx(mean(pairs))


def write_dicom(path: Path, pixels: np.ndarray) -> None:
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3"
    header.PatientName, header.Modality = "Doe^Jane", "DX"
    header.PhotometricInterpretation, header.SamplesPerPixel = "MONOCHROME2", 1
    header.Rows, header.Columns = pixels.shape
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 8, 8, 7, 0
    header.WindowCenter, header.WindowWidth = 60, 40
    header.PixelData = pixels.tobytes()
    dcmwrite(path, header, enforce_file_format=True)


def damaged_files(folder: Path, good: np.ndarray) -> dict[str, str]:
    """Files that are no picture, and the reason of each."""
    (folder / "a.txt").write_text("Doe^Jane has a cough")
    (folder / "empty.dcm").write_bytes(b"")
    (folder / "cut.png").write_bytes(cv2.imencode(".png", good)[1].tobytes()[:60])
    np.save(folder / "nan.npy", np.full((64, 64), np.nan, np.float32))
    np.save(folder / "bright.npy", good.astype(np.float32))
    np.save(folder / "flat.npy", np.zeros((0, 64), np.uint8))
    with ZipFile(folder / "b.zip", "w") as archive:
        archive.writestr("Doe.dcm", b"x")
    (folder / "gone.dcm").symlink_to(folder / "nowhere")
    known = {"a.txt": "not_dicom", "empty.dcm": "empty_file", "cut.png": "truncated", "gone.dcm": "missing_file"}
    return known | {"nan.npy": "impossible_value", "bright.npy": "impossible_value", "b.zip!/Doe.dcm": "not_a_file"}


def test_of_a_folder_every_file_has_a_row_and_bad_ones_a_reason_and_no_score(
    local_run: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.zero_shot.BATCH", 3)  # batches with none, some and all of their images whole
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    good = np.random.default_rng(1).integers(0, 255, (64, 64)).astype(np.uint8)
    np.save(folder / "below" / "good.npy", good)
    cv2.imwrite(str(folder / "good.png"), good)
    reasons = damaged_files(folder, good)
    out = folder / "scores.csv"
    for _ in range(2):  # the table of the first time is no image of the second
        done = score_prompts(local_run, folder, prompts, out)
    rows = {row.pop("file"): row for row in pl.read_csv(out).iter_rows(named=True)}
    assert rows.keys() == {"below/good.npy", "good.png", "flat.npy", *reasons}
    assert (done.images, done.unreadable) == (len(rows), len(rows) - 2)
    assert {name: rows[name]["reason"] for name in reasons} == reasons
    assert rows["flat.npy"]["reason"]
    for name in rows.keys() - {"below/good.npy", "good.png"}:
        assert rows[name]["detail"]
        assert all(rows[name][label] is None for label in ASKED)
    alone = pl.read_csv(score_prompts(local_run, folder / "good.png", prompts, tmp_path / "one.csv").csv)
    assert alone["file"].to_list() == ["good.png"]
    for name in ("below/good.npy", "good.png"):
        assert rows[name]["reason"] is None
        for label in ASKED:
            assert rows[name][label] == pytest.approx(alone[label][0], abs=1e-5)
    for path in (out, done.parquet):
        assert b"cough" not in path.read_bytes()


def test_a_dicom_file_is_rendered_by_the_runs_preset(local_run: Path, prompts: Path, tmp_path: Path) -> None:
    write_dicom(tmp_path / "i.dcm", np.random.default_rng(1).integers(0, 250, (64, 64)).astype(np.uint8))
    scores = []
    for preset in ("voi", "percentile"):
        run = shutil.copytree(local_run, tmp_path / preset)
        encoder = pretrained_network(run).image_encoder
        save_encoder(encoder, str(run / "models" / ENCODER), {"preprocessing": {"preset": preset}})
        np.save(tmp_path / "i.npy", read_square(tmp_path / "i.dcm", 64, preset))
        made, plain = (
            pl.read_csv(score_prompts(run, tmp_path / name, prompts, tmp_path / "s.csv").csv)["Clear"][0]
            for name in ("i.dcm", "i.npy")
        )
        assert made == pytest.approx(plain, abs=1e-6)
        scores.append(made)
    assert scores[0] != pytest.approx(scores[1], abs=1e-4)


# Prompts


def test_the_built_in_prompts_are_pairs_for_the_labels_of_inference() -> None:
    inference = yaml.safe_load((bundle_folder() / "configs" / "inference.yaml").read_text())
    found = read_prompts(PROMPTS)
    assert [one.label for one in found] == inference["label_names"]
    assert all(one.positive and one.negative for one in found)


def test_prompts_may_be_written_in_three_ways(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("ägg: {positive: one  word, negative: [two]}\n'no': [a, b]\nlast one:\n  one\n  line\n")
    assert read_prompts(path) == [
        Prompts("ägg", ("one word",), ("two",)),
        Prompts("no", ("a", "b")),
        Prompts("last one", ("one line",)),
    ]


REFUSED = {
    "": "no labels",
    "[a, b]": "no labels",
    "Edema: {positive: [a], negative: []}": "Edema: negative: is empty",
    "Edema: {negative: [a]}": "Edema: has no positive prompt",
    "Edema:": "Edema: positive: prompt 1 is no text",
    "Edema: [a, 5]": "Edema: positive: prompt 2 is no text",
    "Edema: [a, no]": "Edema: positive: prompt 2 is no text",
    "Edema: {positive: [a], negative: [b, [c]]}": "Edema: negative: prompt 2 is no text",
    "Edema: {positive: a, negatives: b}": "Edema: the key 'negatives' is unknown",
    "Edema: [a, ' A ']": "Edema: the prompt 'a' stands twice",
    "Edema: {positive: a b, negative: A  B}": "Edema: the prompt 'a b' stands twice",
    "Edema: ['12 %']": "Edema: positive: prompt 1 has no letters",
    "Edema: ['']": "Edema: positive: prompt 1 has no letters",
    "Edema: a\n'Edema ': b": "Edema: the label stands twice",
    "Edema: a\nEdema: b": "line 1: a key stands twice",
    "no: a": "the label False is no text",
    "study: a": "study: a column of the table is called so",
    "Edema: [a": "not readable as YAML in line",
    "Edema: !!python/name:os.system a": "not readable as YAML",
    "Edema: &x [a, *x]": "Edema: positive: prompt 2 is no text",
    "Edema: \x00": "not a readable YAML file of prompts",
    "[" * 800: "(RecursionError)",
}


@pytest.mark.parametrize("content", REFUSED, ids=range(len(REFUSED)))
def test_prompts_that_cannot_be_used_are_refused_by_label(content: str, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(content)
    with pytest.raises(InputError) as refusal:
        read_prompts(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert REFUSED[content] in str(refusal.value)


def test_many_and_long_prompts(local_run: Path, store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = {f"label {k}": f"word {'x' * (k % 7)} {k}" for k in range(1200)} | {"long": "effusion " * 300}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(asked))
    table = pl.read_csv(score_prompts(local_run, store, tmp_path / "p.yaml", tmp_path / "s.csv").csv)
    assert table.select(pl.col(list(asked)).is_finite().all()).row(0) == (True,) * 1201
    assert [record.message[:31] for record in caplog.records] == ["1 of 1201 sentences have more t"]
    assert "effusion" not in caplog.text


# Reports


def test_own_reports_are_found_as_often_as_the_runs_own_evaluation_says(run: Path, store: Path) -> None:
    first: dict[str, Path] = {}
    for item in items_of(store, "test"):
        if item["view"] != "LATERAL" and item["sentences"] != ["--"]:
            first.setdefault(item["study"], store / item["image"])
    found = nearest_reports(run, store, list(first.values()), 100, split="test")
    figures = evaluate(store, run, "pretrain", {"num_workers": 0})
    orders = [[report.study for report in neighbours.reports] for neighbours in found]
    ranks = [order.index(own) + 1 for order, own in zip(orders, first, strict=True)]
    assert figures["retrieval/studies"] == len(first) == len(found[0].reports)
    for k in (1, 5, 10):
        assert figures[f"retrieval/image_to_report/recall_at_{k}"] == pytest.approx(mean(rank <= k for rank in ranks))


def test_a_study_comes_once_with_its_first_view_and_its_sentences_only_where_they_are_asked_for(
    local_run: Path, store: Path, tmp_path: Path
) -> None:
    image = store / "i5PA.npy"
    (tmp_path / "bad.png").write_bytes(b"no picture")
    everything, bad = nearest_reports(local_run, store, [image, tmp_path / "bad.png"], 100)
    assert (bad.reports, bad.unusable.reason if bad.unusable else "") == ((), "not_an_image")
    studies = [report.study for report in everything.reports]
    said = {item["study"]: item["sentences"] for split in SPLITS for item in items_of(store, split)}
    silent = {study for study, sentences in said.items() if sentences == ["--"]}
    assert set(studies) == said.keys() - silent - {"s17"}, "s17 is lateral alone"
    assert len(set(studies)) == len(studies) > 10
    assert {report.view for report in everything.reports} == {"PA"}
    assert all(report.sentences is None for report in everything.reports)
    scores = [report.score for report in everything.reports]
    assert scores == sorted(scores, reverse=True)
    (shown,) = nearest_reports(local_run, store, [image], 3, show_sentences=True)
    assert [report.study for report in shown.reports] == studies[:3]
    for report in shown.reports:
        assert report.sentences == tuple(said[report.study])
    of_training = nearest_reports(local_run, store, [image], 100, split="training")[0].reports
    assert {report.study for report in of_training} <= {"s0", "s1"}


# Requests that cannot be met


def test_what_is_no_whole_pretraining_run_is_refused(local_run: Path, store: Path, tmp_path: Path) -> None:
    def refused(run: Path, match: str) -> None:
        for ask in (
            lambda: score_prompts(run, store, None, tmp_path / "s.csv"),
            lambda: nearest_reports(run, store, [store / "i0PA.npy"], 1),
        ):
            with pytest.raises(ConfigurationError, match=match):
                ask()

    (tmp_path / "classifier" / "models").mkdir(parents=True)
    (tmp_path / "classifier" / "models" / "model.pt").write_bytes(b"")
    refused(tmp_path / "classifier", "holds no pretrain run")
    without_text = shutil.copytree(local_run, tmp_path / "without_text")
    shutil.rmtree(without_text / "models" / "text_model")
    refused(without_text, "no text model in")
    diverged = shutil.copytree(local_run, tmp_path / "diverged")
    _with_nan(diverged)
    refused(diverged, "diverged")
    assert not (tmp_path / "s.csv").exists()


def _with_nan(run: Path) -> None:
    checkpoint = str(run / "models" / PRETRAINED)
    network = pretrained_network(run)
    torch.nn.init.constant_(network.local_critic.left_projection.bias, math.nan)
    keep(network, checkpoint, read_record(checkpoint) or {})


def test_sources_and_names_that_cannot_be_used(local_run: Path, store: Path, prompts: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    content = json.loads((store / "datalist.json").read_text())
    for name, preprocessing in {
        "other": {"preset": "percentile"},
        "narrow": {"preset": "voi", "range": [0, 4095]},
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "datalist.json").write_text(json.dumps(content | {"preprocessing": preprocessing}))
    for source, out, match in (
        (tmp_path / "nothing", "s.csv", "holds no files"),
        (tmp_path / "absent", "s.csv", "no such file or folder"),
        (store, "s.parquet", "end in .csv"),
        (tmp_path / "other", "s.csv", "preset percentile"),
        (tmp_path / "narrow", "s.csv", "full range"),
    ):
        with pytest.raises((InputError, ConfigurationError), match=match):
            score_prompts(local_run, source, prompts, tmp_path / out)
    with pytest.raises(ConfigurationError, match="split 'tset'"):
        score_prompts(local_run, store, prompts, tmp_path / "s.csv", split="tset")
    with pytest.raises(InputError, match="one or more"):
        nearest_reports(local_run, store, [store / "i0PA.npy"], 0)
    assert not (tmp_path / "s.csv").exists()
