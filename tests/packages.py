"""What files import, and what requirements ask for."""

import ast
from collections.abc import Iterable
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

distributions = cache(packages_distributions)  # reads what every installed package consists of


def names(requirements: Iterable[str]) -> set[str]:
    """The distributions that requirements name, but for the project itself."""
    return {canonicalize_name(Requirement(text).name) for text in requirements} - {"lorafa"}


def imported(*files: Path) -> set[str]:
    """The installed distributions of what files import, anywhere in them."""
    found, packages = distributions(), set()
    for file in files:
        nodes = list(ast.walk(ast.parse(file.read_text())))
        modules = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        modules += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0]
        packages |= {module.split(".")[0] for module in modules}
    return {canonicalize_name(name) for package in packages for name in found.get(package, ())} - {"lorafa"}
