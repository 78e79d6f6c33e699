import pytest
import torch

from synco_hub.data import EvaluationDataset, EvaluationTransform, ImageFolderDataset
from synco_hub.evaluation.shifts.accuracy_cell import AccuracyCell, measure_cell
from synco_hub.features import ExtractionSettings

QUIET = ExtractionSettings(batch_size=3, progress=False, max_bad_fraction=0.5)


def test_counts_among_all_and_among_the_sets_own_classes(tmp_path, planted):
    # Labels 0, 1, 2 of the set are the classes 10, 500, 900 of the classifier.
    columns = torch.tensor([10, 500, 900])
    guesses = [(0, 10, 0), (0, 11, -1), (1, 500, 0), (1, 900, 0), (2, 300, 0), (2, 901, 5)]
    for index, (_, guess, offset) in enumerate(guesses):
        planted.write(tmp_path / f"{index}.png", guess, max(offset, 0))
    (tmp_path / "6.png").write_bytes(b"broken")
    labels = [*(label for label, _, _ in guesses), 1]
    images = ImageFolderDataset(tmp_path, [f"{index}.png" for index in range(7)], labels, ["a", "b", "c"], "test", "")
    dataset = EvaluationDataset(images, EvaluationTransform(32))
    cell = measure_cell(planted.classifier, dataset, columns, QUIET, "cell", with_subset=True)
    # Without a vote for any of the three the logits tie at 0, and the lowest label wins: image 1 is right so.
    assert (cell.images, cell.correct, cell.correct_of_subset) == (6, 2, 3)
    assert cell.skipped == ("6.png",)
    assert (cell.top1, cell.top1_of_subset) == (pytest.approx(100 / 3), 50.0)
    assert AccuracyCell.from_dict(cell.to_dict()) == cell
    plain = measure_cell(planted.classifier, dataset, columns, QUIET, "cell")
    assert plain.top1_of_subset is None


def test_nothing_readable_is_an_error(tmp_path, planted):
    (tmp_path / "a.png").write_bytes(b"broken")
    images = ImageFolderDataset(tmp_path, ["a.png"], [0], ["a"], "test", "")
    settings = ExtractionSettings(progress=False, max_bad_fraction=1.0)
    with pytest.raises(ValueError, match="no image could be read"):
        measure_cell(
            planted.classifier, EvaluationDataset(images, EvaluationTransform(32)), torch.tensor([0]), settings, "cell"
        )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"images": None}, "missing"),
        ({"kappa": 2}, "unexpected keyword argument 'kappa'"),
        ({"correct": 4}, r"\(4, 2\) of 3 images cannot be right"),
        ({"correct": -1}, "cannot be right"),
        ({"correct_of_subset": 5}, "cannot be right"),
        ({"images": 0, "correct": 0, "correct_of_subset": 0}, "of 0 images cannot be right"),
        ({"images": "3"}, "not supported"),
        ({"skipped": 5}, "not iterable"),
    ],
)
def test_values_that_no_cell_gave_are_refused(changes, says):
    values = AccuracyCell(images=3, correct=1, correct_of_subset=2).to_dict() | changes
    with pytest.raises(ValueError, match=says):
        AccuracyCell.from_dict({name: value for name, value in values.items() if value is not None})
