"""A drawn anew while B trains: what was learnt moves into the frozen weights, and B starts again at zero.

With one A, ΔW stays within the span of A's rows. A chain of adapters, each with an A of its own, does not (RAC-LoRA,
arXiv 2410.08305), and a training step needs the memory of one of them.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from peft.utils.other import transpose
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback

from lorafa.config import LoraFaConfig
from lorafa.layers import LoraFaLayer, LoraFaLinear, initialize_frozen

FILE = "resampled.safetensors"  # beside the weights of a checkpoint
RANDOM = ("kaiming_uniform", "normal", "orthogonal")  # initialisations that differ from one draw to the next

Factors = dict[str, tuple[Tensor, Tensor]]  # by layer: A, (r, in), and B, (out, r)


class Resampling(TrainerCallback):
    """Merges s·B·A into the frozen weights every so many steps, draws A anew and sets B to zero.

    At the end of training the frozen weights are what they were, and the adapter is the whole chain: A's below each
    other and B's beside each other, of n times the rank for n draws. It is saved, loaded and merged as any other.
    Weights in half precision round what is merged into them, and get back to what they were only nearly.

    Args:
        model: A model with a LoRA-FA adapter over linear layers that are not quantised.
        every: Optimizer steps of an A.
        adapter_name: Which adapter.
        seed: Of the draws, which leave the generators of dropout and data alone.

    Raises:
        ValueError: If the adapter is not LoRA-FA's, its A is not random, or a layer's weights cannot take it in.
    """

    def __init__(self, model: PeftModel, every: int, adapter_name: str = "default", seed: int = 0) -> None:
        """Find the adapter's layers."""
        config = model.peft_config.get(adapter_name)
        if every < 1:
            raise ValueError(f"resampling every {every} steps: the number of steps must be at least 1")
        if not isinstance(config, LoraFaConfig):
            raise ValueError(
                f"resampling draws a frozen A anew, and adapter {adapter_name} is not of LoRA-FA"
            )
        if config.init_A not in RANDOM:
            raise ValueError(
                f'init_A="{config.init_A}" is the same each time: resampling needs one of {RANDOM}'
            )
        self.every, self.adapter, self.seed, self._config = every, adapter_name, seed, config
        self._layers = dict(_layers(model, adapter_name))
        self._merged: list[Factors] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Merge what a run that goes on from a checkpoint had merged by then."""
        if state.global_step:
            for factors in _read(Path(args.output_dir, f"checkpoint-{state.global_step}")):
                self._add(factors)
                self._merged.append(factors)

    def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        """Resample, if it is time to, and there are steps to come."""
        if state.global_step % self.every == 0 and state.global_step < state.max_steps:
            self.resample(optimizer)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put what was merged beside the checkpoint's weights."""
        if state.is_world_process_zero:
            _write(Path(args.output_dir, f"checkpoint-{state.global_step}"), self._merged)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make one adapter of the chain: up to the best checkpoint, where the Trainer has gone back to it."""
        best = state.best_model_checkpoint if args.load_best_model_at_end else None
        self.finish(len(_read(Path(best))) if best else None)

    @torch.no_grad()
    def resample(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Merge, draw A, and set B to zero.

        Args:
            optimizer: Forgets what it knows of B, whose gradients have another meaning now.
        """
        factors = {
            name: (A.detach().cpu().clone(), B.detach().cpu().clone()) for name, A, B in self._factors()
        }
        self._add(factors)
        self._merged.append(factors)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed + (len(self._merged) << 16))
            for _, A, B in self._factors():
                fresh = nn.init.kaiming_uniform_(torch.empty(A.shape), a=math.sqrt(5))
                initialize_frozen(fresh, self._config.init_A)
                A.copy_(fresh)
                B.zero_()
                if optimizer is not None:
                    optimizer.state.pop(B, None)

    @torch.no_grad()
    def finish(self, merged: int | None = None) -> None:
        """Take what was merged out of the frozen weights, and make one adapter of the chain.

        Args:
            merged: How many of the merged adapters come before the present one; all of them if None.
        """
        for factors in self._merged:
            self._add(factors, sign=-1)
        chain = self._merged[:merged]
        self._merged = []
        if not chain:
            return
        for name, A, B in list(self._factors()):
            before = [factors[name] for factors in chain]
            self._replace(
                self._layers[name],
                torch.cat([*(a.to(A) for a, _ in before), A]),
                torch.cat([*(b.to(B) for _, b in before), B], dim=1),
            )
        self._enlarge(len(chain) + 1)

    def _factors(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        for name, layer in self._layers.items():
            A, B = layer.lora_A[self.adapter].weight, layer.lora_B[self.adapter].weight
            yield name, cast(Tensor, A), cast(Tensor, B)

    def _add(self, factors: Factors, sign: int = 1) -> None:
        for name, (A, B) in factors.items():
            layer = self._layers[name]
            weight = cast(Tensor, layer.get_base_layer().weight)
            delta = sign * layer.scaling[self.adapter] * (B.to(weight.device) @ A.to(weight.device))
            weight.data += transpose(delta, layer.fan_in_fan_out).to(weight.dtype)

    def _replace(self, layer: LoraFaLinear, A: Tensor, B: Tensor) -> None:
        """Give a layer's adapter other factors, of another rank, at the scale that it has."""
        name, rank = self.adapter, len(A)
        layer.lora_alpha[name] *= _alpha_factor(rank / layer.r[name], self._config.use_rslora)
        layer.r[name] = rank
        for modules, weight in ((layer.lora_A, A), (layer.lora_B, B)):
            trained = modules[name].weight.requires_grad
            modules[name] = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
            modules[name].weight = nn.Parameter(weight, requires_grad=cast(bool, trained))

    def _enlarge(self, times: int) -> None:
        """Have the configuration say what the layers' adapters are now."""
        config, factor = self._config, _alpha_factor(times, self._config.use_rslora)
        config.r *= times
        config.lora_alpha *= factor  # type: ignore[assignment]  # PEFT takes any number
        config.rank_pattern = {name: rank * times for name, rank in (config.rank_pattern or {}).items()}
        config.alpha_pattern = {name: alpha * factor for name, alpha in (config.alpha_pattern or {}).items()}


def _alpha_factor(times: float, rslora: bool) -> float:
    """What α is multiplied by for the scale to stay, α / r or rsLoRA's α / √r, at so many times the rank."""
    return math.sqrt(times) if rslora else times


def _layers(model: PeftModel, adapter: str) -> Iterator[tuple[str, LoraFaLinear]]:
    """Find the layers that have the adapter.

    Raises:
        ValueError: If the base weights of one of them cannot take an adapter in.
    """
    for name, module in model.named_modules():
        if not isinstance(module, LoraFaLayer):
            continue
        if adapter not in module.lora_A and adapter not in module.lora_embedding_A:
            continue
        weight = getattr(module.get_base_layer(), "weight", None)
        plain = (
            isinstance(module, LoraFaLinear) and type(weight) is nn.Parameter and weight.is_floating_point()
        )
        if not plain:
            kind = type(module.get_base_layer()).__name__
            raise ValueError(f"resampling is for linear layers in float weights, and {name} adapts a {kind}")
        yield name, cast(LoraFaLinear, module)


def _write(folder: Path, merged: list[Factors]) -> None:
    save_file(
        {
            f"{number}.{name}.{key}": factor.contiguous()
            for number, factors in enumerate(merged)
            for name, pair in factors.items()
            for key, factor in zip("AB", pair, strict=True)
        },
        folder / FILE,
    )


def _read(folder: Path) -> list[Factors]:
    """Return what was merged by the time of a checkpoint.

    Raises:
        FileNotFoundError: If it is a checkpoint of a run without resampling.
    """
    saved = load_file(folder / FILE)
    merged: list[Factors] = [{} for _ in {key.partition(".")[0] for key in saved}]
    for key in saved:
        if key.endswith(".A"):
            number, _, name = key.removesuffix(".A").partition(".")
            merged[int(number)][name] = (saved[key], saved[f"{number}.{name}.B"])
    return merged
