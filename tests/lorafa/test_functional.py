import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lorafa import add_lora_fa, lora_fa_linear
from lorafa.functional import dropped, keep_probability, projection
from lorafa.memory.meter import SavedTensorMeter

D_IN, D_OUT, R, S = 6, 7, 3, 0.7


def operands(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    x = torch.randn(*shape, D_IN, dtype=dtype, requires_grad=True)
    B = torch.randn(D_OUT, R, dtype=dtype, requires_grad=True)
    W, b = torch.randn(D_OUT, D_IN, dtype=dtype), torch.randn(D_OUT, dtype=dtype)
    return x, W, b, torch.randn(R, D_IN, dtype=dtype), B


def gradients(y: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return torch.autograd.grad((y * weights).sum(), inputs)


@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 1, 3), (0,), ()])
@pytest.mark.parametrize("with_bias", [True, False])
def test_equals_the_formula(shape, with_bias):
    x, W, b, A, B = operands(*shape)
    bias = b if with_bias else None
    y, expected = lora_fa_linear(x, W, bias, A, B, S), F.linear(x, W, bias) + S * (x @ A.T @ B.T)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(gradients(y, x, B), gradients(expected, x, B))


@pytest.mark.parametrize("p", [0.0, 0.4])
@pytest.mark.parametrize("on_base", [True, False])
def test_gradcheck(p, on_base):
    x, W, b, A, B = operands(2, 3)
    base = torch.randn(2, 3, D_OUT, dtype=torch.float64, requires_grad=True)

    def function(x, base, B):
        torch.manual_seed(5)
        if on_base:
            return add_lora_fa(base, x, A, B, S, p)
        return lora_fa_linear(x, W, b, A, B, S, p)

    assert torch.autograd.gradcheck(function, (x, base, B))


def test_non_contiguous_input():
    x, W, b, A, B = operands(4)
    wide = x.detach().repeat_interleave(2, dim=1).requires_grad_()
    y = lora_fa_linear(wide[:, ::2], W, b, A, B, S)
    (grad,) = gradients(y, wide)
    torch.testing.assert_close(grad[:, ::2], gradients(lora_fa_linear(x, W, b, A, B, S), x)[0])
    transposed = torch.randn(D_IN, 5, dtype=torch.float64, requires_grad=True)
    y = lora_fa_linear(transposed.T, W, b, A, B, S)
    torch.testing.assert_close(y, F.linear(transposed.T, W, b) + S * (transposed.T @ A.T @ B.T))


def test_dropout_equals_a_reference_with_the_same_mask():
    x, W, b, A, B = operands(5)
    p = 0.25
    torch.manual_seed(11)
    y = lora_fa_linear(x, W, b, A, B, S, p)
    torch.manual_seed(11)
    mask = dropped(x, p, torch.randint(2**63 - 1, ()))
    assert 0 < mask.sum() < mask.numel()
    expected = F.linear(x, W, b) + S * (x.masked_fill(mask, 0) / (1 - p) @ A.T @ B.T)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(gradients(y, x, B), gradients(expected, x, B))


@pytest.mark.parametrize("p", [0.05, 0.5])
def test_masks_are_those_of_dropout(p):
    x = torch.ones(1000, 1001)
    first, again, other = (dropped(x, p, torch.tensor(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    deviation = (p * (1 - p) / x.numel()) ** 0.5
    for mask in (first, other):
        assert abs(mask.double().mean().item() - p) < 5 * deviation + 2**-16
    assert abs((first & other).double().mean().item() - p * p) < 5 * deviation + 2**-15  # independent
    assert keep_probability(p) == pytest.approx(1 - p, abs=2**-16)


@pytest.mark.parametrize(("p", "seed_bytes"), [(0.0, 0), (0.05, 8)])
def test_saves_xa_and_nothing_else(p, seed_bytes):
    """Trap: PEFT's layer keeps the fp32 cast of X, the dropout mask, or both."""
    rows, r, d = 16, 4, 256
    base = torch.nn.Linear(d, d, dtype=torch.bfloat16).requires_grad_(False)
    A, B = torch.randn(r, d), torch.nn.Parameter(torch.randn(d, r))
    x = torch.randn(rows, d, dtype=torch.bfloat16, requires_grad=True)
    with SavedTensorMeter(base) as meter:
        y = lora_fa_linear(x, base.weight, base.bias, torch.nn.Parameter(A, requires_grad=False), B, 1.0, p)
        meter.explore(y)
    assert meter.total == 2 * rows * r + seed_bytes
    y.float().sum().backward()
    assert B.grad.dtype == torch.float32


def test_autocast_saves_no_cast_weight():
    """Under autocast, torch's own linear layer keeps the bf16 copy of a frozen fp32 weight until backward."""
    x, W, b, A, B = operands(32, dtype=torch.float32)
    W, b, A = (torch.nn.Parameter(t, requires_grad=False) for t in (W, b, A))
    with torch.autocast("cpu", torch.bfloat16):
        with SavedTensorMeter() as theirs:
            expected = F.linear(x, W, b) + S * F.linear(F.linear(x, A), B)
        with SavedTensorMeter() as ours:
            y = lora_fa_linear(x, W, b, A, B, S)
            ours.explore(y)
    assert y.dtype == expected.dtype == torch.bfloat16
    assert ours.total == 2 * 32 * R + 4 * B.numel()  # B here is a plain tensor, not a parameter
    assert theirs.total >= 2 * W.numel()
    torch.testing.assert_close(y, expected, rtol=0.02, atol=0.1)
    for ours_grad, theirs_grad in zip(gradients(y, x, B), gradients(expected, x, B), strict=True):
        assert ours_grad.dtype == torch.float32
        torch.testing.assert_close(ours_grad, theirs_grad, rtol=0.02, atol=0.15)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_replays_the_mask(reentrant):
    x, W, b, A, B = operands(4, 3)

    def run(wrap):
        torch.manual_seed(3)
        return gradients(wrap(lambda x: lora_fa_linear(x, W, b, A, B, S, 0.5)), x, B)

    plain = run(lambda f: f(x))
    if reentrant:  # reentrant checkpoints run their own backward
        torch.manual_seed(3)
        y = checkpoint(lambda x: lora_fa_linear(x, W, b, A, B, S, 0.5), x, use_reentrant=True)
        (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
        torch.testing.assert_close((x.grad, B.grad), plain)
    else:
        torch.testing.assert_close(run(lambda f: checkpoint(f, x, use_reentrant=False)), plain)


def test_trained_weight_is_refused():
    x, W, b, A, B = operands(4)
    with pytest.raises(ValueError, match="freeze them"):
        lora_fa_linear(x, W.requires_grad_(), b, A, B, S)


def test_trained_projection_is_refused():
    x, W, b, A, B = operands(4)
    with pytest.raises(ValueError, match="A no gradient"):
        lora_fa_linear(x, W, b, A.requires_grad_(), B, S)


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_dropout_outside_its_range_is_refused(p):
    x, W, b, A, B = operands(4)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        lora_fa_linear(x, W, b, A, B, S, p)


@pytest.mark.parametrize("p", [1 - 1e-9, 1.0])
def test_everything_dropped(p):
    x, W, b, A, B = operands(4)
    y = lora_fa_linear(x, W, b, A, B, S, p)
    grads = gradients(y, x, B)
    torch.testing.assert_close(grads[0], gradients(F.linear(x, W, b), x)[0])
    torch.testing.assert_close(grads[1], torch.zeros_like(B))
    torch.testing.assert_close(y, F.linear(x, W, b))


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_compiles_in_one_graph(p):
    x, W, b, A, B = operands(4, 3)
    compiled = torch.compile(lora_fa_linear, fullgraph=True, backend="aot_eager")
    results = []
    for function in (lora_fa_linear, compiled):
        torch.manual_seed(7)
        y = function(x, W, b, A, B, S, p)
        results.append((y, *gradients(y, x, B)))
    torch.testing.assert_close(*results)


def test_sgd_on_b_is_compressed_sgd_on_the_weight():
    """Paper §3.3: one step of SGD on B changes the weight by -η·A·Aᵀ·dW."""
    x, W, b, A, B = operands(5)
    lr = 0.1
    full = W.clone().requires_grad_()
    (dW,) = gradients(F.linear(x, full + B.detach() @ A, b), full)
    (dB,) = gradients(lora_fa_linear(x, W, b, A, B, 1.0), B)
    change = (B - lr * dB) @ A - B @ A
    torch.testing.assert_close(change, -lr * dW @ A.T @ A)  # both sides transposed: W here is (out, in)


def test_projected_gradient_is_the_closest_to_full_fine_tuning():
    x, W, b, A, B = operands(5)
    full = W.clone().requires_grad_()
    (dW,) = gradients(F.linear(x, full + S * B.detach() @ A, b), full)
    (dB,) = gradients(lora_fa_linear(x, W, b, A, B, S, preconditioner=projection(A, S)), B)
    closest = torch.linalg.lstsq(S * A.T, dW.T).solution.T  # min over G of ‖s·G·A - dW‖
    torch.testing.assert_close(dB, closest)


def test_projection_of_an_orthonormal_matrix_only_rescales():
    A = torch.linalg.qr(torch.randn(D_IN, R, dtype=torch.float64)).Q.T
    torch.testing.assert_close(projection(A, S), torch.eye(R, dtype=torch.float64) / S**2)


def test_works_under_fake_tensors():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x, W, _, A, B = operands(4)
        with SavedTensorMeter() as meter:
            y = lora_fa_linear(x, torch.nn.Parameter(W, False), None, torch.nn.Parameter(A, False), B, S, 0.1)
            meter.explore(y)
        gradients(y, x, B)
    assert meter.total == 8 * (4 * R + B.numel() + 1)
