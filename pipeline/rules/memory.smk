# Memory at full scale: computed once for all tables and figures, the same for every profile.


rule memory:
    output:
        f"{PLAN.memory_folder}/{{file}}",
    log:
        f"{RESULTS}/logs/memory/{{file}}.log",
    benchmark:
        f"{RESULTS}/logs/memory/{{file}}.tsv"
    wildcard_constraints:
        file="|".join(map(re.escape, set(MEMORY_FILES.values()))),
    priority: FIRST
    conda:
        "../../environment.yml"
    threads: lambda wildcards: workflow.cores if wildcards.file == "estimates.csv" else 1
    params:
        follows_from=lambda wildcards: estimator(),
    shell:
        "LORAFA_WORKER= OMP_NUM_THREADS=1 python -m pipeline.worker run --log {log:q} pipeline.memory predict {output:q}"
        " --processes {threads}"
