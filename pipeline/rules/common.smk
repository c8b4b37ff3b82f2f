# What several rules ask of the plan.


def mirror_root(provenance, repository):
    """The mirror's folder: what is above `models/...` and `datasets/...`."""
    return Path(provenance).parents[len(Path(repository).parts)]


def provenance_of(repositories):
    """What says that repositories of the profile's own mirror are built."""
    return [
        f"{PLAN.profile.mirror}/{repository}/provenance.json"
        for repository in PLAN.mirrored(repositories)
    ]


def check_before_work():
    """Makes sure that results can be written, that a given mirror has what is read, and that no report mixes."""
    files.make_folder(Path(RESULTS))
    jobs = list(workflow.dag.needrun_jobs())
    for job in jobs if PLAN.profile.mirror else ():
        if job.rule.name in ("train", "evaluate"):
            run = PLAN.run(job.wildcards_dict["run"])
            scoring = run.benchmarks if job.rule.name == "evaluate" else []
            for repository in sorted(
                {*run.repositories, *scoring} - PLAN.mirror.keys()
            ):
                assets.in_mirror(repository, PLAN.profile.mirror)
    if any(job.rule.name == "overview" for job in jobs):
        refuse_mix(PLAN, OVERRIDES)


def as_param(identity):
    """What Snakemake compares."""
    return json.dumps(identity, sort_keys=True)


def sources(experiment):
    """The files that an experiment is made of, once the searches that choose them are finished."""
    for search in PLAN.searches_of(experiment):
        checkpoints.select.get(search=search)
    if PLAN.experiments[experiment].halving:
        checkpoints.promote.get(search=experiment)
    return PLAN.sources(experiment)


def runs_of(target):
    """The files of the runs that a target is made of: or a run that was deleted would stay deleted."""
    return lambda wildcards: [
        source
        for experiment in experiments_of(PLAN, target)
        for source in sources(experiment)
    ]


def overrides(wildcards, output):
    """What commands that read the plan are given. Snakemake takes no note of parameters that ask for `output`."""
    return [f"profile={PROFILE}", *OVERRIDES]


def reported(wildcard):
    """How the report files a table or figure: its caption, its section of the paper and its title."""
    return {
        "caption": "../report/result.rst",
        "category": lambda wildcards: PLAN.experiments[wildcards[wildcard]].category,
        "labels": lambda wildcards: {
            "Result": PLAN.experiments[wildcards[wildcard]].title,
            "As": wildcard,
        },
    }


def asked(what, part):
    """What a job asks of a cluster for its run; nothing, and nothing is estimated, where no cluster is asked."""

    def ask(wildcards, attempt):
        if workflow.local_exec or not workflow.is_main_process:
            return None
        from pipeline.costs.requests import requested

        run = PLAN.run(wildcards.run)
        try:
            return getattr(requested(run, PLAN.profile, GPU, attempt, part), what)
        except PipelineError as error:
            raise WorkflowError(str(error)) from None

    return ask
