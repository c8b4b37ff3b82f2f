"""Repeating blocks gives the trace that running them all gives."""

from dataclasses import replace

import pytest

from lorafa.memory.depth import kept_blocks
from lorafa.memory.estimate import at_full_depth, forget_recordings
from lorafa.memory.recipe import Recipe
from lorafa.memory.trace import Block, Event, NotRepeatableError, Segment, Storage, Trace

FULL_DEPTH = [
    {"model": "llama-7b", "method": "lora-fa", "layer_fraction": 0.4, "input_gradients": True},
    {"model": "roberta-base", "method": "full-ft", "attention": "flash", "optimizer": "adafactor"},
    {"model": "roberta-base", "method": "lora-frozen-a", "checkpointing": True, "quantization": "nf4"},
    {"model": "t5-small", "method": "lora", "attention": "eager", "dtype": "fp32", "autocast": "bf16"},
]


@pytest.mark.parametrize("settings", FULL_DEPTH, ids=lambda s: f"{s['model']}-{s['method']}")
@pytest.mark.integration
def test_repeating_is_exact(settings: dict) -> None:
    recipe = Recipe(**settings, batch_size=2, source_length=48)
    repeated = at_full_depth(recipe)
    run = at_full_depth(recipe, shortcut=False)
    assert repeated.trace.timeline() == run.trace.timeline()
    assert repeated.parameters.total == run.parameters.total
    assert repeated.parameters.trainable == run.parameters.trainable
    assert [s.nbytes for s in repeated.trace.storages] == [s.nbytes for s in run.trace.storages]


def test_plan_keeps_five_of_each_kind() -> None:
    assert kept_blocks([True] * 7) == [0, 1, 2, 2, 2, 3, 4]
    assert kept_blocks([False] * 2 + [True] * 6) == [0, 1, 2, 3, 4, 4, 5, 6]
    assert kept_blocks([True] * 3) == [0, 1, 2]


def toy_trace() -> Trace:
    """Weights of 100, then per block 10 saved in forward; backward of a block needs 7 more and frees both."""
    outside = Segment("weights")
    storages = [Storage(100, outside, category="weights")]
    events = [Event(outside, 0, birth=True)]
    for number in range(5):
        segment = Segment("forward", Block("layers", number))
        storages.append(Storage(10, segment))
        events.append(Event(segment, number + 1, birth=True))
    for number in reversed(range(5)):
        segment = Segment("backward", Block("layers", number))
        storages.append(Storage(7, segment))
        temporary = len(storages) - 1
        events += [Event(segment, temporary, True), Event(segment, number + 1, False)]
        events.append(Event(segment, temporary, False))
    return Trace(storages, events)


def test_timeline_of_a_trace_made_by_hand() -> None:
    timeline = toy_trace().timeline(granularity=1)
    assert timeline.peak == 100 + 5 * 10 + 7
    assert timeline.saved == 50
    assert timeline.breakdown["activations"] == 50
    assert timeline.breakdown["temporaries"] == 7
    assert timeline.by_phase == {"forward": 150, "backward": 157}


def test_repeat_of_a_trace_made_by_hand() -> None:
    timeline = toy_trace().repeat({"layers": [0, 1, 2, 2, 2, 3, 4]}).timeline(granularity=1)
    assert timeline.peak == 100 + 7 * 10 + 7


def test_unlike_neighbours_are_refused() -> None:
    trace = toy_trace()
    trace.storages[3] = trace.storages[3]._replace(nbytes=11)
    segment = Segment("forward", Block("layers", 2))
    dies_in_the_next_block = Event(segment, 2, birth=False)
    trace.events.insert(4, dies_in_the_next_block)
    trace.events = [e for e in trace.events if e.birth or e.storage != 2 or e is dies_in_the_next_block]
    with pytest.raises(NotRepeatableError):
        trace.repeat({"layers": [0, 1, 2, 2, 3, 4]})


@pytest.mark.parametrize(
    ("family", "axis"), [("roberta", "rank"), ("llama", "rank"), ("llama", "batch_size")]
)
@pytest.mark.integration
def test_steps_are_affine_in_batch_and_rank(small_models: dict[str, str], family: str, axis: str) -> None:
    recipe = Recipe(small_models[family], "lora", batch_size=2, rank=3, source_length=40, adapter_dropout=0.1)
    traces = {
        size: at_full_depth(replace(recipe, **{axis: size}), shortcut=False).trace for size in (2, 5, 9)
    }
    forget_recordings()
    direct = at_full_depth(replace(recipe, **{axis: 9}), shortcut=False).trace
    assert traces[9].storages == direct.storages
    assert traces[9].events == direct.events
