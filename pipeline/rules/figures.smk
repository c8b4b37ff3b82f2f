# Figures as SVG, PDF and PNG, and as pages whose points say their numbers, from the files that the tables are made of.


rule figure:
    input:
        lambda wildcards: sources(wildcards.figure),
    output:
        multiext(f"{RESULTS}/figures/{{figure}}", ".svg", ".pdf", ".png", ".csv"),
        report(f"{RESULTS}/figures/{{figure}}.html", **reported("figure")),
    log:
        f"{RESULTS}/logs/figures/{{figure}}.log",
    benchmark:
        f"{RESULTS}/logs/figures/{{figure}}.tsv"
    wildcard_constraints:
        figure="|".join(PLAN.figures()) or "none",
    priority: lambda wildcards: PRIORITIES.experiment(wildcards.figure)
    conda:
        "../../environment.yml"
    params:
        layout=lambda wildcards: PLAN.layout(wildcards.figure),
        overrides=overrides,
    shell:
        "python -m pipeline.worker run --log {log:q} pipeline.figures {wildcards.figure} {params.overrides:q}"
