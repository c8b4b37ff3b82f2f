"""The experiment: trains, evaluates and tabulates what the LoRA-FA paper reports."""

import sys
from importlib.util import find_spec

if find_spec("hydra") is None:
    sys.exit(
        "error: the pipeline's packages are not installed here: `source .venv/bin/activate`, after `make tables`"
    )
