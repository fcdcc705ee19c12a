"""What an adversary takes for the key of its target (section 5.4, and beyond)."""

import dataclasses
import enum
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tff_leak.attacks.key_search import KeySearch, SearchMethod
from tff_leak.defences.key_protection import (
    KeyDistribution,
    draw_keys,
    key_at_distance,
)
from tff_leak.errors import InputError
from tff_leak.runtime import seeding
from tff_leak.runtime.seeding import Role
from tff_leak.threat import Adversary, Behaviour, Knowledge, Threat, View

KNOWN = "known"
RANDOM = "random"


class GuessKind(enum.Enum):
    """Where the key comes from."""

    KNOWN = "known"  # it is given away: experiment (i), the positive control
    DISTANCE = "distance"  # drawn at a distance from the true one: experiment (ii)
    RANDOM = "random"  # drawn like every other key: experiment (iii)
    SEARCH = "search"  # looked for while the model is trained (`key_search`)


@dataclasses.dataclass(frozen=True)
class Guess:
    """One way to a key.

    Attributes:
      name: as the flag has it; names an arm.
      kind: where the key comes from.
      distance: Euclidean, in [0, 2], for DISTANCE.
      search: for SEARCH.
    """

    name: str
    kind: GuessKind
    distance: float | None = None
    search: KeySearch | None = None

    @property
    def aimed(self) -> bool:
        """Whether the adversary knows which class the key is of, more or less."""
        return self.kind in (GuessKind.KNOWN, GuessKind.DISTANCE)

    @property
    def threat(self) -> Threat:
        """Who attacks: a malicious client; with the key, or one near to it, or none.

        Without it the adversary knows no class to aim at either.
        """
        known = {Knowledge.KEY, Knowledge.LABELS} if self.aimed else set()
        return Threat(Adversary.CLIENT, Behaviour.ACTIVE, View.SUM, frozenset(known))


@dataclasses.dataclass(frozen=True)
class SearchTurns:
    """When searches look, and at how much; see `KeySearch`."""

    first_turn: int = KeySearch.first_turn
    turns: int = KeySearch.turns
    probes: int = KeySearch.probes


def parse_guesses(
    texts: Sequence[str], turns: SearchTurns | None = None
) -> list[Guess]:
    """Reads guesses: `known`, `random`, a distance, or a method of search and effort.

    Args:
      texts: one a guess.
      turns: of all searches; None is the defaults.

    Raises:
      InputError: for any other text, or one that stands twice.
    """
    for text in texts:
        if texts.count(text) > 1:
            raise InputError(
                f"--guesses has {text!r} twice: expected each once; remove one"
            )
    return [_parse(text, turns or SearchTurns()) for text in texts]


def first_key(
    guess: Guess,
    true_key: np.ndarray,
    distribution: KeyDistribution,
    *,
    seed: int,
    adversary: int,
) -> np.ndarray:
    """The key that an adversary begins with, float32 `[d]` of length 1.

    Args:
      guess: where it comes from.
      true_key: float32 `[d]`, of the target.
      distribution: of keys that are drawn.
      seed: the run's.
      adversary: its number.

    Raises:
      InputError: if the distance is out of its range.
    """
    if guess.kind is GuessKind.KNOWN:
        return true_key
    stream = seeding.derive(
        seeding.root(seed), Role.PARTICIPANT, adversary, Role.KEY_GUESS
    )
    if guess.kind is GuessKind.DISTANCE:
        return key_at_distance(true_key, guess.distance, stream).numpy()
    return draw_keys(1, len(true_key), tf.constant(stream), distribution).numpy()[0]


def _parse(text: str, turns: SearchTurns) -> Guess:
    if text in (KNOWN, RANDOM):
        return Guess(text, GuessKind(text))
    method, colon, effort = text.partition(":")
    methods = [method.value for method in SearchMethod]
    if colon and method in methods and effort.isdecimal():
        search = KeySearch(
            SearchMethod(method), int(effort), **dataclasses.asdict(turns)
        )
        return Guess(text, GuessKind.SEARCH, search=search)
    try:
        distance = float(text)
    except ValueError:
        distance = -1.0
    if not 0 <= distance <= 2:
        raise InputError(
            f"--guesses has {text!r}: expected known, random, a distance in [0, 2], or "
            f"a search and its effort, one of {', '.join(methods)}, such as "
            f"{methods[0]}:100; correct the list"
        )
    return Guess(text, GuessKind.DISTANCE, distance=distance)
