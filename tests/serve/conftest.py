"""One server for all tests that only ask it things; a folder of its own for those that do more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from safelight.serve.folder import Folder
from tests.serve import bench
from tests.serve.live import Running, models, serving


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with the models `tiny` and `words` and one worker."""
    folder = tmp_path_factory.mktemp("data")
    models(folder)
    with serving(folder) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A data folder with a tiny model."""
    return bench.folder(tmp_path / "data")
