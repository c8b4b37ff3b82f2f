"""The precision of frozen weights follows the machine, and is part of a run's identity."""

import pytest
import torch

from pipeline.config import precision
from pipeline.config.compose import compose_run


@pytest.fixture
def machine(monkeypatch):
    """A machine whose CPU has some instructions, as torch tells of it."""

    def pretend(kernels: str, *instructions: str) -> None:
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: kernels)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(instructions, True))
        precision.cpu_has_bfloat16.cache_clear()

    yield pretend
    precision.cpu_has_bfloat16.cache_clear()


@pytest.mark.parametrize(
    "kernels, instructions, expected",
    [
        ("AVX2", ["avx2"], "float32"),  # Zen 3
        ("AVX512", ["avx512_f", "avx512_vnni"], "float32"),  # Cascade Lake computes bfloat16 by float32
        ("AVX512", ["avx512_f", "avx512_bf16"], "bfloat16"),  # Zen 4
        ("AVX512", ["avx512_bf16", "amx_bf16"], "bfloat16"),  # Sapphire Rapids
        ("AVX2", ["avx512_bf16"], "float32"),  # ATEN_CPU_CAPABILITY=avx2
        ("NO AVX", ["neon", "bf16"], "bfloat16"),  # Graviton 3
        ("NO AVX", ["neon"], "float32"),
        ("DEFAULT", [], "float32"),
    ],
)
def test_auto_is_bfloat16_where_the_processor_computes_in_it(machine, kernels, instructions, expected):
    machine(kernels, *instructions)
    assert precision.resolve("auto", gpus=0) == expected
    assert expected in precision.explanation(gpus=0)


def test_a_run_says_what_auto_has_become(machine):
    machine("AVX512", "avx512_bf16")
    run, _ = compose_run(["model=minilm"])
    assert run.model.frozen_dtype == run.identity()["model"]["frozen_dtype"] == "bfloat16"


def test_gpus_and_overrides_have_their_own(machine):
    machine("AVX2")
    assert compose_run(["model=minilm", "profile.gpus=1"])[0].model.frozen_dtype == "bfloat16"
    assert compose_run(["model=minilm", "model.frozen_dtype=float16"])[0].model.frozen_dtype == "float16"
