"""Sharing a source out: pools for the experiment, then examples for participants."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from tff_leak import errors
from tff_leak.data.sources import Examples, Source

_JUDGE_PER_CLASS = 200
_SMALL_CLASS = 20
# Streams of random numbers that one seed gives.
_POOLS, _POOL_ORDER, _CLASSES, _CHOICE, _ORDER = range(5)


@dataclasses.dataclass(frozen=True, eq=False)
class Pools:
    """Three disjoint parts of a source.

    Attributes:
        participants: what the federation is trained on.
        judge: for the independent classifier that judges reconstructions.
        reference: real held-out images that are scored like reconstructions.
    """

    participants: Examples
    judge: Examples
    reference: Examples


def split_pools(
    source: Source,
    *,
    per_class: int | None = None,
    judge_per_class: int | None = None,
    reference_per_class: int | None = None,
    seed: int,
) -> Pools:
    """Splits a source into three disjoint pools, class by class, each shuffled.

    With an official test part the reference is all of it and the judge has 200
    training images of each class, but at most a third. Without one the judge has
    35% of each class and the reference 15%; of classes with fewer than 20 images
    they have a fifth each, so that of ten faces participants hold six. The
    participants get what is left of the training part.

    Args:
        source: what to split.
        per_class: at most so many images of each class for the participants; None
            is no limit.
        judge_per_class: so many for the judge; 0 leaves that pool empty.
        reference_per_class: so many for the reference; 0 leaves that pool empty.
        seed: at least 0. Each class is shuffled by its own stream of this seed.

    Raises:
        errors.InputError: a class has too few images for a non-empty part in each
            pool that is wanted, or a number is out of range.
    """
    _check_at_least(1, per_class=per_class)
    _check_at_least(
        0,
        judge_per_class=judge_per_class,
        reference_per_class=reference_per_class,
        seed=seed,
    )
    indices = ([], [], [])
    for label, class_name in enumerate(source.class_names):
        rng = np.random.default_rng([seed, _POOLS, label])
        train = rng.permutation(np.flatnonzero(source.train.labels == label))
        test = None
        if source.test is not None:
            test = rng.permutation(np.flatnonzero(source.test.labels == label))
        judge, reference = _held_back(
            len(train), None if test is None else len(test), judge_per_class
        )
        if reference_per_class is not None:
            reference = reference_per_class
        rest = train[judge:]
        if test is None:
            test, rest = rest[:reference], rest[reference:]
        parts = (rest[:per_class], train[:judge], test[:reference])
        _check_parts(class_name, [len(part) for part in parts], judge, reference)
        for chosen, part in zip(indices, parts, strict=True):
            chosen.append(part)
    return _gather(source, indices, seed)


def _held_back(train: int, test: int | None, judge: int | None) -> tuple[int, int]:
    """Sizes of the judge's and reference's part of a class of `train` images.

    `test` is the size of its official test part, None where there is none. A size
    is at least 1, so that a class that cannot fill it is noticed.
    """
    if test is not None:
        sizes = min(_JUDGE_PER_CLASS, train // 3), test
    elif train < _SMALL_CLASS:
        sizes = round(0.2 * train), round(0.2 * train)
    else:
        sizes = round(0.35 * train), round(0.15 * train)
    return max(1, sizes[0]) if judge is None else judge, max(1, sizes[1])


def _check_parts(
    class_name: str, sizes: Sequence[int], judge: int, reference: int
) -> None:
    """Raises InputError unless (participants, judge, reference) are large enough."""
    wanted = (1, judge, reference)
    if any(size < least for size, least in zip(sizes, wanted, strict=True)):
        raise errors.InputError(
            f"class {class_name} has only {sizes[0]}, {sizes[1]} and {sizes[2]} images "
            f"for participants, judge and reference: expected at least 1, {judge} and "
            f"{reference}; lower judge_per_class or reference_per_class "
            "(--held_out_per_class), or use more data"
        )


def _gather(source: Source, indices, seed: int) -> Pools:
    """Takes the chosen indices and mixes the classes of each pool."""
    held_out = source.train if source.test is None else source.test
    origins = (source.train, source.train, held_out)
    pools = []
    for number, (origin, chosen) in enumerate(zip(origins, indices, strict=True)):
        rng = np.random.default_rng([seed, _POOL_ORDER, number])
        pools.append(origin.take(rng.permutation(np.concatenate(chosen))))
    return Pools(*pools)


def by_class_lists(
    examples: Examples, class_lists: Sequence[Sequence[int]], *, seed: int
) -> list[Examples]:
    """One participant for each list, holding the classes that its list names.

    The images of a class that several lists name are shared out among these
    participants, disjointly and evenly (sizes differ by at most one). Each
    participant's images are shuffled. An empty list makes empty `Examples`.

    Raises:
        errors.InputError: nobody has images of a named class, there are fewer of
            them than lists that name it, a list names a class twice, or the seed is
            negative.
    """
    _check_at_least(0, seed=seed)
    holders = collections.defaultdict(list)
    for participant, labels in enumerate(class_lists):
        for label in labels:
            if participant in holders[label]:
                raise errors.InputError(
                    f"class {label} is twice in the list of participant {participant}: "
                    "expected each class once; remove one"
                )
            holders[label].append(participant)
    shares = [[np.zeros(0, np.int64)] for _ in class_lists]
    for label, participants in holders.items():
        found = _indices_of(examples, label)
        if len(found) < len(participants):
            raise errors.InputError(
                f"class {label} has {len(found)} images for {len(participants)} "
                "participants: expected at least one each; name it in fewer lists"
            )
        shuffled = np.random.default_rng([seed, _CLASSES, label]).permutation(found)
        parts = np.array_split(shuffled, len(participants))
        for participant, part in zip(participants, parts, strict=True):
            shares[participant].append(part)
    return _shuffled_shares(examples, shares, seed)


def by_class(examples: Examples, *, seed: int) -> list[Examples]:
    """One participant for each class that occurs (one person each), by its label.

    Raises:
        errors.InputError: the seed is negative.
    """
    labels = np.unique(examples.labels)
    return by_class_lists(examples, [[int(label)] for label in labels], seed=seed)


def random_classes(
    examples: Examples,
    *,
    clients: int,
    classes_per_client: int,
    per_class: int,
    seed: int,
) -> list[Examples]:
    """Clients with `per_class` images of each of a few random classes (not i.i.d.).

    Each client in turn draws its classes, all with the same chance, among those that
    have `per_class` images left. No image is given out twice. Wang et al., section
    VI-B, has 10 clients with "100 samples from three random classes", which can be
    read as 100 of each class.

    Raises:
        errors.InputError: the images do not suffice, or a number is out of range.
    """
    _check_at_least(
        1, clients=clients, classes_per_client=classes_per_client, per_class=per_class
    )
    _check_at_least(0, seed=seed)
    labels, counts = np.unique(examples.labels, return_counts=True)
    left = {
        int(label): np.random.default_rng([seed, _CLASSES, int(label)]).permutation(
            _indices_of(examples, label)
        )
        for label in labels
    }
    rng = np.random.default_rng([seed, _CHOICE])
    shares = []
    for client in range(clients):
        able = [label for label, indices in left.items() if len(indices) >= per_class]
        if len(able) < classes_per_client:
            raise errors.InputError(
                f"{len(examples)} images of {len(labels)} classes (at least "
                f"{counts.min(initial=len(examples))} each) suffice for {client} of "
                f"{clients} clients: expected {clients} x {classes_per_client} classes "
                f"x {per_class} images, {clients * classes_per_client * per_class} "
                "needed; lower one of these numbers"
            )
        share = []
        for label in rng.choice(able, classes_per_client, replace=False):
            share.append(left[label][:per_class])
            left[label] = left[label][per_class:]
        shares.append(share)
    return _shuffled_shares(examples, shares, seed)


def _indices_of(examples: Examples, label: int) -> np.ndarray:
    found = np.flatnonzero(examples.labels == label)
    if not len(found):
        held = ", ".join(map(str, np.unique(examples.labels))) or "none"
        raise errors.InputError(
            f"class {label} has no images: expected one of {held}; name another class"
        )
    return found


def _shuffled_shares(
    examples: Examples, shares: Sequence[Sequence[np.ndarray]], seed: int
) -> list[Examples]:
    """Concatenates each participant's index arrays and mixes its classes."""
    return [
        examples.take(
            np.random.default_rng([seed, _ORDER, participant]).permutation(
                np.concatenate(share)
            )
        )
        for participant, share in enumerate(shares)
    ]


def _check_at_least(least: int, **numbers: int | None) -> None:
    for name, value in numbers.items():
        if value is not None and value < least:
            raise errors.InputError(
                f"{name}={value}: expected at least {least}; choose a larger number"
            )
