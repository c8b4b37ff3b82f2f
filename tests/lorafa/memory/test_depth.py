"""Which blocks a layer fraction means: the estimator and the library agree."""

import json

import pytest
import transformers

from lorafa.memory.depth import blocks_are_alike, full
from lorafa.memory.models import load_config
from lorafa.targets import carriers, layers, select_targets


@pytest.mark.parametrize("tenths", range(1, 11))
@pytest.mark.parametrize("depth", [1, 7, 32])
def test_the_estimator_adapts_the_blocks_that_the_library_does(depth, tenths):
    config = transformers.LlamaConfig(
        hidden_size=8, intermediate_size=8, vocab_size=10, num_hidden_layers=depth, num_attention_heads=1
    )
    model = transformers.LlamaForCausalLM(config)
    adapted = [
        f"model.layers.{i}" for i, carries in enumerate(full(config, tenths / 10).adapted[0]) if carries
    ]
    assert [name for name, _ in layers(model, tenths / 10)] == adapted
    targets = select_targets(model, "all-linear", tenths / 10)
    assert list(dict.fromkeys(".".join(name.split(".")[:3]) for name in targets)) == adapted
    assert len(adapted) == -(-depth * tenths // 10)  # rounded up


def test_a_fraction_is_rounded_up_without_the_noise_of_floating_point():
    assert sum(carriers(100, 0.07)) == 7  # 0.07 * 100 is a little more
    assert sum(carriers(32, 0.001)) == 1
    assert carriers(4, 1.0) == (True,) * 4


def test_blocks_that_differ_are_not_taken_for_each_other(tmp_path):
    sizes = {
        "vocab_size": 20,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    sizes |= {"num_hidden_layers": 6, "intermediate_size": 8, "num_experts": 4, "moe_intermediate_size": 4}
    for dense, alike in (([], True), ([1, 2], False)):
        path = tmp_path / "config.json"
        path.write_text(json.dumps({"model_type": "qwen3_moe", "mlp_only_layers": dense, **sizes}))
        assert blocks_are_alike(load_config(str(path))) == alike
