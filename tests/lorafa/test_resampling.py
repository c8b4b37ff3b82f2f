"""A drawn anew: what the model computes before and after, the chain that comes out, and runs that go on."""

import copy
from types import SimpleNamespace

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from lorafa import LoraFaConfig, Resampling, audit, get_lora_fa_model
from lorafa.memory.meter import SavedTensorMeter
from tests.lorafa.test_trainers import SENTENCES, adapted, arguments

R = 2


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 6)).double()


def model_of(base, **options):
    config = LoraFaConfig(**{"r": R, "lora_alpha": 3, "target_modules": ["0", "2"], **options})
    return get_lora_fa_model(base, config)


def learn(model):
    """Stands for some steps: B gets values."""
    for name, p in model.named_parameters():
        if ".lora_B." in name:
            p.data.copy_(torch.randn(p.shape))


def deltas(model):
    return [
        model.get_submodule(f"base_model.model.{name}").get_delta_weight("default") for name in ("0", "2")
    ]


@pytest.mark.parametrize("options", [{}, {"init_A": "orthogonal"}, {"init_A": "normal", "use_rslora": True}])
def test_a_chain_is_the_sum_of_its_adapters(options):
    base = network()
    model = model_of(copy.deepcopy(base), **options)
    resampling, x = Resampling(model, every=1), torch.randn(5, 8).double()
    sums = [0, 0]
    for _ in range(2):
        learn(model)
        sums = [total + delta for total, delta in zip(sums, deltas(model), strict=True)]
        before = model(x)
        resampling.resample()
        assert all(delta.count_nonzero() == 0 for delta in deltas(model))
        torch.testing.assert_close(model(x), before, check_dtype=False)
    learn(model)
    sums = [total + delta for total, delta in zip(sums, deltas(model), strict=True)]
    before = model(x)

    resampling.finish()

    assert model.peft_config["default"].r == 3 * R
    torch.testing.assert_close(deltas(model), sums, atol=1e-6, rtol=1e-5)
    assert [torch.linalg.matrix_rank(delta).item() for delta in deltas(model)] == [6, 6]
    torch.testing.assert_close(model(x), before, atol=1e-5, rtol=1e-5)
    audit(model).check()
    with model.disable_adapter():
        torch.testing.assert_close(model(x), base(x), atol=1e-6, rtol=1e-6)


def test_the_chain_is_saved_as_a_plain_adapter(tmp_path):
    base = network()
    model = model_of(copy.deepcopy(base), rank_pattern={"2": 3}, alpha_pattern={"2": 5})
    resampling, x = Resampling(model, every=1), torch.randn(5, 8).double()
    learn(model)
    resampling.resample()
    learn(model)
    resampling.finish()
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(base, tmp_path)
    assert [len(p) for name, p in again.named_parameters() if "lora_A" in name] == [2 * R, 6]
    torch.testing.assert_close(again(x), model(x), atol=1e-6, rtol=1e-6)


def test_draws_differ_and_leave_other_generators_alone():
    model = model_of(network())
    drawn = []
    for seed in (0, 0, 1):
        resampling = Resampling(model, every=1, seed=seed)
        state = torch.random.get_rng_state()
        for _ in range(2):
            resampling.resample()
            drawn.append(model.base_model.model[0].lora_A["default"].weight.clone())
        assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(drawn[0], drawn[2]) and torch.equal(drawn[1], drawn[3])
    assert len({tuple(A.flatten().tolist()) for A in drawn}) == 4


def test_a_step_keeps_what_it_kept():
    model = model_of(network().float())
    resampling, x = Resampling(model, every=1), torch.randn(5, 8)

    def kept():
        with SavedTensorMeter(model) as meter:
            model(x)
        return meter.total

    before = kept()
    resampling.resample()
    assert kept() == before


def test_the_optimizer_forgets_b():
    model = model_of(network())
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    model(torch.randn(5, 8).double()).sum().backward()
    optimizer.step()
    resampling = Resampling(model, every=2)
    for step, left in ((1, 2), (2, 0)):
        state = SimpleNamespace(global_step=step, max_steps=3)
        resampling.on_step_end(None, state, None, optimizer=optimizer)
        assert len(optimizer.state) == left


@pytest.mark.parametrize(
    ("build", "options", "said"),
    [
        (lambda: get_peft_model(network(), LoraConfig(target_modules=["0"])), {}, "not of LoRA-FA"),
        (lambda: model_of(network(), init_A="shards"), {}, "the same each time"),
        (lambda: model_of(network()), {"every": 0}, "at least 1"),
        (lambda: model_of(nn.Sequential(nn.Embedding(4, 8)), target_modules=["0"]), {}, "adapts a Embedding"),
    ],
)
def test_refusals(build, options, said):
    with pytest.raises(ValueError, match=said):
        Resampling(build(), **{"every": 1, **options})


@pytest.mark.integration
def test_a_trainer_that_goes_on_ends_where_it_would_have_ended(tmp_path):
    """Adam's state and the merged adapters come back from the checkpoint, and the best one's chain is kept."""

    def run(folder, steps, resume=None):
        model = adapted(False)
        settings = arguments(transformers.TrainingArguments, folder)
        settings.max_steps, settings.save_strategy, settings.save_steps = 5, "steps", 1
        settings.learning_rate = 0.05
        trainer = transformers.Trainer(
            model, settings, train_dataset=SENTENCES, callbacks=[Resampling(model, every=2), Stop(steps)]
        )
        trainer.train(resume_from_checkpoint=resume)
        return model

    class Stop(transformers.TrainerCallback):
        def __init__(self, steps):
            self.steps = steps

        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop |= state.global_step >= self.steps

    whole = run(tmp_path / "whole", 5)
    run(tmp_path / "parts", 3)
    parts = run(tmp_path / "parts", 5, resume=str(tmp_path / "parts/checkpoint-3"))
    assert whole.peft_config["default"].r == 3 * 2
    for (name, ours), theirs in zip(parts.named_parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5, msg=name)
