"""Instruction tuning: a decoder that learns responses, scored on MMLU or by ROUGE-L on tasks that it has not seen."""

import pandas as pd
import torch
from datasets import Dataset
from peft import TaskType
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from pipeline.assets import Source
from pipeline.config.schema import Instructions, RunConfig
from pipeline.data import instructions as data
from pipeline.data import plain
from pipeline.metrics import mmlu
from pipeline.metrics.rouge import rouge_l
from pipeline.models import decoder
from pipeline.tasks import Evaluation, Model, TrainingData, cache

TASK_TYPE = TaskType.CAUSAL_LM
TRAINED_HEAD = None


def load_model(run: RunConfig, source: Source, dtype: torch.dtype) -> PreTrainedModel:
    """Loads the decoder, in 4 bits where the method says so."""
    return decoder.load(source, dtype, run.method.quantization)


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """Loads its tokenizer."""
    return decoder.load_tokenizer(source)


def training_data(
    run: RunConfig, sources: dict[str, Source], tokenizer: PreTrainedTokenizerBase
) -> TrainingData:
    """Loads the instructions; only responses have a loss, and validation's loss chooses the checkpoint."""
    rows = data.load(sources["data"], _settings(run), cache(run))
    train, validation = (_tokenize(run, part, tokenizer) for part in (rows.train, rows.validation))
    return TrainingData(train, validation, data.collator(tokenizer), selection=rows.selection)


def evaluate(
    run: RunConfig,
    sources: dict[str, Source],
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    checkpoint: str,
) -> Evaluation:
    """Answers the benchmark's questions; without a benchmark, responds to the held-out tasks."""
    if run.task.scoring.benchmark is None:
        return _held_out_tasks(run, sources, model, tokenizer)
    benchmark = run.task.scoring.benchmark
    asked = (sources["benchmark"], benchmark.shots, benchmark.questions)
    result = mmlu.cached(
        cache(run) / "mmlu",
        checkpoint,
        *asked,
        benchmark.form,
        lambda: mmlu.evaluate(model, tokenizer, *asked, cache(run), benchmark.form),
    )
    scores = {"macro": result.macro, "micro": result.micro}
    details = {
        "macro_standard_error": result.macro_standard_error,
        "micro_standard_error": result.micro_standard_error,
        "form": benchmark.form,
        "by_subject": result.by_subject.to_dict("records"),
    }
    return Evaluation(scores, result.by_question, details)


def _settings(run: RunConfig) -> Instructions:
    assert run.task.instructions is not None
    return run.task.instructions


def _tokenize(run: RunConfig, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    assert run.budget.max_target_length is not None
    return data.tokenize(rows, tokenizer, run.budget.max_length, run.budget.max_target_length)


def _held_out_tasks(
    run: RunConfig, sources: dict[str, Source], model: Model, tokenizer: PreTrainedTokenizerBase
) -> Evaluation:
    rows = data.load(sources["data"], _settings(run), cache(run)).test
    assert rows is not None
    responses = _respond(run, model, tokenizer, [data.prompt(row) for row in rows])
    scored = pd.DataFrame(
        {
            "task": rows["task"],
            "input": rows["input"],
            "prediction": responses,
            "reference": rows["output"],
            "rouge_l": [
                rouge_l(response, references, stem=True)
                for response, references in zip(responses, rows["references"], strict=True)
            ],
        }
    )
    by_task = scored.groupby("task").rouge_l.mean()
    return Evaluation({"rouge_l": float(scored.rouge_l.mean()), **by_task.to_dict()}, scored)


def _respond(
    run: RunConfig, model: Model, tokenizer: PreTrainedTokenizerBase, prompts: list[str]
) -> list[str]:
    """Generates greedily, in batches of similar length, and returns in the order of the prompts."""
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=run.budget.max_target_length, pad_token_id=tokenizer.pad_token_id
    )
    encoded = [ids[: run.budget.max_length] for ids, _ in plain.encode(tokenizer, prompts)]
    order = sorted(range(len(prompts)), key=lambda row: -len(encoded[row]))
    responses = [""] * len(prompts)
    device = next(model.parameters()).device
    size = 4 * run.budget.batch_size
    for start in tqdm(range(0, len(order), size), desc="responding", unit="batch"):
        rows = order[start : start + size]
        batch = tokenizer.pad(
            {"input_ids": [encoded[row] for row in rows]}, padding_side="left", return_tensors="pt"
        )
        tokens = model.generate(**batch.to(device), generation_config=settings)  # type: ignore[operator]
        texts = tokenizer.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for row, text in zip(rows, texts, strict=True):
            responses[row] = text.strip()
    return responses
