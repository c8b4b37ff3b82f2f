"""Recomputation leaves its inputs alone, computes the loss that the model would, and says what it cannot do."""

import copy
import warnings

import peft
import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5DenseGatedActDense, T5LayerNorm

from lorafa import LoraFaConfig, apply_recompute, audit, get_lora_fa_model
from lorafa.recompute.loss import linear_cross_entropy
from lorafa.recompute.norm import rms_norm

DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def modules() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    llama = transformers.LlamaConfig(hidden_size=8, intermediate_size=16, num_attention_heads=1)
    t5 = transformers.T5Config(d_model=8, d_ff=16, feed_forward_proj="gated-gelu", dropout_rate=0.0)
    return {
        "llama norm": LlamaRMSNorm(8),
        "t5 norm": T5LayerNorm(8),
        "llama mlp": LlamaMLP(llama),
        "t5 mlp": T5DenseGatedActDense(t5),
        "relu": nn.Sequential(nn.Identity(), nn.ReLU()),
        "gelu": nn.Sequential(nn.Identity(), transformers.activations.NewGELUActivation()),
        "dropout": nn.Sequential(nn.Identity(), nn.Dropout(0.25)),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(modules()))
def test_inputs_survive_and_backward_repeats(name, dtype):
    module = modules()[name].to(dtype)
    wrapped = nn.ModuleDict({"only": module})
    apply_recompute(wrapped)
    lean = wrapped["only"].train()
    x = torch.randn(2, 4, 8).to(dtype).requires_grad_()
    before = x.detach().clone()
    y = lean(x)
    weights = torch.randn(y.shape).to(dtype)
    kept = weights.clone()
    grads = [torch.autograd.grad(y, x, weights, retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(*grads)
    assert torch.equal(x, before)
    assert torch.equal(weights, kept)
    if name != "dropout":
        assert torch.equal(lean(x), y)  # a second step on the same input


@pytest.mark.parametrize("name", [name for name in modules() if name != "dropout"])
def test_gradients_are_autograds_in_float64(name):
    plain = nn.ModuleDict({"only": modules()[name].double()})
    lean = copy.deepcopy(plain)
    apply_recompute(lean)
    x = torch.randn(2, 4, 8, dtype=torch.float64)
    results = []
    for module in (plain["only"], lean["only"]):
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        results.append((y, torch.autograd.grad((y * torch.arange(8)).sum(), [leaf, *module.parameters()])))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)  # LLaMA's own norm is in fp32 at any dtype


def test_rms_norm_is_exact_in_float64():
    x, weight = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 5), (5,)))
    torch.testing.assert_close(rms_norm(x, weight, 1e-6), F.rms_norm(x, (5,), weight, 1e-6))
    assert torch.autograd.gradcheck(rms_norm, (x, weight, 1e-6))


def test_infinite_gradients_and_nan_pass_relu_as_they_do_in_torch():
    x = torch.tensor([-1.0, 0.0, 2.0, float("nan")])
    results = []
    for module in (nn.Sequential(nn.ReLU()), nn.Sequential(nn.ReLU())):
        if results:
            apply_recompute(module, ["activation"])
        leaf = x.clone().requires_grad_()
        results.append(torch.autograd.grad(module(leaf), leaf, torch.full((4,), float("inf")))[0])
    torch.testing.assert_close(*results, equal_nan=True)


@pytest.mark.parametrize(
    "kind", [nn.ReLU(inplace=True), nn.Dropout(0.5, inplace=True)], ids=["relu", "dropout"]
)
def test_what_works_in_place_goes_on_to(kind):
    module = nn.Sequential(kind).train()
    apply_recompute(module)
    x = torch.randn(100)
    assert torch.equal(module(x), x)
    assert (x == 0).any()


@pytest.mark.parametrize("family", ["llama", "t5-gated"])
def test_two_steps_on_the_same_embeddings(family, tiny, batch):
    model = tiny(family).eval()  # no dropout
    apply_recompute(model)
    labels = batch(family)["labels"]
    embeddings = model.get_input_embeddings()(batch(family)["input_ids"]).detach().requires_grad_()
    before = embeddings.detach().clone()
    losses = []
    for _ in range(2):
        loss = model(inputs_embeds=embeddings, labels=labels).loss
        loss.backward(retain_graph=True)
        loss.backward()
        losses.append(loss.detach())
    assert torch.equal(*losses)
    assert torch.equal(embeddings, before)


@pytest.mark.parametrize("ignore_index", [-100, -1, 0, 400])
def test_linear_cross_entropy_ignores_what_it_is_told(ignore_index):
    x, weight = torch.randn(7, 5, dtype=torch.float64), torch.randn(9, 5, dtype=torch.float64)
    target = torch.tensor([1, ignore_index, 3, 8, ignore_index, 2, 2])
    results = []
    for function in (
        lambda x: linear_cross_entropy(x, weight, target, ignore_index=ignore_index),
        lambda x: F.cross_entropy(x @ weight.T, target, reduction="sum", ignore_index=ignore_index),
    ):
        leaf = x.clone().requires_grad_()
        loss = function(leaf)
        results.append((loss, *torch.autograd.grad(loss, leaf)))
    torch.testing.assert_close(*results)


def doubled(logits, labels, vocab_size, **kwargs):
    return 2 * F.cross_entropy(logits.view(-1, vocab_size), labels.view(-1))


def loss_and_gradients(model, *args, **kwargs):
    model.zero_grad()
    outputs = model(*args, **kwargs)
    outputs.loss.backward()
    return outputs.loss, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_step(plain, lean, *args, **kwargs):
    torch.testing.assert_close(
        loss_and_gradients(lean, *args, **kwargs), loss_and_gradients(plain, *args, **kwargs)
    )


@pytest.fixture
def llamas(tiny):
    """A model in training, and one whose loss is recomputed."""
    plain = tiny("llama").train()
    lean = copy.deepcopy(plain)
    apply_recompute(lean, ["loss"])
    return plain, lean


@pytest.mark.parametrize(
    "options",
    [
        {"ignore_index": 3},
        {"num_items_in_batch": 5},
        {"num_items_in_batch": torch.tensor(5), "ignore_index": 10},
        {"shift_labels": torch.arange(48).remainder(90).view(2, 24)},
        {"logits_to_keep": 0},
    ],
    ids=lambda options: "-".join(options),
)
def test_loss_takes_what_the_models_own_takes(llamas, batch, options):
    assert_same_step(*llamas, **batch("llama"), **options)
    assert llamas[1](**batch("llama"), **options).logits is None


def test_labels_by_position(llamas, tiny, batch):
    ids = batch("llama")["input_ids"]
    assert_same_step(*llamas, ids, None, None, None, None, ids)
    assert llamas[1](ids, None, None, None, None, ids).logits is None
    plain = tiny("t5-gated").eval()
    lean = copy.deepcopy(plain)
    apply_recompute(lean, ["loss"])
    for module in lean.modules():
        module.training = module is lean  # in training, without dropout
    assert_same_step(plain, lean, *[ids] + [None] * 7, ids)
    assert lean(*[ids] + [None] * 7, ids).logits is None


def test_a_loss_function_of_its_own_is_called(llamas, batch):
    for model in llamas:
        model.loss_function = doubled
    with pytest.warns(UserWarning, match="keeps the logits: the model has a loss_function of its own"):
        assert_same_step(*llamas, **batch("llama"))
    assert llamas[1](**batch("llama")).logits is not None


def tied():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        vocab_size=97,
        num_hidden_layers=1,
        num_attention_heads=4,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config).train()


def test_a_tied_head(batch):
    plain = tied()
    lean = copy.deepcopy(plain)
    apply_recompute(lean, ["loss"])
    assert lean.lm_head.weight is lean.model.embed_tokens.weight
    assert_same_step(plain, lean, **batch("llama"))


@pytest.mark.parametrize(
    "config", [{"target_modules": ["lm_head", "q_proj"]}, {"modules_to_save": ["lm_head"]}]
)
def test_an_adapted_or_wrapped_head_keeps_the_logits_and_says_so(tiny, batch, config):
    plain = peft.get_peft_model(tiny("llama"), peft.LoraConfig(init_lora_weights=False, **config)).train()
    lean = copy.deepcopy(plain)
    apply_recompute(lean, ["loss"])
    with pytest.warns(UserWarning, match="keeps the logits: lm_head is a"):
        assert_same_step(plain, lean, **batch("llama"))


def test_merging_gives_the_logits_back(tiny, batch):
    config = LoraFaConfig(target_modules="all-linear", recompute=["loss"])
    model = get_lora_fa_model(tiny("llama"), config).train()
    assert model(**batch("llama")).logits is None
    merged = model.merge_and_unload().train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert merged(**batch("llama")).logits.shape == (2, 24, 97)


def test_return_dict_off_keeps_the_tuple(llamas, batch):
    plain, lean = (model(**batch("llama"), return_dict=False) for model in llamas)
    torch.testing.assert_close(lean[:2], plain[:2])


def test_a_kind_that_is_not_there_is_an_error(tiny):
    with pytest.raises(
        ValueError, match=r"RobertaForSequenceClassification has nothing to recompute for norm .*T5"
    ):
        apply_recompute(tiny("roberta"), ["norm"])
    with pytest.raises(ValueError, match="has nothing to recompute for dropout"):
        get_lora_fa_model(tiny("llama"), LoraFaConfig(target_modules="qv", recompute=["norm", "dropout"]))
    with pytest.raises(ValueError, match="has nothing to recompute for norm, activation, dropout, loss"):
        apply_recompute(nn.Sequential(nn.Linear(2, 2)), True)
    assert apply_recompute(nn.Sequential(nn.Linear(2, 2)), False) == {}


def test_audit_shows_what_recomputes(tiny):
    model = get_lora_fa_model(tiny("roberta"), LoraFaConfig(target_modules="qv", recompute=True))
    text = str(audit(model).check())
    assert "recomputes in backward: dropout (" in text
    assert "recompute had no effect for: activation, loss, norm" in text
    row = next(line for line in text.splitlines() if "query" in line)
    name = "base_model.model.roberta.encoder.layer.*.attention.self.query"
    assert " ".join(row.split()) == f"2 x {name} 32 -> 8 -> 32 XA 32 bytes a token"


def test_a_second_adapter_asks_for_the_same(tiny):
    config = LoraFaConfig(target_modules="qv", recompute=["norm", "loss"])
    model = get_lora_fa_model(tiny("llama"), config)
    get_lora_fa_model(model, config, "second")
    assert len(apply_recompute(model, ["norm"])["norm"]) == 5
