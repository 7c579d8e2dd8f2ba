"""Shared fixtures: where the real data are, and one thread per process so that numbers repeat."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real reports and films (openi/, covid-cxr/); skips where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("CXR_DIST_REAL_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data: set CXR_DIST_REAL_DATA (looked in {folder})")
    return folder
