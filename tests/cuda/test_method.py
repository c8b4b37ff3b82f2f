"""The method on a CUDA device: gradients beside float64 on the CPU, dropout, precision, kernels and memory."""

import copy
import importlib.util

import pytest
import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.measure import caught, measure
from benchmarks.rungs import RUNGS, is_exact
from lorafa import LoraFaConfig, get_lora_fa_model, lora_fa_linear
from lorafa.memory.estimate import estimate
from lorafa.memory.meter import SavedTensorMeter
from lorafa.memory.recipe import Recipe

CONFIG = transformers.LlamaConfig(
    vocab_size=500,
    hidden_size=128,
    intermediate_size=352,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    use_cache=False,
)
IDS = torch.randint(0, 500, (2, 64), generator=torch.Generator().manual_seed(1))


def adapted(dtype=torch.float32, dropout=0.0, recompute=()):
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM._from_config(CONFIG, dtype=dtype, attn_implementation="sdpa")
    options = {"r": 8, "lora_dropout": dropout, "target_modules": "all-linear", "recompute": list(recompute)}
    model = get_lora_fa_model(model, LoraFaConfig(**options), autocast_adapter_dtype=False)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model.train()


def gradients(model):
    ids = IDS.to(model.device)
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return {name: p.grad.cpu().double() for name, p in model.named_parameters() if p.grad is not None}


def error(found, exact):
    """Largest relative error of a gradient, in norm."""
    assert found.keys() == exact.keys() and found
    return max(((found[name] - exact[name]).norm() / exact[name].norm()).item() for name in exact)


@pytest.mark.parametrize(
    ("dtype", "bound"),
    [(torch.float64, 1e-12), (torch.float32, 1e-4), (torch.bfloat16, 0.1), (torch.float16, 0.02)],
)
def test_the_function_beside_float64(dtype, bound):
    shapes = [(4, 32, 96), (80, 96), (80,), (8, 96), (80, 8)]
    exact = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    found = [tensor.to("cuda", dtype) for tensor in exact]
    for tensors in (exact, found):
        for index in (0, 4):
            tensors[index].requires_grad_()
        lora_fa_linear(*tensors, 2.0).square().sum().backward()
    for index in (0, 4):
        wanted, got = exact[index].grad, found[index].grad.cpu().double()
        assert (got - wanted).norm() <= bound * wanted.norm()


@pytest.mark.parametrize("rung", RUNGS)
def test_each_rung_has_the_gradients_of_none(rung):
    try:
        model = adapted(recompute=RUNGS[rung])
    except ValueError as refusal:
        pytest.skip(str(refusal))
    found, exact = gradients(model.cuda()), gradients(adapted().double())
    assert error(found, exact) < (1e-3 if is_exact(RUNGS[rung]) else 0.1)


@pytest.mark.parametrize("rung", RUNGS)
def test_dropout_is_drawn_again(rung):
    """Two backward passes of one graph agree, and the loss's slope along the gradient is the gradient's norm."""
    try:
        model = adapted(torch.float64, dropout=0.3, recompute=RUNGS[rung]).cuda()
    except ValueError as refusal:
        pytest.skip(str(refusal))
    if not is_exact(RUNGS[rung]):
        pytest.skip("approximate")

    def loss():
        torch.manual_seed(5)
        return model(input_ids=IDS.cuda(), labels=IDS.cuda()).loss

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    first = loss()
    grads = torch.autograd.grad(first, trained, retain_graph=True)
    for once, twice in zip(grads, torch.autograd.grad(first, trained), strict=True):
        torch.testing.assert_close(once, twice)
    norm = torch.stack([gradient.norm() for gradient in grads]).norm()
    with torch.no_grad():
        for parameter, gradient in zip(trained, grads, strict=True):
            parameter += 1e-5 * gradient / norm
        slope = (loss() - first) / 1e-5
    torch.testing.assert_close(slope, norm, rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    model = adapted().cuda()
    with torch.autocast("cuda", dtype):
        found = gradients(model)
    assert error(found, gradients(adapted().double())) < 0.2


def test_compiled():
    model = adapted().cuda()
    exact = gradients(copy.deepcopy(model))
    assert (
        error(gradients(torch.compile(model)), {f"_orig_mod.{name}": g for name, g in exact.items()}) < 1e-3
    )


def test_flash_attention():
    model = adapted(torch.bfloat16).cuda()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # nothing else may be taken
        found = gradients(model)
    assert error(found, gradients(adapted().double())) < 0.2


@pytest.mark.parametrize("bits", ["nf4", "8-bit"])
@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="there is no bitsandbytes")
def test_quantized(bits):
    import bitsandbytes as bnb

    layer = bnb.nn.Linear4bit if bits == "nf4" else bnb.nn.Linear8bitLt
    options = (
        {"quant_type": "nf4", "compute_dtype": torch.bfloat16}
        if bits == "nf4"
        else {"has_fp16_weights": False}
    )
    model = torch.nn.Sequential(layer(128, 128, bias=False, **options)).cuda()
    model = get_lora_fa_model(model, LoraFaConfig(r=8, target_modules=["0"]))
    x = torch.randn(4, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    with SavedTensorMeter(model) as meter:
        y = model(x)
    y.sum().backward()
    assert sum(saved.nbytes for saved in meter.saved if saved.shape == (4, 128)) == 0
    assert any(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("recompute", [(), ("norm", "activation", "dropout", "loss")])
def test_what_forward_allocates_is_what_the_meter_counts(recompute):
    model = adapted(torch.bfloat16, 0.1, recompute).cuda()
    ids = torch.randint(0, 500, (8, 512), device="cuda")
    model(input_ids=ids, labels=ids).loss.backward()  # libraries make their workspaces
    with SavedTensorMeter(model) as meter:
        model(input_ids=ids, labels=ids)
    before = torch.cuda.memory_allocated()
    loss = model(input_ids=ids, labels=ids).loss
    assert loss.requires_grad
    assert torch.cuda.memory_allocated() - before == pytest.approx(meter.total, rel=0.05)


def test_a_step_takes_what_is_estimated():
    recipe = Recipe("llama-3.2-1b", "lora-fa", batch_size=2, source_length=512, attention="flash")
    ((_, found),) = measure([recipe], steps=1)
    assert found.allocated_bytes == pytest.approx(estimate(recipe).peak, rel=0.05)


def test_out_of_memory_is_an_outcome():
    with caught() as failure:
        torch.empty(torch.cuda.get_device_properties().total_memory * 2, dtype=torch.uint8, device="cuda")
    assert failure == ["out_of_memory"]
