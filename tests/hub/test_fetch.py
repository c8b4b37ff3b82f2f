"""A mirror of the paper profile: fetched, gone on with, verified, mended, and read with the network off."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.assets import PROVENANCE, UNFINISHED
from pipeline.config.planner import make_plan
from tests.hub import repositories
from tests.hub.server import Hub
from tests.hub.user import EXPERIMENTS, SMALL, User, refusal

pytestmark = pytest.mark.hub

TOKEN = "hf_canary0123456789"
# A run of each kind of task; of the gated model, too.
RUNS = {
    ("roberta-base", "mnli"),
    ("t5-small", "wmt16-en-ro"),
    ("llama-7b", "flanv2"),
    ("llama2-7b", "natural-instructions"),
}
# What python starts with, put before everything else on its path: any connection but to this machine's own files fails.
NO_NETWORK = """
import pathlib, socket

def refuse(self, address):
    if self.family != socket.AF_UNIX:
        with pathlib.Path(%r).open("a") as file:
            file.write(f"{address}\\n")
        raise OSError("the network is off")
    return connect(self, address)

connect = socket.socket.connect
socket.socket.connect = refuse
"""
CONNECT = [sys.executable, "-c", "import socket; socket.create_connection(('127.0.0.1', 9))"]


@pytest.fixture(scope="module")
def fetched(server: Hub, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The whole profile's mirror, and what fetching it said."""
    server.reset()
    server.accounts[TOKEN] = set(repositories.GATED)
    user = User(tmp_path_factory.mktemp("fetcher") / "home", server, HF_TOKEN=TOKEN)
    result = user.fetch(user.home / "mirror")
    assert result.returncode == 0, result.stderr[-3000:]
    assert server.unknown == []
    return user.home / "mirror", result.stdout


def test_says_how_much_it_is_before_it_begins(fetched):
    _, said = fetched
    lines = said.splitlines()
    sizes = lines[: next(number for number, line in enumerate(lines) if line.startswith("fetched"))]
    assert len(sizes) == 14 + 1 and "in all" in sizes[-1]
    commit = r"\b[0-9a-f]{12}\b"
    assert all(name in said for name in ("models/FacebookAI/roberta-large at ", "datasets/wmt/wmt16 at ")), (
        commit
    )


def test_holds_what_is_read_and_nothing_else(fetched):
    mirror, _ = fetched
    files = {path.relative_to(mirror).as_posix() for path in mirror.rglob("*") if path.is_file()}
    roberta = {
        name.rsplit("/", 1)[-1] for name in files if name.startswith("models/FacebookAI/roberta-base/")
    }
    tokenizer = {"tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"}
    assert roberta == {"config.json", "model.safetensors", *tokenizer, PROVENANCE}
    wmt = {name for name in files if name.startswith("datasets/wmt/wmt16/") and name.endswith(".parquet")}
    assert {name.split("/")[-2] for name in wmt} == {"ro-en"} and len(wmt) == 3
    glue = [name for name in files if name.startswith("datasets/nyu-mll/glue/") and name.endswith(".parquet")]
    assert len(glue) == 8 * 2 + 1  # MNLI is validated on two splits
    mmlu = [name for name in files if name.startswith("datasets/cais/mmlu/") and name.endswith(".parquet")]
    assert len(mmlu) == 57 * 2
    assert not [name for name in files if UNFINISHED in name or "/.cache/" in name]


def test_every_file_is_the_hub_s_and_in_the_manifest(fetched, server):
    mirror, _ = fetched
    manifest = json.loads((mirror / "manifest.json").read_text())["repositories"]
    assert set(manifest) == set(server.repositories)
    for name, entry in manifest.items():
        assert entry["commit"] == server.repositories[name].commit
        about = json.loads((mirror / name / PROVENANCE).read_text())
        assert about == {key: entry[key] for key in ("repository", "revision", "commit")}
        for file, facts in entry["files"].items():
            if file != PROVENANCE:
                theirs = server.repositories[name].files[file]
                assert facts == {"size": len(theirs.content), "sha256": theirs.sha256}
                assert (mirror / name / file).read_bytes() == theirs.content


def test_a_second_time_nothing_is_downloaded(fetched, user, hub):
    mirror, _ = fetched
    hub.accounts[TOKEN] = set(repositories.GATED)
    result = user.fetch(mirror, HF_TOKEN=TOKEN)
    assert result.returncode == 0 and result.stdout.count("already whole") == 14
    assert {name.rsplit("/", 1)[-1] for name in hub.downloads()} == {
        "README.md"
    }  # which lists a data set's files


def test_verify_names_what_is_missing_altered_and_extra_and_fetch_mends_it(user, hub, tmp_path):
    mirror, less = tmp_path / "mirror", "profile.experiments=[search]"
    assert user.fetch(mirror, less).returncode == 0
    assert "every file is as" in user.python("pipeline.assets", "verify", str(mirror)).stdout
    base = "models/FacebookAI/roberta-base"
    weights = mirror / base / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # as long as before
    (mirror / base / "vocab.json").unlink()
    (mirror / base / "stranger.bin").write_bytes(b"?")
    result = user.python("pipeline.assets", "verify", str(mirror))
    assert result.stdout.split() == [
        *("missing", f"{base}/vocab.json"),
        *("altered", f"{base}/model.safetensors"),
        *("extra", f"{base}/stranger.bin"),
    ]
    assert refusal(result).startswith(f"{mirror}: 3 files are not as its manifest says")
    hub.requests.clear()
    assert user.fetch(mirror, less).returncode == 0
    mended = {name for name in hub.downloads() if name.startswith("models/")}
    assert mended == {f"{base}/model.safetensors", f"{base}/vocab.json"}
    assert weights.read_bytes() == content
    (mirror / base / "stranger.bin").unlink()
    assert user.python("pipeline.assets", "verify", str(mirror)).returncode == 0


def test_an_interrupted_fetch_is_no_mirror_and_goes_on_where_it_ended(user, hub, tmp_path):
    mirror, less = tmp_path / "mirror", "profile.experiments=[search]"
    hub.fail(
        "GET /content/models/FacebookAI/roberta-large/model.safetensors",
        status=503,
        headers={"Retry-After": "60"},
    )
    command = [sys.executable, "-m", "pipeline.assets", "fetch", "--to", str(mirror), less]
    process = subprocess.Popen(
        command, cwd=user.home, env=user.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    marker = mirror / "models/FacebookAI/roberta-large" / UNFINISHED
    deadline = time.monotonic() + 120
    while not (marker.exists() and (marker.parent / "vocab.json").exists()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run = [
        "profile=paper",
        *SMALL,
        "model=roberta-large",
        "method=lora-fa",
        "task=mrpc",
        f"profile.mirror={mirror}",
    ]
    assert "is not whole: fetching it was interrupted" in refusal(user.python("pipeline.train", *run))
    hub.reset()
    assert user.fetch(mirror, less).returncode == 0
    assert not marker.exists()
    again = {name for name in hub.downloads() if "roberta" in name}
    assert "models/FacebookAI/roberta-large/model.safetensors" in again
    assert not [name for name in again if "roberta-base" in name]
    assert user.python("pipeline.assets", "verify", str(mirror)).returncode == 0


def test_says_when_the_disk_is_too_small(user, hub, tmp_path):
    hub.repositories["models/FacebookAI/roberta-base"].files["model.safetensors"].claimed_size = 2**60
    try:
        line = refusal(user.fetch(tmp_path / "mirror", "profile.experiments=[search]"))
    finally:
        hub.repositories["models/FacebookAI/roberta-base"].files["model.safetensors"].claimed_size = None
    assert "1,073,741,824.0 GiB are still to be downloaded, but" in line and "make room" in line
    assert not (tmp_path / "mirror").exists()


def test_the_pipeline_runs_from_it_with_the_network_off(fetched, server, tmp_path, monkeypatch):
    mirror, _ = fetched
    server.reset()
    server.accounts[TOKEN] = set(repositories.GATED)
    online = User(tmp_path / "online", server, HF_TOKEN=TOKEN)
    monkeypatch.chdir(online.home)
    monkeypatch.setenv("LORAFA_CACHE", "cache")
    plan = make_plan("paper", [*SMALL, EXPERIMENTS])
    chosen = {(run.model, run.task): run.directory for run in plan.runs.values() if run.method == "lora-fa"}
    targets = [f"{chosen[run]}/evaluation.json" for run in sorted(RUNS)]
    result = online.snakemake(*targets)
    assert result.returncode == 0, result.stderr[-5000:]

    attempts = tmp_path / "attempts"
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(NO_NETWORK % str(attempts))
    path = f"{tmp_path / 'site'}:{online.variables['PYTHONPATH']}"
    closed = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
    assert "the network is off" in User(tmp_path / "probe", server, PYTHONPATH=path).run(*CONNECT).stderr
    attempts.unlink()
    offline = User(tmp_path / "offline", server, **closed)
    result = offline.snakemake(*targets, overrides=(f"profile.mirror={mirror}",))
    assert result.returncode == 0, result.stderr[-5000:]
    assert not attempts.exists()
    assert not (offline.home / "huggingface/hub").exists()

    there, here = online.records(), offline.records()
    assert there.keys() == here.keys() and len(here) == len(RUNS)
    for name, record in here.items():
        for key in ("losses", "best", "trainable_parameters", "selection"):
            assert getattr(record.train_info, key) == getattr(there[name].train_info, key), (name, key)
        for part in ("model", "data"):
            mine, theirs = (getattr(one.meta_info, part) for one in (record, there[name]))
            assert mine.commit == theirs.commit is not None
            assert mine.path.startswith(str(mirror)) and not theirs.path.startswith(str(mirror))
    mine, theirs = offline.evaluations(), online.evaluations()
    for name, evaluation in mine.items():
        assert evaluation.evaluation.scores == theirs[name].evaluation.scores != {}, name


def test_a_profile_with_a_mirror_of_its_own_is_not_fetched(user, tmp_path):
    line = refusal(user.fetch(tmp_path / "mirror", "--profile", "mini"))
    assert line.startswith("profile mini is not made of the hub's repositories: `snakemake --cores 1 mirror`")


def test_what_is_no_mirror_is_not_verified(user, tmp_path):
    line = refusal(user.python("pipeline.assets", "verify", str(tmp_path / "nowhere")))
    assert "nowhere/manifest.json does not exist" in line


def test_the_subjects_are_mmlu_s(fetched):
    mirror, _ = fetched
    folders = {path.name for path in (mirror / "datasets/cais/mmlu").iterdir() if path.is_dir()}
    assert folders == set(repositories.subjects())
