import peft
import pytest
import torch
from torch import nn

from lorafa import LoraFaConfig, get_lora_fa_model
from lorafa.targets import select_targets


def frozen(init, dtype=torch.float32, r=8):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 16)).to(dtype)
    model = get_lora_fa_model(model, LoraFaConfig(r=r, target_modules=["0"], init_A=init))
    layer = model.base_model.model[0]
    assert not layer.lora_B["default"].weight.any()
    return layer.lora_A["default"].weight.detach()


def test_kaiming_uniform_is_pefts():
    torch.manual_seed(0)
    theirs = peft.get_peft_model(
        nn.Sequential(nn.Linear(512, 16)), peft.LoraConfig(r=8, target_modules=["0"])
    )
    assert torch.equal(frozen("kaiming_uniform"), theirs.base_model.model[0].lora_A["default"].weight)


def test_normal_is_standardized():
    A = frozen("normal")
    assert abs(A.mean()) < 0.05 and abs(A.std() - 1) < 0.05


def test_ones():
    assert torch.equal(frozen("ones"), torch.ones(8, 512))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_orthogonal_rows_are_orthonormal(dtype, tolerance):
    A = frozen("orthogonal", dtype)
    torch.testing.assert_close(A @ A.T, torch.eye(8), atol=tolerance, rtol=0)


def test_orthogonal_needs_a_rank_below_the_width():
    with pytest.raises(ValueError, match="r <= in_features"):
        get_lora_fa_model(
            nn.Sequential(nn.Linear(4, 4)), LoraFaConfig(r=8, target_modules=["0"], init_A="orthogonal")
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, "use_dora: DoRA"),
        ({"lora_bias": True}, "lora_bias"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"use_qalora": True}, "use_qalora"),
        ({"init_A": "xavier"}, "init_A must be of .*'shards', 'eva'.* 'xavier'"),
        ({"gradient": "scaled"}, "gradient must be of"),
        ({"recompute": ["norms"]}, "recompute must be of"),
        ({"layer_fraction": 0.0}, "layer_fraction"),
        ({"layer_fraction": 1.5}, "layer_fraction"),
        ({"lora_dropout": 1.0}, "lora_dropout"),
    ],
)
def test_unsupported_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LoraFaConfig(**options)


def test_a_misspelt_shorthand_is_told_from_a_layer_of_that_name():
    with pytest.raises(ValueError, match=r"'al-linear' is no layer: did you mean 'all-linear'\?"):
        get_lora_fa_model(nn.Sequential(nn.Linear(4, 4)), LoraFaConfig(r=2, target_modules="al-linear"))
    model = nn.ModuleDict({"attentions": nn.Linear(4, 4)})
    assert "attentions.base_layer" in str(
        [
            name
            for name, _ in get_lora_fa_model(
                model, LoraFaConfig(r=2, target_modules="attentions")
            ).named_modules()
        ]
    )


@pytest.mark.parametrize("module", [nn.EmbeddingBag(8, 4), nn.ConvTranspose1d(4, 4, 1), nn.Bilinear(4, 4, 4)])
def test_other_modules_are_refused(module):
    with pytest.raises(ValueError, match=rf"cannot adapt 0, a {type(module).__name__}"):
        get_lora_fa_model(nn.Sequential(module), LoraFaConfig(target_modules=["0"]))


def test_an_unsupported_adapter_is_refused_beside_a_supported_one(tiny):
    model = get_lora_fa_model(tiny("llama"), LoraFaConfig(target_modules="qv"))
    with pytest.raises(ValueError, match="use_dora"):
        model.add_adapter("dora", peft.LoraConfig(target_modules=["q_proj"], use_dora=True))


def test_save_and_load(tmp_path):
    config = LoraFaConfig(
        r=4,
        target_modules=["q", "v"],
        init_A="ones",
        recompute=True,
        layer_fraction=0.5,
        rank_pattern={"q": 2},
    )
    assert config.recompute == ["activation", "dropout", "loss", "norm"]
    config.save_pretrained(tmp_path)
    assert LoraFaConfig.from_pretrained(str(tmp_path)) == config
    assert peft.PeftConfig.from_pretrained(tmp_path) == config.to_lora_config()
    (tmp_path / "lorafa_config.json").write_text('{"init_a": "ones"}')
    with pytest.raises(ValueError, match="unknown keys: init_a"):
        LoraFaConfig.from_pretrained(str(tmp_path))
    (tmp_path / "lorafa_config.json").unlink()
    assert LoraFaConfig.from_pretrained(str(tmp_path)).init_A == "kaiming_uniform"


def test_the_callers_config_is_left_alone(tiny):
    config = LoraFaConfig(target_modules="all-linear")
    get_lora_fa_model(tiny("llama"), config)
    assert config.target_modules == "all-linear"


EVERY_LINEAR = {
    "llama": 7 * 2,
    "t5-relu": 2 * (4 + 2) + 2 * (8 + 2),
    "t5-gated": 2 * (4 + 3) + 2 * (8 + 3),
    "roberta": 6 * 2,
}
ATTENTIONS = {"llama": 2, "t5-relu": 2 + 4, "t5-gated": 2 + 4, "roberta": 2}


@pytest.mark.parametrize("family", list(EVERY_LINEAR))
def test_targets(family, tiny):
    model = tiny(family)
    modules = dict(model.named_modules())
    everything = select_targets(model, "all-linear")
    attention, qv = select_targets(model, "attention"), select_targets(model, "qv")
    assert len(everything) == len(set(everything)) == EVERY_LINEAR[family]
    assert len(attention) == 4 * ATTENTIONS[family]
    assert len(qv) == 2 * ATTENTIONS[family]
    assert set(qv) < set(attention) < set(everything)
    assert all(isinstance(modules[name], nn.Linear) for name in everything)
    assert model.get_output_embeddings() not in [modules[name] for name in everything]
    assert {name.rsplit(".", 1)[1] for name in qv} in ({"q_proj", "v_proj"}, {"q", "v"}, {"query", "value"})


def test_layer_fraction_takes_the_last_layers(tiny):
    blocks = [
        {name.split(".")[2] for name in select_targets(tiny("llama-4"), "all-linear", fraction)}
        for fraction in (0.25, 0.5, 0.6, 1.0)
    ]
    assert blocks == [{"3"}, {"2", "3"}, {"1", "2", "3"}, {"0", "1", "2", "3"}]
    both = select_targets(tiny("t5-relu"), "qv", 0.5)
    assert {name.split(".block.")[0] + name.split(".block.")[1][0] for name in both} == {
        "encoder1",
        "decoder1",
    }
    with pytest.raises(ValueError, match="layer_fraction needs"):
        get_lora_fa_model(tiny("llama"), LoraFaConfig(target_modules=["q_proj"], layer_fraction=0.5))


def test_no_targets(tiny):
    with pytest.raises(ValueError, match="Sequential has no layers"):
        select_targets(nn.Sequential(nn.Linear(2, 2)), "all-linear")
    with pytest.raises(ValueError, match="must be one of"):
        select_targets(tiny("llama"), "everything")
