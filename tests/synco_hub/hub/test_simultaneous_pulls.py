"""Two pulls at once, held at the moments at which they would hurt each other, one killed there, and their lock."""

import logging
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from loopback_hub.faults import Kind
from loopback_hub.server import TOKEN
from transformers import AutoModel

from synco_hub.hub import pull as pulling
from synco_hub.hub.pull import exclusive_lock, pull
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.zoo import checkpoint_directory, home_directory, list_models

REPO = "tester/mine"
_HOLDER = """
import sys, time
from synco_hub.hub.pull import exclusive_lock
with exclusive_lock("a"):
    print("holds", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))


class Meeting:
    """Holds the first who comes until a second comes too, or says that it waits for its turn."""

    def __init__(self):
        self.both = threading.Event()
        self._came = 0
        self._lock = threading.Lock()

    def arrive(self) -> bool:
        """True for the first of the two."""
        with self._lock:
            self._came += 1
            first = self._came == 1
        if not first:
            self.both.set()
        assert self.both.wait(60), "the other one never came"
        return first


@pytest.fixture
def meeting():
    """A meeting that also ends when somebody waits for a lock."""
    made = Meeting()
    signal = logging.Handler()
    signal.emit = lambda record: made.both.set()
    logger = logging.getLogger("synco_hub.hub.pull")
    logger.addHandler(signal)
    yield made
    logger.removeHandler(signal)


def upload(api, folder, seed: int) -> tuple[SynCoModel, str]:
    torch.manual_seed(seed)
    model = SynCoModel(SynCoConfig(backbone="vit-nano"))
    model.save_pretrained(folder)
    image_processor(32).save_pretrained(folder)
    api.create_repo(REPO, exist_ok=True)
    return model, api.upload_folder(repo_id=REPO, folder_path=folder).oid


def at_once(*pulls) -> list:
    """Results in the order given; the first error of any is raised."""
    with ThreadPoolExecutor(len(pulls)) as threads:
        running = [threads.submit(one) for one in pulls]
        return [one.result(timeout=120) for one in running]


def installed_is(model) -> bool:
    loaded = AutoModel.from_pretrained(str(checkpoint_directory("mine"))).state_dict()
    return all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())


def nothing_is_left() -> bool:
    hidden = [path.name for path in (home_directory() / "checkpoints").iterdir() if path.name != "mine"]
    return hidden == [] and not list((home_directory() / "pulling").iterdir())


def test_of_one_revision_one_downloads_and_both_succeed(hub, hub_api, tmp_path, meeting, monkeypatch):
    model, commit = upload(hub_api, tmp_path / "run", seed=0)
    first_done = threading.Event()
    verify = pulling._verify

    def held(*args):
        # Between download and installation: whoever is second here finds the folder of the first removed.
        if not meeting.arrive():
            first_done.wait(60)
        verify(*args)

    def pulled():
        result = pull(REPO, api=hub_api)
        first_done.set()
        return result

    monkeypatch.setattr(pulling, "_verify", held)
    one, other = at_once(pulled, pulled)
    assert one == other
    assert one.commit == commit
    assert installed_is(model)
    assert nothing_is_left()
    assert sum(line.startswith("GET /cdn/") for line in hub.requests) == 1


def test_of_two_revisions_both_succeed_and_one_of_them_is_there_whole(hub_api, tmp_path, meeting, monkeypatch):
    old, first = upload(hub_api, tmp_path / "old", seed=0)
    new, second = upload(hub_api, tmp_path / "new", seed=1)
    rename = Path.rename

    def held(path, target):
        # Both have seen a free place and now take it.
        if checkpoint_directory("mine") in (path, Path(target)):
            meeting.arrive()
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", held)
    one, other = at_once(
        lambda: pull(REPO, revision=first, api=hub_api), lambda: pull(REPO, revision=second, api=hub_api)
    )
    assert (one.commit, other.commit) == (first, second)
    row = next(row for row in list_models() if row.name == "mine")
    assert installed_is({first: old, second: new}[row.revision])
    assert nothing_is_left()


def test_the_second_goes_on_where_a_killed_first_was(hub, hub_api, tmp_path, meeting):
    model, commit = upload(hub_api, tmp_path / "run", seed=0)
    fault = hub.plan(Kind.stall, "GET /cdn/")
    surroundings = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "synco_hub.cli", "pull", REPO]
    with subprocess.Popen(command, env=surroundings, stderr=subprocess.DEVNULL) as child:
        while not fault.seen:
            assert child.poll() is None, "the first pull ended before it could be killed"
            threading.Event().wait(0.02)
        with ThreadPoolExecutor(1) as threads:
            second = threads.submit(pull, REPO, api=hub_api)
            assert meeting.both.wait(60), "the second did not wait for the first"
            assert not second.done()
            child.kill()
            assert second.result(timeout=120).commit == commit
    assert installed_is(model)
    assert nothing_is_left()


def test_what_is_installed_is_not_fetched_again_but_what_was_changed_there_is(hub, hub_api, tmp_path):
    model, _ = upload(hub_api, tmp_path / "run", seed=0)
    directory = pull(REPO, api=hub_api).directory
    before = len([line for line in hub.requests if "resolve" in line or "/cdn/" in line])
    assert pull(REPO, api=hub_api).directory == directory
    assert len([line for line in hub.requests if "resolve" in line or "/cdn/" in line]) == before
    weights = bytearray((directory / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (directory / "model.safetensors").write_bytes(weights)
    assert not installed_is(model)
    pull(REPO, api=hub_api)
    assert installed_is(model)


def test_what_stopped_pulls_of_other_revisions_left_is_removed(hub_api, tmp_path):
    upload(hub_api, tmp_path / "run", seed=0)
    folder = home_directory() / "pulling"
    for name in (f"tester--mine@{'0' * 40}", f"tester--mine-too@{'0' * 40}"):
        (folder / name).mkdir(parents=True)
    pull(REPO, api=hub_api)
    assert [path.name for path in folder.iterdir()] == [f"tester--mine-too@{'0' * 40}"]


def test_a_second_thread_waits_for_the_first_and_another_work_does_not(caplog):
    steps, inside, leave = [], threading.Event(), threading.Event()

    def first():
        with exclusive_lock("a"):
            inside.set()
            leave.wait(30)
            steps.append("first ends")

    def second():
        with exclusive_lock("a"):
            steps.append("second begins")

    threads = [threading.Thread(target=work) for work in (first, second)]
    threads[0].start()
    assert inside.wait(30)
    with exclusive_lock("b"):
        steps.append("another")
    with caplog.at_level(logging.WARNING):
        threads[1].start()
        while not caplog.records:
            threads[1].join(0.01)
    assert "another process is at a: waiting" in caplog.text
    leave.set()
    for thread in threads:
        thread.join(30)
    assert steps == ["another", "first ends", "second begins"]


def test_an_error_inside_lets_go():
    with pytest.raises(KeyError), exclusive_lock("a"):
        raise KeyError("inside")
    with exclusive_lock("a"):
        pass


def test_nobody_waits_for_a_process_that_was_killed():
    with subprocess.Popen([sys.executable, "-c", _HOLDER], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "holds\n"
        entered = threading.Event()

        def wait():
            with exclusive_lock("a"):
                entered.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not entered.wait(0.3)
        os.kill(holder.pid, signal.SIGKILL)
        waiting.join(30)
        assert entered.is_set()


def test_a_home_that_cannot_be_written_is_an_error_of_the_system(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "file"))
    with pytest.raises(OSError, match="file"), exclusive_lock("a"):
        pass
