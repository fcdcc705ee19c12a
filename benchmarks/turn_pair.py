"""Benchmark a: a turn pair of Hitaj et al. against hand-written TensorFlow.

    python -m benchmarks.turn_pair

An honest participant with 2500 images has its turn, then an adversary with 2500: 40
steps of its generator, 500 fakes, training on 3000. Batch 64, the paper's CNN for
32x32, a generator with 32 base filters. Once as two calls of `dssgd`'s `next` in the
in-process context, as an experiment makes them, once as one `tf.function`
(`hand_written_turns`). Both must come to the same weights first.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from benchmarks import contexts, program
from benchmarks.figures import Bound, Figure, check_equal, compare
from benchmarks.hand_written_turns import PairState, Settings, build_turn_pair
from benchmarks.harness import Contender, interleave
from benchmarks.workloads import random_examples
from computations import dssgd
from experiments.dssgd_arm import local_dataset
from tff_leak.attacks import client_gan
from tff_leak.data.sources import Examples
from tff_leak.models import classifiers, generators
from tff_leak.models.training import LocalSgd

IMAGES = 2500
_BOUND = Bound(at_most=1.10)
# Of the change of the weights in two turn pairs: rounding grows over the steps of G;
# other random streams would give about 1.
_TOLERANCE = 5e-2
_HONEST, _ADVERSARY = 0, 1


def measure(threads: int, seconds: float) -> Sequence[Figure]:
    """Returns the figure; see `program.Measure`."""
    ours, hand_written, difference = build(threads)
    times = interleave(
        {"in_process": ours, "hand-written": hand_written}, seconds=seconds
    )
    note = f"the weights' changes differ by {difference:.1g} of their size"
    figure = compare(
        "a", "turn pair", times, "in_process", "hand-written", bound=_BOUND, note=note
    )
    return [figure]


def build(
    threads: int | None, settings: Settings | None = None, images: int = IMAGES
) -> tuple[Contender, Contender, float]:
    """Builds both contenders, traces them, and makes sure that they do the same.

    Args:
      threads: of TensorFlow; None leaves them as they are.
      settings: of the turn pair; None is the benchmark's.
      images: that each participant holds.

    Returns:
      Ours, the hand-written one, and the relative difference of their changes of
      model and generator after two turn pairs.
    """
    settings = settings or Settings()
    ours = _Ours(settings, images, contexts.in_process(threads))
    turn_pair = ours.build_hand_written()
    start = ours.start()
    theirs = ours.hand_written_state(start)
    first, state = theirs, start
    for _ in range(2):  # The second one starts from streams and steps of its own.
        state = ours.turn_pair(state)
        theirs = turn_pair(theirs)
    reached = ours.hand_written_state(state)
    difference = check_equal(
        "turn pair", _change(first, reached), _change(first, theirs), _TOLERANCE
    )
    return _repeated(ours.turn_pair, state), _repeated(turn_pair, theirs), difference


class _State(NamedTuple):
    server: Any
    clients: Sequence[Any]


class _Ours:
    """The project's process, its data, and the same start for both contenders."""

    def __init__(self, settings: Settings, images: int, context: Any):
        self._settings = settings
        self._network = classifiers.hitaj_mnist(settings.fake_class + 1)
        self._attack = client_gan.ClientGan(
            generator=generators.hitaj_mnist(settings.base_filters),
            optimizer=tff.learning.optimizers.build_sgdm(settings.generator_rate),
            fake_class=settings.fake_class,
            generator_steps=settings.generator_steps,
            batch_size=settings.batch_size,
            fakes_per_turn=settings.fakes,
        )
        self._transform = client_gan.build_client_gan(self._attack, self._network)
        process = dssgd.build_dssgd(
            self._network,
            training=LocalSgd(
                learning_rate=settings.learning_rate,
                learning_rate_decay=settings.decay,
                batch_size=settings.batch_size,
            ),
            transform=self._transform,
        )
        self._initialize = contexts.calling(context, process.initialize)
        self._next = contexts.calling(context, process.next)
        shape = self._network.input_shape
        self._data = [Examples(*random_examples(shape, images, n)) for n in range(2)]
        self._datasets = [local_dataset(data) for data in self._data]

    def start(self) -> _State:
        """The state before the first turn."""
        server = self._initialize()
        adversary = client_gan.initial_state(
            self._attack, target=self._settings.target, seed=tf.constant([3, 4])
        )
        clients = [
            dssgd.initial_client_state(
                self._network,
                server,
                participant=number,
                seed=0,
                transform=self._transform,
                private=private,
            )
            for number, private in ((_HONEST, None), (_ADVERSARY, adversary))
        ]
        return _State(server, clients)

    def turn_pair(self, state: _State) -> _State:
        """An honest turn and the adversary's."""
        server, clients = state.server, []
        for number, client in enumerate(state.clients):
            server, (client,), _ = self._next(
                server, [self._datasets[number]], [client]
            )
            clients.append(client)
        return _State(server, clients)

    def build_hand_written(self):
        """The hand-written turn pair on the same data and streams."""
        honest, adversary = (
            (tf.constant(data.images), tf.constant(data.labels)) for data in self._data
        )
        clients = self.start().clients
        seeds = tuple(tf.constant(client.seed) for client in clients)
        return build_turn_pair(self._settings, honest, adversary, seeds)

    def hand_written_state(self, state: _State) -> PairState:
        """A state as the hand-written turn pair has it."""
        private = state.clients[_ADVERSARY].private
        return PairState(
            list(dssgd.model_weights(self._network, state.server).trainable),
            [tf.constant(rows[0]) for rows in private.generator.trainable],
            tf.constant([int(client.steps) for client in state.clients]),
            tf.constant(int(state.clients[_HONEST].turn)),
        )


def _change(before: PairState, after: PairState) -> list[np.ndarray]:
    old = [*before.model, *before.generator]
    new = [*after.model, *after.generator]
    return [np.subtract(b, a) for a, b in zip(old, new, strict=True)]


def _repeated(step: Any, state: Any) -> Contender:
    def run():
        nonlocal state
        state = step(state)

    return run


if __name__ == "__main__":
    program.run(measure)
