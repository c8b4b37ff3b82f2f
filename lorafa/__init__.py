"""LoRA-FA: low-rank adaptation with a frozen A, which saves only XA for the backward pass."""
