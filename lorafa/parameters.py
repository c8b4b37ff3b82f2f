"""LoRA-FA over bare parameters, such as the fused experts of a mixture: PEFT's `target_parameters`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft.tuners.lora import LoraConfig
from peft.tuners.lora.layer import ParamWrapper as PeftParamWrapper
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import parametrize

from lorafa.functional import add_lora_fa, lora_fa_linear, projection
from lorafa.gradients import project_gradient
from lorafa.layers import LoraFaLayer, initialize_frozen

# What one may ask of an adapted weight without computing it.
_METADATA = {
    *("dtype", "device", "shape", "ndim", "layout", "is_cuda", "is_meta", "is_sparse", "requires_grad"),
    *("size", "dim", "numel", "data_ptr", "is_floating_point"),
}


@dataclass(frozen=True)
class Factors:
    """One adapter of a weight: A, (..., r, in), and B, (..., out, r)."""

    A: Tensor
    B: Tensor
    scaling: float

    def unbind(self) -> "list[Factors]":
        """Split into those of each expert; one operation, whose gradient is one tensor for all experts."""
        pairs = zip(self.A.unbind(0), self.B.unbind(0), strict=True)
        return [Factors(A, B, self.scaling) for A, B in pairs]


class AdaptedWeight:
    """Stands for W + s·BA where a module reads its parameter.

    Products with it are computed as a LoRA-FA layer's are, so that only XA is kept: by `linear`, `matmul` or `@`, `bmm`
    and `grouped_mm`. In any other operation it is the sum, which keeps what the operation keeps.

    Args:
        weight: (..., out, in), or (..., in, out).
        factors: Adapters.
        transposed: Whether the weight is (..., in, out).
    """

    def __init__(self, weight: Tensor, factors: Sequence[Factors], transposed: bool = False) -> None:
        self.weight, self.factors, self.transposed = weight, factors, transposed
        self._experts: list[AdaptedWeight] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.weight if name in _METADATA else self.materialize(), name)

    def __getitem__(self, index: Any) -> "AdaptedWeight | Tensor":
        single = isinstance(index, int) or (isinstance(index, Tensor) and index.ndim == 0)
        if self.weight.ndim == 3 and single and getattr(index, "dtype", None) != torch.bool:
            return self.experts()[int(index)]
        return self.materialize()[index]

    def __rmatmul__(self, x: Tensor) -> Tensor:
        return torch.matmul(x, cast(Tensor, self))

    def transpose(self, first: int, second: int) -> "AdaptedWeight | Tensor":
        """Swap two dimensions."""
        if {first % self.weight.ndim, second % self.weight.ndim} != {
            self.weight.ndim - 2,
            self.weight.ndim - 1,
        }:
            return self.materialize().transpose(first, second)
        return AdaptedWeight(self.weight.mT, self.factors, not self.transposed)

    def t(self) -> "AdaptedWeight | Tensor":
        """Transpose."""
        return self.transpose(-2, -1)

    @property
    def mT(self) -> "AdaptedWeight | Tensor":  # noqa: N802 (torch's name)
        """Transpose."""
        return self.transpose(-2, -1)

    @property
    def T(self) -> "AdaptedWeight | Tensor":  # noqa: N802 (torch's name)
        """Transpose."""
        return self.transpose(-2, -1) if self.weight.ndim == 2 else self.materialize().T

    def experts(self) -> "list[AdaptedWeight]":
        """Split along the first dimension."""
        if self._experts is None:
            each = zip(*(factors.unbind() for factors in self.factors), strict=True)
            weights = self.weight.unbind(0)
            self._experts = [AdaptedWeight(w, f, self.transposed) for w, f in zip(weights, each, strict=True)]
        return self._experts

    def materialize(self) -> Tensor:
        """Compute W + s·BA."""
        weight = self.weight
        with torch.autocast(weight.device.type, enabled=False):  # the sum has the weight's dtype, as in PEFT
            for factors in self.factors:
                delta = factors.B @ factors.A * factors.scaling
                weight = weight + (delta.mT if self.transposed else delta).to(weight.dtype)
        return weight

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute products as LoRA-FA does, and all else with the sum."""
        kwargs = kwargs or {}
        product = _PRODUCTS.get(func)
        if product and len(args) > 1 and isinstance(args[0], Tensor) and isinstance(args[1], cls):
            y = product(*args, **kwargs)
            if y is not None:
                return y
        args = [a.materialize() if isinstance(a, cls) else a for a in args]
        kwargs = {name: a.materialize() if isinstance(a, cls) else a for name, a in kwargs.items()}
        return func(*args, **kwargs)


def _linear(x: Tensor, weight: AdaptedWeight, bias: Tensor | None = None) -> Tensor | None:
    if weight.weight.ndim != 2 or weight.transposed:
        return None
    return _multiply(x, weight.weight, bias, weight.factors)


def _matmul(x: Tensor, weight: AdaptedWeight) -> Tensor | None:
    if not weight.transposed or x.ndim < 2:
        return None
    if weight.weight.ndim == 2:
        return _multiply(x, weight.weight.mT, None, weight.factors)
    if x.ndim != 3 or len(x) != len(weight.weight):
        return None
    experts = zip(x.unbind(0), weight.experts(), strict=True)
    return torch.stack([_multiply(rows, e.weight.mT, None, e.factors) for rows, e in experts])


def _grouped_mm(
    x: Tensor, weight: AdaptedWeight, *, offs: Tensor | None = None, bias: None = None, out_dtype: None = None
) -> Tensor | None:
    """Multiply rows that are sorted by expert; `offs` says where each expert's end."""
    if not weight.transposed or weight.weight.ndim != 3 or x.ndim != 2 or offs is None or out_dtype:
        return None
    base = F.grouped_mm(x, weight.weight, offs=offs)
    ends = offs.tolist()
    sizes = [end - start for start, end in zip([0, *ends], [*ends, len(x)], strict=True)]
    *pieces, rest = base.split(sizes)
    inputs = x.split(sizes)
    for i, expert in enumerate(weight.experts()):
        for f in expert.factors if sizes[i] else ():
            pieces[i] = add_lora_fa(pieces[i], inputs[i], f.A, f.B, f.scaling)
    return torch.cat([*pieces, rest])


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None, factors: Sequence[Factors]) -> Tensor:
    first, *others = factors
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        y, others = F.linear(x, weight, bias), [first, *others]
    else:
        y = lora_fa_linear(x, weight, bias, first.A, first.B, first.scaling)
    for f in others:
        y = add_lora_fa(y, x, f.A, f.B, f.scaling)
    return y


_PRODUCTS = {
    F.linear: _linear,
    torch.matmul: _matmul,
    torch.mm: _matmul,
    torch.bmm: _matmul,
    Tensor.matmul: _matmul,
    Tensor.__matmul__: _matmul,
    Tensor.mm: _matmul,
    Tensor.bmm: _matmul,
    torch._grouped_mm: _grouped_mm,  # which torch.nn.functional.grouped_mm calls
}


class ParamWrapper(LoraFaLayer, PeftParamWrapper):
    """A module one of whose parameters, (out, in) or (experts, out, in), has LoRA-FA adapters.

    It has the name of PEFT's class, by which PEFT knows such a layer where it nests one in another.
    """

    def _initialize(self, adapter_name: str, config: LoraConfig) -> None:
        for A in self._by_expert(adapter_name)[0]:
            initialize_frozen(A, getattr(config, "init_A", "kaiming_uniform"))

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Apply the module, with the adapters in its parameter's place."""
        return PeftParamWrapper.forward(self, x, *args, **kwargs)

    def _by_expert(self, name: str) -> tuple[Tensor, Tensor]:
        """A, (experts, r, in), and B, (experts, out, r), of PEFT's (experts·r, in) and (out, r·experts)."""
        A, B = cast(Tensor, self.lora_A[name].weight), cast(Tensor, self.lora_B[name].weight)
        A = A.view(self.num_experts, -1, A.shape[1])
        return A, B.view(B.shape[0], -1, self.num_experts).permute(2, 0, 1)

    def _factors(self, name: str) -> Factors:
        A, B = self._by_expert(name)
        if name in self._projections:
            B = project_gradient(B, torch.stack([projection(a, self.scaling[name]) for a in A]))
        if self._param_ndim == 2:
            A, B = A[0], B[0]
        return Factors(A, B, self.scaling[name])

    @contextmanager
    def _activate_lora(self, active_adapters: list[str]) -> Iterator[None]:
        names = [name for name in active_adapters if name in self.lora_A]
        base, weight = self.get_base_layer(), self.get_param()
        computable = weight.dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
        computable &= not any(self.lora_A[name].weight.requires_grad for name in names)  # LoRA's
        if not names or not computable or parametrize.is_parametrized(base, self.parameter_name):
            with PeftParamWrapper._activate_lora(self, active_adapters):
                yield
            return
        transposed = self._param_ndim == 3 and not self._did_swap_in_out_features
        stand_in = AdaptedWeight(weight, [self._factors(name) for name in names], transposed)
        vars(base)[self.parameter_name] = stand_in  # an attribute of the instance hides the parameter
        try:
            yield
        finally:
            del vars(base)[self.parameter_name]
