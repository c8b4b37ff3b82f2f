"""`torch.nn.MultiheadAttention` and the Transformer layers that have one, beside PEFT's and torch's."""

import peft
import pytest
import torch
from torch import nn

from lorafa import LoraFaConfig, audit, get_lora_fa_model
from lorafa.memory.meter import SavedTensorMeter

D, HEADS, N, L, S = 8, 2, 3, 4, 5


class Attends(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(D, HEADS, **options)

    def forward(self, *args, **kwargs):
        return self.attention(*args, **kwargs)


def build(module=Attends, **options):
    torch.manual_seed(0)
    model = module(**options).double().eval()
    for p in model.parameters():  # torch gives biases zeros
        nn.init.normal_(p, std=0.5)
    return model


def randomize(*models):
    torch.manual_seed(1)
    for name, p in models[0].named_parameters():
        if ".lora_" in name:
            value = torch.randn(p.shape) / 3
            for model in models:
                other = model.get_parameter(name)
                other.data.copy_(value)
                if ".lora_A." in name:
                    other.requires_grad_(False)


def pair(**options):
    lora = {"r": 4, "lora_alpha": 7, "target_modules": ["attention"]}
    ours = get_lora_fa_model(build(**options), LoraFaConfig(**lora))
    theirs = peft.get_peft_model(build(**options), peft.LoraConfig(**lora))
    randomize(ours, theirs)
    return ours.eval(), theirs.eval()


def inputs(batch_first=True, cross=0):
    """Query, key and value: one tensor, two or three."""
    torch.manual_seed(2)
    tensors = [torch.randn((N, length, D), dtype=torch.float64) for length in (L, S, S)]
    query, key, value = tensors if batch_first else [t.transpose(0, 1) for t in tensors]
    return [(query, query, query), (query, key, key), (query, key, value)][cross]


def assert_equal(ours, theirs, args, **kwargs):
    results = []
    for model in (ours, theirs):
        leaves = {id(x): x.detach().clone().requires_grad_() for x in args}
        y, weights = model(*[leaves[id(x)] for x in args], **kwargs)
        (y.sin().sum() + (0 if weights is None else weights.cos().sum())).backward()
        grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        results.append((y, weights, [x.grad for x in leaves.values()], grads))
    assert results[0][3].keys() and all(".lora_B." in name for name in results[0][3])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("cross", [0, 1, 2])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_inputs(cross, need_weights, batch_first):
    assert_equal(*pair(batch_first=batch_first), inputs(batch_first, cross), need_weights=need_weights)


@pytest.mark.parametrize(
    "options", [{"bias": False}, {"add_bias_kv": True}, {"add_zero_attn": True}], ids=str
)
@pytest.mark.parametrize("need_weights", [True, False])
def test_options(options, need_weights):
    masks = {
        "attn_mask": torch.ones(L, S).triu(2).bool(),
        "key_padding_mask": torch.arange(S).expand(N, S) >= 4,
    }
    ours, theirs = pair(batch_first=True, **options)
    assert_equal(ours, theirs, inputs(cross=1), need_weights=need_weights, average_attn_weights=False)
    assert_equal(ours, theirs, inputs(cross=1), need_weights=need_weights, **masks)


@pytest.mark.parametrize("need_weights", [True, False])
def test_masks(need_weights):
    ours, theirs = pair(batch_first=True)
    additive = torch.randn(N * HEADS, L, L, dtype=torch.float64)
    causal = nn.Transformer.generate_square_subsequent_mask(L, dtype=torch.float64)
    for mask, is_causal in ((additive, False), (additive[0], False), (causal, True)):
        options = {"need_weights": need_weights, "attn_mask": mask, "is_causal": is_causal}
        assert_equal(ours, theirs, inputs(), **options)
    x = inputs()[0][0]
    assert_equal(ours, theirs, (x, x, x), need_weights=need_weights, attn_mask=additive[:HEADS])  # no batch
    with pytest.raises(RuntimeError, match="is_causal"):
        ours(x, x, x, is_causal=True)


@pytest.mark.parametrize("kind", ["frozen", "hooked", "lora"])
def test_adapters_that_need_their_modules_called(kind):
    """A hook on A, or an adapter of LoRA, takes the long way: to the same numbers as PEFT's."""
    ours, theirs = pair(batch_first=True)
    if kind == "lora":
        for model in (ours, theirs):
            model.add_adapter("lora", peft.LoraConfig(r=3, target_modules=["attention"]))
        randomize(ours, theirs)
        for model in (ours, theirs):
            model.set_adapter("lora")
            for name, p in model.named_parameters():
                p.requires_grad_(".lora_B.lora" in name)
    elif kind == "hooked":
        for name, module in ours.named_modules():
            if name.endswith("lora_A.default"):
                module.register_forward_hook(lambda *_: None)
    assert_equal(ours, theirs, inputs())


def test_keeps_no_input():
    def kept(x, model, **options):
        with SavedTensorMeter(model) as meter:
            model(x, x, x, need_weights=False)
        return meter.total

    ours, theirs = pair(batch_first=True)
    x = inputs()[0].requires_grad_()
    frozen = build(batch_first=True).requires_grad_(False)
    base = kept(x, frozen)
    elements = N * L * 8  # of one float64 each
    assert kept(x, ours) <= base + 2 * 4 * elements  # XA, and that of the output projection
    assert kept(x, theirs) >= kept(x, ours) + D * elements


ENCODER = {"d_model": D, "nhead": HEADS, "dim_feedforward": 16, "batch_first": True, "dropout": 0.1}


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(**ENCODER), 2)

    def forward(self, x, mask=None):
        return self.encoder(x, src_key_padding_mask=mask)


TARGETS = [["self_attn"], ["out_proj"], ["linear1"], ["linear2", "out_proj"], "all-linear"]


@pytest.mark.parametrize("wrap", [get_lora_fa_model, peft.get_peft_model], ids=["ours", "peft"])
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_encoder_layers_train_and_evaluate_with_their_adapters(target, wrap):
    """In evaluation, torch's layers hand their weights to one fused kernel, if nothing keeps them from it."""
    base = build(Encoder)
    model = wrap(build(Encoder), LoraFaConfig(r=2, target_modules=target)).eval()
    randomize(model)
    x, mask = inputs()[0], torch.arange(L).expand(N, L) >= 3
    expected = model(x)
    expected.sum().backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all(p.grad is not None and p.grad.any() for p in trained.values())
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected)
        assert not torch.allclose(expected, base(x))
        padded = model(x, mask)
    torch.testing.assert_close(padded[:, :3], model(x, mask)[:, :3])
    assert not audit(model).problems
    merged = model.merge_and_unload()
    with torch.no_grad():
        torch.testing.assert_close(merged(x), expected)


def test_the_shorthand_takes_an_attention_as_a_whole():
    model = get_lora_fa_model(build(Encoder), LoraFaConfig(r=2, target_modules="all-linear"))
    names = {name.removeprefix("base_model.model.encoder.layers.0.") for name, _ in model.named_modules()}
    assert {"self_attn.lora_A", "self_attn.base_layer.out_proj.lora_A", "linear1.lora_A"} <= names


def test_inputs_of_several_sizes_are_refused():
    with pytest.raises(ValueError, match="attention: its queries, keys and values differ in size"):
        get_lora_fa_model(Attends(kdim=4), LoraFaConfig(target_modules=["attention"]))
