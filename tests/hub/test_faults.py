"""What goes wrong with a hub: each fault is survived, or told in one line that says what, where and what to do."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.worker import SOCKET, Worker
from tests.hub.server import Hub
from tests.hub.user import ROOT, SMALL, User, refusal

pytestmark = pytest.mark.hub

LESS = "profile.experiments=[search]"  # two models, one data set
BASE = "models/FacebookAI/roberta-base"
WEIGHTS = f"{BASE}/model.safetensors"
GLUE = "datasets/nyu-mll/glue"
ROBERTA, MRPC = f"{BASE} (conf/model/roberta-base.yaml)", f"{GLUE} (conf/task/mrpc.yaml)"
LLAMA = ["model=llama2-7b", "method=lora-fa", "task=natural-instructions"]
RUN = ["model=roberta-base", "method=lora-fa", "task=mrpc"]
SECRET = "hf_canary0123456789"
FETCH = "(`python -m pipeline.assets fetch --help`)"
# What a worker of impatient people imports once; who waits 53 seconds before giving up would make these tests slow.
PRELOAD = (
    *("pipeline.train", "pipeline.training.fit", "pipeline.results.provenance", "pipeline.assets.fetch"),
    *("pipeline.tasks.classification", "pipeline.tasks.instructions", "impatient"),
)


@dataclass
class Office:
    """Where all users of this file work: a worker, and one cache of the hub."""

    socket: str
    hub_home: Path


@pytest.fixture(scope="module")
def office(server: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    hub_home = tmp_path_factory.mktemp("office")
    worker = Worker(PRELOAD)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in User(hub_home / "home", server, HF_HOME=str(hub_home)).variables.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", f"{ROOT}:{Path(__file__).parent}")
        worker.start()
        yield Office(os.environ[SOCKET], hub_home)
        worker.stop()


@pytest.fixture
def user(hub: Hub, office: Office, tmp_path: Path) -> User:
    """Somebody who has downloaded nothing yet."""
    shutil.rmtree(office.hub_home / "hub", ignore_errors=True)
    return User(tmp_path / "home", hub, HF_HOME=str(office.hub_home), **{SOCKET: office.socket})


def fetch(user: User, tmp_path: Path, *arguments: str, **variables: str):
    return user.fetch(tmp_path / "mirror", *arguments, **variables)


def train(user: User, *run: str, **variables: str):
    return user.python("pipeline.train", "profile=paper", *SMALL, *run, **variables)


class TestAccess:
    PAGE = "https://huggingface.co/meta-llama/Llama-2-7b-hf"
    WHAT = "models/meta-llama/Llama-2-7b-hf (conf/model/llama2-7b.yaml)"
    STRANGER = (
        f"{WHAT} is gated: accept its licence at {PAGE}, with the account of the token that you use, which has no "
        "access yet (`hf auth whoami`)"
    )

    def test_a_gated_model_says_where_its_licence_is_and_how_to_log_in(self, user, tmp_path):
        log_in = "then log in with `hf auth login`, or set HF_TOKEN"
        expected = f"{self.WHAT} is gated: accept its licence at {self.PAGE}, {log_in}"
        assert refusal(train(user, *LLAMA)) == expected
        assert refusal(fetch(user, tmp_path, "profile.experiments=[rebuttal_sni]")) == expected
        assert not (tmp_path / "mirror").exists()  # it asks for all before it begins with any

    def test_a_token_without_access_is_not_printed(self, user, hub, office):
        hub.accounts[SECRET] = set()
        result = train(user, *LLAMA, HF_TOKEN=SECRET)
        assert refusal(result) == self.STRANGER
        assert SECRET not in result.stdout + result.stderr
        files = [
            path for folder in (user.home, office.hub_home) for path in folder.rglob("*") if path.is_file()
        ]
        assert not [path for path in files if SECRET.encode() in path.read_bytes()]

    def test_a_token_that_is_none(self, user, tmp_path):
        result = fetch(user, tmp_path, LESS, HF_TOKEN=SECRET)
        assert refusal(result) == (
            f"{MRPC}: the hub does not know the token that you use: log in anew with "
            "`hf auth login`, or set HF_TOKEN"
        )
        assert SECRET not in result.stdout + result.stderr

    def test_a_token_without_the_right_to_read(self, user, hub, tmp_path):
        hub.fail(f"GET /api/{BASE}/auth-check", status=403, headers={"X-Error-Message": "no"})
        assert refusal(fetch(user, tmp_path, LESS)) == (
            f"{ROBERTA}: the token that you use may not read it: give it the right to read "
            "gated repositories at https://huggingface.co/settings/tokens"
        )


class TestWhatIsNotThere:
    def test_a_repository(self, user, tmp_path):
        expected = (
            "models/FacebookAI/nowhere (conf/model/roberta-base.yaml) is not on the hub, or private: "
            "check `repository`; for a private one, log in with `hf auth login`, or set HF_TOKEN"
        )
        assert refusal(train(user, *RUN, "model.repository=FacebookAI/nowhere")) == expected
        assert refusal(fetch(user, tmp_path, LESS, "model.repository=FacebookAI/nowhere")) == expected

    def test_a_revision(self, user, tmp_path):
        assert refusal(fetch(user, tmp_path, LESS, "model.revision=v9")) == (
            f"{ROBERTA} has no revision v9: its commits are listed at "
            "https://huggingface.co/FacebookAI/roberta-base/commits/main"
        )

    def test_a_configuration(self, user, tmp_path):
        line = refusal(fetch(user, tmp_path, LESS, "task.subset=swag"))
        assert re.fullmatch(
            rf"{GLUE} \(conf/task/mrpc\.yaml\) has no configuration swag, only ax, cola, .*, wnli", line
        )

    def test_a_split(self, user, tmp_path):
        line = refusal(fetch(user, tmp_path, LESS, "task.validation_splits=[dev]"))
        assert line == f"{MRPC}, mrpc: no split dev, only train, validation, test"

    def test_a_file(self, user, hub, tmp_path):
        missing = {"X-Error-Code": "EntryNotFound"}
        hub.fail("/FacebookAI/roberta-base/resolve/.*/config.json", status=404, headers=missing)
        line = refusal(fetch(user, tmp_path, LESS))
        assert line.startswith(f"{ROBERTA}: 404 Not Found for /FacebookAI/roberta-base/")
        assert "config.json: check `repository` and `revision`" in line

    def test_weights_that_are_not_pickle(self, user, hub, tmp_path):
        files = hub.repositories[BASE].files
        weights = files.pop("model.safetensors")
        try:
            line = refusal(fetch(user, tmp_path, LESS))
        finally:
            files["model.safetensors"] = weights
        assert line == (f"{ROBERTA} has no weights in safetensors; pickle, which may run code, is never read")


class TestABusyHub:
    def test_is_given_the_time_that_it_asks_for(self, user, hub, tmp_path):
        fault = hub.fail(f"GET /api/{GLUE}/revision", status=429, headers={"Retry-After": "2"}, times=2)
        start = time.monotonic()
        result = fetch(user, tmp_path, LESS)
        assert result.returncode == 0, result.stderr
        assert fault.happened == 2 and time.monotonic() - start > 4
        assert result.stderr.count(f"429 Too Many Requests for /api/{GLUE}/revision/main; again in 2 s") == 2

    def test_that_stays_so_is_given_up(self, user, hub, tmp_path):
        fault = hub.fail(f"GET /api/{GLUE}/revision", status=429)
        assert refusal(fetch(user, tmp_path, LESS)) == (
            f"{MRPC}: the hub takes no more requests from here for now (429): wait five minutes and "
            "run the same command again; who is logged in (`hf auth login`) may make more"
        )
        assert fault.happened == 5

    def test_out_of_order_for_a_while(self, user, hub, tmp_path):
        fault = hub.fail("GET /content/", status=503, times=2)
        result = fetch(user, tmp_path, LESS)
        assert result.returncode == 0, result.stderr
        assert fault.happened == 2
        assert user.python("pipeline.assets", "verify", str(tmp_path / "mirror")).returncode == 0

    def test_out_of_order(self, user, hub):
        fault = hub.fail("GET /api/models/", status=502)
        assert refusal(train(user, *RUN)) == (
            f"{ROBERTA}: the hub is out of order (502, 5 times; "
            "https://status.huggingface.co): run the same command again later; what is downloaded stays"
        )
        assert fault.happened == 5


class TestBytesThatAreLostOrWrong:
    @pytest.mark.parametrize(
        "how", [{"cut": 1000, "times": 3}, {"short": 1000, "times": 1}, {"altered": True, "times": 1}]
    )
    def test_once_the_result_is_whole(self, user, hub, tmp_path, how):
        fault = hub.fail(f"GET /content/{WEIGHTS}", **how)
        result = fetch(user, tmp_path, LESS)
        assert result.returncode == 0, result.stderr
        assert fault.happened == how["times"]
        assert (tmp_path / "mirror" / WEIGHTS).read_bytes() == hub.repositories[BASE].files[
            "model.safetensors"
        ].content
        if "cut" in how:  # it goes on where the connection ended
            assert hub.resumed == [f"{WEIGHTS} from 1000", f"{WEIGHTS} from 2000", f"{WEIGHTS} from 3000"]

    def test_altered_bytes_are_no_mirror(self, user, hub, tmp_path):
        fault = hub.fail(f"GET /content/{WEIGHTS}", altered=True)
        line = refusal(fetch(user, tmp_path, LESS))
        digest = hub.repositories[BASE].files["model.safetensors"].sha256
        assert line == (
            f"{ROBERTA}: model.safetensors is damaged: its sha256 is not {digest}, as the hub "
            "says. It came so 5 times: a proxy may alter it; try another network, or another HF_ENDPOINT"
        )
        assert fault.happened == 5
        assert not (tmp_path / "mirror" / WEIGHTS).exists()

    def test_a_small_file_is_checked_too(self, user, hub, tmp_path):
        hub.fail("GET /FacebookAI/roberta-base/resolve/.*/merges.txt", altered=True)
        line = refusal(fetch(user, tmp_path, LESS))
        digest = hub.repositories[BASE].files["merges.txt"].blob_id
        assert f"merges.txt is damaged: its git hash is not {digest}, as the hub says" in line

    def test_a_run_does_not_train_on_them(self, user, hub):
        hub.fail(f"GET /content/{WEIGHTS}", altered=True)
        line = refusal(train(user, *RUN))
        assert "model.safetensors is damaged: its sha256 is not" in line
        hub.reset()
        result = train(user, *RUN)
        assert result.returncode == 0, result.stderr[-3000:]
        assert hub.downloads()[WEIGHTS] == 1


class TestWithoutTheHub:
    def test_offline_with_an_empty_cache(self, user, hub, office):
        assert refusal(train(user, *RUN, HF_HUB_OFFLINE="1")) == (
            f"{ROBERTA} is not, or not whole, in the cache {office.hub_home}/hub, and "
            f"HF_HUB_OFFLINE is set: run once without it, or give profile.mirror=DIR with a copy {FETCH}"
        )
        assert not hub.requests

    def test_a_hub_that_cannot_be_reached(self, user, tmp_path):
        assert refusal(fetch(user, tmp_path, LESS, HF_ENDPOINT="http://127.0.0.1:9")) == (
            f"{MRPC}: http://127.0.0.1:9 cannot be reached ([Errno 111] Connection refused): check the network, "
            f"or give profile.mirror=DIR with a copy {FETCH}"
        )

    def test_what_is_in_the_cache_is_enough_and_what_is_not_is_named(self, user, hub):
        assert train(user, *RUN).returncode == 0
        for seed, how in enumerate([{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}], start=1):
            result = train(user, *RUN, f"seed={seed}", **how)
            assert result.returncode == 0, result.stderr[-3000:]
        line = refusal(train(user, "model=roberta-base", "method=lora-fa", "task=rte", HF_HUB_OFFLINE="1"))
        assert line.startswith(f"{GLUE} (conf/task/rte.yaml) is not, or not whole, in the cache")
