# Memory at full scale: the same for every profile.


rule memory:
    output:
        f"{RESULTS}/memory/{{experiment}}.csv",
    log:
        f"{RESULTS}/logs/memory/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/logs/memory/{{experiment}}.tsv"
    priority: FIRST
    conda:
        "../../environment.yml"
    params:
        follows_from=lambda wildcards: estimator(
            PLAN.experiments[wildcards.experiment].kind == "published"
        ),
    shell:
        "LORAFA_WORKER= OMP_NUM_THREADS=1 python -m pipeline.worker run --log {log:q} pipeline.memory predict {output:q}"
