"""Weight sharding as the paper combines it with LoRA-FA (§3.2): frozen weights in parts, what trains in copies.

With Full-FT nothing is frozen: its weights, gradients and optimizer states are all in parts.
"""

from collections.abc import Collection, Iterator
from typing import Any

from accelerate import PartialState
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from lorafa.targets import layers
from pipeline.training.distributed import group


def shard(model: nn.Module, pretrained: Collection[int]) -> None:
    """Leaves this process its part of the pretrained weights that are frozen (FSDP2), in place; of all, if none is.

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
        whole = set()
    mesh = init_device_mesh(PartialState().device.type, (distributed.get_world_size(),))
    for module in (*(layer for _, layer in layers(model)), model):
        part = fully_shard(module, mesh=mesh, ignored_params=whole)
        part.set_force_sum_reduction_for_comms(True)  # gloo has no means
    model.register_load_state_dict_pre_hook(_take_parts)
    if hasattr(model, "generate"):  # it calls the base model, past the hooks of the whole
        register_fsdp_forward_method(model, "generate")


def replicate(model: nn.Module) -> nn.Module:
    """Returns the model with gradients that are averaged over the processes; only what trains has any.

    Where what trains is in parts, its gradients are already.
    """
    if trains_in_parts(model):
        return model
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, list(_sharded(model)))
    device = PartialState().device
    return DistributedDataParallel(
        model,
        device_ids=None if device.type == "cpu" else [device],
        broadcast_buffers=False,  # they are constants
    )


def trains_in_parts(model: nn.Module) -> bool:
    """Whether a process has a part alone of what trains."""
    return any(p.requires_grad and isinstance(p, DTensor) for p in model.parameters())


def whole_weights(model: nn.Module) -> dict[str, Any] | None:
    """Returns the weights of a model that trains in parts, to the first process alone; all have to ask.

    Returns:
        On the CPU, by name; None for other models, which each process can save.
    """
    if not trains_in_parts(model):
        return None
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def save_whole(optimizer: Optimizer) -> None:
    """Has an optimizer's saved states be those of one process: whole in the first, which alone keeps them.

    All processes have to ask for `state_dict`, and each takes its parts of what is loaded.
    """
    optimizer.register_state_dict_post_hook(_gather_states)
    optimizer.register_load_state_dict_pre_hook(_take_states)


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


def _part(whole: Any, parameter: Tensor) -> Any:
    """Returns this process's part of what is as large as a parameter in parts; the rest as it is."""
    if not isinstance(parameter, DTensor) or isinstance(whole, DTensor) or whole.shape != parameter.shape:
        return whole
    part = distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return part.clone()  # or a view would keep the whole


def _take_parts(model: nn.Module, weights: dict[str, Any], *_: Any) -> None:
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in weights:
            weights[name] = _part(weights[name], parameter)


def _gather_states(_optimizer: Optimizer, states: dict[str, Any]) -> dict[str, Any]:
    def gather(part: DTensor) -> Tensor:
        whole = part.full_tensor()
        return whole.cpu() if group.is_first() else whole.new_empty(0)

    return tree_map_only(DTensor, gather, states)


def _take_states(optimizer: Optimizer, states: dict[str, Any]) -> dict[str, Any]:
    parameters = [parameter for one in optimizer.param_groups for parameter in one["params"]]
    taken = {
        index: {name: _part(value, parameters[index]) for name, value in state.items()}
        for index, state in states["state"].items()
    }
    return {**states, "state": taken}
