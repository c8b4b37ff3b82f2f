"""Whole blocks computed again, as transformers checkpoints them: LoRA-FA's advantage over LoRA is gone (paper §3.2).

PyTorch stops the second forward pass of a block by an exception when the last tensor is saved. It leaves from within
that save, and if this is an autograd function that saves an output of its own, as `lorafa.functional.LoraFa` does, the
function and its output go on holding each other: all that the block made again lives until the garbage collector
comes. So the pass runs to its end, which is an addition later.
"""

from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint
from transformers.models.gemma.modeling_gemma import GemmaDecoderLayer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer
from transformers.models.phi3.modeling_phi3 import Phi3DecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer
from transformers.models.roberta.modeling_roberta import RobertaLayer
from transformers.models.t5.modeling_t5 import T5Block

from lorafa.recompute.classes import derived

# Of `torch.utils.checkpoint.checkpoint`, and of transformers' `gradient_checkpointing_enable`.
CHECKPOINT: dict[str, Any] = {"use_reentrant": False, "early_stop": False}


class _Checkpointed:
    """A block that keeps its input alone: what transformers sets in each block of a model, set in this one."""

    gradient_checkpointing = True
    _gradient_checkpointing_func = staticmethod(partial(checkpoint, **CHECKPOINT))


BLOCKS = (
    LlamaDecoderLayer,
    Qwen2DecoderLayer,
    Qwen3DecoderLayer,
    MistralDecoderLayer,
    GemmaDecoderLayer,
    Phi3DecoderLayer,
    T5Block,
    RobertaLayer,
)
CLASSES = derived("Checkpointed", _Checkpointed, *BLOCKS)
