import os
import signal
import threading
import time
from contextlib import contextmanager

import pytest

from pipeline.training import fit, interruption
from pipeline.training.interruption import Interrupted, Watch, watched
from tests.pipeline.costs.steps import in_step


@pytest.mark.integration
@pytest.mark.parametrize("step", [1, 3, 4])  # a run is evaluated, and saved anyway, after its steps 3 and 6
@pytest.mark.parametrize("number", interruption.SIGNALS)
def test_the_step_that_a_signal_comes_in_is_saved_and_nothing_else_changes(compose, tmp_path, step, number):
    run = compose("task=sst2")
    whole = fit.fit(run, tmp_path / "whole", "hash").info
    said = f"at step {step}; the same command goes on from step {step}$"
    with in_step(step - 1, lambda: os.kill(os.getpid(), number)), pytest.raises(Interrupted, match=said):
        fit.fit(run, tmp_path / "run", "hash")
    resumed = fit.fit(run, tmp_path / "run", "hash").info
    assert resumed.resumed_from_step == step
    for key in ("losses", "evaluations", "best", "steps", "tokens"):
        assert getattr(resumed, key) == getattr(whole, key), key


def test_a_signal_in_the_last_step_lets_the_run_end(compose, tmp_path, monkeypatch):
    @contextmanager
    def asked():
        watch = Watch()
        watch.requested = True
        yield watch

    monkeypatch.setattr(fit, "watched", asked)
    run = compose("budget.max_steps=1", "profile.budgets.minilm.evaluations=1")
    assert fit.fit(run, tmp_path, "hash").info.status == "done"


def test_a_step_that_does_not_end_is_interrupted_in_it(compose, tmp_path, monkeypatch):
    monkeypatch.setattr(interruption, "GRACE", 0.2)

    def endless():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    said = "at step 0; the same command goes on from the beginning"
    with in_step(0, endless), pytest.raises(Interrupted, match=said):
        fit.fit(compose(), tmp_path, "hash")


def test_ctrl_c_after_a_signal_interrupts_at_once_and_handlers_are_restored():
    before = [signal.getsignal(number) for number in (*interruption.SIGNALS, signal.SIGALRM)]
    with pytest.raises(Interrupted), watched() as watch:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # as Slurm does
        assert watch.requested
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("went on")
    assert [signal.getsignal(number) for number in (*interruption.SIGNALS, signal.SIGALRM)] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_in_another_thread_signals_are_left_alone():
    seen = []

    def block():
        with watched() as watch:
            seen.append(watch.requested)

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert seen == [False]
