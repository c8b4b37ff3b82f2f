"""Several adapters on one model, each of its kind; their combination, their loading, their life and their end."""

import copy
import itertools

import peft
import pytest
import torch
from peft.optimizers import create_lorafa_optimizer
from peft.tuners.lora import LoraLayer
from peft.utils.hotswap import hotswap_adapter
from torch import nn

import lorafa
from lorafa import LoraFaConfig, audit, get_lora_fa_model
from lorafa.functional import projection
from lorafa.layers import LoraFaLayer
from lorafa.memory.meter import SavedTensorMeter

LORA = peft.LoraConfig
OPTIONS = {"r": 4, "lora_alpha": 8, "target_modules": ["0", "2"]}


def mlp(out=8):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(inplace=True), nn.Linear(24, out)).double()


def randomize(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if ".lora_" in name:
            p.data.copy_(torch.randn(p.shape, generator=generator) / 3)
    return model


def trained(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def kinds(model, adapter):
    """Which of A and B of an adapter train."""
    return {name.split(".lora_")[1][0] for name in trained(model) if f".{adapter}." in name}


def gradients(model, x):
    model.zero_grad()
    y = model(x)
    y.sin().sum().backward()
    return y.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


X = torch.randn(5, 3, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def mixed(order, **options):
    """A model with the adapters fa and lora, in one order, and PEFT's with two of LoRA."""
    options = {**OPTIONS, **options}
    theirs = peft.get_peft_model(mlp(), LORA(**options), "fa")
    theirs.add_adapter("plain", LORA(**{**options, "r": 3}))
    if order == "fa first":
        model = get_lora_fa_model(mlp(), LoraFaConfig(**options), "fa")
        model.add_adapter("plain", LORA(**{**options, "r": 3}))
    else:
        model = peft.get_peft_model(mlp(), LORA(**{**options, "r": 3}), "plain")
        get_lora_fa_model(model, LoraFaConfig(**options), "fa")
    randomize(theirs)
    source = dict(theirs.named_parameters())
    for name, p in model.named_parameters():
        p.data.copy_(source[name].data)
    return model, theirs


@pytest.mark.parametrize("order", ["fa first", "lora first"])
@pytest.mark.parametrize("active", [["fa"], ["plain"], ["fa", "plain"], ["plain", "fa"]])
def test_each_adapter_has_its_own_kind(order, active):
    model, theirs = mixed(order)
    for m in (model, theirs):
        m.base_model.set_adapter(active)
    for adapter, trains in (("fa", {"B"}), ("plain", {"A", "B"})):
        assert kinds(model, adapter) == (trains if adapter in active else set())
    (y, mine), (expected, reference) = gradients(model, X), gradients(theirs, X)
    torch.testing.assert_close(y, expected)
    frozen = {name for name in reference if ".lora_A.fa." in name}
    assert set(mine) == set(reference) - frozen
    torch.testing.assert_close(mine, {name: reference[name] for name in mine})
    audit(model).check()
    saves = {layer.saved_bytes_per_token for layer in audit(model).layers}
    assert saves == ({8 * 4} if active == ["fa"] else {8 * (3 + 4 * ("fa" in active) + d) for d in (16, 24)})


@pytest.mark.parametrize("order", ["fa first", "lora first"])
def test_the_kinds_survive_switching_saving_and_loading(order, tmp_path):
    model, _ = mixed(order)
    for _ in range(2):
        for adapter, trains in (("fa", {"B"}), ("plain", {"A", "B"})):
            model.set_adapter(adapter)
            with model.disable_adapter():
                assert not trained(model)
            assert kinds(model, adapter) == trains
    model.save_pretrained(tmp_path)
    again = peft.get_peft_model(mlp(), LORA(**OPTIONS), "other")
    again = get_lora_fa_model(again, LoraFaConfig(**OPTIONS))
    for adapter, trains in (("fa", {"B"}), ("plain", {"A", "B"})):
        again.load_adapter(tmp_path / adapter, adapter, is_trainable=True)
        assert kinds(again, adapter) == trains
        again.set_adapter(adapter)
        model.set_adapter(adapter)
        assert kinds(again, adapter) == trains
        torch.testing.assert_close(again(X), model(X))


def test_a_lora_adapter_on_other_layers_is_of_its_kind():
    model = get_lora_fa_model(mlp(), LoraFaConfig(**{**OPTIONS, "target_modules": ["0"]}))
    model.add_adapter("plain", LORA(**{**OPTIONS, "target_modules": ["2"], "init_lora_weights": "gaussian"}))
    model.base_model.set_adapter(["default", "plain"])
    assert kinds(model, "default") == {"B"} and kinds(model, "plain") == {"A", "B"}
    audit(model).check()


def test_a_layer_that_cannot_have_both_kinds_is_refused():
    class Other(peft.tuners.lora.Linear):
        pass

    model = peft.get_peft_model(mlp(), LORA(**OPTIONS))
    model.base_model.model[0].__class__ = Other
    with pytest.raises(ValueError, match=r"0 has an adapter in PEFT's Other"):
        get_lora_fa_model(model, LoraFaConfig(**OPTIONS), "fa")
    assert list(model.peft_config) == ["default"]


def test_a_dora_adapter_that_was_there_works_as_before():
    theirs = randomize(peft.get_peft_model(mlp(), LORA(**OPTIONS, use_dora=True)))
    model = get_lora_fa_model(copy.deepcopy(theirs), LoraFaConfig(**OPTIONS, gradient="projected"), "fa")
    torch.testing.assert_close(gradients(model, X), gradients(theirs, X))
    model.base_model.set_adapter(["default", "fa"])
    with pytest.raises(RuntimeError, match="no variant"):
        model(X)


COMBINATIONS = (
    "svd",
    "linear",
    "cat",
    "ties",
    "ties_svd",
    "dare_ties",
    "dare_linear",
    "dare_ties_svd",
    "dare_linear_svd",
    "magnitude_prune",
    "magnitude_prune_svd",
)


def stack():
    class Blocks(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([mlp(16) for _ in range(2)])

        def forward(self, x):
            return sum(block(x) for block in self.blocks)

    return Blocks()


@pytest.mark.parametrize("kind", COMBINATIONS)
@pytest.mark.parametrize("init", ["kaiming_uniform", "orthogonal"])
def test_adapters_of_a_shorthand_are_combined(kind, init):
    """The summed rank, 20, is more than the 16 rows that could be orthonormal."""
    options = {"r": 10, "target_modules": "all-linear"}
    mine = get_lora_fa_model(stack(), LoraFaConfig(**options, init_A=init, gradient="projected"))
    mine.add_adapter("second", LoraFaConfig(**options, init_A=init))
    theirs = peft.get_peft_model(stack(), LORA(**options))
    theirs.add_adapter("second", LORA(**options))
    for model in (mine, theirs):
        randomize(model)
        torch.manual_seed(5)
        model.add_weighted_adapter(
            ["default", "second"], [0.7, -0.4], "both", combination_type=kind, density=0.5
        )
        model.set_adapter("both")
    (y, grads), (expected, reference) = gradients(mine, X), gradients(theirs, X)
    torch.testing.assert_close(y, expected)
    assert kinds(mine, "both") == {"B"}
    assert mine.peft_config["default"].init_A == init
    modules = dict(mine.named_modules())
    for name, grad in grads.items():
        layer = modules[name.split(".lora_B")[0]]
        product = projection(layer.lora_A["both"].weight, layer.scaling["both"])
        torch.testing.assert_close(grad, reference[name] @ product)
    assert set(grads) == {name for name in reference if ".lora_B." in name}


@pytest.mark.parametrize("target", ["all-linear", "attention", "qv"])
def test_a_configuration_is_used_again(target, tiny, tmp_path):
    config = LoraFaConfig(r=2, target_modules=target, layer_fraction=0.5)
    model = get_lora_fa_model(tiny("llama-4"), config)
    again = get_lora_fa_model(tiny("llama-4"), model.peft_config["default"])
    get_lora_fa_model(again, model.peft_config["default"], "second")
    model.save_pretrained(tmp_path)
    loaded = LoraFaConfig.from_pretrained(str(tmp_path))
    assert loaded.layer_fraction == 0.5
    others = [again, get_lora_fa_model(tiny("llama-4"), loaded), lorafa.load(tiny("llama-4"), tmp_path)]
    for other in others:
        assert adapted(other) == adapted(model)
    again.add_weighted_adapter(["default", "second"], [1.0, 1.0], "both", combination_type="cat")
    wrong = copy.deepcopy(loaded)
    wrong.layer_fraction = 0.25
    with pytest.raises(ValueError, match="layer_fraction needs"):
        get_lora_fa_model(tiny("llama-4"), wrong)


def adapted(model):
    return {name for name, module in model.named_modules() if isinstance(module, LoraLayer)}


@pytest.mark.parametrize("bias", ["lora_only", "all"])
def test_the_bias_that_was_asked_for_may_train(bias):
    model = get_lora_fa_model(mlp(), LoraFaConfig(**OPTIONS, bias=bias))
    assert any(name.endswith("base_layer.bias") for name in trained(model))
    audit(model).check()
    audit(nn.parallel.DataParallel(model)).check()
    model.base_model.model[0].base_layer.weight.requires_grad_(True)
    with pytest.raises(RuntimeError, match=r"the base weight of .*0 trains"):
        audit(model).check()
    plain = get_lora_fa_model(mlp(), LoraFaConfig(**OPTIONS))
    plain.base_model.model[0].base_layer.bias.requires_grad_(True)
    with pytest.raises(RuntimeError, match=r"the base bias of .*0 trains"):
        audit(plain).check()


# What may change A, or the scaling, or the layer's adapters.
def _weight(model):
    return model.base_model.model[0].lora_A["default"].weight


CHANGES = {
    "data.mul_": lambda model: _weight(model).data.mul_(10),
    "data.copy_": lambda model: _weight(model).data.copy_(torch.randn_like(_weight(model))),
    "data =": lambda model: setattr(_weight(model), "data", torch.randn_like(_weight(model))),
    "one element": lambda model: _weight(model).data[0, 0].add_(1),
    "no_grad": lambda model: torch.no_grad()(_weight(model).mul_)(3),
    "numpy": lambda model: _weight(model).detach().numpy().__imul__(2),
    "new parameter": lambda model: setattr(
        model.base_model.model[0].lora_A["default"], "weight", nn.Parameter(_weight(model).data * 2, False)
    ),
    "load_state_dict": lambda model: model.load_state_dict(
        {name: p * 2 for name, p in model.state_dict().items() if ".lora_A." in name}, strict=False
    ),
    "set_scale": lambda model: model.base_model.model[0].set_scale("default", 3),
    "scale_layer": lambda model: model.base_model.model[0].scale_layer(0.5),
    "dependent rows": lambda model: _weight(model).data.fill_(1),
    "zeros": lambda model: _weight(model).data.zero_(),
    "inference": lambda model: torch.inference_mode()(model.forward)(X),
    "no_grad forward": lambda model: torch.no_grad()(model.forward)(X),
    "evaluation": lambda model: model.eval()(X),
    "nothing": lambda model: None,
}


def check_projected(model, adapter="default"):
    reference = copy.deepcopy(model)
    for module in reference.modules():
        if isinstance(module, LoraFaLayer):
            module._projections = {}
    (_, mine), (_, plain) = gradients(model, X), gradients(reference, X)
    modules = dict(model.named_modules())
    assert any(f"lora_B.{adapter}" in name for name in mine)
    for name, grad in mine.items():
        layer = modules[name.split(".lora_B")[0]]
        A, s = layer.lora_A[adapter].weight, float(layer.scaling[adapter])
        torch.testing.assert_close(grad, plain[name] @ torch.linalg.pinv(A @ A.T, rtol=1e-10) / s**2)


@pytest.mark.parametrize("change", CHANGES)
def test_the_projection_is_that_of_the_present_A(change):  # noqa: N802
    model = randomize(get_lora_fa_model(mlp(), LoraFaConfig(**OPTIONS, gradient="projected")))
    for warm in (True, False):
        if warm:
            check_projected(model)
        CHANGES[change](model)
        model.train()
        check_projected(model)


@pytest.mark.parametrize("r", [2, 4, 6])
def test_the_projection_follows_a_hot_swap(r, tmp_path):
    model = randomize(get_lora_fa_model(mlp(), LoraFaConfig(**OPTIONS, gradient="projected")))
    check_projected(model)
    other = randomize(peft.get_peft_model(mlp(), LORA(**{**OPTIONS, "r": r, "lora_alpha": 32})), 7)
    other.save_pretrained(tmp_path)
    hotswap_adapter(model, str(tmp_path), "default", torch_device="cpu")
    model.set_adapter(
        "default"
    )  # a larger rank puts tensors that need no gradient in place of the parameters
    assert kinds(model, "default") == {"B"}
    torch.testing.assert_close(model(X), other(X))
    check_projected(model)


def test_the_projection_ends_with_its_adapter():
    model = randomize(get_lora_fa_model(mlp(), LoraFaConfig(**OPTIONS, gradient="projected")))
    model.add_adapter("second", LoraFaConfig(**OPTIONS))
    check_projected(model)
    model.delete_adapter("default")
    layer = model.base_model.model[0]
    assert not layer._projections
    model.add_adapter("default", LoraFaConfig(**OPTIONS))
    model.set_adapter("default")
    randomize(model)
    torch.testing.assert_close(gradients(model, X), gradients(copy.deepcopy(model), X))
    assert not layer._projections
    model.delete_adapter("default")
    model.add_adapter("default", LORA(**OPTIONS))
    model.set_adapter("default")
    assert kinds(model, "default") == {"A", "B"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("adapter_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("init", ["kaiming_uniform", "ones", "orthogonal"])
def test_projected_under_autocast(dtype, adapter_dtype, init):
    config = LoraFaConfig(**OPTIONS, gradient="projected", init_A=init)
    model = get_lora_fa_model(mlp().to(adapter_dtype), config, autocast_adapter_dtype=False)
    exact = copy.deepcopy(model).double()
    for m in (model, exact):
        with torch.autocast("cpu", dtype, enabled=m is model):
            m(X.float() if m is model else X).float().pow(2).sum().backward()
    for (name, p), q in zip(model.named_parameters(), exact.parameters(), strict=True):
        if p.requires_grad and ".2." in name:
            assert (p.grad.double() - q.grad).norm() < 0.05 * q.grad.norm()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dropping", [True, False])
def test_dropout_follows_its_own_module(training, dropping):
    """MC dropout: the layer evaluates, its Dropout trains; and the reverse."""
    model = randomize(get_lora_fa_model(mlp(), LoraFaConfig(**OPTIONS, lora_dropout=0.5)))
    model.train(training)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.train(dropping)
    assert torch.equal(model(X), model(X)) == (not dropping)


class AlwaysOn(nn.Dropout):
    def forward(self, x):
        return nn.functional.dropout(x, self.p, True)


OTHERS = {"always on": AlwaysOn(0.5), "alpha": nn.AlphaDropout(0.5), "doubling": nn.Linear(16, 16).double()}


@pytest.mark.parametrize("name", OTHERS)
def test_another_module_in_place_of_dropout_is_called(name):
    mine = randomize(get_lora_fa_model(mlp(), LoraFaConfig(**{**OPTIONS, "target_modules": ["0"]})))
    theirs = randomize(peft.get_peft_model(mlp(), LORA(**{**OPTIONS, "target_modules": ["0"]})))
    results = []
    for model in (mine, theirs):
        model.eval()
        model.base_model.model[0].lora_dropout["default"] = copy.deepcopy(OTHERS[name]).train()
        model.base_model.model[0].lora_A.requires_grad_(False)
        torch.manual_seed(0)
        results.append(gradients(model, X))
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(*({n: g for n, g in r[1].items() if "lora_B" in n} for r in results))


@pytest.mark.parametrize("recompute", [[], ["dropout"]])
@pytest.mark.parametrize("p", [0.0, 1e-9, 1 - 1e-9, 1.0])
def test_extreme_probabilities(p, recompute):
    model = get_lora_fa_model(mlp(), LoraFaConfig(**OPTIONS, lora_dropout=0.5, recompute=recompute))
    randomize(model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = p
    _, grads = gradients(model, X)
    assert all(g.isfinite().all() for g in grads.values())
    if p == 1:
        assert not any(g.any() for g in grads.values())
        x = X.clone().requires_grad_()
        base = mlp()
        (mine,) = torch.autograd.grad(model(x).sum(), x)
        torch.testing.assert_close(mine, torch.autograd.grad(base(x).sum(), x)[0])
        torch.testing.assert_close(model(X), base(X))
    elif p < 0.5:
        torch.testing.assert_close(model(X), copy.deepcopy(model).eval()(X))


INITIALISATIONS = ("gaussian", "pissa", "olora", "orthogonal", "eva", "mica", True, False)


@pytest.mark.parametrize("init", INITIALISATIONS)
@pytest.mark.filterwarnings("ignore")
def test_load_reads_any_initialisation(init, tmp_path):
    base = mlp().float()
    theirs = peft.get_peft_model(copy.deepcopy(base), LORA(**OPTIONS, init_lora_weights=init))
    for p in theirs.parameters():
        p.data.add_(0.01) if p.requires_grad else None
    theirs.save_pretrained(tmp_path)
    expected = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path)(X.float())
    model = lorafa.load(copy.deepcopy(base), tmp_path, is_trainable=True)
    torch.testing.assert_close(model(X.float()), expected)
    torch.testing.assert_close(theirs(X.float()), expected)
    assert kinds(model, "default") == {"B"}
    audit(model).check()
    model.save_pretrained(tmp_path / "again")
    torch.testing.assert_close(lorafa.load(copy.deepcopy(base), tmp_path / "again")(X.float()), expected)


@pytest.mark.parametrize("option", [{"use_dora": True}, {"lora_bias": True}])
def test_load_refuses_what_is_not_lora_fa(option, tmp_path):
    peft.get_peft_model(mlp(), LORA(**OPTIONS, **option)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=next(iter(option))):
        lorafa.load(mlp(), tmp_path)


def test_load_from_a_subfolder_and_beside_another_adapter(tmp_path):
    model = get_lora_fa_model(mlp(), LoraFaConfig(**OPTIONS), "one")
    model.add_adapter("two", LoraFaConfig(**OPTIONS, gradient="projected", init_A="orthogonal"))
    randomize(model).save_pretrained(tmp_path)
    for name in ("one", "two"):
        model.set_adapter(name)
        loaded = lorafa.load(mlp(), tmp_path, subfolder=name, is_trainable=True)
        torch.testing.assert_close(gradients(loaded, X)[0], gradients(model, X)[0])
        lorafa.load(loaded, tmp_path, "beside", subfolder=name)
        assert not kinds(loaded, "beside")
        loaded.set_adapter("beside")
        torch.testing.assert_close(loaded(X), model(X))
    check_projected(loaded, "beside")


@pytest.mark.parametrize("beside", [True, False])
def test_load_a_revision(beside, tmp_path, monkeypatch):
    """From the hub's cache, laid out as huggingface_hub does."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = get_lora_fa_model(mlp(), LoraFaConfig(**OPTIONS, gradient="projected"))
    repository = tmp_path / "models--someone--adapter"
    outputs = {}
    (repository / "refs").mkdir(parents=True)
    for seed, revision in enumerate(("main", "v2")):
        outputs[revision] = randomize(model, seed)(X)
        commit = str(seed) * 40
        (repository / "refs" / revision).write_text(commit)
        model.save_pretrained(repository / "snapshots" / commit)
    for revision, expected in outputs.items():
        base = get_lora_fa_model(mlp(), LoraFaConfig(**OPTIONS)) if beside else mlp()
        where = {"revision": revision, "cache_dir": str(tmp_path)}
        loaded = lorafa.load(base, "someone/adapter", "new", **where)
        loaded.set_adapter("new")
        torch.testing.assert_close(loaded(X), expected)
        assert loaded.peft_config["new"].gradient == "projected"


@pytest.mark.parametrize("is_trainable", [True, False])
def test_load_adapter_keeps_what_was_saved(is_trainable, tmp_path):
    saved = get_lora_fa_model(mlp(), LoraFaConfig(**OPTIONS, gradient="projected", init_A="normal"))
    randomize(saved, 9).save_pretrained(tmp_path)
    model = get_lora_fa_model(mlp(), LoraFaConfig(**OPTIONS))
    model.load_adapter(tmp_path, "second", is_trainable=is_trainable)
    config = model.peft_config["second"]
    assert (config.gradient, config.init_A, config.inference_mode) == (
        "projected",
        "normal",
        not is_trainable,
    )
    assert kinds(model, "second") == ({"B"} if is_trainable else set())
    model.set_adapter("second")
    torch.testing.assert_close(model(X), saved(X))
    check_projected(model, "second")


def classifier(config, tiny, make):
    return make(tiny("roberta"), config(r=4, target_modules=["query", "value"], task_type="SEQ_CLS"))


def _disabled(model):
    with model.disable_adapter():
        assert not [n for n in trained(model) if ".lora_" in n]


def _nested(model):
    with model.disable_adapter(), model.disable_adapter():
        pass


def _raising(model):
    with pytest.raises(KeyError), model.disable_adapter():
        raise KeyError


def _add_inside(model):
    with model.disable_adapter():
        name = f"more{len(model.peft_config)}"
        model.add_adapter(name, LoraFaConfig(r=2, target_modules=["query"], task_type="SEQ_CLS"))


CALLS = {
    "forward": _disabled,
    "nested": _nested,
    "raising": _raising,
    "layers": lambda model: (
        model.base_model.disable_adapter_layers(),
        model.base_model.enable_adapter_layers(),
    ),
    "twice off": lambda model: (
        model.base_model.disable_adapter_layers(),
        model.base_model.disable_adapter_layers(),
        model.base_model.enable_adapter_layers(),
    ),
    "on": lambda model: model.base_model.enable_adapter_layers(),
    "add inside": _add_inside,
}


@pytest.mark.parametrize(
    "calls", [*((c,) for c in CALLS), *itertools.permutations(["forward", "layers", "nested"], 2)]
)
@pytest.mark.parametrize("frozen", ["loaded", "by hand", "set_requires_grad", "no"])
def test_disabling_leaves_frozen_what_was_frozen(calls, frozen, tiny, tmp_path):
    model = classifier(LoraFaConfig, tiny, get_lora_fa_model)
    if frozen == "loaded":
        model.save_pretrained(tmp_path)
        model = lorafa.load(tiny("roberta"), tmp_path)
    elif frozen == "by hand":
        next(p for name, p in model.named_parameters() if ".lora_B." in name).requires_grad_(False)
    elif frozen == "set_requires_grad":
        model.set_requires_grad("default", False)
    before = trained(model)
    for call in calls:
        CALLS[call](model)
    heads = (
        {"classifier"} if {"layers", "twice off", "on"} & set(calls) else set()
    )  # PEFT's module, not a layer's
    assert {n for n in trained(model) ^ before if not any(head in n for head in heads)} == set()


def test_what_is_switched_while_disabled_counts_afterwards():
    model = get_lora_fa_model(mlp(), LoraFaConfig(**OPTIONS))
    model.add_adapter("second", LoraFaConfig(**OPTIONS))
    with model.disable_adapter():
        model.set_adapter("second")
    assert (kinds(model, "default"), kinds(model, "second")) == (set(), {"B"})
    with model.disable_adapter():
        model.set_requires_grad("second", False)
    assert not trained(model)
    with model.disable_adapter():
        model.set_requires_grad("second", True)
    assert kinds(model, "second") == {"B"}


@pytest.mark.parametrize("order", ["before the optimizer", "after the optimizer"])
def test_trap_the_benchmark_that_lost_its_saving(order, tiny, batch):
    """Trap: a disable_adapter block behind create_lorafa_optimizer, which froze A, and PEFT saves X again."""
    saved = {}
    for name, make, config in (
        ("ours", get_lora_fa_model, LoraFaConfig),
        ("peft", peft.get_peft_model, LORA),
    ):
        model = make(tiny("llama"), config(r=4, target_modules=["q_proj", "k_proj", "v_proj", "up_proj"]))

        def optimizer(model=model):
            return create_lorafa_optimizer(model, r=4, lora_alpha=8, lr=1e-3)

        def compare(model=model):
            with torch.no_grad(), model.disable_adapter():
                model(**batch("llama"))

        steps = [compare, optimizer] if order.startswith("before") else [optimizer, compare]
        for step in steps:
            step()
        with SavedTensorMeter(model) as meter:
            model(**batch("llama"))
        saved[name] = meter.total
        assert any(".lora_A." in n for n in trained(model)) == (name == "peft" and order.startswith("after"))
    difference = saved["peft"] - saved["ours"]
    inputs = 2 * 2 * 48 * 32 * 4  # of two layers: what attention reads and what the MLP reads, fp32
    print(f"\n{order}: saved by PEFT {saved['peft']:,} bytes, by lorafa {saved['ours']:,}")
    assert difference >= (inputs if order.startswith("after") else 0)
