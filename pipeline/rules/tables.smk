# Tables in Markdown, LaTeX, CSV and HTML from the records of the runs.


rule tables:
    default_target: True
    input:
        expand(f"{RESULTS}/tables/{{table}}.md", table=PLAN.experiments),
        [source for table in PLAN.experiments for source in PLAN.sources(table)],  # else a deleted run stays deleted


rule table:
    input:
        lambda wildcards: PLAN.sources(wildcards.table),
    output:
        multiext(f"{RESULTS}/tables/{{table}}", ".md", ".tex", ".csv", ".html"),
    log:
        f"{RESULTS}/logs/tables/{{table}}.log",
    benchmark:
        f"{RESULTS}/logs/tables/{{table}}.tsv"
    wildcard_constraints:
        table="|".join(PLAN.experiments),
    conda:
        "../../environment.yml"
    params:
        layout=lambda wildcards: PLAN.layout(wildcards.table),
        overrides=[f"profile={PROFILE}", *OVERRIDES],
    shell:
        "python -m pipeline.worker run pipeline.tables {wildcards.table} {params.overrides:q} > {log} 2>&1"
        " || (tail -n 20 {log} >&2; exit 1)"
