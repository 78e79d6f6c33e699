"""Runs pretraining in forked processes that die at chosen moments: imports cost seconds, a fork costs nothing.

    python forked_runs.py PLAN.json

The plan is a list of runs: `argv`, `processes`, `log`, `deaths` in rising order (each [step, name of a moment] for
SIGKILL, or with a signal as third), `left_dead` for a run that nobody resumes after its last death, and `breaks`
([rank, shard, row]) for a stream whose connection breaks there on every opening but the first. A run that ends well
leaves `state-RANK.pt` of every process in the output directory: the model's state, and the moments.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import datasets  # noqa: F401 - streams need it, and a fork of what is imported costs nothing
import torch

import trainers.pretraining_model
import trainers.runs.checkpoints
from synco_hub.data import StreamSampler, StreamSource
from trainers.pretrain import main
from trainers.pretraining_trainer import SynCoTrainer


class Moments:
    """Counts the moments of a run and dies at the chosen one, as abruptly as a process can."""

    def __init__(self, death: list[Any] | None) -> None:
        self.death = death
        self.seen: list[tuple[int, str]] = []
        self.trainer: SynCoTrainer | None = None

    def pass_through(self, name: str, dying: Any = lambda: None) -> None:
        step = 0 if self.trainer is None else self.trainer.state.global_step
        self.seen.append((step, name))
        if self.death is not None and step >= self.death[0] and name == self.death[1]:
            number = signal.Signals[self.death[2]] if len(self.death) > 2 else signal.SIGKILL
            self.death = None
            dying()
            os.kill(os.getpid(), number)

    def watch(self) -> None:
        training_step, create = SynCoTrainer.training_step, SynCoTrainer.__init__
        update, save, sha256, rename = (
            trainers.pretraining_model.update_target,
            torch.save,
            trainers.runs.checkpoints._sha256,
            Path.rename,
        )

        def created(trainer: SynCoTrainer, *args: Any, **kwargs: Any) -> None:
            create(trainer, *args, **kwargs)
            self.trainer = trainer

        def stepped(trainer: SynCoTrainer, *args: Any, **kwargs: Any) -> Any:
            self.pass_through("before micro-batch")
            loss = training_step(trainer, *args, **kwargs)
            self.pass_through("after micro-batch")
            return loss

        def updated(*args: Any) -> None:
            self.pass_through("before target update")
            update(*args)
            self.pass_through("after target update")

        def saved(values: Any, file: Any, *args: Any, **kwargs: Any) -> None:
            save(values, file, *args, **kwargs)
            if isinstance(file, str):
                name = os.path.basename(file)
                self.pass_through(f"torn {name}", lambda: os.truncate(file, os.path.getsize(file) // 2))
                self.pass_through(f"wrote {name}")

        def hashed(file: Path) -> str:
            self.pass_through("hashing")
            return sha256(file)

        def renamed(path: Path, target: Any) -> Path:
            self.pass_through("before rename")
            result = rename(path, target)
            self.pass_through("after rename")
            return result

        def read(sampler: StreamSampler, epoch: int, readers: Any) -> Any:
            for row in rows(sampler, epoch, readers):
                self.pass_through("row of a stream")
                yield row

        rows, StreamSampler._rows = StreamSampler._rows, read  # type: ignore[method-assign]
        SynCoTrainer.__init__, SynCoTrainer.training_step = created, stepped  # type: ignore[method-assign]
        trainers.pretraining_model.update_target = updated  # type: ignore[assignment]
        trainers.runs.checkpoints._sha256 = hashed
        torch.save, Path.rename = saved, renamed  # type: ignore[assignment,method-assign]


def break_stream(shard: int, row: int) -> None:
    """Let every connection to a shard but the first break before a row."""
    cells, opened = StreamSource.cells, []

    def breaking(source: StreamSource, number: int) -> Any:
        opened.append(number)
        for position, cell in enumerate(cells(source, number)):
            if number == shard and position == row and opened.count(shard) > 1:
                raise ConnectionResetError("connection reset by peer")
            yield cell

    StreamSource.cells = breaking  # type: ignore[method-assign]


def child(argv: list[str], death: list[Any] | None, environment: dict[str, str], log: str) -> None:
    """What a forked process does; never returns."""
    code = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.environ.update(environment)
        moments = Moments(death)
        plain_save = torch.save
        moments.watch()
        main(argv)
        assert moments.trainer is not None
        trainer = moments.trainer
        plain_save(
            {"model": trainer.unwrapped_model.state_dict(), "moments": moments.seen},
            Path(str(trainer.args.output_dir)) / f"state-{trainer.args.process_index}.pt",
        )
        code = 0
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def attempt(
    argv: list[str], death: list[Any] | None, processes: int, log: str, breaks: list[int] | None = None
) -> list[int]:
    """Exit codes (negative: the signal) of one attempt; when one process dies, the others are killed.

    After a stream broke off they are waited for: all are to stop of themselves.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = {}
    for rank in range(processes):
        environment = {} if processes == 1 else {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        process = os.fork()
        if process == 0:
            if breaks is not None and breaks[0] == rank:
                break_stream(*breaks[1:])
            # The first process dies; the others notice only that it is gone.
            child(argv, death if rank == 0 else None, environment, log)
        started[process] = rank
    codes = [0] * processes
    while started:
        process, status = os.wait()
        if process not in started:
            continue
        codes[started.pop(process)] = os.waitstatus_to_exitcode(status)
        if os.waitstatus_to_exitcode(status) != 0 and breaks is None:
            for other in started:
                os.kill(other, signal.SIGKILL)
    return codes


if __name__ == "__main__":
    outcome = []
    for run in json.loads(Path(sys.argv[1]).read_text()):
        codes = []
        last = [] if run.get("left_dead") else [None]
        for number, death in enumerate([*run.get("deaths", []), *last]):
            argv = [*run["argv"], *(["--resume"] if number else [])]
            codes.append(attempt(argv, death, run.get("processes", 1), run["log"], run.get("breaks")))
        outcome.append(codes)
    print(json.dumps(outcome))
