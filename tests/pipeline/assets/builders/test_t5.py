"""The small T5: its text, its tokenizer and its pretraining, on values that are made up."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

from pipeline.assets.builders.t5 import PREFIX, text, vocabulary
from pipeline.assets.builders.t5.pretraining import corrupt, pretrain
from pipeline.assets.builders.wmt16 import frames
from pipeline.assets.builders.wmt16.pairs import Pair, split_of

ROMANIAN = "Joi, 31 martie 2050, școala va folosi 1.250 de litri de apă în țară, după-amiază."


def made_up(rng):
    count = int(rng.integers(1, 400))
    return Pair(f"{count} meters", f"{count} metri")


def slots():
    return {slot for frame in text.FRAMES for slot in re.findall(r"{(\w+)}", frame.en)} - set(text.WORDS)


@pytest.fixture(scope="module")
def pairs():
    return text.read(SimpleNamespace(kinds=dict.fromkeys(slots(), made_up)), 600, 0, seed=0)


@pytest.fixture(scope="module")
def tokenizer(pairs):
    return vocabulary.train([PREFIX + pair.en for pair in pairs] + [pair.ro for pair in pairs], 500)


def test_pretraining_has_none_of_the_tasks_frames_and_none_of_its_held_out_values(pairs):
    assert not {frame.en for frame in frames.FRAMES} & {frame.en for frame in text.FRAMES}
    assert not {frame.ro for frame in frames.FRAMES} & {frame.ro for frame in text.FRAMES}
    values = {found for pair in pairs for found in re.findall(r"\d+ meters", pair.en)}
    assert len(values) > 200
    assert {split_of(value) for value in values} == {"train"}


def test_the_text_follows_the_seed_and_says_the_same_in_both_languages(pairs):
    cldr = SimpleNamespace(kinds=dict.fromkeys(slots(), made_up))
    assert text.read(cldr, 50, 0, seed=0) == pairs[:50]
    assert text.read(cldr, 50, 0, seed=1) != pairs[:50]
    for pair in pairs:
        assert sorted(re.findall(r"\d+", pair.en)) == sorted(re.findall(r"\d+", pair.ro))
        assert not re.search("[şţŞŢ]", pair.ro)


def test_sentences_of_the_task_come_after_the_rest_and_only_of_its_training_split(pairs):
    everything = {slot for frame in frames.FRAMES for slot in re.findall(r"{(\w+)}", frame.en)} | slots()
    cldr = SimpleNamespace(kinds=dict.fromkeys(everything - set(text.WORDS), made_up))
    found = text.read(cldr, 600, 40, seed=0)
    assert found[:600] == pairs and len(found) == 640
    for pair in found[600:]:
        values = re.findall(r"\d+ meters", pair.en)
        assert {split_of(value) for value in values} <= {"train"}


def test_frames_have_the_same_slots_in_both_languages():
    for frame in text.FRAMES:
        assert sorted(re.findall(r"{\w+}", frame.en)) == sorted(re.findall(r"{\w+}", frame.ro)), frame


def test_the_tokenizer_is_read_back_as_t5s_and_keeps_romanian(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    ids = loaded(ROMANIAN).input_ids
    assert type(loaded).__name__ == "T5Tokenizer" and loaded.is_fast
    assert ids == tokenizer(ROMANIAN).input_ids
    assert ids[-1] == loaded.eos_token_id and loaded.unk_token_id not in ids
    assert loaded.decode(ids, skip_special_tokens=True) == ROMANIAN
    assert (loaded.pad_token_id, loaded.eos_token_id, loaded.unk_token_id) == (0, 1, 2)
    assert len(loaded) == 500 + vocabulary.SENTINELS
    first = loaded.convert_tokens_to_ids("<extra_id_0>")
    assert first == len(loaded) - 1 and loaded("<extra_id_0>").input_ids == [first, 1]


def test_frequent_words_are_one_piece_and_numbers_no_part_of_words(tokenizer):
    assert tokenizer.tokenize("translate English to Romanian") == [
        "▁translate",
        "▁English",
        "▁to",
        "▁Romanian",
    ]
    assert not [piece for piece in tokenizer.get_vocab() if re.search(r"\d[^\d_>]|[^\d▁_]\d", piece)]


def test_span_corruption_can_be_undone():
    rng = np.random.default_rng(0)
    sentinel = 1000
    for length in (1, 2, 7, 30, 60):
        for _ in range(20):
            tokens = rng.integers(3, 900, size=length).tolist()
            given, wanted = corrupt(tokens, sentinel, rng)
            spans, current = {}, None
            for token in wanted:
                if token > 900:
                    current = spans.setdefault(token, [])
                else:
                    current.append(token)
            restored = [t for token in given for t in (spans[token] if token > 900 else [token])]
            assert restored == tokens
            assert sorted(spans, reverse=True) == list(range(sentinel, sentinel - len(spans), -1))
            assert spans[min(spans)] == []  # the last sentinel ends the target


def small_model(tokenizer):
    torch.manual_seed(0)
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=32,
            d_kv=16,
            d_ff=64,
            num_layers=1,
            num_heads=2,
            dropout_rate=0.0,
            decoder_start_token_id=0,
        )
    )


@pytest.mark.integration
def test_pretraining_learns_and_is_the_same_each_time(tokenizer, pairs):
    texts = [PREFIX + pair.en for pair in pairs], [pair.ro for pair in pairs], [pair.en for pair in pairs]
    early = pretrain(small_model(tokenizer), tokenizer, *texts, steps=5)
    models = [small_model(tokenizer) for _ in range(2)]
    losses = [pretrain(model, tokenizer, *texts, steps=100) for model in models]
    assert losses[0] < 0.75 * early
    assert losses[0] == losses[1]
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)
