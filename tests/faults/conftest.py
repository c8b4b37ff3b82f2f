"""Faults that a long computation meets: processes killed, disks full, clocks wrong. `make test-faults` runs them."""

import time
from pathlib import Path

import pytest

from tests.faults.dag import Dag
from tests.pipeline.conftest import compose_tiny, tiny_mirror, tiny_overrides  # noqa: F401 - fixtures


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.faults)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_overrides: list[str]) -> Dag:  # noqa: F811 - a fixture
    """The DAG that nothing has happened to, with the seconds that it took."""
    dag = Dag(tmp_path_factory.mktemp("whole"), tiny_overrides)
    began = time.monotonic()
    dag.finish()
    dag.seconds = time.monotonic() - began
    return dag
