"""LoRA-FA's rungs beside what else saves memory: PEFT's methods, block checkpointing, torch.compile, a chunked loss.

Bytes and times are of a small LLaMA on this machine, an eighth of LLaMA-7B in every width, in one run whose methods
take turns. MiB a layer and GiB are estimates for the full models in bf16 on CUDA: 1,024 tokens, rank 64.
"""

import argparse
import copy
import os
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from types import SimpleNamespace
from typing import Any

import peft
import torch
import transformers
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from benchmarks._harness import (
    Adapter,
    Contender,
    _adamw,
    _peft_frozen_half,
    _peft_lora,
    _peft_lora_half,
    _saved,
    _step,
)
from benchmarks.rungs import RUNGS, is_exact
from lorafa import LoraFaConfig, get_lora_fa_model
from lorafa.memory.batch import batch_of
from lorafa.memory.depth import Depth
from lorafa.memory.models import WithoutInit, build, load_config, with_new_storage
from lorafa.memory.recipe import Recipe
from lorafa.memory.semantics import device_semantics
from lorafa.memory.step import trace_step
from lorafa.targets import select_targets

MIB, GIB = 2**20, 2**30
ESTIMATED = ("llama-7b", "llama-3.2-3b")
TOKENS, RANK = 1024, 64
BASELINE = "PEFT LoRA"
CHUNK = 256  # tokens whose logits exist at a time. Source: TRL's chunked negative log-likelihood
COMPILED = "PEFT LoRA, half, torch.compile, budget 0.5"


@dataclass(frozen=True)
class Peer:
    """A way to train adapters.

    Attributes:
        put: Puts the method on a causal language model.
        exact: Whether the gradients of what it trains are those of autograd, up to rounding.
    """

    put: Callable[[Any, Adapter], Contender]
    exact: bool = True


@dataclass(frozen=True)
class Estimated:
    """Bytes of a full-size model.

    Attributes:
        layer: Saved by one layer.
        peak: Allocated at the peak of a step.
    """

    layer: int
    peak: int


def _velora(model: nn.Module, adapter: Adapter) -> Contender:
    config = peft.LoraConfig(**adapter.options(), velora_config=peft.VeloraConfig())  # type: ignore[arg-type]
    return _half(model, config)


def _miss(model: nn.Module, adapter: Adapter) -> Contender:
    return _half(model, peft.MissConfig(r=adapter.rank, target_modules=adapter.targets))


def _half(model: nn.Module, config: peft.PeftConfig) -> Contender:
    adapted = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    return Contender(adapted, _adamw(adapted))


def _checkpointed(model: Any, adapter: Adapter, put: Callable[[Any, Adapter], Contender]) -> Contender:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    return put(model, adapter)


def _chunked(model: Any, adapter: Adapter) -> Contender:
    """A loss over chunks of the tokens, each checkpointed, so that the logits of one chunk exist at a time."""

    def forward(input_ids: Tensor, labels: Tensor, **_: Any) -> SimpleNamespace:
        hidden = model.model(input_ids).last_hidden_state[:, :-1].flatten(0, 1)
        targets = labels[:, 1:].flatten()
        pairs = zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True)
        losses = [checkpoint(_nll, x, model.lm_head.weight, y, use_reentrant=False) for x, y in pairs]
        return SimpleNamespace(loss=torch.stack(losses).sum() / len(targets))

    model.forward = forward
    return _peft_lora_half(model, adapter)


def _nll(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum")


def _compiled(model: nn.Module, adapter: Adapter) -> Contender:
    contender = _peft_lora_half(model, adapter)
    torch._functorch.config.activation_memory_budget = 0.5
    contender.model.compile()
    return contender


def _lora_fa(model: nn.Module, adapter: Adapter, kinds: tuple[str, ...]) -> Contender:
    config = LoraFaConfig(**adapter.options(), recompute=list(kinds))  # type: ignore[arg-type]
    adapted = get_lora_fa_model(model, config, autocast_adapter_dtype=False)
    return Contender(adapted, _adamw(adapted))


PEERS = {
    BASELINE: Peer(_peft_lora),
    "PEFT LoRA, half": Peer(_peft_lora_half),
    "PEFT, frozen A, half": Peer(_peft_frozen_half),
    "PEFT VeLoRA, half": Peer(_velora, exact=False),
    "PEFT MiSS, half": Peer(_miss),
    "PEFT LoRA, half, chunked loss": Peer(_chunked),
    "PEFT LoRA, half, blocks checkpointed": Peer(partial(_checkpointed, put=_peft_lora_half)),
    "PEFT, frozen A, half, blocks checkpointed": Peer(partial(_checkpointed, put=_peft_frozen_half)),
    COMPILED: Peer(_compiled),
    **{
        f"LoRA-FA, {name}" if kinds else "LoRA-FA": Peer(
            partial(_lora_fa, kinds=kinds), exact=is_exact(kinds)
        )
        for name, kinds in RUNGS.items()
    },
}


def estimate(peer: Peer, name: str) -> Estimated:
    """Bytes of a step of a built-in model, from two shallow models on fake tensors; both are affine in the depth."""
    config = load_config(name)
    (saved, peak), (saved_more, peak_more) = (_trace(peer, config, name, depth) for depth in (2, 3))
    depth = config.num_hidden_layers
    return Estimated(saved_more - saved, peak + (depth - 2) * (peak_more - peak))


def _trace(peer: Peer, config: transformers.PretrainedConfig, name: str, depth: int) -> tuple[int, int]:
    """Bytes saved, and at the peak, of a model with few blocks."""
    shallow = Depth(((True,) * depth,), ()).apply(config)
    recipe = Recipe(name, source_length=TOKENS, attention="flash")
    with WithoutInit():
        model = build(shallow, torch.bfloat16, "sdpa")
        trained = peer.put(model, Adapter(RANK, 0.0, select_targets(model, "all-linear"))).model.train()
    with FakeTensorMode(), device_semantics("cuda", None):
        with_new_storage(trained)
        parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
        timeline = trace_step(
            trained, batch_of(shallow, recipe), torch.optim.AdamW(parameters, foreach=True)
        ).timeline()
    return timeline.saved, timeline.peak


def native_dtype() -> torch.dtype:
    """bf16 where this processor multiplies in it no slower than in float32."""

    def seconds(dtype: torch.dtype) -> float:
        x = torch.randn(384, 384).to(dtype)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            x @ x
            times.append(time.perf_counter() - start)
        return min(times)

    return torch.bfloat16 if seconds(torch.bfloat16) <= seconds(torch.float32) else torch.float32


def small_llama(dtype: torch.dtype) -> transformers.LlamaForCausalLM:
    """Two blocks of an eighth of LLaMA-7B's widths, with random weights."""
    config = transformers.LlamaConfig(
        vocab_size=4000,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=2,
        num_attention_heads=4,
        use_cache=False,
    )
    model = transformers.LlamaForCausalLM(config)
    nn.Module.to(model, dtype)
    return model


def contenders(names: list[str], model: nn.Module) -> tuple[dict[str, Contender], dict[str, str]]:
    """Every method on a model of its own, and the reasons of those that refuse it."""
    adapter = Adapter(RANK // 8, 0.0, select_targets(model, "all-linear"))
    made, refused = {}, {}
    for name in names:
        torch.manual_seed(0)
        try:
            made[name] = PEERS[name].put(copy.deepcopy(model), adapter)
            made[name].model.train()
        except ValueError as error:
            refused[name] = str(error).splitlines()[0]
    return made, refused


def times(
    made: dict[str, Contender], forward: Callable[[nn.Module], Tensor], rounds: int
) -> dict[str, float]:
    """Median over the rounds of a method's time of a step over the baseline's in the same round."""
    for contender in made.values():
        _step(contender, forward)
    ratios: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(rounds):
        seconds = {name: _step(contender, forward) for name, contender in made.items()}
        for name in made:
            ratios[name].append(seconds[name] / seconds[BASELINE])
    return {name: statistics.median(found) for name, found in ratios.items()}


def saved_bytes(name: str, contender: Contender, forward: Callable[[nn.Module], Tensor]) -> int | None:
    """What forward saves by the meter, whose view ends where a compiled graph begins: None for that."""
    return None if name == COMPILED else _saved(contender, forward, True)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=3, help="timed steps of each method (default 3)")
    parser.add_argument("--tokens", type=int, default=512, help="of the small model's batch (default 512)")
    parser.add_argument("--methods", nargs="+", choices=PEERS, default=list(PEERS), metavar="NAME")
    options = parser.parse_args()
    names = list(dict.fromkeys([BASELINE, *options.methods]))
    torch.manual_seed(0)
    dtype = native_dtype()
    ids = torch.randint(0, 4000, (1, options.tokens))

    def forward(model: nn.Module) -> Tensor:
        return model(input_ids=ids, labels=ids).loss

    made, refused = contenders(names, small_llama(dtype))
    ratios = times(made, forward, options.rounds)
    sizes = estimates(made)
    print(f"{str(dtype).removeprefix('torch.')}, {options.tokens} tokens, {torch.get_num_threads()} threads")
    heading = f"{'method':<46}{'saved MiB':>10}{'MiB a layer':>13}"
    print(heading + "".join(f"{model:>14}" for model in ESTIMATED) + f"{'time x LoRA':>13}  gradients")
    for name in names:
        if name in refused:
            print(f"{name:<46}{refused[name]}")
            continue
        saved = saved_bytes(name, made[name], forward)
        first, *_ = found = [sizes[name, model] for model in ESTIMATED]
        cells = f"{_show(saved, MIB):>10}{_show(first.layer if first else None, MIB):>13}"
        cells += "".join(f"{_show(size.peak if size else None, GIB):>14}" for size in found)
        print(
            f"{name:<46}{cells}{ratios[name]:>13.2f}  {'exact' if PEERS[name].exact else 'approximate'}",
            flush=True,
        )


def estimates(names: Iterable[str]) -> dict[tuple[str, str], Estimated | None]:
    """Estimates of methods for all models, on all cores: nothing is timed meanwhile."""
    cases = [(name, model) for name in names for model in ESTIMATED]
    # New processes: one that is forked after threads have computed may wait for them for ever.
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        return dict(zip(cases, pool.map(_estimated, *zip(*cases, strict=True)), strict=True))


def _estimated(name: str, model: str) -> Estimated | None:
    """None for what cannot run on fake tensors: a compiled graph, and VeLoRA, which looks at values."""
    try:
        return None if name == COMPILED else estimate(PEERS[name], model)
    except DataDependentOutputException:
        return None


def _show(nbytes: int | None, unit: int) -> str:
    return "–" if nbytes is None else f"{nbytes / unit:.2f}"


if __name__ == "__main__":
    main()
