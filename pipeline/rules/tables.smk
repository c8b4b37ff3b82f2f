# Tables in Markdown, LaTeX, CSV and HTML from the records of the runs.


# Its inputs name the runs, too: or a run that was deleted would stay deleted.
rule tables:
    default_target: True
    input:
        expand(f"{RESULTS}/tables/{{table}}.md", table=PLAN.tables()),
        lambda wildcards: [
            source for table in PLAN.tables() for source in sources(table)
        ],


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
    conda:
        "../../environment.yml"
    params:
        layout=lambda wildcards: PLAN.layout(wildcards.table),
        overrides=[f"profile={PROFILE}", *OVERRIDES],
    shell:
        "python -m pipeline.worker run pipeline.tables {wildcards.table} {params.overrides:q} > {log} 2>&1"
        " || (tail -n 20 {log} >&2; exit 1)"
