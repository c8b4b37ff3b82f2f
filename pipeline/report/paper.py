"""What the paper claims, where, and which of our results decides."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pipeline.config.plan import Plan
from pipeline.report import judges
from pipeline.report.judges import Finding

AS_GOOD, SAVES = "as good", "saves"


@dataclass(frozen=True)
class Claim:
    """One statement of the paper.

    Attributes:
        text: The statement.
        section: Where the paper makes it.
        evidence: The experiments that show it; the first is the one that is judged.
        judge: Finds out whether it holds.
        answers: Which half of the report's question it is about, if any.
        topic: What it is about, where it answers.
    """

    text: str
    section: str
    evidence: tuple[str, ...]
    judge: Callable[[Plan], Finding]
    answers: str = ""
    topic: str = ""


CLAIMS = [
    Claim(
        "On GLUE, LoRA-FA is as accurate as LoRA: 85.7 against 85.2 with RoBERTa-base, 88.5 both with -large.",
        "4.1.1",
        ("table2", "verdicts"),
        partial(judges.as_good, table="table2", reference="lora"),
        AS_GOOD,
        "GLUE",
    ),
    Claim(
        "On GLUE, LoRA-FA is as accurate as full-parameter fine-tuning: 85.7 against 85.2, and 88.5 against 88.4.",
        "4.1.1",
        ("table2", "verdicts"),
        partial(judges.as_good, table="table2", reference="full-ft"),
    ),
    Claim(
        "On WMT16 En-Ro, LoRA-FA translates as well as LoRA: BLEU 27, 33.5 and 37 against 27, 32.8 and 37.",
        "4.1.2",
        ("table3", "verdicts"),
        partial(judges.as_good, table="table3", reference="lora"),
        AS_GOOD,
        "Translation",
    ),
    Claim(
        "On WMT16 En-Ro, LoRA-FA nearly reaches full-parameter fine-tuning with T5-base and T5-large.",
        "4.1.2",
        ("table3", "verdicts"),
        partial(judges.as_good, table="table3", reference="full-ft"),
    ),
    Claim(
        "On MMLU, LoRA-FA is as good as LoRA or better: 37.4 against 37.2 after Alpaca, 44 against 43.9 after FLANv2.",
        "4.1.3",
        ("table4", "verdicts"),
        partial(judges.as_good, table="table4", reference="lora"),
        AS_GOOD,
        "MMLU",
    ),
    Claim(
        "On MMLU, LoRA-FA is competitive with full-parameter fine-tuning: 37.4 against 37.6, and 44 against 45.2.",
        "4.1.3",
        ("table4", "verdicts"),
        partial(judges.as_good, table="table4", reference="full-ft"),
    ),
    Claim(
        "Peak memory is up to 1.4 times smaller than LoRA's; with LLaMA-7B 61.49 GB in place of 76.74 GB.",
        "Abstract, 4.2",
        ("table5",),
        partial(judges.saves, table="table5", reference="lora", claimed=1.4),
        SAVES,
        "Peak memory",
    ),
    Claim(
        "Peak memory is up to 4 times smaller than that of full-parameter fine-tuning: 27.5 GB in place of 112 GB "
        "with LLaMA-7B, in a setting that the paper does not name.",
        "Abstract, 1",
        ("table5",),
        partial(judges.saves, table="table5", reference="full-ft", claimed=4.0),
    ),
    Claim(
        "LoRA-FA trains half of LoRA's parameters.",
        "3.1",
        ("parameters",),
        partial(judges.fewer_parameters, table="parameters", claimed=2.0),
        SAVES,
        "Trainable parameters",
    ),
    Claim(
        "A LoRA-FA layer keeps XA alone, 2bsr bytes, where LoRA keeps 2bsd + 2bsr.",
        "2.2, Table 1",
        ("table1",),
        partial(judges.counted, table="table1"),
        SAVES,
        "Activations of a layer",
    ),
    Claim(
        "Activations shrink from 55.58 GB to 42.48 GB, 1.3 times, with Llama2-7B at batch size 16.",
        "B.1",
        ("figure3",),
        partial(judges.activations, table="figure3", claimed=1.3),
    ),
    Claim(
        "FlashAttention, QLoRA and ZeRO each lower LoRA-FA's memory further.",
        "4.2, Figure 2a",
        ("figure2a",),
        partial(judges.combines, table="figure2a"),
    ),
    Claim(
        "LoRA-FA needs less memory than LoRA whatever the number of adapted layers.",
        "4.2, Figure 2b",
        ("figure2b",),
        partial(judges.always_less, table="figure2b"),
    ),
    Claim(
        "LoRA-FA needs less memory than LoRA at every rank from 1 to 128.",
        "4.2, Figure 2c",
        ("figure2c",),
        partial(judges.always_less, table="figure2c"),
    ),
    Claim(
        "LoRA-FA needs less memory than LoRA at every batch size; the paper saw 3 to 8 GB less.",
        "B.3",
        ("figure5",),
        partial(judges.always_less, table="figure5"),
    ),
    Claim(
        "LoRA-FA is slightly faster than LoRA.",
        "B.3",
        ("figure5_throughput",),
        partial(judges.faster, table="figure5_throughput"),
    ),
    Claim(
        "LoRA-FA converges as fast as LoRA.",
        "B.2",
        ("figure4",),
        partial(judges.converges, figure="figure4"),
    ),
    Claim(
        "LoRA-FA is robust to the initialisation of A: 88.94 to 90.00 on MRPC.",
        "B.4.1",
        ("table6",),
        partial(judges.robust, table="table6", axis="method.init_A"),
    ),
    Claim(
        "The larger α, the smaller the learning rates that work.",
        "B.4.2",
        ("table7",),
        partial(judges.lower_rates, name="table7", folder="tables", axis="alpha"),
    ),
    Claim(
        "LoRA and LoRA-FA work with similar ranks and learning rates.",
        "B.4.3",
        ("figure6",),
        partial(judges.same_space, figure="figure6"),
    ),
    Claim(
        "The larger the rank, the smaller the best learning rate.",
        "B.4.3",
        ("figure6",),
        partial(judges.lower_rates, name="figure6", folder="figures", axis="rank"),
    ),
]
