"""What the benchmarks share: the methods, the measurements, and the table."""

import argparse
import copy
import ctypes
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import peft
import torch
from peft.optimizers import create_lorafa_optimizer
from torch import Tensor, nn

from lorafa import LoraFaConfig, apply_recompute, get_lora_fa_model
from lorafa.memory.meter import SavedTensorMeter

MIB = 2**20
BASELINE = "peft-lora"
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Adapter:
    """The adapter of every method: PEFT's options, with names of linear layers as targets."""

    rank: int
    dropout: float
    targets: list[str]

    def options(self) -> dict[str, object]:
        return {
            "r": self.rank,
            "lora_alpha": 2 * self.rank,
            "lora_dropout": self.dropout,
            "target_modules": list(self.targets),
        }


@dataclass
class Contender:
    """A model under one method, with its optimizer."""

    model: nn.Module
    optimizer: torch.optim.Optimizer


def _adamw(model: nn.Module) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=1e-4, fused=True)


def _full(model: nn.Module, adapter: Adapter) -> Contender:
    return Contender(model, _adamw(model))


def _peft_lora(model: nn.Module, adapter: Adapter) -> Contender:
    model = peft.get_peft_model(model, peft.LoraConfig(**adapter.options()))  # type: ignore[arg-type]
    return Contender(model, _adamw(model))


def _peft_lora_half(model: nn.Module, adapter: Adapter) -> Contender:
    config = peft.LoraConfig(**adapter.options())  # type: ignore[arg-type]
    model = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    return Contender(model, _adamw(model))


def _peft_frozen(model: nn.Module, adapter: Adapter) -> Contender:
    model = peft.get_peft_model(model, peft.LoraConfig(**adapter.options()))  # type: ignore[arg-type]
    rank = adapter.rank
    return Contender(model, create_lorafa_optimizer(model, r=rank, lora_alpha=2 * rank, lr=1e-4))


def _peft_frozen_half(model: nn.Module, adapter: Adapter) -> Contender:
    contender = _peft_lora_half(model, adapter)  # PEFT's LoRA-FA optimizer has no bf16 pseudo-inverse
    for name, parameter in contender.model.named_parameters():
        if ".lora_A." in name:
            parameter.requires_grad_(False)
    return Contender(contender.model, _adamw(contender.model))


def _lora_fa(model: nn.Module, adapter: Adapter) -> Contender:
    model = get_lora_fa_model(model, LoraFaConfig(**adapter.options()))  # type: ignore[arg-type]
    return Contender(model, _adamw(model))


def _lora_fa_recompute(model: nn.Module, adapter: Adapter) -> Contender:
    contender = _lora_fa(model, adapter)
    apply_recompute(contender.model)
    return contender


METHODS: dict[str, Callable[[nn.Module, Adapter], Contender]] = {
    "full-ft": _full,
    BASELINE: _peft_lora,
    "peft-lora-half": _peft_lora_half,
    "peft-frozen-a": _peft_frozen,
    "peft-frozen-a-half": _peft_frozen_half,
    "lora-fa": _lora_fa,
    "lora-fa-recompute": _lora_fa_recompute,
}


@dataclass
class Result:
    """What one method cost.

    Attributes:
        method: Key of `METHODS`.
        saved: Bytes saved for backward, dropout masks counted as CUDA keeps them, one byte an element.
        saved_cpu: The same as the CPU keeps them.
        seconds: Median time of a step: forward, backward, optimizer.
        time_ratio: Median over the rounds of this method's time over the baseline's in the same round.
        saved_ratio: `saved` over the baseline's.
        peak_rss: Growth of the resident set at the peak of a step, in bytes; None where it is not known.
    """

    method: str
    saved: int
    saved_cpu: int
    seconds: float | None
    time_ratio: float | None
    saved_ratio: float | None
    peak_rss: int | None


def measure(
    model: nn.Module,
    forward: Callable[[nn.Module], Tensor],
    adapter: Adapter,
    methods: Iterable[str],
    rounds: int,
) -> list[Result]:
    """Measure the methods on copies of one model, taking turns in one process.

    Args:
        model: The model that every method starts from.
        forward: Runs a model on the benchmark's data, to the tensor from which backward starts.
        adapter: The adapter of every method.
        methods: Keys of `METHODS`.
        rounds: Timed steps of each method, after one that is not.
    """
    _map_tensors_from(MIB)
    contenders = {}
    for method in methods:
        torch.manual_seed(0)
        contenders[method] = METHODS[method](copy.deepcopy(model), adapter)
        contenders[method].model.train()
    saved = {method: [_saved(c, forward, cuda) for cuda in (True, False)] for method, c in contenders.items()}
    peaks = {method: _peak_rss(contender, forward) for method, contender in contenders.items()}
    _map_tensors_from(32 * MIB)  # where malloc's own adaptation ends: for speed
    times: dict[str, list[float]] = {method: [] for method in contenders}
    for timed in [False] + [True] * rounds if rounds else []:
        for method, contender in contenders.items():
            seconds = _step(contender, forward)
            if timed:
                times[method].append(seconds)

    results = []
    for method in contenders:
        base = times.get(BASELINE)
        pairs = zip(times[method], base, strict=True) if base else ()
        ratios = [seconds / baseline for seconds, baseline in pairs]
        results.append(
            Result(
                method,
                saved=saved[method][0],
                saved_cpu=saved[method][1],
                seconds=statistics.median(times[method]) if rounds else None,
                time_ratio=statistics.median(ratios) if ratios else None,
                saved_ratio=saved[method][0] / saved[BASELINE][0] if BASELINE in saved else None,
                peak_rss=peaks[method],
            )
        )
    return results


def _saved(contender: Contender, forward: Callable[[nn.Module], Tensor], as_cuda: bool) -> int:
    with SavedTensorMeter(contender.model, bool_dropout_mask=as_cuda) as meter:
        meter.explore(forward(contender.model))
    return meter.total


def _step(contender: Contender, forward: Callable[[nn.Module], Tensor]) -> float:
    start = time.perf_counter()
    y = forward(contender.model)
    y.backward(torch.ones_like(y))
    contender.optimizer.step()
    contender.optimizer.zero_grad()
    return time.perf_counter() - start


def _peak_rss(contender: Contender, forward: Callable[[nn.Module], Tensor]) -> int | None:
    """Growth of the resident set at the peak of a step, from the kernel's high-water mark."""
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    _step(contender, forward)  # creates the optimizer's state
    gc.collect()
    try:
        reset.write_text("5")
        before = _kib(status, "VmRSS")
        _step(contender, forward)
        return (_kib(status, "VmHWM") - before) * 1024
    except OSError:
        return None


def _map_tensors_from(nbytes: int) -> None:
    """Have malloc map blocks of this size and give them back at once, so that the resident set is what lives."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL("libc.so.6").mallopt(-3, nbytes)  # M_MMAP_THRESHOLD


def _kib(status: Path, field: str) -> int:
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines[field].split()[0])


def parser(description: str) -> argparse.ArgumentParser:
    """The options of every benchmark."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--dtype", choices=DTYPES, default="bf16", help="dtype of the base model")
    options.add_argument("--dropout", type=float, default=0.05, help="adapter dropout")
    options.add_argument("--rank", type=int, default=64)
    options.add_argument("--batch", type=int)
    options.add_argument("--sequence", type=int, default=512, help="tokens a sample")
    options.add_argument("--rounds", type=int, default=5, help="timed steps of each method, 0 for none")
    options.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options.add_argument("--json", type=Path, metavar="PATH", help="also write the results there")
    return options


def report(arguments: argparse.Namespace, results: list[Result], floor: int | None = None) -> None:
    """Print the results as a table, and write them as JSON if asked to.

    Args:
        arguments: What the benchmark was run with.
        results: One per method.
        floor: Bytes of all XA, the least that LoRA-FA can save, if the benchmark measures nothing else.
    """
    settings = {key: str(value) for key, value in vars(arguments).items() if key not in ("json", "methods")}
    settings |= {
        "torch": torch.__version__,
        "peft": peft.__version__,
        "threads": str(torch.get_num_threads()),
    }
    print(", ".join(f"{key}={value}" for key, value in settings.items()))
    header = f"{'method':<20}{'saved MiB':>11}{'x ' + BASELINE:>12}{'CPU MiB':>10}"
    header += f"{'step ms':>10}{'x ' + BASELINE:>12}{'peak RSS MiB':>14}" + (
        f"{'x floor':>10}" if floor else ""
    )
    print(header)
    for r in results:
        line = f"{r.method:<20}{r.saved / MIB:>11.2f}{_format(r.saved_ratio, '.3f'):>12}{r.saved_cpu / MIB:>10.2f}"
        line += f"{_format(r.seconds and r.seconds * 1000, '.1f'):>10}{_format(r.time_ratio, '.3f'):>12}"
        line += f"{_format(r.peak_rss and r.peak_rss / MIB, '.0f'):>14}"
        print(line + (f"{r.saved / floor:>10.2f}" if floor else ""))
    if arguments.json:
        content = {"settings": settings, "floor": floor, "results": [asdict(r) for r in results]}
        arguments.json.write_text(json.dumps(content, indent=2))


def _format(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)
