"""Whether pictures have a property: by hand, and pictures that must not pass."""

import dataclasses

import numpy as np
import pytest

from tff_leak.errors import InputError
from tff_leak.metrics import properties
from tff_leak.metrics.properties import (
    PropertyInputs,
    evaluate_properties,
    template_correlation,
)

RNG = np.random.default_rng(0)


def _bars(count, upright):
    """Bars of random shade and place: standing or lying ones."""
    images = np.full((count, 12, 12, 1), -1.0)
    for image in images:
        place, shade = RNG.integers(3, 8), RNG.uniform(0.2, 1.0)
        image[2:10, place : place + 2] = shade
    return images if upright else images.transpose(0, 2, 1, 3)


@dataclasses.dataclass(frozen=True)
class _SureOf:
    """Stands in for a judge: names class 4 for everything with foreground."""

    def features(self, images):
        return images.reshape(len(images), -1)

    def all_probabilities(self, features):
        named = np.zeros((len(features), 6))
        drawn = features.max(axis=1) > 0
        named[drawn, 4], named[~drawn, 5] = 1.0, 1.0
        return named


def _inputs(**sets):
    given = {
        properties.VICTIM: _bars(20, upright=False),
        properties.OTHER: _bars(20, upright=True),
        properties.REFERENCE: _bars(20, upright=False),
        properties.CONTROL: _bars(20, upright=True),
        **sets,
    }
    return PropertyInputs(
        target=4,
        sets=given,
        private=_bars(30, upright=False),
        others=_bars(30, upright=True),
        template_with=_bars(100, upright=False).mean(axis=0),
        template_without=_bars(100, upright=True).mean(axis=0),
    )


def test_correlation_by_hand():
    template = np.array([[1.0, -1.0], [0.0, 0.0]])[..., np.newaxis]
    same = 0.2 * template + 0.5
    half = np.array([[1.0, 0.0], [-1.0, 0.0]])[..., np.newaxis]
    blank = np.zeros_like(template)
    found = template_correlation(np.stack([same, -template, half, blank]), template)
    np.testing.assert_allclose(found, [1.0, -1.0, 0.5, 0.0], atol=1e-12)


def test_nearer_share_by_hand():
    template = np.array([[1.0, -1.0], [0.0, 0.0]])[..., np.newaxis]
    other = template.transpose(1, 0, 2)
    images = np.stack([template, other, 0.5 * template, np.zeros_like(template)])
    assert properties.nearer_share(images, template, other) == 0.5
    # A blank is as near to one as to the other: not nearer.
    assert properties.nearer_share(images, other, template) == 0.25


def test_a_perfect_attack():
    scores = evaluate_properties([_inputs()], _SureOf(), foreground=True)
    [one], pooled = scores["targets"], scores["pooled"]
    assert one["succeeded"] is True
    assert pooled["succeeded"] == 1.0
    victim, other = one["sets"][properties.VICTIM], one["sets"][properties.OTHER]
    assert victim["nearer_share"] == 1.0
    assert other["nearer_share"] == 0.0
    assert victim["judge_share"] == 1.0
    # As good as real pictures.
    assert abs(one["recovered"] - 1.0) < 0.2
    assert victim["margin"] > 0.2 > -0.2 > other["margin"]
    assert abs(victim["diversity_ratio"] - 1.0) < 0.2


def test_an_attack_that_draws_the_class_alone_fails():
    upright = _bars(20, upright=True)
    scores = evaluate_properties([_inputs(victim=upright)], _SureOf(), foreground=True)
    assert scores["pooled"]["succeeded"] == 0.0
    # Less than a blank shows: they are others' kind.
    assert scores["pooled"]["recovered"] < -0.2


def test_one_that_turns_everything_fails():
    turned = _bars(20, upright=False)
    scores = evaluate_properties([_inputs(other=turned)], _SureOf(), foreground=True)
    assert scores["pooled"]["succeeded"] == 0.0


def test_blanks_fail():
    blank = np.full((5, 12, 12, 1), -1.0)
    scores = evaluate_properties([_inputs(victim=blank)], _SureOf(), foreground=True)
    [one] = scores["targets"]
    assert one["succeeded"] is False
    assert one["sets"][properties.VICTIM]["judge_share"] == 0
    assert one["sets"][properties.VICTIM]["diversity_ratio"] == 0


@pytest.mark.parametrize(
    "control, expected",
    [
        (-0.3, 0.25),  # .1 / .4; by the control alone .4 / .7
        (0.05, 1 / 7),  # .05 / .35
        (0.2, -0.5),  # -.1 / .2
        (0.38, None),  # no more than .02 between floor and reference
    ],
)
def test_recovered_by_hand(control, expected):
    margins = {"victim": 0.1, "control": control, "reference": 0.4}
    sets = {name: {"margin": margin} for name, margin in margins.items()}
    found = properties._recovered(sets, [properties._floor(sets)])
    assert found == (expected if expected is None else pytest.approx(expected))


def test_what_others_are_drawn_as_is_not_recovered():
    margins = {"victim": 0.1, "control": -0.2, "other": 0.05, "reference": 0.4}
    sets = {name: {"margin": margin} for name, margin in margins.items()}
    assert properties._floor(sets) == 0.05
    assert properties._recovered(sets, [0.05]) == pytest.approx(1 / 7)


@pytest.mark.parametrize("shade", [-1.0, 0.0, 1.0])
def test_nothing_is_recovered_by_a_blank_however_well_the_control_draws(shade):
    """The control draws others' kind, so that it is far below a blank."""
    blank = np.full((5, 12, 12, 1), shade)
    scores = evaluate_properties([_inputs(victim=blank)], _SureOf(), foreground=True)
    [one], pooled = scores["targets"], scores["pooled"]
    assert one["sets"][properties.CONTROL]["margin"] < -0.2
    assert abs(one["recovered"]) < 0.05
    assert abs(pooled["recovered"]) < 0.05


def _blobs(rng):
    """One collapsed picture: a smooth blot anywhere, with a little noise."""
    y, x = np.mgrid[:12, :12]
    place = rng.uniform(3, 9, size=2)
    width = rng.uniform(1.5, 3, size=2)
    blot = np.exp(
        -(((y - place[0]) / width[0]) ** 2) - ((x - place[1]) / width[1]) ** 2
    )
    images = 2 * blot - 1 + rng.normal(scale=0.05, size=(20, 12, 12))
    return np.clip(images, -1, 1)[..., np.newaxis]


def test_blots_succeed_seldom():
    """Which way a blot leans is a matter of chance: three have to lean rightly."""
    rng = np.random.default_rng(1)
    inputs = []
    for _ in range(40):
        names = (properties.VICTIM, properties.OTHER, properties.CONTROL)
        inputs.append(_inputs(**{name: _blobs(rng) for name in names}))
    pooled = evaluate_properties(inputs, _SureOf(), foreground=True)["pooled"]
    # One in eight if every blot leaned somewhere: more than 12 of 40 once in 800.
    assert pooled["succeeded"] <= 0.3


def test_without_others_pictures_the_control_is_the_opposite():
    """As of an active server, which cannot ask for others' pictures."""
    sets = {k: v for k, v in _inputs().sets.items() if k != properties.OTHER}
    inputs = dataclasses.replace(_inputs(), sets=sets)
    scores = evaluate_properties([inputs], _SureOf(), foreground=True)
    assert scores["pooled"]["succeeded"] == 1.0
    sets[properties.CONTROL] = _bars(20, upright=False)
    inputs = dataclasses.replace(_inputs(), sets=sets)
    scores = evaluate_properties([inputs], _SureOf(), foreground=True)
    assert scores["pooled"]["succeeded"] == 0.0


def test_pooled_is_the_mean_over_classes():
    good, bad = _inputs(), _inputs(victim=_bars(5, upright=True))
    scores = evaluate_properties([good, bad], _SureOf(), foreground=True)
    pooled = scores["pooled"]
    assert pooled["targets"] == [4, 4]
    assert pooled["succeeded"] == 0.5
    margins = [one["sets"][properties.VICTIM]["margin"] for one in scores["targets"]]
    np.testing.assert_allclose(
        pooled["sets"][properties.VICTIM]["margin"], np.mean(margins)
    )
    assert pooled["sets"][properties.VICTIM]["samples"] == 25


def test_one_classes_good_control_does_not_hide_anothers():
    shown, plain = _inputs(control=_bars(20, upright=False)), _inputs()
    scores = evaluate_properties([shown, plain], _SureOf(), foreground=True)
    margins = {
        name: [one["sets"][name]["margin"] for one in scores["targets"]]
        for name in (properties.VICTIM, properties.CONTROL, properties.REFERENCE)
    }
    first, second = margins[properties.CONTROL]
    assert first > 0.1 and second < -0.1
    victim, reference = (
        np.mean(margins[name]) for name in (properties.VICTIM, properties.REFERENCE)
    )
    floor = first / 2
    expected = (victim - floor) / (reference - floor)
    assert scores["pooled"]["recovered"] == pytest.approx(expected)


@pytest.mark.parametrize("first", [True, False])
def test_a_set_of_one_class_alone_is_not_pooled(first):
    found = _inputs(representatives=_bars(5, upright=True))
    inputs = [found, _inputs()] if first else [_inputs(), found]
    scores = evaluate_properties(inputs, _SureOf(), foreground=True)
    assert "representatives" not in scores["pooled"]["sets"]
    with_it = scores["targets"][0 if first else 1]
    assert "representatives" in with_it["sets"]


def test_without_a_control_nothing_is_said_to_be_recovered():
    inputs = _inputs()
    sets = {k: v for k, v in inputs.sets.items() if k != properties.CONTROL}
    inputs = dataclasses.replace(inputs, sets=sets)
    scores = evaluate_properties([inputs], _SureOf(), foreground=True)
    assert scores["pooled"]["recovered"] is None


def test_bad_input():
    with pytest.raises(InputError, match="no class to score: expected at least one"):
        evaluate_properties([], _SureOf(), foreground=True)
    inputs = dataclasses.replace(_inputs(), sets={properties.VICTIM: _bars(2, True)})
    with pytest.raises(InputError, match="class 4 lacks the pictures reference: "):
        evaluate_properties([inputs], _SureOf(), foreground=True)
