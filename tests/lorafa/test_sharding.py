"""Rungs of recomputation where two processes share a model's weights (FSDP2, gloo): the gradients of one process."""

import pytest
import torch
from torch import distributed
from torch.distributed.fsdp import fully_shard

from tests.lorafa.ladder import CHECKPOINT, assert_same, built, gradients, inputs, lean


def of_a_shard(rank, store):
    """One of the processes, with a sequence of its own; it raises where a gradient is another."""
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    mesh = distributed.init_device_mesh("cpu", (2,))
    whole = lean(built("LLaMA"), "norm", "loss")
    batches = [{key: value[row : row + 1] for key, value in inputs().items()} for row in range(2)]
    expected = [sum(each) / 2 for each in zip(*(gradients(whole, **batch) for batch in batches), strict=True)]
    for rungs in (CHECKPOINT, ["block"]):
        model = lean(whole, *rungs)
        model.zero_grad()
        for part in (*model.get_base_model().model.layers, model):
            fully_shard(part, mesh=mesh)
        model(**batches[rank]).loss.backward()
        found = [p.grad.full_tensor() for p in model.parameters() if p.requires_grad]
        assert_same(found, expected[1:])
    distributed.destroy_process_group()


@pytest.mark.distributed
def test_two_processes_have_the_gradients_of_one(tmp_path):
    torch.multiprocessing.spawn(of_a_shard, (tmp_path / "store",), nprocs=2)
