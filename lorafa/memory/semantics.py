"""What CUDA would allocate, on tensors that say they live on the CPU.

A CPU-only PyTorch cannot run autograd on fake CUDA tensors, and the CPU's own kernels save other things for
backward: dropout keeps a mask in the input's dtype where CUDA keeps a bool, attention saves differently, and
autocast has another list of operators. `CudaSemantics` redirects the calls that differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from transformers.integrations import sdpa_attention
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

from lorafa.autograd import Context, TensorFunction
from lorafa.recompute.host import to_host

# What CUDA's autocast runs in float32 and the CPU's does not.
# Source: documentation of torch.amp, "CUDA Ops that can autocast to float32".
AUTOCAST_TO_FLOAT32: frozenset[Callable[..., Any]] = frozenset(
    {
        F.cosine_similarity,
        F.cross_entropy,
        F.layer_norm,
        F.log_softmax,
        F.mse_loss,
        F.nll_loss,
        F.rms_norm,
        F.softmax,
        F.softplus,
        torch.cumsum,
        torch.exp,
        torch.layer_norm,
        torch.log,
        torch.log_softmax,
        torch.norm,
        torch.pow,
        torch.prod,
        torch.reciprocal,
        torch.rms_norm,
        torch.rsqrt,
        torch.softmax,
        torch.sum,
        torch.Tensor.cumsum,
        torch.Tensor.exp,
        torch.Tensor.log,
        torch.Tensor.log_softmax,
        torch.Tensor.norm,
        torch.Tensor.pow,
        torch.Tensor.prod,
        torch.Tensor.reciprocal,
        torch.Tensor.rsqrt,
        torch.Tensor.softmax,
        torch.Tensor.sum,
    }
)
HALF = (torch.float16, torch.bfloat16)


class _OnHost:
    """A tensor in the host's memory, of which the device keeps nothing: what `to_host` returns."""

    def __init__(self, x: torch.Tensor) -> None:
        self.like = x.size(), x.stride(), x.dtype

    def to(self, device: torch.device, non_blocking: bool = False) -> torch.Tensor:
        size, stride, dtype = self.like
        return torch.empty_strided(size, stride, dtype=dtype, device=device)


class _HalfToFloatSoftmax(TensorFunction):
    """softmax of float16 to float32 as CUDA's kernels compute it: from and to float16 without a copy in float32.

    Its numbers mean nothing. Source: aten/native/SoftMax.cpp, `softmax`; aten/native/cuda/SoftMax.cu.
    """

    @staticmethod
    def forward(ctx: Context, x: torch.Tensor) -> torch.Tensor:
        output = torch.empty_like(x, dtype=torch.float32)
        ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx: Context, *grads: torch.Tensor) -> torch.Tensor:
        (output,) = ctx.saved_tensors
        product = grads[0] * output  # which the kernel makes, too
        return torch.empty_like(product, dtype=torch.half)


class CudaSemantics(TorchFunctionMode):
    """Calls what CUDA would call: fused dropout, fused attention, copies to the host, and autocast's float32 list."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.dropout:
            return fused_dropout(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return fused_attention(*args, **kwargs)
        if func is to_host:
            return _OnHost(*args)
        if func is F.softmax and args[0].dtype is torch.half and kwargs.get("dtype") is torch.float32:
            return _HalfToFloatSoftmax.apply(args[0])
        if func in AUTOCAST_TO_FLOAT32 and torch.is_autocast_enabled("cpu"):
            args = [_float32(a) for a in args]
            kwargs = {name: _float32(value) for name, value in kwargs.items()}
        return func(*args, **kwargs)


def fused_dropout(
    input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> torch.Tensor:
    """Dropout as CUDA does it: a bool mask is saved for backward."""
    if p == 0 or not training:
        return input
    dropped = torch.native_dropout(input, p, True)[0]
    return input.copy_(dropped) if inplace else dropped


def fused_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Attention by CUDA's choice: flash for half precision without a mask, else memory-efficient.

    Both save query, key, value, output and one log-sum-exp per query; the second also the mask. The second knows no
    grouped queries: what would need it and has them is computed by single operators.

    Args:
        query: (batch, heads, length, head size), as key and value.
        key: See query.
        value: See query.
        attn_mask: Bool, or added to the scores; broadcast over batch and heads.
        dropout_p: Replayed from the generator's state in backward: no mask is stored.
        is_causal: Whether a query sees only keys before it.
        scale: Of the scores.
        enable_gqa: Whether keys and values have fewer heads than queries.
    """
    if enable_gqa and attn_mask is not None:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    output: torch.Tensor
    if attn_mask is None and query.dtype in HALF:
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        output, *_ = flash(query, key, value, dropout_p, is_causal, scale=scale)
    elif enable_gqa and attn_mask is None and query.shape[1] != key.shape[1]:
        single = torch.ops.aten._scaled_dot_product_attention_math
        output, *_ = single(query, key, value, None, dropout_p, is_causal, scale=scale, enable_gqa=True)
    else:
        bias = None if attn_mask is None else _bias(attn_mask, query, key)
        efficient = torch.ops.aten._scaled_dot_product_efficient_attention
        output, *_ = efficient(query, key, value, bias, True, dropout_p, is_causal, scale=scale)
    return output


def _bias(mask: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(mask.logical_not(), float("-inf"))
    return mask.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])


def _float32(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.dtype in HALF else value


def mask_of_padding(*args: Any, attention_mask: torch.Tensor | None = None, **options: Any) -> Any:
    """The mask that transformers makes for SDPA, and none where no token is padding.

    transformers reads from the positions whether sequences are packed. It cannot read fake ones, and would make a mask
    to be sure: attention would then be another kernel's, and keys and values be repeated for grouped queries.
    """
    if attention_mask is None:
        return None
    return sdpa_mask(*args, attention_mask=attention_mask, **options)  # type: ignore[misc]  # all but one by name


@contextmanager
def masks_of_padding() -> Iterator[None]:
    """Have transformers make masks by `mask_of_padding`."""
    ALL_MASK_ATTENTION_FUNCTIONS["sdpa"] = mask_of_padding
    try:
        yield
    finally:
        del ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]


@contextmanager
def repeated_heads() -> Iterator[None]:
    """Have transformers repeat keys and values for grouped queries, as before it left that to the kernel."""
    asked = sdpa_attention.use_gqa_in_sdpa
    sdpa_attention.use_gqa_in_sdpa = lambda *_: False
    try:
        yield
    finally:
        sdpa_attention.use_gqa_in_sdpa = asked


@contextmanager
def device_semantics(device: str, autocast: torch.dtype | None) -> Iterator[None]:
    """Run fake or real CPU tensors as `device` ("cuda" or "cpu") would, in autocast if a dtype is given."""
    with (
        torch.autocast("cpu", autocast) if autocast else nullcontext(),
        CudaSemantics() if device == "cuda" else nullcontext(),
        masks_of_padding(),
    ):
        yield
