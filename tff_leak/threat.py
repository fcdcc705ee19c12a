"""Who attacks, what they see, and what they know; checked against built processes.

A `Threat` is a claim about an experiment. Claims that contradict themselves are refused
when one is made, with the reason; `check_process` refuses a process that does not keep
to one, such as an observer over secure aggregation.
"""

import dataclasses
import enum

import tensorflow_federated as tff

from tff_leak.attacks.observation import Observed, Rows
from tff_leak.defences.client_noise import ClientNoiseState
from tff_leak.defences.secure_aggregation import check_secure
from tff_leak.errors import InputError


class Adversary(enum.Enum):
    """Who attacks: one of the participants, or who aggregates."""

    CLIENT = "client"
    SERVER = "server"


class Behaviour(enum.Enum):
    """Whether the adversary keeps to the protocol.

    PASSIVE only looks and computes. An ACTIVE client trains on data that it makes up
    (Hitaj et al., CCS 2017, section 6); an ACTIVE server treats one client apart from
    the others (Wang et al., INFOCOM 2019, section IV.D).
    """

    PASSIVE = "passive"
    ACTIVE = "active"


class View(enum.Enum):
    """What the adversary sees of the others' updates in one round.

    ROWS: each client's update as it was computed. NOISED_ROWS: each client's, with
    noise that the client itself added. SUM: what a cohort's updates come to together,
    and the models before and after it. (With a cohort of one the sum is a row:
    participants of DSSGD in turns, of whom the next one downloads what the last one
    changed.)
    """

    ROWS = "rows"
    NOISED_ROWS = "noised_rows"
    SUM = "sum"


class Knowledge(enum.Enum):
    """What the adversary knows beyond its view and the protocol.

    LABELS: which classes the victim holds. KEY: the victim's class key
    (`defences.key_protection`). AUXILIARY_DATA: real data of the victim's classes.
    """

    LABELS = "labels"
    KEY = "key"
    AUXILIARY_DATA = "auxiliary_data"


@dataclasses.dataclass(frozen=True)
class Threat:
    """A threat model.

    Attributes:
      adversary: who attacks.
      behaviour: passive or active.
      view: what it sees of the others' updates.
      knowledge: what else it knows.

    Raises:
      InputError: if the parts contradict each other.
    """

    adversary: Adversary
    behaviour: Behaviour
    view: View
    knowledge: frozenset[Knowledge] = frozenset()

    def __post_init__(self):
        for name, kind in (
            ("adversary", Adversary),
            ("behaviour", Behaviour),
            ("view", View),
        ):
            _check_kind(name, getattr(self, name), kind)
        for known in self.knowledge:
            _check_kind("knowledge", known, Knowledge)
        object.__setattr__(self, "knowledge", frozenset(self.knowledge))
        _check_contradictions(self)


def check_process(
    threat: Threat,
    process: tff.learning.templates.LearningProcess | tff.templates.IterativeProcess,
) -> None:
    """Raises InputError if a built process contradicts a threat, with the reason.

    Read from the process's computations and types: whether updates are summed securely,
    whether an observer gathers rows, and, of a `LearningProcess`, whether clients add
    noise (by `defences.local_dp` or record-level differential privacy). Not read: noise
    in the uploads of DSSGD, what cohorts the program makes, and what the adversary
    knows.

    Args:
      threat: the claim.
      process: e.g. of `build_fed_avg` or `build_dssgd`.
    """
    observed = _observes(process.next)
    if threat.adversary is Adversary.CLIENT:
        if observed:
            raise InputError(
                "the process gathers every client's row at the server, and the "
                "adversary is a client: expected no observer, since nobody would be "
                "looking; leave observing_factory out, or make the server the adversary"
            )
        return
    if threat.view is View.SUM:
        if observed:
            raise InputError(
                "the process gathers every client's row at the server, whose view is "
                "sum: expected an aggregate alone; leave observing_factory out, or "
                "make the view rows"
            )
        check_secure(process.next)
        return
    _check_rows(threat.view, process)


def _check_contradictions(threat: Threat) -> None:
    """Raises InputError if what an adversary sees or knows is not its to have."""
    if threat.adversary is Adversary.CLIENT and threat.view is not View.SUM:
        raise InputError(
            f"view is {threat.view.value} of a client: expected sum, since a client "
            "downloads the shared model and no other client's update; make the "
            "server the adversary, or the view sum"
        )
    active = threat.behaviour is Behaviour.ACTIVE
    server = threat.adversary is Adversary.SERVER
    if server and active and threat.view is View.SUM:
        raise InputError(
            "view is sum of an active server: expected rows or noised_rows, since "
            "treating one client apart takes its update by itself, and a server "
            "that has it alone in a cohort sees a row; make the server passive, or "
            "the view rows"
        )
    if server and Knowledge.KEY in threat.knowledge:
        raise InputError(
            "knowledge has key of a server: expected it of a client at most, since "
            "keys stay with participants and the protocol sends none; leave it "
            "out, or make the adversary a client that shares the victim's class"
        )


def _check_rows(view: View, process) -> None:
    """Rows must reach the server, with noise or without it as the view says."""
    try:
        tff.test.assert_not_contains_secure_aggregation(process.next)
    except AssertionError:
        raise InputError(
            f"view is {view.value} of a process that aggregates securely: expected an "
            "aggregation in the clear, since a secure sum shows the server no row; "
            "make the view sum, or leave secure aggregation out"
        ) from None
    state = process.initialize.type_signature.result.member
    if "client_work" not in _names(state):
        return
    noised = _is(state.client_work, ClientNoiseState)
    if noised and view is View.ROWS:
        raise InputError(
            "view is rows of a process whose clients add noise: expected noised_rows, "
            "since the updates themselves never leave; correct the view"
        )
    if not noised and view is View.NOISED_ROWS:
        raise InputError(
            "view is noised_rows of a process whose clients add no noise: expected "
            "noise in the client work; use local_dp or record_level_dp, or make the "
            "view rows"
        )


def _observes(computation: tff.Computation) -> bool:
    """Whether any part of a computation has the type of an observation."""
    pending = [computation.to_building_block()]
    while pending:
        block = pending.pop()
        if _contains_observed(block.type_signature):
            return True
        pending += block.children()
    return False


def _contains_observed(type_spec: tff.Type) -> bool:
    pending = [type_spec]
    while pending:
        found = pending.pop()
        # By names: inside of computations types do not keep their Python classes.
        if _names(found) == set(Observed._fields):
            if _names(found.rows) == set(Rows._fields):
                return True
        pending += found.children()
    return False


def _names(type_spec: tff.Type) -> set[str]:
    return set(dir(type_spec)) if isinstance(type_spec, tff.StructType) else set()


def _is(type_spec: tff.Type, container: type) -> bool:
    return (
        isinstance(type_spec, tff.types.StructWithPythonType)
        and type_spec.python_container is container
    )


def _check_kind(name: str, value: object, kind: type[enum.Enum]) -> None:
    if not isinstance(value, kind):
        names = ", ".join(member.name for member in kind)
        raise InputError(
            f"{name} is {value!r}: expected one of {kind.__name__}'s {names}; give it"
        )
