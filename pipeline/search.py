"""Searches with Optuna, in place of a grid: TPE proposes runs, and those below the median of the others are stopped.

  python -m pipeline.search task=mrpc method=lora-fa rank=1,2,4,8 'lr=interval(5e-5,5e-3)' --trials 20

Several values and intervals are searched, the others are fixed. Trials are ordinary runs: the same search again goes
through the same trials without training them again.
"""

from rich.console import Console

from pipeline.cli import command_line, job
from pipeline.errors import ConfigError, not_installed
from pipeline.worker import Worker


@job
def main() -> None:
    """Runs the command line."""
    parser = command_line("pipeline.search", __doc__)
    parser.add_argument(
        "overrides",
        nargs="+",
        metavar="OVERRIDE",
        help="as for pipeline.train: a,b,c or 'interval(a,b)' is searched, a=b is fixed",
    )
    parser.add_argument("--trials", type=int, default=20, help="how many runs to try (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time (default: %(default)s)")
    parser.add_argument("--sampler-seed", type=int, default=0, help="of the search, not of the runs")
    arguments = parser.parse_intermixed_args()
    try:
        from pipeline import tune
    except ModuleNotFoundError as error:
        raise ConfigError(not_installed(str(error.name), "sweep")) from error

    worker = Worker(preload=("pipeline.training.fit", "pipeline.results.provenance", "hydra.main"))
    worker.start()
    try:
        study = tune.search(arguments.overrides, arguments.trials, arguments.jobs, arguments.sampler_seed)
    finally:
        worker.stop()
    Console().print(tune.table(study))


if __name__ == "__main__":
    main()
