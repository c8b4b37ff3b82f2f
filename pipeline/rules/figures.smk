# Figures as SVG, PDF and PNG, from the files that the tables are made of.


rule figures:
    input:
        expand(f"{RESULTS}/figures/{{figure}}.svg", figure=PLAN.figures()),


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
    conda:
        "../../environment.yml"
    params:
        layout=lambda wildcards: PLAN.layout(wildcards.figure),
        overrides=[f"profile={PROFILE}", *OVERRIDES],
    shell:
        "python -m pipeline.worker run pipeline.figures {wildcards.figure} {params.overrides:q} > {log} 2>&1"
        " || (tail -n 20 {log} >&2; exit 1)"
