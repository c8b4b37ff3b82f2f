import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from datasets import ClassLabel, Dataset, Features, List, Value
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lorafa import LoraFaConfig, get_lora_fa_model
from pipeline.assets import locate
from pipeline.assets.needs import Need, subjects
from pipeline.errors import AssetError
from pipeline.metrics import mmlu
from pipeline.metrics.mmlu import Mmlu
from pipeline.models import decoder

SIZES = {"anatomy": 9, "marketing": 4, "standard_library": 6}  # two of MMLU's subjects and a new one
WORDS = [
    *("which", "of", "the", "bones", "lies", "under", "heart", "market", "price", "sells"),
    *("list", "sorts", "module", "returns", "a", "long", "short", "one"),
]
PROSE = [
    *("The", "following", "are", "multiple", "choice", "questions", "with", "answers", "about", "Answer"),
    *("anatomy", "marketing", "standard", "library", "A", "B", "C", "D", "?", ".", ":", "(", ")"),
]
FEATURES = Features(
    {
        "question": Value("string"),
        "subject": Value("string"),
        "choices": List(Value("string")),
        "answer": ClassLabel(names=["A", "B", "C", "D"]),
    }
)


def write_repository(root, sizes, exemplars=6, features=FEATURES, splits=("test", "dev"), choices=4):
    rng = random.Random(0)
    folder = root / "datasets/cais/mmlu"
    card = ["---", "configs:"]
    for subject in [*sizes, "all", "auxiliary_train"]:
        card += [f"- config_name: {subject}", "  data_files:"]
        for split in splits:
            rows = [
                {
                    "question": " ".join(rng.choices(WORDS, k=rng.randint(3, 20))) + " ? ",
                    "subject": subject,
                    "choices": [" ".join(rng.choices(WORDS, k=rng.randint(1, 3))) for _ in range(choices)],
                    "answer": rng.randrange(4),
                }
                for _ in range(exemplars if split == "dev" else sizes.get(subject, 1))
            ]
            file = folder / f"{subject}/{split}-00000-of-00001.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            Dataset.from_list(rows).select_columns(list(features)).cast(features).to_parquet(file)
            card += [f"  - split: {split}", f"    path: {subject}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))
    return root


def write_model(root, name, tokenizer_model, before, positions):
    folder = root / "models/lorafa" / name
    tokenizer = Tokenizer(tokenizer_model)
    tokenizer.pre_tokenizer = before
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.decoder = decoders.Metaspace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    """The made-up subjects, and decoders that read words or letters, with room for a whole prompt or not."""
    root = write_repository(tmp_path_factory.mktemp("mirror"), SIZES)
    special = ["<unk>", "<s>", "</s>"]
    letters = ["▁", "\n", *sorted(set("".join(WORDS + PROSE)))]
    by_word, by_letter = (
        {piece: index for index, piece in enumerate([*special, *pieces])}
        for pieces in (WORDS + PROSE, letters)
    )
    for positions, name in ((512, "words"), (96, "words-short")):
        write_model(root, name, models.WordLevel(by_word, "<unk>"), pre_tokenizers.Whitespace(), positions)
    write_model(
        root, "letters", models.BPE(by_letter, [], unk_token="<unk>"), pre_tokenizers.Metaspace(), 4096
    )
    return root


@pytest.fixture(scope="module")
def data(mirror):
    return locate(Need("datasets", "cais/mmlu"), mirror)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def load(mirror):
    def run(name):
        source = locate(Need("models", f"lorafa/{name}"), mirror)
        return decoder.load(source, torch.float32).eval(), decoder.load_tokenizer(source)

    return run


@pytest.fixture(scope="module")
def base(load, data, cache):
    """The answers of the decoder that reads words."""
    return mmlu.evaluate(*load("words"), data, 5, None, cache)


def letters(question):
    choices = zip("ABCD", question["choices"], strict=True)
    return f"{question['question'].strip()}\n" + "".join(f"{letter}. {text}\n" for letter, text in choices)


def prompt(form, subject, exemplars, question):
    kind = {"letters": "multiple choice questions", "continuation": "questions"}[form]
    text = f"The following are {kind} (with answers) about {subject.replace('_', ' ')}.\n\n"
    for shown in [*exemplars, question]:
        text += letters(shown) if form == "letters" else f"Question: {shown['question'].strip()}\n"
        text += "Answer:"
        if shown is not question:
            text += f" {answers(form, shown)[shown['answer']]}\n\n"
    return text


def answers(form, question):
    return "ABCD" if form == "letters" else question["choices"]


def by_hand(model, tokenizer, data, form, shots):
    """Reads each prompt with each answer whole, one at a time."""
    rows = []
    for subject in SIZES:
        exemplars, questions = (
            pd.read_parquet(f"{data.path}/{subject}/{split}-00000-of-00001.parquet").to_dict("records")
            for split in ("dev", "test")
        )
        for question in questions:
            text = prompt(form, subject, exemplars[:shots], question)
            start = len(tokenizer(text)["input_ids"])
            likelihoods = []
            for answer in answers(form, question):
                tokens = torch.tensor([tokenizer(f"{text} {answer}")["input_ids"]])
                with torch.no_grad():
                    scores = model(tokens).logits[0].log_softmax(-1)
                wanted = range(start, tokens.shape[1])
                likelihoods.append(sum(scores[at - 1, tokens[0, at]].item() for at in wanted))
            rows.append((subject, question["answer"], likelihoods))
    return rows


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "form", "shots"),
    [
        ("words", "letters", 5),
        ("words", "letters", 0),
        ("letters", "letters", 2),
        ("words", "continuation", 5),
        ("words", "continuation", 0),
    ],
)
def test_log_likelihoods_are_those_of_whole_prompts_read_one_at_a_time(load, data, cache, name, form, shots):
    model, tokenizer = load(name)
    found = mmlu.evaluate(model, tokenizer, data, shots, None, cache, form).by_question
    expected = by_hand(model, tokenizer, data, form, shots)
    assert found.subject.tolist() == [subject for subject, _, _ in expected]
    assert found.answer.tolist() == ["ABCD"[answer] for _, answer, _ in expected]
    likelihoods = np.array([likelihoods for _, _, likelihoods in expected])
    np.testing.assert_allclose(found[list("ABCD")], likelihoods, atol=1e-4)
    assert found.prediction.tolist() == ["ABCD"[choice] for choice in likelihoods.argmax(axis=1)]
    assert (found.correct == (found.answer == found.prediction)).all()
    assert found.prediction.nunique() > 1 and 0 < found.correct.mean() < 1
    assert found.category.tolist()[:1] == ["stem"]


def test_averages_over_subjects_and_over_questions(base):
    from lm_eval.api.metrics import pooled_sample_stderr, unweighted_mean_stderr

    right = base.by_question.groupby("subject", sort=False).correct
    accuracies = [right.sum()[subject] / size for subject, size in SIZES.items()]
    assert base.macro == pytest.approx(sum(accuracies) / 3)
    assert base.micro == pytest.approx(right.sum().sum() / sum(SIZES.values())) and base.macro != base.micro
    errors = [
        (accuracy * (1 - accuracy) / (size - 1)) ** 0.5
        for accuracy, size in zip(accuracies, SIZES.values(), strict=True)
    ]
    assert base.macro_standard_error == pytest.approx(unweighted_mean_stderr(errors))
    assert base.micro_standard_error == pytest.approx(pooled_sample_stderr(errors, list(SIZES.values())))
    by_subject = base.by_subject.set_index("subject")
    assert by_subject.questions.to_dict() == SIZES
    assert by_subject.accuracy.tolist() == pytest.approx(accuracies)
    assert by_subject.standard_error.tolist() == pytest.approx(errors)
    assert by_subject.category.tolist()[:2] == ["stem", "other"] and pd.isna(by_subject.category.iloc[2])


@pytest.mark.parametrize("form", ["letters", "continuation"])
def test_reads_exemplars_once_for_a_subject_and_a_question_once_for_its_choices(load, data, cache, form):
    model, tokenizer = load("words")
    reads = []
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: reads.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    mmlu.evaluate(model, tokenizer, data, 5, None, cache, form)
    handle.remove()
    longest = sorted(reads, key=lambda shape: shape[1])[-len(SIZES) :]  # the exemplars of each subject
    assert all(rows == 1 for rows, _ in longest)
    assert sum(rows for rows, _ in reads) == len(SIZES) + sum(SIZES.values())


def test_reads_in_batches_of_so_many_tokens(load, data, cache, base, monkeypatch):
    from pipeline.metrics import shared_prompt

    model, tokenizer = load("words")
    rows = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    monkeypatch.setattr(shared_prompt, "TOKENS", 1)
    answers = mmlu.evaluate(model, tokenizer, data, 5, None, cache).by_question
    assert rows == [1] * (len(SIZES) + sum(SIZES.values()))
    np.testing.assert_allclose(answers[list("ABCD")], base.by_question[list("ABCD")], atol=1e-5)


@pytest.mark.parametrize("form", ["letters", "continuation"])
def test_cuts_long_prompts_as_lm_eval_does(load, data, cache, form):
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model, tokenizer = load("words-short")
    ours = mmlu.evaluate(model, tokenizer, data, 5, None, cache, form).by_question
    folder, ending, _ = mmlu.FORMS[form]
    harness = TaskManager(
        include_path=Path(lm_eval.__file__).parent / "tasks/mmlu" / folder, include_defaults=False
    )
    theirs = lm_eval.simple_evaluate(
        HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3),
        tasks=[
            {**harness.task_index[f"mmlu_{subject}{ending}"].cfg, **place(data, cache)}
            for subject in ("anatomy", "marketing")
        ],
        task_manager=harness,
        num_fewshot=5,
        bootstrap_iters=0,
    )
    likelihoods = [
        [likelihood for likelihood, _ in sample["filtered_resps"]]
        for samples in theirs["samples"].values()
        for sample in samples
    ]
    np.testing.assert_allclose(ours[list("ABCD")][: len(likelihoods)], likelihoods, atol=1e-4)


def place(data, cache):
    return {"dataset_path": data.path, "dataset_kwargs": {"cache_dir": str(cache / "lm_eval")}}


def cli_tasks(data, cache):
    return [
        {
            "task": f"tiny_{subject}",
            "dataset_name": subject,
            **place(data, cache),
            "description": f"The following are multiple choice questions (with answers) about "
            f"{subject.replace('_', ' ')}.\n\n",
        }
        for subject in SIZES
    ]


@pytest.mark.slow
def test_adapter_merged_and_by_lm_evals_own_command_line(load, data, cache, base, tmp_path):
    model, tokenizer = load("words")
    torch.manual_seed(0)
    config = LoraFaConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    adapted = get_lora_fa_model(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.5)
    adapted.train()
    unmerged = mmlu.evaluate(adapted, tokenizer, data, 5, None, cache)
    assert adapted.training
    difference = unmerged.by_question[list("ABCD")] - base.by_question[list("ABCD")]
    assert difference.abs().max(axis=1).min() > 0.1  # in every question

    merged = adapted.merge_and_unload()
    answers = mmlu.evaluate(merged, tokenizer, data, 5, None, cache).by_question
    np.testing.assert_allclose(answers[list("ABCD")], unmerged.by_question[list("ABCD")], atol=1e-4)

    merged.save_pretrained(tmp_path / "merged")
    tokenizer.save_pretrained(tmp_path / "merged")
    package = Path(sys.modules["lm_eval"].__file__).parent
    template = package / "tasks/mmlu/default/_default_template_yaml"
    for task in cli_tasks(data, cache):
        (tmp_path / f"{task['task']}.yaml").write_text(yaml.safe_dump({"include": str(template), **task}))
    names = ",".join(f"tiny_{subject}" for subject in SIZES)
    command = [
        *(sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu", "--batch_size", "4"),
        *("--model_args", f"pretrained={tmp_path / 'merged'},dtype=float32", "--num_fewshot", "5"),
        *("--tasks", names, "--include_path", str(tmp_path), "--output_path", str(tmp_path / "results.json")),
    ]
    # lm-eval without its own tasks: reading their YAML files takes ten seconds.
    (tmp_path / "harness/lm_eval/tasks").mkdir(parents=True)
    for file in [*set(package.iterdir()) - {package / "tasks"}, *(package / "tasks").glob("*.py")]:
        (tmp_path / "harness/lm_eval" / file.relative_to(package)).symlink_to(file)
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    environment = {**os.environ, **offline, "PYTHONPATH": str(tmp_path / "harness")}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=180)
    (written,) = tmp_path.glob("results*.json")
    results = json.loads(written.read_text())["results"]
    theirs = {subject: results[f"tiny_{subject}"]["acc,none"] for subject in SIZES}
    assert unmerged.by_subject.set_index("subject").accuracy.to_dict() == pytest.approx(theirs)


def test_the_same_answers_every_time(load, data, cache, base):
    random.seed(7)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    again = mmlu.evaluate(*load("words"), data, 5, None, cache)
    pd.testing.assert_frame_equal(again.by_question, base.by_question, check_exact=True)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_limit_takes_the_first_questions_of_each_subject(load, data, cache, base):
    few = mmlu.evaluate(*load("words"), data, 5, 2, cache).by_question
    first = base.by_question.groupby("subject", sort=False).head(2).reset_index(drop=True)
    columns = ["subject", "question", "answer", "prediction"]
    pd.testing.assert_frame_equal(few[columns], first[columns])


@pytest.mark.parametrize("form", ["letters", "continuation"])
def test_subjects_differ_from_lm_evals_own_in_nothing(form):
    import lm_eval
    from lm_eval.tasks import TaskManager

    folder = Path(lm_eval.__file__).parent / "tasks/mmlu" / mmlu.FORMS[form][0]
    harness = TaskManager(include_path=folder, include_defaults=False)
    assert len(harness.all_subtasks) == 57
    for name in harness.all_subtasks:
        theirs = harness.task_index[name].cfg
        ours = mmlu._task(harness, theirs["dataset_name"], {}, form)
        assert ours.pop("custom_dataset")() == {}
        labels = ("tag", "task_alias")
        assert {key: ours[key] for key in ours if key not in labels} == {
            key: theirs[key] for key in theirs if key not in labels
        }


def test_answers_are_kept_for_each_checkpoint(base, data, tmp_path):
    computed = []

    def compute():
        computed.append(1)
        return base

    for _ in range(2):
        kept = mmlu.cached(tmp_path, "weights", data, 5, None, "letters", compute)
        pd.testing.assert_frame_equal(kept.by_question, base.by_question)
        assert (kept.macro, kept.micro_standard_error) == (base.macro, base.micro_standard_error)
    assert len(computed) == 1
    changed = replace(data, version="changed")
    for key in (
        ("others", data, 5, None, "letters"),
        ("weights", changed, 5, None, "letters"),
        ("weights", data, 4, None, "letters"),
        ("weights", data, 5, 3, "letters"),
        ("weights", data, 5, None, "continuation"),
    ):
        mmlu.cached(tmp_path, *key, compute)
    assert len(computed) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"splits": ["test"]}, r"cais/mmlu, anatomy: no split dev, only test"),
        ({"exemplars": 4}, r"anatomy: the split dev has 4 questions, too few for 5 exemplars"),
        (
            {"features": Features({key: FEATURES[key] for key in ("question", "answer")})},
            r"anatomy, dev: no column choices, only question, answer",
        ),
        ({"choices": 3}, r"anatomy, dev: question 0 has 3 choices and the answer \d; wanted are 4"),
        ({"sizes": {}}, r"cais/mmlu has no subjects"),
    ],
)
def test_says_what_the_repository_lacks(load, tmp_path, changes, message):
    write_repository(tmp_path, **{"sizes": {"anatomy": 2}, **changes})
    source = locate(Need("datasets", "cais/mmlu"), tmp_path)
    with pytest.raises(AssetError, match=message):
        mmlu.evaluate(*load("words"), source, 5, None, tmp_path / "cache")


def test_says_when_subjects_are_no_configurations_or_files_are_missing(load, tmp_path):
    write_repository(tmp_path, {"anatomy": 2})
    folder = tmp_path / "datasets/cais/mmlu"
    (folder / "anatomy/test-00000-of-00001.parquet").unlink()
    source = locate(Need("datasets", "cais/mmlu"), tmp_path)
    with pytest.raises(AssetError, match=r"cais/mmlu, anatomy: no file anatomy/test-.*, which its README"):
        mmlu.evaluate(*load("words"), source, 5, None, tmp_path / "cache")
    (folder / "README.md").unlink()
    with pytest.raises(AssetError, match=r"cais/mmlu has no subjects"):
        subjects(folder)


def test_a_tokenizer_without_padding_pads_with_a_token_that_it_has(load):
    model, tokenizer = load("words")
    assert tokenizer.pad_token == "<unk>" and tokenizer.padding_side == "right"
    assert len(tokenizer) == model.get_input_embeddings().num_embeddings
    batch = tokenizer(["the heart", "the"], padding=True)
    assert batch["attention_mask"] == [[1, 1, 1], [1, 1, 0]]


def test_four_bits_on_request(mirror):
    pytest.importorskip("bitsandbytes")
    source = locate(Need("models", "lorafa/words"), mirror)
    model = decoder.load(source, torch.float32, "nf4")
    assert type(model.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
    assert model.model.layers[0].mlp.up_proj.weight.quant_state.nested


def test_one_question_a_subject_has_no_standard_error():
    rows = [{"subject": "anatomy", "category": "stem", "correct": True}]
    assert np.isnan(Mmlu(pd.DataFrame(rows)).macro_standard_error)
