import pytest

from synco_hub.models import SynCoConfig
from trainers.pretraining_flags import parse
from trainers.runs.run_directory import IDENTITY


def test_an_unknown_flag_names_the_nearest(tmp_path):
    with pytest.raises(ValueError, match=r"--quee-size is not a flag.*'--queue-size'"):
        parse(["--output-dir", str(tmp_path), "--use-cpu", "--quee-size", "3"])


def test_help_has_an_example_and_the_papers_defaults(capsys):
    with pytest.raises(SystemExit) as exit_info:
        parse(["--help"])
    text = capsys.readouterr().out
    assert exit_info.value.code == 0
    assert text.startswith("usage: synco-hub pretrain --output-dir FOLDER [--flag value ...]\n\nPretrain a vision")
    assert "example: synco-hub pretrain" in text
    assert "--num-hard-negatives" in text
    assert "--num-processes" in text


def test_flags_of_k_nn_without_k_nn_are_refused(tmp_path):
    base = ["--output-dir", str(tmp_path), "--use-cpu"]
    for flags, text in (
        (["--knn-images", "50"], "--knn-images is for --knn-every-epochs"),
        (["--knn-dataset", "cifar10"], "--knn-dataset is for --knn-every-epochs"),
        (["--knn-data-dir", "here"], "--knn-data-dir here: say by --knn-dataset"),
        (["--knn-every-epochs", "1", "--knn-images", "0"], "--knn-images 0: give at least 1"),
        (["--knn-every-epochs", "0"], "--knn-every-epochs 0: give more than 0"),
        (["--images-per-epoch", "9"], "--images-per-epoch is for --streaming"),
    ):
        with pytest.raises(ValueError, match=text):
            parse([*base, *flags])
    run = parse([*base, "--knn-every-epochs", "0.5", "--knn-images", "50", "--knn-dataset", "cifar10"])
    assert (run.training.knn_every_epochs, run.data.knn_images, run.data.knn_dataset) == (0.5, 50, "cifar10")


def test_what_is_recorded_tells_runs_apart_and_says_how_they_were_trained(tmp_path):
    flags = ["--output-dir", str(tmp_path), "--use-cpu", "--backbone", "vit-nano", "--seed", "7"]
    run = parse([*flags, "--gradient-accumulation-steps", "3", "--fidelity", "authors-code"])
    recorded = run.recorded(SynCoConfig(backbone="vit-nano"), {"name": "pictures"})
    assert set(IDENTITY) <= set(recorded)
    assert (recorded["seed"], recorded["data"], recorded["backbone"]["embed_dim"]) == (7, {"name": "pictures"}, 96)
    assert recorded["training"]["global_batch_size"] == 3 * 128
    assert recorded["training"]["fidelity"] == "authors-code"
    # How k-NN is measured on the way does not make it another run.
    measured = parse([*flags, "--knn-every-epochs", "1"]).recorded(SynCoConfig(backbone="vit-nano"), {})
    plain = parse(flags).recorded(SynCoConfig(backbone="vit-nano"), {})
    assert measured == plain
