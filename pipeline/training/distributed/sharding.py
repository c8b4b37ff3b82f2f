"""Weight sharding as the paper combines it with LoRA-FA (§3.2): frozen weights in parts, what trains in copies."""

from collections.abc import Collection, Iterator

from accelerate import PartialState
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from lorafa.targets import layers


def shard(model: nn.Module, pretrained: Collection[int]) -> None:
    """Leaves this process its part of the pretrained weights that are frozen (FSDP2), in place.

    A layer's weights are gathered for its forward and again for its backward; those outside of the layers
    (embeddings, last norm, language-model head) stay gathered from forward to backward. Adapters, frozen A and all, and
    heads are not touched, so their gradients, optimizer states and checkpoints are as without sharding. Weights in four
    bits are shared as the bytes that bitsandbytes keeps them in; their scales stay whole.

    Args:
        model: The model as it is trained, the same in each process.
        pretrained: The `id`s of the parameters that it had before the method was applied.
    """
    whole = {p for p in model.parameters() if p.requires_grad or id(p) not in pretrained}
    if len(whole) == len(list(model.parameters())):
        return
    mesh = init_device_mesh(PartialState().device.type, (distributed.get_world_size(),))
    for _, layer in layers(model):
        fully_shard(layer, mesh=mesh, ignored_params=whole)
    fully_shard(model, mesh=mesh, ignored_params=whole)
    if hasattr(model, "generate"):  # it calls the base model, past the hooks of the whole
        register_fsdp_forward_method(model, "generate")


def replicate(model: nn.Module) -> DistributedDataParallel:
    """Returns the model with gradients that are averaged over the processes; only what trains has any."""
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, list(_sharded(model)))
    device = PartialState().device
    return DistributedDataParallel(
        model,
        device_ids=None if device.type == "cpu" else [device],
        broadcast_buffers=False,  # they are constants
    )


def reshard(model: nn.Module | None) -> None:
    """Frees what an evaluation has left gathered.

    Reading the weights does, too. But only the first process reads them for a checkpoint, and the others would leave
    out the next gathering.
    """
    if isinstance(model, FSDPModule):
        model.reshard()


def local(tensor: Tensor) -> Tensor:
    """Returns what this process keeps of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _sharded(model: nn.Module) -> Iterator[str]:
    return (name for name, parameter in model.named_parameters() if isinstance(parameter, DTensor))
