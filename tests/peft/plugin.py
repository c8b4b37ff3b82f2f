"""PEFT's own tests of custom models, with LoraFaConfig in LoraConfig's place: a pytest plugin.

A case passes as PEFT's does, or is skipped because LoRA-FA refuses its option by name.
"""

import sys
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

import peft
import pytest

from lorafa import LoraFaConfig

# A never trains, and this test asks that it does when it is told to.
DIFFERENT = ("test_set_requires_grad",)

peft.LoraConfig = LoraFaConfig  # type: ignore[misc, assignment]  # before the tests import it
sys.modules.setdefault("diffusers", ModuleType("diffusers")).StableDiffusionPipeline = None  # type: ignore[attr-defined]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the cases of the other methods, and what is different on purpose, out."""
    ours = [
        item for item in items if LoraFaConfig in _values(item) and item.name.split("[")[0] not in DIFFERENT
    ]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(ours)])
    items[:] = ours


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Iterator[None]:
    """Skip what LoRA-FA refuses."""
    try:
        return (yield)
    except ValueError as error:
        if "LoRA-FA does not support" in str(error):
            pytest.skip(str(error))
        raise


def _values(item: pytest.Item) -> Iterable[Any]:
    spec = getattr(item, "callspec", None)
    for value in spec.params.values() if spec else ():
        yield from value if isinstance(value, list | tuple) else [value]
