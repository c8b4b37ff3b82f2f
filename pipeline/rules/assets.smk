# Models and data: a profile that has `build_mirror` builds its own mirror of the hub from pinned packages.


rule mirror:
    input:
        expand(
            f"{PLAN.profile.mirror}/{{repository}}/provenance.json",
            repository=PLAN.mirror,
        ),


rule repository:
    input:
        lambda wildcards: expand(
            f"{PLAN.profile.mirror}/{{repository}}/provenance.json",
            repository=PLAN.mirror_needs(wildcards.repository),
        ),
    output:
        f"{PLAN.profile.mirror}/{{repository}}/provenance.json",
    log:
        f"{PLAN.profile.cache}/logs/{{repository}}.log",
    benchmark:
        f"{PLAN.profile.cache}/logs/{{repository}}.tsv"
    wildcard_constraints:
        repository="|".join(PLAN.mirror) or "none",
    priority: lambda wildcards: PRIORITIES.repository(wildcards.repository)
    conda:
        "../../environment.yml"
    params:
        mirror=PLAN.profile.build_mirror,
        root=lambda wildcards, output: mirror_root(output[0], wildcards.repository),
        cache=lambda wildcards, output: PLAN.profile.cache,
        contents=lambda wildcards: PLAN.mirror[wildcards.repository],
    message:
        "Building {wildcards.repository} from pinned packages"
    shell:
        "LORAFA_WORKER= python -m pipeline.worker run --log {log:q} pipeline.assets build --mirror {params.mirror}"
        " --root {params.root:q} --cache {params.cache:q} {wildcards.repository}"
