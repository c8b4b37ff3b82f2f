"""Training on the Hugging Face Trainer: resumable, with divergence and lack of memory as outcomes."""

import math
import statistics
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    ProgressCallback,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    TrainerState,
    set_seed,
)

from lorafa.recompute.block import CHECKPOINT
from pipeline import assets, files, methods
from pipeline.config.schema import RunConfig
from pipeline.results import records
from pipeline.results.records import History, Loss, Score, Seconds, TrainInfo
from pipeline.tasks import TrainingData, kind_of, training_sources
from pipeline.tracking.live import Tracker
from pipeline.training import checkpoints, gpus, peak_memory
from pipeline.training.batches import SimilarLengths
from pipeline.training.distributed import group, sharding
from pipeline.training.interruption import Interrupted, watched
from pipeline.training.trainer import DivergedError, OwnRandomness, Progress, StepTimes, WatchfulTrainer

CHECKPOINTS = "checkpoints"


@dataclass
class TrainingResult:
    """What a training run came to: the `train_info` of its record, its sources, and what may be deleted."""

    info: TrainInfo
    sources: dict[str, assets.Source]
    checkpoints: Path


class _Tracking(TrainerCallback):
    """Logs to W&B; it comes after `StepTimes`, whose seconds it logs."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        steps_per_epoch = state.global_step / state.epoch if state.epoch else None
        self._tracker.log(_history(state), steps_per_epoch, peak_memory.peak())


def fit(run: RunConfig, directory: Path, config_hash: str, tracker: Tracker | None = None) -> TrainingResult:
    """Trains a run, or the rest of it, and saves the best checkpoint's adapter (or weights) in `directory/model`.

    Args:
        run: The checked configuration.
        directory: The run's directory.
        config_hash: Names the checkpoints, so that those of another configuration are never resumed.
        tracker: What the run is logged by while it trains.
    """
    torch.set_num_threads(run.profile.threads)
    gpus.multiply_in(tf32=run.trainer.tf32)
    set_seed(run.seed)
    kind = kind_of(run)
    sources = training_sources(run)
    tokenizer = kind.load_tokenizer(sources["model"])
    if run.method.kind == "untuned":
        return TrainingResult(_untuned_info(run), sources, directory / CHECKPOINTS)
    folder = directory / CHECKPOINTS / config_hash
    with group.in_turn():  # the host's memory holds one copy of the weights at a time
        data = kind.training_data(run, sources, tokenizer)
        base = kind.load_model(run, sources["model"], methods.base_dtype(run))
        pretrained = frozenset(map(id, base.parameters()))
        model = methods.apply(base, run)
        methods.start_from(model, run, _first_batches(run, data))
        if group.size() > 1:
            sharding.shard(model, pretrained)
        checkpoints.remove_others(folder)
        resumed = checkpoints.newest(folder)
    trainable = frozenset(name for name, p in model.named_parameters() if p.requires_grad)
    parameters = list(model.parameters())
    scale = methods.update_scale(model)

    steps = StepTimes()
    state = TrainerState()
    status, problem = records.DONE, None
    peak_memory.reset_peak()
    with watched() as watch:
        try:
            trainer = WatchfulTrainer(  # which puts the model on the device
                model=model,
                args=_arguments(run, folder, data),
                train_dataset=data.train,
                eval_dataset=data.validation,
                data_collator=data.collator,
                processing_class=tokenizer,
                compute_metrics=data.scores,
                sampler=_sampler(run, data),
                callbacks=[
                    OwnRandomness(),
                    steps,
                    *([_Tracking(tracker)] if tracker and tracker.active else []),
                    *([methods.resampling(model, run)] if run.method.resample else []),
                    checkpoints.Sealing(),
                    watch,
                ],
            )
            trainer.remove_callback(ProgressCallback)
            trainer.add_callback(Progress)
            try:
                trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
            finally:
                state = trainer.state
            if watch.stopping and state.global_step < state.max_steps:
                raise Interrupted
        except Interrupted:
            if group.size() > 1:
                raise  # to the process that started this one
            raise Interrupted(
                f"interrupted at step {state.global_step}; the same command goes on from {checkpoints.start(folder)}"
            ) from None
        except DivergedError:
            status, problem = records.DIVERGED, f"loss not finite at step {state.global_step + 1}"
        except Exception as error:
            if not peak_memory.is_out_of_memory(error):
                raise
            status, problem = records.OUT_OF_MEMORY, str(error).splitlines()[0]
        _check_frozen(model, trainable)
        whole = sharding.whole_weights(model) if status == records.DONE else None
        if status == records.DONE and group.is_first():
            model.save_pretrained(str(directory / records.SAVED_MODEL), state_dict=whole)
            predicted = data.validated()
            if predicted is not None and resumed is None:  # or an evaluation before may have been the best
                weights = records.fingerprint_of_weights(directory)
                files.write_table(records.validated(directory, weights), predicted)
    info = _train_info(
        run,
        state,
        parameters,
        steps.seconds,
        **_step_memory(state, parameters, trainer.optimizer if status == records.DONE else None),
        status=status,
        problem=problem,
        resumed_from_step=checkpoints.step_of(resumed) if resumed else None,
        communication=state.log_history[-1]["communication"] if state.log_history else None,
        selection=data.selection,
        update_scale=scale,
    )
    return TrainingResult(info, sources, directory / CHECKPOINTS)


def _first_batches(run: RunConfig, data: TrainingData) -> DataLoader[dict[str, Any]]:
    def collated(rows: list[dict[str, Any]]) -> dict[str, Any]:
        return dict(data.collator(rows))

    return DataLoader(data.train, run.budget.batch_size, collate_fn=collated)


def _sampler(run: RunConfig, data: TrainingData) -> SimilarLengths | None:
    if run.trainer.similar_lengths is None:
        return None
    lengths = [len(tokens) for tokens in data.train["input_ids"]]
    return SimilarLengths(lengths, run.budget.batch_size, run.trainer.similar_lengths, run.seed)


def _arguments(run: RunConfig, checkpoints: Path, data: TrainingData) -> Seq2SeqTrainingArguments:
    budget, settings = run.budget, run.trainer
    total, every = budget.steps(len(data.train))
    keep_checkpoints = every < total  # the last would come when nothing is left to resume or to choose from
    # A checkpoint comes with an entry of the log, or the losses since the last entry would be lost in a resumed run.
    logged = max(step for step in range(1, max(1, total // 100) + 1) if every % step == 0)
    autocast = methods.autocast_dtype(run)
    together = budget.micro_batch or budget.batch_size
    return Seq2SeqTrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=together // group.size(),
        gradient_accumulation_steps=budget.batch_size // together,
        gradient_checkpointing=settings.checkpointing,
        gradient_checkpointing_kwargs=CHECKPOINT if settings.checkpointing else None,
        # Of any number of processes the same, for the same mean losses.
        per_device_eval_batch_size=4 * budget.batch_size,
        average_tokens_across_devices=False,  # models that take a count and ignore it would be out by its factor
        max_steps=total,
        learning_rate=run.lr or 0.0,
        lr_scheduler_type=settings.schedule,
        warmup_steps=math.ceil(settings.warmup_ratio * total),
        optim=settings.optimizer,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps" if keep_checkpoints else "no",
        save_steps=every,
        save_total_limit=None,  # pipeline.training.checkpoints deletes them
        load_best_model_at_end=keep_checkpoints,
        metric_for_best_model="score" if data.scores else "loss",
        greater_is_better=run.greater_is_better,
        prediction_loss_only=data.scores is None,
        bf16=autocast == torch.bfloat16,
        fp16=autocast == torch.float16,
        logging_steps=logged,
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        label_names=["labels"],
        seed=run.seed,
        report_to=[],
        disable_tqdm=False,
        use_cpu=run.profile.gpus == 0,
        dataloader_pin_memory=run.profile.gpus > 0,
        **data.arguments,
    )


def _train_info(
    run: RunConfig,
    state: TrainerState,
    parameters: list[nn.Parameter],
    step_seconds: list[float],
    **others: Any,
) -> TrainInfo:
    history = _history(state)
    evaluations = history.evaluations
    choose = max if run.greater_is_better else min
    tokens = state.num_input_tokens_seen
    step_time = statistics.median(step_seconds) if step_seconds else None
    return TrainInfo(
        metric=run.task.metric,
        **vars(history),
        best=choose(evaluations, key=attrgetter("score"), default=None),
        last=evaluations[-1] if evaluations else None,
        steps=state.global_step,
        trainable_parameters=sum(p.numel() for p in parameters if p.requires_grad),
        total_parameters=sum(p.numel() for p in parameters),
        tokens=tokens,
        step_time_seconds=step_time,
        tokens_per_second=tokens / state.global_step / step_time if step_time else None,
        peak_memory_bytes=peak_memory.peak(),
        **others,
    )


def _history(state: TrainerState) -> History:
    """Returns a run's evaluations, losses and seconds spent on steps, so far."""
    history = state.log_history
    seconds = {entry["step"]: entry["seconds"] for entry in history}
    return History(
        evaluations=[_evaluation(entry) for entry in history if "eval_loss" in entry],
        losses=[Loss(int(entry["step"]), entry["loss"]) for entry in history if "loss" in entry],
        training_seconds=[Seconds(int(step), value) for step, value in seconds.items()],
    )


def _step_memory(
    state: TrainerState, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer | None
) -> dict[str, int | None]:
    """Returns the bytes that a step keeps: the first step's activations, and with weights, gradients and optimizer.

    It is what the method decides, and the same on every device; `peak_memory_bytes` has temporaries and the process
    besides. None where the run did not get to its end.
    """
    saved: Any = next((entry["saved_for_backward_bytes"] for entry in state.log_history), None)
    kept = None
    if optimizer is not None and saved is not None:
        kept_here = [sharding.local(parameter) for parameter in parameters]
        states = [sharding.local(value) for entry in optimizer.state.values() for value in entry.values()]
        kept = saved + sum(
            tensor.numel() * tensor.element_size()
            for tensor in (*kept_here, *(p for p in kept_here if p.requires_grad), *states)
            if isinstance(tensor, torch.Tensor)
        )
    return {"saved_for_backward_bytes": saved, "step_memory_bytes": kept}


def _untuned_info(run: RunConfig) -> TrainInfo:
    """Returns the record of a run in which nothing is trained: its model is scored as it is."""
    return TrainInfo(
        status=records.DONE, metric=run.task.metric, best=None, last=None, steps=0, trainable_parameters=0
    )


def _evaluation(entry: dict[str, Any]) -> Score:
    timings = ("runtime", "samples_per_second", "steps_per_second")
    scores = {key.removeprefix("eval_"): value for key, value in entry.items() if key.startswith("eval_")}
    score = scores.pop("score", scores["loss"])
    others = {key: value for key, value in scores.items() if key not in timings}
    return Score(entry["step"], entry["epoch"], score, others)


def _check_frozen(model: nn.Module, trainable: frozenset[str]) -> None:
    """Asserts that the same parameters train at the end as at the start (A stays frozen)."""
    now = frozenset(name for name, p in model.named_parameters() if p.requires_grad)
    if now != trainable:
        raise RuntimeError(f"the set of trained parameters changed during the run: {sorted(now ^ trainable)}")
