"""LoRA-FA on each architecture beside PEFT's LoRA with A frozen by hand."""

import warnings

import peft
import pytest
import torch

from lorafa import LoraFaConfig, audit, get_lora_fa_model, load
from lorafa.layers import LoraFaLayer
from tests.lorafa.architectures import ARCHITECTURES, Architecture

each = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)
MIXTURES = {a.name: a for a in ARCHITECTURES if a.family == "MoE"}
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def adapted(architecture, **options):
    targets = architecture.targets if isinstance(architecture.targets, str) else list(architecture.targets)
    return get_lora_fa_model(
        architecture.build(), LoraFaConfig(**{"r": 2, "target_modules": targets, **options})
    )


def randomize(ours, theirs):
    torch.manual_seed(2)
    for name, p in theirs.named_parameters():
        if ".lora_" in name:
            p.data.normal_(std=0.2)
            ours.get_parameter(name).data.copy_(p)
            if "_A." in name:
                p.requires_grad_(False)


def step(model, inputs):
    """Output, and the gradients of what trains."""
    output = model(**inputs)
    y = output.logits if hasattr(output, "logits") else output.last_hidden_state
    (y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
    return y.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@each
def test_equals_peft_and_trains(architecture: Architecture):
    ours = adapted(architecture)
    theirs = peft.get_peft_model(architecture.build(), ours.peft_config["default"].to_lora_config())
    randomize(ours, theirs)
    audit(ours).check()
    inputs = architecture.inputs()
    (y, grads), (y_theirs, grads_theirs) = step(ours, inputs), step(theirs, inputs)
    torch.testing.assert_close(y, y_theirs, rtol=1e-4, atol=1e-5)
    assert grads and grads.keys() == grads_theirs.keys()
    for name, gradient in grads.items():
        largest = grads_theirs[name].abs().max().item()
        torch.testing.assert_close(gradient, grads_theirs[name], rtol=1e-4, atol=1e-4 * largest + 1e-6)
    before = {name: p.clone() for name, p in ours.named_parameters()}
    torch.optim.SGD([p for p in ours.parameters() if p.requires_grad], 0.1).step()
    changed = {name for name, p in ours.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name, gradient in grads.items() if gradient.any()}


def names(model):
    """Adapted modules and parameters of the second layer, by their own names."""
    found = set()
    for name, module in model.named_modules():
        if isinstance(module, LoraFaLayer) and ".layers.1." in name:
            found.add(getattr(module, "parameter_name", name.rpartition(".")[2]))
    return found


@pytest.mark.parametrize("name", MIXTURES)
def test_all_linear_adapts_fused_experts(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = adapted(MIXTURES[name])
    assert {"o_proj", "gate_up_proj", "down_proj"} <= names(model)
    if name == "DeepSeek-V3":  # its first layer is dense, its second has a shared expert
        assert sum(
            "base_layer" in n and "shared_experts.gate_proj.base" in n for n, _ in model.named_parameters()
        )
        assert any("layers.0.mlp.up_proj.lora_B" in n for n, _ in model.named_parameters())


@pytest.mark.parametrize("name", MIXTURES)
def test_with_dropout_a_warning_names_what_is_left_out(name):
    with pytest.warns(UserWarning, match=r"not adapted: .*\.gate_up_proj.*lora_dropout=0") as caught:
        model = adapted(MIXTURES[name], lora_dropout=0.1)
    assert len([w for w in caught if "not adapted" in str(w.message)]) == 1
    assert "gate_up_proj" not in names(model)


@pytest.mark.parametrize("name", ["Qwen3-MoE", "DeepSeek-V3"])
def test_names_of_experts_of_older_checkpoints(name):
    """PEFT takes them for the fused parameters, of twice the rank where two projections are one."""
    targets = ["q_proj", "gate_proj", "up_proj", "down_proj"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = adapted(MIXTURES[name], target_modules=targets)
    assert {"gate_up_proj", "down_proj"} <= names(model)
    left = [str(w.message) for w in caught if "not adapted" in str(w.message)]
    assert len(left) == (name == "DeepSeek-V3")
    assert not left or ("layers.0.mlp.gate_proj" in left[0] and "shared_experts.down_proj" in left[0])


@pytest.mark.parametrize("name", MIXTURES)
def test_experts_through_a_checkpoint(name, tmp_path):
    architecture = MIXTURES[name]
    ours = adapted(architecture)
    randomize(ours, ours)
    ours.save_pretrained(tmp_path)
    inputs = architecture.inputs()
    with torch.no_grad():
        expected = ours(**inputs).logits
        theirs = peft.PeftModel.from_pretrained(architecture.build(), tmp_path)
        torch.testing.assert_close(theirs(**inputs).logits, expected)
        again = load(architecture.build(), tmp_path)
        torch.testing.assert_close(again(**inputs).logits, expected)
        torch.testing.assert_close(again.merge_and_unload()(**inputs).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_experts_in_each_implementation(implementation):
    architecture = MIXTURES["Qwen3-MoE"]
    results = []
    for wrap in (get_lora_fa_model, peft.get_peft_model):
        model = architecture.build()
        model.set_experts_implementation(implementation)
        config = adapted(architecture).peft_config["default"]
        results.append(wrap(model, config if wrap is get_lora_fa_model else config.to_lora_config()))
    randomize(*results)
    torch.testing.assert_close(
        *(step(model, architecture.inputs()) for model in results), rtol=1e-4, atol=1e-5
    )
