import copy

import peft
import pytest
import torch
import transformers
from torch import nn

from lorafa import LoraFaConfig, get_lora_fa_model, initialize_eva
from lorafa.memory.meter import SavedTensorMeter

bnb = pytest.importorskip("bitsandbytes")
from bitsandbytes import functional as bnb_functional  # noqa: E402

D_IN, D_OUT, R = 64, 128, 8


class Layer(nn.Module):
    def __init__(self, bits):
        super().__init__()
        plain = nn.Linear(D_IN, D_OUT).to(torch.bfloat16)
        if bits == 4:
            linear = bnb.nn.Linear4bit(
                D_IN, D_OUT, compute_dtype=torch.bfloat16, compress_statistics=True, quant_type="nf4"
            )
        else:
            linear = bnb.nn.Linear8bitLt(D_IN, D_OUT, has_fp16_weights=False)
        linear.load_state_dict(plain.state_dict())
        self.linear = linear
        self.is_loaded_in_4bit, self.is_loaded_in_8bit = bits == 4, bits == 8  # what PEFT looks at

    def forward(self, x):
        return self.linear(x)


def dequantized(linear):
    if isinstance(linear, bnb.nn.Linear4bit):
        return bnb_functional.dequantize_4bit(linear.weight, linear.weight.quant_state).float()
    scales = linear.state.SCB if linear.state.SCB is not None else linear.weight.SCB
    return linear.weight.data.float() * scales[:, None] / 127


@pytest.fixture(params=[4, 8])
def pair(request):
    torch.manual_seed(0)
    base = Layer(request.param).to("cpu")
    options = {"r": R, "lora_alpha": R, "target_modules": ["linear"]}
    theirs = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(**options))
    ours = get_lora_fa_model(base, LoraFaConfig(**options))
    layer, other = ours.base_model.model.linear, theirs.base_model.model.linear
    nn.init.normal_(layer.lora_B["default"].weight, std=0.02)
    for name in ("lora_A", "lora_B"):
        getattr(other, name).load_state_dict(getattr(layer, name).state_dict())
    other.lora_A.requires_grad_(False)
    return ours, theirs


def test_equals_pefts_and_the_dequantized_formula(pair):
    ours, theirs = pair
    x = torch.randn(4, 16, D_IN, dtype=torch.bfloat16, requires_grad=True)
    layer = ours.base_model.model.linear
    results = []
    for model in (ours, theirs):
        x.grad = None
        y = model(x)
        y.float().pow(2).sum().backward()
        adapter = model.base_model.model.linear.lora_B["default"].weight
        results.append((y, x.grad.clone(), adapter.grad))
        assert model.base_model.model.linear.lora_A["default"].weight.grad is None
    for mine, other in zip(*results, strict=True):
        assert (mine - other).float().norm() < 0.02 * other.float().norm()

    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    weight = dequantized(layer.base_layer) + B @ A
    exact = x.detach().float().requires_grad_()
    y = nn.functional.linear(exact, weight, layer.base_layer.bias.float())
    grads = torch.autograd.grad(y.pow(2).sum(), (exact, B))
    for mine, reference in zip(results[0], (y, *grads), strict=True):
        assert (mine.float() - reference).norm() < 0.03 * reference.norm()


def test_output_may_be_changed_in_place(pair):
    x = torch.randn(4, 16, D_IN, dtype=torch.bfloat16, requires_grad=True)
    ours, theirs = (torch.autograd.grad(model(x).relu_().float().sum(), x)[0] for model in pair)
    assert (ours - theirs).float().norm() < 0.02 * theirs.float().norm()


@pytest.mark.parametrize("first", ["lora", "lora-fa"])
@pytest.mark.parametrize("bits", [4, 8])
def test_each_adapter_has_its_own_kind(bits, first):
    options = {"r": R, "target_modules": ["linear"]}
    torch.manual_seed(0)
    if first == "lora":
        model = peft.get_peft_model(Layer(bits).to("cpu"), peft.LoraConfig(**options), "plain")
        get_lora_fa_model(model, LoraFaConfig(**options), "fa")
    else:
        model = get_lora_fa_model(Layer(bits).to("cpu"), LoraFaConfig(**options), "fa")
        model.add_adapter("plain", peft.LoraConfig(**options))
    layer = model.base_model.model.linear
    x = torch.randn(4, 16, D_IN, dtype=torch.bfloat16, requires_grad=True)
    for name, saved in (("fa", 2 * R), ("plain", 4 * (R + D_IN))):
        nn.init.normal_(layer.lora_B[name].weight, std=0.1)
        model.set_adapter(name)
        assert layer.lora_A[name].weight.requires_grad == (name == "plain")
        with SavedTensorMeter(model) as meter:
            y = model(x)
        y.float().sum().backward()
        assert (layer.lora_A[name].weight.grad is not None) == (name == "plain")
        assert layer.lora_B[name].weight.grad.any()
        assert meter.total == saved * 4 * 16 if name == "fa" else meter.total >= saved * 4 * 16
    model.base_model.set_adapter(["fa", "plain"])
    with torch.no_grad():
        both = model(x).float() - layer.base_layer(x).float()
        deltas = sum(x.float() @ layer.get_delta_weight(name).float().T for name in ("fa", "plain"))
    assert (both - deltas).norm() < 0.03 * deltas.norm()


def test_trap_input_kept_by_the_base_layer(pair):
    """Trap: a base layer that keeps X in its own context, past what autograd's hooks see."""
    ours, _ = pair
    x = torch.randn(4, 16, D_IN, dtype=torch.bfloat16, requires_grad=True)
    with SavedTensorMeter(ours) as meter:
        ours(x)
    assert meter.total == 2 * 4 * 16 * R


def test_the_meter_sees_what_bitsandbytes_keeps():
    """On CUDA the 8-bit layer multiplies with MatMul8bitLt, which keeps its input as a plain attribute."""
    from bitsandbytes.autograd._functions import MatMul8bitLt

    torch.manual_seed(0)
    base = Layer(8).to("cpu")
    x = torch.randn(16, D_IN, dtype=torch.float16, requires_grad=True)
    base(x.detach())  # the first call moves the scales into the state
    base.linear.state.threshold = 0.0
    with SavedTensorMeter(base) as meter:
        meter.explore(MatMul8bitLt.apply(x, base.linear.weight, None, None, base.linear.state))
    assert meter.by_op["MatMul8bitLtBackward"] >= 2 * 16 * D_IN


def test_merged_equals_unmerged_within_the_quantization(pair):
    ours, _ = pair
    layer = ours.base_model.model.linear
    x = torch.randn(16, D_IN, dtype=torch.bfloat16)
    with torch.no_grad():
        before = ours(x)
        target = dequantized(layer.base_layer) + layer.get_delta_weight("default")
        ours.merge_adapter()
        merged = dequantized(layer.base_layer)
        if layer.base_layer.weight.dtype == torch.uint8:
            packed, state = bnb_functional.quantize_4bit(
                target.to(torch.bfloat16), quant_type="nf4", compress_statistics=True
            )
            rounded = bnb_functional.dequantize_4bit(packed, state).float()
        else:
            scale = target.abs().amax(1, keepdim=True)
            rounded = (target / scale * 127).round() * scale / 127
        assert (merged - rounded).norm() < 0.05 * (rounded - target).norm() + 0.02 * target.norm()
        exact = x.float() @ rounded.T + layer.base_layer.bias.float()
        assert (ours(x).float() - exact).norm() < 0.02 * exact.norm()
        ours.unmerge_adapter()
        assert torch.equal(ours(x), before)


def test_trap_evaluation_stops_gradients(pair):
    """Trap: bitsandbytes packs a 4-bit weight for CPUs at the first evaluation, and then has no backward."""
    ours, theirs = pair
    x = torch.randn(4, 16, D_IN, dtype=torch.bfloat16, requires_grad=True)

    def gradient(model):
        return torch.autograd.grad(model.train()(x).float().pow(2).sum(), x)[0]

    reference = gradient(ours)
    for model in pair:
        model.eval()(x.detach())
    assert torch.equal(gradient(ours), reference)
    base = theirs.base_model.model.linear.base_layer
    if getattr(base.weight, "quant_state", None) and getattr(
        base.weight.quant_state, "packing_format_for_cpu", False
    ):  # on CPUs with AVX512-BF16
        with pytest.raises(RuntimeError, match="in-place"):  # without a bias the gradient is lost silently
            gradient(theirs)
        with pytest.raises(ValueError, match="packed"):
            get_lora_fa_model(theirs.unload(), LoraFaConfig(r=R, target_modules=["linear"]))


def test_qlora_trains_and_reloads(tmp_path, batch):
    """A model loaded in NF4 with double quantisation, as in the paper's QLoRA runs."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=97, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    quantization = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )

    def base():
        return transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / "base", quantization_config=quantization, dtype=torch.float32
        )

    model = get_lora_fa_model(
        peft.prepare_model_for_kbit_training(base(), use_gradient_checkpointing=False),
        LoraFaConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(4):
        loss = model(**batch("llama")).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.save_pretrained(tmp_path / "adapter")
    plain = peft.PeftModel.from_pretrained(base(), tmp_path / "adapter").eval()
    with torch.no_grad():
        a, b = plain(**batch("llama")).loss, model.eval()(**batch("llama")).loss
    torch.testing.assert_close(a, b, rtol=1e-2, atol=0)  # plain PEFT evaluates packed weights


@pytest.mark.parametrize("bits", [4, 8])
def test_eva(bits):
    torch.manual_seed(0)
    config = LoraFaConfig(r=R, target_modules=["linear"], init_A="eva")
    model = get_lora_fa_model(Layer(bits).to("cpu"), config)
    x = (torch.randn(96, D_IN) * 0.8 ** torch.arange(D_IN)).to(torch.bfloat16)
    plain = {"prepare_model_inputs_fn": None, "prepare_layer_inputs_fn": None, "show_progress_bar": False}
    initialize_eva(model, [x], forward_fn=lambda model, x: model(x), **plain)
    A = model.base_model.model.linear.lora_A["default"].weight
    assert not A.requires_grad
    torch.testing.assert_close(A @ A.T, torch.eye(R), atol=1e-4, rtol=0)
