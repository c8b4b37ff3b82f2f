"""Where an experiment stands in the report: by the section of the paper. Imports nothing: the Snakefile reads it."""

# Snakemake sorts its categories by name, and so a section sign comes before the appendix.
SECTIONS = {
    "§2.2 Memory of a layer, parameters": ["table1", "parameters"],
    "§4.1.1 RoBERTa on GLUE": ["table2", "search", "verdicts"],
    "§4.1.2 T5 on WMT16 En-Ro": ["table3", "search_translation"],
    "§4.1.3 LLaMA on MMLU": ["table4"],
    "§4.2 Memory efficiency": ["table5", "figure2a", "figure2b", "figure2c"],
    "Appendix B.1 Memory breakdown": ["figure3"],
    "Appendix B.2 Convergence": ["figure4"],
    "Appendix B.3 Time and memory": ["figure5", "figure5_throughput"],
    "Appendix B.4 Hyper-parameters": ["table6", "table7", "figure6"],
    "Reviews and rebuttal": [
        *("capacity", "equal_memory", "equal_parameters", "lora_qv_ranks", "pareto"),
        *("rebuttal_batch_limits", "rebuttal_layers", "rebuttal_lengths", "rebuttal_ranks"),
        *("rebuttal_scales", "rebuttal_sni", "rebuttal_submodules"),
    ],
}
FOR_OTHERS = "Other"


def section_of(experiment: str) -> str:
    """Returns the section of the report that an experiment stands in."""
    return next((section for section, names in SECTIONS.items() if experiment in names), FOR_OTHERS)
