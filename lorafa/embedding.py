"""LoRA-FA over embeddings: A is a table with r numbers for each token."""

from typing import Any

import torch
from peft.tuners.lora import LoraConfig
from peft.tuners.lora.layer import Embedding as PeftEmbedding
from torch import Tensor, nn
from torch.nn import functional as F

from lorafa.autograd import Context, TensorFunction, remembered
from lorafa.functional import projection
from lorafa.gradients import project_gradient
from lorafa.layers import LoraFaLayer, initialize_frozen


@remembered
class Lookup(TensorFunction):
    """s·A[tokens]·B, which keeps the tokens and looks A up again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(tokens: Tensor, A: Tensor, B: Tensor, scaling: float, dtype: torch.dtype) -> Tensor:
        """Look up and project up."""
        return F.embedding(tokens, A.T).to(dtype) @ B.to(dtype).T * scaling

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep references to what the caller has anyway."""
        tokens, A, B, ctx.scaling, _ = inputs
        ctx.save_for_backward(tokens, A)
        ctx.dtype = B.dtype

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Give B its gradient."""
        tokens, A = ctx.saved_tensors
        xa = F.embedding(tokens, A.T).to(grad.dtype).flatten(0, -2)
        grad_B = (grad.flatten(0, -2).T @ xa) * ctx.scaling
        return None, None, grad_B.to(ctx.dtype), None, None


class LoraFaEmbedding(LoraFaLayer, PeftEmbedding):
    """A `torch.nn.Embedding` with LoRA-FA adapters."""

    def _initialize(self, adapter_name: str, config: LoraConfig) -> None:
        A, B = self.lora_embedding_A[adapter_name], self.lora_embedding_B[adapter_name]
        if config.init_lora_weights:
            # PEFT has zeros in A and random numbers in B; a frozen zero would never learn. The bound is Kaiming's for
            # one input, as a lookup reads one number: XA has the variance that a linear layer's has from an input
            # of variance 1.
            nn.init.uniform_(A, -1, 1)
            nn.init.zeros_(B)
        initialize_frozen(A, getattr(config, "init_A", "kaiming_uniform"))

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Look up in the base table and add the active adapters; all but that is left to PEFT.

        Args:
            x: Tokens, integers of any shape.
            args: For PEFT.
            kwargs: For PEFT.
        """
        names = self.applied_adapters()
        peculiar = self.get_base_layer().max_norm is not None or self.tp_layer is not None
        peculiar |= any(self.lora_embedding_A[name].requires_grad for name in names)  # LoRA's
        if peculiar and any(name in self._projections for name in names):
            raise RuntimeError('gradient="projected" needs an embedding without max_norm, and not sharded')
        if args or kwargs or not names or peculiar:
            return PeftEmbedding.forward(self, x, *args, **kwargs)
        y: Tensor = self.base_layer(x)
        scale = self._get_embed_scale()
        for name in names:
            update = Lookup.apply(x, *self._factors(name), self.scaling[name], y.dtype)
            y = y + (update if scale is None else update * scale.to(update.dtype))
        return y

    def _factors(self, name: str) -> tuple[Tensor, Tensor]:
        A, B = self.lora_embedding_A[name], self.lora_embedding_B[name]
        preconditioner = projection(A, self.scaling[name]) if name in self._projections else None
        return A, project_gradient(B, preconditioner)
