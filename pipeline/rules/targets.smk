# What people ask for: the paper's tables, its figures, what reviewers and authors added, our questions, or everything.


rule tables:
    default_target: True
    input:
        files_of(PLAN, "tables"),
        runs_of("tables"),


rule figures:
    input:
        files_of(PLAN, "figures"),
        runs_of("figures"),


rule rebuttal:
    input:
        files_of(PLAN, "rebuttal"),
        runs_of("rebuttal"),


rule questions:
    input:
        files_of(PLAN, "questions"),
        runs_of("questions"),


rule all:
    input:
        files_of(PLAN, "all"),
        runs_of("all"),
