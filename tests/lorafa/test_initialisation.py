"""A that starts as the blocks of MiSS, or as the leading directions of the layers' inputs (EVA)."""

import peft
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lorafa
from lorafa import LoraFaConfig, audit, get_lora_fa_model, initialize_eva

R = 4


def randomize(model):
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.data.copy_(torch.randn(parameter.shape) / 3)
    return model


def matrices(model):
    return {name: p for name, p in model.named_parameters() if ".lora_A." in name}


def check_orthonormal(model, tolerance=1e-5):
    for A in matrices(model).values():
        products = A.float() @ A.float().T
        torch.testing.assert_close(products, torch.eye(len(A)), atol=tolerance, rtol=0)


# Shards.


def layer(width, dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, 6)).to(dtype)


def sharded(width, **options):
    config = LoraFaConfig(**{"r": R, "lora_alpha": R, **options}, target_modules=["0"], init_A="shards")
    return get_lora_fa_model(layer(width), config)


@pytest.mark.parametrize(("width", "sizes"), [(16, [4, 4, 4, 4]), (18, [5, 5, 4, 4]), (4, [1, 1, 1, 1])])
def test_shards_are_orthogonal_and_sum_blocks(width, sizes):
    (A,) = matrices(sharded(width)).values()
    assert torch.equal(A @ A.T, torch.diag(torch.tensor(sizes, dtype=A.dtype)))
    x = torch.randn(3, width, dtype=A.dtype)
    blocks = F.pad(x, (0, -width % R)).unflatten(-1, (-1, R))
    torch.testing.assert_close(F.linear(x, A), blocks.sum(-2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_shards_are_exact_in_half_precision(dtype):
    A = torch.empty(R, 10, dtype=dtype)
    lorafa.layers.initialize_frozen(A, "shards")
    assert torch.equal(A.double(), torch.eye(R).repeat(1, 3)[:, :10].double())


def test_shards_need_a_rank_below_the_width():
    with pytest.raises(ValueError, match='init_A="shards" needs r <= in_features'):
        sharded(R - 1)


@pytest.mark.parametrize("width", [16, 18])
def test_shards_are_pefts_miss(width):
    """With s = alpha / r = 1, as MiSS has no s, and the same B."""
    ours = sharded(width)
    theirs = peft.get_peft_model(layer(width), peft.MissConfig(r=R, target_modules=["0"]))
    B = ours.base_model.model[0].lora_B["default"].weight
    block = theirs.base_model.model[0].miss_block["default"]
    torch.manual_seed(1)
    B.data.copy_(torch.randn_like(B))
    block.data.copy_(B.data.T)
    leaves = []
    for model, parameter in ((ours, B), (theirs, block)):
        x = torch.randn(
            2, 5, width, dtype=B.dtype, generator=torch.Generator().manual_seed(3)
        ).requires_grad_()
        y = model(x)
        leaves.append((y, *torch.autograd.grad(y.sin().sum(), (x, parameter))))
    (y, grad_x, grad_B), (miss, miss_x, miss_block) = leaves
    torch.testing.assert_close((y, grad_x, grad_B), (miss, miss_x, miss_block.T))
    changed = sharded(width, lora_alpha=3 * R)
    changed.base_model.model[0].lora_B["default"].weight.data.copy_(B.data)
    base = layer(width)(x)
    torch.testing.assert_close(changed(x) - base, 3 * (miss - base))


# EVA.


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 8))


def data():
    """Inputs, (64, 16), with a mean and with directions of which each is half as strong as the one before."""
    torch.manual_seed(1)
    directions = nn.init.orthogonal_(torch.empty(16, 16))
    return torch.randn(64, 16) * 0.5 ** torch.arange(16) @ directions + 0.5


PLAIN = {
    "forward_fn": lambda model, x: model(x),
    "prepare_model_inputs_fn": None,
    "prepare_layer_inputs_fn": None,
    "show_progress_bar": False,
}


def adapted(**options):
    config = LoraFaConfig(**{"r": R, "target_modules": ["0", "2"], "init_A": "eva", **options})
    return get_lora_fa_model(network(), config)


def test_eva_spans_the_leading_directions_of_the_inputs():
    base, x = network(), data()
    model = initialize_eva(adapted(), [x], **PLAIN)
    check_orthonormal(model)
    inputs = (x, base[1](base[0](x)).detach())
    for A, seen in zip(matrices(model).values(), inputs, strict=True):
        seen = seen.double()
        _, _, directions = torch.linalg.svd(seen - seen.mean(0), full_matrices=False)
        leading = directions[:R]
        torch.testing.assert_close(A.double().T @ A.double(), leading.T @ leading, atol=1e-3, rtol=0)
    torch.testing.assert_close(model(x), base(x))


@pytest.mark.parametrize("rho", [1.0, 2.0])
def test_eva_leaves_a_frozen(rho):
    torch.manual_seed(3)
    model, x = adapted(gradient="projected"), data()
    initialize_eva(model, [x], eva_config=peft.EvaConfig(rho=rho), **PLAIN)
    check_orthonormal(model)
    ranks = [len(A) for A in matrices(model).values()]
    assert sum(ranks) == 2 * R and (ranks == [R, R]) == (rho == 1)
    audit(model).check()
    before = {name: p.clone() for name, p in model.named_parameters()}
    model(x).square().sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name in before if ".lora_B." in name}


def test_eva_without_data_trains_nothing():
    model = adapted()
    assert model(data()).isnan().all()
    with pytest.raises(
        RuntimeError, match=r"A of adapter default in .* has no values yet: call initialize_eva"
    ):
        audit(model).check()


def test_eva_is_refused_where_it_cannot_be():
    model = get_lora_fa_model(network(), LoraFaConfig(r=R, target_modules=["0"]))
    with pytest.raises(ValueError, match='needs init_A="eva" in the configuration of adapter default'):
        initialize_eva(model, [data()], **PLAIN)
    model = nn.Sequential(nn.Conv1d(16, 8, 1), nn.Flatten(), nn.Linear(8, 8))
    model = get_lora_fa_model(model, LoraFaConfig(r=R, target_modules=["0", "2"], init_A="eva"))
    with pytest.raises(
        ValueError, match=r"EVA is for linear layers, and base_model\.model\.0 adapts a Conv1d"
    ):
        initialize_eva(model, [data()[..., None]], **PLAIN)


# Checkpoints.


@pytest.mark.parametrize("init_A", ["shards", "eva"])
def test_a_saved_adapter_is_plain_peft(init_A, tiny, batch, tmp_path):
    config = LoraFaConfig(r=R, target_modules="all-linear", init_A=init_A)
    model = get_lora_fa_model(tiny("llama"), config)
    if init_A == "eva":
        initialize_eva(model, [batch("llama")], show_progress_bar=False)
        check_orthonormal(model)
    audit(model).check()
    randomize(model).save_pretrained(tmp_path)
    inputs = {"input_ids": batch("llama")["input_ids"]}
    expected = model.eval()(**inputs).logits
    plain = peft.PeftModel.from_pretrained(tiny("llama"), tmp_path)
    assert type(plain.peft_config["default"]) is peft.LoraConfig
    torch.testing.assert_close(plain.eval()(**inputs).logits, expected)
    ours = lorafa.load(tiny("llama"), tmp_path, is_trainable=True)
    torch.testing.assert_close(ours.eval()(**inputs).logits, expected)
    assert ours.peft_config["default"].init_A == init_A
    assert not any(A.requires_grad for A in matrices(ours).values())
    audit(ours).check()
