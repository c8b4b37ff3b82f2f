"""Nothing that is read is executed, secrets are not written, and no name leads out of its folder."""

import ast
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.config.compose import compose_run
from pipeline.errors import ConfigError
from pipeline.train import train
from pipeline.training import checkpoints, fit
from tests.pipeline.costs.steps import in_step, kill

ROOT = Path(__file__).parents[2]
FOLDERS = ("lorafa", "pipeline", "benchmarks", "docs", "notebooks")
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "jsonpickle"}
CALLS = {"eval", "exec", "compile", "__import__"}


def files() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def executing(tree: ast.AST) -> list[str]:
    """What in a module could run what it reads."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append(str(node.module))
        if isinstance(node, ast.Call):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            name = ast.unparse(node.func)
            if name in CALLS or given.get("allow_pickle") == "True" or given.get("shell") == "True":
                found.append(ast.unparse(node))
            if name in ("torch.load", "torch.jit.load") and given.get("weights_only") != "True":
                found.append(ast.unparse(node))
            if name.endswith("yaml.load") and not name.startswith("OmegaConf"):
                found.append(ast.unparse(node))
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            found.append("trust_remote_code")
    return found


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from dill import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
        "yaml.load(text)",
        "eval(text)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_what_could_run_what_it_reads_is_recognised(code):
    assert executing(ast.parse(code))


def test_nothing_could_run_what_it_reads():
    scanned = files()
    assert len(scanned) > 100
    assert {str(path): found for path in scanned if (found := executing(ast.parse(path.read_text())))} == {}


class Bomb:
    """Writes a file where it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "executed"


def test_the_bomb_goes_off(mark):
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists()


@pytest.fixture
def poisoned(tiny_mirror, tmp_path):
    """A copy of the tiny mirror to be poisoned, and the model's folder in it."""
    shutil.copytree(tiny_mirror, tmp_path / "mirror")
    return tmp_path / "mirror", tmp_path / "mirror/models/lorafa/all-MiniLM-L6-v2-roberta"


def test_weights_that_are_pickles_are_not_loaded(compose, poisoned, tmp_path, mark):
    mirror, model = poisoned
    (model / "model.safetensors").unlink()
    torch.save({"weights": Bomb(mark)}, model / "pytorch_model.bin")
    with pytest.raises(Exception, match="safetensors"):
        train(compose(f"profile.mirror={mirror}"), tmp_path / "run", [])
    assert not mark.exists()


def test_code_in_a_repository_is_not_run(compose, poisoned, tmp_path, mark):
    mirror, model = poisoned
    code = f"from pathlib import Path\nPath({str(mark)!r}).touch()\n"
    (model / "modeling_x.py").write_text(code)
    (mirror / "datasets/nyu-mll/glue/glue.py").write_text(code)
    config = json.loads((model / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "modeling_x.Config",
        "AutoModelForSequenceClassification": "modeling_x.Model",
    }
    (model / "config.json").write_text(json.dumps(config))
    assert train(compose(f"profile.mirror={mirror}"), tmp_path / "run", []).train_info.status == "done"
    assert not mark.exists()


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_that_holds_a_pickle_is_refused(compose, tmp_path, mark, file):
    run = compose("task=sst2")
    with in_step(4, kill), pytest.raises(KeyboardInterrupt):
        fit.fit(run, tmp_path / "run", "hash")
    folder = tmp_path / "run/checkpoints/hash"
    checkpoint = checkpoints.newest(folder)
    assert checkpoint is not None
    buffer = io.BytesIO()
    torch.save({"state": Bomb(mark)}, buffer)
    (checkpoint / file).write_bytes(buffer.getvalue())
    checkpoints.seal(checkpoint)
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        fit.fit(run, tmp_path / "run", "hash")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("method.name=../../elsewhere", "method.name"),
        ("method.name=..", "method.name"),
        ("task.name=a/b", "task.name"),
        ("profile.name=.hidden", "profile.name"),
        ("model.repository=../../etc/passwd", "model.repository"),
        ("model.repository=/etc/passwd", "model.repository"),
        ("task.repository=../datasets", "task.repository"),
    ],
)
def test_names_cannot_leave_their_folder(override, key):
    with pytest.raises(ConfigError, match=f"command line: {key}: must be"):
        compose_run([override])


def test_the_names_of_tasks_are_names_of_files():
    tasks = "profile.instructions.train_tasks=[../../secret]"
    with pytest.raises(ConfigError, match=r"instructions\.train_tasks: each must be of letters"):
        compose_run(["model=smollm2-135m", "task=natural-instructions", tasks])


@pytest.mark.integration
@pytest.mark.parametrize("module", ["train", "evaluate"])
def test_a_run_cannot_be_put_outside_of_the_results(tiny_overrides, tmp_path, module):
    results, elsewhere = tmp_path / "results", tmp_path / "elsewhere"
    command = [sys.executable, "-m", f"pipeline.{module}", *tiny_overrides, f"profile.results={results}"]
    process = subprocess.run(
        [*command, f"hydra.run.dir={elsewhere}"], capture_output=True, text=True, cwd=ROOT, env=os.environ
    )
    assert process.returncode == 2
    assert f"error: command line: hydra.run.dir: {elsewhere} is outside of {results}" in process.stderr
    assert not (tmp_path / "elsewhere/metrics.json").exists()
