"""What a run reads of the hub: its model's weights and tokenizer, its task's data and, for scoring, its benchmark.

A repository holds more than that: the same weights once more as pickle, for Flax or for TensorFlow, and other languages
or tasks. It is named here, by patterns of file names, so that downloads, checks and mirrors agree.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from pipeline.config.schema import RunConfig, Task
from pipeline.errors import AssetError

Kind = Literal["models", "datasets"]

CARD = "README.md"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-?????-of-?????.safetensors")
MODEL_FILES = (
    *WEIGHTS,
    *("config.json", "generation_config.json", "chat_template.jinja"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "spiece.model", "tokenizer.model"),
)
# Super-NaturalInstructions' own split, training and test, as GitHub lists it; the hub's copy has folders instead.
NATURAL_INSTRUCTIONS_SPLIT = ("splits/default/train_tasks.txt", "splits/default/test_tasks.txt")
# Configurations of cais/mmlu that are no subjects.
NOT_SUBJECTS = ("all", "auxiliary_train")


@dataclass(frozen=True)
class Need:
    """A repository, and what is read of it.

    Attributes:
        kind: Of the repository.
        repository: Its id.
        revision: A commit or branch.
        said_in: The file of conf/ that names it, for messages.
        subset: The data set's configuration; None for all but `without`.
        without: Configurations that are not read.
        splits: Of a configuration; empty for all.
        files: Patterns of names, in place of configurations and splits.
    """

    kind: Kind
    repository: str
    revision: str = "main"
    said_in: str = "conf/"
    subset: str | None = None
    without: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The repository's folder in a mirror, `models/<id>` or `datasets/<id>`."""
        return f"{self.kind}/{self.repository}"

    def patterns(self, card: Path) -> list[str]:
        """Returns patterns of the names of the files that are read; empty: of all files.

        Args:
            card: The repository's README.md, which need not exist.

        Raises:
            AssetError: The data set has no such configuration or split.
        """
        if self.kind == "models":
            return list(MODEL_FILES)
        if self.files:
            return [CARD, *self.files]
        known = configurations(card)
        if not known:
            return []
        chosen = [self.subset] if self.subset else [name for name in known if name not in self.without]
        return [CARD, *(pattern for name in chosen for pattern in self._of(known, name))]

    def _of(self, known: dict[str, dict[str, list[str]]], name: str) -> list[str]:
        if name not in known:
            raise AssetError(
                f"{self.name} ({self.said_in}) has no configuration {name}, only {', '.join(known)}"
            )
        missing = set(self.splits) - known[name].keys()
        if missing:
            raise AssetError(
                f"{self.name} ({self.said_in}), {name}: no split {', '.join(sorted(missing))}, "
                f"only {', '.join(known[name])}"
            )
        return [pattern for split in self.splits or known[name] for pattern in known[name][split]]


def of_run(run: RunConfig) -> dict[str, Need]:
    """Returns what a run reads: `model`, `data` and, where it is scored by one, its `benchmark`."""
    model, task, benchmark = run.model, run.task, run.task.scoring.benchmark
    said_in = f"conf/task/{task.name}.yaml"
    needs = {
        "model": Need("models", model.repository, model.revision, f"conf/model/{model.name}.yaml"),
        "data": Need(
            "datasets",
            task.repository,
            task.revision,
            said_in,
            task.subset,
            splits=_splits(task),
            files=_files(task),
        ),
    }
    if benchmark is not None:
        needs["benchmark"] = Need(
            "datasets",
            benchmark.repository,
            benchmark.revision,
            said_in,
            without=NOT_SUBJECTS,
            splits=("dev", "test"),
        )
    return needs


def configurations(card: Path) -> dict[str, dict[str, list[str]]]:
    """Returns a data set's configurations: the patterns of each split's files.

    Args:
        card: Its README.md, whose header lists them (https://huggingface.co/docs/hub/datasets-manual-configuration).

    Raises:
        AssetError: The header cannot be read.
    """
    return _listed(card, card.stat().st_mtime_ns) if card.is_file() else {}


def subjects(folder: Path) -> list[str]:
    """Returns the subjects of a benchmark in MMLU's schema, sorted by name.

    Args:
        folder: The repository's.

    Raises:
        AssetError: Its README.md cannot be read, or names none.
    """
    found = sorted(configurations(folder / CARD).keys() - NOT_SUBJECTS)
    if found in ([], ["default"]):
        raise AssetError(
            f"{folder} has no subjects: each must be a configuration in README.md, as in cais/mmlu"
        )
    return found


@cache  # MMLU's is long, and read for each subject
def _listed(card: Path, _changed: int) -> dict[str, dict[str, list[str]]]:
    from datasets.data_files import sanitize_patterns
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard

    try:
        listed = MetadataConfigs.from_dataset_card_data(DatasetCard.load(card).data)
        return {
            name: sanitize_patterns(entry["data_files"])
            for name, entry in listed.items()
            if entry.get("data_files")
        }
    except Exception as error:  # YAML's errors, and what the two libraries make of a list that is none
        problem = " ".join(str(error).split())
        raise AssetError(f"{card}: its header does not say which files there are: {problem}") from error


def _splits(task: Task) -> tuple[str, ...]:
    """Instruction data are divided by us; whatever splits they have are read."""
    if task.kind == "instructions":
        return ()
    return tuple(dict.fromkeys([task.train_split, *task.validation_splits, *task.scoring.splits]))


def _files(task: Task) -> tuple[str, ...]:
    """Super-NaturalInstructions: a file for each task, as on GitHub or in the hub's copy; without names, all."""
    if task.instructions is None or task.instructions.format != "natural-instructions":
        return ()
    tasks = [*task.instructions.train_tasks, *task.instructions.heldout_tasks]
    if not tasks:
        return (*NATURAL_INSTRUCTIONS_SPLIT, "tasks/*.json", "train/*.jsonl", "test/*.jsonl")
    return tuple(pattern for name in tasks for pattern in natural_instructions_files(name))


def natural_instructions_files(task: str) -> tuple[str, str]:
    """Returns where a task of Super-NaturalInstructions may be: on GitHub, and in the hub's copy."""
    return f"tasks/{task}.json", f"*/{task}_*.jsonl"
