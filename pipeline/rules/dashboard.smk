# The finished runs in Weights & Biases (docs/dashboard.md). It asks for no runs, and writes only what is new.


rule dashboard:
    log:
        f"{RESULTS}/logs/dashboard.log",
    conda:
        "../../environment.yml"
    params:
        overrides=overrides,
    shell:
        "python -m pipeline.worker run --log {log:q} pipeline.dashboard {params.overrides:q}; cat {log:q}"
