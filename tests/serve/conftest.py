"""One server for all tests that only ask it things."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serve.live import Running, models, serving


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with the models `tiny` and `words` and one worker."""
    folder = tmp_path_factory.mktemp("data")
    models(folder)
    with serving(folder) as running:
        yield running
