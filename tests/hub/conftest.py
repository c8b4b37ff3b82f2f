"""The loopback hub with the paper's repositories."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import repositories
from tests.hub.server import Hub
from tests.hub.user import User


@pytest.fixture(scope="session")
def repository_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    repositories.write(root)
    return root


@pytest.fixture(scope="session")
def server(repository_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    plans = tmp_path_factory.mktemp("plans")
    with Hub(repository_root, repositories.GATED, repositories.PINNED, plans) as hub:
        yield hub


@pytest.fixture
def hub(server: Hub) -> Iterator[Hub]:
    """The hub without faults, accounts and memory; a test that makes the client ask for more than it knows fails."""
    server.reset()
    yield server
    assert server.unknown == []


@pytest.fixture
def user(tmp_path: Path, hub: Hub) -> User:
    return User(tmp_path / "home", hub)
