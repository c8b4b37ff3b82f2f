"""The Hugging Face Trainer as a run uses it: watchful, metered, for one process or several; and its callbacks."""

import time
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import Sampler
from transformers import ProgressCallback, Seq2SeqTrainer, TrainerCallback

from lorafa.memory.meter import SavedTensorMeter
from pipeline.training.distributed import group, sharding
from pipeline.training.distributed.batches import without_filling
from pipeline.training.distributed.communication import CommunicationMeter


class DivergedError(Exception):
    """The loss is no longer a finite number."""


class WatchfulTrainer(Seq2SeqTrainer):
    """Stops at a loss that is not finite, which the Trainer would carry on with; it generates only where it is told.

    It meters what its first step saves for backward, and notes it in the history, which a checkpoint keeps.
    Several processes, and the passes of one step, weigh their losses by what they are means of, so that together they
    have the loss of the whole batch.

    Args:
        sampler: In what order examples are trained on; None: at random.
    """

    _saved_for_backward: int | None = None
    _communication: dict[str, int] | None = None
    _weight: torch.Tensor | float = 1.0
    _items: torch.Tensor | int = 0

    def __init__(self, *args: Any, sampler: Sampler[int] | None = None, **kwargs: Any) -> None:
        self._sampler = sampler
        super().__init__(*args, **kwargs)
        if self.args.gradient_accumulation_steps > 1:
            self.loss_is_scaled_for_ga = True  # by `_weight`

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        batches, items = super().get_batch_samples(*args, **kwargs)
        self._items = sum(map(self._count, batches))
        return batches, items

    def _count(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Returns how many labels a batch's loss is the mean of."""
        labels = inputs["labels"][..., 1:] if self._loss_shifts_labels else inputs["labels"]
        return labels.ne(-100).sum()

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Sampler[int] | None:
        return self._sampler or super()._get_train_sampler(*args, **kwargs)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)
        else:  # resumed at the end, where the Trainer would do one step more
            self.control.should_training_stop = True

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        first = self._saved_for_backward is None
        if group.size() > 1:
            inputs, rows = without_filling(self.accelerator, inputs, self.train_dataset)
            num_items_in_batch = self._get_num_items_in_batch([inputs], self.args.device)
            items = torch.as_tensor(num_items_in_batch if rows else 0, dtype=torch.float32)
            self._weight = group.size() * items / group.summed(items)
        elif self.args.gradient_accumulation_steps > 1:
            num_items_in_batch = self._count(inputs)
            self._weight = (num_items_in_batch / self._items).to(self.args.device)
        with CommunicationMeter() if first and group.size() > 1 else nullcontext() as meter:
            loss = super().training_step(model, inputs, num_items_in_batch)
        if meter is not None:
            self._communication = {
                "processes": group.size(),
                "gradient_bytes": meter.reduced,
                "weight_bytes": meter.gathered,
            }
        if group.any_process(not torch.isfinite(loss)):
            raise DivergedError
        return loss

    def compute_loss(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not model.training:
            return super().compute_loss(model, *args, **kwargs)
        first = self._saved_for_backward is None
        with SavedTensorMeter(model) if first else nullcontext() as meter:
            loss: Any = super().compute_loss(model, *args, **kwargs)
        if meter is not None:
            self._saved_for_backward = meter.total
        return loss * self._weight

    def _wrap_model(self, model: nn.Module, training: bool = True, dataloader: Any = None) -> nn.Module:
        if not training or group.size() == 1:
            return super()._wrap_model(model, training, dataloader)
        prepared = self.accelerator.prepare_model(model, evaluation_mode=True)  # mixed precision alone
        return sharding.replicate(prepared)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        self.gather_function = self.accelerator.gather_for_metrics  # without what fills the last batches
        return super().evaluation_loop(*args, **kwargs)

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if not inputs["labels"].is_floating_point():  # whose batches have to be equally large
            inputs, _ = without_filling(self.accelerator, inputs, self.eval_dataset)
        return super().prediction_step(model, inputs, *args, **kwargs)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(*args, **kwargs)
        if sharding.trains_in_parts(cast(nn.Module, self.model)):
            sharding.save_whole(optimizer)
        return optimizer

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, sharding.whole_weights(cast(nn.Module, self.model)))

    def _save_optimizer_and_scheduler(self, *args: Any, **kwargs: Any) -> None:
        if not self.args.should_save and sharding.trains_in_parts(cast(nn.Module, self.model)):
            cast(torch.optim.Optimizer, self.optimizer).state_dict()  # which the first process gathers
        super()._save_optimizer_and_scheduler(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        sharding.reshard(self.model)
        super()._save_checkpoint(*args, **kwargs)

    def log(self, *args: Any, **kwargs: Any) -> None:
        super().log(*args, **kwargs)
        entry: dict[str, Any] = self.state.log_history[-1]
        entry["saved_for_backward_bytes"] = self._saved_for_backward
        entry["communication"] = self._communication


class Progress(ProgressCallback):
    """A progress bar with the loss in it, on standard error; standard output is for results."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{logs['loss']:.3f}")


class StepTimes(TrainerCallback):
    """Wall time of each optimizer step, without evaluation and checkpoints.

    The history notes their sum so far, which goes on from that of the checkpoint in a run that is resumed.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._before = max((entry["seconds"] for entry in state.log_history), default=0.0)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.log_history[-1]["seconds"] = self._before + sum(self.seconds)

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._start = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self._start)


class OwnRandomness(TrainerCallback):
    """Lets each process draw its own dropout; the first one draws what a single process would.

    A run that goes on in as many processes as before takes up their states from the checkpoint after this.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not group.is_first():
            torch.manual_seed(args.seed + (state.global_step << 32) + (args.process_index << 16))
