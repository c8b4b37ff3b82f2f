"""Gradient error of gate and up kept in 8 bits: `python -m benchmarks.rounding`.

For LoRA-FA as the library does it; and for LoRA as it would have to be for the same memory, where A's gradient in the
down projection is made of the rounded product.
"""

import copy
from collections.abc import Callable
from typing import Any

import peft
import torch
import transformers
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from lorafa import LoraFaConfig, apply_recompute, get_lora_fa_model
from lorafa.recompute import eight_bit

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS: dict[str, Any] = {"r": 8, "lora_alpha": 16, "target_modules": LAYERS}


def model_of(method: str, hidden: int = 256, blocks: int = 4) -> nn.Module:
    """A LLaMA with random weights, and adapters with a random B."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=1000,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=blocks,
        num_attention_heads=4,
    )
    base = transformers.LlamaForCausalLM(config)
    model: nn.Module
    if method == "lora":
        model = peft.get_peft_model(base, peft.LoraConfig(**ADAPTERS))
    else:
        model = get_lora_fa_model(base, LoraFaConfig(**ADAPTERS, recompute=["norm", "activation"]))
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter, std=0.02)
    return model.train()


def rounded(model: nn.Module) -> nn.Module:
    """The model with gate and up in 8 bits, and the down projection's input, where that is kept."""
    model = copy.deepcopy(model)
    if eight_bit.obstacle(model) is None:
        apply_recompute(model, ["activation-8bit"])
        return model
    for module in model.modules():
        if type(module) in eight_bit.CLASSES:
            module.__class__ = eight_bit.CLASSES[type(module)]
            down = module.get_submodule("down_proj")
            down.forward = _keeping_rounded(down.forward)
    return model


def _keeping_rounded(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def pack(tensor: Tensor) -> Any:
        if isinstance(tensor, nn.Parameter) or not tensor.requires_grad:
            return tensor
        return *eight_bit.quantized(tensor.detach()), tensor.shape, tensor.dtype

    def unpack(packed: Any) -> Tensor:
        return packed if isinstance(packed, Tensor) else eight_bit.dequantized(*packed)

    def run(x: Tensor) -> Tensor:
        with saved_tensors_hooks(pack, unpack):
            return forward(x)

    return run


def gradient_errors(method: str, hidden: int = 256, blocks: int = 4, tokens: int = 128) -> list[float]:
    """Relative error of the gradient of all adapters in each block, first to last."""
    model = model_of(method, hidden, blocks)
    ids = torch.randint(1000, (2, tokens))
    found = []
    for candidate in (model, rounded(model)):
        candidate(input_ids=ids, labels=ids).loss.backward()
        found.append({name: p.grad for name, p in candidate.named_parameters() if p.grad is not None})
    exact, approximate = found
    return [_error(exact, approximate, f".layers.{block}.") for block in range(blocks)]


def _error(exact: dict[str, Tensor], approximate: dict[str, Tensor], inside: str) -> float:
    names = [name for name in exact if inside in name]
    off = torch.stack([(exact[name] - approximate[name]).norm() for name in names]).norm()
    return (off / torch.stack([exact[name].norm() for name in names]).norm()).item()


def main() -> None:
    """Print the errors of both methods, block by block."""
    for method in ("lora-fa", "lora"):
        print(method, *(f"{error:.2e}" for error in gradient_errors(method)))


if __name__ == "__main__":
    main()
