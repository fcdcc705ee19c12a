"""What the server's small attacks found, and how good it is.

Pictures are scored as those of any other attack (`metrics.reconstruction`), each
victim's class for itself: similarity to the images of the class that the victim holds,
beside that to other clients' images of it. Two things are otherwise, since these
attacks want the very images, and a class is no secret to them:

- *recovered* = (attack - floor) / (1 - floor). 1 is the image itself, and real held-out
  images of the class, elsewhere the reference, are a candidate for the floor, and so is
  their mean, which comes closer: whatever is as close as what is public of the class
  has recovered nothing. The control, of the same classes, is about there.
- *identified*: the share of the claimed pictures whose L1-nearest real image of the
  class, among the victim's, the control's, other clients' and held-out ones, is one of
  the victim's;
- *found*: the share of the victim's images to which some picture claimed of the class
  is nearer than any other real image is. An attack on a sum claims everybody's images
  of a class, of which most are not the victim's: the two figures above fall for that
  alone, this one does not.

Of a class of the victim's for which the attack claims nothing, it is taken to claim one
blank picture.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from computations.defended_fed_avg import Defences
from computations.watched_fed_avg import Seen
from experiments.evaluation import build_judge
from experiments.fed_avg_arm import shared_weights
from experiments.privacy import price
from experiments.report_parts import metrics_rows
from experiments.run_clock import RunClock
from experiments.update_attacks_program import (
    Arm,
    Attack,
    Experiment,
    Labels,
    load_seen,
    membership_losses,
)
from tff_leak.attacks.first_layer import denoise, reconstruct_inputs
from tff_leak.attacks.gradient_inversion import invert_gradients
from tff_leak.attacks.label_inference import infer_labels
from tff_leak.attacks.membership_inference import (
    bootstrap_intervals,
    infer_membership,
)
from tff_leak.metrics.reconstruction import TargetInputs, evaluate_targets
from tff_leak.metrics.score import recovered
from tff_leak.metrics.similarity import nearest, similarity
from tff_leak.models.network import Weights
from tff_leak.runtime import seeding
from tff_leak.runtime.reconstructions import write_reconstructions
from tff_leak.runtime.run_directory import RunDirectory, atomic_write_json
from tff_leak.runtime.seeding import Role
from tff_leak.threat import View


class Claims(NamedTuple):
    """What an attack on updates claims; a row for each that it saw.

    Attributes:
      images: float32 `[k, n, H, W, C]` in [-1, 1].
      labels: int32 `[k, n]`, the classes claimed.
      misfit: float32 `[k]`, what the attack itself could not explain: the objective of
        an inversion, `FirstLayer.misfit`; for one that is not finite nothing is known.
    """

    images: np.ndarray
    labels: np.ndarray
    misfit: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What a finished run shows.

    Attributes:
      summary: the figures, as in `summary.json`.
      inputs: of the pictures that were scored, a victim's class each; empty for
        membership.
      owners: the victim of each of these.
      window: leading rows and columns that the model can see; None for membership.
    """

    summary: Mapping[str, Any]
    inputs: Sequence[TargetInputs] = ()
    owners: Sequence[int] = ()
    window: tuple[int, int] | None = None


def evaluate(
    experiment: Experiment,
    states: Mapping[Arm, Any],
    directory: RunDirectory,
    clock: RunClock,
) -> Evaluation:
    """Attacks, scores, and writes `summary.json` and, of pictures, the pictures.

    `summary["headline"]` has the same keys for all attacks: `measure` ("recovered" or
    "advantage"), its `value` (None: not defined), `task_accuracy`, `epsilon` (None
    without differential privacy, or with none that is finite) and `seconds` (None for
    a run that was gone on with).

    Args:
      experiment: the run.
      states: final states by arm.
      directory: the run directory.
      clock: of the run.
    """
    weights = {arm: shared_weights(state) for arm, state in states.items()}
    if experiment.settings.attack is Attack.MEMBERSHIP:
        found = _evaluate_membership(experiment, weights[Arm.ATTACK])
    else:
        found = _evaluate_pictures(experiment, directory)
    accuracy = {
        arm.value: experiment.arms[arm].accuracy(of_arm)
        for arm, of_arm in weights.items()
    }
    summary = _outline(experiment, directory) | {"task_accuracy": accuracy}
    summary |= found.summary | {"seconds": clock.seconds()}
    summary["headline"] = _headline(summary)
    atomic_write_json(directory.summary, summary)
    return dataclasses.replace(found, summary=summary)


def _outline(experiment: Experiment, directory: RunDirectory) -> dict[str, Any]:
    """What was run, and what it cost."""
    settings, data = experiment.settings, experiment.data
    # Fewer than planned if the privacy budget ended the run.
    rounds = len(metrics_rows(directory))
    spending = experiment.arms[Arm.ATTACK].spending
    return {
        "experiment": "update_attacks",
        "attack": settings.attack.value,
        "dataset": data.source.name,
        "synthetic": data.source.synthetic,
        "seed": settings.seed,
        "algorithm": settings.algorithm.value,
        "network": experiment.network.name,
        "clients": len(data.clients),
        "examples": data.examples,
        "rounds": rounds,
        "rounds_planned": settings.rounds,
        "attack_round": settings.attack_round,
        "pooled_rounds": settings.pooled_rounds,
        "threat": {
            "adversary": experiment.threat.adversary.value,
            "behaviour": experiment.threat.behaviour.value,
            "view": experiment.threat.view.value,
            "knowledge": sorted(k.value for k in experiment.threat.knowledge),
        },
        **price(settings.defences, spending, rounds),
    }


def _headline(summary: Mapping[str, Any]) -> dict[str, Any]:
    member = "membership" in summary
    epsilon = summary["epsilon"]
    return {
        "measure": "advantage" if member else "recovered",
        "value": summary["membership"]["attack"]["advantage"]
        if member
        else summary["pooled"]["recovered"],
        "task_accuracy": summary["task_accuracy"][Arm.ATTACK.value],
        "epsilon": None if isinstance(epsilon, str) else epsilon,
        "seconds": summary["seconds"],
    }


# --- Membership ------------------------------------------------------------------


def _evaluate_membership(experiment: Experiment, weights: Weights) -> Evaluation:
    """Of the final model, of the initial one, and of examples that nobody holds."""
    network, data = experiment.network, experiment.data
    root = seeding.root(experiment.settings.seed)
    initial = network.initialize(seeding.derive(root, Role.MODEL))
    members, others, more = membership_losses(network, data, weights)
    before = membership_losses(network, data, initial)
    seed = experiment.settings.seed
    figures = {
        "attack": _membership_figures(members, others, seed),
        "initial": _membership_figures(before[0], before[1], seed),
        "held_out": _membership_figures(more, others, seed),
    }
    counts = {
        **{"members": len(members), "others": len(others), "held_out": len(more)},
        "members_trained_on": sum(map(len, data.clients)),
    }
    losses = {"members": float(members.mean()), "others": float(others.mean())}
    return Evaluation({"membership": {**figures, "counts": counts, "losses": losses}})


def _membership_figures(
    members: np.ndarray, others: np.ndarray, seed: int
) -> dict[str, Any]:
    intervals = bootstrap_intervals(members, others, seed=seed)
    return infer_membership(members, others)._asdict() | {
        f"{name}_interval": list(interval) for name, interval in intervals.items()
    }


# --- Pictures --------------------------------------------------------------------


def _evaluate_pictures(experiment: Experiment, directory: RunDirectory) -> Evaluation:
    settings, data = experiment.settings, experiment.data
    claims = {
        arm: attack(experiment, arm, seen)
        for arm, seen in load_seen(experiment, directory).items()
    }
    _write_reconstructions(experiment, claims[Arm.ATTACK], directory)
    judge, window = build_judge(
        experiment.network, data.source, data.judge, seed=settings.seed
    )
    owners = [
        (victim, int(label))
        for victim in data.victims
        for label in np.unique(data.clients[victim].labels)
    ]
    inputs = [_target_inputs(experiment, claims, *owner) for owner in owners]
    scores = evaluate_targets(
        inputs,
        judge,
        foreground=data.source.foreground,
        window=window,
        seed=settings.seed,
    )
    for one, (victim, _) in zip(scores["targets"], owners, strict=True):
        one["victim"] = victim
    means = [
        _class_mean_similarity(one, data.source.foreground, window) for one in inputs
    ]
    for figures, mean in zip(scores["targets"], means, strict=True):
        _against_the_images_themselves(figures, mean)
    _against_the_images_themselves(scores["pooled"], float(np.mean(means)))
    own = [
        _own_images(experiment, one, victim, window)
        for one, (victim, _) in zip(inputs, owners, strict=True)
    ]
    summary = {
        "judge_accuracy": judge.accuracy(data.heldout),
        "visible_window": list(window),
        **{
            figure: {
                name: _mean([one[figure][name] for one in own])
                for name in own[0][figure]
            }
            for figure in ("identified", "found")
        },
        "labels_right": _labels_right(experiment, claims[Arm.ATTACK]),
        "misfit": {
            arm.value: [float(m) if np.isfinite(m) else None for m in of_arm.misfit]
            for arm, of_arm in claims.items()
        },
        **scores,
    }
    return Evaluation(summary, inputs, [victim for victim, _ in owners], window)


def attack(experiment: Experiment, arm: Arm, seen: Sequence[Seen]) -> Claims:
    """Attacks what the server saw; equal arguments give equal pictures.

    Several rounds are taken for one, with the mean of their updates from the mean of
    their weights: noise that is drawn anew each round is less in it, and to first order
    the mean of gradients is the gradient at the mean of the weights. Of a first layer
    the former is exact.

    Args:
      experiment: the run.
      arm: whose data say how many pictures there are and, where they are known, of
        which classes.
      seen: in the attacked rounds.

    Returns:
      A row for each row of an update; one whose update is not finite, or from which
      nothing is found, claims mid-grey pictures.
    """
    settings, data = experiment.settings, experiment.data
    updates = _mean_updates(seen)
    if settings.attack is Attack.FIRST_LAYER:
        found = reconstruct_inputs(*updates[:2])
        images = found.examples.numpy().reshape([-1, 1, *data.source.image_shape])
        if _clients_add_noise(settings.defences):  # Of which the protocol tells.
            shape, dark = data.source.image_shape, data.source.foreground
            images = denoise(found, shape, dark_background=dark)[:, np.newaxis]
        labels, misfit = infer_labels(updates, 1), found.misfit
    else:
        labels = _labels(experiment, arm, updates)
        root = seeding.root(settings.seed)

        @tf.function
        def invert(weights, updates, labels):
            return invert_gradients(
                experiment.inversion,
                experiment.network,
                Weights(list(weights), []),
                updates,
                labels,
                seeding.derive(root, Role.SAMPLES),
            )

        finite = [one.weights for one in seen if _is_finite(one.weights)]
        weights = [
            tf.constant(np.mean(same, axis=0))
            for same in zip(*(finite or [seen[0].weights]), strict=True)
        ]
        images, _, misfit = invert(weights, updates, labels)
        images = images.numpy()
    images = np.clip(np.nan_to_num(images), -1.0, 1.0)
    return Claims(images, labels.numpy(), misfit.numpy())


def _mean_updates(seen: Sequence[Seen]) -> list[tf.Tensor]:
    """Each row's mean over the rounds in which it is finite, if it is in any."""
    rows = []
    for row in range(len(seen[0].updates[0])):
        of_row = [[update[row] for update in one.updates] for one in seen]
        finite = [parts for parts in of_row if _is_finite(parts)]
        same = zip(*(finite or of_row), strict=True)
        rows.append([np.mean(np.stack(parts), axis=0) for parts in same])
    return [tf.constant(np.stack(same)) for same in zip(*rows, strict=True)]


def _is_finite(parts: Sequence[np.ndarray]) -> bool:
    return all(np.isfinite(part).all() for part in parts)


def _labels(
    experiment: Experiment, arm: Arm, updates: Sequence[tf.Tensor]
) -> tf.Tensor:
    """Of the pictures of each row: how many is public, as the weight says it."""
    data = experiment.data
    together = experiment.threat.view is View.SUM
    held = experiment.arms[arm].data
    rows = [[*held]] if together else [[held[victim]] for victim in data.victims]
    counts = [sum(len(part) for part in row) for row in rows]
    if experiment.settings.labels is Labels.INFERRED:
        return infer_labels(updates, counts[0])
    labels = [np.sort(np.concatenate([part.labels for part in row])) for row in rows]
    return tf.constant(np.stack(labels))


def claims_of(
    experiment: Experiment, claims: Claims, victim: int, label: int
) -> np.ndarray:
    """Returns the pictures claimed of a victim's class: float32 `[m, H, W, C]`.

    Of a sum all pictures of the class are claimed, since nobody can say whose they are.
    A picture from a first layer counts for every class of the victim's.
    """
    together = experiment.threat.view is View.SUM
    row = 0 if together else list(experiment.data.victims).index(victim)
    chosen = claims.labels[row] == label
    if experiment.settings.attack is Attack.FIRST_LAYER:
        chosen = np.ones_like(chosen)
    images = claims.images[row][chosen]
    if len(images):
        return images
    return np.full((1, *experiment.data.source.image_shape), -1.0, np.float32)


def _target_inputs(
    experiment: Experiment, claims: Mapping[Arm, Claims], victim: int, label: int
) -> TargetInputs:
    data = experiment.data
    of_arm = functools.partial(claims_of, experiment, victim=victim, label=label)
    return TargetInputs(
        target=label,
        attack=of_arm(claims[Arm.ATTACK]),
        control=of_arm(claims[Arm.CONTROL]),
        private=data.clients[victim].of_class(label).images,
        others=data.others_images(victim, label),
        heldout=data.heldout,
    )


def _clients_add_noise(defences: Defences) -> bool:
    return defences.local_dp is not None or defences.record_dp is not None


def _class_mean_similarity(
    one: TargetInputs, foreground: bool, window: tuple[int, int]
) -> float:
    """Mean SSIM of the mean of held-out images of a class to the victim's."""
    mean = one.heldout.of_class(one.target).images.mean(axis=0, keepdims=True)
    found = similarity(mean, one.private, foreground=foreground, window=window)
    return float(found.ssim.mean())


def _against_the_images_themselves(figures: dict[str, Any], class_mean: float) -> None:
    """Puts this module's `recovered` and floor in the place of `evaluate_targets`'s."""
    floor = figures["floor"]
    public = {"heldout": figures["reference"]["ssim"], "heldout_mean": class_mean}
    floor["heldout_mean"] = class_mean
    for name in ("strict_value", "strict_source"):
        floor.pop(name)
    for name in ("recovered_closest", "reached", "reached_count", "reached_all"):
        figures.pop(name, None)
    best = max(public, key=public.get)
    if public[best] > floor["value"]:
        floor |= {"value": public[best], "source": best}
    attack = figures["attack"]["ssim"]
    figures["recovered"] = recovered(attack, floor["value"], 1.0)


def _own_images(
    experiment: Experiment, one: TargetInputs, victim: int, window: tuple[int, int]
) -> dict[str, dict[str, float]]:
    """`identified` and `found` of one victim's class; see the module's docstring."""
    spare = experiment.data.control[victim].of_class(one.target).images
    heldout = one.heldout.of_class(one.target).images
    others = np.concatenate([spare, one.others, heldout])
    gallery = np.concatenate([one.private, others])
    gaps, _ = nearest(one.private, others, window=window)

    def identified_share(images: np.ndarray) -> float:
        _, found = nearest(images, gallery, window=window)
        return float((found < len(one.private)).mean())

    def found_share(images: np.ndarray) -> float:
        distances, _ = nearest(one.private, images, window=window)
        return float((distances < gaps).mean())

    sets = {"attack": one.attack, "control": one.control}
    chance = {"chance": len(one.private) / len(gallery)}
    return {
        "identified": {k: identified_share(v) for k, v in sets.items()} | chance,
        "found": {name: found_share(images) for name, images in sets.items()},
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _labels_right(experiment: Experiment, claims: Claims) -> float | None:
    """Share of claimed labels that are the victim's, each as often; None of a sum."""
    data = experiment.data
    if experiment.threat.view is View.SUM:
        return None
    right = total = 0
    for victim, labels in zip(data.victims, claims.labels, strict=True):
        classes = range(data.source.num_classes)
        held = np.bincount(data.clients[victim].labels, minlength=len(classes))
        found = np.bincount(labels, minlength=len(classes))
        right += int(np.minimum(held, found).sum())
        total += len(labels)
    return right / total


def _write_reconstructions(
    experiment: Experiment, claims: Claims, directory: RunDirectory
) -> None:
    victims = experiment.data.victims
    clients = [-1] if experiment.threat.view is View.SUM else list(victims)
    per_row = claims.images.shape[1]
    write_reconstructions(
        directory.reconstructions,
        images=claims.images.reshape(-1, *claims.images.shape[2:]),
        labels=claims.labels.reshape(-1).astype(np.int32),
        clients=np.repeat(clients, per_row).astype(np.int32),
        round=experiment.settings.attack_round,
    )
