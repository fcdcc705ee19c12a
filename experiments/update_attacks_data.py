"""The data of the server's small attacks: who holds what, and what nobody holds."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tff_leak.data import partition
from tff_leak.data.sources import Examples, Source
from tff_leak.errors import InputError
from tff_leak.runtime import seeding
from tff_leak.runtime.seeding import Role

# The shared model is tested after every round; more images would only cost time.
_TEST_IMAGES = 2000


class Compared(NamedTuple):
    """Whose losses membership inference compares: with one share of each class.

    Otherwise a class that members have more of, and that is easier, would pass for
    membership.

    Attributes:
      members: of the federation's training data.
      others: that nobody holds, a whole number of times as many.
      more: that nobody holds either, as many as members, in whose place they are for
        the control.
    """

    members: Examples
    others: Examples
    more: Examples


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """The data of a run.

    Attributes:
      source: where it comes from.
      clients: each client's examples.
      control: the same, but that the victims hold other images of the same classes in
        the same number; empty where there is no such control (membership).
      victims: numbers of the clients aimed at.
      judge: the judge's part; of membership the examples that nobody holds.
      heldout: real images that nobody holds.
      test: those of them that the shared model is tested on.
      compared: of membership; None otherwise.
    """

    source: Source
    clients: Sequence[Examples]
    control: Sequence[Examples]
    victims: Sequence[int]
    judge: Examples
    heldout: Examples
    test: Examples
    compared: Compared | None = None

    def others_images(self, victim: int, label: int) -> np.ndarray:
        """Images of the class that clients but the victim hold; maybe none."""
        held = [
            data.of_class(label).images
            for number, data in enumerate(self.clients)
            if number != victim
        ]
        shape = self.source.image_shape
        return np.concatenate([np.zeros((0, *shape), np.float32), *held])

    @property
    def examples(self) -> int:
        """Of each client."""
        return len(self.clients[0])


def build_data(
    source: Source,
    *,
    clients: int,
    classes_per_client: int,
    per_class: int,
    victims: Sequence[int],
    with_control: bool,
    seed: int,
) -> Data:
    """Shares a source out.

    Args:
      source: of the images.
      clients: their number.
      classes_per_client: random ones, drawn by `seed`.
      per_class: images of each.
      victims: numbers of clients, each once; empty for all of them.
      with_control: whether victims need as many other images; without, examples are
        chosen that membership inference compares.
      seed: of the partition.

    Raises:
      InputError: if a number is out of range or the images do not suffice.
    """
    victims = list(victims) or list(range(clients))
    known = all(0 <= victim < clients for victim in victims)
    if not known or len(set(victims)) < len(victims):
        raise InputError(
            f"--victims is {','.join(map(str, victims))}: expected clients from 0 to "
            f"{clients - 1}, each once; correct it or --clients"
        )
    pools = partition.split_pools(source, seed=seed)
    held = partition.random_classes(
        pools.participants,
        clients=clients,
        classes_per_client=classes_per_client,
        # The other half is what the control's victims hold.
        per_class=2 * per_class if with_control else per_class,
        seed=seed,
    )
    control = []
    if with_control:
        halves = [_halves(examples) for examples in held]
        held = [first for first, _ in halves]
        control = [
            second if number in victims else first
            for number, (first, second) in enumerate(halves)
        ]
    return Data(
        source=source,
        clients=held,
        control=control,
        victims=victims,
        judge=pools.judge,
        heldout=pools.reference,
        test=pools.reference.take(range(min(len(pools.reference), _TEST_IMAGES))),
        compared=None
        if with_control
        else match_by_class(Examples.concatenate(held), pools.judge, seed=seed),
    )


def match_by_class(members: Examples, nobodys: Examples, *, seed: int) -> Compared:
    """Draws members, others and more others, with the same share of each class.

    Of a class, all its members; but at most half of nobody's examples of it. Others are
    as many times as many as all classes allow: chance then says less.

    Args:
      members: all that a model is trained on.
      nobodys: examples of the same source that it is not.
      seed: of the draws.

    Raises:
      InputError: if no class has a member and two of nobody's examples.
    """
    rng = seeding.generator(seed, Role.MEMBERSHIP)
    found = []
    for label in np.unique(members.labels):
        held = rng.permutation(np.flatnonzero(members.labels == label))
        spare = rng.permutation(np.flatnonzero(nobodys.labels == label))
        count = min(len(held), len(spare) // 2)
        if count:
            found.append((held[:count], spare))
    if not found:
        raise InputError(
            f"examples that nobody holds are {len(nobodys)}, not two of any class that "
            "clients have: expected two of one at least; take a larger data set"
        )
    times = min(len(spare) // len(held) - 1 for held, spare in found)

    def taken(start: int, stop: int) -> Examples:
        """Of each class's spare ones those from `start` to `stop` times its members."""
        parts = [spare[start * len(held) : stop * len(held)] for held, spare in found]
        return nobodys.take(np.concatenate(parts))

    return Compared(
        members.take(np.concatenate([held for held, _ in found])),
        taken(0, times),
        taken(times, times + 1),
    )


def _halves(examples: Examples) -> tuple[Examples, Examples]:
    """Splits each class in two; there are even numbers of each."""
    first = np.zeros(len(examples), bool)
    for label in np.unique(examples.labels):
        places = np.flatnonzero(examples.labels == label)
        first[places[: len(places) // 2]] = True
    return examples.take(np.flatnonzero(first)), examples.take(np.flatnonzero(~first))
