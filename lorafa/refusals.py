"""Options of PEFT's LoRA that LoRA-FA would train wrongly, and why."""

from peft.tuners.lora import LoraConfig

REASONS = {
    "use_dora": "DoRA normalises by the norm of W + sAB, which needs more than XA for backward",
    "lora_bias": "a bias beside B is not part of the method; train the base bias with bias='lora_only'",
    "use_qalora": "QALoRA pools the adapter's input",
    "alora_invocation_tokens": "the adapter is applied to all tokens",
    "arrow_config": "Arrow routes between adapters",
    "use_bdlora": "A is dense",
    "velora_config": "VeLoRA compresses the input that LoRA-FA does not keep",
    "monteclora_config": "MonteCLoRA samples the adapter weights",
    "kasa_config": "KaSA changes the base weights and trains a diagonal between A and B",
    "megatron_config": "Megatron's parallel layers are not supported",
    "layer_replication": "replicated layers share the base weights that the adapters of a layer refer to",
}


def refuse_unsupported(config: LoraConfig) -> None:
    """Refuse the options of LoRA that LoRA-FA would train wrongly.

    Raises:
        ValueError: Naming the option and the reason.
    """
    for option, reason in REASONS.items():
        if getattr(config, option, None):
            raise ValueError(f"LoRA-FA does not support {option}: {reason}")
    if config.init_lora_weights not in (True, False):
        raise ValueError(
            f"LoRA-FA does not support init_lora_weights={config.init_lora_weights!r}: choose A's with init_A"
        )
