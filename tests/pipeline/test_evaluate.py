"""Scoring finished runs of every kind: from what training saved, again with the same result, and never by training."""

import sys

import pandas as pd
import pytest
from sacrebleu import corpus_bleu

from pipeline.errors import AssetError, RecordError
from pipeline.evaluate import evaluate
from pipeline.metrics.glue import score
from pipeline.results import records
from pipeline.train import train

KINDS = {
    "glue": ["task=sst2"],
    "translation": ["model=t5-mini", "task=wmt16-en-ro", "task.scoring.splits=[test,test_django]"],
    "mmlu": ["model=smollm2-135m", "task=alpaca", "task.instructions.held_out=8"],
}
METHODS = ["full-ft", "lora", "lora-fa"]


@pytest.fixture(scope="module")
def finished(compose_tiny, tmp_path_factory):
    """Trains and scores a run of a kind once, and returns its configuration and directory."""
    done: dict[tuple[str, str], tuple] = {}

    def run(kind: str, method: str):
        if (kind, method) not in done:
            overrides = [*KINDS[kind], f"method={method}", "budget.max_length=24", "lr=1e-3"]
            if kind != "glue":
                overrides.append("budget.max_target_length=12")
            config, directory = compose_tiny(*overrides), tmp_path_factory.mktemp(kind)
            train(config, directory, overrides)
            evaluate(config, directory, overrides)
            done[kind, method] = config, directory
        return done[kind, method]

    return run


@pytest.mark.parametrize("method", METHODS)
def test_a_glue_run_scores_as_in_training(finished, method):
    _, directory = finished("glue", method)
    scores = records.read_evaluation(directory).evaluation.scores
    best = records.read(directory).train_info.best
    assert scores["score"] == pytest.approx(best.score, abs=1e-9)
    predictions = pd.read_parquet(directory / records.PREDICTIONS)
    assert score("accuracy", predictions.prediction, predictions.label) == scores["validation"]


@pytest.mark.parametrize("method", METHODS)
def test_what_training_predicted_is_what_its_weights_predict(finished, method, tmp_path):
    """Scored from what training kept, and again without it."""
    config, directory = finished("glue", method)
    kept = records.validated(directory, records.fingerprint_of_weights(directory))
    first = pd.read_parquet(directory / records.PREDICTIONS)
    assert pd.read_parquet(kept).equals(first)
    moved = kept.rename(tmp_path / kept.name)
    evaluate(config, directory, [])
    assert pd.read_parquet(directory / records.PREDICTIONS).equals(first)
    moved.rename(kept)


def test_predictions_of_other_weights_are_not_taken(finished):
    _, directory = finished("glue", "lora-fa")
    _, other = finished("glue", "lora")
    one, two = (records.validated(path, records.fingerprint_of_weights(path)) for path in (directory, other))
    assert one.name != two.name


def test_a_regression_is_scored_on_the_labels_own_scale(compose_tiny, tmp_path):
    predictions = {}
    for standardize in (True, False):
        config = compose_tiny("task=stsb", "lr=1e-3", f"task.classification.standardize={standardize}")
        train(config, tmp_path / str(standardize), [])
        evaluate(config, tmp_path / str(standardize), [])
        predictions[standardize] = pd.read_parquet(tmp_path / str(standardize) / records.PREDICTIONS)
    scaled, plain = predictions[True], predictions[False]
    assert scaled.label.to_numpy() == pytest.approx(plain.label.to_numpy(), abs=1e-5)
    assert (
        plain.label.mean() > 1.5 > abs(plain.prediction.mean())
    )  # a head that starts at 0 is far from the labels
    assert scaled.prediction.mean() == pytest.approx(plain.label.mean(), abs=1)


@pytest.mark.integration
@pytest.mark.parametrize("method", METHODS)
def test_a_translation_run_is_scored_on_every_test_split(finished, method):
    _, directory = finished("translation", method)
    evaluation = records.read_evaluation(directory).evaluation
    predictions = pd.read_parquet(directory / records.PREDICTIONS)
    assert predictions.split.value_counts().to_dict() == {"test": 12, "test_django": 6}
    for split, key in (("test", "bleu"), ("test_django", "test_django_bleu")):
        rows = predictions[predictions.split == split]
        expected = corpus_bleu(rows.prediction.tolist(), [rows.reference.tolist()]).score
        assert evaluation.scores[key] == pytest.approx(expected)
    assert "version:" in evaluation.details["bleu_signature"]


@pytest.mark.integration
@pytest.mark.parametrize("method", METHODS)
def test_an_instruction_run_answers_the_benchmark(finished, method):
    _, directory = finished("mmlu", method)
    evaluation = records.read_evaluation(directory).evaluation
    predictions = pd.read_parquet(directory / records.PREDICTIONS)
    by_subject = predictions.groupby("subject").correct.mean()
    assert evaluation.scores["macro"] == pytest.approx(by_subject.mean())
    assert evaluation.scores["micro"] == pytest.approx(predictions.correct.mean())
    assert [row["questions"] for row in evaluation.details["by_subject"]] == [8, 5]


@pytest.mark.parametrize("kind", KINDS)
def test_scoring_again_gives_the_same_and_trains_nothing(finished, kind, monkeypatch):
    config, directory = finished(kind, "lora-fa")
    record = (directory / records.NAME).read_bytes()
    before = records.read_evaluation(directory).evaluation
    predictions = pd.read_parquet(directory / records.PREDICTIONS)
    monkeypatch.setattr(
        config.profile, "cache", str(directory / "other-cache")
    )  # where no answer is remembered
    monkeypatch.setattr("pipeline.training.fit.fit", None)
    after = evaluate(config, directory, []).evaluation
    assert (after.scores, after.checkpoint) == (before.scores, before.checkpoint)
    pd.testing.assert_frame_equal(pd.read_parquet(directory / records.PREDICTIONS), predictions)
    assert (directory / records.NAME).read_bytes() == record


def test_the_untuned_model_is_scored_without_training(compose_tiny, tmp_path):
    config = compose_tiny(*KINDS["mmlu"], "method=untuned")
    record = train(config, tmp_path, [])
    assert (record.train_info.steps, record.train_info.trainable_parameters) == (0, 0)
    assert 0 <= evaluate(config, tmp_path, []).evaluation.scores["macro"] <= 1


def test_held_out_tasks_are_scored_by_what_is_generated(compose_tiny, tmp_path):
    overrides = ["model=smollm2-135m", "task=natural-instructions", "task.instructions.held_out=8"]
    config = compose_tiny(*overrides, "budget.max_length=24", "budget.max_target_length=6")
    train(config, tmp_path, [])
    evaluation = evaluate(config, tmp_path, []).evaluation
    predictions = pd.read_parquet(tmp_path / records.PREDICTIONS)
    assert set(predictions.task) == set(config.task.instructions.heldout_tasks)
    assert evaluation.scores["rouge_l"] == pytest.approx(predictions.rouge_l.mean())
    assert predictions.input.map(len).min() > 0, "by which verdicts know a passage"


def test_a_changed_configuration_asks_for_training(finished, compose_tiny):
    _, directory = finished("glue", "lora-fa")
    with pytest.raises(
        RecordError, match=r"was trained with another configuration: run `python -m pipeline\.train"
    ):
        evaluate(compose_tiny("task=sst2", "lr=2e-3"), directory, ["task=sst2", "lr=2e-3"])


def test_a_mirror_that_lacks_something_is_noticed_before_anything_that_takes_seconds(
    finished, compose_tiny, monkeypatch, tmp_path
):
    config, directory = finished("glue", "lora-fa")
    monkeypatch.setattr(config.profile, "mirror", str(tmp_path / "nowhere"))
    for module in ("pipeline.training.gpus", "pipeline.training.fit", "pipeline.results.provenance"):
        monkeypatch.setitem(sys.modules, module, None)  # or the import fails
    with pytest.raises(AssetError, match="nowhere has no models/"):
        evaluate(config, directory, [])
    with pytest.raises(AssetError, match="nowhere has no models/"):
        train(config, tmp_path / "run", [])


def test_an_untrained_run_is_told_of_with_the_command_that_trains_it(compose_tiny, tmp_path):
    with pytest.raises(
        RecordError, match=r"not been trained: run `python -m pipeline\.train task=sst2` first"
    ):
        evaluate(compose_tiny("task=sst2"), tmp_path, ["task=sst2"])


def test_missing_weights_are_named(finished):
    config, directory = finished("glue", "lora")
    model = directory / records.SAVED_MODEL
    model.rename(directory / "aside")
    try:
        with pytest.raises(
            RecordError, match=r"model is gone: delete .*metrics\.json to train the run again"
        ):
            evaluate(config, directory, [])
    finally:
        (directory / "aside").rename(model)


def test_a_run_that_failed_has_an_evaluation_that_says_so(compose_tiny, tmp_path):
    config = compose_tiny("task=sst2", "method=full-ft", "lr=1e30", "trainer.warmup_ratio=0")
    train(config, tmp_path, [])
    evaluation = evaluate(config, tmp_path, []).evaluation
    assert (evaluation.status, evaluation.scores) == ("diverged", {})
    assert records.read_evaluation(tmp_path).evaluation.problem.startswith("loss")
