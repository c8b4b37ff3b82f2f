# One job per run. The command is what a person would paste; the worker only spares it the imports.


wildcard_constraints:
    run="|".join(map(re.escape, PLAN.run_names())),


rule train:
    input:
        lambda wildcards: [
            f"{PLAN.profile.mirror}/{repository}/provenance.json"
            for repository in PLAN.mirrored(PLAN.run(wildcards.run))
        ],
    output:
        f"{PLAN.runs_folder}/{{run}}/metrics.json",
    log:
        f"{RESULTS}/logs/{{run}}.log",
    benchmark:
        f"{RESULTS}/logs/{{run}}.tsv"
    conda:
        "../../environment.yml"
    threads: PLAN.profile.threads
    resources:
        gpu=PLAN.profile.gpus,
    params:
        identity=lambda wildcards: PLAN.run(wildcards.run).identity,
        overrides=lambda wildcards: PLAN.run(wildcards.run).overrides,
    shell:
        "python -m pipeline.worker run pipeline.train {params.overrides:q} 2> {log}"
        " || (grep -a '^error: ' {log} >&2 || tail -n 20 {log} >&2; exit 1)"
