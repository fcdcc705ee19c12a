"""Who takes part in a federation, and with which data."""

import dataclasses
import re
from collections.abc import Collection, Sequence

import numpy as np
from absl import flags

from computations.dssgd import TurnOrder
from tff_leak.data import partition, sources
from tff_leak.data.sources import Examples, Source
from tff_leak.errors import InputError

# The shared model is tested after every turn; more images would only cost time.
_TEST_IMAGES = 2000
EACH = "each"
NONE = "none"


@dataclasses.dataclass(frozen=True, eq=False)
class Federation:
    """The participants of a run.

    Attributes:
      data: each participant's local data, by its number.
      adversaries: numbers of the malicious ones.
      targets: the class that each of these wants.
    """

    data: Sequence[Examples]
    adversaries: Sequence[int]
    targets: Sequence[int]

    @property
    def everybody_attacks(self) -> bool:
        """Whether nobody is honest, so that each is a victim of the others."""
        return len(self.adversaries) == len(self.data)

    @property
    def victims(self) -> tuple[int, ...]:
        """Numbers of the honest participants; of all where everybody attacks."""
        numbers = range(len(self.data))
        if self.everybody_attacks:
            return tuple(numbers)
        return tuple(number for number in numbers if number not in self.adversaries)

    def victim(self, target: int) -> int:
        """The first of the victims that holds the class."""
        holders = [
            number
            for number in self.victims
            if (self.data[number].labels == target).any()
        ]
        return holders[0]

    def others_images(self, target: int) -> np.ndarray:
        """Images of the class that victims but the first of them hold."""
        victim = self.victim(target)
        held = [
            self.data[number].of_class(target).images
            for number in self.victims
            if number != victim
        ]
        shape = self.data[victim].images.shape[1:]
        return np.concatenate([np.zeros((0, *shape), np.float32), *held])

    def without_targets(self) -> "Federation":
        """The control's federation: the same, but nobody holds a target."""
        return self.without_classes(self.targets)

    def without_classes(self, classes: Sequence[int]) -> "Federation":
        """The same federation, but nobody holds one of some classes."""
        kept = [
            data.take(np.flatnonzero(~np.isin(data.labels, classes)))
            for data in self.data
        ]
        return dataclasses.replace(self, data=kept)

    def held_by(self, owners: Collection[int]) -> "Federation":
        """The same federation, but only some participants have data."""
        kept = [
            data if number in owners else data.take(np.arange(0))
            for number, data in enumerate(self.data)
        ]
        return dataclasses.replace(self, data=kept)


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """The data of a run.

    Attributes:
      source: where it comes from.
      federation: who holds what.
      judge: the judge's part; empty where there is no attack to judge.
      reference: real images that nobody holds; the shared model is tested on `test`.
      test: see `reference`.
    """

    source: Source
    federation: Federation
    judge: Examples
    reference: Examples
    test: Examples


def load_data(
    dataset: str,
    *,
    data_dir: str | None,
    per_class: int | None,
    participants: str,
    adversaries: Sequence[int],
    targets: Sequence[int],
    seed: int,
    held_out_per_class: int | None = None,
    all_may_attack: bool = False,
) -> Data:
    """Loads a data set and shares it out.

    Args:
      dataset: see `data.sources.load`.
      data_dir: see `data.sources.load`.
      per_class: at most so many images of a class for all participants.
      participants: see `build_federation`.
      adversaries: see `build_federation`.
      targets: see `build_federation`.
      seed: of the partition.
      held_out_per_class: so many images of a class are held out for tests, and none
        for a judge, who has nothing to do without an attack; None: see
        `partition.split_pools`.
      all_may_attack: see `build_federation`.

    Raises:
      InputError: see `data.sources.load`, `partition.split_pools` and
        `build_federation`.
    """
    source = sources.load(dataset, data_dir=data_dir, seed=seed)
    pools = partition.split_pools(
        source,
        per_class=per_class,
        judge_per_class=None if held_out_per_class is None else 0,
        reference_per_class=held_out_per_class,
        seed=seed,
    )
    return Data(
        source=source,
        federation=build_federation(
            source,
            pools.participants,
            participants=participants,
            adversaries=adversaries,
            targets=targets,
            seed=seed,
            all_may_attack=all_may_attack,
        ),
        judge=pools.judge,
        reference=pools.reference,
        test=pools.reference.take(range(min(len(pools.reference), _TEST_IMAGES))),
    )


def build_federation(
    source: Source,
    examples: Examples,
    *,
    participants: str,
    adversaries: Sequence[int],
    targets: Sequence[int],
    seed: int,
    all_may_attack: bool = False,
) -> Federation:
    """Shares out data among participants.

    Args:
      source: names the classes.
      examples: the participants' part of the source.
      participants: separated by ";", each a list of classes such as "0-4" or "1,3,7",
        "none" for one without data, or "each" for one participant a class; after a
        number and an "x" so many of them, such as "40x0-4". A class that several name
        is shared out evenly among them.
      adversaries: numbers of the malicious participants, from 0.
      targets: as many classes, one for each adversary.
      seed: of the partition.
      all_may_attack: whether nobody needs to be honest.

    Raises:
      InputError: for a class list that cannot be read, a class or participant that
        does not exist, a target that nobody or the adversary itself holds.
    """
    class_lists = _class_lists(participants, source.num_classes)
    _check_adversaries(adversaries, targets, len(class_lists), all_may_attack)
    if not any(class_lists):
        raise InputError(
            f"--participants is {participants!r}: expected at least one with data; "
            "give it classes, such as 0-4"
        )
    data = partition.by_class_lists(examples, class_lists, seed=seed)
    federation = Federation(data, tuple(adversaries), tuple(targets))
    for adversary, target in zip(adversaries, targets, strict=True):
        _check_target(target, adversary, class_lists, federation.victims)
    return federation


def integers(flag: flags.FlagHolder) -> list[int]:
    """Reads a list flag as integers.

    Raises:
      InputError: if an entry is none.
    """
    try:
        return [int(text) for text in flag.value]
    except ValueError:
        raise InputError(
            f"--{flag.name} is {','.join(flag.value)!r}: expected integers separated "
            "by commas; correct the flag"
        ) from None


def check_staleness(order: TurnOrder, max_staleness: int) -> None:
    """Raises InputError unless staleness goes with asynchronous training."""
    if (order is TurnOrder.ASYNCHRONOUS) != (max_staleness > 0):
        raise InputError(
            f"--max_staleness is {max_staleness} with --order={order.value}: expected "
            "it above 0 for asynchronous and 0 for every other order; correct one"
        )


def _class_lists(text: str, num_classes: int) -> list[list[int]]:
    lists: list[list[int]] = []
    for part in text.split(";"):
        times, part = _times(part)
        if part == EACH:
            lists += times * [[label] for label in range(num_classes)]
        elif part == NONE:
            lists += times * [[]]
        else:
            lists += times * [_classes(part, num_classes)]
    if len(lists) < 2:
        raise InputError(
            f"--participants is {text!r}: expected at least two participants, "
            'separated by ";"; for example 0-4;5-9'
        )
    return lists


def _times(text: str) -> tuple[int, str]:
    """Splits "40x0-4" into how many such participants there are, and their classes."""
    times, x, part = text.partition("x")
    if not x:
        return 1, text.strip()
    if not re.fullmatch(r"\s*[1-9]\d{0,3}\s*", times):
        raise InputError(
            f"--participants has {text!r}: expected a number of participants from 1 to "
            '9999 before the "x", such as 40x0-4; correct the list'
        )
    return int(times), part.strip()


def _classes(text: str, num_classes: int) -> list[int]:
    labels: list[int] = []
    for piece in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", piece)
        if not found:
            labels = []
            break
        first, last = int(found[1]), int(found[2] or found[1])
        # Of a range that is too long, enough to be refused.
        labels += range(first, min(last, first + num_classes) + 1)
    if not labels or len(set(labels)) < len(labels):
        raise InputError(
            f"--participants has {text!r}: expected classes such as 0-4 or 1,3,7, each "
            f'once, or "{EACH}" or "{NONE}"; correct the list'
        )
    if not all(0 <= label < num_classes for label in labels):
        raise InputError(
            f"--participants has {text!r}: expected classes from 0 to "
            f"{num_classes - 1}, which is what the data set has; correct the list"
        )
    return labels


def _check_adversaries(
    adversaries: Sequence[int], targets: Sequence[int], count: int, all_may: bool
) -> None:
    if len(set(adversaries)) < len(adversaries) or not all(
        0 <= number < count for number in adversaries
    ):
        raise InputError(
            f"--adversaries is {_listed(adversaries)}: expected different numbers from "
            f"0 to {count - 1}, as --participants has {count}; correct one of them"
        )
    if len(targets) != len(adversaries):
        raise InputError(
            f"--targets is {_listed(targets)}: expected one class for each of the "
            f"{len(adversaries)} adversaries ({_listed(adversaries)}); correct it"
        )
    if len(adversaries) == count and not all_may:
        raise InputError(
            f"--adversaries is {_listed(adversaries)}: expected an honest participant "
            "to be left; name fewer"
        )


def _check_target(
    target: int,
    adversary: int,
    class_lists: Sequence[Sequence[int]],
    victims: Sequence[int],
) -> None:
    if target in class_lists[adversary]:
        raise InputError(
            f"target {target} is a class of adversary {adversary} itself: expected one "
            "that it does not hold; choose another with --targets"
        )
    others = [number for number in victims if number != adversary]
    held = sorted({label for number in others for label in class_lists[number]})
    if target not in held:
        who = "nobody else" if adversary in victims else "no honest participant"
        raise InputError(
            f"target {target} is a class that {who} holds: expected one of "
            f"{_listed(held)}; choose another with --targets"
        )


def _listed(numbers: Sequence[int]) -> str:
    return ",".join(str(number) for number in numbers) or "empty"
