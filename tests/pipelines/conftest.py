"""A small demo run, made once: phantoms, store, pretraining, classifiers, export."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from commands import PLAIN, Done, Run
from made_once import made_once
from warm_python import WarmPython

from pipelines.demo import DemoResult, run_demo
from preprocessing.ingest import OnProgress


def quietly(step: str) -> AbstractContextManager[OnProgress]:
    return nullcontext(lambda done, total: None)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    def make(folder: Path) -> DemoResult:
        overrides = {"max_epochs": 2, "val_interval": 1}
        return run_demo(folder / "demo", studies=60, workers=1, step=quietly, overrides=overrides)

    return made_once(tmp_path_factory, "demo", make)


@pytest.fixture
def run(warm_python: WarmPython) -> Run:
    def run(*arguments: str | Path) -> Done:
        return warm_python.run("pipelines.cli", *arguments, env=PLAIN)

    return run
