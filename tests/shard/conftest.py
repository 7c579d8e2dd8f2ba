"""Where the published tables of PadChest and CheXpert are: the package torchxrayvision ships them."""

from importlib.util import find_spec
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def published_tables() -> Path:
    """torchxrayvision's folder of tables; skips where that package is not installed."""
    package = find_spec("torchxrayvision")  # finds, and does not run it
    if package is None or package.origin is None:
        pytest.skip("no published tables: pip install torchxrayvision")
    return Path(package.origin).parent / "data"
