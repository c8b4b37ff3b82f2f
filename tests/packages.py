"""What files import, and what requirements ask for."""

import ast
from collections.abc import Iterable
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def names(requirements: Iterable[str]) -> set[str]:
    """The distributions that requirements name, but for the project itself."""
    return {canonicalize_name(Requirement(text).name) for text in requirements} - {"lorafa"}


def imported(*files: Path) -> set[str]:
    """The installed distributions of what files import, anywhere in them."""
    found, packages = packages_distributions(), set()
    for file in files:
        nodes = list(ast.walk(ast.parse(file.read_text())))
        modules = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        modules += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0]
        packages |= {module.split(".")[0] for module in modules}
    return {canonicalize_name(name) for package in packages for name in found.get(package, ())} - {"lorafa"}


def closure(requirements: Iterable[str]) -> set[str]:
    """The installed distributions that requirements lead to, themselves included."""
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        one = waiting.pop()
        for extra in {"", *one.extras} - {extra for name, extra in seen if name == one.name}:
            seen.add((one.name, extra))
            more = map(Requirement, distribution(one.name).requires or ())
            waiting += [dep for dep in more if dep.marker is None or dep.marker.evaluate({"extra": extra})]
    return {name for name, _ in seen}
