"""LoRA-FA layers: PEFT's LoRA layers with a frozen A and a forward that saves only XA."""

from typing import Any, cast

import torch
from peft.tuners.lora import Linear as PeftLinear
from peft.tuners.lora import LoraConfig, LoraLayer
from torch import Tensor, nn

from lorafa.functional import add_lora_fa, lora_fa_linear, projection


def initialize_frozen(lora_A: nn.Module, init: str) -> None:
    """Initialise A in place.

    Args:
        lora_A: Linear module whose weight is A, (r, in_features).
        init: "kaiming_uniform" leaves PEFT's; "normal" is N(0, 1) and "ones" is 1 (paper, Table 6);
            "orthogonal" has orthonormal rows, the Q of eq. 3.

    Raises:
        ValueError: If orthonormal rows are impossible, r > in_features.
    """
    weight = cast(Tensor, lora_A.weight)
    if init == "normal":
        nn.init.normal_(weight)
    elif init == "ones":
        nn.init.ones_(weight)
    elif init == "orthogonal":
        if weight.shape[0] > weight.shape[1]:
            raise ValueError(f'init_A="orthogonal" needs r <= in_features, but A is {tuple(weight.shape)}')
        if not weight.is_meta:
            with torch.no_grad():  # QR has no half-precision kernels
                weight.copy_(nn.init.orthogonal_(torch.empty_like(weight, dtype=torch.float32)))


def is_plain(module: nn.Module) -> bool:
    """Whether a module does nothing but `F.linear`: no forward of its own, no hooks (offload, FSDP, ...)."""
    return (
        type(module).forward is nn.Linear.forward
        and "forward" not in vars(module)
        and not (module._forward_hooks or module._forward_pre_hooks)
        and not (module._backward_hooks or module._backward_pre_hooks)
    )


def is_frozen(module: nn.Module) -> bool:
    """Whether none of the module's own parameters takes a gradient."""
    return not any(parameter.requires_grad for parameter in module.parameters(recurse=False))


def compute_dtype(base: nn.Module) -> torch.dtype:
    """Dtype in which a base layer computes outside autocast; quantised ones may declare it."""
    weight = cast(Tensor, base.weight)
    declared = getattr(base, "compute_dtype", None)
    return declared or (weight.dtype if weight.is_floating_point() else torch.float16)


class LoraFaLayer(LoraLayer):
    """What makes one of PEFT's LoRA layers a LoRA-FA layer: mixed in before the PEFT class."""

    training: bool
    # Adapters whose gradient is projected, each with its matrix and the state of A that it was computed for.
    _projections: dict[str, tuple[Any, Tensor] | None] = {}  # noqa: RUF012 (instances get their own)

    def update_layer(
        self, adapter_name: str, r: int, lora_alpha: int, config: LoraConfig, **kwargs: Any
    ) -> None:
        """Add an adapter, of a LoraFaConfig or of the plain LoraConfig that a checkpoint holds."""
        refuse_unsupported(config)
        # PEFT respects this declaration whenever it switches gradients on: set_adapter, loading, ...
        self.frozen_peft_weight_names = {**self.frozen_peft_weight_names, adapter_name: ("lora_A",)}
        super().update_layer(adapter_name, r, lora_alpha=lora_alpha, config=config, **kwargs)
        initialize_frozen(self.lora_A[adapter_name], getattr(config, "init_A", "kaiming_uniform"))
        if getattr(config, "gradient", "plain") == "projected":
            self._projections = {**self._projections, adapter_name: None}

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Apply the base layer and the active adapters; all but that is left to PEFT (mixed batches, ...)."""
        names = [name for name in self.active_adapters if name in self.lora_A]
        if self.disable_adapters or self.merged or args or kwargs or not names:
            return super().forward(x, *args, **kwargs)  # type: ignore[misc]
        if not all(is_plain(self.lora_A[name]) and is_plain(self.lora_B[name]) for name in names):
            if any(name in self._projections for name in names):
                raise RuntimeError('gradient="projected" needs lora_A and lora_B without hooks of their own')
            return super().forward(x)  # type: ignore[misc]

        if is_plain(self.base_layer) and is_frozen(self.base_layer):
            weight, bias = cast(Tensor, self.base_layer.weight), cast(Tensor | None, self.base_layer.bias)
            y = lora_fa_linear(x, weight, bias, *self._adapter(names.pop(0)))
        else:
            y = self._base_forward(x)
        for name in names:
            y = add_lora_fa(y, x, *self._adapter(name))
        return y

    def _base_forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x)

    def _adapter(self, name: str) -> tuple[Tensor, Tensor, float, float, Tensor | None]:
        dropout = getattr(self.lora_dropout[name], "p", 0.0) if self.training else 0.0
        A, B = cast(Tensor, self.lora_A[name].weight), cast(Tensor, self.lora_B[name].weight)
        return A, B, self.scaling[name], dropout, self._projection(name, A)

    def _projection(self, name: str, A: Tensor) -> Tensor | None:
        if name not in self._projections:
            return None
        state = (id(A), A._version, A.device, self.scaling[name])
        known = self._projections[name]
        if known is None or known[0] != state:  # A never trains, but a checkpoint may replace it
            known = self._projections[name] = (state, projection(A, self.scaling[name]))
        return known[1]


class LoraFaLinear(LoraFaLayer, PeftLinear):
    """A `torch.nn.Linear` with LoRA-FA adapters."""


def refuse_unsupported(config: LoraConfig) -> None:
    """Refuse the options of LoRA that LoRA-FA would train wrongly.

    Raises:
        ValueError: Naming the option and the reason.
    """
    reasons = {
        "use_dora": "DoRA normalises by the norm of W + sAB, which needs more than XA for backward",
        "lora_bias": "a bias beside B is not part of the method; train the base bias with bias='lora_only'",
        "use_qalora": "QALoRA pools the adapter's input",
        "target_parameters": "only linear modules can be adapted, not bare parameters",
        "fan_in_fan_out": "Conv1D weights are not supported",
        "alora_invocation_tokens": "the adapter is applied to all tokens",
        "arrow_config": "Arrow routes between adapters",
        "use_bdlora": "A is dense",
        "velora_config": "VeLoRA compresses the input that LoRA-FA does not keep",
        "monteclora_config": "MonteCLoRA samples the adapter weights",
        "kasa_config": "KaSA changes the base weights and trains a diagonal between A and B",
        "megatron_config": "Megatron's parallel layers are not supported",
        "layer_replication": "replicated layers share the base weights that the adapters of a layer refer to",
    }
    for option, reason in reasons.items():
        if getattr(config, option, None):
            raise ValueError(f"LoRA-FA does not support {option}: {reason}")
    if config.init_lora_weights not in (True, False):
        raise ValueError(
            f"LoRA-FA does not support init_lora_weights={config.init_lora_weights!r}: choose A's with init_A"
        )


def new_layer(target: nn.Module, adapter_name: str, config: LoraConfig, **kwargs: Any) -> LoraFaLayer:
    """Wrap a linear module, as PEFT's dispatcher of custom modules asks.

    Raises:
        ValueError: If the module is not a linear layer that LoRA-FA can adapt.
    """
    base = target.get_base_layer() if isinstance(target, LoraLayer) else target
    if type(base).__module__.startswith("bitsandbytes."):
        from lorafa.quantized import new_quantized_layer

        return new_quantized_layer(target, adapter_name, config=config, **kwargs)
    weight = getattr(base, "weight", None)
    if not isinstance(base, nn.Linear) or weight is None or not weight.is_floating_point():
        raise ValueError(
            f"LoRA-FA cannot adapt {kwargs.get('target_name')}, a {type(base).__name__}: "
            "it adapts torch.nn.Linear and bitsandbytes' 4- and 8-bit linear layers"
        )
    return LoraFaLinear(target, adapter_name, config=config, **kwargs)
