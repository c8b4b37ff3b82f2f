# Searches: their winners decide which runs a tuned table or figure is made of, so the DAG is completed after them.


checkpoint select:
    input:
        lambda wildcards: PLAN.sources(wildcards.search),
    output:
        f"{RESULTS}/search/{{search}}.json",
    log:
        f"{RESULTS}/logs/search/{{search}}.log",
    benchmark:
        f"{RESULTS}/logs/search/{{search}}.tsv"
    wildcard_constraints:
        search="|".join(PLAN.searches()) or "none",
    priority: lambda wildcards: PRIORITIES.experiment(wildcards.search)
    conda:
        "../../environment.yml"
    params:
        runs=lambda wildcards: [run.directory for run in PLAN.runs_of(wildcards.search)],
        choice=lambda wildcards: PLAN.experiments[wildcards.search].choice,
        overrides=overrides,
    shell:
        "python -m pipeline.worker run --log {log:q} pipeline.select {wildcards.search} {params.overrides:q}"
