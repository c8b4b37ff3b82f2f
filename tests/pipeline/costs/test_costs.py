"""A plan's costs against real models and runs: the operations of a step, a Trainer's steps, a saved adapter's bytes."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from huggingface_hub import constants
from torch.utils.flop_counter import FlopCounterMode

from lorafa.memory import flops
from pipeline import methods
from pipeline import plan as command
from pipeline.config.compose import compose_run
from pipeline.config.plan import Plan
from pipeline.config.planner import plan_of_arguments
from pipeline.config.schema import RunConfig
from pipeline.costs import measure, sizes
from pipeline.costs.cards import GPUS
from pipeline.costs.cost import Cost, cost_of, measured
from pipeline.costs.downloads import download
from pipeline.costs.recipe import recipe_of
from pipeline.costs.shapes import Shape, shape_of
from pipeline.costs.survey import Misfit, Survey
from pipeline.errors import AssetError
from pipeline.tasks import kind_of, training_sources
from pipeline.training import fit
from tests.pipeline import made_up, tiny

A100 = GPUS["a100-80gb"]
MODELS = {"minilm": "sst2", "t5-mini": "wmt16-en-ro", "smollm2-135m": "alpaca"}


def shape(run: RunConfig) -> Shape:
    return shape_of(run.identity(), run.evaluation_identity()["scoring"], run.profile)


def real_step(run: RunConfig) -> int:
    """Counts the operations of one step of the run's real model, on a batch of the full length."""
    base = kind_of(run).load_model(run, training_sources(run)["model"], torch.float32)
    model = methods.apply(base, run).train()
    described = shape(run)
    ids = torch.zeros(run.budget.batch_size, described.source_length, dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[:, -1] = 0
    labels = {
        "encoder": ids[:, 0],
        "encoder-decoder": ids[:, : described.target_length],
        "decoder": ids,
    }[run.model.kind]
    counter = FlopCounterMode(display=False, custom_mapping=flops.IN_PLACE)
    with counter:
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
    return counter.get_total_flops()


@pytest.mark.integration
@pytest.mark.parametrize("method", ["full-ft", "lora", "lora-fa", "prompt-tuning"])
@pytest.mark.parametrize("model", MODELS)
def test_operations_of_a_step_are_those_of_a_real_one(compose, model, method):
    if method == "prompt-tuning" and model != "minilm":
        pytest.skip("the paper tunes prompts of encoders alone")
    overrides = [f"model={model}", f"method={method}", f"task={MODELS[model]}", "budget.batch_size=4"]
    run = compose(*overrides, f"model.frozen_dtype={'float32'}")
    assert measure.training_flops(recipe_of(shape(run))) == pytest.approx(real_step(run), rel=0.01)


def test_operations_by_the_rule_of_thumb(compose):
    """6 operations for each weight and token in full fine-tuning, about 4 over a frozen base; attention besides."""
    found = {}
    for method in ("full-ft", "lora-fa"):
        run, _ = compose_run(["profile=paper", "model=llama-7b", "task=alpaca", f"method={method}"])
        found[method] = measure.training_flops(recipe_of(shape(run))) / (32 * 512)
    weights = 6_738_415_616 - 32_000 * 4096  # of the embeddings nothing is multiplied
    assert found["full-ft"] == pytest.approx(6 * weights, rel=0.05)
    assert found["lora-fa"] == pytest.approx(4 * weights, rel=0.10)


@pytest.mark.integration
def test_steps_evaluations_and_bytes_are_those_of_a_real_run(compose, tmp_path):
    epochs = ["budget.max_steps=null", "budget.epochs=2", "profile.budgets.minilm.evaluations=3"]
    run = compose("model=minilm", "method=lora-fa", "task=mnli", *epochs)
    cost = cost_of(run)
    outcome = fit.fit(run, tmp_path, "hash")
    assert cost.steps == outcome.info.steps == 2 * 64 // 8
    assert cost.evaluations == len(outcome.info.evaluations)
    assert cost.sources == {sizes.ON_DISK}
    saved = (tmp_path / "model/adapter_model.safetensors").stat().st_size
    assert saved - 20_000 < cost.saved_bytes < saved  # the file has names, too
    assert cost.precision == run.model.frozen_dtype and cost.training_bytes > cost.saved_bytes
    half = compose("model=minilm", "method=lora-fa", "task=mnli", *epochs, "model.frozen_dtype=bfloat16")
    assert cost_of(half).precision == "bfloat16"


def test_a_gpu_takes_its_operations_over_its_peak():
    cost = Cost(1, 0, 2e15, 0, 1e15, 0, 2.039e12, "bfloat16", 1, 1, 1, 1, 0, 0, frozenset())
    assert cost.seconds(A100, utilisation=0.5) == pytest.approx(2e15 / 156e12)
    assert cost.seconds(A100, "evaluation", 0.5) == pytest.approx(1e15 / 156e12 + 1 / 0.8)
    slow = replace(cost, precision="float32")
    assert slow.seconds(A100) == pytest.approx(cost.seconds(A100) * 312 / 19.5)


def test_published_sizes_are_taken_where_there_is_no_data(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    sizes._on_disk.cache_clear()
    run, _ = compose_run(["profile=paper", "model=roberta-base", "task=mnli", "method=lora"])
    described = run.identity(), run.evaluation_identity()["scoring"], run.profile
    found = sizes.examples_of(*described)
    assert (found.train, found.validation, found.scored) == (392_702, 9_815 + 9_832, 9_815 + 9_832)
    assert found.sources == {sizes.PUBLISHED}
    cached = tmp_path / "datasets--nyu-mll--glue"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("abc")
    rows = {"train": 100, "validation_matched": 10, "validation_mismatched": 20}
    splits = {name: Dataset.from_dict({"label": [0] * count}) for name, count in rows.items()}
    card = tiny.write_splits(cached / "snapshots/abc", splits, "mnli")
    tiny.write_card(cached / "snapshots/abc", card)
    sizes._on_disk.cache_clear()
    found = sizes.examples_of(*described)
    assert (found.train, found.validation, found.sources) == (100, 30, {sizes.ON_DISK})
    sizes._on_disk.cache_clear()
    with pytest.raises(AssetError, match=r"no/such, default, train: its examples are neither"):
        sizes.published_examples("no/such", "default", "train")


def test_a_mirror_need_not_have_every_configuration_that_its_card_names(compose, tmp_path):
    glue = tmp_path / "datasets/nyu-mll/glue"
    tiny.write_glue(glue)
    card = glue / "README.md"
    first = "configs:\n- config_name: ax\n  data_files:\n  - split: test\n    path: ax/test-*\n"
    card.write_text(card.read_text().replace("configs:\n", first))
    run = compose("task=cola", f"profile.mirror={tmp_path}")
    found = sizes.examples_of(run.identity(), run.evaluation_identity()["scoring"], run.profile)
    assert (found.train, found.validation, found.sources) == (64, 32, {sizes.ON_DISK})
    identity = {**run.identity(), "task": {**run.identity()["task"], "held_out": 0.1}}
    found = sizes.examples_of(identity, run.evaluation_identity()["scoring"], run.profile)
    assert (found.train, found.validation, found.scored) == (57, 7, 7)
    assert sizes._on_disk("nyu-mll/glue", "main", "ax", str(tmp_path)) == {}


@pytest.mark.slow
def test_llama_full_fine_tuning_does_not_fit_80_gb_and_lora_fa_does():
    def step(method: str, size: int) -> Shape:
        overrides = ["model=llama-7b", "task=alpaca", f"method={method}", f"budget.batch_size={size}"]
        return shape(compose_run(["profile=paper", *overrides])[0])

    assert measure.needed(step("full-ft", 1)) > A100.memory  # weights, gradients and states alone are 100 GiB
    assert measure.needed(step("lora-fa", 16)) < A100.memory < measure.needed(step("lora", 16))
    assert measure.safely(replace(step("full-ft", 32), gpus=8)) < A100.memory  # Table 4's batch


def test_what_makes_a_shape_fit_is_the_largest_batch_that_does(compose):
    asked = shape(compose("model=minilm", "method=lora-fa", "task=sst2", "budget.batch_size=64"))
    smaller = replace(asked, batch_size=40)
    memory = measure.safely(smaller)
    [*_, (setting, size)] = measure.remedies(asked, memory)
    assert setting == "budget.batch_size=40" and size == measure.needed(smaller)
    assert measure.remedies(asked, 1) == []


def test_several_gpus_share_the_batch_and_the_frozen_weights(compose):
    alone = shape(compose("model=minilm", "method=lora-fa", "task=sst2", "budget.batch_size=64"))
    together = replace(alone, gpus=4)
    step, part = recipe_of(alone), recipe_of(together)
    assert (part.batch_size, part.shards) == (step.batch_size // 4, 4)
    assert measure.needed(together) < measure.needed(alone)
    assert measure.measure(together).training_flops == measure.measure(alone).training_flops


def test_with_full_fine_tuning_several_gpus_share_everything(compose):
    alone = shape(compose("model=minilm", "method=full-ft", "task=sst2", "budget.batch_size=64"))
    together = replace(alone, gpus=4)
    part = recipe_of(together)
    assert (part.batch_size, part.shards, part.sharding) == (16, 4, "zero-3")
    assert measure.needed(together) < measure.needed(alone)


@pytest.fixture(scope="module")
def arguments(tiny_overrides, tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("plan")
    return [
        *(override for override in tiny_overrides if not override.startswith("profile.cache=")),
        f"profile.cache={folder}/cache",
        f"profile.results={folder}/results",
        "profile.experiments=[search,table2,table1]",
        "profile.glue_tasks=[mrpc,sst2]",
        made_up.searched("1e-3", "2e-3"),
    ]


@pytest.fixture(scope="module")
def plan(arguments) -> Plan:
    return plan_of_arguments(arguments)


def test_runs_are_those_of_the_plan_and_each_shape_is_estimated_once(plan, monkeypatch):
    estimated = []
    monkeypatch.setattr(
        measure, "measure", lambda one, real=measure.measure: estimated.append(one) or real(one)
    )
    measured.cache_clear()
    survey = Survey(plan, None, [A100], 0.4)
    assert survey.line(survey.runs).runs == len(survey.runs) == len(plan.wanted())
    assert {one.run.directory for one in survey.runs} == set(plan.wanted())
    assert len(estimated) == len(set(estimated)) == 4  # one for each method, however many seeds and rates
    lines = {name: survey.line(runs) for name, runs in survey.experiments.items()}
    assert {name: line.runs for name, line in lines.items()} == {
        name: len({run.directory for run in plan.grids[name]}) for name in ("search", "table2")
    }
    shared = {one.run.directory for one in survey.experiments["search"]} & {
        one.run.directory for one in survey.experiments["table2"]
    }
    total = survey.line(survey.runs)
    assert total.runs == sum(line.runs for line in lines.values()) - len(shared)
    assert total.steps == 6 * total.runs and survey.without_runs == ["table1"]
    measured.cache_clear()
    Survey(plan, None, [A100], 0.4)
    assert len(estimated) == 4, "the second look takes them from the disk"


@pytest.mark.integration
def test_two_ways_stand_side_by_side(plan, arguments):
    seeds = plan_of_arguments([*arguments, "profile.seeds=[0]"])
    ways = [Survey(one, "table2", [A100], 0.4) for one in (plan, seeds)]
    view = command.comparison_table(*ways)
    assert [column.header for column in view.columns[1:3]] == ["runs, mini", "runs, mini"]
    *_, (name, *numbers) = zip(*(column.cells for column in view.columns), strict=True)
    assert name == "all" and numbers[:2] == [str(len(way.runs)) for way in ways]
    assert len(ways[0].runs) > len(ways[1].runs)


@pytest.mark.integration
def test_tf32_has_another_peak_and_the_same_operations(compose):
    words = ["model=minilm", "method=lora", "task=sst2", "model.frozen_dtype=float32"]
    full, short = cost_of(compose(*words)), cost_of(compose(*words, "trainer.tf32=true"))
    assert (full.precision, short.precision) == ("float32", "tf32") and full.flops == short.flops
    assert short.seconds(A100) == pytest.approx(full.seconds(A100) * 19.5 / 156)
    half = compose(*words[:3], "model.frozen_dtype=bfloat16", "trainer.tf32=true")
    assert cost_of(half).precision == "bfloat16"


@pytest.mark.parametrize(
    ("settings", "way"),
    [
        (["budget.micro_batch=8", "trainer=fsdp profile.gpus=2"], "with a micro-batch"),
        (["trainer=fsdp profile.gpus=4", "budget.batch_size=2"], "on several GPUs alone"),
        (["budget.batch_size=2", "method=qlora"], "not with these losses"),
    ],
)
def test_what_fits_is_told_by_what_leaves_the_losses_alone(settings, way):
    misfit = Misfit("a100-80gb", "m", "lora", 32, 512, 1, 2, 3, [(setting, 1) for setting in settings])
    assert command._way(misfit) == way


def test_searched_runs_are_not_scored_and_tables_are(plan):
    survey = Survey(plan, "table2", [A100], 0.4)
    assert [one.scored for one in survey.experiments["search"]] == [False] * len(survey.experiments["search"])
    assert all(one.scored for one in survey.experiments["table2"])


def main(monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["plan", *words])
    command.main()


def test_json_says_what_the_survey_does(plan, arguments, monkeypatch, capsys):
    main(monkeypatch, *arguments, "--json", "--gpu", "a100-80gb", "--price-per-hour", "2", "--jobs", "3")
    found = json.loads(capsys.readouterr().out)
    survey = Survey(plan, None, [A100], 0.4)
    total = survey.line(survey.runs)
    assert found["total"]["runs"] == total.runs == len(found["runs"])
    assert (
        found["total"]["flops"]
        == total.flops
        == sum(run["training_flops"] + run["evaluation_flops"] * run["scored"] for run in found["runs"])
    )
    seconds = found["total"]["seconds"]["a100-80gb"]
    assert seconds == pytest.approx(sum(run["seconds"]["a100-80gb"] for run in found["runs"]))
    assert found["total"]["cost"] == pytest.approx(2 * seconds / 3600)
    assert found["wall_seconds"]["a100-80gb"] == pytest.approx(seconds / 3)
    assert found["will_not_fit"] == []


def test_the_tables_have_a_line_for_each_experiment(arguments, monkeypatch, capsys):
    main(monkeypatch, "results/tables/table2.md", *arguments)
    printed = capsys.readouterr().out
    assert "search" in printed and "table2" in printed and "table1" not in printed.split("Without")[0]
    assert "datasets/nyu-mll/glue" in printed and "What will not fit" not in printed
    assert re.search(r"Of 4 steps \(.*\), on a100-80gb: 4\s+fit\s+as they are\.", printed, re.DOTALL)
    assert "\x1b" not in printed


def test_downloads_are_measured_published_or_unknown(compose, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    mirrored, hub = (
        compose("model=minilm").profile,
        compose_run(["profile=paper", "model=roberta-base"])[0].profile,
    )
    glue = download("datasets/nyu-mll/glue", {"mrpc"}, None, mirrored, built=False)
    files = [file for file in Path(mirrored.mirror, "datasets/nyu-mll/glue").rglob("*") if file.is_file()]
    assert glue.size == sum(file.stat().st_size for file in files) and not glue.to_do
    model = download("models/FacebookAI/roberta-base", set(), 1000, hub, built=False)
    assert model.size == 4000 and model.to_do
    assert download("datasets/SirNeural/flan_v2", {"default"}, None, hub, built=False).at_least
    assert download("datasets/cais/mmlu", {"all"}, None, hub, built=False).size is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpu", "abacus"], "--gpu abacus: not known; choose of"),
        (["--utilisation", "1.5"], "--utilisation must be above 0"),
        (["--gpu", "all", "--price-per-hour", "1"], "is that of one GPU"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["no-such-table"], "no target 'no-such-table'"),
        (["table1"], "table1 has no runs"),
    ],
)
def test_bad_input_is_one_line(arguments, monkeypatch, capsys, words, message):
    with pytest.raises(SystemExit) as stopped:
        main(monkeypatch, *words, *arguments)
    error = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and message in error and "\n" not in error


def test_no_hub_is_asked_for_what_the_mirror_is_still_to_be_built_with(compose, tmp_path):
    run = compose(
        "model=minilm", "method=lora", "task=sst2", f"profile.mirror={tmp_path}", "profile.build_mirror=mini"
    )
    with pytest.raises(AssetError, match=r"has no models/.*`snakemake --cores 1 mirror` builds it"):
        shape(run)


def test_an_unknown_model_is_named(compose):
    asked = shape(compose("model=minilm", "method=lora", "task=sst2"))
    with pytest.raises(AssetError, match="no/such-model"):
        measure.measure(replace(asked, model="no/such-model.json"))
