"""The precision of frozen weights where a model leaves it to the machine: bfloat16 only where that is fast."""

from functools import cache

AUTO = "auto"
# What torch calls the instructions that multiply matrices in bfloat16: of x86 and of Arm.
_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
# The kernels of torch that have none of them, be it by ATEN_CPU_CAPABILITY.
_WITHOUT = ("DEFAULT", "AVX2")


def resolve(dtype: str, gpus: int) -> str:
    """Returns the precision that a model's `frozen_dtype` stands for.

    Where a CPU has no instructions for it, a product in bfloat16 takes about 13 times as long as in float32 (Zen 3,
    448 × 384 × 1536); where it has, a quarter.

    Args:
        dtype: A name of torch's, or `auto`: bfloat16 on GPUs and on CPUs that compute in it, else float32.
        gpus: Of the run; 0 for the CPU.
    """
    if dtype != AUTO:
        return dtype
    return "bfloat16" if gpus or cpu_has_bfloat16() else "float32"


@cache
def cpu_has_bfloat16() -> bool:
    """Whether this CPU, with the kernels that torch uses on it, multiplies matrices in bfloat16."""
    import torch  # takes two seconds, which only who leaves the choice to the machine needs

    kernels = torch.backends.cpu.get_cpu_capability()
    return kernels not in _WITHOUT and any(map(torch.cpu.get_capabilities().get, _INSTRUCTIONS))


def explanation(gpus: int) -> str:
    """Returns in a sentence what `auto` comes to here, and why."""
    if gpus:
        why = "GPUs compute in it"
    elif cpu_has_bfloat16():
        why = "this CPU computes in it"
    else:
        why = "this CPU has no instructions for products in bfloat16"
    return f"Frozen weights are in {resolve(AUTO, gpus)} where the machine decides: {why}."
