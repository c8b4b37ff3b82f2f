"""The estimator on a small configuration of each family: a number, or one line that says why not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lorafa.memory.__main__ import main
from lorafa.memory.adapt import experts_left_alone
from lorafa.memory.batch import batch_of
from lorafa.memory.estimate import estimate
from lorafa.memory.models import attention_of, class_of, load_config
from lorafa.memory.recipe import Recipe, RecipeError
from tests.lorafa.memory.families import DECODERS, EXPERTS, FAMILIES, SOUND, VISION

# What a family needs that the defaults do not give.
SETTINGS: dict[str, dict[str, object]] = {
    "deberta": {"dtype": "fp32"},  # its own code mixes fp32 into half precision
    "xlnet": {"dtype": "fp32"},
    "mamba": {
        "target_modules": ("in_proj", "x_proj")
    },  # PEFT refuses out_proj, which its kernel reads past the layer
}
WITHOUT_SDPA = ["gemma2", "bloom", "deberta", "deberta-v2", "xlnet", "mpt", "gptj"]
# Nothing but convolutions.
WITHOUT_LINEAR = ["resnet"]
# Those whose code is most unlike the others'; the rest take a minute together.
UNLIKE = [
    "gemma2",
    "bloom",
    "deberta-v2",
    "falcon",
    "mamba",
    "vit",
    "whisper",
    "gpt2",
    "mixtral",
    "wav2vec2",
    "albert",
    "llava",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    """Path of the folder with a family's config.json."""

    def write(family: str) -> str:
        folder = tmp_path_factory.mktemp(family)
        Path(folder, "config.json").write_text(json.dumps(FAMILIES[family]))
        return str(folder)

    return write


def recipe(path: str, family: str, method: str) -> Recipe:
    return Recipe(path, method, batch_size=2, source_length=16, **SETTINGS.get(family, {}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(name, marks=[] if name in UNLIKE else pytest.mark.integration)
        for name in FAMILIES
        if name not in WITHOUT_LINEAR
    ],
)
def test_a_number_for_lora(model, family):
    asked = recipe(model(family), family, "lora")
    result = estimate(asked)
    config = load_config(asked.model)
    assert result.peak > sum(result.breakdown[part] for part in ("weights", "adapters")) > 0
    assert result.saved > 0
    assert 0 < result.trainable_parameters < result.parameters
    assert result.attention == ("sdpa" if class_of(config)._supports_sdpa else "eager")


@pytest.mark.parametrize("family", ["gpt2", "falcon", "qwen3_moe", "vit", "whisper", "clip_vision_model"])
def test_lora_fa_is_a_number_or_a_line(model, family):
    asked = recipe(model(family), family, "lora-fa")
    try:
        ours = estimate(asked)
    except RecipeError as error:
        assert "\n" not in str(error)
        assert family in str(error)
    else:
        assert ours.saved < estimate(recipe(asked.model, family, "lora")).saved


def test_the_families_cover_what_people_fine_tune():
    assert len(FAMILIES) > 45
    assert {"gemma2", "falcon", "gpt2"} <= set(DECODERS)
    assert "mixtral" in EXPERTS


@pytest.mark.parametrize("family", WITHOUT_SDPA)
def test_eager_stands_in_for_an_attention_that_is_not_there(model, family):
    config = load_config(model(family))
    assert {attention_of(config, asked) for asked in ("eager", "sdpa", "flash")} == {"eager"}


@pytest.mark.parametrize("family", [*VISION, *SOUND])
def test_inputs_have_the_shape_that_the_model_takes(model, family):
    config = load_config(model(family))
    batch = batch_of(config, Recipe(family, batch_size=2, source_length=16, dtype="fp32"))
    name = class_of(config).main_input_name
    size = config.image_size if hasattr(config, "image_size") else 224
    shapes = {
        "pixel_values": (2, 3, size, size),
        "input_features": (2, 16, 32),
        "input_values": (2, 32, 16) if family.startswith("audio") else (2, 16 * 10),
    }
    assert tuple(batch[name].shape) == shapes[name]
    labels = {"whisper": (2, 12), "clip_vision_model": None, "siglip_vision_model": None}.get(family, (2,))
    assert (tuple(batch["labels"].shape) if "labels" in batch else None) == labels


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, *capsys.readouterr()


def test_the_command_says_what_it_did_instead(model, capsys):
    code, out, _ = run(
        capsys, "--model", model("bloom"), "--method", "lora", "--batch", "2", "--length", "16"
    )
    assert code == 0
    assert "attention eager: the model has no sdpa" in out
    code, out, _ = run(capsys, "--model", model("clip_vision_model"), "--method", "lora", "--json")
    assert json.loads(out)["notes"] == ["no head: the model's hidden states are summed up in place of a loss"]


def test_experts_in_one_parameter_have_adapters(model):
    """Of the rank each: A has its rows, and B its columns."""
    asked = recipe(model("qwen3_moe"), "qwen3_moe", "lora")
    named = replace(asked, target_modules=("q_proj", "k_proj", "v_proj", "o_proj"))
    width, inner, experts, blocks = 32, 16, 4, 3
    more = estimate(asked).trainable_parameters - estimate(named).trainable_parameters
    assert more == blocks * experts * asked.rank * (width + 2 * inner + inner + width)


@pytest.mark.parametrize(
    "changes", [{"method": "lora-fa"}, {"target_modules": ("q_proj",)}, {"adapter_dropout": 0.1}]
)
def test_experts_that_have_no_adapters_are_told_of(model, changes):
    asked = recipe(model("qwen3_moe"), "qwen3_moe", "lora")
    assert not experts_left_alone(asked)
    assert experts_left_alone(replace(asked, **changes))
    assert not experts_left_alone(replace(asked, model=model("llama"), **changes))


@pytest.mark.parametrize("family", ["resnet", "xlnet", "mamba"])
def test_a_refusal_is_one_line(model, capsys, family):
    code, out, err = run(
        capsys, "--model", model(family), "--method", "lora", "--batch", "2", "--length", "16"
    )
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    lines = err.splitlines()
    assert sum("error:" in line for line in lines) == 1
    assert "error:" in lines[-1]
