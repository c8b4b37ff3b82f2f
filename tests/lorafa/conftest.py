import copy
from collections.abc import Callable

import pytest
import torch
import transformers
from torch import nn

SIZES = {"vocab_size": 97, "num_hidden_layers": 2, "num_attention_heads": 4}


def _llama(layers: int = 2) -> nn.Module:
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, **{**SIZES, "num_hidden_layers": layers}
    )
    return transformers.LlamaForCausalLM(config)


def _t5(feed_forward: str) -> nn.Module:
    config = transformers.T5Config(
        vocab_size=97,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj=feed_forward,
        decoder_start_token_id=0,
    )
    return transformers.T5ForConditionalGeneration(config)


def _roberta() -> nn.Module:
    config = transformers.RobertaConfig(hidden_size=32, intermediate_size=64, num_labels=3, **SIZES)
    return transformers.RobertaForSequenceClassification(config)


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "llama": _llama,
    "llama-4": lambda: _llama(4),
    "t5-relu": lambda: _t5("relu"),
    "t5-gated": lambda: _t5("gated-gelu"),
    "roberta": _roberta,
}


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., nn.Module]:
    """A small random model of a family, the same at each call."""
    built: dict[str, nn.Module] = {}

    def build(family: str, dtype: torch.dtype = torch.float32) -> nn.Module:
        if family not in built:
            torch.manual_seed(0)
            built[family] = BUILDERS[family]()
        return copy.deepcopy(built[family]).to(dtype)

    return build


@pytest.fixture(scope="session")
def batch() -> Callable[[str], dict[str, torch.Tensor]]:
    """A training batch for a family."""

    def build(family: str) -> dict[str, torch.Tensor]:
        ids = torch.arange(48).mul(7).remainder(90).add(3).view(2, 24)
        return {"input_ids": ids, "labels": torch.tensor([0, 2]) if family == "roberta" else ids}

    return build
