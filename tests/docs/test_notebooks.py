"""Each notebook runs from its first cell to its last, without a display."""

import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from tests.pipeline import made_up

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))


@pytest.fixture(autouse=True)
def without_a_display(monkeypatch):
    plt.switch_backend("agg")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """A results tree with two methods, of which one has a run that diverged, and no evaluations."""
    folder = tmp_path_factory.mktemp("results")
    plan = made_up.plan_of(folder, "search")
    for run in plan.grids["search"]:
        losses = [{"step": step, "loss": 1 / step} for step in (1, 2, 3)]
        if run.method == "lora-fa" and run.lr == 3e-3:
            made_up.write(run, None, status="diverged", losses=losses)
        elif run.method.startswith("lora"):
            made_up.write(run, 0.5 + run.lr, losses=losses)
    return folder


def run(name: str, **replaced: str) -> dict:
    """Runs a notebook as a script, with some of its constants replaced, and returns what it defined."""
    file = ROOT / f"notebooks/{name}.py"
    source = file.read_text()
    for constant, value in replaced.items():
        source, count = re.subn(rf"^{constant} = .*$", f"{constant} = {value}", source, flags=re.MULTILINE)
        assert count == 1, constant
    names: dict = {"__name__": "notebook"}
    exec(compile(source, file, "exec"), names)
    return names


def test_all_notebooks_are_tested():
    assert {file.stem for file in NOTEBOOKS} == {"results", "from_scratch", "what_fits", "compression"}


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_only_text_is_kept(file):
    jupytext = pytest.importorskip("jupytext", reason="jupytext comes with the extra `notebooks`")
    notebook = jupytext.read(file)
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    assert all(not cell.get("outputs") for cell in notebook.cells)
    assert jupytext.writes(notebook, fmt="py:percent", config=jupytext.config.load_jupytext_config(str(file)))


def test_results_read_all_runs(results, monkeypatch, capsys):
    monkeypatch.setenv("LORAFA_RESULTS", str(results))
    found = run("results")
    assert len(found["runs"]) == len(list(results.rglob("metrics.json"))) > 0
    assert set(found["runs"].status) == {"done", "diverged"}
    assert f"{len(found['runs'])} runs are finished" in capsys.readouterr().out
    assert len(plt.get_fignums()) == 2


def test_results_say_so_where_nothing_is_finished(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LORAFA_RESULTS", str(tmp_path))
    assert run("results")["runs"].empty
    assert "No run is finished" in capsys.readouterr().out


@pytest.mark.integration
def test_results_run_in_a_kernel(results, monkeypatch):
    jupytext = pytest.importorskip("jupytext", reason="jupytext comes with the extra `notebooks`")
    nbclient = pytest.importorskip("nbclient", reason="nbclient comes with the extra `notebooks`")
    pytest.importorskip("ipykernel", reason="ipykernel comes with the extra `notebooks`")
    monkeypatch.setenv("LORAFA_RESULTS", str(results))
    notebook = jupytext.read(ROOT / "notebooks/results.py")
    nbclient.NotebookClient(notebook, resources={"metadata": {"path": ROOT / "notebooks"}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2


@pytest.mark.integration
def test_from_scratch_agrees_with_the_library():
    found = run("from_scratch")
    assert found["memory"].loc["lorafa"].max() <= found["memory"].loc["A is frozen, autograd"].min() + 0.1


@pytest.mark.integration
def test_what_fits_answers(tmp_path):
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2}
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    found = run("what_fits", MODEL=repr(str(file)), BATCHES="[1, 4]", RANKS="[64]")
    needed = found["curves"].loc[4]
    assert needed["LoRA-FA, recomputing"] < needed["LoRA-FA"] < needed["LoRA"] < needed["Full-FT"]


@pytest.mark.integration
def test_compression_shows_what_the_paper_says():
    found = run("compression")
    table = found["table"]
    exact = (table["A uniform, projected"] - table["A orthonormal"]).abs().max()
    assert exact < 0.15  # both are projections, onto other random subspaces
    assert (table["best of rank r"] <= table["A orthonormal"] + 1e-6).all()
    assert len(plt.get_fignums()) == 4
