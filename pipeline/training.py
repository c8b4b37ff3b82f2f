"""Training on the Hugging Face Trainer: resumable, with divergence and lack of memory as outcomes."""

import math
import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    DataCollatorWithPadding,
    EvalPrediction,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from pipeline import assets, memory_use, methods, records
from pipeline.config import RunConfig
from pipeline.data import glue
from pipeline.metrics.glue import score
from pipeline.models import encoder

CHECKPOINTS = "checkpoints"
SAVED_MODEL = "model"


@dataclass
class Outcome:
    """What a training run came to: the `train_info` of its record, its sources, and what may be deleted."""

    info: dict[str, Any]
    sources: dict[str, assets.Source]
    checkpoints: Path


class DivergedError(Exception):
    """The loss is no longer a finite number."""


class _WatchfulTrainer(Trainer):
    """Stops at a loss that is not finite, which the Trainer would carry on with."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            raise DivergedError
        return loss


class _Progress(ProgressCallback):
    """A progress bar with the loss in it, on standard error; standard output is for results."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{logs['loss']:.3f}")


class _StepTimes(TrainerCallback):
    """Wall time of each optimizer step, without evaluation and checkpoints."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._start = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self._start)


def fit(run: RunConfig, directory: Path, config_hash: str) -> Outcome:
    """Trains a run, or the rest of it, and saves the best epoch's adapter (or weights) in `directory/model`.

    Args:
        run: The checked configuration.
        directory: The run's directory.
        config_hash: Names the checkpoints, so that those of another configuration are never resumed.
    """
    torch.set_num_threads(run.profile.threads)
    set_seed(run.seed)
    mirror = run.profile.mirror
    sources = {
        "model": assets.locate("models", run.model.repository, run.model.revision, mirror),
        "data": assets.locate("datasets", run.task.repository, run.task.revision, mirror),
    }
    tokenizer = encoder.load_tokenizer(sources["model"])
    cache = Path(run.profile.cache)
    data = glue.load(sources["data"], run.task, tokenizer, run.budget.max_length, cache)
    base = encoder.load(sources["model"], run.task.num_labels, methods.frozen_dtype(run))
    model = methods.apply(base, run)
    trainable = frozenset(name for name, p in model.named_parameters() if p.requires_grad)

    checkpoints = directory / CHECKPOINTS / config_hash
    _remove_others(checkpoints)
    resumed = last_complete_checkpoint(checkpoints)
    steps = _StepTimes()
    state = TrainerState()
    status, problem = records.DONE, None
    memory_use.reset_peak()
    try:
        trainer = _WatchfulTrainer(  # which puts the model on the device
            model=model,
            args=_arguments(run, checkpoints, len(data.train)),
            train_dataset=data.train,
            eval_dataset=data.validation,
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=lambda prediction: _scores(run, data.validation_sizes, prediction),
            callbacks=[steps],
        )
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(_Progress)
        try:
            trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        finally:
            state = trainer.state
    except DivergedError:
        status, problem = records.DIVERGED, f"loss not finite at step {state.global_step + 1}"
    except Exception as error:
        if not memory_use.is_out_of_memory(error):
            raise
        status, problem = records.OUT_OF_MEMORY, str(error).splitlines()[0]
    _check_frozen(model, trainable)
    if status == records.DONE and (run.method.kind != "full-ft" or run.profile.keep_weights):
        model.save_pretrained(str(directory / SAVED_MODEL))
    info = _train_info(run, state, model, steps.seconds) | {
        "status": status,
        "problem": problem,
        "resumed_from_step": int(resumed.name.rsplit("-", 1)[1]) if resumed else None,
    }
    return Outcome(info, sources, directory / CHECKPOINTS)


def last_complete_checkpoint(folder: Path) -> Path | None:
    """Returns the newest checkpoint that was written to its end; the Trainer writes its state file last."""
    found = sorted(
        folder.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]), reverse=True
    )
    for checkpoint in found:
        state = checkpoint / "trainer_state.json"
        if state.is_file() and state.read_text().rstrip().endswith("}"):
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


def _arguments(run: RunConfig, checkpoints: Path, examples: int) -> TrainingArguments:
    budget, settings = run.budget, run.trainer
    steps_per_epoch = math.ceil(examples / budget.batch_size)
    total = budget.max_steps or steps_per_epoch * (budget.epochs or 0)
    every = math.ceil(total / budget.evaluations) if budget.evaluations else steps_per_epoch
    return TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=budget.batch_size,
        per_device_eval_batch_size=4 * budget.batch_size,
        max_steps=total,
        learning_rate=run.lr,
        lr_scheduler_type=settings.schedule,
        warmup_steps=math.ceil(settings.warmup_ratio * total),
        optim=settings.optimizer,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="score",
        greater_is_better=True,
        logging_steps=max(1, total // 100),
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        label_names=["labels"],
        seed=run.seed,
        report_to=[],
        disable_tqdm=False,
        use_cpu=run.profile.gpus == 0,
        dataloader_pin_memory=run.profile.gpus > 0,
    )


def _scores(run: RunConfig, sizes: dict[str, int], prediction: EvalPrediction) -> dict[str, float]:
    """Scores each validation split by itself; `score` is their mean (MNLI: matched and mismatched)."""
    outputs = np.asarray(prediction.predictions)
    outputs = outputs.squeeze(-1) if run.task.num_labels == 1 else outputs.argmax(-1)
    ends = np.cumsum(list(sizes.values()))[:-1]
    parts = zip(sizes, np.split(outputs, ends), np.split(np.asarray(prediction.label_ids), ends), strict=True)
    by_split = {split: score(run.task.metric, outputs, labels) for split, outputs, labels in parts}
    return {"score": statistics.fmean(by_split.values()), **by_split}


def _train_info(
    run: RunConfig, state: TrainerState, model: nn.Module, step_seconds: list[float]
) -> dict[str, Any]:
    history = state.log_history
    evaluations = [_evaluation(entry) for entry in history if "eval_score" in entry]
    parameters = list(model.parameters())
    tokens = state.num_input_tokens_seen
    step_time = statistics.median(step_seconds) if step_seconds else None
    return {
        "metric": run.task.metric,
        "evaluations": evaluations,
        "best": max(evaluations, key=lambda entry: entry["score"], default=None),
        "last": evaluations[-1] if evaluations else None,
        "losses": [{"step": entry["step"], "loss": entry["loss"]} for entry in history if "loss" in entry],
        "steps": state.global_step,
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "total_parameters": sum(p.numel() for p in parameters),
        "tokens": tokens,
        "step_time_seconds": step_time,
        "tokens_per_second": tokens / state.global_step / step_time if step_time else None,
        "peak_memory_bytes": memory_use.peak(),
    }


def _evaluation(entry: dict[str, Any]) -> dict[str, Any]:
    timings = ("runtime", "samples_per_second", "steps_per_second")
    scores = {key.removeprefix("eval_"): value for key, value in entry.items() if key.startswith("eval_")}
    return {
        "step": entry["step"],
        "epoch": entry["epoch"],
        **{key: value for key, value in scores.items() if key not in timings},
    }


def _check_frozen(model: nn.Module, trainable: frozenset[str]) -> None:
    """Asserts that the same parameters train at the end as at the start (A stays frozen)."""
    now = frozenset(name for name, p in model.named_parameters() if p.requires_grad)
    if now != trainable:
        raise RuntimeError(f"the set of trained parameters changed during the run: {sorted(now ^ trainable)}")


def _remove_others(checkpoints: Path) -> None:
    if checkpoints.parent.is_dir():
        for other in checkpoints.parent.iterdir():
            if other != checkpoints:
                shutil.rmtree(other)
