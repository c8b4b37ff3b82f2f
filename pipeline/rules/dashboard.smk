# The finished runs in Weights & Biases (docs/dashboard.md). It asks for no runs, and writes only what is new.


rule dashboard:
    log:
        f"{RESULTS}/logs/dashboard.log",
    conda:
        "../../environment.yml"
    params:
        overrides=[f"profile={PROFILE}", *OVERRIDES],
    shell:
        "python -m pipeline.dashboard {params.overrides:q} 2> {log}"
        " || (grep -a '^error: ' {log} >&2 || tail -n 20 {log} >&2; exit 1)"
