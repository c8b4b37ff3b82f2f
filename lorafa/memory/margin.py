"""How much more than its estimate a step may take: the one place of these numbers, for whoever asks whether it fits."""

from lorafa.memory.sizes import GIB

# What a process holds on the device besides PyTorch's reserved memory: the CUDA context and loaded kernels.
# Source: "hardware reserved" in the paper's Figure 3.
CONTEXT = round(0.7 * GIB)
# How much more than its estimate a step may reserve. Of the 109 measurements of results/published/gpu_memory.csv that
# count, one exceeds it, by what PyTorch had reserved and did not use (15.6 % above the estimate; it allocated 1 % more
# than estimated), and the next is 7.7 % above its estimate. Source: `python -m pipeline.published`.
MARGIN = 0.1
# The same in words, after what the margin is of.
WITHIN = "which all but one of others' measurements stay within"


def needed(reserved: int) -> int:
    """Bytes of the device that a step with so many bytes reserved needs, by the estimate."""
    return reserved + CONTEXT


def safe(reserved: int) -> int:
    """Bytes of the device that a step with this estimate needs, with the margin."""
    return round(reserved * (1 + MARGIN)) + CONTEXT
