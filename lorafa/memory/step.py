"""One training step as `transformers.Trainer` makes it, recorded."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from lorafa.memory.adapt import adapter_parameters
from lorafa.memory.optimizers import new_optimizer
from lorafa.memory.recipe import Device, Recipe, Until
from lorafa.memory.trace import Block, Trace
from lorafa.memory.tracker import CUDA_TEMPORARIES, StorageTracker
from lorafa.targets import block_stacks


def loss_of(outputs: Any) -> torch.Tensor:
    """The loss of a model's outputs; of a model without a head, the sum of its hidden states."""
    loss = getattr(outputs, "loss", None)
    return cast(torch.Tensor, outputs[0].float().sum() if loss is None else loss)


def optimizer_of(model: nn.Module, recipe: Recipe) -> Optimizer:
    """The recipe's optimizer on the parameters that are trained, multi-tensor as is the default on CUDA."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return new_optimizer(parameters, recipe.optimizer, multi_tensor=recipe.device == "cuda")


class _Numbers(TorchFunctionMode):
    """Lets an optimizer keep numbers (its step count) in fake tensors; any value will do for sizes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.item and isinstance(args[0], FakeTensor):
            return 1.0
        if func is torch.tensor and isinstance(
            args[0], float
        ):  # which is slow to make fake; an int may be a size
            return torch.zeros((), dtype=(kwargs or {}).get("dtype"))
        return func(*args, **(kwargs or {}))


def trace_step(
    model: nn.Module,
    batch: Mapping[str, torch.Tensor],
    optimizer: Optimizer,
    first_step: bool = False,
    accumulated: bool = False,
    outputs_until: Until = "loss",
    device: Device = "cpu",
) -> Trace:
    """Record weights, optimizer state, and one step: forward and loss, backward, optimizer, zeroed gradients.

    Args:
        model: In training mode; its forward takes the batch and returns what `loss_of` reads.
        batch: Tensors by argument name.
        optimizer: Over the model's trained parameters, without state.
        first_step: Make the optimizer's state by a whole first step; else by stepping on zero gradients,
            which makes the same state for less work.
        accumulated: Whether gradients of earlier batches are there already, and outlive the step.
        outputs_until: As `Recipe.outputs_until`; what is held for the next step is not freed in this one.
        device: Whose kernels' temporaries to record.
    """
    tracker = StorageTracker(CUDA_TEMPORARIES if device == "cuda" else None)
    fake = any(isinstance(p, FakeTensor) for p in model.parameters())
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    with without_garbage_collection(), tracker, _Numbers() if fake else nullcontext(), tracker.watch(model):
        _add_weights(tracker, model)
        for tensor in batch.values():
            tracker.add(tensor, "inputs")
        tracker.enter("state")
        if first_step:
            backward(loss_of(model(**batch)))
        else:
            for parameter in trained:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad(set_to_none=not accumulated)
        for state in optimizer.state.values():
            for value in state.values():
                if isinstance(value, torch.Tensor) and value.ndim:
                    tracker.add(value, "optimizer")
        for parameter in trained:
            if parameter.grad is not None:
                tracker.add(parameter.grad, "gradients")
        tracker.enter("forward")
        outputs = model(**batch)
        loss = loss_of(outputs)
        outputs = None if outputs_until == "loss" else outputs
        tracker.enter("backward")
        backward(loss)
        outputs = outputs if outputs_until == "next" else None
        tracker.enter("optimizer")
        for parameter in trained:
            if parameter.grad is not None:
                tracker.add(parameter.grad, "gradients")
        optimizer.step()
        optimizer.zero_grad(set_to_none=not accumulated)
    return tracker.trace


@torch.no_grad()
def trace_forward(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> Trace:
    """Record weights and one forward pass with its loss, as validation makes it: nothing is saved for backward."""
    tracker = StorageTracker()
    model.eval()
    with without_garbage_collection(), tracker, tracker.watch(model):
        _add_weights(tracker, model)
        for tensor in batch.values():
            tracker.add(tensor, "inputs")
        tracker.enter("forward")
        model(**batch)
    return tracker.trace


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Free by reference counts alone, so that a trace does not depend on when the collector happens to run."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def backward(loss: torch.Tensor) -> None:
    """`loss.backward()` with torch function modes left on: what it recomputes must run as forward ran."""
    engine = torch.autograd.Variable._execution_engine
    engine.run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


def _add_weights(tracker: StorageTracker, model: nn.Module) -> None:
    adapters = adapter_parameters(model)
    stacks = block_stacks(model)
    for path, tensor in [*model.named_parameters(), *model.named_buffers()]:
        tracker.enter("weights", block_of(path, stacks))
        tracker.add(tensor.detach(), "adapters" if id(tensor) in adapters else "weights")


def block_of(path: str, stacks: Mapping[str, Any] | Sequence[str]) -> Block | None:
    """The block that a parameter's path lies in."""
    for stack in stacks:
        if path.startswith(f"{stack}."):
            return Block(stack, int(path[len(stack) + 1 :].partition(".")[0]))
    return None


@dataclass(frozen=True)
class ParameterCount:
    """Elements of a model's parameters, and of the trained ones, by block; shared parameters once."""

    stacks: tuple[str, ...]
    by_block: tuple[tuple[Block | None, int, int], ...]

    @property
    def total(self) -> int:
        """Elements of all parameters."""
        return sum(total for _, total, _ in self.by_block)

    @property
    def trainable(self) -> int:
        """Elements of the parameters that require a gradient."""
        return sum(trainable for _, _, trainable in self.by_block)

    def repeat(self, plan: Mapping[str, Sequence[int]]) -> ParameterCount:
        """The count at the depth of the plan (see `Trace.repeat`)."""
        return ParameterCount(
            self.stacks,
            tuple(
                (block, total * copies, trainable * copies)
                for block, total, trainable in self.by_block
                for copies in [1 if block is None else plan[block.stack].count(block.number)]
            ),
        )

    def extrapolated(self, other: ParameterCount, at: int, other_at: int, target: int) -> ParameterCount:
        """The count at another rank, from this one at rank `at` and the other at `other_at`."""

        def along(mine: int, theirs: int) -> int:
            return mine + (theirs - mine) * (target - at) // (other_at - at)

        return ParameterCount(
            self.stacks,
            tuple(
                (block, along(total, other_total), along(trainable, other_trainable))
                for (block, total, trainable), (_, other_total, other_trainable) in zip(
                    self.by_block, other.by_block, strict=True
                )
            ),
        )


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count a model's parameters; a parameter packed in 4 bits counts its bytes."""
    stacks = tuple(block_stacks(model))
    counts: dict[Block | None, tuple[int, int]] = {}
    for path, parameter in model.named_parameters():
        block = block_of(path, stacks)
        total, trainable = counts.get(block, (0, 0))
        counts[block] = (total + parameter.numel(), trainable + parameter.numel() * parameter.requires_grad)
    return ParameterCount(stacks, tuple((block, *count) for block, count in counts.items()))
