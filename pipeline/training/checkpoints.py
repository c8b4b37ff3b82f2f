"""Checkpoints to go on from: sealed with the hashes of their files, and passed over where a file is not what it was."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from torch import distributed
from transformers import TrainerCallback
from transformers.trainer_utils import rotate_checkpoints

from pipeline import files

SEAL = "sha256.json"
STATE = "trainer_state.json"
KEPT = 2  # the newest, and one to fall back to


class Sealing(TrainerCallback):
    """Seals each checkpoint that the Trainer has written, and only then deletes older ones.

    The Trainer itself would go by their times, and delete the newest where a clock was set back.
    """

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if distributed.is_available() and distributed.is_initialized():
            distributed.barrier()  # each process writes a file of its own
        if state.is_world_process_zero:
            seal(Path(args.output_dir, f"checkpoint-{state.global_step}"))
            rotate_checkpoints(args.output_dir, KEPT, state.best_model_checkpoint, use_mtime=False)


def seal(checkpoint: Path) -> None:
    """Writes the hashes of a checkpoint's files into it; one without them was not written to its end."""
    files.write_text(checkpoint / SEAL, json.dumps(_hashes(checkpoint), indent=1) + "\n")


def newest(folder: Path) -> Path | None:
    """Returns the newest checkpoint that is whole, and so is the best one so far; deletes those after it."""
    found = sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True)
    for checkpoint in found:
        problem = _problem(checkpoint)
        if problem is None:
            return checkpoint
        print(f"{checkpoint}: passed over, {problem}", file=sys.stderr, flush=True)
        shutil.rmtree(checkpoint)
    return None


def start(folder: Path) -> str:
    """Says where a run will go on, if nothing happens to its newest checkpoint: hashing it again would take long."""
    steps = [step_of(seal.parent) for seal in folder.glob(f"checkpoint-*/{SEAL}")]
    return f"step {max(steps)}" if steps else "the beginning"


def step_of(checkpoint: Path) -> int:
    """Returns the number of steps that a checkpoint was written after."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def remove_others(folder: Path) -> None:
    """Deletes the checkpoints beside a run's folder of checkpoints: those of other configurations."""
    if folder.parent.is_dir():
        for other in folder.parent.iterdir():
            if other != folder:
                shutil.rmtree(other)


def _problem(checkpoint: Path) -> str | None:
    """Says what is wrong with a checkpoint, or with the best one so far, which it refers to."""
    if damage := _damage(checkpoint):
        return damage
    best = json.loads((checkpoint / STATE).read_text())["best_model_checkpoint"]
    if best is None or Path(best).name == checkpoint.name:
        return None
    best = checkpoint.with_name(Path(best).name)
    damage = _damage(best)
    return f"as the best one, {best.name}, {damage}" if damage else None


def _damage(checkpoint: Path) -> str | None:
    try:
        sealed: dict[str, str] = json.loads((checkpoint / SEAL).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return "was not written to its end"
    except ValueError:
        return f"has a damaged {SEAL}"
    found = _hashes(checkpoint)
    changed = [name for name, value in sealed.items() if found.get(name) != value]
    return f"has a damaged {changed[0]}" if changed else None


def _hashes(checkpoint: Path) -> dict[str, str]:
    members = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != SEAL)
    return {str(file.relative_to(checkpoint)): files.sha256(file) for file in members}
