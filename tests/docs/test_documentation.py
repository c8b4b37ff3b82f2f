"""What README.md, CONTRIBUTING.md and docs/ name exists: paths, commands, configuration keys and error messages."""

import ast
import dataclasses
import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import typing
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from omegaconf import DictConfig, OmegaConf
from snakemake.cli import get_argument_parser

import lorafa
import pipeline.config.experiment
import pipeline.config.profile
from lorafa.model import LoraFaModel
from pipeline.config import schema
from pipeline.config.compose import CONF, compose_experiments, compose_run
from pipeline.config.schema import RunConfig

ROOT = Path(__file__).parents[2]
OF_THE_SITE = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *OF_THE_SITE]
FENCE = re.compile(r'^```(\w*)(?: title="(.+?)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
GENERATED = {ROOT / "docs/configuration.md", ROOT / "docs/planner.html"}
# What a reader of docs/extending.md makes; tests/docs/test_extending.py follows that page.
TUTORIAL = re.compile(r"results/mine\b|method=ia3|profile=mine|me/reviews")
OPTION = re.compile(r"^--?[a-z][\w-]*")


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, _, text in FENCE.findall(page.read_text()) if kind == language]


def inline(page: Path) -> list[str]:
    """What a page has in code font, outside of blocks."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", FENCE.sub("", page.read_text()))


def commands(*programs: str) -> list[str]:
    """Every command of these programs, in a block or in code font; and, for no program, every command in a block."""
    found = []
    for page in PAGES:
        for block in blocks(page, "bash"):
            found += block.replace("\\\n", " ").splitlines()
        found += [text for text in inline(page) if programs and " " in text]
    found = [re.sub(r"(^|\s+)# .*", "", line) for line in found]
    found = [re.sub(r"^srun .*?(?=snakemake)", "", line).strip() for line in found]
    found = [line for line in found if line and not TUTORIAL.search(line)]
    return sorted({line for line in found if not programs or shlex.split(line)[0] in programs})


def parameters(*programs: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("command", commands(*programs))


def paths() -> list[tuple[str, str]]:
    """Every path in code font, or in a command in a block, with its page."""
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."} | {"results"}
    folders -= {"build"}  # which git ignores
    found = set()
    for page in PAGES:
        words = inline(page) + [word for block in blocks(page, "bash") for word in block.split()]
        for word in (part for text in words for part in text.split()):
            path = word.strip("'\"(),;").removeprefix("overrides=").split("::")[0]
            if "/" in path and "=" not in path.split("/")[0] and path.split("/")[0] in folders:
                found.add((page.name, path.rstrip("/.")))
    return sorted(pair for pair in found if not TUTORIAL.search(pair[1]))


@cache
def outputs() -> frozenset[str]:
    """The tables, figures and other files that the pipeline makes in each profile."""
    found = set()
    for profile in (path.stem for path in (CONF / "profile").glob("*.yaml")):
        experiments, settings, _ = compose_experiments([f"profile={profile}"])
        for name, experiment in experiments.items():
            for folder, wanted, endings in (
                ("tables", experiment.tabled, ("md", "tex", "csv", "html")),
                ("figures", experiment.drawn, ("svg", "pdf", "png", "html", "csv")),
            ):
                found |= {f"{settings.results}/{folder}/{name}.{ending}" for ending in endings if wanted}
            if experiment.estimated:
                found.add(f"{settings.results}/memory/{name}.csv")
            if experiment.kind == "search":
                found |= {
                    f"{settings.results}/search/{name}.{ending}" for ending in ("json", "promoted.json")
                }
    return frozenset(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", FENCE.sub("", page.read_text())):
        file = (page.parent / target).resolve()
        assert target.startswith("https://") or file.exists() or file in GENERATED, target


@pytest.mark.parametrize(("page", "path"), paths())
def test_paths_exist(page, path):
    if (
        path.startswith("results/") and not path.startswith(("results/paper/", "results/published/"))
    ) or path in outputs():
        pattern = re.sub(r"<\w+>|\.\.\.|…|\*", "*", path)
        made = {part for file in outputs() for part in (file, *map(str, Path(file).parents))}
        regex = re.compile(re.escape(pattern).replace(r"\*", "[^/]+"))
        known = any(regex.fullmatch(file) for file in made)
        folder = path.split("/")[2:3]
        assert (
            known
            or (folder[:1] and folder[0] in ("runs", "logs", "dashboard", "wandb", "report", "report.html"))
            or path in ("results/measured", "results/gpu/<card>.json")
        ), path
    else:
        assert list(ROOT.glob(re.sub(r"<\w+>|…", "*", path))), path


@parameters()
def test_every_command_is_one_that_is_checked(command):
    program = shlex.split(command)[0]
    assert program in {
        *(
            "cat",
            "hf",
            "make",
            "pip",
            ".venv/bin/pip",
            "python",
            "python3",
            "snakemake",
            "source",
            "tests/slurm/cluster.sh",
            "touch",
            "wandb",
        )
    }


@parameters("python", "python3")
def test_modules_and_their_options_exist(command):
    words = shlex.split(command)[1:]
    if words[0] == "-c":
        compile(words[1], "command", "exec")
        return
    if words[0] != "-m":
        assert (ROOT / words[0]).is_file() or (ROOT / words[0] / "__main__.py").is_file()
        return
    module, arguments = words[1], words[2:]
    assert find_spec(module) is not None
    if module.startswith("pipeline."):
        overrides = [word for word in arguments if "=" in word and not OPTION.match(word)]
        of_plans = ("pipeline.status", "pipeline.plan")
        composed(compose_experiments if module in of_plans else compose_run, *first_values(overrides))
    options = [OPTION.match(word)[0] for word in arguments if OPTION.match(word)]
    if options and module not in ("pipeline.train", "pipeline.evaluate"):  # Hydra's, not argparse's
        text = helped(module, tuple(word for word in arguments if word != "--help"))
        assert all(re.search(rf"{option}\b", text) for option in options), text


@cache
def composed(compose: Callable, *overrides: str) -> Any:
    return compose(overrides)


def first_values(overrides: list[str]) -> list[str]:
    """The first combination of a sweep."""
    found = []
    for override in OverridesParser.create().parse_overrides(overrides):
        value = override.value()
        if isinstance(value, IntervalSweep):
            found.append(f"{override.get_key_element()}={value.start}")
        elif override.is_sweep_override():
            found.append(f"{override.get_key_element()}={next(override.sweep_string_iterator())}")
        else:
            found.append(override.input_line)
    return found


@cache
def helped(module: str, arguments: tuple[str, ...]) -> str:
    """What `python -m module arguments --help` prints; argparse checks the arguments before it comes to --help."""
    printed, before = io.StringIO(), sys.argv
    sys.argv = [module, *arguments, "--help"]
    try:
        with redirect_stdout(printed), suppress(SystemExit):
            runpy.run_module(module, run_name="__main__")
    finally:
        sys.argv = before
    assert printed.getvalue(), f"{module} does not accept {arguments}"
    return printed.getvalue()


@parameters("make")
def test_make_targets_and_variables_exist(command):
    words = shlex.split(command)[1:]
    makefile = (ROOT / "Makefile").read_text()
    for word in words:
        variable, assigned, value = word.partition("=")
        if assigned:
            assert re.search(rf"^{variable} \?=", makefile, re.MULTILINE), variable
            assert variable != "PROFILE" or (CONF / f"profile/{value}.yaml").is_file(), value
        else:
            assert re.search(rf"^\.PHONY:.* {word}\b", makefile, re.MULTILINE), word


@pytest.mark.integration
@parameters("snakemake")
def test_snakemake_options_targets_and_overrides_exist(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    line = re.sub(r"\bN\b", "1", command.replace("…", ""))
    arguments, unknown = get_argument_parser().parse_known_args(shlex.split(line)[1:])
    assert not unknown
    config = dict(item.split("=", 1) for item in arguments.config or [])
    assert set(config) <= {"profile", "overrides", "gpu"}
    profile = config.get("profile", "mini")
    composed(compose_experiments, f"profile={profile}", *shlex.split(config.get("overrides", "")))
    rules = "".join(path.read_text() for path in (ROOT / "pipeline/rules").glob("*.smk"))
    for target in arguments.targets:
        assert f"rule {target}:" in rules or target in outputs(), target


@parameters("hf", "pip", ".venv/bin/pip", "wandb")
def test_options_of_other_programs_exist(command):
    program, subcommand, *words = shlex.split(command)
    program = Path(program).name
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    options = [OPTION.match(word)[0] for word in words if word.startswith("--")]
    text = help_of(program, subcommand)
    assert all(option in text for option in options)


@cache
def help_of(*words: str) -> str:
    environment = {**os.environ, "COLUMNS": "200"}
    shown = subprocess.run([*words, "--help"], capture_output=True, text=True, env=environment)
    assert shown.returncode == 0
    return shown.stdout


def python_blocks() -> list:
    found = []
    for page in PAGES:
        for number, block in enumerate(blocks(page, "python")):
            found.append(pytest.param(block, id=f"{page.stem}-{number}"))
    return found


@pytest.mark.parametrize("block", python_blocks())
def test_python_imports_what_exists(block):
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("lorafa", "pipeline"):
            module = import_module(node.module)
            assert all(
                hasattr(module, name.name) or find_spec(f"{node.module}.{name.name}") for name in node.names
            )


@pytest.mark.parametrize("block", blocks(ROOT / "docs/getting-started.md", "python"))
def test_getting_started_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "getting-started", "exec"), {})


def keys() -> list[str]:
    """Dotted keys of a run's configuration in code font."""
    sections = {item.name for item in dataclasses.fields(RunConfig)}
    words = {
        word.lstrip("+").split("=")[0] for page in PAGES for text in inline(page) for word in text.split()
    }
    dotted = (word for word in words if re.fullmatch(r"[a-z_]+(\.[A-Za-z_]+)+", word))
    methods = {f"model.{name}" for name in dir(LoraFaModel)}  # such as `model.load_adapter`
    return sorted(word for word in dotted if word.split(".")[0] in sections and word not in methods)


@pytest.mark.parametrize("key", keys())
def test_configuration_keys_exist(key):
    kind: typing.Any = RunConfig
    for name in key.split("."):
        if not dataclasses.is_dataclass(kind):
            return  # free form, such as profile.grids
        types = {item.name: item.type for item in dataclasses.fields(kind)}
        assert name in types, f"{key}: {kind.__name__} has no {name}"
        kind = next(
            (one for one in (types[name], *typing.get_args(types[name])) if one is not type(None)), None
        )
        kind = next(filter(dataclasses.is_dataclass, typing.get_args(types[name])), kind)


@cache
def strings() -> list[str]:
    """Every string in the code, what it fills in as a zero byte, and without line breaks."""
    found = []
    for folder in ("lorafa", "pipeline"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                parts = node.values if isinstance(node, ast.JoinedStr) else [node]
                found.append("".join(getattr(part, "value", "") if is_text(part) else "\0" for part in parts))
    return [text for text in found if text.strip("\0")]


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


@pytest.mark.parametrize("message", blocks(ROOT / "docs/faq.md", "text"))
def test_error_messages_are_those_of_the_code(message):
    parts = [re.escape(part) for part in message.strip().split("…")]
    pattern = re.compile(".*?".join(parts), re.DOTALL)
    assert any(pattern.search(text) for text in strings()), message


def test_the_hub_repositories_of_the_paper_profile_are_listed():
    (listed,) = blocks(ROOT / "docs/hardware.md", "text")
    experiments, _, _ = compose_experiments(["profile=paper"])
    wanted = set()
    for experiment in experiments.values():
        wanted |= {f"models/{load('model', name).repository}" for name in experiment.models}
        for task in (load("task", name) for name in experiment.tasks):
            benchmark = task.get("scoring", {}).get("benchmark")
            wanted |= {
                f"datasets/{data.repository}" for data in (task, benchmark) if data and "repository" in data
            }
    assert listed.split() == sorted(wanted)


def load(group: str, name: str) -> DictConfig:
    return typing.cast(DictConfig, OmegaConf.load(CONF / group / f"{name}.yaml"))


# The site.


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    for package in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(package, reason="the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.mark.integration
def test_the_site_is_read_without_a_network(site):
    for page in site.rglob("*.html"):
        tags = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page.read_text())
        loaded = [
            tag for tag in tags if re.search(r'(?:src|href)="(?:https?:)?//', tag) and "canonical" not in tag
        ]
        assert not loaded, f"{page.name}: {loaded}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", style.read_text()), style.name


@pytest.mark.integration
def test_the_site_has_every_page_and_every_public_name(site):
    for page in OF_THE_SITE:
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).is_file()
    reference = (site / "api/lorafa.html").read_text()
    assert all(f'id="lorafa.{name}"' in reference for name in lorafa.__all__)


@pytest.mark.integration
def test_the_home_page_shows_what_the_readme_shows(site):
    home, readme = (site / "index.html").read_text(), (ROOT / "README.md").read_text()
    verdicts = re.findall(r"^- (.{40})", readme, re.MULTILINE)
    (memory,) = re.findall(r"^\| llama-7b +\| LoRA +\| +([\d.]+)", readme, re.MULTILINE)
    assert verdicts and all(verdict in home for verdict in verdicts)
    assert re.search(rf"<td[^>]*>{memory}</td>", home)


@pytest.fixture(scope="module")
def generated():
    pytest.importorskip("griffe", reason="the extra `docs` is not installed")
    spec = spec_from_file_location("generated", ROOT / "docs/generated.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_configuration_reference_has_every_key_and_file(generated):
    text = generated.configuration()
    parts = (schema, pipeline.config.profile, pipeline.config.experiment)
    found = {kind for part in parts for kind in vars(part).values() if dataclasses.is_dataclass(kind)}
    described = found - {pipeline.config.experiment.Kind}
    assert set(generated.SECTIONS) == described
    for kind in described:
        section = text.split(f"### {kind.__name__}\n")[1].split("\n## ")[0].split("\n### ")[0]
        for item in dataclasses.fields(kind):
            assert re.search(rf"^\| `{item.name}` \| \w", section, re.MULTILINE), (
                f"{kind.__name__}.{item.name}"
            )
    for file in CONF.rglob("*.yaml"):
        assert f"`{file.stem}`" in text or f"conf/{file.name}" in text, file


@pytest.mark.integration
def test_the_page_of_models_is_what_the_table_says(generated):
    assert (ROOT / "docs/models.md").read_text() == generated.models(), (
        "python docs/generated.py models > docs/models.md"
    )


@pytest.mark.integration
def test_the_picture_of_the_dag_is_that_of_the_snakefile(generated):
    drawn = (ROOT / "docs/dag.svg").read_text()
    assert drawn == generated.graph(generated.rules()), "python docs/generated.py graph > docs/dag.svg"
