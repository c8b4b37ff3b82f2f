"""From the first step to serving: checkpoints, resuming, merging, wrappers of distributed training."""

import json

import peft
import pytest
import torch
import torch.distributed as dist
import transformers
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import lorafa
from lorafa import LoraFaConfig, audit, get_lora_fa_model
from lorafa.layers import LoraFaLayer

OPTIONS = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}


def trained_names(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def A_trains(model):  # noqa: N802
    return any(".lora_A." in name for name in trained_names(model))


def state(model):
    return peft.get_peft_model_state_dict(model)


def randomize(model):
    torch.manual_seed(4)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".lora_B." in name:
                p.normal_(std=0.05)
    return model


@pytest.fixture
def classifier(tiny):
    config = LoraFaConfig(
        **OPTIONS,
        task_type="SEQ_CLS",
        init_A="orthogonal",
        lora_dropout=0.1,
        gradient="projected",
        recompute=["dropout"],
    )
    return randomize(get_lora_fa_model(tiny("roberta"), config))


def test_saved_adapter_is_plain_peft(classifier, tiny, batch, tmp_path, recwarn):
    classifier.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert not set(config) - set(peft.LoraConfig().to_dict())
    recwarn.clear()
    plain = peft.PeftModel.from_pretrained(tiny("roberta"), tmp_path)
    assert not [w for w in recwarn if "keyword" in str(w.message)]
    assert type(plain.peft_config["default"]) is peft.LoraConfig
    inputs = {"input_ids": batch("roberta")["input_ids"]}
    torch.testing.assert_close(plain.eval()(**inputs).logits, classifier.eval()(**inputs).logits)
    merged = plain.merge_and_unload()
    torch.testing.assert_close(merged(**inputs).logits, classifier(**inputs).logits)


def test_load_restores_everything(classifier, tiny, batch, tmp_path):
    classifier.save_pretrained(tmp_path)
    model = lorafa.load(tiny("roberta"), tmp_path, is_trainable=True)
    assert not A_trains(model)
    assert trained_names(model) == trained_names(classifier)
    audit(model).check()
    config = model.peft_config["default"]
    assert (config.init_A, config.gradient, config.recompute) == ("orthogonal", "projected", ["dropout"])
    for (name, a), b in zip(state(model).items(), state(classifier).values(), strict=True):
        assert torch.equal(a, b), name
    frozen = lorafa.load(tiny("roberta"), tmp_path)
    assert not trained_names(frozen)


def test_load_reads_an_adapter_of_pefts(tiny, tmp_path):
    peft.get_peft_model(tiny("llama"), peft.LoraConfig(**OPTIONS)).save_pretrained(tmp_path)
    model = lorafa.load(tiny("llama"), tmp_path, is_trainable=True)
    assert not A_trains(model)
    audit(model).check()


def test_trap_reload_for_training(classifier, tiny, tmp_path):
    """Trap: PEFT's reload with is_trainable=True trains A."""
    classifier.save_pretrained(tmp_path)
    assert A_trains(peft.PeftModel.from_pretrained(tiny("roberta"), tmp_path, is_trainable=True))
    assert not A_trains(lorafa.load(tiny("roberta"), tmp_path, is_trainable=True))

    theirs = peft.get_peft_model(tiny("llama"), peft.LoraConfig(**OPTIONS))
    for name, p in theirs.named_parameters():
        if ".lora_A." in name:
            p.requires_grad_(False)
    ours = get_lora_fa_model(tiny("llama"), LoraFaConfig(**OPTIONS))
    ours.save_pretrained(tmp_path / "llama")
    for model in (ours, theirs):
        model.load_adapter(tmp_path / "llama", "default", is_trainable=True)
        model.load_adapter(tmp_path / "llama", "second", is_trainable=True)
        model.set_adapter("second")
    assert A_trains(theirs)
    assert not A_trains(ours)


@pytest.mark.parametrize("safe", [True, False])
def test_merged_equals_unmerged(safe, tiny, batch):
    model = randomize(get_lora_fa_model(tiny("llama"), LoraFaConfig(**OPTIONS))).eval()
    data = batch("llama")
    with torch.no_grad():
        before = model(**data).logits
        with model.disable_adapter():
            assert not torch.allclose(model(**data).logits, before)
        model.merge_adapter(safe_merge=safe)
        torch.testing.assert_close(model(**data).logits, before)
        model.unmerge_adapter()
        torch.testing.assert_close(model(**data).logits, before)
        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(**data).logits, before)
    assert not any(isinstance(m, LoraFaLayer) for m in merged.modules())


def test_several_adapters(tiny, batch):
    model = get_lora_fa_model(tiny("llama"), LoraFaConfig(**OPTIONS))
    get_lora_fa_model(model, LoraFaConfig(r=2, target_modules="qv", init_A="ones"), "second")
    randomize(model)
    data = batch("llama")
    first = model(**data).logits
    assert all(".default." in name for name in trained_names(model))
    model.set_adapter("second")
    second = model(**data).logits
    assert not torch.allclose(first, second)
    assert all(".second." in name for name in trained_names(model))
    assert not A_trains(model)
    audit(model).check()
    model.delete_adapter("second")
    model.set_adapter("default")
    torch.testing.assert_close(model(**data).logits, first)
    assert not A_trains(model)


def test_print_trainable_parameters(tiny, capsys):
    model = get_lora_fa_model(tiny("llama"), LoraFaConfig(**OPTIONS))
    out_features = 2 * (4 * 32 + 2 * 64 + 32)  # q k v o, gate up, down in each of two layers
    model.print_trainable_parameters()
    assert f"trainable params: {4 * out_features:,} " in capsys.readouterr().out
    assert sum(audit(model).trainable.values()) == 4 * out_features


def test_audit(tiny):
    model = get_lora_fa_model(
        tiny("llama", torch.bfloat16), LoraFaConfig(**OPTIONS, rank_pattern={"q_proj": 8}, use_rslora=True)
    )
    report = audit(model).check()
    ranks = {layer.name.split(".")[-1]: layer.rank for layer in report.layers}
    assert ranks == dict.fromkeys(["k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], 4) | {
        "q_proj": 8
    }
    assert {layer.saved_bytes_per_token for layer in report.layers} == {8, 16}
    assert model.base_model.model.model.layers[0].self_attn.q_proj.scaling["default"] == 8 / 8**0.5
    assert "16 bytes a token" in str(report)
    model.base_model.model.model.layers[1].mlp.up_proj.base_layer.weight.requires_grad_(True)
    with pytest.raises(RuntimeError, match=r"layers\.1\.mlp\.up_proj trains"):
        audit(model).check()
    with pytest.raises(RuntimeError, match="no layer is adapted"):
        audit(nn.Linear(2, 2)).check()


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, index):
        return {"input_ids": torch.arange(8).add(index).remainder(90).add(3), "labels": index % 3}


def trainer(model, directory, steps, **options):
    arguments = transformers.TrainingArguments(
        directory,
        max_steps=steps,
        per_device_train_batch_size=4,
        save_steps=2,
        eval_steps=2,
        eval_strategy="steps",
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    return transformers.Trainer(model, arguments, train_dataset=Rows(), eval_dataset=Rows())


@pytest.mark.integration
def test_trainer_resumes_and_loads_the_best(tiny, tmp_path):
    def model(seed=0):
        base = tiny("roberta")  # the first time, it draws weights
        torch.manual_seed(seed)
        config = LoraFaConfig(**OPTIONS, task_type="SEQ_CLS", lora_dropout=0.1, recompute=True)
        return get_lora_fa_model(base, config)

    through = trainer(model(), tmp_path / "a", 4)
    through.train()

    trainer(model(), tmp_path / "b", 2).train()
    fresh = model(seed=99)  # another A, which the checkpoint replaces
    resumed = trainer(fresh, tmp_path / "b", 4)
    resumed.train(resume_from_checkpoint=True)
    assert not A_trains(fresh)
    assert any("classifier" in name for name in trained_names(fresh))
    for (name, a), b in zip(state(through.model).items(), state(fresh).values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)

    best = trainer(model(), tmp_path / "c", 4, load_best_model_at_end=True, metric_for_best_model="loss")
    best.train()
    assert not A_trains(best.model)
    audit(best.model).check()


@pytest.fixture
def process_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("wrap", ["ddp", "fsdp2"])
def test_distributed_wrappers_give_the_same_gradients(wrap, process_group, tiny, batch):
    config = LoraFaConfig(**OPTIONS, lora_dropout=0.2, recompute=True)

    def gradients(wrapper):
        torch.manual_seed(0)
        model = randomize(get_lora_fa_model(tiny("llama"), config)).train()
        runner = wrapper(model)
        torch.manual_seed(1)
        runner(**batch("llama")).loss.backward()
        grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        return {name: getattr(grad, "full_tensor", lambda grad=grad: grad)() for name, grad in grads.items()}

    def shard(model):
        for layer in model.base_model.model.model.layers:
            fully_shard(layer, mesh=dist.init_device_mesh("cpu", (1,)))
        return fully_shard(model, mesh=dist.init_device_mesh("cpu", (1,)))

    expected = gradients(lambda model: model)
    actual = gradients(DistributedDataParallel if wrap == "ddp" else shard)
    assert expected and set(actual) == set(expected)
    for name, grad in expected.items():
        torch.testing.assert_close(actual[name], grad, msg=name)
