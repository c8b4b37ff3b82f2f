"""Tests that need a CUDA device; without one each is skipped, and says so."""

import gc

import pytest
import torch


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if "cuda" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))


@pytest.fixture(autouse=True)
def empty_device():
    torch.manual_seed(0)
    yield
    gc.collect()
    torch.cuda.empty_cache()
