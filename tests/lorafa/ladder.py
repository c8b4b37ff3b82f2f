"""Small models of the families that climb the ladder of recomputation; docs/models.md says which rungs each has."""

import copy

import torch
import transformers
from torch import nn

from lorafa import LoraFaConfig, apply_recompute, get_lora_fa_model

DECODER = {
    **{"vocab_size": 41, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "pad_token_id": 0},
}
_T5 = {
    **{"vocab_size": 41, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4},
    **{"dropout_rate": 0.0, "decoder_start_token_id": 0},
}
_ROBERTA = {
    **{"vocab_size": 41, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}
# Name to class, but for what comes after, and configuration.
MODELS = {
    "LLaMA": ("Llama", DECODER),
    "Qwen2": ("Qwen2", DECODER),
    "Qwen3": ("Qwen3", DECODER),
    "Mistral": ("Mistral", DECODER),
    "Gemma": ("Gemma", DECODER),
    "Phi-3": ("Phi3", DECODER),
    "T5": ("T5", _T5),
    "T5 v1.1": ("T5", {**_T5, "feed_forward_proj": "gated-gelu"}),
    "RoBERTa": ("Roberta", _ROBERTA),
}
HEADS = {"T5": "ForConditionalGeneration", "Roberta": "ForSequenceClassification"}
CHECKPOINT = ["norm", "activation", "qkv", "mlp"]


def built(name, dtype=torch.float64, dropout=0.0, **options):
    """A small model with adapters that do something, in training."""
    torch.manual_seed(0)
    family, sizes = MODELS[name]
    config = getattr(transformers, f"{family}Config")(**{**sizes, **options})
    model = getattr(transformers, family + HEADS.get(family, "ForCausalLM"))(config).to(dtype)
    adapters = LoraFaConfig(r=2, lora_alpha=4, lora_dropout=dropout, target_modules="all-linear")
    model = get_lora_fa_model(model, adapters, autocast_adapter_dtype=False).train()
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    return model


def inputs(name="LLaMA", padded=True):
    """A batch of two sequences."""
    ids = torch.arange(24).mul(7).remainder(37).add(3).view(2, 12)
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    labels = torch.tensor([0, 1]) if name == "RoBERTa" else ids
    return {"input_ids": ids, "labels": labels} | ({"attention_mask": mask} if padded else {})


def gradients(model, seed=3, **batch):
    """The loss, and the gradients of what is trained."""
    model.zero_grad()
    torch.manual_seed(seed)
    loss = model(**batch).loss
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.requires_grad)]


def lean(model, *kinds):
    """A copy of a model that recomputes."""
    model = copy.deepcopy(model)
    apply_recompute(model, kinds)
    return model


def assert_same(gradients, expected, rtol=1e-10, atol=1e-14):
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=rtol, atol=atol, check_dtype=False)
