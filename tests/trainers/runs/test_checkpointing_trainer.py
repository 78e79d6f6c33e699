import resource
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import TrainingArguments

from trainers.runs.checkpointing_trainer import CheckpointingTrainer, seed_process
from trainers.runs.checkpoints import MANIFEST_FILE, UNFINISHED, find_damage, read_manifest


class Regression(nn.Module):
    """The smallest thing that a Trainer trains; wide enough to fill a disk."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4000)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.linear(x).square().mean() + torch.rand(()) * self.linear.bias.sum()}


def trainer_for(directory, **values: object) -> CheckpointingTrainer:
    torch.manual_seed(0)
    data = [{"x": torch.randn(4)} for _ in range(8)]
    args = TrainingArguments(
        output_dir=str(directory), use_cpu=True, report_to="none", disable_tqdm=True, remove_unused_columns=False,
        per_device_train_batch_size=2, save_strategy="steps", save_total_limit=2,
        **{"max_steps": 6, "save_steps": 2, **values},
    )  # fmt: skip
    return CheckpointingTrainer(model=Regression(), args=args, train_dataset=data)


def test_checkpoints_are_whole_rotated_and_nothing_unfinished_stays(tmp_path):
    trainer_for(tmp_path).train()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-4", "checkpoint-6"]
    assert find_damage(tmp_path / "checkpoint-6") is None
    facts = read_manifest(tmp_path / "checkpoint-6")
    assert (facts["step"], facts["world_size"], facts["global_batch_size"]) == (6, 1, 2)
    assert "optimizer.pt" in facts["files"]
    assert "rng_state.pth" in facts["files"]
    assert facts["versions"]["torch"] == torch.__version__.split("+")[0]


def test_the_newest_whole_one_is_found_and_continued_to_the_same_bits(tmp_path):
    trainer_for(tmp_path).train()
    whole = load_file(tmp_path / "checkpoint-6" / "model.safetensors")
    (tmp_path / "checkpoint-6" / "optimizer.pt").write_bytes(b"half")
    (tmp_path / UNFINISHED / "checkpoint-8").mkdir(parents=True)
    trainer = trainer_for(tmp_path)
    assert trainer.find_latest_checkpoint() == str(tmp_path / "checkpoint-4")
    assert not (tmp_path / UNFINISHED).exists()
    trainer.train(resume_from_checkpoint=trainer.find_latest_checkpoint())
    again = load_file(tmp_path / "checkpoint-6" / "model.safetensors")
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert find_damage(tmp_path / "checkpoint-6") is None


def test_nothing_to_resume_is_none(tmp_path):
    assert trainer_for(tmp_path / "empty").find_latest_checkpoint() is None


def test_a_full_disk_keeps_the_earlier_checkpoint_and_says_so(tmp_path):
    trainer_for(tmp_path, max_steps=2).train()
    trainer = trainer_for(tmp_path, max_steps=4)
    checkpoint = trainer.find_latest_checkpoint()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        with pytest.raises(
            OSError, match=r"checkpoint-4 could not be written .*GB are free.*checkpoint-2\. Make room"
        ):
            trainer.train(resume_from_checkpoint=checkpoint)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2"]
    assert find_damage(tmp_path / "checkpoint-2") is None


def test_an_unknown_process_draws_what_no_other_drew(tmp_path):
    trainer = trainer_for(tmp_path)
    trainer.train()
    checkpoint = tmp_path / "checkpoint-6"
    trainer._load_rng_state(str(checkpoint))
    known = torch.rand(3)
    (checkpoint / "rng_state.pth").unlink()
    trainer._load_rng_state(str(checkpoint))
    assert not torch.equal(known, torch.rand(3))
    draws = set()
    for rank, step in [(0, 0), (1, 0), (0, 6), (1, 6)]:
        seed_process(3, rank, step)
        draws.add(float(torch.rand(())))
    assert len(draws) == 4


def test_a_folder_without_a_manifest_is_never_continued(tmp_path):
    trainer_for(tmp_path, max_steps=2).train()
    (tmp_path / "checkpoint-2" / MANIFEST_FILE).unlink()
    shutil.copytree(tmp_path / "checkpoint-2", tmp_path / "checkpoint-9")
    assert trainer_for(tmp_path).find_latest_checkpoint() is None
