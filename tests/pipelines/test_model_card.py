"""The model card tells what the run's own files say, in words that Hugging Face reads, and its code runs."""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from made_classifier_run import COUNTS, SIZE, write_classifier_run, write_metrics

from pipelines.export_description import describe, evaluated_metrics
from pipelines.export_networks import networks_of_run
from pipelines.model_card import write_model_card


def card_of(run: Path, kind: str, folder: Path, data_licence: str = "", files: tuple[str, ...] = ()) -> str:
    trained = next(network for network in networks_of_run(run) if network.kind == kind)
    metrics = evaluated_metrics(trained, run)
    described, _ = describe(trained, run, metrics)
    config = described | {"weights_sha256": "e" * 64, "files": dict.fromkeys(files, "f" * 64)}
    write_model_card(folder / "README.md", trained, config, metrics, {"safetensors": 0.0, "onnx": 2e-6}, data_licence)
    return (folder / "README.md").read_text(encoding="utf-8")


def cells(card: str, first: str) -> list[str]:
    """The cells of the row that begins with a text, where `\\|` is no end of a cell."""
    line = next(line for line in card.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_hugging_face_reads_its_head(tmp_path: Path) -> None:
    run = write_classifier_run(tmp_path / "run")
    for kind, task in (("classifier", "image-classification"), ("encoder", "image-feature-extraction")):
        data = ModelCard(card_of(run, kind, tmp_path)).data
        assert (data.library_name, data.pipeline_tag, data.license) == ("monai", task, "other")
        assert "chest-radiograph" in data.tags


def test_figures_are_those_of_the_evaluation_with_their_intervals(tmp_path: Path) -> None:
    run = write_classifier_run(tmp_path / "run")
    write_metrics(run)
    card = card_of(run, "classifier", tmp_path)
    auroc, precision = "0.800 [0.700, 0.900]", "0.500 [0.400, 0.600]"
    missing = ["undefined", "undefined", "undefined"]
    assert cells(card, "Edema") == ["Edema", "40", "10", auroc, precision, *missing]
    assert cells(card, "mean of the labels") == ["mean of the labels", "", "", auroc, precision, *missing]
    assert "40 studies of 30 patients" in card
    assert "| Pneumothorax | 1.5 | none |" in card


def test_a_label_stays_in_its_cell(tmp_path: Path) -> None:
    run = write_classifier_run(tmp_path / "run")
    write_metrics(run)
    assert len(cells(card_of(run, "classifier", tmp_path), r"Edema \| mild or more")) == 8


def test_every_table_has_as_many_cells_in_each_row(tmp_path: Path) -> None:
    """And an empty line before it, without which Markdown shows the bars."""
    run = write_classifier_run(tmp_path / "run")
    write_metrics(run)
    for kind in ("classifier", "encoder"):
        tables = re.findall(r"(?:^\|.*\n)+", card_of(run, kind, tmp_path), re.MULTILINE)
        assert len(tables) >= 4
        for table in tables:
            assert len({len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table
            assert re.match(r"\|(-+\|)+$", table.splitlines()[1]), table
            assert f"\n\n{table}\n" in card_of(run, kind, tmp_path)


def test_counts_preparation_and_licence_stand_in_it(tmp_path: Path) -> None:
    run = write_classifier_run(tmp_path / "run")
    card = card_of(run, "encoder", tmp_path, "CC BY 4.0 | with\nattribution")
    assert list(map(str, COUNTS["training"].values())) == cells(card, "training")[1:]
    assert "preset voi; size 128; bit depth 8" in card
    assert f"(N, 1, {SIZE}, {SIZE})" in card
    assert r"CC BY 4.0 \| with attribution" in card
    assert "d" * 64 in card
    assert "e" * 64 in card
    assert "not for clinical use" in card


def test_what_is_not_known_is_said_to_be_unknown(tmp_path: Path) -> None:
    record: dict[str, Any] = {"prepared_as": None, "counts": None, "epoch": None, "datalist_sha256": None}
    card = card_of(write_classifier_run(tmp_path / "run", **record), "classifier", tmp_path)
    assert "Not evaluated" in card
    assert "Licence of the data: not stated." in card
    assert cells(card, "how images were prepared")[1] == "not recorded"
    assert "None" not in card
    assert "undefined" not in card


def test_paths_of_the_machine_do_not_stand_in_it(tmp_path: Path) -> None:
    """The run was told of `/home/me/e.safetensors`, and lies in a folder of its own."""
    card = card_of(write_classifier_run(tmp_path / "run"), "classifier", tmp_path)
    assert "| pretrained | e.safetensors |" in card
    assert "/home" not in card
    assert str(tmp_path) not in card


def test_only_what_is_in_the_folder_is_said_to_load(tmp_path: Path) -> None:
    run = write_classifier_run(tmp_path / "run")
    assert "onnxruntime" not in card_of(run, "classifier", tmp_path)
    card = card_of(run, "classifier", tmp_path, files=("model.onnx", "model.ts"))
    assert 'InferenceSession("model.onnx")' in card
    assert "torch.jit.load" in card
    assert "torch.export.load" not in card
