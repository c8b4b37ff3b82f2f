# One job per run, and one to score it. The command is what a person would paste; the worker only spares it the imports.
# A run's identity alone decides whether it is trained again. Its overrides say more, such as threads; Snakemake takes no
# note of parameters that ask for `output`.


wildcard_constraints:
    run="model=.+/seed=[0-9]+",


rule train:
    input:
        lambda wildcards: provenance_of(PLAN.run(wildcards.run).repositories),
    output:
        f"{PLAN.runs_folder}/{{run}}/metrics.json",
    log:
        f"{RESULTS}/logs/{{run}}.log",
    benchmark:
        f"{RESULTS}/logs/{{run}}.tsv"
    priority: lambda wildcards: PRIORITIES.run(wildcards.run)
    conda:
        "../../environment.yml"
    threads: PLAN.profile.cores
    resources:
        gpu=PLAN.profile.gpus,
        mem=asked("mem", "training"),
        runtime=asked("runtime", "training"),
    params:
        identity=lambda wildcards: as_param(PLAN.run(wildcards.run).identity),
        overrides=lambda wildcards, output: PLAN.run(wildcards.run).overrides,
    shell:
        "python -m pipeline.worker run --log {log:q} pipeline.train {params.overrides:q}"


rule evaluate:
    input:
        record=f"{PLAN.runs_folder}/{{run}}/metrics.json",
        benchmarks=lambda wildcards: provenance_of(PLAN.run(wildcards.run).benchmarks),
    output:
        f"{PLAN.runs_folder}/{{run}}/evaluation.json",
    log:
        f"{RESULTS}/logs/{{run}}.evaluate.log",
    benchmark:
        f"{RESULTS}/logs/{{run}}.evaluate.tsv"
    priority: lambda wildcards: PRIORITIES.run(wildcards.run)
    conda:
        "../../environment.yml"
    threads: PLAN.profile.threads
    resources:
        gpu=min(1, PLAN.profile.gpus),
        mem=asked("mem", "evaluation"),
        runtime=asked("runtime", "evaluation"),
    params:
        identity=lambda wildcards: as_param(PLAN.run(wildcards.run).evaluation_identity),
        overrides=lambda wildcards, output: PLAN.run(wildcards.run).overrides,
    shell:
        "python -m pipeline.worker run --log {log:q} pipeline.evaluate {params.overrides:q}"
