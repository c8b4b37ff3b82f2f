"""What every entry point shares: help, one-line errors on standard error, and exit codes that mean something.

2 is for what a user has to mend, `INTERRUPTED` for what goes on when the same command is given again.
"""

import argparse
import errno
import functools
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from pipeline.errors import PipelineError, not_written

BAD_INPUT = 2
INTERRUPTED = os.EX_TEMPFAIL  # 75
NO_SPACE = ("No space left on device", "iostream error")  # the words of safetensors, and of torch.save
NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def job(main: Callable[[], None]) -> Callable[[], None]:
    """Wraps an entry point: a failure meant for the user is one line and exit code 2, not a traceback."""

    @functools.wraps(main)
    def run() -> None:
        os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra prints its errors itself, over many lines
        quieten()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # the same as Ctrl-C
        try:
            main()
        except PipelineError as error:
            sys.exit(_fail(str(error)))
        except KeyboardInterrupt as error:
            sys.exit(_fail(str(error) or "interrupted; what is finished is kept", INTERRUPTED))
        except Exception as error:
            if words := refusal(error):
                sys.exit(_fail(words))
            if not type(error).__module__.startswith(("hydra.", "omegaconf.")):
                raise
            from pipeline.config.compose import explain

            sys.exit(_fail(explain(error)))

    return run


def leave(number: int, frame: FrameType | None) -> NoReturn:
    """Ends on a signal with one line, unless somebody catches it."""
    raise SystemExit("interrupted: what is finished is kept, and the same command goes on")


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
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # settings that are meant as they are


def refusal(error: BaseException) -> str | None:
    """Says what is wrong where the system does not let a file be written: a full disk, or no permission to."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in NOT_WRITABLE:
            return not_written(cause.filename or "a file", os.strerror(cause.errno))
        if any(words in str(cause) for words in NO_SPACE):
            return not_written("a file", os.strerror(errno.ENOSPC))
        cause = cause.__cause__ or cause.__context__
    return None


def _fail(message: str, code: int = BAD_INPUT) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code
