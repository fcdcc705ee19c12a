"""Threats that contradict themselves, and processes that contradict a threat."""

import functools
import itertools

import pytest
import tensorflow_federated as tff

from computations.dssgd import build_dssgd
from computations.fed_avg import build_fed_avg, build_fed_avg_client_work
from tff_leak.attacks.observation import identify_clients, observing_factory
from tff_leak.defences.local_dp import LocalDp, noise_updates
from tff_leak.defences.record_level_dp import RecordLevelDp
from tff_leak.defences.secure_aggregation import (
    secure_counts_factory,
    secure_mean_factory,
)
from tff_leak.errors import InputError
from tff_leak.models import layers
from tff_leak.models.network import sequential
from tff_leak.threat import (
    Adversary,
    Behaviour,
    Knowledge,
    Threat,
    View,
    check_process,
)

LINEAR = sequential("linear", (1,), [layers.dense(2, initializer=layers.zeros)])
PASSIVE, ACTIVE = Behaviour.PASSIVE, Behaviour.ACTIVE
CLIENT = Threat(Adversary.CLIENT, ACTIVE, View.SUM)
ROWS, NOISED, SUM = (
    Threat(Adversary.SERVER, PASSIVE, view)
    for view in (View.ROWS, View.NOISED_ROWS, View.SUM)
)


def _reason(adversary, behaviour, view, knowledge):
    """Why a combination is refused, None if it is not: the table in plain words."""
    if adversary is Adversary.CLIENT:
        # A client sees the shared model only.
        return None if view is View.SUM else f"view is {view.value} of a client"
    if behaviour is ACTIVE and view is View.SUM:
        return "view is sum of an active server"
    return "knowledge has key of a server" if Knowledge.KEY in knowledge else None


def test_every_combination_is_made_or_refused_with_its_reason():
    powers = [
        frozenset(part)
        for size in range(4)
        for part in itertools.combinations(Knowledge, size)
    ]
    refused = 0
    for parts in itertools.product(Adversary, Behaviour, View, powers):
        reason = _reason(*parts)
        if reason is None:
            assert Threat(*parts).knowledge == parts[3]
            continue
        with pytest.raises(InputError, match=reason) as caught:
            Threat(*parts)
        assert "expected" in str(caught.value) and "\n" not in str(caught.value)
        refused += 1
    # Of 96: 32 with a client that sees rows, 8 with an active server that sees a sum,
    # and of the other 40 of a server the half that has a key.
    assert refused == 32 + 8 + 20


@pytest.mark.parametrize(
    "change, message",
    [
        ({"adversary": "client"}, "adversary is 'client': expected one of Adversary's"),
        ({"behaviour": None}, "behaviour is None: expected one of Behaviour's PASSIVE"),
        ({"view": View}, "view is <enum 'View'>: expected one of View's ROWS"),
        ({"knowledge": ["labels"]}, "knowledge is 'labels': expected one of Knowledge"),
    ],
)
def test_parts_of_another_kind(change, message):
    parts = {"adversary": Adversary.SERVER, "behaviour": PASSIVE, "view": View.SUM}
    with pytest.raises(InputError, match=message):
        Threat(**{**parts, **change})


@functools.cache
def _process(name):
    """Processes by what stands out in them."""
    mean = tff.aggregators.MeanFactory()
    work = build_fed_avg_client_work(LINEAR)
    if name == "plain":
        return build_fed_avg(LINEAR)
    if name == "observed":
        return build_fed_avg(
            LINEAR,
            client_work=identify_clients(work),
            model_aggregator=observing_factory(mean),
        )
    if name == "noised and observed":
        return build_fed_avg(
            LINEAR,
            client_work=identify_clients(noise_updates(LocalDp(1.0, 1.0), work)),
            model_aggregator=observing_factory(mean),
        )
    if name == "record-level":
        private = build_fed_avg_client_work(LINEAR, privacy=RecordLevelDp(1.0, 1.0))
        return build_fed_avg(LINEAR, client_work=private)
    if name == "dssgd":
        return build_dssgd(LINEAR)
    secure = build_fed_avg_client_work(
        LINEAR, metrics_aggregator=secure_counts_factory(100.0)
    )
    return build_fed_avg(
        LINEAR,
        client_work=secure,
        model_aggregator=secure_mean_factory(1.0, greatest_weight=100.0),
    )


ALLOWED = {
    "plain": [ROWS, CLIENT],
    "observed": [ROWS],
    "noised and observed": [NOISED],
    "record-level": [NOISED, CLIENT],
    "secure": [SUM, CLIENT],
    # Whether its participants noise what they upload cannot be read from its type.
    "dssgd": [ROWS, NOISED, CLIENT],
}


@pytest.mark.parametrize("name", ALLOWED)
def test_processes_keep_to_their_threats_and_to_no_others(name):
    for threat in (ROWS, NOISED, SUM, CLIENT):
        if threat in ALLOWED[name]:
            check_process(threat, _process(name))
        else:
            with pytest.raises(InputError, match="expected") as caught:
                check_process(threat, _process(name))
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "threat, name, reason",
    [
        (ROWS, "secure", "view is rows of a process that aggregates securely"),
        (NOISED, "secure", "view is noised_rows of a process that aggregates securely"),
        (SUM, "plain", "does not aggregate securely"),
        (
            SUM,
            "observed",
            "gathers every client's row at the server, whose view is sum",
        ),
        (CLIENT, "observed", "the adversary is a client: expected no observer"),
        (ROWS, "record-level", "view is rows of a process whose clients add noise"),
        (NOISED, "observed", "noised_rows of a process whose clients add no noise"),
    ],
)
def test_reasons(threat, name, reason):
    with pytest.raises(InputError, match=reason):
        check_process(threat, _process(name))


def test_an_observer_over_secure_aggregation_is_not_even_built():
    secure = secure_mean_factory(1.0, greatest_weight=100.0)
    with pytest.raises(InputError, match="aggregation to observe is secure"):
        build_fed_avg(
            LINEAR,
            client_work=identify_clients(build_fed_avg_client_work(LINEAR)),
            model_aggregator=observing_factory(secure),
        )
