"""MMLU as prior work reports it: five exemplars, the test split, accuracy averaged over subjects, by lm-eval.

Hendrycks et al. (2021), https://arxiv.org/abs/2009.03300; the paper's Table 4. Everything but the data set's place is
lm-eval's own group of tasks `mmlu`: what a prompt says, which exemplars it has and how an answer is chosen.
"""

import contextlib
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from datasets import Dataset
from peft import PeftModel
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from pipeline import files
from pipeline.assets import Source
from pipeline.assets.needs import subjects
from pipeline.data import repository
from pipeline.errors import AssetError

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

CHOICES = ["A", "B", "C", "D"]
# What is scored: the letters, as in prior work and the paper; or the choices' own words, lm-eval's `mmlu_continuation`,
# for models that are too small to tell letters apart (Gu et al., 2024, OLMES, https://arxiv.org/abs/2406.08446).
# Each with its folder in lm-eval, the ending of its tasks' names, and what it calls the questions.
FORMS = {
    "letters": ("default", "", "multiple choice questions"),
    "continuation": ("continuation", "_continuation", "questions"),
}
EXEMPLARS, TEST = "dev", "test"
COLUMNS = ["question", "choices", "answer"]


@dataclass(frozen=True)
class Mmlu:
    """A model's answers and their accuracy, in [0, 1].

    Attributes:
        by_question: `subject`, its `category` (stem, humanities, social_sciences, other; none for what is not a subject
            of MMLU), `question` (its number in the test split), right `answer`, `prediction`, whether it is `correct`,
            and the log-likelihoods of the choices, `A` to `D`; of equal ones, the first is the prediction.
    """

    by_question: pd.DataFrame

    @property
    def by_subject(self) -> pd.DataFrame:
        """`subject`, `category`, `questions`, `accuracy` and its `standard_error`, none for a single question."""
        subjects = self.by_question.groupby(["subject", "category"], dropna=False, sort=False).correct
        return subjects.agg(questions="size", accuracy="mean", standard_error="sem").reset_index()

    @property
    def macro(self) -> float:
        """Mean of the subjects' accuracies, as prior work and Table 4 have it."""
        return float(self.by_subject.accuracy.mean())

    @property
    def macro_standard_error(self) -> float:
        """Of `macro`, over the questions that might have been asked in these subjects."""
        return float(np.linalg.norm(self.by_subject.standard_error) / len(self.by_subject))

    @property
    def micro(self) -> float:
        """Accuracy over all questions, whatever their subject; lm-eval's own `mmlu`."""
        return float(self.by_question.correct.mean())

    @property
    def micro_standard_error(self) -> float:
        """Of `micro`, with the variance pooled over the subjects, as lm-eval has it."""
        by = self.by_subject
        squares = (by.questions * (by.questions - 1) * by.standard_error**2).sum(skipna=False)
        total = by.questions.sum()
        return float(np.sqrt(squares / (total - len(by)) / total))


def evaluate(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    source: Source,
    shots: int,
    limit: int | None,
    cache: Path,
    form: str = "letters",
) -> Mmlu:
    """Asks a decoder every question of every subject that a repository has.

    Args:
        model: The decoder in memory, adapters on it or not; it is left in the mode that it is in.
        tokenizer: Its tokenizer.
        source: cais/mmlu, or what has its schema; every configuration but `all` and `auxiliary_train` is a subject.
        shots: Exemplars in front of each question, the first ones of the split `dev`.
        limit: Ask only so many questions of each subject, the first ones; None: all.
        cache: Where prepared copies may stay.
        form: A key of `FORMS`.

    Raises:
        AssetError: The repository has no subjects, or one of them lacks a split, a column or exemplars.
    """
    data = {subject: _read(source, subject, shots, cache) for subject in subjects(Path(source.path))}
    total = len(CHOICES) * sum(len(range(len(splits[TEST]))[:limit]) for splits in data.values())
    training = model.training
    with (
        tqdm(total=total, desc="MMLU", unit="choice", file=sys.stderr) as progress,
        contextlib.redirect_stderr(io.StringIO()),  # lm-eval draws bars of its own for each subject
    ):
        by_question = _ask(model, tokenizer, data, shots, limit, form, progress)
    model.train(training)
    return Mmlu(by_question)


def cached(
    folder: Path,
    checkpoint: str,
    source: Source,
    shots: int,
    limit: int | None,
    form: str,
    compute: Callable[[], Mmlu],
) -> Mmlu:
    """Returns a checkpoint's answers from a file of an earlier time, or computes and keeps them.

    Args:
        folder: Where the files are, one Parquet file each.
        checkpoint: A fingerprint of the weights.
        source: See `evaluate`; so are `shots` and `limit`.
        shots: Exemplars.
        limit: Questions of each subject.
        form: A key of `FORMS`.
        compute: Evaluates the checkpoint.
    """
    key = {
        "checkpoint": checkpoint,
        "data": [source.repository, source.version or source.commit or source.revision],
        "shots": shots,
        "limit": limit,
        "form": form,
        "packages": {name: version(name) for name in ("lm_eval", "torch", "transformers")},
    }
    file = folder / f"{files.fingerprint(key)}.parquet"
    if file.is_file():
        return Mmlu(pd.read_parquet(file))
    result = compute()
    files.write_bytes(file, result.by_question.to_parquet())
    return result


def _read(source: Source, subject: str, shots: int, cache: Path) -> dict[str, Dataset]:
    splits = repository.read(source, subject, [EXEMPLARS, TEST], COLUMNS, cache)
    for split, questions in splits.items():
        for number, (choices, answer) in enumerate(
            zip(questions["choices"], questions["answer"], strict=True)
        ):
            if len(choices) != len(CHOICES) or answer not in range(len(CHOICES)):
                raise AssetError(
                    f"{source.path}, {subject}, {split}: question {number} has {len(choices)} choices and the answer "
                    f"{answer}; wanted are {len(CHOICES)} choices and an answer from 0 to {len(CHOICES) - 1}"
                )
    if len(splits[EXEMPLARS]) < shots:
        raise AssetError(
            f"{source.path}, {subject}: the split {EXEMPLARS} has {len(splits[EXEMPLARS])} questions, "
            f"too few for {shots} exemplars"
        )
    return splits


def _ask(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    data: dict[str, dict[str, Dataset]],
    shots: int,
    limit: int | None,
    form: str,
    progress: "tqdm[Any]",
) -> pd.DataFrame:
    import lm_eval
    from lm_eval.tasks import TaskManager

    from pipeline.metrics.shared_prompt import SharedPromptLM

    # Its own tasks alone: an index of all that lm-eval knows takes seconds.
    folder = Path(lm_eval.__file__).parent / "tasks/mmlu" / FORMS[form][0]
    harness = TaskManager(include_path=folder, include_defaults=False)
    results = lm_eval.simple_evaluate(
        SharedPromptLM(model, tokenizer, progress),
        tasks=[_task(harness, subject, splits, form) for subject, splits in data.items()],
        task_manager=harness,
        num_fewshot=shots,
        limit=limit,
        bootstrap_iters=0,
        random_seed=None,  # nothing is drawn, and the caller's generators are not ours to set
        numpy_random_seed=None,
        torch_random_seed=None,
    )
    assert results is not None
    ending = FORMS[form][1]
    categories = {  # the tag mmlu_stem_tasks, or mmlu_stem_continuation, has the tasks of the category stem
        task: tag.removeprefix("mmlu_").removesuffix(ending or "_tasks")
        for tag in harness.all_tags
        for task in harness.task_index[tag].tags
    }
    rows = []
    for subject in data:
        for sample in sorted(results["samples"][_name(subject, form)], key=lambda sample: sample["doc_id"]):
            likelihoods = [likelihood for likelihood, _ in sample["filtered_resps"]]
            rows.append(
                {
                    "subject": subject,
                    "category": categories.get(_name(subject, form)),
                    "question": sample["doc_id"],
                    "answer": CHOICES[sample["target"]],
                    "prediction": CHOICES[int(np.argmax(likelihoods))],
                    "correct": bool(sample["acc"]),
                    **dict(zip(CHOICES, likelihoods, strict=True)),
                }
            )
    return pd.DataFrame(rows)


def _task(harness: "TaskManager", subject: str, splits: dict[str, Dataset], form: str) -> dict[str, Any]:
    """Returns the configuration of a subject's task: lm-eval's own, whose subjects differ in these lines alone."""
    return {
        **harness.task_index[_name("abstract_algebra", form)].cfg,
        "task": _name(subject, form),
        "task_alias": subject,
        "dataset_name": subject,
        "description": f"The following are {FORMS[form][2]} (with answers) about "
        f"{subject.replace('_', ' ')}.\n\n",
        "custom_dataset": lambda **_: splits,
    }


def _name(subject: str, form: str) -> str:
    return f"mmlu_{subject}{FORMS[form][1]}"
