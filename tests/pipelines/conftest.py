"""A small demo run, made once: phantoms, store, pretraining, classifiers, export."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from pipelines.demo import DemoResult, run_demo
from preprocessing.ingest import OnProgress


def quietly(step: str) -> AbstractContextManager[OnProgress]:
    return nullcontext(lambda done, total: None)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    folder: Path = tmp_path_factory.mktemp("demo") / "demo"
    return run_demo(folder, studies=60, workers=1, step=quietly, overrides={"max_epochs": 2, "val_interval": 1})
