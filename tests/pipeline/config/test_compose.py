from typing import get_args

import pytest
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from lorafa.options import InitA
from pipeline.config.compose import CONF, compose_experiments, compose_run, explain
from pipeline.config.schema import KINDS
from pipeline.errors import ConfigError


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


MINI = ("minilm", "t5-mini", "t5-novice", "smollm2-135m")
EXAMPLES = {"encoder": "sst2", "encoder-decoder": "wmt16-en-ro", "decoder": "alpaca"}


@pytest.mark.integration
@pytest.mark.parametrize("model", choices("model"))
def test_every_method_composes_with_every_model(model):
    profile = "mini" if model in MINI else "paper"
    kind = OmegaConf.load(CONF / f"model/{model}.yaml").kind
    for method in choices("method"):
        task = "natural-instructions" if model.startswith("llama2") else EXAMPLES[kind]
        if method == "prompt-tuning" and kind != "encoder":
            continue  # the paper has it for RoBERTa alone
        if method.startswith("lora-qv") and kind == "encoder-decoder":
            continue
        run, _ = compose_run([f"profile={profile}", f"model={model}", f"method={method}", f"task={task}"])
        assert (run.model.name, run.method.name, run.task.name) == (model, method, task)


@pytest.mark.integration
@pytest.mark.parametrize("task", choices("task"))
def test_every_task_composes_with_its_kind_of_model_and_no_other(task):
    written = OmegaConf.load(CONF / f"task/{task}.yaml")
    base = written if "kind" in written else OmegaConf.load(CONF / f"task/{written.defaults[0]}.yaml")
    kind = KINDS[base.kind]
    for model in MINI:
        overrides = [f"model={model}", f"task={task}"]
        if OmegaConf.load(CONF / f"model/{model}.yaml").kind == kind:
            assert compose_run(overrides)[0].task.name == task
        else:
            with pytest.raises(ConfigError, match=f"task {task} needs a model of kind {kind}, not"):
                compose_run(overrides)


@pytest.mark.parametrize("profile", choices("profile"))
def test_every_experiment_composes(profile):
    experiments, settings, _ = compose_experiments([f"profile={profile}", "profile.experiments=null"])
    assert settings.name == profile
    full_scale = {
        one
        for one in choices("experiment")
        if OmegaConf.load(CONF / f"experiment/{one}.yaml").get("only_full_scale")
    }
    assert set(experiments) == set(choices("experiment")) - (set() if settings.full_scale else full_scale)
    for name, experiment in experiments.items():
        assert experiment.name == name
        for group in ("model", "method", "task"):
            assert set(getattr(experiment, f"{group}s")) <= set(choices(group))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tabel2", "profile.experiments: no experiment 'tabel2' (did you mean 'table2'?)"),
        ("larger_model", "profile.experiments: larger_model: of the paper's models alone"),
    ],
)
def test_a_profile_has_the_experiments_that_it_names_and_none_else(name, message):
    assert set(compose_experiments(["profile.experiments=[table2,search]"])[0]) == {"search", "table2"}
    with pytest.raises(ConfigError) as caught:
        compose_experiments([f"profile.experiments=[table2,{name}]"])
    assert str(caught.value).startswith(message)


def test_the_paper_profile_is_the_paper_recipe():
    base, _ = compose_run(["profile=paper", "model=roberta-base", "method=lora-fa", "task=mrpc"])
    large, _ = compose_run(["profile=paper", "model=roberta-large", "method=lora", "task=mnli"])
    assert (base.model.repository, large.model.repository) == (
        "FacebookAI/roberta-base",
        "FacebookAI/roberta-large",
    )
    assert (base.budget.batch_size, large.budget.batch_size) == (64, 32)
    assert base.budget.max_length == large.budget.max_length == 128
    assert base.rank == large.rank == 8
    assert len(base.profile.seeds) == 3
    assert base.alpha / base.rank == 4
    assert base.budget.max_steps is None and base.budget.epochs == 30


def test_the_paper_profile_has_the_recipes_of_tables_3_and_4():
    for name, batch_size, rank in (("small", 64, 8), ("base", 32, 8), ("large", 16, 16)):
        t5, _ = compose_run(["profile=paper", f"model=t5-{name}", "method=lora", "task=wmt16-en-ro"])
        assert (t5.model.repository, t5.budget.batch_size, t5.rank) == (
            f"google-t5/t5-{name}",
            batch_size,
            rank,
        )
    for task, sample in (("alpaca", None), ("flanv2", 50_000)):
        llama, _ = compose_run(["profile=paper", "model=llama-7b", "method=lora-fa", f"task={task}"])
        assert (llama.budget.batch_size, llama.rank, llama.alpha / llama.rank) == (32, 64, 2)
        assert (llama.lr, llama.trainer.schedule, llama.trainer.max_grad_norm) == (
            2e-4,
            "constant_with_warmup",
            0.3,
        )
        assert (llama.budget.max_length, llama.budget.max_target_length) == (384, 128)
        assert llama.method.dropout == 0.1 and llama.task.instructions.sample == sample
        assert llama.task.scoring.benchmark.shots == 5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task=foo", "conf/task/foo.yaml does not exist; task is one of alpaca, cola, flanv2"),
        ("task=sst-2", "conf/task/sst-2.yaml does not exist (did you mean 'sst2'?); task is one of alpaca"),
        ("lrr=3", "command line: lrr: unknown key (did you mean 'lr'?)"),
        ("rank=abc", "command line: rank: Value 'abc' of type 'str' could not be converted to Integer"),
        (
            "model=bert",
            "conf/model/bert.yaml does not exist; model is one of llama-7b, llama2-13b, llama2-7b",
        ),
        ("rank=0", "command line: rank: must be at least 1, got 0"),
        ("lr=-1", "command line: lr: must be greater than 0, got -1.0"),
        ("seed=a", "command line: seed: Value 'a' of type 'str' could not be converted to Integer"),
        ("method.rank=-3", "command line: method.rank: must be at least 1"),
        ("+method.dropuot=0.1", "command line: method.dropuot: unknown key (did you mean 'method.dropout'?)"),
        ("method.dropuot=0.1", "command line: method.dropuot: unknown key (did you mean 'method.dropout'?)"),
        ("method.dropout=1", "command line: method.dropout: must be at least 0 and below 1, got 1.0"),
        (
            "method.targets=null",
            "command line: method.targets: lora-fa needs all-linear, attention, or letters of qkvo as in qv",
        ),
        (
            "method.rslora=true",
            "command line: method.rslora: the chosen file does not have it; to add it, write +method.rslora=...",
        ),
        ("+task.held_out=1", "command line: task.held_out: must be above 0 and below 1, got 1.0"),
        (
            "model=t5-mini task=wmt16-en-ro +task.held_out=0.1",
            "task.held_out: for a classification alone, which task wmt16-en-ro is not",
        ),
        ("method.memory_budget=24", "command line: method.memory_budget: must be a size like 24GiB or 80GB"),
        ("method.targets=mlp", "method.targets: must be all-linear, attention, or letters of qkvo as in qv"),
        ("method.targets=qq", "method.targets: must be all-linear, attention, or letters of qkvo as in qv"),
        (
            "method.init_A=even",
            "method.init_A: must be one of kaiming_uniform, normal, ones, orthogonal, shards, eva, got 'even'",
        ),
        ("method=lora +method.resample=4", "method.resample: for LoRA-FA alone, which method lora is not"),
        (
            "model=t5-mini task=wmt16-en-ro method.init_A=eva",
            "method.init_A: eva is for models with one stack",
        ),
        (
            "+method.recompute=[norms]",
            "method.recompute: each must be one of norm, activation, dropout, loss",
        ),
        ("method=miss rank=null", "rank: miss needs a value"),
        ("lr=null", "lr: no learning rate for model minilm: add one, or give lr=..."),
        ("model.frozen_dtype=float17", "model.frozen_dtype: must be one of float32, bfloat16, float16"),
        ("budget.max_steps=null", "give either epochs or max_steps"),
        ("budget.evaluations=1000", "more than max_steps"),
        ("nonsense", "missing EQUAL"),
    ],
)
def test_bad_input_is_one_clear_line(override, message):
    with pytest.raises(ConfigError) as caught:
        compose_run(override.split())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_option_is_part_of_an_identity_where_it_is_set():
    """Or runs from before there was the option would all be others."""
    words = ["method=lora-fa", "task=sst2"]
    (plain, _), (same, _) = compose_run(words), compose_run([*words, "trainer.tf32=false"])
    assert plain.identity() == same.identity()
    for option in (
        "trainer.tf32=true",
        "trainer.checkpointing=true",
        "+method.gradient=projected",
        "+task.held_out=0.1",
    ):
        assert compose_run([*words, option])[0].identity() != plain.identity()


@pytest.mark.parametrize("init_A", get_args(InitA))
def test_a_starts_in_every_way(init_A):
    run, _ = compose_run(["method=lora-fa", f"method.init_A={init_A}"])
    assert run.method.init_A == init_A


def test_a_bad_value_in_a_file_names_the_file(tmp_path, monkeypatch):
    import shutil

    from hydra.core.global_hydra import GlobalHydra

    from pipeline.config import compose

    shutil.copytree(CONF, tmp_path / "conf")
    file = tmp_path / "conf/method/lora-fa.yaml"
    monkeypatch.setattr(compose, "CONF", tmp_path / "conf")
    original = file.read_text()
    broken = {
        original.replace(
            "rank: ${model.rank}", "rank: 0"
        ): "conf/method/lora-fa.yaml: rank: must be at least 1, got 0",
        original.replace("rank: ${model.rank}", "rnak: 8"): "conf/method/lora-fa.yaml: rank: missing",
        original + "colour: red\n": "conf/method/lora-fa.yaml: colour: unknown key",
        original.replace(
            "dropout: ${model.adapter_dropout}", "dropout: much"
        ): "conf/method/lora-fa.yaml: dropout: Value 'much'",
        original.replace(
            "  minilm:", "  maxilm:"
        ): "conf/method/lora-fa.yaml: lr: no learning rate for model minilm",
    }
    try:
        for text, message in broken.items():
            file.write_text(text)
            GlobalHydra.instance().clear()
            with pytest.raises(ConfigError) as caught:
                compose_run(["method=lora-fa"])
            assert str(caught.value).startswith(message)
    finally:
        GlobalHydra.instance().clear()


def test_a_method_without_a_rank_refuses_one():
    with pytest.raises(ConfigError, match="command line: rank: method full-ft has no rank"):
        compose_run(["method=full-ft", "rank=8"])


def test_a_budget_of_memory_is_for_lora_fa():
    with pytest.raises(
        ConfigError, match=r"command line: method\.memory_budget: for LoRA-FA alone, which method lora is not"
    ):
        compose_run(["method=lora", "+method.memory_budget=24GiB"])


def test_identity_holds_what_changes_a_result_and_nothing_else():
    def identity(*overrides: str) -> dict:
        return compose_run(overrides)[0].identity()

    same = identity()
    for override in ("profile.seeds=[7]", "method.label=x", "profile.threads=2", "method.lr.roberta-base=1"):
        assert identity(override) == same, override
    for override in (
        "seed=1",
        "lr=1",
        "rank=4",
        "method.dropout=0.5",
        "budget.max_steps=9",
        "task=rte",
        "alpha=1",
        "method.memory_budget=24GiB",
    ):
        assert identity(override) != same, override
    assert "memory_budget" not in same["method"]  # runs without it are those from before there was the option


def test_a_launcher_that_is_not_installed_is_no_missing_file():
    error = MissingConfigException(
        "Could not find 'hydra/launcher/joblib'", "hydra/launcher/joblib", ["basic"]
    )
    assert explain(error) == (
        "Hydra's launcher joblib is not installed; it comes with: pip install -c requirements.lock -e '.[sweep]'"
    )
