"""What the processes of tests do; a module, so that they can import it."""

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from peft import prepare_model_for_kbit_training
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM

from lorafa import LoraFaConfig, get_lora_fa_model
from lorafa.memory.meter import SavedTensorMeter
from pipeline import methods, train
from pipeline.assets import Source
from pipeline.config.schema import RunConfig
from pipeline.files import fingerprint
from pipeline.models import decoder
from pipeline.tasks import kind_of, training_sources
from pipeline.training import fit
from pipeline.training.distributed import group, sharding
from pipeline.training.distributed.communication import CommunicationMeter

compute = train._compute


def train_all(cases: list[tuple[RunConfig, Path]]) -> list[dict[str, Any]]:
    return [compute(run, folder, fingerprint(run.identity()), "test") for run, folder in cases]


def everything(cases: list[tuple[RunConfig, Path]], folder: Path) -> list[dict[str, Any]]:
    """All that needs two processes, in one go: to start them takes longer than what they do."""
    group.join(cpu=True)
    describe_shards(cases[0][0], folder)
    compare_llama(folder)
    return train_all(cases)


def describe_shards(run: RunConfig, folder: Path) -> None:
    """Writes what each process has of each parameter, and what a forward saves before and after sharding."""
    source = training_sources(run)["model"]
    base = kind_of(run).load_model(run, source, torch.float32)
    pretrained = frozenset(map(id, base.parameters()))
    model = methods.apply(base, run)
    before = {name: parameter.numel() for name, parameter in model.named_parameters()}
    saved = [saved_bytes(model)]
    sharding.shard(model, pretrained)
    saved.append(saved_bytes(model))
    sharding.reshard(model)
    _write(folder / "saved", saved)
    found = {
        name: (isinstance(parameter, DTensor), sharding.local(parameter).numel(), before[name])
        for name, parameter in model.named_parameters()
    }
    _write(folder / "shards", found)


def saved_bytes(model: torch.nn.Module) -> int:
    with SavedTensorMeter(model) as meter:
        output = model(input_ids=torch.full((6, 8), 7), labels=torch.zeros(6, dtype=torch.int64))
    del output
    return meter.total


def llama() -> torch.nn.Module:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


def nf4(folder: Path) -> torch.nn.Module:
    return decoder.load(Source(str(folder / "llama"), None, "llama"), torch.float32, "nf4")


def adapted(base: torch.nn.Module, recompute: bool) -> tuple[torch.nn.Module, frozenset[int]]:
    base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    pretrained = frozenset(map(id, base.parameters()))
    config = LoraFaConfig(r=4, target_modules="all-linear", recompute=recompute)
    torch.manual_seed(1)
    return get_lora_fa_model(base, config), pretrained


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def compare_llama(folder: Path) -> None:
    """Writes how far the gradients of two halves of a batch are from those of the whole, and who has what of W.

    Args:
        folder: Has the model of `llama`, saved as `llama`.
    """
    tokens = torch.randint(64, (4, 16), generator=torch.Generator().manual_seed(1))
    distances = {}
    for name, make, recompute in (
        ("plain", llama, False),
        ("recompute", llama, True),
        ("nf4, recompute", lambda: nf4(folder), True),
    ):
        whole, _ = adapted(make(), recompute=False)
        whole(input_ids=tokens, labels=tokens).loss.backward()
        model, pretrained = adapted(make(), recompute)
        sharding.shard(model, pretrained)
        replica = sharding.replicate(model)
        for _ in range(2):  # the second step goes on from what the first one has left gathered
            model.zero_grad()
            half = tokens.chunk(2)[distributed.get_rank()]
            with CommunicationMeter():
                replica(input_ids=half, labels=half).loss.backward()
        wanted, found = gradients(whole), gradients(model)
        assert wanted.keys() == found.keys() and len(wanted) == 3 * 7
        distances[name] = {
            "gradient": max(float((wanted[key] - found[key]).abs().max()) for key in wanted),
            "largest": max(float(gradient.abs().max()) for gradient in wanted.values()),
            "kept": sum(
                sharding.local(p).nbytes for key, p in model.named_parameters() if "base_layer" in key
            ),
            "whole": sum(p.nbytes for key, p in whole.named_parameters() if "base_layer" in key),
        }
    _write(folder / "distances", distances)


def out_of_memory(run: RunConfig, directory: Path, config_hash: str, command: str) -> dict[str, Any]:
    """Trains, until memory runs out in the second process; the first one waits for it in a collective."""
    original = fit.WatchfulTrainer.training_step

    def step(self: Any, *args: Any) -> Tensor:
        if self.state.global_step == 4 and not group.is_first():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, *args)

    fit.WatchfulTrainer.training_step = step  # type: ignore[method-assign]
    return compute(run, directory, config_hash, command)


def fail() -> None:
    """Fails in the second process; the first one would go on for long."""
    if os.environ["RANK"] == "1":
        raise ValueError("no such shape")
    time.sleep(600)


def _write(stem: Path, content: Any) -> None:
    stem.with_suffix(f".{distributed.get_rank()}.json").write_text(json.dumps(content))
