import copy

import peft
import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN, NewGELUActivation
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from lorafa import LoraFaConfig, apply_recompute, get_lora_fa_model, remove_recompute
from lorafa.functional import dropped
from lorafa.memory.meter import SavedTensorMeter
from lorafa.recompute.activation import ACTIVATIONS, GatedActivation, Relu
from lorafa.recompute.dropout import LeanDropout, ReplayedDropout
from lorafa.recompute.loss import LinearCrossEntropy, linear_cross_entropy
from lorafa.recompute.norm import rms_norm

FAMILIES = ["llama", "t5-relu", "t5-gated", "roberta"]
DTYPES = [torch.float32, torch.bfloat16]


def lean(module, kinds=True):
    """A copy of a module that recomputes."""
    module = copy.deepcopy(module)
    assert any(apply_recompute(module, kinds).values())
    return module


def run(module, *inputs, train=True):
    """Output, and the gradients of a fixed functional, with respect to the inputs and trained parameters."""
    inputs = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs]
    y = module.train(train)(*inputs)
    leaves = [x for x in inputs if x.requires_grad] + [p for p in module.parameters() if p.requires_grad]
    weights = torch.linspace(-1, 1, y.numel()).view(y.shape).to(y.dtype)
    return y, torch.autograd.grad((y * weights).sum(), leaves)


def saved(function, *modules):
    with SavedTensorMeter(*modules, bool_dropout_mask=True) as meter:
        meter.explore(function())
    return meter.total


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", [LlamaRMSNorm, T5LayerNorm])
def test_rms_norm(norm, dtype, trained):
    torch.manual_seed(0)
    module = norm(64).to(dtype).requires_grad_(trained)
    nn.init.normal_(module.weight)
    x = torch.randn(4, 8, 64).to(dtype)
    tolerance = {"rtol": 0.02, "atol": 4e-3} if dtype is torch.bfloat16 else {}
    torch.testing.assert_close(run(lean(module, ["norm"]), x), run(module, x), **tolerance)
    x.requires_grad_()
    floor = x.nbytes + 4 * x.numel() // 64
    assert saved(lambda: lean(module, ["norm"])(x)) == floor
    if dtype is torch.bfloat16:
        assert saved(lambda: module(x)) >= 2 * x.nbytes  # the fp32 copy


def test_rms_norm_gradcheck():
    x, weight = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 5), (5,)))
    assert torch.autograd.gradcheck(rms_norm, (x, weight, 1e-6))


@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm_is_at_its_floor_as_it_is(dtype):
    norm = nn.LayerNorm(64).to(dtype)
    x = torch.randn(4, 8, 64).to(dtype).requires_grad_()
    assert saved(lambda: norm(x), norm) <= x.nbytes + 2 * 4 * x.numel() // 64


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_gated_activation(name):
    torch.manual_seed(0)
    gate, up = (torch.randn(4, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda g, u: GatedActivation.apply(g, u, name), (gate, up))
    act = ACT2FN[{"gelu_tanh": "gelu_pytorch_tanh"}.get(name, name)]
    torch.testing.assert_close(GatedActivation.apply(gate, up, name), act(gate) * up)
    assert saved(lambda: GatedActivation.apply(gate, up, name)) == gate.nbytes + up.nbytes
    products = 2 if name == "relu" else 3  # ReLU saves its output in place of its input
    assert saved(lambda: act(gate) * up) == products * gate.nbytes


@pytest.mark.parametrize("dtype", DTYPES)
def test_relu(dtype):
    x = torch.randn(4, 6).to(dtype).requires_grad_()
    torch.testing.assert_close(run(lean(nn.ReLU()), x), run(nn.ReLU(), x))
    assert saved(lambda: Relu.apply(x)) == x.numel()
    assert saved(lambda: F.relu(x)) == x.nbytes


def test_composite_gelu():
    x = torch.randn(4, 6, requires_grad=True)
    torch.testing.assert_close(run(lean(NewGELUActivation()), x), run(NewGELUActivation(), x))
    assert saved(lambda: lean(NewGELUActivation())(x)) == x.nbytes
    assert saved(lambda: NewGELUActivation()(x)) >= 4 * x.nbytes


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout(dtype):
    module = lean(nn.Dropout(0.25))
    x = torch.randn(8, 16).to(dtype)
    torch.manual_seed(3)
    y, (grad,) = run(module, x)
    torch.manual_seed(3)
    mask = dropped(x, 0.25, torch.randint(2**63 - 1, ()))
    torch.testing.assert_close(y, x.masked_fill(mask, 0) / 0.75)
    torch.testing.assert_close(
        grad, (torch.linspace(-1, 1, y.numel()).view(y.shape).to(dtype)).masked_fill(mask, 0) / 0.75
    )
    x.requires_grad_()
    assert saved(lambda: module.train()(x)) == 8
    assert saved(lambda: nn.Dropout(0.25)(x)) == x.numel()
    assert torch.equal(module.eval()(x), x)
    assert not LeanDropout(1.0)(x).any()


def test_dropout_gradcheck():
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: ReplayedDropout.apply(x, 0.5, torch.tensor(3)), (x,))


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("chunk", [1, 20, 10_000])
def test_linear_cross_entropy(chunk, with_bias, monkeypatch):
    monkeypatch.setattr("lorafa.recompute.loss._CHUNK", chunk)  # logits at a time: one row, two rows, all
    torch.manual_seed(0)
    x, weight = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((7, 5), (9, 5)))
    bias = torch.randn(9, dtype=torch.float64, requires_grad=True) if with_bias else None
    target = torch.tensor([0, 3, -100, 8, 1, -100, 2])
    inputs = [x, weight, bias] if with_bias else [x, weight]
    assert torch.autograd.gradcheck(
        lambda *args: linear_cross_entropy(args[0], args[1], target, *args[2:]), inputs
    )
    reference = F.cross_entropy(F.linear(x, weight, bias), target, reduction="sum")
    torch.testing.assert_close(linear_cross_entropy(x, weight, target, bias), reference)


def test_linear_cross_entropy_saves_one_gradient():
    x, weight = torch.randn(7, 5, requires_grad=True), torch.randn(9, 5)
    target = torch.zeros(7, dtype=torch.long)
    assert saved(lambda: LinearCrossEntropy.apply(x, weight, None, target)) == x.nbytes


def trainable(model, kind):
    if kind == "full":
        return model
    if kind == "lora":
        config = {"r": 4, "lora_alpha": 8}
        return peft.get_peft_model(model, peft.LoraConfig(**config, target_modules="all-linear"))
    return get_lora_fa_model(model, LoraFaConfig(r=4, lora_alpha=8, target_modules="all-linear"))


def randomized(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.05)
    return model


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["lora-fa", "lora", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_models_keep_their_loss_and_gradients(family, kind, dtype, tiny, batch):
    model = randomized(trainable(tiny(family, dtype), kind)).train()
    for module in model.modules():  # masks are drawn another way: no dropout here, a test above for the masks
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    results, totals = [], []
    for module in (model, lean(model)):
        with SavedTensorMeter(module) as meter:
            loss = module(**batch(family)).loss
        loss.backward()
        totals.append(meter.total)
        results.append((loss, {n: p.grad for n, p in module.named_parameters() if p.grad is not None}))
    (loss, grads), (lean_loss, lean_grads) = results
    coarse = dtype is torch.bfloat16
    torch.testing.assert_close(lean_loss.float(), loss.float(), rtol=1e-2 if coarse else 1e-5, atol=0)
    assert set(lean_grads) == set(grads)
    for name, grad in grads.items():
        error = (lean_grads[name] - grad).float().norm()
        assert error <= (0.05 if coarse else 1e-4) * grad.float().norm() + (1e-3 if coarse else 1e-6), name
    assert totals[1] <= totals[0]
    if kind == "lora-fa" and family != "roberta":  # which has only dropout to give
        assert totals[1] < 0.95 * totals[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_dropout_costs_nothing(family, tiny, batch):
    model = trainable(tiny(family), "lora-fa").train()
    masks = []
    module = copy.deepcopy(model)
    if family == "llama":  # which has none
        with pytest.raises(ValueError, match="nothing to recompute for dropout"):
            apply_recompute(module, ["dropout"])
    else:
        assert apply_recompute(module, ["dropout"])["dropout"]
    for candidate in (model, module):
        with SavedTensorMeter(candidate, bool_dropout_mask=True) as meter:
            candidate(**batch(family))
        masks.append(meter.by_op.get("dropout", 0))
    assert masks[1] == 0
    assert (masks[0] > 0) == (family != "llama")


def test_loss_leaves_no_logits_in_training_only(tiny, batch):
    for family in ("llama", "t5-gated"):
        model, data = tiny(family), batch(family)
        expected = model.eval()(**data)
        module = lean(model, ["loss"])
        trained, evaluated = module.train()(**data), module.eval()(**data)
        assert trained.logits is None
        torch.testing.assert_close(evaluated.logits, expected.logits)
        torch.testing.assert_close(evaluated.loss, expected.loss)
        assert (
            module.train()(input_ids=data["input_ids"], decoder_input_ids=data["input_ids"]).logits
            is not None
        )
        assert type(module.lm_head) is nn.Linear


def test_loss_divides_by_the_trainers_count(tiny, batch):
    model = tiny("llama")
    data = batch("llama")
    expected = model.train()(**data, num_items_in_batch=7).loss
    torch.testing.assert_close(lean(model).train()(**data, num_items_in_batch=7).loss, expected)


def test_masked_labels(tiny, batch):
    data = batch("llama")
    data["labels"] = data["labels"].clone()
    data["labels"][:, :10] = -100
    model = tiny("llama").train()
    torch.testing.assert_close(lean(model, ["loss"])(**data).loss, model(**data).loss)


def test_the_model_stays_itself(tiny, tmp_path):
    """Names, checkpoints and what transformers reads from a class are untouched, and it can be undone."""
    model = tiny("llama")
    module = lean(model)
    assert module.state_dict().keys() == model.state_dict().keys()
    assert isinstance(module, transformers.LlamaForCausalLM)
    module.save_pretrained(tmp_path)
    assert transformers.AutoConfig.from_pretrained(tmp_path).architectures == ["LlamaForCausalLM"]
    untouched = {name: type(m) for name, m in model.named_modules()}
    assert {name: type(m) for name, m in module.named_modules()} != untouched
    remove_recompute(module)
    assert {name: type(m) for name, m in module.named_modules()} == untouched
    assert type(tiny("llama").model.norm) is LlamaRMSNorm  # no class was patched
    with pytest.raises(ValueError, match="recompute must be of"):
        apply_recompute(module, ["norms"])


def test_switched_on_by_the_configuration(tiny):
    config = LoraFaConfig(target_modules="qv", recompute=["norm"])
    model = get_lora_fa_model(tiny("llama"), config).base_model.model
    assert type(model.model.norm).__name__ == "LeanLlamaRMSNorm"
    assert type(model.model.layers[0].mlp).__name__ == "LlamaMLP"


@pytest.mark.parametrize("family", ["llama", "t5-gated"])
def test_with_gradient_checkpointing(family, tiny, batch):
    """Block checkpoints replay the seeds with the rest of the generator's state."""
    config = LoraFaConfig(r=4, target_modules="all-linear", lora_dropout=0.3, recompute=True)
    model = randomized(get_lora_fa_model(tiny(family), config)).train()
    grads = []
    for checkpointed in (False, True):
        if checkpointed:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        torch.manual_seed(6)
        model(**batch(family)).loss.backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*grads)


@pytest.mark.integration
def test_compiles(tiny, batch):
    config = LoraFaConfig(r=4, target_modules="all-linear", lora_dropout=0.3, recompute=True)
    model = randomized(get_lora_fa_model(tiny("llama"), config)).train()
    results = []
    for module in (model, torch.compile(model, backend="aot_eager")):
        model.zero_grad()
        torch.manual_seed(6)
        loss = module(**batch("llama")).loss
        loss.backward()
        results.append((loss, [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("family", FAMILIES)
def test_under_autocast(family, tiny, batch):
    """An fp32 model in bf16 autocast; transformers and PEFT also keep bf16 copies of all frozen weights there."""
    results, totals = [], []
    for kind in ("lora", "lora-fa"):
        model = randomized(trainable(tiny(family), kind)).train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            elif isinstance(getattr(module, "dropout", None), float):
                module.dropout = 0.0
        with torch.no_grad():  # the same A whatever was drawn before
            generator = torch.Generator().manual_seed(2)
            for name, parameter in model.named_parameters():
                if ".lora_" in name and "classifier" not in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) / 20)
        if kind == "lora-fa":
            apply_recompute(model)
        with SavedTensorMeter(model) as meter, torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch(family)).loss
        loss.backward()
        totals.append(meter.total)
        results.append((loss, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (loss, grads), (lean_loss, lean_grads) = results
    torch.testing.assert_close(lean_loss.float(), loss.float(), rtol=1e-2, atol=0)
    assert lean_grads and all(grad.dtype == torch.float32 for grad in lean_grads.values())
    if family != "roberta":  # where PEFT adapts the head too
        for name, grad in lean_grads.items():
            assert (grad - grads[name]).norm() < 0.2 * grads[name].norm(), name
        assert totals[1] < 0.6 * totals[0]
