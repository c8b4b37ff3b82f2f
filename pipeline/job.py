"""What every entry point shares: help, one-line errors on standard error, and exit codes that mean something."""

import argparse
import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable

from pipeline.errors import PipelineError

BAD_INPUT = 2


def job(main: Callable[[], None]) -> Callable[[], None]:
    """Wraps an entry point: a failure meant for the user is one line and exit code 2, not a traceback."""

    @functools.wraps(main)
    def run() -> None:
        os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra prints its errors itself, over many lines
        quieten()
        try:
            main()
        except PipelineError as error:
            sys.exit(_fail(str(error)))
        except Exception as error:
            if not type(error).__module__.startswith(("hydra.", "omegaconf.")):
                raise
            from pipeline.config import explain

            sys.exit(_fail(explain(error)))

    return run


def command_line(module: str, words: str | None) -> argparse.ArgumentParser:
    """Returns a parser for `python -m MODULE`, whose help begins with the module's own words, line by line."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=words,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def quieten() -> None:
    """Keeps libraries from talking about what is none of a user's business; call it before they are imported."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.captureWarnings(True)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # faster kernels that it would download


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return BAD_INPUT
