"""The server's attack on faces: only the victim's two people wear glasses.

Wang et al., section VI-B.2 and figure 5: a client holds pictures of two people with
glasses, other clients the same two without; "successful attack to the victim should be
reconstruction of the first two person wearing glasses". The split is ours: the paper
says nothing of it but the number of clients.

Nobody but the victim holds a picture with glasses, and the server has none either. So
people of whom there are only pictures with glasses take no part.
"""

import dataclasses

import numpy as np

from experiments.server_gan_data import Data
from tff_leak.data.sources import Source
from tff_leak.errors import InputError

# Of a person.
_HELDOUT = 2  # with glasses: a picture to compare with, and one to vary from it
_JUDGE = 2  # without, at most
_JUDGE_WITH = 3  # with, at most
_TEST = 1  # without, at least


@dataclasses.dataclass(frozen=True, eq=False)
class _Person:
    """Pictures of one person by number in the source, each kind in random order."""

    label: int
    worn: np.ndarray
    bare: np.ndarray


def build_glasses_data(
    source: Source,
    *,
    clients: int,
    people: int,
    per_person: int,
    victim: int,
    auxiliary: int,
    seed: int,
) -> Data:
    """Shares faces out so that only the victim's show glasses.

    Of each of the victim's people, who are drawn among those with enough pictures of
    both kinds: with glasses `per_person` for the victim, two held out (reference and
    template), one for the judge. Without glasses `per_person` for the victim of the
    control, one for the server, one held out, the rest (one or more) for another
    client; the template without glasses is of the last three, as they are so few. The
    judge, too, learns from the pictures of the control's victim: none of these is in
    the attack's federation.

    Of everybody else pictures without glasses alone: `per_person` for a client, two (of
    those with few: one) for the judge, up to `auxiliary`, at least one, for the server,
    the rest, at least one, for tests. These people are shared out among the other
    clients. Who has too few for that is in no client's data; the server and the judge
    have a picture each while there are some. The judge has pictures with glasses of all
    of them, at most three of a person.

    So the auxiliary set has pictures without glasses of everybody who has some, one of
    each of the victim's people, and none with glasses.

    Args:
      source: one that knows who wears glasses.
      clients: their number.
      people: of the victim.
      per_person: pictures of each that a client holds.
      victim: its number, from 0.
      auxiliary: see above, at least 1.
      seed: of all that is drawn.

    Raises:
      InputError: if a number is out of range or the data do not suffice.
    """
    _check(source, clients, victim, auxiliary)
    everybody = _everybody(source, seed)
    rng = np.random.default_rng([seed, source.num_classes])
    chosen = _choose(everybody, people, per_person, rng)
    rest = [person for person in everybody if person.label not in chosen]
    parts = _Parts([[] for _ in range(clients)])
    others = [number for number in range(clients) if number != victim]
    taking = [p for p in rest if len(p.bare) >= per_person + _TEST + 2]
    if len(taking) < len(others):
        raise InputError(
            f"--clients is {clients}: expected at most {len(taking) + 1}, as "
            f"{len(taking)} people have enough pictures without glasses to be others'; "
            "lower it or --per_class"
        )
    for place, number in enumerate(rng.permutation(len(taking))):
        parts.share_out(
            taking[number], others[place % len(others)], per_person, auxiliary
        )
    for place, label in enumerate(chosen):
        parts.aim_at(everybody[label], victim, others[place % len(others)], per_person)
    for person in rest:
        if person not in taking:
            parts.server += person.bare[:1].tolist()
            parts.judge += person.bare[1:2].tolist()
        parts.judge += person.worn[:_JUDGE_WITH].tolist()
    return parts.data(source, victim)


@dataclasses.dataclass
class _Parts:
    """Who has which pictures, by number in the source."""

    clients: list[list[int]]
    control: list[int] = dataclasses.field(default_factory=list)
    server: list[int] = dataclasses.field(default_factory=list)
    test: list[int] = dataclasses.field(default_factory=list)
    judge: list[int] = dataclasses.field(default_factory=list)
    worn: list[int] = dataclasses.field(default_factory=list)
    bare: list[int] = dataclasses.field(default_factory=list)

    def share_out(
        self, person: _Person, client: int, per_person: int, auxiliary: int
    ) -> None:
        """Somebody whom the attack does not aim at."""
        spare = len(person.bare) - per_person - _TEST
        judged = min(_JUDGE, spare - 1)
        sizes = [per_person, judged, min(auxiliary, spare - judged)]
        held, judge, server, test = np.split(person.bare, np.cumsum(sizes))
        self.clients[client] += held.tolist()
        self.judge += judge.tolist()
        self.server += server.tolist()
        self.test += test.tolist()

    def aim_at(self, person: _Person, victim: int, other: int, per_person: int) -> None:
        """One of the victim's people, whom another client has without glasses."""
        worn, bare = person.worn.tolist(), person.bare.tolist()
        self.clients[victim] += worn[:per_person]
        self.worn += worn[per_person : per_person + _HELDOUT]
        self.judge += worn[per_person + _HELDOUT :][:1]
        self.control += bare[:per_person]
        self.judge += bare[:per_person]
        self.server.append(bare[per_person])
        self.clients[other] += bare[per_person + 2 :]
        self.bare += bare[per_person:]

    def data(self, source: Source, victim: int) -> Data:
        """The pictures themselves."""
        take = source.train.take
        held = [take(numbers) for numbers in self.clients]
        control = [*held]
        control[victim] = take(self.control)
        everybody = np.arange(len(source.train))
        return Data(
            source=source,
            clients=held,
            control=control,
            victim=victim,
            angle=None,
            words=("with glasses", "without glasses"),
            auxiliary=take(self.server),
            test=take(self.test),
            with_property=take(self.worn),
            without_property=take(self.bare + self.test),
            judge=take(self.judge),
            gallery=take(np.setdiff1d(everybody, self.worn)),
        )


def _everybody(source: Source, seed: int) -> list[_Person]:
    """By label."""
    found = []
    for label in range(source.num_classes):
        rng = np.random.default_rng([seed, label])
        own = source.train.labels == label
        worn, bare = (
            rng.permutation(np.flatnonzero(own & kind))
            for kind in (source.glasses, ~source.glasses)
        )
        found.append(_Person(label, worn, bare))
    return found


def _choose(
    everybody: list[_Person], people: int, per_person: int, rng: np.random.Generator
) -> list[int]:
    """Labels of the victim's people."""
    least = per_person + _HELDOUT + 1  # the judge's; as many without: see the split
    able = [p.label for p in everybody if min(len(p.worn), len(p.bare)) >= least]
    if not 1 <= people <= len(able):
        raise InputError(
            f"--classes_per_client is {people}: expected from 1 to {len(able)} people "
            f"for the victim, of whom {least} pictures with glasses and {least} "
            "without are known; correct it or --per_class"
        )
    return rng.choice(able, people, replace=False).tolist()


def _check(source: Source, clients: int, victim: int, auxiliary: int) -> None:
    if source.glasses is None:
        raise InputError(
            f"--property is glasses with --dataset={source.name}: expected att_faces "
            "or synthetic_faces, of which is known who wears some; choose one of these"
        )
    if clients < 2 or not 0 <= victim < clients:
        raise InputError(
            f"--victim is {victim} of {clients} clients: expected at least 2, and a "
            f"victim from 0 to {max(clients, 2) - 1}; correct it or --clients"
        )
    if auxiliary < 1:
        raise InputError(
            f"--auxiliary is {auxiliary}: expected 1 or more pictures of a person; "
            "correct it"
        )
