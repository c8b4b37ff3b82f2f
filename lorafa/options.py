"""The values that the options of LoRA-FA take; importing them does not import torch."""

from typing import Literal

# Those that need nothing but the shape of A, and "eva", which needs data.
DataFreeInit = Literal["kaiming_uniform", "normal", "ones", "orthogonal", "shards"]
InitA = Literal[DataFreeInit, "eva"]
Gradient = Literal["plain", "projected"]
# What costs no matrix product and changes no gradient, and what costs one or the other, or the host's memory.
FreeRecompute = Literal["norm", "activation", "dropout", "loss"]
Recompute = Literal[FreeRecompute, "activation-8bit", "qkv", "mlp", "block", "block-on-host"]
