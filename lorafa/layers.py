"""LoRA-FA layers: PEFT's LoRA layers with a frozen A and a forward that saves only XA."""

import copy
from collections.abc import Iterator
from typing import Any, cast

import torch
from peft.tuners.lora import Linear as PeftLinear
from peft.tuners.lora import LoraConfig, LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lorafa.functional import add_lora_fa, gram, lora_fa_linear, pseudo_inverse
from lorafa.refusals import refuse_unsupported

# Forwards that are one product with the weight, plus the bias.
_PLAIN = tuple(kind.forward for kind in (nn.Linear, Conv1D, nn.Conv1d, nn.Conv2d, nn.Conv3d))


def initialize_frozen(weight: Tensor, init: str) -> None:
    """Initialise A in place.

    Args:
        weight: A, (r, in_features), or with more dimensions that count as in_features.
        init: "kaiming_uniform" leaves PEFT's; "normal" is N(0, 1) and "ones" is 1 (paper, Table 6);
            "orthogonal" has orthonormal rows, the Q of eq. 3; "shards" is [I I ... I], the last I cut off where r does
            not divide in_features: orthogonal rows with AAᵀ = (in_features / r)·I where it does (MiSS, arXiv
            2409.15371); "eva" is not a number until `initialize_eva` fills it in.

    Raises:
        ValueError: If orthogonal rows are impossible, r > in_features.
    """
    r, width = weight.shape[0], weight.shape[1:].numel()
    if init in ("orthogonal", "shards") and r > width:
        raise ValueError(f'init_A="{init}" needs r <= in_features, but A is {tuple(weight.shape)}')
    if init == "normal":
        nn.init.normal_(weight)
    elif init == "ones":
        nn.init.ones_(weight)
    elif init == "eva":
        nn.init.constant_(weight, torch.nan)
    elif init == "shards":
        with torch.no_grad():
            identities = torch.eye(r, device=weight.device).repeat(1, -(-width // r))
            weight.copy_(identities[:, :width].view_as(weight))
    elif init == "orthogonal" and not weight.is_meta:
        with torch.no_grad():  # QR has no half-precision kernels
            weight.copy_(nn.init.orthogonal_(torch.empty_like(weight, dtype=torch.float32)))


def is_plain(module: nn.Module, forwards: tuple[Any, ...] = _PLAIN) -> bool:
    """Whether a module does nothing but its known forward, a product: no other, no hooks (offload, FSDP, ...)."""
    return (
        type(module).forward in forwards
        and "forward" not in vars(module)
        and not (module._forward_hooks or module._forward_pre_hooks)
        and not (module._backward_hooks or module._backward_pre_hooks)
    )


def is_frozen(module: nn.Module) -> bool:
    """Whether none of the module's own parameters takes a gradient."""
    return not any(
        parameter is not None and parameter.requires_grad for parameter in module._parameters.values()
    )


def compute_dtype(base: nn.Module) -> torch.dtype:
    """Dtype in which a base layer computes outside autocast; quantised ones may declare it."""
    weight = cast(Tensor, getattr(base, "weight", None))
    if weight is None:  # its parameters have other names: attention, fused experts
        weight = next(base.parameters(recurse=False))
    declared = getattr(base, "compute_dtype", None)
    return declared or (weight.dtype if weight.is_floating_point() else torch.float16)


def drop_probability(dropout: nn.Module) -> float | None:
    """Probability with which a dropout module drops an element now; None if that is not all that it does."""
    from lorafa.recompute.dropout import LeanDropout  # which imports this module

    if isinstance(dropout, nn.Identity):
        return 0.0
    forwards = (nn.Dropout.forward, LeanDropout.forward)
    if not isinstance(dropout, nn.Dropout) or not is_plain(dropout, forwards):
        return None
    return dropout.p if dropout.training else 0.0


class LoraFaLayer(LoraLayer):
    """What makes one of PEFT's LoRA layers a LoRA-FA layer: mixed in before the PEFT class.

    Each adapter has its own kind: one of a LoraFaConfig has a frozen A, one of a plain LoraConfig is LoRA's, as
    in PEFT's own layers.
    """

    training: bool
    scaling: dict[str, float]
    keeps_input = False
    # PEFT deletes an adapter's entry of these when it deletes the adapter.
    other_param_names = (*LoraLayer.other_param_names, "_projections")
    # Adapters whose gradient is projected, each with AAᵀ and its inverse once they are known.
    _projections: dict[str, tuple[Tensor, Tensor] | None] = {}  # noqa: RUF012 (instances get their own)
    # While adapters are disabled: which of their parameters trained before.
    _trained: dict[str, bool] | None = None

    @classmethod
    def adopt(cls, layer: LoraLayer) -> "LoraFaLayer":
        """Return a layer of this class in place of PEFT's, with its parameters and state; adapters stay LoRA's."""
        own = cls.__new__(cls)
        vars(own).update(vars(layer))
        return own

    def update_layer(
        self, adapter_name: str, r: int, lora_alpha: int, config: LoraConfig, **kwargs: Any
    ) -> None:
        """Add an adapter, of LoRA-FA if its configuration is a LoraFaConfig, and of LoRA if not."""
        init = getattr(config, "init_A", None)
        if init is None:
            checked = copy.copy(config)
            checked.init_lora_weights = True  # LoRA's own are right for an adapter of LoRA
            refuse_unsupported(checked)
        else:
            # PEFT respects this declaration whenever it switches gradients on: set_adapter, loading, ...
            self.frozen_peft_weight_names = {
                **self.frozen_peft_weight_names,
                adapter_name: ("lora_A", "lora_embedding_A"),
            }
        trained = self._trained
        super().update_layer(adapter_name, r, lora_alpha=lora_alpha, config=config, **kwargs)
        self._trained = trained
        self._projections = {name: known for name, known in self._projections.items() if name != adapter_name}
        if init is not None:
            self._initialize(adapter_name, config)
            if getattr(config, "gradient", "plain") == "projected":
                self._projections[adapter_name] = None

    def _initialize(self, adapter_name: str, config: LoraConfig) -> None:
        A = cast(Tensor, self.lora_A[adapter_name].weight)
        initialize_frozen(A, getattr(config, "init_A", "kaiming_uniform"))

    def applied_adapters(self) -> list[str]:
        """Name the adapters that forward adds to the base layer: active here, not merged, not disabled."""
        if self.disable_adapters or self.merged:
            return []
        return [name for name in self.active_adapters if name in self.lora_A or name in self.lora_embedding_A]

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Apply the base layer and the active adapters; all but that is left to PEFT (mixed batches, ...)."""
        names = self.applied_adapters()
        if args or kwargs or not names:
            return self._peft_forward(x, *args, **kwargs)
        if any(name in self.lora_variant for name in names) or not any(map(self._is_lean, names)):
            self._refuse_projected(names)
            return self._peft_forward(x)
        return self._adapted_forward(x, names)

    def _peft_forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y: Tensor = super().forward(x, *args, **kwargs)  # type: ignore[misc]  # of the class that follows
        return y

    def _adapted_forward(self, x: Tensor, names: list[str]) -> Tensor:
        adapters = [(name, self._adapter(name)) for name in names]
        first = adapters[0][1]
        if first and is_plain(self.base_layer) and is_frozen(self.base_layer):
            weight, bias = self._base_parameters()
            y = lora_fa_linear(x, weight, bias, *first)
            adapters = adapters[1:]
        else:
            y = self._base_forward(x)
        for name, lean in adapters:
            y = add_lora_fa(y, x, *lean) if lean else y + self._lora(name, x).to(y.dtype)
        return y

    def _base_parameters(self) -> tuple[Tensor, Tensor | None]:
        """Weight, (out_features, in_features), and bias; GPT-2's Conv1D has the weight transposed."""
        weight, bias = cast(Tensor, self.base_layer.weight), cast(Tensor | None, self.base_layer.bias)
        return weight.T if getattr(self, "fan_in_fan_out", False) else weight, bias

    def _base_forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.base_layer(x))

    def _adapter(self, name: str) -> tuple[Tensor, Tensor, float, float, Tensor | None] | None:
        """Arguments for the functions that save only XA; None for an adapter that needs its modules called."""
        if not self._is_lean(name):
            self._refuse_projected([name])
            return None
        A, B = cast(Tensor, self.lora_A[name].weight), cast(Tensor, self.lora_B[name].weight)
        dropout = cast(float, drop_probability(self.lora_dropout[name]))
        return A, B, self.scaling[name], dropout, self._projection(name, A, B)

    def _is_lean(self, name: str) -> bool:
        """Whether an adapter's modules can be passed by, and only its XA be kept: not with hooks, nor a trained A."""
        lora_A, lora_B = self.lora_A[name], self.lora_B[name]
        known = drop_probability(self.lora_dropout[name]) is not None
        return known and is_plain(lora_A) and is_plain(lora_B) and is_frozen(lora_A)

    def _refuse_projected(self, names: list[str]) -> None:
        if projected := [name for name in names if name in self._projections]:
            raise RuntimeError(
                f'gradient="projected" of adapter {", ".join(projected)} needs a frozen A, lora_A and lora_B '
                "without hooks of their own, torch.nn.Dropout, and no variant of LoRA active beside it"
            )

    def _lora(self, name: str, x: Tensor) -> Tensor:
        """What LoRA's adapter adds, beside one of LoRA-FA."""
        x = self._cast_input_dtype(x, cast(Tensor, self.lora_A[name].weight).dtype)
        xa = self.lora_A[name](self.lora_dropout[name](x))
        return cast(Tensor, self.lora_B[name](xa)) * self.scaling[name]

    def _projection(self, name: str, A: Tensor, B: Tensor) -> Tensor | None:
        """Matrix for B's gradient, from the AAᵀ of this very step.

        Nothing else tells that A has changed: a write to `A.data` (PEFT's hotswap_adapter, for one) keeps the
        tensor and its version. AAᵀ is all of A that matters here, and costs r / rows of the layer's product or
        less; what is kept is its inverse.
        """
        if name not in self._projections or not (B.requires_grad and torch.is_grad_enabled()):
            return None
        products, known = gram(A), self._projections[name]
        if torch.compiler.is_compiling():
            known = products, pseudo_inverse(products)
        elif known is None or known[0].device != products.device or not torch.equal(known[0], products):
            known = self._projections[name] = products, pseudo_inverse(products)
        return known[1] / self.scaling[name] ** 2

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Choose the active adapters; those that were not active before train, but in inference mode."""
        before = list(self.active_adapters)
        super().set_adapter(adapter_names, inference_mode=inference_mode)
        if self._trained is not None and (self.active_adapters != before or inference_mode):
            self._trained = self._adapter_gradients()

    def set_requires_grad(self, adapter_names: Any, requires_grad: bool = True) -> None:
        """Switch the gradients of adapters on, A's of LoRA-FA excepted, or off."""
        super().set_requires_grad(adapter_names, requires_grad)
        if self._trained is not None:
            names = {adapter_names} if isinstance(adapter_names, str) else set(adapter_names)
            now = self._adapter_gradients()
            self._trained |= {key: now[key] for key in now if key.split(".")[1] in names}

    def enable_adapters(self, enabled: bool) -> None:
        """Switch the adapters off, or on again, when they train what they trained before.

        PEFT switches the gradients of all active adapters on, also of one that was loaded for inference.
        """
        if not enabled and self._trained is None:
            self._trained = self._adapter_gradients()
        trained, self._trained = (self._trained, None) if enabled else (None, self._trained)
        before = self._adapter_gradients()
        super().enable_adapters(enabled)
        if enabled:
            for key, parameter in self._adapter_parameters():
                parameter.requires_grad_((before if trained is None else trained).get(key, before[key]))

    def _adapter_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for attribute in self.adapter_layer_names:
            for key, parameter in getattr(self, attribute).named_parameters():
                yield f"{attribute}.{key}", parameter

    def _adapter_gradients(self) -> dict[str, bool]:
        return {key: parameter.requires_grad for key, parameter in self._adapter_parameters()}


class NotFused(Tensor):
    """A weight that torch's fused kernels leave alone, which would multiply by it and pass its layer by.

    `nn.TransformerEncoderLayer` hands its layers' weights to one kernel in evaluation, unless one of them has a
    `__torch_function__`.
    """

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute with it as with any tensor."""
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


def not_fused(weight: Tensor) -> Tensor:
    """View a weight as one that torch's fused kernels leave alone; other kinds (fake, ...) stay as they are."""
    return weight.as_subclass(NotFused) if type(weight) in (Tensor, nn.Parameter) else weight


class LoraFaLinear(LoraFaLayer, PeftLinear):
    """A `torch.nn.Linear`, or a `Conv1D` of GPT-2, with LoRA-FA adapters."""

    @property
    def weight(self) -> Tensor:
        """Weight of the base layer, for code that reads its dtype or device."""
        weight = cast(Tensor, self.base_layer.weight)
        return not_fused(weight) if self.applied_adapters() else weight
