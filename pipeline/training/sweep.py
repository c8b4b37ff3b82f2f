"""What Hydra starts, a run or a sweep: all is checked before the first run, and failures are summed up at the end."""

import functools
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from tqdm import tqdm

from pipeline.cli import BAD_INPUT, refusal
from pipeline.config.compose import combinations, compose_run
from pipeline.config.paths import run_dir
from pipeline.config.schema import RunConfig
from pipeline.errors import PipelineError

RUNS = "LORAFA_RUNS"  # of the sweep that a job belongs to; its processes inherit it
Status = Callable[[RunConfig, Path], str | None]


def start(main: Callable[[], None], status: Status) -> None:
    """Starts what the command line asks for.

    Args:
        main: Hydra's main function.
        status: Says what became of a run in its directory; None where it broke off.

    Raises:
        ConfigError: A run of a sweep is not possible; none has been started.
        PipelineError: Runs of a sweep have failed; the message names them.
    """
    options = get_args_parser().parse_args()
    if not options.multirun or any(item.startswith("hydra/sweeper=") for item in options.overrides):
        main()
        return
    sweep = combinations(options.overrides)
    bar = tqdm(sweep, "Checking", unit="run", leave=False, disable=None)
    runs = [(overrides, *compose_run(overrides)) for overrides in bar]
    os.environ[RUNS] = str(len(runs))
    GlobalHydra.instance().clear()  # of the checks; the main function has its own
    main()
    found = {" ".join(overrides): status(run, Path(run_dir(cfg))) or "failed" for overrides, run, cfg in runs}
    print(summary(found), file=sys.stderr)
    if failed := [name for name, state in found.items() if state == "failed"]:
        raise PipelineError(f"failed, and started again by the same command: {'; '.join(failed)}")


def summary(found: dict[str, str]) -> str:
    """Returns what became of a sweep's runs: 8 runs: 6 done, 2 failed."""
    states = [f"{count} {state.replace('_', ' ')}" for state, count in Counter(found.values()).items()]
    return f"{len(found)} run{'s' * (len(found) != 1)}: {', '.join(states)}"


def one_run(function: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Wraps what Hydra calls for a run: a sweep's are counted, and the others go on when one fails.

    Hydra would put a line of its own before the error of a run, and in a sweep keep the error for the end.
    """

    @functools.wraps(function)
    def run(cfg: DictConfig) -> Any:
        hydra = HydraConfig.get()
        sweep = hydra.mode == RunMode.MULTIRUN
        if sweep:
            number = f"[{hydra.job.num + 1}/{os.environ.get(RUNS, '?')}]"
            print(f"{number} {' '.join(hydra.overrides.task)}", file=sys.stderr, flush=True)
        try:
            return function(cfg)
        except Exception as error:
            if words := str(error) if isinstance(error, PipelineError) else refusal(error):
                print(f"{'failed' if sweep else 'error'}: {words}", file=sys.stderr, flush=True)
            elif sweep:
                traceback.print_exc()
            else:
                raise
        return None if sweep else sys.exit(BAD_INPUT)

    return run
