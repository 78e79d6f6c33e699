"""The loopback Hub itself: what it must refuse, so that tests against it mean something."""

import hashlib
import json
import threading

import httpx
import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from loopback_hub.card_rules import evaluation_errors, readme_errors
from loopback_hub.faults import Kind
from loopback_hub.server import TOKEN

REPO = "tester/anything"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


def commit(hub, *lines: dict):
    body = "\n".join(map(json.dumps, ({"key": "header", "value": {"summary": "a"}}, *lines)))
    return httpx.post(f"{hub.url}/api/models/{REPO}/commit/main", content=body, headers=HEADERS)


def test_a_pointer_to_a_large_file_that_never_arrived_is_refused(hub, hub_api):
    hub_api.create_repo(REPO)
    oid = hashlib.sha256(b"abc").hexdigest()
    pointer = {"key": "lfsFile", "value": {"path": "a.safetensors", "algo": "sha256", "oid": oid, "size": 3}}
    assert commit(hub, pointer).status_code == 400
    assert httpx.put(f"{hub.url}/lfs/{oid}", content=b"abd").status_code == 400
    assert httpx.put(f"{hub.url}/lfs/{oid}", content=b"abc").status_code == 200
    assert commit(hub, pointer).status_code == 200
    assert hub.files(REPO)["a.safetensors"] == b"abc"


def test_a_commit_is_whole_or_nothing_and_old_revisions_stay(hub, hub_api):
    hub_api.create_repo(REPO)
    good = CommitOperationAdd("a.txt", b"one")
    first = hub_api.create_commit(REPO, [good], commit_message="one").oid
    bad = CommitOperationAdd(".eval_results/a.yaml", b"no: list")
    with pytest.raises(Exception, match="must be a list of results"):
        hub_api.create_commit(REPO, [CommitOperationAdd("a.txt", b"two"), bad], commit_message="two")
    assert hub.files(REPO)["a.txt"] == b"one"
    hub_api.create_commit(REPO, [CommitOperationAdd("a.txt", b"three")], commit_message="three", parent_commit=first)
    with pytest.raises(Exception, match=r"412|has happened since"):
        hub_api.create_commit(REPO, [CommitOperationAdd("a.txt", b"4")], commit_message="4", parent_commit=first)
    answers = [httpx.get(f"{hub.url}/{REPO}/resolve/{name}/a.txt") for name in (first, "main")]
    assert [answer.content for answer in answers] == [b"one", b"three"]


def test_private_repositories_are_invisible_and_nobody_writes_without_the_token(hub, hub_api):
    hub_api.create_repo(REPO, private=True)
    for route in (f"/api/models/{REPO}", f"/{REPO}/resolve/main/.gitattributes", f"/api/models/{REPO}/tree/main"):
        answer = httpx.get(hub.url + route)
        assert (answer.status_code, answer.headers["X-Error-Code"]) == (401, "RepoNotFound")
        assert httpx.get(hub.url + route, headers=HEADERS).status_code == 200
    with pytest.raises(OSError, match="401"):
        HfApi(endpoint=hub.url, token=False).create_repo("tester/other")


def test_faults_happen_as_often_as_planned_to_what_they_match(hub, hub_api):
    hub_api.create_repo(REPO)
    hub_api.upload_file(repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"abcdef")
    address = f"{hub.url}/{REPO}/resolve/main/a.txt"
    hub.plan(Kind.error_500, "GET .*a.txt")
    hub.plan(Kind.corrupt, "GET .*a.txt")
    assert httpx.get(address).status_code == 500
    corrupt = httpx.get(address).content
    assert len(corrupt) == 6
    assert corrupt != b"abcdef"
    for kind in (Kind.truncate, Kind.drop_request, Kind.drop_answer):
        hub.plan(kind, "GET .*a.txt")
        with pytest.raises(httpx.TransportError):
            httpx.get(address)
    assert httpx.get(address).content == b"abcdef"


def test_a_stalled_answer_comes_when_it_is_released_and_others_do_not_wait(hub, hub_api):
    hub_api.create_repo(REPO)
    hub_api.upload_file(repo_id=REPO, path_in_repo="a.txt", path_or_fileobj=b"abcdef")
    address = f"{hub.url}/{REPO}/resolve/main/a.txt"
    fault = hub.plan(Kind.stall, "GET .*a.txt", times=2)
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(address, timeout=0.2)
    assert httpx.get(f"{hub.url}/api/models/{REPO}", headers=HEADERS).status_code == 200
    threading.Timer(0.2, fault.released.set).start()
    assert httpx.get(address).content == b"abcdef"


def test_rules_of_cards():
    assert readme_errors("---\nlicense: mit\ntags: [a]\n---\n# A\n", "model") == []
    assert readme_errors("---\ntitle: A\nsdk: gradio\n---\n", "space") == []
    assert readme_errors("---\ntitle: A\ncolorTo: brown\n---\n", "space") != []
    for bad in ("tags: a", "license_link: here", "pipeline_tag: magic", "datasets: [a/b/c]", "- a", "model-index: []"):
        assert len(readme_errors(f"---\n{bad}\n---\n", "model")) == 1, bad
    good = "- dataset: {id: a/b, task_id: c}\n  value: 1.5\n"
    assert evaluation_errors(good) == []
    for bad in ("[", "{}", good.replace("a/b", "a"), good.replace("1.5", "much"), good + "  extra: 1\n"):
        assert evaluation_errors(bad), bad
