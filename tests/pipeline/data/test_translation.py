import json
import subprocess

import pytest
import torch
from datasets import Dataset
from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

from pipeline.assets import locate
from pipeline.assets.needs import Need
from pipeline.data.translation import load, tokenize
from pipeline.errors import AssetError
from pipeline.metrics.rouge import rouge_l
from pipeline.metrics.translation import METRICS, bleu_signature, score, without_diacritics
from pipeline.models import encoder_decoder

PAIRS = [
    ("the black cat sat on the old mat", "pisica neagră a stat pe covorul vechi"),
    ("a thing in three months", "și țara, în Iași și în Țara Oașului, peste 3 luni"),
    ("the house is small", "casa este mică"),
    ("", ""),
]
PREDICTIONS = ["pisica neagră stă pe un covor vechi", "țara peste 3 luni", "casa este mică", "x"]
PREFIX = "translate English to Romanian: "


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    root = tmp_path_factory.mktemp("mirror")
    folder = root / "datasets/wmt/wmt16"
    rows = [{"translation": {"en": english, "ro": romanian}} for english, romanian in PAIRS]
    card = ["---", "configs:", "- config_name: ro-en", "  data_files:"]
    for split in ("train", "test"):
        file = folder / f"ro-en/{split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_list(rows if split == "train" else rows[::-1]).to_parquet(file)
        card += [f"  - split: {split}", f"    path: ro-en/{split}-*"]
    Dataset.from_list([{"text": "no pairs"}]).to_parquet(folder / "other/train-00000-of-00001.parquet")
    card += ["- config_name: other", "  data_files:", "  - split: train", "    path: other/train-*"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))

    model = root / "models/lorafa/t5-tiny"
    letters = sorted(set("".join(english + romanian for english, romanian in PAIRS) + PREFIX) - {" "})
    pieces = ["<pad>", "</s>", "<unk>", "▁", *letters]
    T5Tokenizer(vocab=[(piece, 0.0) for piece in pieces], extra_ids=0).save_pretrained(model)
    config = T5Config(
        vocab_size=len(pieces),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
    )
    torch.manual_seed(0)
    network = T5ForConditionalGeneration(config)
    for parameter in network.parameters():  # as it is initialised it says the same of every source
        torch.nn.init.normal_(parameter, std=0.5)
    network.save_pretrained(model)
    return root


@pytest.fixture(scope="module")
def tokenizer(mirror):
    return encoder_decoder.load_tokenizer(locate(Need("models", "lorafa/t5-tiny"), mirror))


@pytest.fixture(scope="module")
def load_splits(mirror, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")

    def run(*splits, subset="ro-en", languages=("en", "ro")):
        return load(locate(Need("datasets", "wmt/wmt16"), mirror), subset, splits, *languages, cache)

    return run


def test_loads_the_pairs_letter_for_letter(load_splits):
    splits = load_splits("test", "train")
    assert list(splits) == ["test", "train"]
    assert splits["train"].column_names == ["source", "target"]
    assert list(zip(splits["train"]["source"], splits["train"]["target"], strict=True)) == PAIRS
    assert splits["test"]["target"][2] == PAIRS[1][1]
    assert {"\N{LATIN SMALL LETTER S WITH COMMA BELOW}", "\N{LATIN CAPITAL LETTER T WITH COMMA BELOW}"} < set(
        splits["train"]["target"][1]
    )


def test_translates_in_the_other_direction_too(load_splits):
    assert load_splits("train", languages=("ro", "en"))["train"][2] == {
        "source": PAIRS[2][1],
        "target": PAIRS[2][0],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"subset": "de-en"}, r"wmt/wmt16, de-en: no usable data set: .*ro-en"),
        ({"splits": ["validation"]}, r"wmt/wmt16, ro-en: no split validation, only train, test"),
        ({"languages": ("en", "de")}, r"train: no translation\.de, only translation\.en, translation\.ro"),
        ({"subset": "other"}, r"other, train: no column translation, only text"),
    ],
)
def test_says_what_the_data_set_lacks(load_splits, arguments, message):
    with pytest.raises(AssetError, match=message):
        load_splits(*arguments.pop("splits", ["train"]), **arguments)


def test_says_when_a_file_is_missing_or_damaged(mirror, tmp_path):
    folder = tmp_path / "mirror/datasets/wmt/wmt16"
    (folder / "ro-en").mkdir(parents=True)

    def attempt(message):
        source = locate(Need("datasets", "wmt/wmt16"), tmp_path / "mirror")
        with pytest.raises(AssetError, match=rf"wmt/wmt16(, |/)ro-en: {message}"):
            load(source, "ro-en", ["train"], "en", "ro", tmp_path)

    attempt("no usable data set")
    (folder / "README.md").write_text((mirror / "datasets/wmt/wmt16/README.md").read_text())
    attempt(r"no file ro-en/train-\*, which its README\.md names")
    for split in ("train", "test"):
        (folder / f"ro-en/{split}-00000-of-00001.parquet").write_bytes(b"PAR1 and then nothing")
    attempt("no usable data set")


def test_tokens_are_the_prefixed_source_and_the_target_with_its_end(load_splits, tokenizer):
    tokens = tokenize(load_splits("train")["train"], PREFIX, tokenizer, 200, 200)
    assert tokens.column_names == ["input_ids", "attention_mask", "labels"]
    end = tokenizer.eos_token_id
    for row, (source, target) in zip(tokens, PAIRS, strict=True):
        assert row["input_ids"][-1] == row["labels"][-1] == end
        assert tokenizer.decode(row["input_ids"][:-1]) == (PREFIX + source).strip()
        assert tokenizer.decode(row["labels"][:-1]) == target
        assert tokenizer.unk_token_id not in row["labels"]
        assert row["attention_mask"] == [1] * len(row["input_ids"])
    assert tokens[3]["labels"] == [end]


def test_cuts_each_side_at_its_own_length_and_keeps_its_end(load_splits, tokenizer):
    pairs = load_splits("train")["train"]
    whole, cut = (tokenize(pairs, PREFIX, tokenizer, *lengths) for lengths in ((200, 200), (40, 12)))
    for all_of_it, part in zip(whole, cut, strict=True):
        for column, length in (("input_ids", 40), ("labels", 12)):
            if len(all_of_it[column]) <= length:
                assert part[column] == all_of_it[column]
            else:
                assert part[column] == [*all_of_it[column][: length - 1], tokenizer.eos_token_id]


def test_tokens_are_prepared_once_and_again_when_anything_differs(load_splits, tokenizer, monkeypatch):
    pairs = load_splits("train")["train"]
    first = tokenize(pairs, PREFIX, tokenizer, 50, 20)
    tokenizer("leaves its truncation behind", truncation=True, max_length=7)
    again = tokenize(pairs, PREFIX, tokenizer, 50, 20)
    assert again.cache_files == first.cache_files
    for other in (
        tokenize(pairs, "to Romanian: ", tokenizer, 50, 20),
        tokenize(pairs, PREFIX, tokenizer, 51, 20),
        tokenize(pairs, PREFIX, tokenizer, 50, 21),
        tokenize(load_splits("test")["test"], PREFIX, tokenizer, 50, 20),
    ):
        assert other.cache_files != first.cache_files


@pytest.mark.parametrize("beams", [1, 4])
def test_generation_is_deterministic(mirror, tokenizer, beams):
    source = locate(Need("models", "lorafa/t5-tiny"), mirror)
    inputs = tokenizer([PREFIX + english for english, _ in PAIRS], return_tensors="pt", padding=True)
    outputs = []
    for seed in (0, 1):
        model = encoder_decoder.load(source, torch.float32).eval()
        torch.manual_seed(seed)
        outputs.append(model.generate(**inputs, num_beams=beams, do_sample=False, max_length=12).tolist())
    assert outputs[0] == outputs[1]
    assert len({tuple(output) for output in outputs[0]}) > 1


def test_loads_in_the_precision_that_is_asked_for(mirror):
    model = encoder_decoder.load(locate(Need("models", "lorafa/t5-tiny"), mirror), torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_bleu_agrees_with_sacrebleus_command_line(tmp_path):
    references = [romanian for _, romanian in PAIRS]
    (tmp_path / "references").write_text("\n".join([*references[:3], "y", ""]))
    (tmp_path / "predictions").write_text("\n".join([*PREDICTIONS, ""]))
    command = ["sacrebleu", tmp_path / "references", "-i", tmp_path / "predictions", "-w", "10"]
    theirs = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    ours = score(PREDICTIONS, [*references[:3], "y"])
    assert ours["bleu"] == pytest.approx(theirs["score"]) and 0 < ours["bleu"] < 100
    assert bleu_signature() == theirs["signature"]


def test_bleu_is_the_formulas():
    # 5 of 6 words, 3 of 5 pairs, 2 of 4 triples, 1 of 3 quadruples; as long as the reference.
    expected = 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert score(["a b c d x f"], ["a b c d e f"])["bleu"] == pytest.approx(expected)


def longest_common_subsequence(first, second):
    if not first or not second:
        return 0
    if first[-1] == second[-1]:
        return 1 + longest_common_subsequence(first[:-1], second[:-1])
    return max(longest_common_subsequence(first[:-1], second), longest_common_subsequence(first, second[:-1]))


def test_bleu_without_diacritics_forgives_marks_and_either_way_to_write_them():
    spelled, plain = "Ţara are şase râuri în munți", "Tara are sase rauri in munti"
    found = score([plain], [spelled])
    assert found["bleu_without_diacritics"] == pytest.approx(100) and found["bleu"] < 50
    assert without_diacritics(spelled) == without_diacritics("Țara are șase râuri în munți") == plain


def test_rouge_l_is_the_mean_f1_of_longest_common_subsequences():
    predictions = ["the cat sat there", "Police kill the GUNMAN!", "nothing alike"]
    references = ["the black cat sat", "police killed the gunman", "altogether different words"]
    expected = []
    for prediction, reference in zip(predictions, references, strict=True):
        one, other = (text.lower().strip("!").split() for text in (prediction, reference))
        expected.append(200 * longest_common_subsequence(one, other) / (len(one) + len(other)))
    assert expected == [75, 75, 0]
    assert score(predictions, references)["rouge_l"] == pytest.approx(50)


def test_rouge_l_knows_no_letters_but_a_to_z():
    assert rouge_l("și țara", ["i ara"]) == 100  # what rouge_score makes of them
    assert rouge_l("ș", ["ș"]) == 0


def test_rouge_l_takes_the_nearest_reference_and_stems_on_request():
    references = ["far away", "the cats were running home", "no"]
    assert rouge_l("the cat was running", references) == max(
        rouge_l("the cat was running", [reference]) for reference in references
    )
    assert rouge_l("cats running", ["cat runs"]) == 0
    assert rouge_l("cats running", ["cat runs"], stem=True) == 100


def test_perfect_translations_score_a_hundred():
    references = [romanian for _, romanian in PAIRS[:3]]
    assert score(references, references) == pytest.approx(
        {"bleu": 100, "bleu_without_diacritics": 100, "rouge_l": 100}
    )


@pytest.mark.parametrize("name", METRICS)
def test_metrics_describe_themselves(name):
    metric = METRICS[name]()
    assert metric.description and "aclanthology.org" in metric.citation
