# What Snakemake's report adds to the tables and figures: the paper's claims with our verdicts, and the runs' provenance.
# `make report` runs this rule, then `snakemake overview --report`.

# The templates see nothing but `config`.
FACTS = Path(RESULTS, "report/report.json")
config["report"] = json.loads(FACTS.read_text()) if FACTS.is_file() else None


rule overview:
    input:
        files_of(PLAN, "all"),
        runs_of("all"),
    output:
        multiext(f"{RESULTS}/report/claims", ".md", ".tex", ".csv", ".html"),
        multiext(f"{RESULTS}/report/runs", ".md", ".tex"),
        FACTS,
        report(
            f"{RESULTS}/report/runs.html",
            caption="../report/runs.rst",
            category="Runs",
            labels={"Result": "Runs, one line each"},
        ),
        report(
            f"{RESULTS}/report/runs.csv",
            caption="../report/runs.rst",
            category="Runs",
            labels={"Result": "Runs with configurations (CSV)"},
        ),
    log:
        f"{RESULTS}/logs/report.log",
    benchmark:
        f"{RESULTS}/logs/report.tsv"
    conda:
        "../../environment.yml"
    params:
        statistics=lambda wildcards: asdict(PLAN.statistics),
        overrides=overrides,
    shell:
        "python -m pipeline.worker run --log {log:q} pipeline.report {params.overrides:q}"
