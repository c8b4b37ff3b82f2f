# Tables in Markdown, LaTeX, CSV and HTML from the records of the runs.


rule table:
    input:
        lambda wildcards: sources(wildcards.table),
    output:
        multiext(f"{RESULTS}/tables/{{table}}", ".md", ".tex", ".csv"),
        report(f"{RESULTS}/tables/{{table}}.html", **reported("table")),
    log:
        f"{RESULTS}/logs/tables/{{table}}.log",
    benchmark:
        f"{RESULTS}/logs/tables/{{table}}.tsv"
    wildcard_constraints:
        table="|".join(PLAN.tables()),
    priority: lambda wildcards: PRIORITIES.experiment(wildcards.table)
    conda:
        "../../environment.yml"
    params:
        layout=lambda wildcards: PLAN.layout(wildcards.table),
        overrides=overrides,
    shell:
        "python -m pipeline.worker run --log {log:q} pipeline.tables {wildcards.table} {params.overrides:q}"
