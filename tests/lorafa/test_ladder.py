"""Rungs of recomputation that cost products: the same gradients, from what less is kept of."""

import copy
import pickle
import weakref
from typing import get_args

import peft
import pytest
import torch
import transformers

from benchmarks.rounding import gradient_errors
from lorafa import LoraFaConfig, apply_recompute, get_lora_fa_model, remove_recompute
from lorafa.memory.estimate import fake_step
from lorafa.memory.meter import SavedTensorMeter
from lorafa.memory.recipe import Recipe
from lorafa.memory.step import without_garbage_collection
from lorafa.options import Recompute
from lorafa.recompute import available, recomputing
from lorafa.recompute.eight_bit import dequantized, quantized
from tests.lorafa.ladder import (
    CHECKPOINT,
    DECODER,
    MODELS,
    assert_same,
    built,
    gradients,
    inputs,
    lean,
)

EXACT = ["qkv", "mlp", "block", "block-on-host"]
# What transformers computes in float32, whatever the model's precision, and the library in float64.
IN_FLOAT32 = ("norm", "loss")


def saved(model, **batch):
    with SavedTensorMeter(model) as meter:
        model(**batch)
    return meter.total


@pytest.mark.integration
@pytest.mark.parametrize("name", MODELS)
def test_each_rung_has_autograds_gradients_or_is_refused_by_name(name):
    model, batch = built(name), inputs(name)
    expected, floor = gradients(model, **batch), saved(model, **batch)
    has_none = f"{type(model.get_base_model()).__name__} has nothing to recompute for"
    for kind in get_args(Recompute):
        if kind not in available(model):
            with pytest.raises(ValueError, match=f"{has_none} {kind} "):
                lean(model, kind)
            continue
        module = lean(model, kind)
        found = gradients(module, **batch)
        if kind == "activation-8bit":
            assert_same(found, expected, rtol=0, atol=0.03 * max(g.abs().max() for g in expected).item())
        else:
            assert_same(found, expected, *((1e-4, 1e-6) if kind in IN_FLOAT32 else ()))
        assert saved(module, **batch) < floor or kind in ("norm", "dropout"), kind


@pytest.mark.parametrize("name", MODELS)
def test_without_padding_attention_has_another_path(name):
    model, batch = built(name), inputs(name, padded=False)
    assert_same(gradients(lean(model, "qkv"), **batch), gradients(model, **batch))


def test_a_block_leaves_its_input_to_the_host(monkeypatch):
    moved = []
    monkeypatch.setattr("lorafa.recompute.host.to_host", lambda x: moved.append(x.shape) or x.clone())
    for name, blocks in (("LLaMA", 2), ("T5", 4)):
        module = lean(built(name), "block-on-host")
        gradients(module, **inputs(name))
        assert moved == [(2, 12, 16)] * blocks  # no mask, no position bias and no encoder's output
        moved.clear()


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("T5", "RoBERTa")])
def test_rungs_compose(name):
    model = lean(built(name), "norm", "activation", "loss")
    module = lean(model, "qkv", "mlp")
    batch = inputs(name)
    assert_same(gradients(module, **batch), gradients(model, **batch))
    assert saved(module, **batch) < min(saved(lean(model, kind), **batch) for kind in ("qkv", "mlp"))


def test_a_block_leaves_nothing_to_the_garbage_collector():
    model = lean(built("LLaMA"), "block")
    made = []
    model.get_submodule("base_model.model.model.layers.0.mlp.up_proj").register_forward_hook(
        lambda module, args, output: made.append(weakref.ref(output.untyped_storage()))
    )
    with without_garbage_collection():
        gradients(model, **inputs())
        assert [output() for output in made] == [None, None]  # in forward, and again in backward


def test_dropout_masks_are_those_of_the_first_time():
    model = built("LLaMA", dropout=0.4)
    batch = inputs()
    expected = gradients(model, **batch)
    assert not torch.equal(gradients(model, seed=4, **batch)[1], expected[1])
    for kind in EXACT:
        assert_same(gradients(lean(model, kind), **batch), expected)


@pytest.mark.parametrize("name", ["LLaMA", "Phi-3", "T5 v1.1"])
def test_chunks_of_tokens(name, monkeypatch):
    monkeypatch.setattr("lorafa.recompute.mlp._CHUNK", 7)  # of 24 tokens
    rows = set()
    for model in (built(name), lean(built(name), "norm")):
        module = lean(model, "mlp")
        for path, layer in module.named_modules():
            if path.endswith((".down_proj", ".wo")):
                layer.register_forward_pre_hook(lambda _, args: rows.add(args[0].shape[0]))
        assert_same(gradients(module, **inputs(name)), gradients(model, **inputs(name)))
    assert rows == {7, 3}


def test_a_llama_7b_layer_keeps_what_a_checkpoint_of_lora_fa_keeps():
    """Input of the block, of the second norm, attention's output and log-sum-exp, XA: 1,024 tokens in bf16."""
    recipe = Recipe("llama-7b", rank=64, source_length=1024, attention="flash", recompute=tuple(CHECKPOINT))
    with fake_step(recipe, ((True,),)) as (model, _, _):
        base = model.base_model.model.model
        x = torch.empty(1, 1024, 4096, dtype=torch.bfloat16, requires_grad=True)
        rotary = base.rotary_emb(x, torch.arange(1024)[None])
        with SavedTensorMeter(model) as meter:
            base.layers[0](x, attention_mask=None, position_embeddings=rotary)
    hidden, heads, rows = 1024 * 4096 * 2, 1024 * 32 * 4, 1024 * 4  # per-row scale of a norm
    xa = 7 * 1024 * 64 * 2
    cos_sin = sum(tensor.nbytes for tensor in rotary)  # which all layers share
    rest = meter.total - (3 * hidden + heads + 2 * rows + xa + cos_sin)
    assert 0 <= rest < 64  # the kernel's seed
    assert meter.total < 26 * 2**20


def test_backward_repeats_and_leaves_its_inputs_alone():
    model = lean(built("LLaMA"), *CHECKPOINT)
    embeddings = model.get_input_embeddings()(inputs()["input_ids"]).detach().requires_grad_()
    before = embeddings.detach().clone()
    loss = model(inputs_embeds=embeddings, labels=inputs()["labels"]).loss
    parameters = [embeddings, *(p for p in model.parameters() if p.requires_grad)]
    first, second = (torch.autograd.grad(loss, parameters, retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, first, second))
    assert torch.equal(embeddings, before)


def test_what_is_changed_in_place_is_an_error_and_not_a_wrong_gradient():
    model = lean(built("LLaMA"), "qkv", "norm")
    embeddings = model.get_input_embeddings()(inputs()["input_ids"]).detach().requires_grad_()
    loss = model(inputs_embeds=embeddings, labels=inputs()["labels"]).loss
    with torch.no_grad():
        embeddings.mul_(2)  # q, k and v of the first block would be others
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_without_gradients_and_in_evaluation_nothing_changes():
    model = built("LLaMA")
    module = lean(model, "qkv", "mlp")
    with torch.no_grad():
        assert torch.equal(module(**inputs()).logits, model(**inputs()).logits)
    cached = module.eval()(**inputs(), use_cache=True).past_key_values
    assert cached.get_seq_length() == 12


@pytest.mark.parametrize("checkpointed", [False, True])
def test_under_other_hooks(checkpointed):
    """What is kept passes through the hooks outside: to the host's memory, or a model's own checkpoints."""
    model = lean(built("LLaMA", dropout=0.4), "norm")
    module = lean(model, "qkv", "mlp")
    expected = gradients(model, **inputs())
    if checkpointed:
        module.gradient_checkpointing_enable({"use_reentrant": False})
        assert_same(gradients(module, **inputs()), expected)
    else:
        with torch.autograd.graph.save_on_cpu():
            assert_same(gradients(module, **inputs()), expected)


def test_under_autocast():
    model = lean(built("Qwen3", torch.float32), "norm", "activation")
    results = []
    for module in (model, lean(model, "qkv", "mlp")):
        module.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = module(**inputs()).loss
        loss.backward()  # outside
        results.append([p.grad for p in module.parameters() if p.requires_grad])
    assert all(map(torch.equal, *results))


def test_rungs_in_some_blocks():
    model = built("LLaMA")
    module = copy.deepcopy(model)
    found = apply_recompute(module, ["qkv"], blocks=[1])
    assert found == {"qkv": ["base_model.model.model.layers.1.self_attn"]}
    assert saved(lean(model, "qkv"), **inputs()) < saved(module, **inputs()) < saved(model, **inputs())


def test_they_can_be_undone_and_pickled():
    model = built("LLaMA")
    module = lean(model, *CHECKPOINT)
    assert list(recomputing(pickle.loads(pickle.dumps(module)))) == CHECKPOINT
    remove_recompute(module)
    assert list(map(type, module.modules())) == list(map(type, model.modules()))
    apply_recompute(module, ["block"])
    assert list(recomputing(module)) == ["block"]


@pytest.mark.parametrize(
    ("name", "kinds", "message"),
    [
        ("LLaMA", ["qkv", "block"], 'recompute="block" does the work of qkv'),
        ("LLaMA", ["mlp", "activation-8bit"], "does the work of activation-8bit"),
        ("RoBERTa", ["mlp"], "RobertaForSequenceClassification has nothing to recompute for mlp"),
    ],
)
def test_what_cannot_be_is_refused(name, kinds, message):
    with pytest.raises(ValueError, match=message):
        lean(built(name), *kinds)


def test_attention_that_stores_its_scores_is_refused():
    with pytest.raises(
        ValueError, match='recompute="qkv" of LlamaForCausalLM: attn_implementation is "eager"'
    ):
        lean(built("LLaMA", attn_implementation="eager"), "qkv")


def test_eight_bits_are_for_lora_fa():
    config = transformers.LlamaConfig(**DECODER)
    base = transformers.LlamaForCausalLM(config)
    with pytest.raises(
        ValueError, match='"activation-8bit" of LlamaForCausalLM: the model has no adapters of LoRA-FA'
    ):
        apply_recompute(base, ["activation-8bit"])
    model = get_lora_fa_model(base, LoraFaConfig(target_modules="all-linear"))
    model.add_adapter("plain", peft.LoraConfig(target_modules=["down_proj"]))
    model.set_adapter("plain")
    with pytest.raises(ValueError, match="trains, whose gradient would be made of what was rounded"):
        apply_recompute(model, ["activation-8bit"])


@pytest.mark.parametrize("shape", [(3, 128), (5, 7)])
def test_rounding_is_within_half_a_step(shape):
    x = torch.randn(*shape).mul(torch.logspace(-4, 4, shape[0])[:, None])
    integers, scales = quantized(x)
    error = (dequantized(integers, scales, x.shape, x.dtype) - x).abs().flatten()
    assert integers.dtype == torch.int8
    assert (error <= scales.expand(-1, 128).flatten()[: x.numel()] * 0.501).all()
    assert not dequantized(*quantized(torch.zeros(2)), torch.Size([2]), x.dtype).any()


def test_eight_bits_are_exact_in_the_last_block_and_near_before_it():
    model = lean(built("LLaMA"), "norm", "activation")
    module = lean(model, "activation-8bit")
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    (loss, *rounded), (exact, *expected) = gradients(module, **inputs()), gradients(model, **inputs())
    assert torch.equal(loss, exact)
    errors = {
        name: ((found - wanted).norm() / wanted.norm()).item()
        for name, found, wanted in zip(names, rounded, expected, strict=True)
    }
    assert all(
        0 < error < 0.02 for name, error in errors.items() if "layers.0" in name and "down" not in name
    )
    assert errors["base_model.model.model.layers.1.mlp.down_proj.lora_B.default.weight"] == 0
    assert saved(module, **inputs()) < saved(model, **inputs())


@pytest.mark.parametrize("method", ["lora-fa", "lora"])
def test_the_error_of_eight_bits_is_measured(method):
    errors = gradient_errors(method, hidden=32, blocks=2, tokens=8)
    assert len(errors) == 2
    assert all(0 < error < 0.02 for error in errors)


@pytest.mark.integration
def test_fifty_steps_are_the_same():
    curves = []
    for kinds in ([], CHECKPOINT[2:]):
        model = built("LLaMA", torch.float32, dropout=0.1)
        apply_recompute(model, kinds)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        torch.manual_seed(5)
        losses = []
        for _ in range(50):
            loss = model(**inputs()).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        curves.append(losses)
    assert curves[0] == curves[1]
    assert curves[0][-1] < curves[0][0]
