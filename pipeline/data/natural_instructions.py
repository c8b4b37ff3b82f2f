"""Super-NaturalInstructions (Wang et al., 2022): tasks with a definition in words, and instances of them.

Read in the public JSON format, a file for each task (https://github.com/allenai/natural-instructions), or as the hub's
copy has them (https://huggingface.co/datasets/Muennighoff/natural-instructions).
"""

import json
from collections.abc import Iterator
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value

from pipeline.assets import Source
from pipeline.assets.needs import NATURAL_INSTRUCTIONS_SPLIT, natural_instructions_files
from pipeline.errors import AssetError

# Of each held-out task: https://github.com/allenai/natural-instructions/tree/master/splits, "Testing Instances".
TEST_INSTANCES = 100
# Of each training task of the data set's own split, as Tk-Instruct has it (Wang et al., 2022):
# https://github.com/yizhongw/Tk-Instruct/blob/main/scripts/train_tk_instruct.sh
TRAIN_INSTANCES = 100
FEATURES = Features(
    {
        **dict.fromkeys(["task", "instruction", "input", "output"], Value("string")),
        "references": List(Value("string")),
    }
)


def split(source: Source) -> tuple[list[str], list[str]]:
    """Returns the names of the training and the test tasks of the data set's own split, in English.

    A clone of the GitHub repository lists them; the hub's copy is made by these lists, into a folder for each.

    Raises:
        AssetError: The folder has neither.
    """
    root = Path(source.path)
    parts = []
    for part, listed in zip(("train", "test"), NATURAL_INSTRUCTIONS_SPLIT, strict=True):
        ending = f"_{part}.jsonl"
        if (root / listed).is_file():
            names = (root / listed).read_text(encoding="utf-8").split()
        else:
            names = [file.name.removesuffix(ending) for file in (root / part).glob(f"*{ending}")]
        if not names:
            raise AssetError(
                f"{source.path} has no split of its own, neither as {listed} nor as {part}/*{ending}"
            )
        parts.append(sorted(names))
    return parts[0], parts[1]


def read(source: Source, tasks: list[str], limit: int | None = None) -> Dataset:
    """Returns the tasks' instances one after the other.

    Args:
        source: A clone of the GitHub repository, or the hub's copy.
        tasks: Their names, such as "task001_quoref_question_generation".
        limit: Take the first instances of each task only.

    Returns:
        Columns `task`, `instruction` (the definition), `input`, `output` (the first reference; "" where there is none)
        and `references`.

    Raises:
        AssetError: A task is missing, or its file is not in the format.
    """
    folder = Path(source.path, "tasks")
    rows: list[dict[str, Any]] = []
    for task in tasks:
        instances = _from_json(folder / f"{task}.json") if folder.is_dir() else _from_hub(source, task)
        rows += [{"task": task, **instance} for instance in islice(instances, limit)]
    return Dataset.from_list(rows, features=FEATURES)


def _from_json(file: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        (definition, *_), instances = content["Definition"], content["Instances"]
        return [_row(definition, instance["input"], instance["output"]) for instance in instances]
    except FileNotFoundError as error:
        there = ", ".join(path.stem for path in islice(sorted(file.parent.glob("task*.json")), 8))
        raise AssetError(f"{file} does not exist; there are {there or 'no tasks'}, …") from error
    except (KeyError, TypeError, ValueError) as error:
        raise AssetError(
            f"{file} is not in the format of Super-NaturalInstructions ({type(error).__name__}: {error}): it needs "
            "Definition, a list, and Instances with input and output, a list"
        ) from error


def _from_hub(source: Source, task: str) -> Iterator[dict[str, Any]]:
    """Yields the instances of a JSON Lines file, in which one has a line for each of its outputs, all in a row."""
    github, hub = natural_instructions_files(task)
    file = next(Path(source.path).glob(hub), None)
    if file is None:
        raise AssetError(f"{source.path} has no task {task}, neither as {github} nor as {hub}")
    try:
        with file.open(encoding="utf-8") as text:
            for _, lines in groupby(map(json.loads, text), key=itemgetter("id")):
                first, *others = lines
                outputs = [line["targets"] for line in (first, *others)]
                yield _row(first["definition"], first["inputs"], outputs)
    except (KeyError, TypeError, ValueError) as error:
        raise AssetError(
            f"{file} is not in the format of the hub's copy ({type(error).__name__}: {error}): each line needs id, "
            "definition, inputs and targets"
        ) from error


def _row(definition: str, text: str, outputs: list[str]) -> dict[str, Any]:
    references = [output for output in outputs if output.strip()]
    return {
        "instruction": definition.strip(),
        "input": text,
        "output": references[0] if references else "",
        "references": references,
    }
