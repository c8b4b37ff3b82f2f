"""Will it fit? `python -m lorafa.memory --model llama-7b --batch 4 --length 1024 --device-memory 24GiB`.

What takes seconds to import is imported when the command line has been read and found possible.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from rich.console import Console
from rich.table import Table

from lorafa.memory.geometry import BUILT_IN
from lorafa.memory.margin import CONTEXT, MARGIN, WITHIN
from lorafa.memory.recipe import (
    Attention,
    DType,
    Loss,
    Method,
    Offload,
    Optimizer,
    Quantization,
    Recipe,
    RecipeError,
    Sharding,
    Until,
)
from lorafa.memory.sizes import GIB, bytes_of
from lorafa.options import FreeRecompute, Recompute

if TYPE_CHECKING:
    from lorafa.memory.estimate import Estimate
    from lorafa.memory.fit import Change, Fit


def device_bytes(text: str) -> int:
    """Bytes of a size such as 24GiB, 80GB or 512MiB."""
    try:
        return bytes_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def new_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m lorafa.memory",
        description="Predict the peak memory of a fine-tuning step, without weights and without a GPU.",
        epilog="example: python -m lorafa.memory --model llama-7b --method lora-fa --rank 64 --batch 4 --length 1024 "
        "--device-memory 24GiB",
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model", default="", help=f"{', '.join(BUILT_IN)}, a config.json, or a hub id; several for --html"
    )
    model.add_argument("--dtype", default="bf16", choices=get_args(DType), help="of the weights")
    model.add_argument("--autocast", default="none", choices=["none", "bf16", "fp16"], help="mixed precision")
    model.add_argument("--attention", default="sdpa", choices=get_args(Attention))
    model.add_argument(
        "--repeat-heads",
        action="store_true",
        help="keys and values, for grouped queries, whatever the kernel takes",
    )
    model.add_argument(
        "--quantization", default="none", choices=get_args(Quantization), help="of the base weights"
    )
    model.add_argument(
        "--prepared",
        action="store_true",
        help="with --quantization: all else in float32, as prepare_model_for_kbit_training has it",
    )
    model.add_argument("--shards", type=int, default=1, help="ranks that share what --sharding says")
    model.add_argument(
        "--sharding", default="frozen", choices=get_args(Sharding), help="zero-3 is FSDP2's, too"
    )
    model.add_argument("--offload", default="none", choices=get_args(Offload), help="to the host")
    method = parser.add_argument_group("method")
    method.add_argument("--method", default="lora-fa", choices=get_args(Method))
    method.add_argument("--rank", type=int, default=8)
    method.add_argument("--target-modules", default="", help="comma-separated; default: all linear layers")
    method.add_argument(
        "--layer-fraction", type=float, default=1.0, help="of the blocks, from the last, with adapters"
    )
    method.add_argument("--adapter-dtype", default="same", choices=["same", *get_args(DType)])
    method.add_argument("--adapter-dropout", type=float, default=0.0)
    method.add_argument(
        "--recompute",
        default="",
        help=f"comma-separated, of {', '.join(get_args(Recompute))}; all: the first four",
    )
    method.add_argument("--checkpointing", action="store_true", help="recompute whole blocks")
    step = parser.add_argument_group("step")
    step.add_argument("--batch", type=int, default=1, help="sequences on this device")
    step.add_argument("--length", type=int, default=512, help="tokens of a sequence, padding included")
    step.add_argument(
        "--target-length", type=int, default=0, help="of an encoder-decoder; default: as --length"
    )
    step.add_argument("--optimizer", default="adamw", choices=get_args(Optimizer))
    step.add_argument("--accumulation", type=int, default=1, help="batches to a step of the optimizer")
    step.add_argument(
        "--packed", action="store_true", help="sequences in one row without padding, with flash"
    )
    step.add_argument(
        "--loss",
        default="shifted-labels",
        choices=get_args(Loss),
        help="of a causal language model: today's, transformers 4.46 to 4.48's, or that before 4.46",
    )
    step.add_argument(
        "--outputs-until",
        default="loss",
        choices=get_args(Until),
        help="how long the loop holds the model's outputs; the Trainer until it has the loss",
    )
    parser.add_argument(
        "--device-memory", type=device_bytes, help="such as 24GiB: what fits, for each method"
    )
    parser.add_argument(
        "--rungs",
        action="store_true",
        help="with --device-memory: every rung of recomputation, and LoRA with checkpointed blocks",
    )
    parser.add_argument(
        "--html", type=Path, help="write a page that plans without a network: takes minutes; --model a,b,..."
    )
    parser.add_argument(
        "--budget", type=device_bytes, help="such as 24GiB: recompute the least with which lora-fa fits"
    )
    parser.add_argument(
        "--accumulate", action="store_true", help="with --budget: in micro-batches, if need be"
    )
    parser.add_argument(
        "--to-host",
        action="store_true",
        help="with --budget: blocks' inputs in the host's memory, if need be",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, sizes in bytes")
    return parser


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The recipe that the command line describes.

    Raises:
        RecipeError: It is not a possible one.
    """
    kinds = get_args(FreeRecompute) if options.recompute == "all" else _names(options.recompute)
    return Recipe(
        model=options.model,
        method=options.method,
        rank=options.rank,
        target_modules=_names(options.target_modules),
        layer_fraction=options.layer_fraction,
        batch_size=options.batch,
        source_length=options.length,
        target_length=options.target_length,
        dtype=options.dtype,
        autocast=options.autocast,
        adapter_dtype=options.adapter_dtype,
        attention=options.attention,
        repeat_heads=options.repeat_heads,
        adapter_dropout=options.adapter_dropout,
        recompute=kinds,  # type: ignore[arg-type]  # checked by Recipe
        checkpointing=options.checkpointing,
        quantization=options.quantization,
        prepared=options.prepared,
        shards=options.shards,
        sharding=options.sharding,
        offload=options.offload,
        optimizer=options.optimizer,
        accumulation=options.accumulation,
        packed=options.packed,
        loss=options.loss,
        outputs_until=options.outputs_until,
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def breakdown_table(result: Estimate) -> Table:
    """Where the memory goes at the peak."""
    r = result.recipe
    view = Table(
        title=f"{r.model}, {r.method}, batch {r.batch_size} × {r.source_length}: peak in {result.phase}"
    )
    view.add_column("at the peak")
    view.add_column("GiB", justify="right")
    view.add_column("%", justify="right")
    for name, nbytes in result.breakdown.items():
        view.add_row(name, f"{nbytes / GIB:.2f}", f"{100 * nbytes / result.reserved:.1f}")
    view.add_section()
    view.add_row("allocated", f"{result.peak / GIB:.2f}", "")
    view.add_row("reserved", f"{result.reserved / GIB:.2f}", "100.0")
    return view


def fit_table(fits: dict[str, tuple[Fit, Change | None]], device_memory: int) -> Table:
    """Whether each method fits, how far it goes, and what would make it fit."""
    view = Table(
        title=f"on {device_memory / GIB:.1f} GiB: reserved memory and {CONTEXT / GIB:.1f} GiB of CUDA context; safe: "
        f"{100 * MARGIN:g} % more reserved, {WITHIN}"
    )
    for heading in (
        "method",
        "needs GiB",
        "safe GiB",
        "fits",
        "largest batch",
        "largest length",
        "cheapest change that fits",
    ):
        view.add_column(heading)
    for name, (found, change) in fits.items():
        advice = "" if found.fits else "nothing helps" if change is None else change.text
        advice += f" ({change.needed / GIB:.1f} GiB, safe {change.safe / GIB:.1f})" if change else ""
        view.add_row(
            name,
            f"{found.needed / GIB:.2f}",
            f"{found.safe / GIB:.2f}",
            "yes" if found.fits else "perhaps" if found.needed <= device_memory else "no",
            str(found.largest_batch),
            str(found.largest_length),
            advice,
        )
    return view


def notes(result: Estimate) -> list[str]:
    """What was estimated otherwise than it was asked for, a sentence each."""
    from lorafa.memory.adapt import experts_left_alone

    found = []
    if result.attention != result.recipe.attention:
        found.append(f"attention {result.attention}: the model has no {result.recipe.attention}")
    if result.head == "image-text-to-text":
        found.append("text alone: the vision tower's weights count, what it computes of pictures does not")
    if experts_left_alone(result.recipe):
        found.append("experts: those that a layer keeps in one parameter are left alone, without adapters")
    if result.head == "none":
        found.append("no head: the model's hidden states are summed up in place of a loss")
    return found


def as_json(result: Estimate, fits: dict[str, tuple[Fit, Change | None]], device_memory: int | None) -> str:
    """The estimate, and what fits, as JSON."""
    values = result.as_dict() | {"notes": notes(result)}
    if fits:
        values |= {"device_memory": device_memory, "margin": MARGIN}
        values["methods"] = {
            name: {
                "needed": found.needed,
                "safe": found.safe,
                "fits": found.fits,
                "largest_batch": found.largest_batch,
                "largest_length": found.largest_length,
                "change": asdict(change) if change else None,
            }
            for name, (found, change) in fits.items()
        }
    return json.dumps(values, indent=2)


def compare(recipe: Recipe, device_memory: int, rungs: bool = False) -> dict[str, tuple[Fit, Change | None]]:
    """How each method fits on a device; one that cannot be run on the model is left out, with a line on stderr."""
    from lorafa.memory.fit import cheapest_change, fit
    from lorafa.memory.methods import side_by_side

    fits = {}
    for name, other in side_by_side(recipe, rungs).items():
        try:
            found = fit(other, device_memory)
        except RecipeError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        fits[name] = found, None if found.fits else cheapest_change(other, device_memory)
    return fits


def _quieten() -> None:
    """Keep what libraries say about a model without weights off the terminal: a refusal is one line of ours."""
    import transformers

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = new_parser()
    options = parser.parse_args(arguments)
    if not (options.model or options.html):
        parser.error("the following arguments are required: --model")
    try:
        recipe = recipe_of(options)
    except RecipeError as error:
        parser.error(str(error))
    from lorafa.memory.estimate import estimate
    from lorafa.memory.models import ModelNotFoundError

    _quieten()
    try:
        if options.html:
            from lorafa.memory import page

            page.write(options.html, _names(options.model) or page.MODELS, recipe)
            return 0
        if options.budget:
            from lorafa.memory.budget import plan

            chosen = plan(recipe, options.budget, options.accumulate, options.to_host)
            recipe = chosen.recipe
            print(chosen, file=sys.stderr)
        result = estimate(recipe)
    except (RecipeError, ModelNotFoundError, OSError) as error:
        parser.error(str(error))
    gc.freeze()  # what the imports made lives as long as the process
    fits = compare(recipe, options.device_memory, options.rungs) if options.device_memory else {}
    if options.json:
        print(as_json(result, fits, options.device_memory))
        return 0
    console = Console()
    console.print(breakdown_table(result))
    for note in notes(result):
        console.print(note)
    if fits:
        console.print(fit_table(fits, options.device_memory))
    return 0


if __name__ == "__main__":
    sys.exit(main())
