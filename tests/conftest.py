"""What every test shares: one thread each, no network, and the real imagery where it is at hand."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# Before torch and numpy are loaded: workers run side by side, so more threads would only get in each other's way.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["HF_HUB_OFFLINE"] = "1"

pytest_plugins = ("helpers.method_fixtures",)

_REAL_DATA = "RSDISTILL_TEST_DATA"


def _refuse_network(event: str, arguments: tuple[object, ...]) -> None:
    """Audit hook: a test that reaches for another machine fails at once, wherever it runs."""
    if event != "socket.connect":
        return
    address = arguments[1]
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise PermissionError(f"tests use no network, but this one connects to {address[0]}")


sys.addaudithook(_refuse_network)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests on real imagery where there is none."""
    if os.environ.get(_REAL_DATA):
        return
    skip = pytest.mark.skip(reason=f"{_REAL_DATA} names no folder of real imagery")
    for item in items:
        if item.get_closest_marker("real_data"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def real_data_root() -> Path:
    """Folder of real imagery (ucmerced/, aid/, eurosat_ms/); only for tests marked ``real_data``."""
    root = Path(os.environ[_REAL_DATA])
    assert root.is_dir(), f"{_REAL_DATA} names {root}, which is no folder"
    return root
