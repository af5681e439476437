"""Fixtures that all three rooms share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from warm_python import WarmPython

os.environ["OMP_NUM_THREADS"] = "1"  # pytest-xdist has a process for each core; before PyTorch is imported
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real radiographs, reports and DICOM files that lies beside the checkout, where there is one."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data not found: {SHARED_DATA.resolve()} does not exist (see CONTRIBUTING.md)")
    return SHARED_DATA


@pytest.fixture(scope="session")
def warm_python() -> Iterator[WarmPython]:
    """Runs `python -m` in processes that need not import PyTorch and MONAI."""
    warm = WarmPython()
    yield warm
    warm.close()
