import dataclasses
import json

import numpy as np
import pytest

from tff_leak import errors
from tff_leak.data import sources
from tff_leak.metrics import judge as judge_lib
from tff_leak.metrics import reconstruction
from tff_leak.metrics import similarity as similarity_lib

WINDOW = (28, 28)
TARGETS = (3, 6)


@pytest.fixture(scope="module")
def digits():
    examples = sources.load("digits").train
    return examples.take(np.random.default_rng(0).permutation(len(examples)))


@pytest.fixture(scope="module")
def judge(digits):
    return judge_lib.train_judge(
        digits.take(range(400)),
        num_classes=10,
        image_shape=(32, 32, 1),
        seed=0,
        epochs=25,
    )


@pytest.fixture(scope="module")
def inputs(digits):
    """For each target real images of nobody as attack, and noise as control."""
    victim, attack = digits.take(range(400, 1000)), digits.take(range(1000, 1400))
    noise = np.random.default_rng(1).uniform(-1, 1, (40, 32, 32, 1)).astype(np.float32)
    return {
        target: reconstruction.TargetInputs(
            target=target,
            attack=attack.of_class(target).images,
            control=noise,
            private=victim.of_class(target).images,
            others=np.zeros((0, 32, 32, 1), np.float32),
            heldout=digits.take(range(1400, 1797)),
        )
        for target in TARGETS
    }


@pytest.fixture
def evaluate(judge):
    def run(*targets, window=WINDOW):
        return reconstruction.evaluate_targets(
            targets, judge, foreground=True, window=window, seed=0
        )

    return run


def test_real_images_are_recovered_and_reached(evaluate, inputs):
    found = evaluate(*inputs.values())
    for one, target in zip(found["targets"], TARGETS, strict=True):
        assert one["target"] == target
        assert one["recovered"] == pytest.approx(1, abs=0.3)
        assert one["reached"]["value"] is True
        assert one["control"]["ssim"] < 0.1
    pooled = found["pooled"]
    assert pooled["recovered"] == pytest.approx(1, abs=0.2)
    assert (pooled["reached_all"], pooled["reached_count"]) == (True, 2)
    assert pooled["attack"]["inception_score"] > 1.6  # Two classes, both certain.
    assert pooled["attack"]["fid"] < pooled["control"]["fid"] / 5
    assert pooled["attack"]["kid"] < pooled["control"]["kid"] / 5


def test_floor_is_the_largest_candidate(evaluate, inputs):
    floor = evaluate(inputs[3])["targets"][0]["floor"]
    names = (
        "control",
        "blank",
        "other_class_means",
        "other_class_images",
        "grand_mean",
    )
    assert floor["value"] == max(floor[name] for name in names)
    assert floor[floor["source"]] == floor["value"]
    # A control that draws the digit as well as the attack leaves nothing recovered.
    echo = dataclasses.replace(inputs[3], control=inputs[3].attack)
    found = evaluate(echo)["targets"][0]
    assert found["floor"]["source"] == "control"
    assert found["recovered"] is None or found["recovered"] == pytest.approx(0)


def test_floor_candidates_by_their_definition(evaluate, inputs):
    one = inputs[3]
    floor = evaluate(one)["targets"][0]["floor"]

    def ssim(images):
        return similarity_lib.similarity(
            images, one.private, foreground=True, window=WINDOW
        ).ssim.mean()

    others = [one.heldout.of_class(k).images for k in range(10) if k != 3]
    means = [ssim(images.mean(axis=0, keepdims=True)) for images in others]
    assert floor["other_class_means"] == pytest.approx(np.mean(means))
    assert floor["closest_class_mean"] == pytest.approx(max(means))
    images = [ssim(images) for images in others]  # None has over 50.
    assert floor["other_class_images"] == pytest.approx(np.mean(images), rel=1e-4)
    assert floor["closest_class_images"] == pytest.approx(max(images), rel=1e-4)
    # Each class counts the same: of all images at once it would be another picture.
    grand = np.mean([images.mean(axis=0) for images in others], axis=0)
    assert floor["grand_mean"] == pytest.approx(ssim(grand[np.newaxis]))
    together = np.concatenate(others).mean(axis=0, keepdims=True)
    assert floor["grand_mean"] != pytest.approx(ssim(together), rel=1e-6)
    assert floor["blank"] == pytest.approx(ssim(np.full((1, 32, 32, 1), -1.0)))
    assert floor["control"] == pytest.approx(ssim(one.control))


def test_strict_floor_and_recovered_against_it_by_hand(evaluate, inputs):
    found = evaluate(*inputs.values())
    for one in (*found["targets"], found["pooled"]):
        floor = one["floor"]
        names = ("closest_class_mean", "closest_class_images")
        both = ("control", "blank", "grand_mean")
        strict = max(floor[name] for name in (*names, *both))
        assert floor["strict_value"] == strict == floor[floor["strict_source"]]
        assert strict > floor["value"]
        attack, reference = one["attack"]["ssim"], one["reference"]["ssim"]
        expected = (attack - strict) / (reference - strict)
        assert one["recovered_closest"] == pytest.approx(expected)
        # The wide floor is the divisor of the other figure only.
        wide = (attack - floor["value"]) / (reference - floor["value"])
        assert one["recovered"] == pytest.approx(wide)


def test_the_mean_of_all_others_recovers_nothing_however_close_it_comes(judge):
    # As of faces: a common picture, which each class departs from in its own way, so
    # that the mean of all comes closer to any of them than most other classes do.
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.uniform(-1, 1, (11, 4, 4)), np.ones((8, 8)))
    classes = 0.6 * smooth[0] + 0.3 * smooth[1:]
    labels = np.repeat(np.arange(10), 4).astype(np.int32)
    images = classes[labels] + rng.normal(0, 0.05, (40, 32, 32))
    images = images[..., np.newaxis].astype(np.float32)
    heldout = sources.Examples(images, labels)
    others = heldout.take(np.flatnonzero(labels != 3))
    nobody = others.images.mean(axis=0, keepdims=True)
    one = reconstruction.TargetInputs(
        target=3,
        attack=nobody,
        control=nobody[:0],
        private=heldout.of_class(3).images[:2],
        others=nobody[:0],
        heldout=heldout,
    )
    found = reconstruction.evaluate_targets(
        [one], judge, foreground=False, window=None, seed=0
    )["targets"][0]
    floor = found["floor"]
    assert floor["source"] == "grand_mean"
    assert floor["value"] == pytest.approx(found["attack"]["ssim"])
    assert found["recovered"] == pytest.approx(0, abs=1e-6)
    # Classes one by one are no such floor.
    for name in ("other_class_means", "other_class_images"):
        assert floor[name] < floor["value"] - 0.05


def test_images_of_the_closest_class_are_recovered_but_not_against_it(evaluate, inputs):
    one = inputs[3]
    others = {k: one.heldout.of_class(k).images for k in range(10) if k != 3}

    def ssim(images):
        return similarity_lib.similarity(
            images, one.private, foreground=True, window=WINDOW
        ).ssim.mean()

    closest = max(others.values(), key=ssim)
    found = evaluate(dataclasses.replace(one, attack=closest))["targets"][0]
    assert found["recovered"] > 0
    assert found["recovered_closest"] <= 1e-6
    # Another class that comes as close as the class itself leaves it undefined.
    labels = one.heldout.labels.copy()
    labels[np.flatnonzero(labels == 3)[::2]] = 5
    mixed = sources.Examples(one.heldout.images, labels)
    kept = mixed.take(np.flatnonzero((labels != 5) | (one.heldout.labels == 3)))
    found = evaluate(dataclasses.replace(one, heldout=kept))["targets"][0]
    assert found["recovered"] > 0.5
    assert found["recovered_closest"] is None


def test_extra_controls_are_scored_like_the_attack(evaluate, inputs):
    runs = {"copy": inputs[3].attack, "noise": inputs[3].control}
    found = evaluate(dataclasses.replace(inputs[3], extra_controls=runs))
    one, pooled = found["targets"][0], found["pooled"]
    for name in ("recovered", "recovered_closest", "reached"):
        assert one["extra_controls"]["copy"][name] == one[name]
    noise = one["extra_controls"]["noise"]
    assert noise["recovered"] < 0
    assert noise["reached"]["value"] is False
    assert noise["judge_share"] <= 0.1 and noise["rejected_share"] >= 0.9
    assert pooled["extra_controls"]["copy"]["reached_count"] == 1
    assert pooled["extra_controls"]["copy"]["recovered"] == pooled["recovered"]
    assert pooled["extra_controls"]["noise"]["reached_all"] is False


def test_distances_to_held_out_images_by_hand(evaluate, inputs):
    one = inputs[3]
    heldout = one.heldout.of_class(3).images
    copies = dataclasses.replace(one, attack=heldout)
    found = evaluate(copies)["targets"][0]
    # Fewer held-out than private images: all are compared with, and each is its own.
    assert found["compared"] == {"private": len(one.private), "heldout": len(heldout)}
    assert found["attack"]["l1_to_heldout"] == 0
    assert found["attack"]["ssim_to_heldout"] == pytest.approx(1)
    assert found["attack"]["psnr_to_heldout"] == 100
    assert found["reference"]["l1_to_heldout"] is None
    assert found["reference"]["ssim_to_heldout"] is None
    # White among greys of 0 with one private image: one held-out image is drawn.
    greys = np.zeros((4, 32, 32, 1), np.float32)
    labels = [3] * 4 + [8] * len(one.heldout)
    grey = sources.Examples(
        np.concatenate([greys, one.heldout.images]), np.array(labels, np.int32)
    )
    white = np.ones((2, 32, 32, 1), np.float32)
    single = dataclasses.replace(
        one, attack=white, private=white[:1], others=white * 0.5, heldout=grey
    )
    found = evaluate(single)["targets"][0]
    assert found["compared"] == {"private": 1, "heldout": 1}
    assert found["attack"]["l1_to_heldout"] == pytest.approx(1)
    # A difference of 1 on a range of 2: 10 log10(4 / 1); of .5: 10 log10(4 / .25).
    assert found["attack"]["psnr_to_heldout"] == pytest.approx(10 * np.log10(4))
    assert found["attack"]["psnr_to_others"] == pytest.approx(10 * np.log10(16))


def test_noise_is_not_recovered(evaluate, inputs):
    noise = np.random.default_rng(2).uniform(-1, 1, (50, 32, 32, 1))
    found = evaluate(dataclasses.replace(inputs[3], attack=noise))["targets"][0]
    assert found["recovered"] <= 0
    assert found["reached"]["value"] is False


def test_blank_is_not_recovered(evaluate, inputs):
    blank = np.full((50, 32, 32, 1), -1.0)
    found = evaluate(dataclasses.replace(inputs[3], attack=blank))["targets"][0]
    assert found["recovered"] <= 0
    assert found["reached"]["value"] is False


def test_the_class_mean_is_similar_but_not_reached(evaluate, inputs):
    mean = np.repeat(inputs[3].private.mean(axis=0, keepdims=True), 30, axis=0)
    found = evaluate(dataclasses.replace(inputs[3], attack=mean))["targets"][0]
    assert found["attack"]["judge_share"] == 1
    assert found["recovered"] > 0.5
    assert found["attack"]["ssim"] == pytest.approx(found["class_mean_similarity"])
    assert found["reached"]["value"] is False
    assert found["reached"]["diversity_ratio"] == pytest.approx(0, abs=1e-6)


def test_pooled_figures_are_means_over_samples_and_targets(evaluate, inputs):
    three = dataclasses.replace(inputs[3], attack=inputs[3].attack[:30])
    six = dataclasses.replace(inputs[6], attack=inputs[6].attack[:10])
    found = evaluate(three, six)
    first, second = found["targets"]
    pooled = found["pooled"]
    assert pooled["attack"]["samples"] == 40
    for name in ("ssim", "l1", "psnr", "judge_share", "judge_confidence"):
        expected = 0.75 * first["attack"][name] + 0.25 * second["attack"][name]
        assert pooled["attack"][name] == pytest.approx(expected)
    means = [one["floor"]["other_class_means"] for one in (first, second)]
    assert pooled["floor"]["other_class_means"] == pytest.approx(np.mean(means))
    attack, reference = pooled["attack"]["ssim"], pooled["reference"]["ssim"]
    floor = pooled["floor"]["value"]
    assert pooled["recovered"] == pytest.approx((attack - floor) / (reference - floor))


def test_what_the_classifier_cannot_see_does_not_count(evaluate, inputs):
    spoilt = inputs[3].attack.copy()
    spoilt[:, 28:] = spoilt[:, :, 28:] = 1
    spoilt_too = dataclasses.replace(inputs[3], attack=spoilt)
    clean = evaluate(inputs[3])["targets"][0]["attack"]
    assert evaluate(spoilt_too)["targets"][0]["attack"] == clean
    seen = evaluate(spoilt_too, window=None)["targets"][0]["attack"]
    assert seen["ssim"] < clean["ssim"]


def test_others_extra_controls_and_missing_control(evaluate, inputs):
    one = dataclasses.replace(
        inputs[3],
        control=inputs[3].control[:0],
        others=inputs[3].attack,
        extra_controls={"passive": inputs[3].control},
    )
    found = evaluate(one)["targets"][0]
    # The attack's images are the other clients': identical to them.
    assert found["attack"]["ssim_to_others"] == pytest.approx(1)
    assert found["attack"]["l1_to_others"] == 0
    assert found["control"] is None and found["floor"]["control"] is None
    assert found["extra_controls"]["passive"]["ssim"] < 0.1
    # Not even the best extra control is part of the floor.
    one = dataclasses.replace(one, extra_controls={"copy": inputs[3].private})
    again = evaluate(one)["targets"][0]
    assert again["extra_controls"]["copy"]["ssim"] == pytest.approx(1)
    assert again["floor"] == found["floor"]


def test_of_one_class_without_a_control_nothing_is_said(evaluate, inputs):
    """Noise is nearer than a blank, and to a judge of one class all is that class."""
    alone = inputs[3].heldout.of_class(3)
    one = dataclasses.replace(inputs[3], heldout=alone)
    with_control = evaluate(one)
    assert with_control["targets"][0]["recovered"] > 0.5
    assert with_control["pooled"]["reached_count"] == 1
    found = evaluate(dataclasses.replace(one, control=one.control[:0]))
    for figures in (found["targets"][0], found["pooled"]):
        assert figures["floor"]["source"] == "blank"
        assert figures["recovered"] is None and figures["recovered_closest"] is None
    assert found["targets"][0]["reached"]["value"] is None
    assert found["targets"][0]["reached"]["judge_share"] > 0.9
    assert found["pooled"]["reached_all"] is None


def test_kid_is_taken_to_a_sample_of_many_private_images(evaluate, inputs, monkeypatch):
    taken = []

    def kid(features, private):
        taken.append(len(private))
        return 0.0

    monkeypatch.setattr(reconstruction.feature_distances, "kid", kid)
    monkeypatch.setattr(reconstruction, "MAX_KID_IMAGES", 20)
    assert len(inputs[3].private) > 20
    evaluate(inputs[3])
    assert set(taken) == {20}


def test_one_held_out_image_leaves_reached_undefined(evaluate, inputs):
    heldout = inputs[3].heldout
    single = np.flatnonzero(heldout.labels == 3)[1:]
    few = heldout.take(np.setdiff1d(np.arange(len(heldout)), single))
    found = evaluate(dataclasses.replace(inputs[3], heldout=few), inputs[6])
    assert found["targets"][0]["reached"]["value"] is None
    assert found["pooled"]["reached_all"] is None
    assert found["pooled"]["reached_count"] == 1


def test_result_is_strict_json_and_repeatable(evaluate, inputs):
    many = np.concatenate([inputs[3].attack] * 20)[:600]
    one = dataclasses.replace(inputs[3], attack=many)
    first = json.dumps(evaluate(one), allow_nan=False)
    assert json.dumps(evaluate(one), allow_nan=False) == first
    samples = json.loads(first)["targets"][0]["attack"]["samples"]
    assert samples == reconstruction.MAX_SAMPLES


def test_bad_input(evaluate, inputs):
    with pytest.raises(errors.InputError, match="No target"):
        evaluate()
    nothing = inputs[3].attack[:0]
    for field, expected in (
        ("attack", "0 reconstructions of class 3"),
        ("private", "0 private images of class 3"),
    ):
        with pytest.raises(errors.InputError, match=expected):
            evaluate(dataclasses.replace(inputs[3], **{field: nothing}))
    without = inputs[3].heldout.of_classes([0, 1])
    with pytest.raises(errors.InputError, match="0 held-out images of class 3"):
        evaluate(dataclasses.replace(inputs[3], heldout=without))
