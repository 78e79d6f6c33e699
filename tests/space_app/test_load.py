"""Many visitors at once against a server in a process of its own: nobody is refused, memory stays. No clock is judged.

The long form is `python tests/benchmarks/benchmark_space.py`, which also reports how long visitors wait.
"""

import sys
import tempfile
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    # gradio's client leaves an empty folder there for each picture that it fetches.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import benchmark_space

    return benchmark_space


def run(benchmark, folder, **load):
    with benchmark.served(benchmark.small_checkpoint(folder)) as (address, server):
        return benchmark.loaded(address, server, **load)


def test_a_few_visitors_for_seconds(benchmark, tmp_path):
    load = run(benchmark, tmp_path, users=8, seconds=3, warmup=8)
    assert load.failures == []
    assert len(load.latencies) >= 8


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_visitors_for_a_minute_and_memory_stays(benchmark, tmp_path):
    load = run(benchmark, tmp_path, users=32, seconds=60, warmup=400)
    assert load.failures == []
    assert load.growth < 5
    print(f"{len(load.latencies)} answers, 95 of 100 within {load.percentile_95:.2f} s")


def test_growth_and_percentile_are_what_their_names_say(benchmark):
    load = benchmark.Load(latencies=[float(number) for number in range(101)], memory=[100.0] * 10 + [110.0] * 10)
    assert load.percentile_95 == pytest.approx(95)
    assert load.growth == pytest.approx(10)
