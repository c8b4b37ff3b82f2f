"""Attention that keeps its output and log-sum-exp, and computes q, k and v again.

The attention itself is not computed again: its kernel has both for its backward. q, k and v come from the input of
the norm before them, which is kept anyway, by the model's own code up to the point where it calls the kernel.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers.cache_utils import Cache
from transformers.models.gemma.modeling_gemma import GemmaAttention
from transformers.models.llama.modeling_llama import LlamaAttention
from transformers.models.mistral.modeling_mistral import MistralAttention
from transformers.models.phi3.modeling_phi3 import Phi3Attention
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention
from transformers.models.roberta.modeling_roberta import RobertaSelfAttention
from transformers.models.t5.modeling_t5 import T5Attention

from lorafa.recompute.again import Replay, computes_again, made_again, source
from lorafa.recompute.classes import derived


class _Reached(Exception):  # noqa: N818 (no error: it ends a replay)
    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = tensors


class _AtKernel(TorchFunctionMode):
    """Has the fused attention called by a function of ours, which gets q, k and v and the call."""

    def __init__(self, call: Callable[[Sequence[Tensor], Callable[[], Tensor]], Tensor]) -> None:
        super().__init__()
        self.call = call

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        run = partial(func, *args, **(kwargs or {}))
        return self.call(args[:3], run) if func is F.scaled_dot_product_attention else run()


def _stop(qkv: Sequence[Tensor], run: Callable[[], Tensor]) -> Tensor:
    raise _Reached(qkv)


class _RecomputedQkv(nn.Module):
    """Attention that keeps no q, k and v for backward."""

    layer_idx: int

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the parent's; in training, as in a checkpointed block, no cache is filled."""
        call = inspect.signature(super().forward).bind(*args, **kwargs)
        named = call.arguments
        caches = [name for name, value in named.items() if isinstance(value, Cache)]
        filled = any(named[name].get_seq_length(self.layer_idx) for name in caches)
        if not computes_again(self) or filled:
            return super().forward(*args, **kwargs)
        for name in caches:
            del named[name]
        has_input = source(named["hidden_states"])
        rest = {name: value for name, value in named.items() if name not in ("hidden_states", "kwargs")}
        rest |= named.get("kwargs", {})

        def qkv() -> Sequence[Tensor]:
            try:
                with _AtKernel(_stop):
                    super(_RecomputedQkv, self).forward(has_input(), **rest)
            except _Reached as reached:
                return reached.tensors
            raise RuntimeError(f"{type(self).__name__} did not call the attention that it called before")

        replay = Replay(qkv, self, named["hidden_states"].device)

        def keep_none(tensors: Sequence[Tensor], run: Callable[[], Tensor]) -> Tensor:
            with made_again(tensors, replay):
                return run()

        with _AtKernel(keep_none):
            return super().forward(named["hidden_states"], **rest)


def obstacle(model: nn.Module) -> str | None:
    """Why the q, k and v of a model cannot be recomputed, or None if they can."""
    configs: list[Any] = [module.config for module in model.modules() if isinstance(module, tuple(CLASSES))]
    others = sorted({config._attn_implementation for config in configs} - {"sdpa"})
    return f'attn_implementation is "{others[0]}": load the model with "sdpa"' if others else None


CLASSES = derived(
    "RecomputedQkv",
    _RecomputedQkv,
    LlamaAttention,
    Qwen2Attention,
    Qwen3Attention,
    MistralAttention,
    GemmaAttention,
    Phi3Attention,
    T5Attention,
    RobertaSelfAttention,
)
