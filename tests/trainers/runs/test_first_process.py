import pytest

from trainers.runs import first_process
from trainers.runs.first_process import by_the_first


def fails() -> None:
    raise ValueError("no such folder")


def test_one_process_does_it_and_says_why_it_failed():
    assert by_the_first(lambda: 3, 0, 1) == 3
    with pytest.raises(ValueError, match="no such folder"):
        by_the_first(fails, 0, 1)


@pytest.mark.parametrize("failing", [False, True])
def test_the_others_hear_whether_it_succeeded_and_end_without_a_word(failing, monkeypatch, capsys):
    sent = []
    monkeypatch.setattr(first_process, "broadcast_object_list", lambda values: sent.append(list(values)))
    if failing:
        with pytest.raises(ValueError, match="no such folder"):
            by_the_first(fails, 0, 3)
    else:
        assert by_the_first(lambda: 7, 0, 3) == 7
    assert sent == [[failing]]

    def receive(values: list[bool]) -> None:
        values[:] = sent[0]

    monkeypatch.setattr(first_process, "broadcast_object_list", receive)
    if failing:
        with pytest.raises(SystemExit) as ended:
            by_the_first(lambda: 7, 2, 3)
        assert ended.value.code == 1
    else:
        assert by_the_first(fails, 2, 3) is None
    assert capsys.readouterr() == ("", "")
