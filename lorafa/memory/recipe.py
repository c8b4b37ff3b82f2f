"""What is estimated: one fine-tuning step, described completely."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from lorafa.options import Recompute

if TYPE_CHECKING:
    import torch

    DTYPES: dict[str, torch.dtype]

Method = Literal["full-ft", "lora", "lora-frozen-a", "lora-fa", "prompt-tuning"]
Attention = Literal["eager", "sdpa", "flash"]
DType = Literal["fp32", "bf16", "fp16"]
Quantization = Literal["none", "nf4", "nf4-single"]
Optimizer = Literal[
    "adamw", "adamw-fused", "adamw-8bit", "adamw-paged", "adamw-8bit-paged", "adafactor", "sgd", "muon"
]
Sharding = Literal["frozen", "zero-2", "zero-3"]
Offload = Literal["none", "optimizer", "all"]
Loss = Literal["shifted-labels", "shifted-logits", "float-logits"]
Until = Literal["loss", "backward", "next"]
Device = Literal["cuda", "cpu"]


def __getattr__(name: str) -> Any:
    """PyTorch's `DTYPES`, by the names above: a command line is read without the seconds that importing torch takes."""
    if name == "DTYPES":
        import torch

        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class RecipeError(ValueError):
    """A recipe that cannot be run; the message names the field and says what would do."""


@dataclass(frozen=True)
class Recipe:
    """One training step of one model with one method.

    Attributes:
        model: Built-in name, path of a config.json, or hub id; fields of its configuration that differ may follow,
            as in `llama-3.2-1b?tie_word_embeddings=false`.
        method: Full-parameter fine-tuning; PEFT's LoRA; PEFT's LoRA with A's `requires_grad` switched off, as
            the paper has it; this library's LoRA-FA; or PEFT's prompt tuning.
        rank: Of the adapters.
        target_modules: Names of the adapted linear layers (the last parts of their path), a shorthand of
            `lorafa.targets.SHORTHANDS`, or () for all linear layers inside the blocks.
        layer_fraction: Fraction of each stack's blocks, from the last, that carry adapters (paper Figure 2b).
        batch_size: Sequences per step on this device.
        source_length: Tokens of a sequence (of the encoder's, in an encoder-decoder), padding included.
        target_length: Tokens of a decoder's sequence in an encoder-decoder; 0: as the source.
        dtype: Of the weights.
        autocast: Of the computation; "none" for the weights'. Mixed precision: fp32 weights and bf16 here.
        adapter_dtype: Of the adapters; "same" for the weights', fp32 for PEFT's `autocast_adapter_dtype`.
        attention: "eager" stores the scores; "sdpa", with the mask of a padded batch, gets CUDA's
            memory-efficient kernel; "flash" has no mask and gets FlashAttention in half precision.
        repeat_heads: Whether keys and values are repeated for grouped queries also where the kernel would take fewer of
            them, as transformers' SDPA once did and torchtune does.
        adapter_dropout: Probability, on the adapters' input.
        recompute: What the method recomputes in backward: kinds of `LoraFaConfig.recompute`.
        checkpointing: Whether whole blocks are recomputed in backward (gradient checkpointing).
        quantization: Of the blocks' linear layers: "nf4" with scales that are quantized, too (QLoRA's double
            quantization), "nf4-single" with scales in float32.
        prepared: Whether all that is not quantized is in float32, as PEFT's `prepare_model_for_kbit_training` has it.
        shards: Ranks that share what `sharding` says.
        sharding: "frozen": the frozen weights alone, as ZeRO stage 3 does with adapters too small to divide; "zero-2":
            gradients and optimizer states; "zero-3": these and all weights, as FSDP2's full sharding.
        offload: What the host keeps: "optimizer" states, which are then stepped there, or "all" of them and the
            weights, of which two blocks at a time are on the device.
        optimizer: PyTorch's own in its multi-tensor form (`adamw`, `adafactor`, `sgd`), or what
            `lorafa.memory.optimizers` says of the others.
        accumulation: Batches whose gradients are added up for one step of the optimizer; from 2 on, gradients outlive
            a batch.
        packed: Whether the sequences stand one after the other in a single row, without padding.
        input_gradients: Whether the embeddings' output requires a gradient (`enable_input_require_grads`).
        loss: Of a causal language model, how logits meet the labels of the next token: "shifted-labels" moves the
            labels, as transformers does since 4.49; "shifted-logits" copies the float32 logits, as 4.46 to 4.48 did;
            "float-logits" copies them, too, and has them in float32 from the head on, as before 4.46.
        outputs_until: How long the training loop holds the model's outputs, logits among them: until it has the "loss",
            as transformers' Trainer; until "backward" is over; or until the "next" step's are there, as a loop does
            that says `outputs = model(...)` and then `outputs.loss.backward()`.
        device: Whose kernels to assume.
        virtual_tokens: Of a prompt, with prompt tuning.
    """

    model: str
    method: Method = "lora-fa"
    rank: int = 8
    target_modules: tuple[str, ...] = ()
    layer_fraction: float = 1.0
    batch_size: int = 1
    source_length: int = 512
    target_length: int = 0
    dtype: DType = "bf16"
    autocast: Literal["none", "bf16", "fp16"] = "none"
    adapter_dtype: Literal["same", "fp32", "bf16", "fp16"] = "same"
    attention: Attention = "sdpa"
    repeat_heads: bool = False
    adapter_dropout: float = 0.0
    recompute: tuple[Recompute, ...] = ()
    checkpointing: bool = False
    quantization: Quantization = "none"
    prepared: bool = False
    shards: int = 1
    sharding: Sharding = "frozen"
    offload: Offload = "none"
    optimizer: Optimizer = "adamw"
    accumulation: int = 1
    packed: bool = False
    input_gradients: bool = False
    loss: Loss = "shifted-labels"
    outputs_until: Until = "loss"
    device: Device = "cuda"
    virtual_tokens: int = 20

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Recipe:
        """A recipe of the plain values that JSON has; fields that are not given have their defaults."""
        plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**plain)

    def __post_init__(self) -> None:
        self._check_choices()
        for name in ("rank", "batch_size", "source_length", "shards", "accumulation", "virtual_tokens"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.target_length < 0:
            raise RecipeError(f"target_length must be at least 0, not {self.target_length}")
        if not 0 < self.layer_fraction <= 1:
            raise RecipeError(f"layer_fraction must be in (0, 1], not {self.layer_fraction}")
        if not 0 <= self.adapter_dropout < 1:
            raise RecipeError(f"adapter_dropout must be in [0, 1), not {self.adapter_dropout}")
        if self.recompute and self.method != "lora-fa":
            raise RecipeError(f"recompute belongs to method lora-fa, not {self.method}")
        if "loss" in self.recompute and self.loss != "shifted-labels":
            raise RecipeError(f"recompute loss computes it from shifted labels: loss {self.loss} is another")
        if self.adapter_dtype not in ("same", "fp32", self.dtype):
            raise RecipeError(
                f"adapter_dtype must be fp32 or the weights' {self.dtype}, not {self.adapter_dtype}"
            )
        if self.prepared and self.quantization == "none":
            raise RecipeError("prepared is what is not quantized: choose a quantization")
        if self.method == "full-ft" and self.quantization != "none":
            raise RecipeError("quantized weights cannot be trained: choose another method than full-ft")
        if self.method == "full-ft" and self.shards > 1 and self.sharding == "frozen":
            raise RecipeError("sharding frozen divides frozen weights: choose zero-2 or zero-3 for full-ft")
        if self.packed and self.attention != "flash":
            raise RecipeError(f"packed rows need attention flash, not {self.attention}")

    def _check_choices(self) -> None:
        hints = get_type_hints(Recipe)
        for field in fields(self):
            value, hint = getattr(self, field.name), hints[field.name]
            if get_origin(hint) is Literal and value not in get_args(hint):
                raise RecipeError(f"{field.name} must be one of {', '.join(get_args(hint))}, not {value!r}")
        if unknown := set(self.recompute) - set(get_args(Recompute)):
            known = ", ".join(get_args(Recompute))
            raise RecipeError(f"recompute must be of {known}, not {', '.join(sorted(unknown))}")
