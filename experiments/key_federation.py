"""Participants with private class keys: their tables, data, model and accuracy."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from computations import dssgd, key_protected
from experiments.dssgd_arm import ArmState
from experiments.federation import Federation
from experiments.networks import papers_classifier
from tff_leak.data.sources import Examples, Source
from tff_leak.defences.key_protection import (
    KeyDistribution,
    Normalisation,
    draw_keys,
    key_embedding,
    scores,
)
from tff_leak.errors import InputError
from tff_leak.models.layers import Moments
from tff_leak.models.network import Network
from tff_leak.runtime import seeding
from tff_leak.runtime.seeding import Role

_BATCH = 500
_NO_CLASS = -1  # What a key for fakes says.

FAKES_ROW = 0
"""Of an adversary's table, the same whatever its classes are."""


@dataclasses.dataclass(frozen=True)
class KeySettings:
    """The keys and the embedding; see `key_embedding`.

    Attributes:
      distribution: of a key's numbers; the paper's is U(-1, 1).
      fixed_from: keys of this length or more come from a fixed layer (section 4.2);
        the text does not say from where on it has one.
      hidden: inputs of the fixed layer (not in the text).
      normalisation: behind the fixed layer.
      hit_score: score from which the adversary takes a fake for its target (not in the
        text); see `key_aim`.
    """

    distribution: KeyDistribution = KeyDistribution.UNIFORM
    fixed_from: int = 1024
    hidden: int = 128
    normalisation: Normalisation = Normalisation.INSTANCE
    hit_score: float = 0.5

    def normalisation_of(self, dimension: int) -> Normalisation | None:
        """Behind the fixed layer of keys this long; None: there is no such layer."""
        return self.normalisation if dimension >= self.fixed_from else None

    def __post_init__(self):
        for name in ("fixed_from", "hidden"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"keys {name} is {getattr(self, name)}: expected 1 or more; "
                    "correct --keys"
                )


@dataclasses.dataclass(frozen=True, eq=False)
class KeyTable:
    """A participant's private keys.

    Attributes:
      classes: that it holds.
      keys: float32 `[k, d]`, of these.
      fakes: float32 `[1, d]`, an adversary's key for its fakes; `[0, d]` of others.
    """

    classes: tuple[int, ...]
    keys: np.ndarray
    fakes: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """What the participant trains towards: float32 `[., d]`, fakes first."""
        return np.concatenate([self.fakes, self.keys])

    def key_of(self, label: int) -> np.ndarray:
        """The key of a class that it holds, float32 `[d]`."""
        return self.keys[self.classes.index(label)]

    def with_rows_as_labels(self, data: Examples) -> Examples:
        """The participant's data, its labels replaced by rows of `rows`."""
        places = np.searchsorted(self.classes, data.labels) + len(self.fakes)
        return Examples(data.images, places.astype(np.int32))


def draw_tables(
    federation: Federation, dimension: int, distribution: KeyDistribution, seed: int
) -> list[KeyTable]:
    """Draws every participant's keys, each from its own random stream."""
    tables = []
    for number, data in enumerate(federation.data):
        classes = tuple(int(label) for label in np.unique(data.labels))
        fakes = int(number in federation.adversaries)
        stream = seeding.derive(seeding.root(seed), Role.PARTICIPANT, number)
        drawn = draw_keys(fakes + len(classes), dimension, stream, distribution)
        keys = drawn.numpy()
        tables.append(KeyTable(classes, keys[fakes:], keys[:fakes]))
    return tables


def build_embedding(
    source: Source,
    dimension: int,
    settings: KeySettings,
    seed: int,
    moments: Moments | None = None,
) -> Network:
    """Builds the shared model: the paper of the attack's CNN, with keys at its end."""
    return key_embedding(
        f"keys_{dimension}",
        functools.partial(papers_classifier, source.image_shape),
        dimension,
        hidden=settings.hidden,
        normalisation=settings.normalisation_of(dimension),
        seed=seed,
        moments=moments,
    )


def client_state_maker(
    tables: Sequence[KeyTable],
) -> Callable[..., dssgd.ClientState]:
    """Returns what `DssgdArm` takes as `initial_client_state`: with the keys in it."""

    def make(network, server, *, participant, **settings):
        keys = tables[participant].rows
        return key_protected.initial_client_state(
            network, server, keys=keys, participant=participant, **settings
        )

    return make


@dataclasses.dataclass(frozen=True, eq=False)
class OfflineEvaluator:
    """Who has all keys, outside the federation, and measures with them.

    A real one would be given them after the training only; this one looks after every
    turn, for curves over rounds. Nothing in the federation gets to see what it
    computes, and no run is stopped by it.

    Attributes:
      network: the embedding.
      tables: of all participants.
      test: examples of the classes that somebody has a key for.
      each_by_itself: whether the network's output for a picture is the same whatever
        stands beside it, so that only pictures that are asked after need be shown.
      local: what each participant trains on, or a part of it; empty: accuracy on it
        is not measured.
    """

    network: Network
    tables: Sequence[KeyTable]
    test: Examples
    each_by_itself: bool = False
    local: Sequence[Examples] = ()

    def accuracy(self, server: dssgd.ServerState) -> float:
        """Measures a model by Eq. 4, over all class keys of all participants."""
        _, classes = _all_keys(self.tables)
        return _share_right(self._scores(server), classes, self.test.labels)

    def accuracy_with_fakes(self, server: dssgd.ServerState) -> float:
        """The same with adversaries' keys for fakes among the answers, which are wrong.

        Where an attack works, real pictures of its target are called fakes, as in a
        federation without keys, whose accuracy this compares with.
        """
        fakes = np.concatenate([table.fakes for table in self.tables])
        keys, classes = _all_keys(self.tables)
        answers = self._scores(server, keys=np.concatenate([keys, fakes]))
        classes = np.concatenate([classes, np.full(len(fakes), _NO_CLASS, np.int32)])
        return _share_right(answers, classes, self.test.labels)

    def measure(self, state: ArmState) -> dict[str, float]:
        """Measures the participants' own models, as their last turns left them.

        Returns:
          `own_accuracy`, the mean over participants of their accuracy on their own
          classes by their own keys; `own_accuracy_least`, the least of them; and
          `local_accuracy_least`, the least of what they have on their local data, where
          that is known.
        """
        models = {
            number: own_model(state, number)
            for number, table in enumerate(self.tables)
            if table.classes
        }
        found = [
            self.accuracy_on_own(model, number) for number, model in models.items()
        ]
        measured = {
            "own_accuracy": float(np.mean(found)),
            "own_accuracy_least": float(min(found)),
        }
        if not self.local:
            return measured
        least = min(
            dataclasses.replace(self, test=self.local[number]).accuracy_on_own(
                model, number
            )
            for number, model in models.items()
        )
        return measured | {"local_accuracy_least": least}

    def accuracy_on_own(self, model: dssgd.ServerState, number: int) -> float:
        """Measures a model on a participant's own classes, by its own keys.

        Args:
          model: in the server's place.
          number: of a participant that holds a class.
        """
        counts = [len(table.classes) for table in self.tables]
        columns = np.repeat(np.arange(len(self.tables)), counts) == number
        _, classes = _all_keys(self.tables)
        asked = np.isin(self.test.labels, classes[columns])
        chosen = self._scores_where(asked, model)[:, columns]
        return _share_right(chosen, classes[columns], self.test.labels[asked])

    def participants_accuracy(self, state: ArmState, examples: Examples) -> float:
        """The mean over participants of what `accuracy` is of their own models.

        Args:
          state: the participants' models are those that their last turns left.
          examples: float32 images and labels, of classes that somebody has a key for.
        """
        _, classes = _all_keys(self.tables)
        found = []
        for number in range(len(self.tables)):
            answers = self._scores(own_model(state, number), examples.images)
            found.append(_share_right(answers, classes, examples.labels))
        return float(np.mean(found))

    def class_scores(self, server: dssgd.ServerState) -> list[dict]:
        """Scores of the classes' test examples with all keys (section 5.5).

        Returns:
          For each class {class, own, others}: `own` has the mean score with each of
          its keys, of which shared classes have several, and `others` is the largest
          absolute mean score with another class's.
        """
        _, classes = _all_keys(self.tables)
        scores_of = self._scores(server)
        rows = []
        for label in np.unique(self.test.labels):
            found = scores_of[self.test.labels == label].mean(axis=0)
            own, others = found[classes == label], found[classes != label]
            largest = float(np.abs(others).max()) if len(others) else None
            row = {"class": int(label), "own": own.tolist(), "others": largest}
            rows.append(row)
        return rows

    def _scores_where(self, asked: np.ndarray, server: dssgd.ServerState) -> np.ndarray:
        """Of the test examples of a mask `[n]`, float32 `[its sum, k]`."""
        if self.each_by_itself:
            return self._scores(server, self.test.images[asked])
        return self._scores(server)[asked]

    def _scores(
        self,
        server: dssgd.ServerState,
        images: np.ndarray | None = None,
        keys: np.ndarray | None = None,
    ) -> np.ndarray:
        """Of images, or all test examples, with all class keys, float32 `[n, k]`."""
        if images is None:
            images = self.test.images
        if keys is None:
            keys, _ = _all_keys(self.tables)
        weights = dssgd.model_weights(self.network, server)
        parts = []
        for start in range(0, len(images), _BATCH):
            batch = tf.constant(images[start : start + _BATCH])
            parts.append(scores(self.network.outputs(weights, batch), keys).numpy())
        return np.concatenate(parts)


def own_model(state: ArmState, participant: int) -> dssgd.ServerState:
    """The participant's own model, as its last turn left it, in the server's place."""
    return state.server._replace(parameters=state.clients[participant].parameters)


def overlap(
    key: np.ndarray,
    tables: Sequence[KeyTable],
    victims: Collection[int],
    number: int,
) -> dict[str, Any]:
    """The class key that an adversary's guess `[d]` comes closest to.

    Args:
      key: the guess, of length 1.
      tables: of all participants.
      victims: numbers of those among whose keys the nearest is looked for; see
        `Federation.victims`.
      number: of the adversary whose guess it is, never a victim of its own.

    Returns:
      {product, class, rival, fellow}: the largest product with a key of a victim and
      the class of that key; the largest with any other key, those of adversaries and of
      fakes among them: a generator that is drawn to that one instead does not show the
      class; and {product, class} of the nearest of other adversaries' class keys, which
      are victims', too, or None without any and where these are among the victims.
    """
    everybody = set(range(len(tables)))
    chosen = set(victims) - {number}
    aimed = [tables[owner] for owner in sorted(chosen)]
    others = [tables[owner] for owner in sorted(everybody - chosen)]
    fellows = [tables[owner] for owner in sorted(everybody - chosen - {number})]
    fellows = [table for table in fellows if len(table.classes)]
    keys, _ = _all_keys(aimed)
    best = int(np.argmax(keys @ key))
    rest = [table.rows for table in others] + [table.fakes for table in aimed]
    rest.append(np.delete(keys, best, axis=0))
    return {
        **_nearest(key, aimed),
        "rival": float(np.max(np.concatenate(rest) @ key)),
        "fellow": _nearest(key, fellows) if fellows else None,
    }


def _nearest(key: np.ndarray, tables: Sequence[KeyTable]) -> dict[str, Any]:
    """{product, class} of the class key in some tables that is nearest to `[d]`."""
    keys, classes = _all_keys(tables)
    products = keys @ key
    best = int(products.argmax())
    return {"product": float(products[best]), "class": int(classes[best])}


def _all_keys(tables: Sequence[KeyTable]) -> tuple[np.ndarray, np.ndarray]:
    """Keys float32 `[k, d]` and their classes int32 `[k]`; without those of fakes."""
    classes = [label for table in tables for label in table.classes]
    return np.concatenate([table.keys for table in tables]), np.array(classes, np.int32)


def _share_right(found: np.ndarray, classes: np.ndarray, labels: np.ndarray) -> float:
    """Eq. 4 of scores `[n, k]`, by keys of these classes `[k]`, in [0, 1]."""
    return float(np.mean(classes[found.argmax(axis=1)] == labels))
