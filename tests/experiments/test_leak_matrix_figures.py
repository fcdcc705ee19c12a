"""A run's leakage on the scale of the run without a defence, by hand."""

import pytest

from experiments import leak_matrix_figures as figures


def pooled(attack, floor, reference=0.83, recovered=None):
    return {
        "recovered": recovered,
        "attack": {"ssim": attack, "judge_share": 0.9},
        "floor": {"value": floor},
        "reference": {"ssim": reference},
        "reached_all": True,
    }


def client_gan(attack, floor, **changes):
    return {
        "experiment": "client_gan",
        "task_accuracy": {"attack": 0.8, "control": 0.7},
        "epsilon": None,
        "seconds": 60.0,
        "visible_window": [28, 28],
        "pooled": pooled(attack, floor, recovered=0.5),
    } | changes


def key_protected(guess_has_no_target):
    largest = {
        "attack": {"recovered": 0.3, "judge_share_largest": 0.4},
        "control": {"recovered": 0.1, "judge_share_largest": 0.2},
    }
    attack = {
        "task_accuracy": 0.95,
        "task_accuracy_with_fakes": 0.85,
        "pooled": pooled(0.6, 0.4, recovered=0.47),
        "largest": largest if guess_has_no_target else None,
    }
    return {
        "experiment": "key_protected",
        "seconds": None,
        "visible_window": [28, 28],
        "attacks": [attack],
    }


def test_a_defended_run_is_measured_by_the_undefended_floor_and_reference():
    undefended = figures.read(client_gan(0.76, 0.51))
    defended = figures.read(client_gan(0.60, 0.40))
    assert figures.leakage(undefended, undefended) == pytest.approx(0.25 / 0.32)
    assert figures.leakage(defended, undefended) == pytest.approx(0.09 / 0.32)
    assert figures.leakage(defended, None) is None


def test_the_last_half_of_the_rounds_has_the_scale_of_the_undefended_runs_end():
    undefended = figures.read(client_gan(0.76, 0.51))
    of_run = pooled(0.40, 0.20) | {"late_ssim": {"attack": 0.67, "control": 0.3}}
    defended = figures.read(client_gan(0.40, 0.20, pooled=of_run))
    assert figures.leakage(defended, undefended) == pytest.approx(-0.11 / 0.32)
    assert figures.late_leakage(defended, undefended) == pytest.approx(0.16 / 0.32)
    assert figures.late_leakage(defended, None) is None
    # Of before it was measured.
    assert figures.late_leakage(undefended, undefended) is None
    other = client_gan(0.4, 0.2, pooled=of_run, visible_window=[24, 24])
    assert figures.late_leakage(figures.read(other), undefended) is None


def test_where_the_reference_is_near_the_floor_nothing_is_defined():
    undefended = figures.read(client_gan(0.76, 0.79))
    assert figures.leakage(undefended, undefended) is None


def test_an_adversary_that_made_no_step_is_no_defence():
    undefended = figures.read(client_gan(0.76, 0.51))
    begun, never = (
        figures.read(client_gan(0.6, 0.4, generator_steps={"attack": steps}))
        for steps in (2.0, 0.0)
    )
    assert figures.leakage(begun, undefended) is not None
    assert figures.leakage(never, undefended) is None
    assert never.reached is None


def test_other_pixels_do_not_compare():
    undefended = figures.read(client_gan(0.76, 0.51))
    other = figures.read(client_gan(0.60, 0.40, visible_window=[24, 24]))
    assert figures.leakage(other, undefended) is None


def test_a_known_key_has_the_undefended_scale_and_a_guessed_one_its_own():
    undefended = figures.read(client_gan(0.76, 0.51))
    known = figures.read(key_protected(guess_has_no_target=False))
    assert figures.leakage(known, undefended) == pytest.approx(0.09 / 0.32)
    assert known.control is None and known.judge_share == 0.9
    guessed = figures.read(key_protected(guess_has_no_target=True))
    # Its control is the floor: .1 of what there is needs no victim.
    assert figures.leakage(guessed, undefended) == pytest.approx(0.2 / 0.9)
    assert guessed.control == 0.1 and guessed.judge_share == 0.4
    assert guessed.reached is True
    # With adversaries' keys for fakes among the answers, where that was measured.
    assert guessed.task_accuracy == 0.85
    older = key_protected(guess_has_no_target=True)
    del older["attacks"][0]["task_accuracy_with_fakes"]
    assert figures.read(older).task_accuracy == 0.95


def test_a_headline_without_pictures_stands_by_itself():
    headline = {
        "measure": "advantage",
        "value": 0.2,
        "task_accuracy": 0.7,
        "epsilon": 3.5,
        "seconds": 9.0,
    }
    summary = {
        "experiment": "update_attacks",
        "headline": headline,
        "epsilon": "infinity",
        "membership": {"held_out": {"advantage": 0.06}},
    }
    run = figures.read(summary)
    assert (run.leakage, run.epsilon, run.scale) == (0.2, "infinity", None)
    assert figures.leakage(run, None) == 0.2
    assert run.control == 0.06


@pytest.mark.parametrize(
    "shown, control, expected",
    [(0.3, -0.2, 0.3), (0.3, 0.4, -1 / 6), (0.3, None, None), (None, 0.1, None)],
)
def test_a_control_is_a_floor(shown, control, expected):
    found = figures._above(shown, control)
    assert found == (expected if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("succeeded, leaks", [(0.0, 0.0), (0.5, 0.33), (1.0, 0.33)])
def test_a_servers_gan_that_succeeded_for_no_class_leaks_nothing(succeeded, leaks):
    """Margins alone can say otherwise: a blot may lean to the victim's kind."""
    pooled = {"recovered": 0.33, "succeeded": succeeded}
    summary = {
        "experiment": "server_gan",
        "pooled": pooled | {"sets": {"victim": {"judge_share": 0.1}}},
        "task_accuracy": {"attack": 0.6},
        "seconds": 5.0,
    }
    run = figures.read(summary)
    assert (run.leakage, run.reached) == (leaks, succeeded == 1.0)
    # One that a budget ended before the attack began says nothing.
    assert figures.read(summary | {"rounds_attacked": 0}).leakage is None
    assert figures.read(summary | {"rounds_attacked": 1}).leakage == leaks


def test_an_attack_on_updates_wants_the_images_themselves():
    """Of SSIM 1: other real images of the class are part of its floor."""
    headline = {"value": 0.5, "task_accuracy": 0.7, "epsilon": None, "seconds": 9.0}

    def run(attack, floor):
        of_run = pooled(attack, floor)
        del of_run["reached_all"]
        summary = {"headline": headline, "epsilon": None, "pooled": of_run}
        told = {"attack": 0.75, "control": 0.25}
        return figures.read(summary | {"identified": told})

    undefended = run(0.8, 0.6)
    assert figures.leakage(undefended, undefended) == pytest.approx(0.2 / 0.4)
    assert figures.leakage(run(0.7, 0.2), undefended) == pytest.approx(0.1 / 0.4)
    assert undefended.reached is None
    assert (undefended.identified, undefended.identified_control) == (0.75, 0.25)


def test_over_seeds():
    # t of one degree of freedom at .975 is 12.706; the standard error is .1.
    found = figures.over_seeds([0.2, 0.4])
    assert found["mean"] == pytest.approx(0.3)
    assert found["interval"] == pytest.approx([0.3 - 1.2706, 0.3 + 1.2706], abs=1e-4)
    assert found["seeds"] == 2
    assert figures.over_seeds([0.2]) == {"mean": 0.2, "interval": None, "seeds": 1}
    undefined = {"mean": None, "interval": None, "seeds": 2}
    assert figures.over_seeds([0.2, None]) == undefined
    assert figures.over_seeds([]) == {"mean": None, "interval": None, "seeds": 0}
