"""What holds of the library where its wheel, and what that asks for, is all there is; run by `python tests/wheel`."""

import re
import sys
import tomllib
from importlib.metadata import distribution
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import lorafa

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
ABSENT = ("pipeline", "benchmarks", "tests", "hydra", "datasets", "snakemake", "wandb")

package, project = distribution("lorafa"), SETTINGS["project"]
assert Path(lorafa.__file__).is_relative_to(sys.prefix)
assert package.version == lorafa.__version__
assert package.metadata["License-Expression"] == project["license"]
assert {entry.name: entry.value for entry in package.entry_points} == project["scripts"]
assert package.metadata.get_all("Project-URL") == [f"{name}, {url}" for name, url in project["urls"].items()]
for data in SETTINGS["tool"]["setuptools"]["package-data"]["lorafa"]:
    assert files("lorafa").joinpath(data).is_file(), data
assert not [name for name in ABSENT if find_spec(name)]

for name in lorafa.__all__:
    assert getattr(lorafa, name) is not None, name
(quick_start,) = re.findall(
    r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
)
exec(quick_start)
