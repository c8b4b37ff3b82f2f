"""A small T5 for English and Romanian, pretrained here: no package ships one.

As T5's own mixture (Raffel et al., 2020), its pretraining has span corruption on both languages and supervised
translation under the same prefix. How much of that is of the task's kind decides what is left to fine-tune (`text.py`).
"""

from pathlib import Path
from typing import Any

import torch
from transformers import T5Config, T5ForConditionalGeneration

from pipeline.assets.builders import Ingredients
from pipeline.assets.builders.t5 import text, vocabulary
from pipeline.assets.builders.t5.pretraining import pretrain
from pipeline.assets.builders.wmt16.cldr import Cldr
from pipeline.assets.packages import imported

PREFIX = "translate English to Romanian: "


def build(target: Path, ingredients: Ingredients) -> dict[str, Any]:
    """Writes the pretrained model with its tokenizer, and returns what its pretraining came to.

    Args:
        target: The repository's folder.
        ingredients: The package "babel"; `pairs` of labels and descriptions, `task_sentences` beside them, `steps` of
            pretraining and the `vocabulary`'s size.
    """
    sizes = ingredients.sizes
    with imported(ingredients.packages["babel"], "babel"):
        pairs = text.read(Cldr(), sizes["pairs"], sizes["task_sentences"], seed=0)
    sources = [PREFIX + pair.en for pair in pairs]
    tokenizer = vocabulary.train([*sources, *(pair.ro for pair in pairs)], sizes["vocabulary"])
    torch.manual_seed(0)
    torch.set_num_threads(1)  # sums in one order: the same weights on every machine of a kind
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=128,
        d_kv=32,
        d_ff=512,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config.decoder_start_token_id = tokenizer.pad_token_id
    model = T5ForConditionalGeneration(config)
    loss = pretrain(
        model, tokenizer, sources, [pair.ro for pair in pairs], [pair.en for pair in pairs], sizes["steps"]
    )
    model.eval().save_pretrained(target)
    tokenizer.save_pretrained(target)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "pretraining_steps": sizes["steps"],
        "pretraining_loss": round(loss, 3),
    }
