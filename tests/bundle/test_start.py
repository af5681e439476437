"""A mistyped key is refused before anything runs, and the record says what ran."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fire
import pytest
import torch
import yaml
from fire.parser import DefaultParseValue
from hypothesis import example, given, settings
from hypothesis import strategies as st
from local_mi.checkpoints import keep
from local_mi.datalist import datalist_hash
from local_mi.errors import ConfigurationError
from local_mi.start import parse_command_line, refuse_unknown_keys, start_run, unknown_keys

PROGRAM = "/anywhere/site-packages/monai/bundle/__main__.py"
CONFIGURATION: dict[str, Any] = {
    "learning_rate": 0.1,
    "pretrained": None,
    "views": ["PA", "AP"],
    "small_bert": {"layers": 2},
    "network_def": {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": {"nested": 1}},
    "train": {
        "trainer": {"_target_": "SupervisedTrainer", "max_epochs": 3},
        "handlers": [{"_target_": "StatsHandler", "name": "a"}, {"plain": 1}],
    },
}


def as_fire_reads(words: list[str]) -> dict[str, Any]:
    """What `monai.bundle run` would be called with, by Fire itself."""
    received: dict[str, Any] = {}

    def run(
        run_id: Any = None,
        init_id: Any = None,
        final_id: Any = None,
        meta_file: Any = None,
        config_file: Any = None,
        logging_file: Any = None,
        tracking: Any = None,
        args_file: Any = None,
        **override: Any,
    ) -> None:
        received.update(override)
        received.update(config_file=config_file, run_id=run_id, args_file=args_file)

    fire.Fire(run, command=words)
    return {key: value for key, value in received.items() if key not in ("config_file", "run_id", "args_file") or value}


def as_read_here(words: list[str]) -> dict[str, Any]:
    return dict(parse_command_line(words))


keys = st.sampled_from(
    ["views", "learning_rate", "train#trainer#max_epochs", "train::handlers::0::name", "config_file"]
)
texts = st.sampled_from(
    ["1", "-1", "1e-3", "text", "a b", "[1, 2]", "{'a': 1}", "@lr", "x=y", "'5'", "None", "", "a-b"]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(keys, st.sampled_from(["apart", "equals", "flag"]), texts), max_size=5))
@example([("views", "flag", ""), ("learning_rate", "flag", "")])
def test_a_command_line_is_read_as_fire_reads_it(arguments: list[tuple[str, str, str]]) -> None:
    words: list[str] = []
    for key, form, value in arguments:
        if form == "apart":
            words += [f"--{key}", value]
        else:
            words.append(f"--{key}" if form == "flag" else f"--{key}={value}")
    expected = as_fire_reads(words)
    found = as_read_here(words)
    assert {key: found[key] for key in expected} == expected
    assert all(key in expected or not found[key] for key in found)


@pytest.mark.parametrize(
    "words",
    [
        ["--max-epochs", "2"],
        ["--train#max-epochs", "2"],
        ["-learning_rate", "2"],
        ["-learning_rate=2"],
        ["---learning_rate", "2"],
        ["--flag", "-views", "3"],
        ["--noamp"],
        ["--lr", "1", "--lr", "2"],
        ["--lr", "1", "--", "--trace"],
    ],
    ids=" ".join,
)
def test_the_rarer_forms_that_fire_takes_are_seen_too(words: list[str]) -> None:
    """Else a key in such a form is neither checked nor recorded, but used."""
    expected = as_fire_reads([word for word in words if word != "--trace"])
    assert as_read_here(words) == expected


def test_the_name_of_the_expression_to_run_is_not_a_key() -> None:
    assert as_read_here(["training", "--views", "PA"]) == {"views": "PA"}


@pytest.mark.parametrize(
    "key",
    [
        "learning_rate",
        "views",
        "views#1",
        "views::0",
        "train#trainer#max_epochs",
        "train::trainer::max_epochs",
        "train#trainer::max_epochs",
        "train#trainer#amp",  # an argument of a component
        "network_def#bias",
        "train#handlers#0#tag_name",
        "train#handlers#1#plain",
        "small_bert#layers",
        "network_def#out_features#nested",
    ],
)
def test_a_known_key_is_accepted(key: str) -> None:
    assert unknown_keys(CONFIGURATION, [key]) == []


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("learning_rat", "learning_rate"),
        ("Learning_rate", "learning_rate"),
        ("train#trainer_#max_epochs", "train#trainer#max_epochs"),
        ("trian#trainer#max_epochs", "train#trainer#max_epochs"),
        ("small_bert#layer", "small_bert#layers"),
        ("views#2", "views#1"),
        ("views#-1", "views#1"),
        ("views#first", None),
        ("views#²", None),
        ("train#handlers#2", "train#handlers#1"),
        ("train#handlers#1#plane", "train#handlers#1#plain"),
        ("train#optimiser", None),
        ("network_def#bias#deeper", None),  # an argument may be added, not a place inside one that is not there
        ("learning_rate#0", "learning_rate"),
        ("zzzz", None),
        ("", None),
    ],
)
def test_an_unknown_key_is_refused_with_the_one_that_was_meant(key: str, meant: str | None) -> None:
    assert unknown_keys(CONFIGURATION, ["views", key]) == [key]
    with pytest.raises(ConfigurationError, match="unknown configuration key") as refusal:
        refuse_unknown_keys(CONFIGURATION, ["views", key])
    if meant is not None:
        assert f"did you mean '{meant}'?" in str(refusal.value)


def test_a_key_like_none_is_answered_with_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match="'qqqq'; top-level keys are learning_rate, network_def, pretrained"):
        refuse_unknown_keys(CONFIGURATION, ["qqqq"])


def every_path(node: Any) -> list[list[str]]:
    if isinstance(node, dict):
        return [[]] + [[key, *rest] for key, value in node.items() for rest in every_path(value)]
    if isinstance(node, list):
        return [[]] + [[str(k), *rest] for k, value in enumerate(node) for rest in every_path(value)]
    return [[]]


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.integers(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
        max_leaves=12,
    ),
    st.sampled_from(["#", "::"]),
    st.text("abcdxyz019", max_size=2),
)
def test_exactly_the_places_that_are_there_are_known(node: Any, separator: str, other: str) -> None:
    configuration = {"top": node}
    paths = [["top", *path] for path in every_path(node)]
    assert unknown_keys(configuration, [separator.join(path) for path in paths]) == []
    for path in paths:
        if [*path, other] not in paths:
            key = separator.join([*path, other])
            assert unknown_keys(configuration, [key]) == [key]


@pytest.fixture
def datalist(tmp_path: Path) -> Path:
    path = tmp_path / "datalist.json"
    path.write_text('{"training": []}', encoding="utf-8")
    return path


StartFromCommandLine = Callable[..., dict[str, Any]]


@pytest.fixture
def start(tmp_path: Path, datalist: Path, monkeypatch: pytest.MonkeyPatch) -> StartFromCommandLine:
    """Starts a run as `python -m monai.bundle run` would and returns the configuration that was recorded."""
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(CONFIGURATION), encoding="utf-8")
    (tmp_path / "two.yaml").write_text("learning_rate: 0.5\ntrain#trainer#max_epochs: 7\n", encoding="utf-8")

    def run(*words: str, files: str = "one.yaml", **checkpoint: Any) -> dict[str, Any]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", [PROGRAM, "run", "--config_file", files, *words])
        start_run(str(tmp_path / "eval"), "train", str(datalist), 3, **checkpoint)
        recorded: dict[str, Any] = json.loads((tmp_path / "eval" / "train_config.json").read_text())
        return recorded

    return run


def test_a_run_is_recorded_with_what_made_it(start: StartFromCommandLine, tmp_path: Path, datalist: Path) -> None:
    start()
    record = json.loads((tmp_path / "eval" / "train_run.json").read_text())
    assert record["workflow"] == "train"
    assert record["seed"] == 3
    assert record["datalist_sha256"] == datalist_hash(str(datalist))
    assert record["processes"] == 1
    assert {"python", "torch", "monai", "numpy"} <= set(record["versions"])


@pytest.mark.parametrize("files", ["one.yaml,two.yaml", "['one.yaml','two.yaml']", '["one.yaml", "two.yaml"]'])
def test_files_and_overrides_are_merged_in_the_record(start: StartFromCommandLine, files: str) -> None:
    merged = start("--learning_rate", "0.25", "--views#0", "LATERAL", files=files)
    assert merged["learning_rate"] == 0.25
    assert merged["views"] == ["LATERAL", "AP"]
    assert merged["train"]["trainer"]["max_epochs"] == 7 or merged["train#trainer#max_epochs"] == 7
    assert merged["pretrained"] is None


@pytest.mark.parametrize(
    "value",
    [
        *("1e-3", "0.5", "None", "null", "no", "yes", "012", "2024-01-01", "a: b", "@learning_rate", "*", "&a"),
        *("%one.yaml::views", "$torch.device('cpu')", "[1, 'PA']", "1_000", "text", "True", "true", "x # y"),
    ],
)
def test_a_value_is_recorded_as_the_run_uses_it(start: StartFromCommandLine, value: str) -> None:
    """The record is to be run again, so that it must hold what Fire made of the word, not what YAML would."""
    assert start("--learning_rate", value)["learning_rate"] == DefaultParseValue(value)


def test_a_mistyped_key_writes_nothing(start: StartFromCommandLine, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'learning_rat'; did you mean 'learning_rate'"):
        start("--learning_rat", "0.5")
    with pytest.raises(ConfigurationError, match="learning_rat"):
        start("--learning_rat=0.5")
    assert not (tmp_path / "eval").exists()


@pytest.mark.parametrize("word", ["--+views", "--+train#handlers"])
def test_a_merge_on_the_command_line_is_refused_since_monai_does_not_merge_there(
    start: StartFromCommandLine, word: str
) -> None:
    """MONAI merges `+key` of files alone; on the command line it sets a key of that name, which nothing reads."""
    with pytest.raises(ConfigurationError, match=r"\+"):
        start(word, "['LATERAL']")


def test_a_mistyped_key_in_an_arguments_file_is_refused(start: StartFromCommandLine, tmp_path: Path) -> None:
    (tmp_path / "args.yaml").write_text("learning_rate: 0.25\n", encoding="utf-8")
    assert start("--args_file", "args.yaml")["learning_rate"] == 0.25
    (tmp_path / "args.yaml").write_text("learning_rat: 0.25\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="learning_rat"):
        start("--args_file", "args.yaml")


def test_arguments_of_monai_itself_are_no_keys(start: StartFromCommandLine) -> None:
    assert "logging_file" not in start("--logging_file", "x.conf", "--run_id", "run", "--meta_file", "m.json")


def test_another_program_brings_its_own_configuration(
    tmp_path: Path, datalist: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/cxr-local-mi", "pretrain", "--unknown", "1"])
    start_run(str(tmp_path / "eval"), "pretrain", str(datalist), 0)
    assert [path.name for path in (tmp_path / "eval").iterdir()] == ["pretrain_run.json"]
    start_run(str(tmp_path / "eval"), "pretrain", str(datalist), 0, configuration='{"a": 1}')
    assert json.loads((tmp_path / "eval" / "pretrain_config.json").read_text()) == {"a": 1}


def test_what_the_record_says_of_the_data_is_counted_from_the_datalist(tmp_path: Path) -> None:
    prepared = {"preset": "percentile", "size": 512, "range": [0, 255]}
    items = [{"image": f"{k}.npy", "study": f"s{k // 2}", "patient": "p"} for k in range(5)]
    datalist = tmp_path / "datalist.json"
    datalist.write_text(json.dumps({"preprocessing": prepared, "training": items, "test": items[:1]}))
    started = start_run(str(tmp_path / "eval"), "train", str(datalist), 0, configuration="{}")
    assert started["prepared_as"] == prepared
    assert started["counts"] == {
        "training": {"images": 5, "studies": 3, "patients": 1},
        "validation": {"images": 0, "studies": 0, "patients": 0},
        "test": {"images": 1, "studies": 1, "patients": 1},
    }


def test_a_missing_datalist_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="datalist not found"):
        start_run(str(tmp_path / "eval"), "train", str(tmp_path / "gone.json"), 0)
    assert not (tmp_path / "eval").exists()


def test_a_checkpoint_of_something_else_is_refused(start: StartFromCommandLine, tmp_path: Path, datalist: Path) -> None:
    checkpoint, this = tmp_path / "models" / "model.pt", {"label_names": ["Edema"]}
    start(checkpoint=str(checkpoint), description=this)  # none yet
    record = {"metric": "auc", "value": 0.5, "datalist_sha256": datalist_hash(str(datalist)), **this}
    keep(torch.nn.Linear(1, 1), str(checkpoint), record)
    start(checkpoint=str(checkpoint), description=this)
    with pytest.raises(
        ConfigurationError, match=r"model\.pt was trained with another label_names; name a new run folder"
    ):
        start(checkpoint=str(checkpoint), description={"label_names": ["Fracture"]})
    datalist.write_text('{"training": [1]}', encoding="utf-8")
    start(description=this)  # one that only reads does not mind
    with pytest.raises(ConfigurationError, match="another datalist_sha256"):
        start(checkpoint=str(checkpoint), description=this)


def test_two_runs_do_not_write_into_one_folder(
    start: StartFromCommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    other = (
        "import sys, time; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire(); "
        "print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", other, str(folder / ".lock")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(ConfigurationError, match=r"another run is writing to .*models"):
            start(checkpoint=str(folder / "model.pt"))
        process.kill()
    start(checkpoint=str(folder / "model.pt"))
    start(checkpoint=str(folder / "model.pt"))  # this process itself may go on
