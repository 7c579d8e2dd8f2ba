"""Locate the published tables of PadChest and CheXpert, which the package torchxrayvision contains."""

from importlib.util import find_spec
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def published_tables() -> Path:
    """The folder of tables in torchxrayvision; skips the test if that package is not installed."""
    package = find_spec("torchxrayvision")  # locates the package without importing it
    if package is None or package.origin is None:
        pytest.skip("no published tables: pip install torchxrayvision")
    return Path(package.origin).parent / "data"
