"""examples/lora_fa_minimal.py beside the library, PEFT, the meter and what README.md and docs/lorafa.md say of it."""

import ast
import copy
import re
import runpy
from pathlib import Path

import peft
import pytest
import torch
from torch import nn

from lorafa import LoraFaConfig, get_lora_fa_model
from lorafa.memory.meter import SavedTensorMeter

ROOT = Path(__file__).parents[2]
FILE = ROOT / "examples/lora_fa_minimal.py"
OPTIONS = {"r": 3, "lora_alpha": 6}


@pytest.fixture(scope="module")
def minimal():
    return runpy.run_path(str(FILE))


def test_the_file_is_short_and_needs_torch_alone():
    text = FILE.read_text()
    assert len(text.splitlines()) < 150
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    assert {name.split(".")[0] for name in names} == {"torch"}


def network(bias):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12, bias), nn.Tanh(), nn.Linear(12, 5, bias)).double()


def outcome(model, A_trains=False):
    """Output and gradients of the input and of the adapters, whose numbers are the same for every kind of model."""
    torch.manual_seed(1)
    pattern = re.compile(r"(\d)\.(?:lora_)?([AB])(?:\.default\.weight)?$")
    adapters = {m.groups(): p for name, p in model.named_parameters() if (m := pattern.search(name))}
    assert len(adapters) == 4
    for (_, kind), parameter in sorted(adapters.items()):
        parameter.data.copy_(torch.randn_like(parameter))
        parameter.requires_grad_(kind == "B" or A_trains)
    x = torch.randn(2, 4, 8, dtype=torch.float64, requires_grad=True)
    y = model(x)
    y.sin().sum().backward()
    assert {name for name, p in adapters.items() if p.grad is not None} == {
        name for name in adapters if name[1] == "B" or A_trains
    }
    return y.detach(), x.grad, {name: p.grad for name, p in adapters.items() if p.grad is not None}


@pytest.mark.parametrize("bias", [True, False])
def test_it_computes_what_the_library_and_peft_compute(minimal, bias):
    mine = outcome(minimal["adapt"](network(bias), ["0", "2"], r=3, alpha=6))
    library = get_lora_fa_model(network(bias), LoraFaConfig(**OPTIONS, target_modules=["0", "2"]))
    theirs = peft.get_peft_model(network(bias), peft.LoraConfig(**OPTIONS, target_modules=["0", "2"]))
    torch.testing.assert_close(mine, outcome(library))
    torch.testing.assert_close(mine, outcome(theirs))


def test_what_it_compares_with_is_pefts_lora(minimal):
    mine = minimal["adapt"](network(True), ["0", "2"], 3, 6, minimal["LoRALinear"])
    theirs = peft.get_peft_model(network(True), peft.LoraConfig(**OPTIONS, target_modules=["0", "2"]))
    torch.testing.assert_close(outcome(mine, A_trains=True), outcome(theirs, A_trains=True))


def test_it_adapts_by_whole_parts_of_a_name(minimal):
    block = minimal["Block"](8)
    before = copy.deepcopy(block)
    model = minimal["adapt"](nn.ModuleDict({"cup": nn.Linear(8, 8), "block": block}), ["up"], 2, 2)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained == ["block.up.B"]
    x = torch.randn(3, 8)
    torch.testing.assert_close(block(x), before(x))
    with pytest.raises(ValueError, match="ends in one of gate, side"):
        minimal["adapt"](model, ["gate", "side"], 2, 2)


@pytest.mark.parametrize("layer", ["LoRALinear", "LoRAFALinear"])
def test_it_counts_what_the_meter_counts(minimal, layer):
    model = nn.Sequential(minimal["Block"](16), minimal["Block"](16))
    minimal["adapt"](model, ["up", "down"], 4, 4, minimal[layer])
    x = torch.randn(32, 16)
    with SavedTensorMeter(model) as meter:
        y = model(x)
    assert y.requires_grad
    assert minimal["saved_bytes"](model, x) == meter.total


def test_it_prints_what_the_documentation_says(capsys):
    runpy.run_path(str(FILE), run_name="__main__")
    rows, d, r, number = 256, 64, 4, 4  # bytes in a number
    expected = {
        # A and B, the layer's X and XA, and the network's: GELU's and the second norm's input are kept by both
        "LoRA": (20 * d * r, rows * (d + r) * number, rows * (19 * d + 4 * r + 2) * number),
        "LoRA-FA": (10 * d * r, rows * r * number, rows * (9 * d + 4 * r + 2) * number),
    }
    printed = capsys.readouterr().out
    documented = (ROOT / "docs/lorafa.md").read_text()
    for name, sizes in expected.items():
        trained, layer, network = (f"{size:,}" for size in sizes)
        pattern = rf"^{name} +{trained} +{layer} bytes +{network} bytes +([\d.]+) -> ([\d.]+)$"
        first, last = map(float, re.search(pattern, printed, re.MULTILINE).groups())
        assert last < first / 2
        assert f"| {name} | {trained} | {layer} | {network} |" in documented
    assert f"python {FILE.relative_to(ROOT)}" in (ROOT / "README.md").read_text()
