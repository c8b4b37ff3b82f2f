import pytest
import torch
from torch import nn
from torch.autograd import Function
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lorafa.memory.meter import SavedTensorMeter

N, D = 8, 16


class Keeper(Function):
    """Keeps tensors in every way that a custom function can."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x * 2)
        ctx.attribute = x.new_zeros(10)
        ctx.nested = {"state": [torch.get_rng_state()]}
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad


@pytest.fixture
def x():
    return torch.randn(N, D, requires_grad=True)


def test_linear_layers(x):
    """A trained layer saves its input, a frozen one nothing; three layers on one input save it once."""
    trained, frozen = nn.Linear(D, D), nn.Linear(D, D).requires_grad_(False)
    with SavedTensorMeter(frozen) as meter:
        frozen(x)
    assert meter.total == 0
    three = nn.ModuleList([trained, nn.Linear(D, D), nn.Linear(D, D)])
    with SavedTensorMeter(three) as meter:
        sum(layer(x) for layer in three)
    assert meter.total == x.nbytes


def test_by_module_and_by_op(x):
    model = nn.Sequential(nn.Linear(D, D), nn.GELU(), nn.Sequential(nn.LayerNorm(D), nn.Linear(D, 4)))
    with SavedTensorMeter(model) as meter:
        model(x)
    statistics = 2 * 4 * N
    assert meter.by_module == {
        "0": x.nbytes,
        "1": x.nbytes,
        "2.0": x.nbytes + statistics,
        "2.1": x.nbytes,
    }
    assert meter.by_op == {"linear": 2 * x.nbytes, "layer_norm": x.nbytes + statistics, "gelu": x.nbytes}
    assert meter.total == sum(meter.by_op.values())
    assert all(saved.dtype == torch.float32 for saved in meter.saved)


def test_views_share_a_storage_and_keep_it_whole(x):
    half = x[: N // 2]
    with SavedTensorMeter() as meter:
        half.exp(), half.sin(), x.T.cos()
    assert meter.total == (N // 2) * D * 4 + x.nbytes  # exp's output, and x once


def test_parameters_and_their_views_do_not_count(x):
    layer = nn.Linear(D, D).requires_grad_(False)
    with SavedTensorMeter(layer) as meter:
        x @ layer.weight.T
        x @ layer.weight.view(D, D)
    assert meter.total == 0
    with SavedTensorMeter(layer) as meter:
        x.to(torch.bfloat16) @ layer.weight.to(torch.bfloat16)  # but a cast copy does
    assert meter.total == 2 * D * D


def test_what_custom_functions_keep(x):
    class Layer(nn.Module):
        def forward(self, x):
            return Keeper.apply(x)

    layer = nn.Sequential(Layer())
    with SavedTensorMeter(layer) as meter:
        layer(x)
    assert meter.by_op == {"KeeperBackward": x.nbytes + 40 + torch.get_rng_state().nbytes}
    assert set(meter.by_module) == {"0"}
    with SavedTensorMeter() as meter:
        Keeper.apply(x).exp()  # found through the function that reads its output
    assert meter.by_op["KeeperBackward"] == x.nbytes + 40 + torch.get_rng_state().nbytes


def test_dropout_mask_as_cuda_keeps_it():
    x = torch.randn(N, D, dtype=torch.bfloat16, requires_grad=True)
    for module in (nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5))):
        totals = []
        for as_cuda in (False, True):
            with SavedTensorMeter(module, bool_dropout_mask=as_cuda) as meter:
                module(x)
            totals.append(meter.total)
        assert totals == [2 * N * D, N * D]
        assert meter.by_op == {"dropout": N * D}


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_save_their_input(reentrant):
    model = nn.Sequential(nn.Linear(D, 8 * D), nn.GELU(), nn.Linear(8 * D, D))
    x = torch.randn(N, D, requires_grad=True)
    with SavedTensorMeter(model) as meter:
        checkpoint(model, x, use_reentrant=reentrant).sum()
    rng = torch.get_rng_state().nbytes  # visible for the reentrant kind, held in a closure by the other
    assert meter.total == x.nbytes + (rng if reentrant else 0)


def test_backward_works_inside_and_after(x):
    model = nn.Sequential(nn.Linear(D, D), nn.Tanh())
    reference = torch.autograd.grad(model(x).sum(), x)
    with SavedTensorMeter(model) as meter:
        y = model(x)
        torch.testing.assert_close(torch.autograd.grad(y.sum(), x, retain_graph=True), reference)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x), reference)
    assert meter.total == 2 * x.nbytes


def test_does_not_keep_the_graph_alive(x):
    import gc
    import weakref

    layer = nn.Tanh()
    with SavedTensorMeter(layer) as meter:
        y = layer(x)
    alive = weakref.ref(y)
    del y
    gc.collect()
    assert alive() is None
    assert meter.total == x.nbytes


def test_restores_the_hooks_on_an_error(x):
    with pytest.raises(RuntimeError, match="inner"), SavedTensorMeter():
        raise RuntimeError("inner")
    with SavedTensorMeter() as meter:
        x.exp()
    assert meter.total == x.nbytes


def test_scaled_dot_product_attention_of_the_floor(x):
    q, k, v = (torch.randn(1, 2, N, D, requires_grad=True) for _ in range(3))
    with SavedTensorMeter() as meter:
        F.scaled_dot_product_attention(q, k, v)
    assert 4 * q.nbytes <= meter.total <= 4 * q.nbytes + 4 * 2 * N + 64  # q, k, v, output; log-sum-exp, seed
    assert set(meter.by_op) == {"scaled_dot_product_attention"}
