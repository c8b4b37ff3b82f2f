"""LoRA-FA over `torch.nn.MultiheadAttention`, whose projections are no modules that its forward calls."""

import math
from functools import cache
from typing import Any, cast

import torch
from peft.tuners.lora import LoraConfig, LoraLayer
from peft.tuners.lora.layer import MultiheadAttention as PeftMultiheadAttention
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn
from torch.nn import functional as F

from lorafa.functional import add_lora_fa, lora_fa_linear
from lorafa.gradients import project_gradient, scale_gradient
from lorafa.layers import LoraFaLayer, LoraFaLinear, is_frozen, not_fused


class LoraFaOutProjection(LoraFaLinear):
    """The output projection of a `torch.nn.MultiheadAttention` that is not itself adapted.

    The attention reads its weight and never calls it, so the weight is W + s·BA. This keeps the projection's input:
    adapt the attention as a whole to keep XA. Dropout cannot be applied.
    """

    keeps_input = True

    @property
    def weight(self) -> Tensor:
        """The weight with the active adapters."""
        weight = cast(Tensor, self.base_layer.weight)
        for name in self.applied_adapters():
            A, B = cast(Tensor, self.lora_A[name].weight), cast(Tensor, self.lora_B[name].weight)
            B = project_gradient(B, self._projection(name, A, B))
            weight = weight + (B @ A * self.scaling[name]).to(weight.dtype)
        return weight


@cache
def _times_in_peft() -> int:
    """Count how often PEFT's attention adds the adapter of its output projection: 2 times in PEFT 0.21.2."""
    with torch.random.fork_rng(devices=[]):
        config = LoraConfig(init_lora_weights=False)
        layer = PeftMultiheadAttention(nn.MultiheadAttention(1, 1), "default", config, r=1)
    projection: Any = layer.get_base_layer().out_proj
    before, delta = projection.weight.item(), projection.get_delta_weight("default").item()
    layer.merge()
    times: int = round((projection.weight.item() - before) / delta)
    return times


class _CalledOutProjection(LoraFaLinear):
    """The output projection of an adapted attention, which calls it.

    PEFT adds its adapter twice, with the gradient of one time. A checkpoint has to mean here what it means there.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Apply the projection and the active adapters; PEFT's own forward would add LoRA's only once."""
        names = self.applied_adapters()
        return self._adapted_forward(x, names) if names else super().forward(x, *args, **kwargs)

    def _adapter(self, name: str) -> Any:
        adapter = super()._adapter(name)
        if adapter is None:
            return None
        A, B, scaling, *others = adapter
        times = _times_in_peft()
        return A, scale_gradient(B, 1 / times), scaling * times, *others

    def _lora(self, name: str, x: Tensor) -> Tensor:
        """What LoRA's adapter adds, beside one of LoRA-FA; PEFT allows it no dropout here."""
        times = _times_in_peft()
        A, B = (scale_gradient(cast(Tensor, of[name].weight), 1 / times) for of in (self.lora_A, self.lora_B))
        x = self._cast_input_dtype(x, A.dtype)
        return F.linear(F.linear(x, A), B) * (self.scaling[name] * times)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Compute what merging adds to the weight."""
        return super().get_delta_weight(adapter) * _times_in_peft()


class LoraFaMultiheadAttention(LoraFaLayer, PeftMultiheadAttention):
    """A `torch.nn.MultiheadAttention` with LoRA-FA adapters, on its packed input projection and its output's."""

    def __init__(
        self,
        base_layer: nn.MultiheadAttention,
        adapter_name: str,
        config: LoraConfig,
        r: int = 0,
        lora_alpha: int = 1,
        **kwargs: Any,
    ) -> None:
        if not base_layer._qkv_same_embed_dim:
            raise ValueError(
                f"LoRA-FA cannot adapt {kwargs.get('target_name')}: its queries, keys and values differ in size"
            )
        nn.Module.__init__(self)
        LoraLayer.__init__(self, base_layer, **kwargs)
        projection: nn.Module = base_layer.out_proj
        base_layer.out_proj = _CalledOutProjection(  # type: ignore[assignment]  # called by forward below
            projection, adapter_name, r=r, lora_alpha=lora_alpha, config=config, **kwargs
        )
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, r, lora_alpha=lora_alpha, config=config)

    @classmethod
    def adopt(cls, layer: LoraLayer) -> LoraFaLayer:
        """Return a layer of this class in place of PEFT's, and its output projection one of ours."""
        own = super().adopt(layer)
        base: Any = own.get_base_layer()
        base.out_proj = _CalledOutProjection.adopt(base.out_proj)
        return own

    @property
    def in_proj_weight(self) -> Tensor:  # type: ignore[override]
        """Packed weight of the base layer's input projections."""
        weight = cast(Tensor, self.get_base_layer().in_proj_weight)
        return not_fused(weight) if self.applied_adapters() else weight

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Merge adapters into both projections' weights."""
        base: Any = self.get_base_layer()
        for name in check_adapters_to_merge(self, adapter_names):
            if name not in self.lora_A:
                continue
            weight = base.in_proj_weight.data + self.get_delta_weight(name).to(base.in_proj_weight.dtype)
            if safe_merge and not weight.isfinite().all():
                raise ValueError(
                    f"NaNs detected in the merged weights. The adapter {name} seems to be broken"
                )
            base.out_proj.merge(safe_merge=safe_merge, adapter_names=[name])
            base.in_proj_weight.data = weight
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Take merged adapters out of the weights."""
        base: Any = self.get_base_layer()
        while self.merged_adapters:
            delta = self.get_delta_weight(self.merged_adapters.pop())
            base.in_proj_weight.data -= delta.to(base.in_proj_weight.dtype)
        if base.out_proj.merged:
            base.out_proj.unmerge()

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.MultiheadAttention:
        """Return the base layer, with its own output projection."""
        if merge:
            self.merge(safe_merge=safe_merge, adapter_names=adapter_names)
        base: Any = self.get_base_layer()
        base.out_proj = base.out_proj.get_base_layer()
        return cast(nn.MultiheadAttention, base)

    def _restore_weights(self) -> None:
        """Do nothing: unlike PEFT's, this forward never takes the weights away."""

    def forward(  # type: ignore[override]
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend as `torch.nn.MultiheadAttention` does, with the same arguments, shapes and results."""
        self._check_forward_args(query, **kwargs)
        base: Any = self.get_base_layer()
        names = self.applied_adapters()
        if not names:
            if self.disable_adapters and self.merged:
                self.unmerge()
            attended: tuple[Tensor, Tensor | None] = self.base_layer(
                query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
            return attended
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal says of attn_mask that it is causal: pass the mask, too")

        batched = query.ndim == 3
        q, k, v = (
            x.unsqueeze(0) if not batched else x if base.batch_first else x.transpose(0, 1)
            for x in self._project(query, key, value, names)
        )
        if base.bias_k is not None:
            k = torch.cat([k, base.bias_k.to(k.dtype).expand(len(k), -1, -1)], dim=1)
            v = torch.cat([v, base.bias_v.to(v.dtype).expand(len(v), -1, -1)], dim=1)
        q, k, v = (x.unflatten(-1, (base.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        if base.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        causal = is_causal and key_padding_mask is None and not need_weights
        mask = None if causal else _additive_mask(q, k, attn_mask, key_padding_mask)
        p = base.dropout if base.training else 0.0
        if need_weights:
            scores = q * math.sqrt(1 / q.shape[-1]) @ k.mT
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), p)
            heads = weights.to(v.dtype) @ v
        else:
            weights = None
            heads = F.scaled_dot_product_attention(q, k, v, mask, p, causal)

        y = heads.transpose(1, 2).flatten(2)
        y = y.squeeze(0) if not batched else y if base.batch_first else y.transpose(0, 1)
        y = base.out_proj(y).to(query.dtype)
        if weights is None:
            return y, None
        weights = (weights.mean(1) if average_attn_weights else weights).to(query.dtype)
        return y, weights if batched else weights.squeeze(0)

    def _project(self, query: Tensor, key: Tensor, value: Tensor, names: list[str]) -> tuple[Tensor, ...]:
        """Apply the packed input projection, as few times as the inputs differ, which is how often XA is kept."""
        d = cast(int, self.get_base_layer().embed_dim)
        if query is key and key is value:
            return self._rows(query, slice(None), names).chunk(3, dim=-1)
        q = self._rows(query, slice(d), names)
        if key is value:
            return q, *self._rows(key, slice(d, None), names).chunk(2, dim=-1)
        return q, self._rows(key, slice(d, 2 * d), names), self._rows(value, slice(2 * d, None), names)

    def _rows(self, x: Tensor, rows: slice, names: list[str]) -> Tensor:
        """Project with some rows of the packed weight."""
        base: Any = self.get_base_layer()
        weight, bias = (
            base.in_proj_weight[rows],
            None if base.in_proj_bias is None else base.in_proj_bias[rows],
        )
        lean = {name: adapter for name in names if (adapter := self._adapter(name))}
        adapters = [
            (A, B[rows], scaling, dropout, preconditioner)
            for A, B, scaling, dropout, preconditioner in lean.values()
        ]
        if adapters and is_frozen(base):
            y = lora_fa_linear(x, weight, bias, *adapters.pop(0))
        else:
            y = F.linear(x, weight, bias)
        for others in adapters:
            y = add_lora_fa(y, x, *others)
        for name in names:
            if name not in lean:
                y = y + self._lora(name, x)[..., rows].to(y.dtype)
        return y


def _additive_mask(
    q: Tensor, k: Tensor, attn_mask: Tensor | None, key_padding_mask: Tensor | None
) -> Tensor | None:
    """Combine masks of `torch.nn.MultiheadAttention` into one that is added to the scores, (batch, heads, L, S)."""
    (batch, heads, length, _), keys = q.shape, k.shape[-2]
    masks = []
    if attn_mask is not None:
        masks.append(attn_mask if attn_mask.ndim == 2 else attn_mask.view(batch, heads, length, -1))
    if key_padding_mask is not None:
        masks.append(key_padding_mask.view(batch, 1, 1, -1))
    combined = None
    for mask in masks:
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(mask, -math.inf)
        mask = F.pad(mask.to(q.dtype), (0, keys - mask.shape[-1]))  # learned and zero keys are never masked
        combined = mask if combined is None else combined + mask
    return combined
