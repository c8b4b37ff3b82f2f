"""Every kind of module that PEFT's LoRA adapts, beside PEFT's own with A frozen by hand."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_args

import peft
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from lorafa import LoraFaConfig, audit, get_lora_fa_model, load
from lorafa.memory.meter import SavedTensorMeter
from lorafa.options import DataFreeInit
from lorafa.refusals import REASONS

R, BATCH = 4, 3


class Fused(nn.Module):
    """Experts in one parameter, each row to the expert that its place says."""

    def __init__(self, transposed: bool = False) -> None:
        super().__init__()
        self.is_transposed, self.num_experts = transposed, 3
        shape = (3, 8, 12) if transposed else (3, 12, 8)
        self.weight = nn.Parameter(torch.randn(shape))

    def forward(self, x):
        rows = x.unflatten(0, (3, -1))
        if self.is_transposed:
            return torch.bmm(rows, self.weight)
        return torch.cat([F.linear(rows[i], self.weight[i]) for i in range(3)])


class Oddly(nn.Module):
    """A parameter in an operation that is no product."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, 8))

    def forward(self, x):
        return torch.einsum("bi,oi->bo", x, self.weight.tanh())


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


@dataclass
class Kind:
    """A module, its input, the rows of XA that one forward keeps, and how to ask for it."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    rows: int | None  # None: not counted
    tokens: int = 0
    options: dict[str, Any] = field(default_factory=lambda: {"target_modules": ["0"]})
    dropout: bool = True
    mergeable: bool = True

    def model(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(self.build(), nn.Identity()).to(dtype)

    def input(self, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        torch.manual_seed(1)
        return torch.randint(self.tokens, self.shape) if self.tokens else torch.randn(self.shape, dtype=dtype)


PARAMETER = {"target_modules": [], "target_parameters": ["0.weight"]}
KINDS = {
    "linear": Kind(lambda: nn.Linear(8, 12), (BATCH, 5, 8), BATCH * 5),
    "conv1D": Kind(lambda: Conv1D(12, 8), (BATCH, 5, 8), BATCH * 5),
    "conv1d": Kind(lambda: nn.Conv1d(6, 8, 3, stride=2, padding=1), (BATCH, 6, 9), BATCH * 5),
    "conv2d": Kind(lambda: nn.Conv2d(3, 8, (3, 5), padding=(1, 0), bias=False), (BATCH, 3, 6, 7), BATCH * 18),
    "conv2d-1x1": Kind(lambda: nn.Conv2d(6, 8, 1), (BATCH, 6, 6, 7), BATCH * 42),
    "conv2d-unbatched": Kind(lambda: nn.Conv2d(3, 8, 3), (3, 6, 7), 20),
    "conv2d-same": Kind(lambda: nn.Conv2d(3, 8, (4, 3), padding="same"), (BATCH, 3, 6, 7), BATCH * 42),
    "conv2d-groups": Kind(
        lambda: nn.Conv2d(4, 8, 3, groups=2), (BATCH, 4, 6, 7), BATCH * 20, mergeable=False
    ),
    "conv2d-circular": Kind(
        lambda: nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular"),
        (BATCH, 3, 6, 7),
        BATCH * 42,
        mergeable=False,  # PEFT's A pads with zeros
    ),
    "conv3d": Kind(lambda: nn.Conv3d(2, 8, 2), (BATCH, 2, 3, 4, 5), BATCH * 24),
    "embedding": Kind(lambda: nn.Embedding(11, 8, padding_idx=2), (BATCH, 5), 0, tokens=11, dropout=False),
    "embedding-norm": Kind(
        lambda: nn.Embedding(11, 8, max_norm=1.0), (BATCH, 5), None, tokens=11, dropout=False, mergeable=False
    ),
    "parameter": Kind(lambda: nn.Linear(8, 12), (BATCH, 5, 8), BATCH * 5, options=PARAMETER, dropout=False),
    "experts": Kind(Fused, (6, 8), 6, options=PARAMETER, dropout=False),
    "experts-transposed": Kind(lambda: Fused(transposed=True), (6, 8), 6, options=PARAMETER, dropout=False),
    "parameter-oddly": Kind(Oddly, (BATCH, 8), None, options=PARAMETER, dropout=False),
    "attention": Kind(SelfAttention, (BATCH, 5, 8), None, options={"target_modules": ["attention"]}),
}
each = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
pytestmark = pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd:UserWarning")


def adapters(model):
    return {name: p for name, p in model.named_parameters() if ".lora_" in name}


def randomize(*models):
    """Give the adapters of all models the same random numbers, and freeze A."""
    torch.manual_seed(2)
    for name, p in adapters(models[0]).items():
        value = torch.randn(p.shape) / 3
        for model in models:
            other = adapters(model)[name]
            other.data.copy_(value)
            if "_A" in name.split(".lora")[1]:
                other.requires_grad_(False)


def pair(kind, dtype=torch.float64, names=("default",), **options):
    options = {"r": R, "lora_alpha": 7, **kind.options, **options}
    ours = get_lora_fa_model(kind.model(dtype), LoraFaConfig(**options), names[0])
    theirs = peft.get_peft_model(kind.model(dtype), peft.LoraConfig(**options), names[0])
    for name in names[1:]:
        get_lora_fa_model(ours, LoraFaConfig(**options), name)
        theirs.add_adapter(name, peft.LoraConfig(**options))
    for model in (ours, theirs):
        model.base_model.set_adapter(list(names))
    randomize(ours, theirs)
    return ours, theirs


def gradients(model, x):
    """Output, gradient by x, and gradients of the trained parameters, of a random function of the output."""
    x = x.clone().requires_grad_() if x.is_floating_point() else x
    y = model(x)
    torch.manual_seed(3)
    (y * torch.randn(y.shape)).sum().backward()
    named = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return y.detach(), x.grad, named


def assert_equal(ours, theirs, x, **tolerance):
    (y, x_grad, grads), (y_theirs, x_theirs, grads_theirs) = gradients(ours, x), gradients(theirs, x)
    torch.testing.assert_close(y, y_theirs, **tolerance)
    if x_grad is not None:
        torch.testing.assert_close(x_grad, x_theirs, **tolerance)
    # Of several adapters, PEFT's attention gives only the last a gradient.
    assert grads.keys() == grads_theirs.keys() or (
        grads.keys() > grads_theirs.keys() and "attention" in min(grads)
    )
    assert all("_B" in name for name in grads)
    for name in grads_theirs:
        torch.testing.assert_close(grads[name], grads_theirs[name], **tolerance)


@each
@pytest.mark.parametrize("names", [("default",), ("one", "two")], ids=["one", "two"])
def test_equals_peft(kind, names):
    ours, theirs = pair(kind, names=names)
    assert_equal(ours, theirs, kind.input())
    assert not audit(ours).problems


@each
def test_keeps_only_xa(kind):
    if kind.rows is None:
        pytest.skip("keeps what its operation keeps")
    ours, _ = pair(kind)
    x = kind.input()
    with SavedTensorMeter(ours) as meter:
        y = ours(x.requires_grad_() if x.is_floating_point() else x)
    tokens = 0 if x.is_floating_point() else x.nbytes
    assert meter.total == kind.rows * R * y.element_size() + tokens, meter.saved


@each
def test_adapters_in_float32_over_bfloat16_and_autocast(kind):
    ours, theirs = pair(kind, torch.bfloat16)
    assert {p.dtype for p in adapters(ours).values()} == {torch.float32}
    x = kind.input(torch.bfloat16)
    assert_equal(ours, theirs, x, rtol=0.1, atol=0.3)
    assert ours(x).dtype == torch.bfloat16
    ours, theirs = pair(kind, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert_equal(ours, theirs, kind.input(torch.float32), rtol=0.1, atol=0.3)


@each
def test_merge_unmerge_disable_unload(kind):
    ours, _ = pair(kind, names=("one", "two"))
    x, base = kind.input(), kind.model()
    with torch.no_grad():
        expected, untouched = ours(x), base(x)
        with ours.disable_adapter():
            torch.testing.assert_close(ours(x), untouched)
        assert not torch.allclose(expected, untouched)
        if not kind.mergeable:
            return
        for safe in (False, True):
            ours.merge_adapter(safe_merge=safe)
            torch.testing.assert_close(ours(x), expected)
            ours.unmerge_adapter()
            torch.testing.assert_close(ours(x), expected)
        assert not audit(ours).problems
        copied = copy.deepcopy(ours)
        torch.testing.assert_close(copied(x), expected)
        torch.testing.assert_close(ours.unload()(x), untouched)
        merged = copied.merge_and_unload()
        torch.testing.assert_close(merged(x), expected)
        assert merged.state_dict().keys() == base.state_dict().keys()


@each
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_plain_peft_loads_what_is_saved(kind, low_cpu_mem_usage, tmp_path):
    ours, _ = pair(kind)
    ours.save_pretrained(tmp_path)
    x = kind.input()
    theirs = peft.PeftModel.from_pretrained(kind.model(), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
    again = load(kind.model(), tmp_path, is_trainable=True)
    expected = ours(x)
    torch.testing.assert_close(theirs(x), expected)
    torch.testing.assert_close(again(x), expected)
    assert not audit(again).problems


@each
def test_dropout_is_replayed(kind):
    if not kind.dropout:
        return
    ours, _ = pair(kind, lora_dropout=0.5)
    x = kind.input().requires_grad_()
    # PEFT's attention adds its output projection's adapter twice, with the gradient of once.
    trained = [p for name, p in ours.named_parameters() if p.requires_grad and "out_proj" not in name]

    def output(*_):
        torch.manual_seed(4)
        return ours(x)

    assert torch.autograd.gradcheck(output, (x, *trained), fast_mode=True)
    assert not torch.allclose(output(), ours(x))
    torch.testing.assert_close(ours.eval()(x), ours(x))


@each
def test_projected_gradient(kind):
    if kind is KINDS["embedding-norm"]:
        pytest.skip("is refused")
    options = {"r": R, "lora_alpha": 7, **kind.options}
    plain, projected = (
        get_lora_fa_model(kind.model(), LoraFaConfig(**options, gradient=gradient))
        for gradient in ("plain", "projected")
    )
    randomize(plain, projected)
    (y, _, grads), (y_projected, _, changed) = (
        gradients(model, kind.input()) for model in (plain, projected)
    )
    torch.testing.assert_close(y, y_projected)
    weights = adapters(plain)
    for name, gradient in grads.items():
        A, s = weights[name.replace("_B", "_A")].flatten(1), 7 / R
        module = next(m for n, m in plain.named_modules() if name.startswith(f"{n}.lora_"))
        experts, groups = getattr(module, "num_experts", 1), getattr(module.get_base_layer(), "groups", 1)
        if experts > 1:  # PEFT's order of columns: rank, expert
            A, gradient = A.unflatten(0, (experts, -1)), gradient.unflatten(1, (-1, experts)).permute(2, 0, 1)
            changed[name] = changed[name].unflatten(1, (-1, experts)).permute(2, 0, 1)
        elif groups > 1:
            A, gradient = A.unflatten(0, (groups, -1)), gradient.flatten(1).unflatten(0, (groups, -1))
        expected = gradient.flatten(A.ndim - 1) @ (A @ A.mT).inverse() / s**2
        torch.testing.assert_close(changed[name].reshape(expected.shape), expected)


@each
@pytest.mark.parametrize("init_A", get_args(DataFreeInit))
def test_initialisation(kind, init_A):
    model = get_lora_fa_model(kind.model(), LoraFaConfig(r=2, **kind.options, init_A=init_A))
    x = kind.input()
    torch.testing.assert_close(model(x), kind.model()(x))
    for name, p in adapters(model).items():
        assert p.any() == ("_A" in name.split(".lora")[1])
        if init_A == "orthogonal" and p.any():
            A = p.flatten(1)
            A = A.unflatten(0, (-1, 2))  # of each expert
            torch.testing.assert_close(
                A @ A.mT, torch.eye(2, dtype=A.dtype).expand_as(A @ A.mT), atol=1e-5, rtol=0
            )
    before = [p.clone() for p in model.parameters() if p.requires_grad]
    model(x).pow(2).sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    after = [p for p in model.parameters() if p.requires_grad]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_grouped_products_keep_only_xa():
    class Grouped(Fused):
        def forward(self, x):
            return F.grouped_mm(
                x, self.weight.transpose(-2, -1), offs=torch.tensor([2, 2, 5], dtype=torch.int32)
            )

    kind = Kind(Grouped, (6, 8), None, options=PARAMETER)  # the last row is no expert's
    ours, theirs = pair(kind, torch.float32)
    x = kind.input(torch.float32)
    (y, x_grad, grads), expected = gradients(ours, x), gradients(theirs, x)
    torch.testing.assert_close((y[:5], x_grad[:5], grads), (expected[0][:5], expected[1][:5], expected[2]))
    with SavedTensorMeter(ours) as meter:
        ours(x.requires_grad_())
    offsets = 3 * 4
    assert meter.total == 5 * R * 4 + offsets, meter.saved


def test_several_adapters_in_one_batch():
    for kind in (KINDS["conv1D"], KINDS["conv2d"], KINDS["embedding"]):
        ours, theirs = pair(kind, names=("one", "two"))
        names = ["two", "__base__", "one"]
        x = kind.input()
        ours.eval(), theirs.eval()
        torch.testing.assert_close(ours(x, adapter_names=names), theirs(x, adapter_names=names))


def test_dilated_convolution_is_what_its_merge_is():
    """PEFT's A has no dilation, and fails."""
    kind = Kind(lambda: nn.Conv2d(3, 8, 3, padding=2, dilation=2), (BATCH, 3, 6, 7), None)
    ours = get_lora_fa_model(kind.model(), LoraFaConfig(r=R, **kind.options))
    randomize(ours)
    expected = ours(kind.input())
    torch.testing.assert_close(ours.merge_and_unload()(kind.input()), expected)


@pytest.mark.parametrize("option", [{"use_dora": True}, {"lora_bias": True}])
def test_refusals_hold_for_each_kind(option):
    assert option.keys() <= REASONS.keys()
    with pytest.raises(ValueError, match=next(iter(option))):
        LoraFaConfig(target_modules=["0"], **option)


def test_unknown_module_is_named():
    with pytest.raises(ValueError, match="cannot adapt 0, a ConvTranspose1d"):
        get_lora_fa_model(nn.Sequential(nn.ConvTranspose1d(2, 2, 1)), LoraFaConfig(target_modules=["0"]))
