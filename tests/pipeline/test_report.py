"""The verdicts on the paper's claims, from numbers with known answers; the report in a browser without a network."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest

from pipeline import files
from pipeline.config.compose import CONF
from pipeline.config.plan import Plan
from pipeline.config.planner import make_plan
from pipeline.figures import __main__ as figures
from pipeline.report import judges, overview, runs
from pipeline.report.judges import GIB, Judgement, NotMadeError
from pipeline.report.paper import CLAIMS
from pipeline.tables import __main__ as tables
from pipeline.tables import render
from tests.pipeline import browser, made_up
from tests.pipeline.project import PARTS, SECRETS

ROOT = Path(__file__).parents[2]
CONFIRMED, NOT_CONFIRMED, INCONCLUSIVE = Judgement.CONFIRMED, Judgement.NOT_CONFIRMED, Judgement.INCONCLUSIVE


@pytest.fixture(scope="module")
def empty_plan(tmp_path_factory) -> Plan:
    figures = ("figure2a", "figure3", "figure4", "figure5", "figure5_throughput", "figure6")
    tables = ("verdicts", "parameters", "table5", "table6", "table7")
    return made_up.plan_of(tmp_path_factory.mktemp("judged"), *tables, *figures)


@pytest.fixture
def plan(empty_plan) -> Plan:
    """A plan without a table or figure."""
    for folder in ("tables", "figures"):
        shutil.rmtree(Path(empty_plan.profile.results, folder), ignore_errors=True)
    return empty_plan


def write(plan: Plan, name: str, rows: list[dict] | pd.DataFrame, folder: str = "tables") -> None:
    path = Path(plan.profile.results, folder, f"{name}.csv")
    files.write_text(path, pd.DataFrame(rows).to_csv(index=False))


# The claims


def test_every_experiment_has_a_heading_and_every_claim_its_evidence():
    experiments = {path.stem for path in (CONF / "experiment").glob("*.yaml")}
    assert {name for claim in CLAIMS for name in claim.evidence} <= experiments
    headings = {name: experiment.category for name, experiment in make_plan().experiments.items()}
    assert headings["table2"].startswith("§4.1.1") and headings["capacity"] == "Reviews and rebuttal"
    beyond = {name for name, heading in headings.items() if heading == "Beyond the paper"}
    assert beyond == {"gpu_memory", "what_fits"}
    assert "Paper" not in headings.values()


def test_without_results_no_claim_is_judged(plan):
    for claim in CLAIMS:
        with pytest.raises(NotMadeError, match=r"\.csv does not exist|this profile is without"):
            claim.judge(plan)
    facts = overview.facts(plan, runs.read(plan))
    assert {
        evidence: claim["verdict"]
        for claim in facts["claims"]
        for evidence in ("table5", "figure2b")
        if claim["found"].endswith((f"{evidence}.csv does not exist", f"without {evidence}"))
    } == {"table5": "not made", "figure2b": "left out"}
    assert {claim["verdict"] for claim in facts["claims"]} == {"not made", "left out"}
    assert not any(claim["links"] for claim in facts["claims"])


def test_a_profile_whose_numbers_mean_nothing_says_so(plan):
    facts = overview.facts(plan, runs.read(plan))
    assert facts["meaningful"] and overview.MEANINGLESS not in overview.table(facts).notice
    assert overview.table({**facts, "meaningful": False}).notice.startswith(overview.MEANINGLESS)
    assert not make_plan(profile="smoke").profile.judged


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["not inferior"], CONFIRMED),
        (["better", "not inferior"], CONFIRMED),
        (["better", "inconclusive"], INCONCLUSIVE),
        (["inconclusive", "inferior"], NOT_CONFIRMED),
        (["no verdict"], INCONCLUSIVE),
    ],
)
def test_as_good_is_what_the_verdicts_of_all_models_say(plan, verdicts, expected):
    common = {"table": "table2", "reference": "LoRA", "low": -0.6, "high": 0.8, "reason": ""}
    rows = [
        {**common, "model": f"M{n}", "task": "average", "difference": 0.1, "verdict": verdict}
        for n, verdict in enumerate(verdicts)
    ]
    rows += [{**rows[0], "task": "MRPC", "difference": -9.0, "verdict": "inferior"}]  # is in the average
    rows += [{**rows[0], "reference": "Full-FT", "verdict": "inferior"}]
    rows += [{**rows[0], "table": "table3", "verdict": "inferior"}]
    write(plan, "verdicts", rows)
    finding = judges.as_good(plan, "table2", "lora")
    assert finding.verdict == expected
    assert "M0: +0.1 points [−0.6, +0.8]" in finding.text and "9.0" not in finding.text


def test_by_the_papers_own_numbers_its_claims_on_memory_hold(plan):
    published = pd.read_csv(ROOT / "results/paper/table5.csv")
    sizes = pd.to_numeric(published.memory_gb, errors="coerce")
    cells = published.assign(fitted=sizes * GIB, paper="", nominal=0, allocated=0, saved=0)
    write(plan, "table5", cells[["model", "method", "paper", "nominal", "fitted", "allocated", "saved"]])
    against_lora = judges.saves(plan, "table5", "lora", 1.4)
    assert against_lora.verdict == CONFIRMED
    assert against_lora.text == "up to 1.4 × less: roberta-large, 22.5 → 15.7 GiB"
    assert judges.saves(plan, "table5", "full-ft", 4.0).verdict == NOT_CONFIRMED
    parts = pd.read_csv(ROOT / "results/paper/figure3.csv").set_index("component").loc["activation"]
    estimated = {"LoRA, estimated": parts.lora_gb, "LoRA-FA (the paper's), estimated": parts.lora_fa_gb}
    write(plan, "figure3", [{"component": "activations", **estimated}])
    assert judges.activations(plan, "figure3", 1.3).verdict == CONFIRMED
    assert judges.activations(plan, "figure3", 1.4).verdict == NOT_CONFIRMED


def memory(**sizes: list[float]) -> list[dict]:
    """Cells of a memory table, in GiB by batch size."""
    return [
        {
            "batch_size": 2**number,
            "method": method.replace("_", "-"),
            "optimization": "none",
            "paper": "",
            "fitted": size * GIB,
        }
        for method, values in sizes.items()
        for number, size in enumerate(values)
    ]


@pytest.mark.parametrize(("lora_fa", "expected"), [([9, 15], CONFIRMED), ([9, 20], NOT_CONFIRMED)])
def test_one_cell_without_a_saving_is_enough_against_always_less(plan, lora_fa, expected):
    write(plan, "figure5", memory(lora=[10, 20], lora_fa=lora_fa))
    assert judges.always_less(plan, "figure5").verdict == expected


@pytest.mark.parametrize(("flash", "expected"), [([8, 14], CONFIRMED), ([9, 14], NOT_CONFIRMED)])
def test_an_optimization_that_saves_nothing_somewhere_does_not_combine(plan, flash, expected):
    plain, lower = memory(lora_fa=[9, 15]), memory(lora_fa=flash)
    write(plan, "figure2a", [*plain, *({**row, "optimization": "flash-attention"} for row in lower)])
    assert judges.combines(plan, "figure2a").verdict == expected


@pytest.mark.parametrize(("speed", "expected"), [(2010, CONFIRMED), (1990, NOT_CONFIRMED)])
def test_faster_is_faster_at_every_batch_size(plan, speed, expected):
    speeds = {("lora", 1): 1000, ("lora-fa", 1): 1100, ("lora", 2): 2000, ("lora-fa", 2): speed}
    rows = [{"method": m, "batch_size": b, "tokens_per_second": v} for (m, b), v in speeds.items()]
    write(plan, "figure5_throughput", rows)
    assert judges.faster(plan, "figure5_throughput").verdict == expected


@pytest.mark.parametrize(("lora_fa", "expected"), [(50, CONFIRMED), (60, NOT_CONFIRMED)])
def test_parameters_are_compared_model_by_model(plan, lora_fa, expected):
    counts = {("a", "lora"): 100, ("a", "lora-fa"): lora_fa, ("b", "lora"): 300, ("b", "lora-fa"): 200}
    rows = [{"model": m, "method": f, "trainable_parameters": v} for (m, f), v in counts.items()]
    write(plan, "parameters", rows)
    assert judges.fewer_parameters(plan, "parameters", 2.0).verdict == expected


@pytest.mark.parametrize(("reached", "expected"), [(8, CONFIRMED), (12, CONFIRMED), (16, NOT_CONFIRMED)])
def test_convergence_may_be_one_evaluation_late(plan, reached, expected):
    curves = {"lora": 8, "lora-fa": reached}
    rows = [
        {"task": "cola", "method": method, "seed": seed, "quantity": "score", "step": step,
         "value": (70 if step >= first else 50) + seed}
        for method, first in curves.items() for seed in (0, 1) for step in (4, 8, 12, 16, 20)
    ]  # fmt: skip
    write(plan, "figure4", rows, "figures")
    finding = judges.converges(plan, "figure4")
    assert finding.verdict == expected
    assert f"CoLA: step {reached}, LoRA at step 8" in finding.text


def heatmap(score) -> list[dict]:
    return [
        {"method": method, "rank": rank, "lr": lr, "mean": score(method, rank, lr)}
        for method in ("lora", "lora-fa") for rank in (1, 8, 64) for lr in (1e-4, 1e-3, 1e-2)
    ]  # fmt: skip


@pytest.mark.parametrize(("deficit", "expected"), [(4, CONFIRMED), (6, NOT_CONFIRMED)])
def test_ranks_are_compared_at_their_best_learning_rates(plan, deficit, expected):
    best = {"lora": 1e-3, "lora-fa": 1e-2}
    write(
        plan,
        "figure6",
        heatmap(lambda f, r, lr: 80 - 20 * (lr != best[f]) - deficit * (f == "lora-fa" and r == 64)),
        "figures",
    )
    assert judges.same_space(plan, "figure6").verdict == expected


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        (lambda alpha: 1e-2 / alpha, CONFIRMED),
        (lambda alpha: 1e-4 * alpha, NOT_CONFIRMED),
        (lambda alpha: 1e-3, NOT_CONFIRMED),
        (lambda alpha: 1e-3 if alpha < 128 else 1e-4, INCONCLUSIVE),
    ],
)
def test_learning_rates_fall_by_more_than_chance(plan, best, expected):
    alphas = [2**n for n in range(8)]
    rates = {best(alpha) for alpha in alphas}
    rows = [{"alpha": a, "lr": lr, "mean": 90 if lr == best(a) else 60} for a in alphas for lr in rates]
    write(plan, "table7", rows)
    assert judges.lower_rates(plan, "table7", "tables", "alpha").verdict == expected


@pytest.mark.parametrize(
    ("worst", "works", "expected"),
    [(86.0, True, CONFIRMED), (84.0, True, NOT_CONFIRMED), (89.0, False, NOT_CONFIRMED)],
)
def test_an_initialisation_has_to_work_and_to_come_close(plan, worst, works, expected):
    rows = [{"method.init_A": "kaiming_uniform", "lr": 1e-3, "mean": 90.0, "works": True}]
    rows += [{"method.init_A": "ones", "lr": 1e-3, "mean": worst, "works": works}]
    rows += [
        {"method.init_A": "lora-fa-projected", "lr": 1e-3, "mean": 50.0, "works": False}
    ]  # none of the paper's
    write(plan, "table6", rows)
    assert judges.robust(plan, "table6", "method.init_A").verdict == expected


def test_what_freezing_costs_is_said_in_points(tmp_path):
    plan = made_up.plan_of(tmp_path, "question_memory", "question_gradient_sgd")
    lines = [
        {"setting": "LoRA, rank 8", "verdict": None},
        {"candidate": "A", "reference": "B", "difference": -7.26, "verdict": "inferior"},
        {"candidate": "C", "reference": "B", "difference": 0.5, "verdict": "not inferior"},
    ]
    write(plan, "question_memory", lines)
    gradient, memory = overview.facts(plan, runs.read(plan))["costs"]
    assert memory["found"] == "A loses 7.3 points to B; not inferior in 1 of 2 comparisons"
    assert gradient["found"].endswith("question_gradient_sgd.csv does not exist")


# The runs


def test_runs_have_their_command_code_packages_and_materials(tmp_path):
    plan = made_up.plan_of(tmp_path, "search")
    first, second, *_ = plan.runs_of("search")
    made_up.write(first, 0.8125)
    made_up.write(second, None, status="out_of_memory")
    found = runs.read(plan)
    page = render.html(runs.table(found))
    (row,) = re.findall(
        rf"<tr>(?:(?!</tr>).)*{re.escape(' '.join(first.overrides))}.*?</tr>", page, re.DOTALL
    )
    for cell in ("81.25 accuracy", "0123456789", "E1"):
        assert cell in row
    assert (
        "out of memory" in page and "E1: Python 3.11, torch 2.13.0, Linux, x86_64, 2 cores, no GPU." in page
    )
    assert "Read: some/model abc; some/data 1." in page
    (line, _) = csv.DictReader(io.StringIO(render.csv(runs.table(found))))
    assert json.loads(line["config"])["task"]["name"] == first.task
    facts = overview.facts(plan, found)
    assert (facts["runs"], facts["stand_ins"]) == (2, ["recast sentences"])
    assert facts["runs"] + facts["unfinished"] == len(plan.wanted())


# In a browser

QUANTITIES = {"trainable_parameters": 16, "weight": 64, "gradient": 32, "optimizer": 192, "activation": 128}


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """The report of a table and of a figure that have no runs, made by Snakemake in a copy of the project."""
    folder = tmp_path_factory.mktemp("report")
    for part in PARTS:
        source, target = ROOT / part, folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    layer = [
        {"method": method, "quantity": quantity, "formula": "", "predicted": size, "metered": size}
        for method in ("full-ft", "lora", "lora-fa")
        for quantity, size in QUANTITIES.items()
    ]
    speeds = {"lora": 1000.0, "lora-fa": 1100.0}
    throughput = [
        {"method": method, "batch_size": size, "tokens_per_second": size * speed}
        for method, speed in speeds.items()
        for size in (1, 2, 4)
    ]
    results = folder / "results/mini"
    for name, rows in {"table1": layer, "figure5_throughput": throughput}.items():
        files.write_text(results / f"memory/{name}.csv", pd.DataFrame(rows).to_csv(index=False))
    environment = {"PYTHONPATH": str(folder), "LORAFA_CACHE": str(folder / ".cache")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment |= SECRETS
    overrides = [f"profile.results={results}", "profile.experiments=[table1,figure5_throughput]"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        for job, experiment in (
            (tables, "table1"),
            (tables, "figure5_throughput"),
            (figures, "figure5_throughput"),
        ):
            patch.setattr(sys, "argv", ["job", experiment, *overrides])
            job.main()
        for options in (["--cores", "1", "--no-hooks"], ["--report", "report.html"]):
            command = ["snakemake", *options, "overview", "--config", f"overrides={' '.join(overrides)}"]
            result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            assert result.returncode == 0, result.stderr
    return folder / "report.html"


STEPS = {
    "first": "",
    "table": "document.querySelector('a[href*=\"tables/table1.html\"]').click()",
    "figure": "app.showResultInfo('FIGURE')",
    "curves": "document.querySelector('nav a[aria-label^=\"Show\"]').click()",
    "menu": "app.showCategory('Appendix B.3 Time and memory')",
    "rule": "app.setView({navbarMode: 'ruleinfo', ruleinfo: 'overview'})",
}
FIGURE = "results/mini/figures/figure5_throughput.html"  # below the project
BROWSE = """<script>
const steps = STEPS, views = {};
async function browse() {
  for (const [name, step] of Object.entries(steps)) {
    eval(step);
    await new Promise(resolve => setTimeout(resolve, 500));
    const prose = document.querySelector('#app .prose');
    views[name] = {html: document.querySelector('#app').innerHTML, width: prose && prose.scrollWidth};
  }
  document.documentElement.innerHTML = '<pre id="views"></pre>';
  document.querySelector('#views').textContent = encodeURIComponent(JSON.stringify(views));
}
addEventListener('load', () => setTimeout(browse, 500));
</script>"""


def browse(report: Path, size: str) -> dict[str, dict]:
    """Returns what a browser without a network shows of the report, one step after the other."""
    script = BROWSE.replace("STEPS", json.dumps(STEPS).replace("FIGURE", str(report.parent / FIGURE)), 1)
    head, _, tail = report.read_text().rpartition("</body>")
    copy = report.with_name("browsed.html")
    copy.write_text(f"{head}{script}</body>{tail}")
    return json.loads(unquote(re.search(r'<pre id="views">([^<]+)', browser.show(copy, size))[1]))


@pytest.fixture(scope="module")
def views(report) -> dict[str, dict]:
    return browse(report, "1280,800")


@pytest.mark.integration
def test_tokens_are_not_in_it(report):
    for file in (report, *(path for path in report.parent.rglob("*") if path.is_file())):
        assert not any(secret.encode() in file.read_bytes() for secret in SECRETS.values()), file


@pytest.mark.integration
def test_the_first_screen_answers_the_question(views):
    first = views["first"]["html"]
    assert "Is LoRA-FA as good as LoRA, and what does it save?" in first
    answers = first.partition("Every claim")[0]
    assert answers.count("left out") == 5 and "Activations of a layer</b>: 15 of 15 quantities" in answers
    assert all(section in first for section in ("§2.2", "Appendix B.3", "Runs"))


def framed(shown: str) -> str:
    (page,) = re.findall(
        r'<iframe[^>]* src="data:text/html;charset=utf8;(?:filename=[^;]+;)?base64,([^"]+)', shown
    )
    return b64decode(page).decode()


@pytest.mark.integration
def test_a_claim_leads_to_its_table_with_a_caption(views):
    shown = views["table"]["html"]
    assert "Table 1: memory of one linear layer" in framed(shown)
    assert "A LoRA-FA layer keeps XA alone" in shown and "15 of 15 quantities are exact" in shown


@pytest.mark.integration
def test_a_figure_has_a_caption_and_is_drawn(views):
    assert "LoRA-FA is slightly faster than LoRA." in views["figure"]["html"]
    assert "1.10 × LoRA's tokens per second" in views["figure"]["html"]
    assert "LoRA-FA (the paper's): 1100 at Batch size 1" in framed(views["curves"]["html"])


@pytest.mark.integration
def test_the_menu_keeps_a_figure_and_its_table_apart(views):
    shown = re.sub(r"<[^>]+>", " ", views["menu"]["html"])
    assert "Figure 5: throughput against batch size" in shown and re.search(r"figure\s+table", shown)


@pytest.mark.integration
def test_a_rule_shows_its_code(views):
    shown = re.sub(r"<[^>]+>", "", views["rule"]["html"])
    assert "python -m pipeline.worker run --log {log:q} pipeline.report" in shown


@pytest.mark.integration
def test_nothing_is_wider_than_a_small_screen(report):
    assert browse(report, "500,844")["first"]["width"] <= 500  # Chromium's windows are not narrower
