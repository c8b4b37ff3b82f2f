# Searches: their winners decide which runs a tuned table or figure is made of, so the DAG is completed after them.
# Which runs a search by halving makes in full, its first rung decides.


checkpoint promote:
    input:
        lambda wildcards: [
            f"{run.directory}/metrics.json"
            for run in PLAN.first_rung(wildcards.search)
        ],
    output:
        f"{RESULTS}/search/{{search}}.promoted.json",
    log:
        f"{RESULTS}/logs/search/{{search}}.promoted.log",
    benchmark:
        f"{RESULTS}/logs/search/{{search}}.promoted.tsv"
    wildcard_constraints:
        search="|".join(PLAN.halved()) or "none",
    priority: lambda wildcards: PRIORITIES.experiment(wildcards.search)
    conda:
        "../../environment.yml"
    params:
        runs=lambda wildcards: [
            run.directory for run in PLAN.first_rung(wildcards.search)
        ],
        choice=lambda wildcards: PLAN.experiments[wildcards.search].choice,
        keep=lambda wildcards: PLAN.experiments[wildcards.search].halving.keep,
        overrides=overrides,
    shell:
        "python -m pipeline.worker run --log {log:q} pipeline.select --promote {wildcards.search} {params.overrides:q}"


checkpoint select:
    input:
        lambda wildcards: sources(wildcards.search),
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
        runs=lambda wildcards: [
            run.directory for run in PLAN.expected(wildcards.search)
        ],
        choice=lambda wildcards: PLAN.experiments[wildcards.search].choice,
        overrides=overrides,
    shell:
        "python -m pipeline.worker run --log {log:q} pipeline.select {wildcards.search} {params.overrides:q}"
