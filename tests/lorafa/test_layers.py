"""LoRA-FA layers beside PEFT's LoRA with A frozen by hand: the same numbers, fewer bytes, and no traps."""

import copy

import peft
import pytest
import torch
from peft.optimizers import create_lorafa_optimizer
from torch import nn

from lorafa import LoraFaConfig, audit, get_lora_fa_model
from lorafa.layers import LoraFaLayer
from lorafa.memory.meter import SavedTensorMeter
from lorafa.targets import select_targets

OPTIONS = {"r": 4, "lora_alpha": 8}


def adapters(model):
    """The adapter weights of a model, by the layer's name and 'lora_A' or 'lora_B'."""
    return {name: p for name, p in model.named_parameters() if ".lora_" in name}


def freeze_projection(model):
    """What PEFT's create_lorafa_optimizer does."""
    for name, parameter in adapters(model).items():
        if ".lora_A." in name:
            parameter.requires_grad_(False)
    return model


def trains_projection(model):
    return any(p.requires_grad for name, p in adapters(model).items() if ".lora_A." in name)


def pair(model, seed=1, **options):
    """The model with LoRA-FA, and with PEFT's LoRA and A frozen, with the same random A and B."""
    options = {**OPTIONS, **options}
    theirs = freeze_projection(peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**options)))
    ours = get_lora_fa_model(model, LoraFaConfig(**options))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for (name, a), (other, b) in zip(adapters(ours).items(), adapters(theirs).items(), strict=True):
            assert name == other
            a.copy_(torch.randn(a.shape, generator=generator) / 10)
            b.copy_(a)
    return ours, theirs


def train(model, batch, steps, lr=1e-2):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    losses = []
    for _ in range(steps):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def mlp(dtype=torch.bfloat16, d=64):
    torch.manual_seed(0)
    return nn.ModuleDict({"q": nn.Linear(d, d), "k": nn.Linear(d, d), "v": nn.Linear(d, d)}).to(dtype)


class SharedInput(nn.Module):
    """Attention's projections: three layers that read one X."""

    def __init__(self, dtype=torch.bfloat16, d=64):
        super().__init__()
        self.layers = mlp(dtype, d)

    def forward(self, x):
        return sum(layer(x) for layer in self.layers.values())


@pytest.mark.parametrize("family", ["llama", "t5-gated", "roberta"])
def test_ten_steps_equal_pefts(family, tiny, batch):
    ours, theirs = pair(tiny(family), target_modules=select_targets(tiny(family), "all-linear"))
    ours.eval(), theirs.eval()  # no hidden dropout; gradients flow all the same
    data = batch(family)
    a, b = ours(**data), theirs(**data)
    torch.testing.assert_close(a.logits, b.logits)
    a.loss.backward(), b.loss.backward()
    for (name, p), q in zip(adapters(ours).items(), adapters(theirs).values(), strict=True):
        assert (p.grad is None) == (".lora_A." in name)
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad)
    ours.zero_grad(), theirs.zero_grad()
    losses = train(ours, data, 10)
    assert losses[-1] < losses[0]
    torch.testing.assert_close(losses, train(theirs, data, 10), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4), (torch.bfloat16, 0.03)]
)
@pytest.mark.integration
def test_fifty_steps_follow_pefts_loss_curve(dtype, tolerance, tiny, batch):
    ours, theirs = pair(tiny("llama-4", dtype), target_modules="all-linear")
    ours.train(), theirs.train()
    curve, reference = (torch.tensor(train(model, batch("llama"), 50)) for model in (ours, theirs))
    assert reference[-1] < 0.95 * reference[0]
    torch.testing.assert_close(curve, reference, rtol=tolerance, atol=0)


def test_adapters_in_fp32_over_a_bf16_model(tiny, batch):
    model = get_lora_fa_model(
        tiny("llama", torch.bfloat16), LoraFaConfig(**OPTIONS, target_modules="all-linear")
    )
    assert {p.dtype for p in adapters(model).values()} == {torch.float32}
    assert model(**batch("llama")).logits.dtype == torch.bfloat16
    model = get_lora_fa_model(
        tiny("llama", torch.bfloat16),
        LoraFaConfig(**OPTIONS, target_modules="qv"),
        autocast_adapter_dtype=False,
    )
    assert {p.dtype for p in adapters(model).values()} == {torch.bfloat16}


def saved(model, x, **options):
    with SavedTensorMeter(model, **options) as meter:
        model(x)
    return meter.total


@pytest.mark.parametrize("dropout", [0.0, 0.05])
def test_trap_cast_inputs_and_masks(dropout):
    """Trap: PEFT casts X to the adapters' fp32 in each layer, and keeps dropout's mask after A is frozen."""
    rows, d, r = 128, 64, 4
    ours, theirs = pair(SharedInput(), target_modules=["q", "k", "v"], lora_dropout=dropout)
    lora = peft.get_peft_model(
        SharedInput(), peft.LoraConfig(**OPTIONS, target_modules=["q", "k", "v"], lora_dropout=dropout)
    )
    x = torch.randn(rows, d, dtype=torch.bfloat16, requires_grad=True)
    floor, element = 3 * 2 * rows * r, rows * d
    mask = 3 * element if dropout else 0
    assert (
        saved(lora, x, bool_dropout_mask=True) == 3 * 4 * element + 2 * floor + mask
    )  # three fp32 copies of X
    assert saved(theirs, x, bool_dropout_mask=True) == 2 * floor + mask
    assert saved(ours, x, bool_dropout_mask=True) <= 1.05 * floor


def test_trap_gradients_switched_on_again():
    """Trap: PEFT un-freezes A whenever it switches an adapter on."""

    def toggle(model):
        with model.disable_adapter():
            pass
        return trains_projection(model)

    def switch(model):
        model.set_adapter("default")
        return trains_projection(model)

    for disturb in (toggle, switch):
        ours, theirs = pair(SharedInput(), target_modules=["q", "k", "v"])
        assert not trains_projection(ours) and not trains_projection(theirs)
        assert disturb(theirs)
        assert not disturb(ours)
        audit(ours).check()
        with pytest.raises(RuntimeError, match=r"A of adapter default in .* trains"):
            audit(theirs).check()


def test_trap_selection_by_name(tiny):
    """Trap: a head's inner layer is called like any other, and PEFT adapts it."""
    adapted = [
        {name for name, module in model.named_modules() if isinstance(module, peft.tuners.lora.LoraLayer)}
        for model in (
            peft.get_peft_model(tiny("roberta"), peft.LoraConfig(**OPTIONS, target_modules="all-linear")),
            get_lora_fa_model(tiny("roberta"), LoraFaConfig(**OPTIONS, target_modules="all-linear")),
        )
    ]
    theirs, ours = ({name.removeprefix("base_model.model.") for name in names} for names in adapted)
    assert theirs - ours == {"classifier.dense", "classifier.out_proj"}
    assert ours < theirs


def test_trap_block_checkpointing_cancels_the_advantage(tiny, batch):
    """Paper §3.2: with the input of each block as all that is saved, LoRA-FA has nothing left to save."""

    def measure(checkpointed):
        totals = []
        for make, config in ((get_lora_fa_model, LoraFaConfig), (peft.get_peft_model, peft.LoraConfig)):
            model = make(tiny("llama-4"), config(**OPTIONS, target_modules="all-linear")).train()
            if checkpointed:
                model.gradient_checkpointing_enable({"use_reentrant": False})
                model.enable_input_require_grads()
            with SavedTensorMeter(model) as meter:
                model(**batch("llama"))
            totals.append(meter.total)
        return totals[0] / totals[1]

    assert measure(checkpointed=False) < 0.9
    assert measure(checkpointed=True) == pytest.approx(1, abs=0.01)


def test_hooked_base_layer_still_runs_its_hooks():
    ours, theirs = pair(SharedInput(torch.float32), target_modules=["q", "k", "v"])
    x = torch.randn(5, 64)
    calls = []
    for model in (ours, theirs):
        layer = model.base_model.model.layers["q"].base_layer
        layer.register_forward_hook(lambda module, args, output: calls.append(module) or output * 2)
    torch.testing.assert_close(ours(x), theirs(x))
    assert len(calls) == 2


def test_trained_base_bias(tiny):
    ours, theirs = pair(SharedInput(torch.float32), target_modules=["q", "k", "v"], bias="lora_only")
    x = torch.randn(5, 64)
    ours(x).sum().backward(), theirs(x).sum().backward()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None) == (not p.requires_grad)
        if name.endswith("bias"):
            torch.testing.assert_close(p.grad, q.grad)


def test_several_active_adapters_add_up():
    ours, theirs = pair(SharedInput(torch.float32), target_modules=["q", "k", "v"])
    for model, config in ((ours, LoraFaConfig), (theirs, peft.LoraConfig)):
        model.add_adapter("second", config(r=2, target_modules=["q", "v"], init_lora_weights=False))
    with torch.no_grad():
        for p, q in zip(adapters(ours).values(), adapters(theirs).values(), strict=True):
            q.copy_(p)
    ours.base_model.set_adapter(["default", "second"])
    theirs.base_model.set_adapter(["default", "second"])
    freeze_projection(theirs)
    x = torch.randn(5, 64, requires_grad=True)
    y, expected = ours(x), theirs(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x), torch.autograd.grad(expected.sum(), x))
    assert not trains_projection(ours)


def test_mixed_batches_are_pefts():
    ours, theirs = pair(SharedInput(torch.float32), target_modules=["q", "k", "v"])
    layers = [m for m in ours.modules() if isinstance(m, LoraFaLayer)]
    other = [m for m in theirs.modules() if isinstance(m, peft.tuners.lora.LoraLayer)]
    x = torch.randn(2, 64)
    ours.eval(), theirs.eval()
    for a, b in zip(layers, other, strict=True):
        names = ["__base__", "default"]
        torch.testing.assert_close(a(x, adapter_names=names), b(x, adapter_names=names))


@pytest.mark.parametrize(("gradient", "agrees"), [("projected", True), ("plain", False)])
def test_projected_gradient_equals_pefts_optimizer(gradient, agrees):
    """PEFT's LoRA-FA optimizer rescales inside its step; ours rescales the gradient, for any optimizer."""
    options = {"target_modules": ["q", "k", "v"]}
    _, theirs = pair(SharedInput(torch.float32), **options)
    ours = get_lora_fa_model(
        SharedInput(torch.float32), LoraFaConfig(**OPTIONS, **options, gradient=gradient)
    )
    ours.load_state_dict(theirs.state_dict())
    start = {name: p.detach().clone() for name, p in adapters(ours).items()}
    x, lr = torch.randn(6, 64), 1e-2
    trained = [p for p in ours.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, eps=1e-6, weight_decay=0.0, fused=True)
    for model, optim in (
        (ours, optimizer),
        (theirs, create_lorafa_optimizer(theirs, r=4, lora_alpha=8, lr=lr)),
    ):
        for _ in range(2):
            optim.zero_grad()
            model(x).pow(2).mean().backward()
            optim.step()
    for (name, p), q in zip(adapters(ours).items(), adapters(theirs).values(), strict=True):
        if ".lora_B." in name:  # PEFT multiplies in bf16
            difference = (p - q).norm() / (q - start[name]).norm()
            assert (difference < 0.1) == agrees, difference


def test_gradient_projection_follows_a_loaded_checkpoint():
    model = get_lora_fa_model(
        SharedInput(torch.float32), LoraFaConfig(**OPTIONS, target_modules=["q"], gradient="projected")
    )
    layer = model.base_model.model.layers["q"]
    nn.init.normal_(layer.lora_B["default"].weight)
    x = torch.randn(6, 64)

    def gradient():
        model.zero_grad()
        model(x).pow(2).sum().backward()
        return layer.lora_B["default"].weight.grad.clone()

    before = gradient()
    with torch.no_grad():
        layer.lora_A["default"].weight.mul_(2)
        layer.lora_B["default"].weight.div_(2)  # the same function
    torch.testing.assert_close(gradient(), before / 2)  # a plain gradient would double
    layer.set_scale("default", 2)
    with torch.no_grad():
        layer.lora_B["default"].weight.div_(2)
    torch.testing.assert_close(gradient(), before / 4)


def test_deepcopy_and_compile():
    model, _ = pair(SharedInput(torch.float32), target_modules=["q", "k", "v"], lora_dropout=0.3)
    x = torch.randn(5, 64)
    results = []
    for module in (model, copy.deepcopy(model), torch.compile(model, backend="aot_eager", fullgraph=True)):
        torch.manual_seed(2)
        results.append(module(x))
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])
