"""Between two logging steps the host never waits for the device."""

from collections import Counter

import pytest
import torch
from PIL import Image

from synco_hub.data import TwoViewDataset, load_dataset
from synco_hub.data.views.transform import make_two_view_transform
from synco_hub.models import SynCoConfig, image_processor
from trainers.pretraining_arguments import SynCoTrainingArguments
from trainers.pretraining_model import SynCoForPreTraining
from trainers.pretraining_trainer import SynCoTrainer

# Each of them copies a number or a tensor to the host, and so waits for all that the device was given.
WAITING = ("item", "cpu", "numpy", "tolist", "__bool__", "__float__", "__int__", "__index__", "nonzero")
SMALL = {"queue_size": 32, "num_hard_negatives": 8, "projection_hidden_dim": 24, "projection_dim": 16}


@pytest.mark.parametrize(
    ("method", "place"), [("synco-v2", "device"), ("synco-v2", "worker"), ("moby", "worker"), ("byol", "worker")]
)
def test_only_logging_steps_wait_for_the_device(tmp_path, monkeypatch, as_on_an_accelerator, method, place):
    for index in range(24):
        path = tmp_path / "images" / "train" / f"class{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (36, 36), (index * 10, 80, 0)).save(path)
    settings = {**SMALL, "method": method}
    model = SynCoForPreTraining(SynCoConfig(backbone="vit-nano", depth=1, pretraining=settings))
    args = SynCoTrainingArguments(
        output_dir=str(tmp_path / "run"), use_cpu=True, max_steps=6, per_device_train_batch_size=4, logging_steps=3,
        gradient_accumulation_steps=2, dataloader_num_workers=0, save_strategy="no", disable_tqdm=True,
        synthetic_warmup_epochs=0, synthetic_cooldown_epochs=0,
    )  # fmt: skip
    views = TwoViewDataset(load_dataset(str(tmp_path / "images"), "train"), make_two_view_transform(place, 32), seed=0)
    trainer = SynCoTrainer(model, args, views, processing_class=image_processor(32))
    waits: Counter[tuple[int, str]] = Counter()
    reading: list[bool] = []

    def counted(name: str, original):  # type: ignore[no-untyped-def]
        def method(tensor, *arguments, **keywords):  # type: ignore[no-untyped-def]
            # Images are read on the host, and AdamW on a CPU keeps its step there; neither is on the device.
            if not reading:
                waits[trainer.state.global_step + 1, name] += 1
            return original(tensor, *arguments, **keywords)

        return method

    for name in WAITING:
        monkeypatch.setattr(torch.Tensor, name, counted(name, getattr(torch.Tensor, name)))
    get_batch, step = trainer.get_batch_samples, torch.optim.AdamW.step

    def quietly(call):  # type: ignore[no-untyped-def]
        def wrapped(*arguments, **keywords):  # type: ignore[no-untyped-def]
            reading.append(True)
            try:
                return call(*arguments, **keywords)
            finally:
                reading.pop()

        return wrapped

    monkeypatch.setattr(trainer, "get_batch_samples", quietly(get_batch))
    monkeypatch.setattr(torch.optim.AdamW, "step", quietly(step))
    trainer.train()
    by_step = Counter({number: sum(n for (at, _), n in waits.items() if at == number) for number in range(1, 7)})
    # After step 3 the counter of steps has moved on before the line is written, so what logging waits for counts as 4.
    assert {number: by_step[number] for number in (1, 2, 3, 5, 6)} == dict.fromkeys((1, 2, 3, 5, 6), 0), waits
    assert 0 < by_step[4] < 20
