import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from synco_hub.hub.publication.publish import UploadPlan, publish
from synco_hub.hub.publication.space import list_third_party_requirements, stage_space

ROOT = Path(__file__).resolve().parents[4]


def test_requirements_are_third_party_only_and_have_what_the_page_needs():
    names = {re.split(r"[<>=\[ ]", line)[0] for line in list_third_party_requirements()}
    assert {"torch", "transformers", "timm", "gradio", "huggingface-hub"} <= names
    assert not any(name.startswith(("synco", "pytest", "torchattacks")) for name in names)


def test_the_staged_folder_has_everything_at_its_place(tmp_path):
    plan = stage_space(tmp_path / "space")
    assert {"app.py", "README.md", "requirements.txt", "space_app/app.py", "synco_hub/zoo.py"} <= set(plan.files)
    assert {"model_cards/card_template.md", "synco_hub/checkpoints/moby-vit-nano/model.safetensors"} <= set(plan.files)
    assert not any("__pycache__" in path or path.startswith(("trainers", "tests", ".")) for path in plan.files)
    header = (tmp_path / "space" / "README.md").read_text()
    assert "sdk: gradio" in header
    assert "app_file: app.py" in header
    for path in plan.files:
        if path.startswith(("space_app/", "synco_hub/")):
            assert (tmp_path / "space" / path).read_bytes() == (ROOT / path).read_bytes()
    with pytest.raises(ValueError, match="is not an empty folder"):
        stage_space(tmp_path / "space")


def test_it_arrives_as_a_space_with_a_valid_header_and_old_modules_go(tmp_path, hub, hub_api):
    hub_api.create_repo("tester/page", repo_type="space", space_sdk="gradio")
    hub_api.upload_file(
        repo_id="tester/page", repo_type="space", path_in_repo="synco_hub/old.py", path_or_fileobj=b"old"
    )
    plan = stage_space(tmp_path / "space")
    published = publish(plan, "tester/page", api=hub_api, kind="space")
    assert published.removed == ("synco_hub/old.py",)
    remote = hub.files("tester/page", "space")
    assert remote.keys() == plan.files.keys() | {".gitattributes"}
    assert hub.files("tester/page") is None


def test_a_new_space_gets_two_arenas_of_memory_and_a_model_nothing(tmp_path, hub, hub_api, monkeypatch):
    created, create = [], hub_api.create_repo
    monkeypatch.setattr(hub_api, "create_repo", lambda *name, **given: created.append(given) or create(*name, **given))
    plan = stage_space(tmp_path / "space")
    publish(plan, "tester/page", api=hub_api, kind="space")
    assert created[0]["space_sdk"] == "gradio"
    assert created[0]["space_variables"] == [{"key": "MALLOC_ARENA_MAX", "value": "2"}]
    publish(UploadPlan({"notes.txt": plan.files["app.py"]}, ()), "tester/model", api=hub_api)
    assert not any(name.startswith("space") for name in created[1])


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_it_starts_in_a_clean_environment_and_answers(tmp_path):
    """Minutes: a fresh environment with the versions of constraints.txt, nothing of this checkout on its path."""
    gradio_client = pytest.importorskip("gradio_client")
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert uv, "uv is needed: `make install` puts it into the environment"
    stage_space(tmp_path / "space")
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(tmp_path / "venv")], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", str(python), "-r", "requirements.txt"]
    subprocess.run([*install, "--constraint", str(ROOT / "constraints.txt")], check=True, cwd=tmp_path / "space")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "GRADIO_SERVER_PORT": str(port),
        "HF_HUB_OFFLINE": "1",
        "OMP_WAIT_POLICY": "passive",
    }
    Image.effect_noise((300, 200), 80).convert("RGB").save(tmp_path / "noise.png")
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [str(python), "app.py"], cwd=tmp_path / "space", env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        client = _client(gradio_client.Client, f"http://127.0.0.1:{port}/", server, tmp_path / "log")
        picture = gradio_client.handle_file(str(tmp_path / "noise.png"))
        said = client.predict(picture, picture, ["moby-vit-nano"], api_name="/compare")
        assert "cosine similarity 1.000" in said
    finally:
        server.terminate()
        server.wait(timeout=60)


def _client(kind, address: str, server: subprocess.Popen, log: Path):
    """Wait until the page answers; fail with its log when it has died."""
    for _ in range(240):
        assert server.poll() is None, log.read_text()
        try:
            return kind(address, verbose=False)
        except Exception:
            time.sleep(1)
    pytest.fail(f"the page did not answer in four minutes: {log.read_text()}")
