"""What trains in a model, what is frozen, and what its adapted layers will save for backward."""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import cast

import torch
from peft.tuners.lora import LoraConfig, LoraLayer
from torch import nn

from lorafa.layers import LoraFaLayer, compute_dtype
from lorafa.recompute import eight_bit, recomputing


@dataclass(frozen=True)
class AdaptedLayer:
    """An adapted linear layer.

    Attributes:
        name: Qualified name.
        rank: r.
        in_features: d_in.
        out_features: d_out.
        saved_bytes_per_token: Bytes that one row of its input will save for backward: r elements of the
            compute dtype, plus, for PEFT's LoRA, the d_in elements that A's gradient needs.
        lean: Whether that is XA and nothing else.
    """

    name: str
    rank: int
    in_features: int
    out_features: int
    saved_bytes_per_token: int
    lean: bool = True

    @property
    def row(self) -> tuple[str, ...]:
        """What the table says of the layer; a block's number in its name becomes *."""
        return (
            re.sub(r"(?<=\.)\d+(?=\.)", "*", self.name),
            f"{self.in_features} -> {self.rank} -> {self.out_features}",
            "XA" if self.lean else "XA and its input",
            f"{self.saved_bytes_per_token} bytes a token",
        )


@dataclass(frozen=True)
class Audit:
    """The answer of `audit`.

    Attributes:
        trainable: Number of elements of each parameter that takes a gradient, by name.
        frozen: Number of elements of each parameter that does not, by name.
        layers: The adapted layers, with their active adapters.
        problems: What contradicts LoRA-FA, one sentence each.
        recomputed: The modules that recompute in backward, by kind.
        without_effect: Kinds of recomputation that an adapter's configuration asks for and the model does not have.
    """

    trainable: dict[str, int]
    frozen: dict[str, int]
    layers: list[AdaptedLayer]
    problems: list[str] = field(default_factory=list)
    recomputed: dict[str, list[str]] = field(default_factory=dict)
    without_effect: list[str] = field(default_factory=list)

    def check(self) -> "Audit":
        """Return self if nothing contradicts LoRA-FA.

        Raises:
            RuntimeError: Listing the problems.
        """
        if self.problems:
            raise RuntimeError("not LoRA-FA: " + "; ".join(self.problems))
        return self

    def __str__(self) -> str:
        trains, stays = sum(self.trainable.values()), sum(self.frozen.values())
        lines = [f"trains {trains:,} parameters in {len(self.trainable)} tensors; {stays:,} are frozen"]
        rows = Counter(layer.row for layer in self.layers)
        lines += _columns(
            [("layers", "", "shape", "saves", ""), *((f"{n} x", *row) for row, n in rows.items())]
        )
        if self.recomputed:
            counts = (
                f"{kind} ({len(names)} modules{', approximate' if kind == 'activation-8bit' else ''})"
                for kind, names in self.recomputed.items()
            )
            lines.append(f"recomputes in backward: {', '.join(counts)}")
        if self.without_effect:
            lines.append(f"recompute had no effect for: {', '.join(self.without_effect)}")
        return "\n".join(lines + [f"PROBLEM: {problem}" for problem in self.problems])


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    """The rows of a table, as lines."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def audit(model: nn.Module) -> Audit:
    """List what trains, what is frozen, and what each adapted layer will save for backward.

    Args:
        model: A model with adapters.
    """
    trainable = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    frozen = {name: p.numel() for name, p in model.named_parameters() if not p.requires_grad}
    configs = _configs(model)
    bias_trains = any(config.bias != "none" for config in configs.values())
    need_data = {name for name, config in configs.items() if getattr(config, "init_A", None) == "eva"}
    layers, problems = [], []
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        ours = isinstance(module, LoraFaLayer)
        if not ours:
            problems.append(f"{name} is PEFT's {type(module).__name__}, which saves its input")
        base = module.get_base_layer()
        for key, parameter in base.named_parameters(recurse=False):
            if parameter.requires_grad and not (bias_trains and key.endswith("bias")):
                problems.append(f"the base {key} of {name} trains")
        matrices = {adapter: lora_A.weight for adapter, lora_A in module.lora_A.items()}
        matrices.update(module.lora_embedding_A)
        trains = {adapter for adapter, A in matrices.items() if A.requires_grad}
        for adapter in matrices:  # an adapter of LoRA in a layer of ours may train its A
            if adapter in trains and (
                not ours or "lora_A" in module.frozen_peft_weight_names.get(adapter, ())
            ):
                problems.append(f"A of adapter {adapter} in {name} trains")
        for adapter, A in matrices.items():
            if adapter in need_data and torch.isnan(cast(torch.Tensor, A)).any():
                problems.append(f"A of adapter {adapter} in {name} has no values yet: call initialize_eva")
        active = [adapter for adapter in module.active_adapters if adapter in matrices]
        rank = sum(module.r[adapter] for adapter in active)
        d_in, d_out = cast(int, module.in_features), cast(int, module.out_features)
        keeps_input = not isinstance(module, LoraFaLayer) or module.keeps_input
        lean = not keeps_input and not trains.intersection(active)
        elements = rank if lean else rank + d_in
        nbytes = elements * torch.empty((), dtype=compute_dtype(base)).element_size()
        layers.append(AdaptedLayer(name, rank, d_in, d_out, nbytes, lean))
    if not layers:
        problems.append("no layer is adapted")
    recomputed = recomputing(model)
    if "activation-8bit" in recomputed and (reason := eight_bit.obstacle(model)):
        problems.append(f'recompute="activation-8bit": {reason}')
    asked = {
        kind
        for config in configs.values()
        for kind in [*getattr(config, "recompute", []), *getattr(config, "recompute_first", {})]
    }
    return Audit(trainable, frozen, layers, problems, recomputed, sorted(asked - set(recomputed)))


def _configs(model: nn.Module) -> dict[str, LoraConfig]:
    """Configurations of the adapters of a model, or of the model in a wrapper of distributed training, by name."""
    found = (getattr(module, "peft_config", None) for module in model.modules())
    return next((configs for configs in found if isinstance(configs, dict)), {})
