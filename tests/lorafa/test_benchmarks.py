import json
import sys

import pytest
import torch
import transformers

from benchmarks import layer
from benchmarks._harness import METHODS, Adapter, measure
from benchmarks.step import LlamaLayer
from lorafa.targets import select_targets


def test_layer_benchmark(tmp_path, monkeypatch, capsys):
    path = tmp_path / "results.json"
    settings = ["--width", "128", "--sequence", "32", "--batch", "2", "--rank", "4", "--rounds", "2"]
    monkeypatch.setattr(sys, "argv", ["layer", *settings, "--json", str(path)])
    layer.main()
    content = json.loads(path.read_text())
    results = {result["method"]: result for result in content["results"]}
    assert list(results) == list(METHODS)
    assert content["floor"] == 2 * 2 * 32 * 4
    assert results["lora-fa"]["saved"] == content["floor"] + 8
    assert results["peft-frozen-a"]["saved"] == 2 * content["floor"] + 2 * 32 * 128
    assert results["peft-lora"]["time_ratio"] == 1
    assert all(result["seconds"] > 0 for result in results.values())
    assert all(method in capsys.readouterr().out for method in ["lora-fa-recompute"])


@pytest.mark.slow
def test_saved_bytes_of_a_llama_layer():
    """An eighth of LLaMA-7B in every dimension, so that the ratios are the same."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(hidden_size=512, intermediate_size=1376, num_attention_heads=4)
    model = LlamaLayer(config).to(torch.bfloat16)
    x = torch.randn(2, 64, 512, dtype=torch.bfloat16, requires_grad=True)
    adapter = Adapter(8, 0.05, select_targets(model, "all-linear"))
    results = measure(model, lambda model: model(x), adapter, METHODS, rounds=0)
    saved = {result.method: result.saved for result in results}
    lean, plain = saved["lora-fa-recompute"], saved["lora-fa"]
    assert lean <= 0.34 * saved["peft-lora"]
    assert lean <= 0.58 * saved["peft-frozen-a"]
    assert lean <= 0.42 * saved["peft-lora-half"]
    assert lean <= 0.58 * saved["peft-frozen-a-half"]
    assert plain <= 0.46 * saved["peft-lora"]
    assert plain == pytest.approx(129.76 / 64 * 2**20, rel=0.02)  # the full size's, measured
