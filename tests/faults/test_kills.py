"""`kill -9` at random moments: the tables are the same as those of a computation that nothing happened to."""

import random
import subprocess
import time

import psutil

from tests.faults.dag import Dag, family

KILLS = 30
SEED = 8
VICTIMS = ("everything", "snakemake", "the worker", "a job")


def kill(process: subprocess.Popen[str], victim: str, rng: random.Random) -> bool:
    """Kills a part of a running computation; says whether there was one."""
    alive = family(process)
    worker = [it for it in alive if "serve" in _command(it)]
    jobs = [it for it in alive if it not in worker and "pipeline.worker" in _command(it)]
    chosen = {
        "everything": alive,
        "snakemake": alive[:1],
        "the worker": worker[:1],
        "a job": [rng.choice(jobs)] if jobs else [],
    }[victim]
    for one in chosen:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    return bool(chosen)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_tables_do_not_depend_on_what_was_killed_and_when(whole, tmp_path, tiny_overrides, capsys):
    rng = random.Random(SEED)
    kills: dict[str, int] = dict.fromkeys(VICTIMS, 0)
    rounds, resumed = 0, 0
    while sum(kills.values()) < KILLS:
        dag = Dag(tmp_path / str(rounds), tiny_overrides)
        rounds += 1
        while sum(kills.values()) < KILLS:
            process = dag.start()
            began = time.monotonic()
            victim, moment = rng.choice(VICTIMS), rng.uniform(0.3, whole.seconds)
            try:
                process.communicate(timeout=moment)
            except subprocess.TimeoutExpired:
                members = family(process)
                kills[victim] += kill(process, victim, rng)
                process.communicate(timeout=120)
                _, left = psutil.wait_procs(members, timeout=15)
                assert not left, f"{victim} was killed, and still there: {left}"
            if process.returncode == 0:
                break
            assert time.monotonic() - began < 300
            subprocess.run(dag.command("--unlock"), **dag.surroundings, capture_output=True, check=True)
        dag.finish()
        assert dag.tables() == whole.tables(), f"round {rounds}"
        assert dag.results() == whole.results(), f"round {rounds}"
        resumed += len(dag.resumed())
    with capsys.disabled():
        print(f"\n{kills} in {rounds} rounds; {resumed} runs went on from a checkpoint")
    assert resumed > 0
