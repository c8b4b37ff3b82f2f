"""LoRA-FA in others' training loops: transformers' Trainer, accelerate, and TRL where it is installed."""

import importlib.util

import accelerate
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from lorafa import LoraFaConfig, audit, get_lora_fa_model

pytestmark = pytest.mark.integration
needs_trl = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="TRL is not installed")
WORDS = ["<pad>", "<eos>", "<unk>", *["a", "cat", "dog", "sees", "the", "runs"]]
KINDS = ["norm", "activation", "qkv"]


def tokenizer():
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special)


def adapted(recompute):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
        use_cache=False,
    )
    options = {"r": 2, "target_modules": "all-linear", "task_type": "CAUSAL_LM", "recompute": recompute}
    return get_lora_fa_model(transformers.LlamaForCausalLM(config), LoraFaConfig(**options))


def arguments(kind, folder, **more):
    plain = {
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
    }
    return kind(str(folder), **plain, logging_steps=1, save_strategy="no", disable_tqdm=True, **more)


def trains_b_alone(model, train):
    """The rest is as it was, and what a loop may do to `requires_grad` has not switched A on."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train()
    audit(model).check()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed and all(".lora_B." in name for name in changed)


SENTENCES = [{"input_ids": [3, 4, 6, 7], "labels": [3, 4, 6, 7]}] * 8


@pytest.mark.parametrize("checkpointing", [False, True])
def test_trainer_of_transformers(tmp_path, checkpointing):
    model = adapted(True)
    settings = arguments(transformers.TrainingArguments, tmp_path, gradient_checkpointing=checkpointing)
    trains_b_alone(model, transformers.Trainer(model, settings, train_dataset=SENTENCES).train)


def test_accelerate():
    model = adapted(True)
    accelerator = accelerate.Accelerator(cpu=True)
    trained = [p for p in model.parameters() if p.requires_grad]
    wrapped, optimizer = accelerator.prepare(model, torch.optim.SGD(trained, 0.1))

    def train():
        ids = torch.tensor([[3, 4, 6, 7]])
        accelerator.backward(wrapped(input_ids=ids, labels=ids).loss)
        optimizer.step()

    trains_b_alone(model, train)


@needs_trl
@pytest.mark.parametrize("recompute", [[], KINDS, True], ids=["none", "without the loss", "all"])
def test_sft_of_trl(tmp_path, recompute):
    import trl
    from datasets import Dataset

    model = adapted(recompute)
    data = Dataset.from_list([{"text": "the cat sees a dog"}] * 8)
    settings = arguments(trl.SFTConfig, tmp_path)
    trainer = trl.SFTTrainer(model, settings, train_dataset=data, processing_class=tokenizer())
    trains_b_alone(model, trainer.train)


@needs_trl
@pytest.mark.parametrize("recompute", [[], True], ids=["none", "all"])
def test_dpo_of_trl(tmp_path, recompute):
    import trl
    from datasets import Dataset

    model = adapted(recompute)
    pair = {"prompt": "the cat", "chosen": " sees a dog", "rejected": " runs"}
    settings = arguments(trl.DPOConfig, tmp_path)
    data = Dataset.from_list([pair] * 8)
    trainer = trl.DPOTrainer(model, args=settings, train_dataset=data, processing_class=tokenizer())
    trains_b_alone(model, trainer.train)
