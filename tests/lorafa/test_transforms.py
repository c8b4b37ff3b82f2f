"""What may be done with an adapted layer's output, and what with its derivatives: as with PEFT's LoRA."""

import copy
import io
import weakref

import peft
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.nn import functional as F

from lorafa import LoraFaConfig, add_lora_fa, get_lora_fa_model, lora_fa_linear

S = 0.7


def reference(x, W, b, A, B, base=None):
    return (F.linear(x, W, b) if base is None else base) + S * F.linear(F.linear(x, A), B)


def ours(x, W, b, A, B, base=None):
    return lora_fa_linear(x, W, b, A, B, S) if base is None else add_lora_fa(base, x, A, B, S)


@pytest.fixture
def operands() -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    shapes = [(5, 4, 6), (7, 6), (7,), (3, 6), (7, 3)]
    return tuple(torch.randn(shape, dtype=torch.float64) for shape in shapes)


def pair(model, **options):
    """A model with LoRA-FA and with PEFT's LoRA, A frozen, of the same weights."""
    options = {"r": 3, "target_modules": ["0", "2"], **options}
    theirs = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**options))
    mine = get_lora_fa_model(model, LoraFaConfig(**options))
    torch.manual_seed(1)
    for (name, p), q in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        if ".lora_" in name:
            nn.init.normal_(p, std=0.3)
            q.data.copy_(p.data)
        q.requires_grad_(p.requires_grad)
    return mine, theirs


def mlp(**linear):
    torch.manual_seed(0)
    layers = nn.Linear(6, 8, **linear), nn.Tanh(), nn.Linear(8, 5, **linear)
    return nn.Sequential(*layers).double()


IN_PLACE = {
    "relu": nn.ReLU(inplace=True),
    "gelu after add": lambda y: F.gelu(y.add_(1)),
    "mul": lambda y: y.mul_(2),
    "add": lambda y: y.add_(torch.ones_like(y)),
    "slice": lambda y: y[..., 1:].mul_(3) and y if y.numel() == 0 else _write_slice(y),
    "view": lambda y: y.view(-1, y.shape[-1]).mul_(2).view(y.shape),
    "masked fill": lambda y: y.masked_fill_(y < 0, 0),
    "chunk": lambda y: torch.cat([part.exp() for part in y.chunk(2, -1)], -1),
    "dropout": nn.Dropout(0.5, inplace=True).eval(),
    "silu": nn.SiLU(inplace=True),
}


def _write_slice(y):
    y[..., 1:] *= 3
    return y


@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 6)])
def test_output_may_be_changed_in_place(name, shape):
    """Trap: a view that a custom function made refuses in-place operations (Falcon, DeBERTa, ReLU)."""
    mine, theirs = pair(nn.Sequential(nn.Linear(6, 8)).double(), target_modules=["0"])
    torch.manual_seed(2)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    results = []
    for model in (mine, theirs):
        y = IN_PLACE[name](model(x))
        results.append((y, *torch.autograd.grad(y.sin().sum(), [x, *_trained(model)])))
    torch.testing.assert_close(*results)


def _trained(model):
    return [p for p in model.parameters() if p.requires_grad]


def test_several_active_adapters_may_be_changed_in_place():
    model = get_lora_fa_model(nn.Sequential(nn.Linear(6, 8)), LoraFaConfig(r=2, target_modules=["0"]))
    get_lora_fa_model(model, LoraFaConfig(r=3, target_modules=["0"]), "second")
    model.base_model.set_adapter(["default", "second"])
    model(torch.randn(2, 4, 6)).relu_().sum().backward()


def test_the_output_is_no_view_and_holds_no_input(operands):
    x, W, b, A, B = operands
    x = x.clone()
    y = lora_fa_linear(x, W, b, A, B.requires_grad_(), S)
    assert not y._is_view()
    assert y.untyped_storage().nbytes() == y.numel() * y.element_size()
    held = weakref.ref(x)
    del x
    assert held() is None


@pytest.mark.parametrize("on_base", [False, True])
def test_every_derivative(on_base, operands):
    """Reverse, forward, batched, and second derivatives, against finite differences."""
    x, W, b, A, B = operands
    base = torch.randn(5, 4, 7, dtype=torch.float64)

    def function(x, B, base):
        return ours(x, W, b, A, B, base if on_base else None)

    inputs = (x[:2].requires_grad_(), B.requires_grad_(), base[:2].requires_grad_())
    options = {"check_batched_grad": True}
    assert torch.autograd.gradcheck(
        function, inputs, check_forward_ad=True, check_batched_forward_grad=True, **options
    )
    assert torch.autograd.gradgradcheck(lambda *args: function(*args).sin(), inputs)


@pytest.mark.parametrize("transform", [grad, hessian, jacfwd, jacrev])
@pytest.mark.parametrize("argument", [0, 4])
def test_transforms(transform, argument, operands):
    def scalar(function):
        return lambda *args: function(*args).sin().sum()

    args = (operands[0][0], *operands[1:])
    actual, expected = (transform(scalar(f), argnums=argument)(*args) for f in (ours, reference))
    torch.testing.assert_close(actual, expected)


def test_vjp_and_jvp_of_every_operand(operands):
    tangents = tuple(torch.randn_like(operand) for operand in operands)
    torch.testing.assert_close(jvp(ours, operands, tangents), jvp(reference, operands, tangents))
    for index, tangent in enumerate(tangents):  # frozen operands have a direction, too

        def along(function, index=index):
            return lambda operand: function(*operands[:index], operand, *operands[index + 1 :])

        torch.testing.assert_close(
            jvp(along(ours), (operands[index],), (tangent,)),
            jvp(along(reference), (operands[index],), (tangent,)),
        )
    x, W, b, A, B = operands
    results = []
    for function in (ours, reference):
        y, pull = vjp(lambda x, B, f=function: f(x, W, b, A, B), x, B)
        results.append((y, *pull(torch.ones_like(y))))
    torch.testing.assert_close(*results)


def test_dual_numbers(operands):
    x, W, b, A, B = operands
    results = []
    for function in (ours, reference):
        with forward_ad.dual_level():
            y = function(forward_ad.make_dual(x, torch.ones_like(x)), W, b, A, B)
            results.append(tuple(forward_ad.unpack_dual(y)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("batched", [(0,), (4,), (0, 4), (1,), (1, 2), (3,), (0, 1, 2, 3, 4)])
def test_vmap_over_any_operand(batched, operands):
    dims = tuple(0 if i in batched else None for i in range(5))
    args = tuple(torch.stack([t, 2 * t, -t]) if i in batched else t for i, t in enumerate(operands))
    results = []
    for function in (ours, reference):

        def gradients(*args, f=function):
            y, pull = vjp(lambda x, B: f(x, *args[1:4], B), args[0], args[4])
            return y, pull(torch.ones_like(y))

        results.append(vmap(gradients, in_dims=dims)(*args))
    torch.testing.assert_close(*results)


def test_vmap_of_an_unbatched_cotangent(operands):
    x, W, b, A, B = operands
    cotangent = torch.randn(5, 4, 7, dtype=torch.float64)
    weights = torch.stack([W, 2 * W])
    results = [
        vmap(lambda W, f=f: vjp(lambda x: f(x, W, b, A, B), x)[1](cotangent))(weights)
        for f in (ours, reference)
    ]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_per_sample_gradients_equal_pefts(chunk_size):
    x = torch.randn(5, 3, 6, dtype=torch.float64)
    results = []
    for model in pair(mlp()):
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}

        def loss(parameters, sample, model=model):
            return functional_call(model, parameters, (sample,)).pow(2).sum()

        per_sample = vmap(grad(loss), in_dims=(None, 0), chunk_size=chunk_size)(trained, x)
        results.append(per_sample)
        for index, sample in enumerate(x):  # one by one, by plain autograd
            alone = torch.autograd.grad(model(sample).pow(2).sum(), list(trained.values()))
            torch.testing.assert_close(tuple(g[index] for g in per_sample.values()), alone)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("names", ["trained", "all"])
def test_gradients_of_parameters_equal_pefts(names):
    """Also of frozen ones, which functional_call may ask for."""
    x = torch.randn(5, 6, dtype=torch.float64)
    results = []
    for model in pair(mlp()):
        parameters = {n: p for n, p in model.named_parameters() if names == "all" or p.requires_grad}
        results.append(
            grad(lambda parameters, model=model: functional_call(model, parameters, (x,)).sin().sum())(
                parameters
            )
        )
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_masks_under_vmap(randomness):
    x, A = torch.ones(4, 2, 64), torch.eye(64)
    zeros = torch.zeros(64, 64)

    def gradient(x):
        return grad(lambda x: lora_fa_linear(x, zeros, None, A, A, 1.0, 0.5).sum())(x)

    def both(x):
        return vjp(lambda x: lora_fa_linear(x, zeros, None, A, A, 1.0, 0.5), x)

    y, dx = vmap(lambda x: (both(x)[0], gradient(x)), randomness=randomness)(x)
    for result in (y, dx):
        assert set(result.unique().tolist()) == {0.0, 2.0}
        assert bool((result == result[0]).all()) == (randomness == "same")


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_traced_layers_are_saved_and_loaded(dropout):
    mine, theirs = pair(mlp(), lora_dropout=dropout)
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    for mode in (True, False):
        mine.train(mode), theirs.train(mode)
        traced = torch.jit.trace(mine, x, check_trace=False)
        file = io.BytesIO()
        torch.jit.save(traced, file)
        file.seek(0)
        loaded = torch.jit.load(file)
        torch.manual_seed(3)
        expected = theirs(x)  # masks are torch's own in a trace
        torch.manual_seed(3)
        y = loaded(x)
        torch.testing.assert_close(y, expected)
        by_name = dict(loaded.named_parameters())
        trained = [by_name[name] for name, p in mine.named_parameters() if p.requires_grad]
        torch.testing.assert_close(
            torch.autograd.grad(y.sum(), trained), torch.autograd.grad(expected.sum(), _trained(theirs))
        )


def test_exported_program():
    mine, theirs = pair(mlp())
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    torch.testing.assert_close(torch.export.export(mine.eval(), (x,)).module()(x), theirs(x))


def test_compiled_output_may_be_changed_in_place():
    mine, theirs = pair(nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True)), target_modules=["0"])
    x = torch.randn(2, 3, 6, requires_grad=True)
    compiled = torch.compile(mine, backend="aot_eager", fullgraph=True)
    results = [(y, *torch.autograd.grad(y.sum(), [x, *_trained(m)])) for m in (mine, theirs) for y in [m(x)]]
    y = compiled(x)
    results.append((y, *torch.autograd.grad(y.sum(), [x, *_trained(mine)])))
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[2], results[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backward_inside", [True, False])
@pytest.mark.parametrize("forward_inside", [True, False])
def test_autocast_around_any_part(dtype, forward_inside, backward_inside):
    mine, theirs = pair(mlp().float())
    x = torch.randn(5, 3, 6, requires_grad=True)
    results = []
    for model in (mine, theirs):
        with torch.autocast("cpu", dtype, enabled=forward_inside):
            loss = model(x).float().pow(2).sum()
        with torch.autocast("cpu", dtype, enabled=backward_inside):
            results.append(torch.autograd.grad(loss, [x, *_trained(model)]))
    assert {g.dtype for g in results[0]} == {torch.float32}
    torch.testing.assert_close(*results, rtol=0.05, atol=0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_leaves_a_base_of_another_dtype(dtype):
    torch.manual_seed(0)
    base, x, A = (torch.randn(shape, dtype=dtype) for shape in ((4, 7), (4, 6), (3, 6)))
    B = torch.randn(7, 3, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = add_lora_fa(base, x, A, B, S)
    torch.testing.assert_close(y, base + S * x @ A.T @ B.T)
    torch.testing.assert_close(
        torch.autograd.grad(y.sum(), B)[0], S * (torch.ones(7, 4) @ (x @ A.T).float()).to(dtype)
    )
