"""The small models that the library's own estimates are tested on."""

from tests.lorafa.memory.conftest import small_models  # noqa: F401 - a fixture
