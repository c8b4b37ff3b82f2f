"""Where a result comes from: code, command, packages, machine, model and data."""

import os
import platform
import subprocess
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from pipeline.assets import Source
from pipeline.config.schema import RunConfig
from pipeline.results.records import Machine, Material, MetaInfo, RunInfo

PACKAGES = (
    "torch",
    "transformers",
    "datasets",
    "peft",
    "accelerate",
    "lorafa",
    "evaluate",
    "scikit-learn",
    "scipy",
)
ROOT = Path(__file__).parents[2]


def run_info(run: RunConfig, config_hash: str, command: str) -> RunInfo:
    """Returns what was run: the resolved configuration, the code's commit and the command."""
    return RunInfo(
        config=asdict(run),
        config_hash=config_hash,
        git_commit=_git("rev-parse", "HEAD"),
        git_dirty=bool(_git("status", "--porcelain", "--untracked-files=no")),
        command=command,
    )


def meta_info(sources: dict[str, Source]) -> MetaInfo:
    """Returns what it ran on and with."""
    machine = Machine(
        platform=platform.platform(),
        python=platform.python_version(),
        processor=platform.machine(),
        cores=os.cpu_count(),
        torch_threads=torch.get_num_threads(),
        gpus=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    )
    packages = {name: _version(name) for name in PACKAGES}
    return MetaInfo(
        packages, machine, **{name: Material(**source.record()) for name, source in sources.items()}
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)  # noqa: S603, S607
    except FileNotFoundError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None
