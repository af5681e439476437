"""The command line: bad input is one clear sentence on stderr, exit code 2, and nothing half-written left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import PLAIN, Done, Run, assert_refused

from pipelines.demo import DemoResult

COMMANDS = (
    *("scan", "label", "phantoms", "ingest", "pretrain", "train", "evaluate", "study", "inference", "export", "ground"),
    *("bundle", "demo"),
)


def in_a_process(*arguments: str | Path) -> Done:
    command = [sys.executable, "-m", "pipelines.cli", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **PLAIN}
    )


def test_help_lists_every_command_and_each_explains_itself(run: Run) -> None:
    text = run("--help").stdout
    assert all(command in text for command in COMMANDS)
    assert "--preset" in run("ingest", "--help").stdout


def test_version(run: Run) -> None:
    assert run("--version").stdout.startswith("cxr-local-mi 0.")


def test_ingest_of_an_empty_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert_refused(run("ingest", tmp_path / "in", tmp_path / "store"), tmp_path / "in")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_ingest_of_a_folder_without_dicom(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "letter.txt").write_text("not an image")
    assert_refused(run("ingest", tmp_path / "in", tmp_path / "store"), tmp_path / "in", "not_dicom")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_ingest_of_a_folder_that_is_not_there(run: Run, tmp_path: Path) -> None:
    assert_refused(run("ingest", tmp_path / "in", tmp_path / "store"), tmp_path / "in")
    assert list(tmp_path.iterdir()) == []


def test_ingest_of_a_manifest(run: Run, shared_data: Path, tmp_path: Path) -> None:
    image = sorted((shared_data / "images").glob("cov_*.png"))[0]
    (tmp_path / "manifest.csv").write_text(f"image,study,patient,text\n{image},s1,p1,FINDINGS: Clear lungs.\n")
    assert run("ingest", tmp_path / "manifest.csv", tmp_path / "store").returncode == 0
    assert "Clear lungs." in (tmp_path / "store" / "datalist.json").read_text()


def test_an_unreadable_file_and_a_report_for_no_study_become_rejects(
    run: Run, demo: DemoResult, tmp_path: Path
) -> None:
    dicom = next((demo.folder / "phantoms" / "dicom").rglob("*.dcm"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.dcm").write_bytes(dicom.read_bytes())
    (tmp_path / "in" / "cut.dcm").write_bytes(dicom.read_bytes()[:700])
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "1.2.3.4.txt").write_text("FINDINGS: Clear lungs.")
    done = run("ingest", tmp_path / "in", tmp_path / "store", "--reports", tmp_path / "reports")
    assert done.returncode == 0, done.stderr
    rejects = (tmp_path / "store" / "rejects.csv").read_text().splitlines()
    assert len(rejects) == 3
    assert any(",image," in row and ("cut short" in row or "truncated" in row) for row in rejects)
    assert any(",report,no_such_study," in row for row in rejects)


def test_pretraining_on_a_folder_that_is_no_store(tmp_path: Path) -> None:
    assert_refused(in_a_process("pretrain", tmp_path, tmp_path / "run"), tmp_path / "datalist.json")
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_was_not_finished(run: Run, demo: DemoResult, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    for name in ("store.json", "datalist.json"):  # run.json is written last
        (tmp_path / "store" / name).write_bytes((demo.folder / "store" / name).read_bytes())
    assert_refused(run("pretrain", tmp_path / "store", tmp_path / "run"), tmp_path / "store", "not complete")


@pytest.mark.parametrize("key", ["ckpt_dir", "metrics_file"])
def test_a_key_that_follows_from_the_folders(run: Run, key: str, demo: DemoResult, tmp_path: Path) -> None:
    done = run("evaluate", demo.folder / "store", demo.folder / "classifier_local", "--set", f"{key}=/elsewhere")
    assert_refused(done, key)


def test_a_run_folder_that_cannot_be_written(run: Run, demo: DemoResult, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file, not a folder")
    assert_refused(run("pretrain", demo.folder / "store", tmp_path / "run"), tmp_path / "run")


def test_a_configuration_key_that_does_not_exist(run: Run, demo: DemoResult, tmp_path: Path) -> None:
    done = run("pretrain", demo.folder / "store", tmp_path / "run", "--set", "max_epoch=3")
    assert_refused(done, "max_epoch", "did you mean 'max_epochs'?")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_weights_file(run: Run, demo: DemoResult, tmp_path: Path) -> None:
    weights = tmp_path / "nowhere.safetensors"
    done = run("train", demo.folder / "store", tmp_path / "run", "--pretrained", weights, "--set", "num_workers=0")
    assert_refused(done, weights)
    assert list(tmp_path.iterdir()) == []


def test_results_go_to_stdout_and_logs_to_stderr(demo: DemoResult) -> None:
    done = in_a_process("evaluate", demo.folder / "store", demo.folder / "classifier_local")
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert all(len(row) == 3 for row in rows), done.stdout
    assert ["macro", "auroc"] in [row[:2] for row in rows]
    assert "evaluation.html" in done.stderr


def test_evaluation_of_a_folder_without_a_run(run: Run, demo: DemoResult, tmp_path: Path) -> None:
    assert_refused(run("evaluate", demo.folder / "store", tmp_path), tmp_path, "cxr-local-mi train")


def test_grounding_in_a_file_that_is_no_image(run: Run, demo: DemoResult, tmp_path: Path) -> None:
    (tmp_path / "text.dcm").write_text("not an image")
    done = run("ground", demo.folder / "pretrain", tmp_path / "text.dcm", "Clear lungs.", tmp_path / "picture.png")
    assert_refused(done, tmp_path / "text.dcm")
    assert not (tmp_path / "picture.png").exists()


def test_grounding_in_a_dicom_file(run: Run, demo: DemoResult, tmp_path: Path) -> None:
    dicom = next((demo.folder / "phantoms" / "dicom").rglob("*.dcm"))
    done = run("ground", demo.folder / "pretrain", dicom, "There is a nodule.", tmp_path / "picture.png")
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_the_bundle_is_copied_out_whole(run: Run, tmp_path: Path) -> None:
    assert run("bundle", tmp_path / "bundle").returncode == 0
    for part in ("configs/pretrain.yaml", "configs/metadata.json", "docs/README.md", "LICENSE", "local_mi/network.py"):
        assert (tmp_path / "bundle" / part).is_file(), part
    assert_refused(run("bundle", tmp_path / "bundle"), tmp_path / "bundle")


@pytest.mark.parametrize("setting", ["max_epochs", "=3"])
def test_a_setting_that_is_no_pair(run: Run, setting: str, tmp_path: Path) -> None:
    assert run("pretrain", tmp_path, tmp_path / "run", "--set", setting).returncode == 2
