"""The configuration of LoRA-FA."""

import copy
import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from peft import LoraConfig
from torch import nn

from lorafa.dispatch import new_layer
from lorafa.memory.sizes import bytes_of
from lorafa.options import FreeRecompute, Gradient, InitA, Recompute
from lorafa.refusals import refuse_unsupported

CONFIG_NAME = "lorafa_config.json"


@dataclass
class LoraFaConfig(LoraConfig):
    """LoRA with a frozen A (paper §3.1).

    To PEFT it is a LoraConfig: what it saves as adapter_config.json is plain LoRA, and the fields below are
    saved beside it as lorafa_config.json.

    Args:
        target_modules: As for LoRA, names or a regular expression; or "all-linear", "attention" or "qv",
            which `get_lora_fa_model` resolves (`lorafa.targets`).
        init_A: Initialisation of A. PEFT's "kaiming_uniform", as in the paper's tables; "normal", N(0, 1),
            and "ones", the paper's Table 6; "orthogonal", orthonormal rows, eq. 3; "shards", identities side
            by side, as in MiSS; "eva", the leading directions of the layers' inputs, which `initialize_eva` finds.
        gradient: "plain" is the paper's version 1; "projected" multiplies B's gradient by s⁻²(AAᵀ)⁻¹, a later
            version's, for whichever optimizer is used.
        recompute: What the base model computes again in backward instead of saving it (paper §3.2): any of
            "norm", "activation", "dropout", "loss", which cost no matrix product, "qkv", "mlp" and "block", which do,
            "block-on-host", which needs the host's memory, and "activation-8bit", which is approximate; True for those
            of the first four that there are, False for none. See `apply_recompute`.
        recompute_first: More of it, in the first blocks of each stack alone: the number of blocks for each kind.
        memory_budget: The device's memory, such as "24GiB", by which `get_lora_fa_model` decides the two options above
            for steps of 1 × 512 tokens; of other steps, its own argument says more.
        layer_fraction: Adapt only the last fraction of each stack of layers, in (0, 1] (paper, Figure 2b).

    Raises:
        ValueError: On an unknown or impossible value, and on options of LoRA that LoRA-FA does not support.
    """

    init_A: InitA = field(  # noqa: N815 (the paper's name)
        default="kaiming_uniform", metadata={"help": "Initialisation of the frozen A."}
    )
    gradient: Gradient = field(default="plain", metadata={"help": "Rescaling of B's gradient."})
    recompute: bool | list[Recompute] = field(default=False, metadata={"help": "What backward recomputes."})
    recompute_first: dict[str, int] = field(
        default_factory=dict, metadata={"help": "What the first blocks recompute, too."}
    )
    memory_budget: str | None = field(
        default=None, metadata={"help": "Memory of the device, which decides what is recomputed."}
    )
    layer_fraction: float = field(default=1.0, metadata={"help": "Fraction of the layers that is adapted."})

    def __post_init__(self) -> None:
        """Validate, and have PEFT build LoRA-FA layers."""
        super().__post_init__()
        refuse_unsupported(self)
        if self.recompute is True:
            self.recompute = list(get_args(FreeRecompute))
        self.recompute = sorted(self.recompute or [])
        _check_choice("init_A", [self.init_A], InitA)
        _check_choice("gradient", [self.gradient], Gradient)
        _check_choice("recompute", self.recompute, Recompute)
        _check_choice("recompute_first", list(self.recompute_first), Recompute)
        if self.memory_budget is not None:
            bytes_of(self.memory_budget)
        if not 0 < self.layer_fraction <= 1:
            raise ValueError(f"layer_fraction must be in (0, 1], not {self.layer_fraction}")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout must be in [0, 1), not {self.lora_dropout}")
        self._register_custom_module({nn.Module: new_layer})  # type: ignore[dict-item]  # any callable will do

    def to_lora_config(self) -> LoraConfig:
        """Return the part of this configuration that plain PEFT knows."""
        names = [f.name for f in dataclasses.fields(LoraConfig) if f.init]
        return LoraConfig(**{name: copy.copy(getattr(self, name)) for name in names})

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Save adapter_config.json for PEFT and lorafa_config.json for the rest."""
        self.to_lora_config().save_pretrained(save_directory, **kwargs)
        ours = {name: getattr(self, name) for name in _own_fields()}
        Path(save_directory, CONFIG_NAME).write_text(json.dumps(ours, indent=2, sort_keys=True))

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str, subfolder: str | None = None, **kwargs: Any
    ) -> "LoraFaConfig":
        """Load a configuration saved by LoRA-FA, or LoRA's own with the defaults for what it does not have.

        Args:
            pretrained_model_name_or_path: Directory or hub id.
            subfolder: Directory within it.
            kwargs: As for PEFT's `from_pretrained`.
        """
        lora = LoraConfig.from_pretrained(pretrained_model_name_or_path, subfolder=subfolder, **kwargs)
        ours = _read_own(pretrained_model_name_or_path, subfolder, **kwargs) or {}
        values = {f.name: getattr(lora, f.name) for f in dataclasses.fields(LoraConfig) if f.init}
        config = cls(**{**values, "init_lora_weights": True}, **ours)
        if str(lora.init_lora_weights).startswith(_CHANGING_THE_BASE):
            config.init_lora_weights = lora.init_lora_weights
        return config


# Initialisations that take the adapter's start out of the base weights, and so have to be repeated when a saved
# adapter is loaded; of the others nothing is left once A and B are read.
_CHANGING_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def is_lora_fa(path: str, subfolder: str | None = None, **hub: Any) -> bool:
    """Whether a saved adapter is one of LoRA-FA.

    Args:
        path: Directory or hub id.
        subfolder: Directory within it.
        hub: As for `hf_hub_download`.
    """
    return _read_own(path, subfolder, **hub) is not None


def _read_own(path: str, subfolder: str | None, **kwargs: Any) -> dict[str, Any] | None:
    """Read lorafa_config.json; None where there is none."""
    folder = Path(path, subfolder or "")
    try:
        file = folder / CONFIG_NAME
        if not folder.is_dir():
            hub, _, _ = LoraConfig._split_kwargs(kwargs)
            file = Path(
                hf_hub_download(path, CONFIG_NAME, subfolder=subfolder, **hub)  # revision is in `hub`  # nosec B615
            )
        ours: dict[str, Any] = json.loads(file.read_text())
    except (FileNotFoundError, EntryNotFoundError):
        return None
    if unknown := set(ours) - set(_own_fields()):
        raise ValueError(f"{file} has unknown keys: {', '.join(sorted(unknown))}")
    return ours


def _own_fields() -> list[str]:
    theirs = {f.name for f in dataclasses.fields(LoraConfig)}
    return [f.name for f in dataclasses.fields(LoraFaConfig) if f.name not in theirs]


def _check_choice(option: str, values: list[Any], choices: Any) -> None:
    if unknown := set(values) - set(get_args(choices)):
        raise ValueError(f"{option} must be of {get_args(choices)}, not {', '.join(map(repr, unknown))}")
