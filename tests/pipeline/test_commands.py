"""What every command has in common."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Each in turn, in one process; what imports torch is named.
HELP = """
import contextlib, io, runpy, sys
for module in sys.argv[1:]:
    sys.argv = [module, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    heavy = {"torch", "transformers", "datasets", "peft"} & sys.modules.keys()
    print(module, len(shown.getvalue()) > 100, *sorted(heavy))
    if heavy:
        break
"""


HEAVY = {"pipeline.published"}  # a table of estimates, which nobody runs by the way


def commands() -> list[str]:
    files = [*ROOT.glob("pipeline/*.py"), *ROOT.glob("pipeline/*/*.py"), ROOT / "lorafa/memory/__main__.py"]
    mains = [file.relative_to(ROOT) for file in files if '__name__ == "__main__"' in file.read_text()]
    names = {".".join(file.with_suffix("").parts).removesuffix(".__main__") for file in mains}
    return sorted(names - HEAVY)


@pytest.mark.integration
def test_help_of_each_command_imports_no_torch():
    names = commands()
    assert "pipeline.train" in names and "lorafa.memory" in names
    done = subprocess.run([sys.executable, "-c", HELP, *names], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"{name} True" for name in names], done.stderr
