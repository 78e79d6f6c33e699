import inspect

import pytest

from synco_hub.evaluation.attacks.attack_settings import ATTACKS, AutoAttack, chosen_attacks, with_epsilon


def test_the_numbers_of_the_paper():
    byte = 1 / 255
    assert ATTACKS["fgsm"].epsilon == 8 * byte
    assert (ATTACKS["pgd"].epsilon, ATTACKS["pgd"].step_size, ATTACKS["pgd"].steps) == (8 * byte, 2 * byte, 10)
    assert (ATTACKS["tifgsm"].epsilon, ATTACKS["tifgsm"].step_size, ATTACKS["tifgsm"].steps) == (
        8 * byte,
        2 * byte,
        10,
    )
    wagner = ATTACKS["cw"]
    assert (wagner.constant, wagner.confidence, wagner.steps, wagner.learning_rate) == (1e-4, 0, 50, 0.01)
    assert ATTACKS["square"].queries == 1000
    assert (ATTACKS["one_pixel"].pixels, ATTACKS["one_pixel"].steps) == (1, 10)


@pytest.mark.parametrize("name", list(ATTACKS))
def test_what_the_paper_does_not_say_is_the_librarys_default(name):
    library = pytest.importorskip("torchattacks")
    attack = ATTACKS[name]
    defaults = inspect.signature(getattr(library, attack.library_name).__init__).parameters
    given = attack.library_arguments(num_classes=1000, seed=5)
    names = {"epsilon": "eps", "restarts": "n_restarts", "first_share": "p_init", "target_classes": "n_classes"}
    for key in attack.from_library:
        there = names.get(key, key)
        assert given[there] == defaults[there].default, key
    assert set(given) <= set(defaults)


def test_another_bound_keeps_the_share_of_a_step():
    half = with_epsilon(ATTACKS["pgd"], 4 / 255)
    assert half.step_size == pytest.approx(1 / 255)
    assert with_epsilon(ATTACKS["pgd"], 0).step_size == 0
    assert with_epsilon(ATTACKS["cw"], 0.5) is ATTACKS["cw"]
    with pytest.raises(ValueError, match="epsilon=8"):
        with_epsilon(ATTACKS["fgsm"], 8)


def test_names_are_checked_and_autoattack_needs_four_classes():
    assert list(chosen_attacks("all")) == list(ATTACKS)
    assert list(chosen_attacks("pgd, fgsm,pgd")) == ["pgd", "fgsm"]
    for wrong in ("deepfool", "", "fgsm,deepfool"):
        with pytest.raises(ValueError, match="known are fgsm"):
            chosen_attacks(wrong)
    assert AutoAttack().library_arguments(1000, 0)["n_classes"] == 10
    assert AutoAttack().library_arguments(5, 0)["n_classes"] == 5
    with pytest.raises(ValueError, match="AutoAttack on 3 classes"):
        AutoAttack().library_arguments(3, 0)
