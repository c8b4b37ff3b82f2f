# Figures as SVG, PDF and PNG, from the files that the tables are made of.


rule figure:
    input:
        lambda wildcards: sources(wildcards.figure),
    output:
        multiext(f"{RESULTS}/figures/{{figure}}", ".pdf", ".png", ".csv"),
        report(f"{RESULTS}/figures/{{figure}}.svg", **reported("figure")),
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
