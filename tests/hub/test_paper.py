"""The whole paper profile from the hub: every model, method and task of Tables 2 to 4 and of the rebuttal."""

from collections import Counter
from dataclasses import dataclass

import pytest

from pipeline.config.planner import make_plan
from tests.hub import repositories
from tests.hub.server import Hub
from tests.hub.user import EXPERIMENTS, SMALL, User

pytestmark = pytest.mark.hub

TOKEN = "hf_canary0123456789"


@dataclass
class Done:
    """The profile when it is done, and which files the hub sent for it."""

    user: User
    hub: Hub
    downloads: Counter[str]


@pytest.fixture(scope="module")
def paper(server: Hub, tmp_path_factory: pytest.TempPathFactory) -> Done:
    server.reset()
    server.accounts[TOKEN] = set(repositories.GATED)
    user = User(tmp_path_factory.mktemp("paper") / "home", server, HF_TOKEN=TOKEN)
    result = user.snakemake("tables", "rebuttal")
    assert result.returncode == 0, result.stderr[-5000:]
    assert server.unknown == []
    return Done(user, server, server.downloads())


def test_every_model_method_and_task_is_trained_and_scored(paper):
    plan = make_plan("paper", [*SMALL, EXPERIMENTS])
    wanted = {
        name: {(run.model, run.method, run.task) for run in plan.grids[name]}
        for name in ("table2", "table3", "table4", "rebuttal_sni", "instructions_split")
    }
    assert {name: len(cells) for name, cells in wanted.items()} == {
        "table2": 2 * 4 * 8,
        "table3": 3 * 7,
        "table4": 6 * 2,
        "rebuttal_sni": 3,
        "instructions_split": 3,
    }
    scored = set()
    for path, evaluation in paper.user.evaluations().items():
        run = evaluation.run_info.config
        scored.add((run["model"]["name"], run["method"]["name"], run["task"]["name"]))
        assert evaluation.evaluation.status == "done", path
        assert evaluation.evaluation.scores, path
    assert scored == set().union(*wanted.values())
    for path, record in paper.user.records().items():
        assert record.train_info.status == "done", path


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        ("table2", ["R-B (FT)", "R-B (PT)", "R-L (Lo)", "R-L (Lo-FA)"]),
        ("table3", ["T5-small", "T5-base", "T5-large"]),
        ("table4", ["LLaMA-7b"]),
        ("rebuttal_sni", ["LoRA-FA"]),
        ("instructions_split", ["Full-FT", "LoRA", "LoRA-FA"]),
    ],
)
def test_the_tables_have_the_paper_s_rows_and_no_stand_ins(paper, table, rows):
    text = (paper.user.home / f"results/paper/tables/{table}.md").read_text()
    assert all(row in text for row in rows), text
    assert "in miniature" not in text and "Stand-ins" not in text


def test_records_name_the_hub_s_commits(paper):
    for path, record in [*paper.user.records().items(), *paper.user.evaluations().items()]:
        for source in record.meta_info.materials:
            kind = "models" if source == record.meta_info.model else "datasets"
            known = paper.hub.repositories[f"{kind}/{source.repository}"]
            assert source.commit == known.commit and source.revision in ("main", known.commit), path


def test_each_file_that_is_read_was_downloaded_once_and_no_other(paper):
    assert set(paper.downloads.values()) == {1}
    sent = set(paper.downloads)
    endings = {name.rsplit(".", 1)[-1] for name in sent}
    assert endings == {"safetensors", "json", "txt", "model", "md", "parquet", "gz", "jsonl"}
    data = {name for name in sent if name.endswith(".parquet")}
    folders = {"/".join(name.split("/")[1:4]) for name in data}
    tasks = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb")
    assert folders == {
        *(f"nyu-mll/glue/{task}" for task in tasks),
        *(f"cais/mmlu/{subject}" for subject in repositories.subjects()),
        "wmt/wmt16/ro-en",
        "tatsu-lab/alpaca/data",
    }
    assert not [name for name in data if "glue" in name and "/test" in name]  # whose labels are secret
    assert not [name for name in data if "mmlu" in name and "/validation" in name]
    lines = {name.rsplit("/", 1)[-1] for name in sent if name.endswith(".jsonl")}
    assert {name[:7] for name in lines} == {
        f"task{number}" for number in ("001", "002", "003", "004", "022", "033")
    }
    assert len([name for name in sent if name.endswith(".gz")]) == len(repositories.FLAN_FILES)


def test_nothing_is_there_that_would_have_to_be_unpickled(paper):
    cached = [path for path in (paper.user.home / "huggingface").rglob("*") if path.is_file()]
    assert len(cached) > 200
    assert not [path for path in cached if repositories.POISON in path.read_bytes()]


def test_the_token_is_nowhere(paper):
    texts = [path for path in paper.user.home.rglob("*") if path.is_file()]
    assert not [path for path in texts if TOKEN.encode() in path.read_bytes()]


def test_with_all_of_it_in_the_cache_runs_work_offline(paper):
    run = [
        "profile=paper",
        *SMALL,
        "model=llama2-7b",
        "method=lora-fa",
        "task=natural-instructions",
        "seed=1",
    ]
    for module in ("pipeline.train", "pipeline.evaluate"):
        requests = sum(paper.hub.requests.values())
        result = paper.user.python(module, *run, HF_HUB_OFFLINE="1")
        assert result.returncode == 0, result.stderr[-3000:]
        assert sum(paper.hub.requests.values()) == requests
    (record,) = [value for path, value in paper.user.records().items() if path.endswith("seed=1")]
    commit = paper.hub.repositories["models/meta-llama/Llama-2-7b-hf"].commit
    assert record.meta_info.model.commit == commit
