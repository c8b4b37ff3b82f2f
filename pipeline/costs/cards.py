"""GPUs that a plan can be made for."""

from dataclasses import dataclass

from lorafa.memory.cards import CARDS
from pipeline.errors import ConfigError


@dataclass(frozen=True)
class Gpu:
    """What a GPU can do.

    Attributes:
        name: On the command line.
        half: Dense bfloat16 operations a second, accumulated in float32; float32's where it has no bfloat16.
        tf32: Dense operations a second on float32 matrices in TF32; float32's where it has no TF32.
        single: Float32 operations a second without TF32, which PyTorch does not use unless it is told to.
        bandwidth: Bytes a second of its memory.
    """

    name: str
    half: float
    tf32: float
    single: float
    bandwidth: float

    @property
    def memory(self) -> int:
        """Bytes that PyTorch finds on it."""
        return CARDS[self.name]

    def peak(self, precision: str) -> float:
        """Returns its operations a second in a precision, by PyTorch's name, or `tf32`."""
        return {"float32": self.single, "tf32": self.tf32}.get(precision, self.half)


# NVIDIA's data sheets and architecture white papers (the SXM form of V100, A100, H100 and H200), without sparsity.
# V100 has neither bfloat16 nor TF32.
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("v100-32gb", 15.7e12, 15.7e12, 15.7e12, 0.900e12),
        Gpu("rtx-3090", 71.0e12, 35.6e12, 35.6e12, 0.936e12),
        Gpu("rtx-4090", 165.2e12, 82.6e12, 82.6e12, 1.008e12),
        Gpu("rtx-a6000", 154.8e12, 77.4e12, 38.7e12, 0.768e12),
        Gpu("l40s", 362.05e12, 183e12, 91.6e12, 0.864e12),
        Gpu("a100-40gb", 312e12, 156e12, 19.5e12, 1.555e12),
        Gpu("a100-80gb", 312e12, 156e12, 19.5e12, 2.039e12),
        Gpu("h100-80gb", 989.4e12, 494.7e12, 66.9e12, 3.35e12),
        Gpu("h200-141gb", 989.4e12, 494.7e12, 66.9e12, 4.8e12),
    )
}
DEFAULT = ("a100-80gb", "h100-80gb", "rtx-4090")


def gpu(name: str) -> Gpu:
    """Returns a GPU by its name.

    Raises:
        ConfigError: It is not in the list.
    """
    if name not in GPUS:
        raise ConfigError(f"--gpu {name}: not known; choose of {', '.join(GPUS)}")
    return GPUS[name]
