"""Bad data, bad settings and interruptions, met by the bundle's own configuration in MONAI's workflow class."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BUNDLE, write_store
from ignite.engine import Engine, Events
from local_mi.checkpoints import keep
from local_mi.datalist import datalist_hash
from local_mi.errors import ConfigurationError
from monai.bundle import ConfigWorkflow
from monai.utils import set_determinism

STUDIES = 24  # 16 of them in training: 2 steps of 8
STEPS = 2
EVERY_STATE = {  # moving averages, dropped sentences, two critics, a head, warm-up: all that a run can lose
    "objective": "local+global",
    "estimator": "mine",
    "critic": "concatenation",
    "sentences": "one",
    "label_names": ["Upper"],
}

Datalist = dict[str, Any]


@pytest.fixture(scope="module")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("small") / "store", studies=STUDIES, size=32)


@pytest.fixture(autouse=True)
def own_random_states() -> Iterator[None]:
    """MONAI's determinism, which the workflow sets, is the whole process's; other tests are to find it as it was."""
    yield
    set_determinism(None)


def workflow(store: Path, out: Path, **overrides: Any) -> ConfigWorkflow:
    given = {
        "bundle_root": str(BUNDLE),
        "dataset_dir": str(store),
        "ckpt_dir": str(out / "models"),
        "output_dir": str(out),
        "device": "cpu",
        "image_encoder#_target_": "monai.networks.nets.resnet10",
        "image_size": 32,
        "batch_size": 8,
        "num_workers": 0,
        "max_epochs": 2,
    }
    return ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / "pretrain.yaml"),
        logging_file=False,
        workflow_type="train",
        **given | overrides,
    )


def train(made: ConfigWorkflow) -> None:
    made.initialize()
    made.run()


def refusal(made: ConfigWorkflow) -> str:
    """The sentence of the ConfigurationError inside whatever MONAI raises."""
    with pytest.raises(Exception) as raised:  # noqa: PT011  the kinds that MONAI wraps errors in are its own
        train(made)
    cause: BaseException | None = raised.value
    while cause is not None and not isinstance(cause, ConfigurationError):
        cause = cause.__cause__ or cause.__context__
    assert cause is not None, f"no sentence for people in {raised.value!r}"
    assert "\n" not in str(cause)
    return str(cause)


def changed(store: Path, folder: Path, change: Callable[[Datalist, Path], None]) -> Path:
    """A copy of a store whose datalist or images `change` has spoilt."""
    shutil.copytree(store, folder)
    datalist = json.loads((folder / "datalist.json").read_text())
    change(datalist, folder)
    (folder / "datalist.json").write_text(json.dumps(datalist))
    return folder


def without_sentences(datalist: Datalist, _: Path) -> None:
    for item in datalist["training"]:
        item["sentences"] = []


def one_study(datalist: Datalist, _: Path) -> None:
    datalist["training"] = datalist["training"][:1]


def without_validation(datalist: Datalist, _: Path) -> None:
    datalist["validation"] = []


def without_a_file(datalist: Datalist, folder: Path) -> None:
    (folder / datalist["training"][13]["image"]).unlink()


def with_a_cut_first_file(datalist: Datalist, folder: Path) -> None:
    path = folder / datalist["training"][0]["image"]
    path.write_bytes(path.read_bytes()[:300])


def with_colour_amid_grey(datalist: Datalist, folder: Path) -> None:
    np.save(folder / datalist["training"][13]["image"], np.zeros((32, 32, 3), np.uint8))


@pytest.mark.parametrize(
    ("change", "words", "at_start"),
    [
        (without_sentences, ("'training'", "fewer than two studies", "sentence"), True),
        (one_study, ("'training'", "fewer than two studies"), True),
        (without_validation, ("'validation'", "is empty or missing"), True),
        (without_a_file, ("images/i19.npy", "is missing"), True),
        (with_a_cut_first_file, ("images/i0.npy", "no whole .npy file"), True),
        (with_colour_amid_grey, ("images/i19.npy", "3 axes"), False),  # every image would have to be opened
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_spoilt_store_is_one_sentence_that_names_what_is_wrong(
    change: Callable[[Datalist, Path], None], words: tuple[str, ...], at_start: bool, small_store: Path, tmp_path: Path
) -> None:
    store = changed(small_store, tmp_path / "store", change)
    sentence = refusal(workflow(store, tmp_path / "run"))
    assert all(word in sentence for word in words), sentence
    assert "opacity" not in sentence, "no word of a report belongs in a message"
    assert not list((tmp_path / "run").rglob("*.pt")), "nothing is kept of a run that could not be"
    assert (tmp_path / "run" / "tensorboard").exists() is not at_start


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("objective", "both", "objective 'both' is unknown"),
        ("estimator", "nce", "estimator 'nce' is unknown"),
        ("critic", "mlp", "critic 'mlp' is unknown"),
        ("aggregation", "sum", "aggregation 'sum' is unknown"),
        ("sentences", "two", "sentences 'two' is unknown"),
        ("encoding", "report", "encoding 'report' is unknown"),
        ("pooling", "max", "pooling 'max' is unknown"),
        ("label_names", ["Nope"], "Nope: not a label of"),
        ("small_bert#max_tokens", 16, "max_tokens is 64, and the text model in"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_training(
    setting: str, value: object, words: str, small_store: Path, tmp_path: Path
) -> None:
    sentence = refusal(workflow(small_store, tmp_path / "run", **{setting: value}))
    assert words in sentence
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_checkpoint_of_another_architecture_is_named_and_left_alone(small_store: Path, tmp_path: Path) -> None:
    made = workflow(small_store, tmp_path)
    made.initialize()
    description = made.parser.get_parsed_content("checkpoint_description")
    checkpoint = tmp_path / "models" / "pretrained.pt"
    record = {"metric": "mi_nats", "value": 9.0, "datalist_sha256": datalist_hash(str(small_store / "datalist.json"))}
    keep(torch.nn.Linear(2, 2), str(checkpoint), record | description)
    before = checkpoint.read_bytes()
    sentence = refusal(workflow(small_store, tmp_path))
    assert f"{checkpoint} holds weights of another architecture" in sentence
    assert checkpoint.read_bytes() == before


def all_alike(datalist: Datalist, _: Path) -> None:
    for item in datalist["training"]:
        item["sentences"] = ["No acute process."]


def of_white_space(datalist: Datalist, _: Path) -> None:
    for item in datalist["training"]:
        item["sentences"] = [" ", "\n.\t"]


@pytest.mark.parametrize(
    ("change", "message"),
    [(all_alike, "all reports of the training split say the same"), (of_white_space, "has fewer than two studies")],
)
def test_reports_that_can_teach_nothing_are_refused_at_the_start(
    small_store: Path, tmp_path: Path, change: Callable[[Datalist, Path], None], message: str
) -> None:
    assert message in refusal(workflow(changed(small_store, tmp_path / "store", change), tmp_path / "run"))


def test_a_sentence_that_no_encoding_has_is_trained_on_like_others(small_store: Path, tmp_path: Path) -> None:
    def odd(datalist: Datalist, _: Path) -> None:
        datalist["training"][3]["sentences"] = ["Opacity \ud800 left.", " "]

    train(workflow(changed(small_store, tmp_path / "store", odd), tmp_path / "run", max_epochs=1))
    assert (tmp_path / "run" / "models" / "pretrained.pt").is_file()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 1}, "a batch of one image has no mismatched pair"),
        ({"global_weight": -1.0, "objective": "local+global"}, "global_weight is -1.0"),
        ({"moving_average_decay": 1.5}, "moving_average_decay 1.5"),
        ({"supervised_weight": 1.0}, "no label is named; set `label_names`"),
        ({"label_names": "Upper"}, "`label_names` is the text 'Upper'"),
        ({"network_def#temperature": 0}, "the critic's temperature is 0"),
        ({"max_tokens": 2}, "max_tokens is 2; set it to 3 or more"),
    ],
)
def test_settings_that_cannot_work_are_one_sentence(
    small_store: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    assert message in refusal(workflow(small_store, tmp_path, **settings))


def test_numbers_that_are_lost_name_step_and_items(small_store: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as raised:
        train(workflow(small_store, tmp_path, learning_rate=1e30))
    causes = [raised.value, raised.value.__cause__]
    lost = next(str(cause) for cause in causes if isinstance(cause, FloatingPointError))
    assert "is not finite in step" in lost
    assert "of the training split" in lost
    assert not (tmp_path / "models" / "pretrained.pt").exists()


def stop_after(step: int, made: ConfigWorkflow) -> None:
    """Train, and send SIGTERM to this process while a step is under way."""

    def send(_: Engine) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    made.initialize()
    trainer = made.parser.get_parsed_content("train#trainer")
    trainer.add_event_handler(Events.ITERATION_STARTED(once=step), send)
    with pytest.raises(SystemExit) as stop:
        made.run()
    assert stop.value.code == 128 + signal.SIGTERM


def test_a_run_stopped_in_an_epoch_goes_on_to_the_same_weights_bit_for_bit(small_store: Path, tmp_path: Path) -> None:
    """Dropout, augmentation and drawn sentences on; the folder of the run moves, and workers come, in between."""
    train(workflow(small_store, tmp_path / "whole", **EVERY_STATE))
    stop_after(STEPS + 1, workflow(small_store, tmp_path / "stopped", **EVERY_STATE))
    points = tmp_path / "stopped" / "models" / "resume_pretrain"
    assert f"resume-{STEPS + 1:09d}.pt" in [path.name for path in points.iterdir()]
    # Not moved in place: this process holds the lock of the folder until it ends.
    shutil.copytree(tmp_path / "stopped", tmp_path / "moved", ignore=shutil.ignore_patterns(".lock"))
    train(workflow(small_store, tmp_path / "moved", num_workers=1, **EVERY_STATE))
    whole, resumed = (
        torch.load(tmp_path / run / "models" / "pretrained.pt", weights_only=True) for run in ("whole", "moved")
    )
    assert whole.keys() == resumed.keys()
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []
    records = [
        json.loads((tmp_path / run / "models" / "pretrained.json").read_text())["value"] for run in ("whole", "moved")
    ]
    assert records[0] == records[1]
    assert not list((tmp_path / "moved" / "models" / "resume_pretrain").iterdir())
