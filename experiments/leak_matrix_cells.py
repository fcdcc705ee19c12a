"""The attacks and defences of the leak matrices, as data.

An attack is a command, and a defence is what it changes in that command, by the binary
that it runs; or the reason why it changes nothing there. Whether a combination
contradicts itself is asked of `tff_leak.threat`.
"""

import dataclasses
import enum
from collections.abc import Mapping

from experiments.key_guesses import parse_guesses
from tff_leak.errors import InputError
from tff_leak.threat import Adversary, Behaviour, Knowledge, Threat, View

CLIENT_GAN = "experiments.run_client_gan"
AVERAGING = "client_gan_averaging"
KEY_PROTECTED = "experiments.run_key_protected"
SERVER_GAN = "experiments.run_server_gan"
UPDATE_ATTACKS = "experiments.run_update_attacks"


class Measure(enum.Enum):
    """What a cell's leakage is: 0 is none.

    RECOVERED: see `tff_leak.metrics.score.recovered`. ADVANTAGE: of membership
    inference, true positive rate less false positive rate.
    """

    RECOVERED = "recovered"
    ADVANTAGE = "advantage"


@dataclasses.dataclass(frozen=True)
class Program:
    """A command.

    Attributes:
      module: the binary.
      preset: a file in `experiments/configs`, without its suffix; None for none.
      flags: after the preset's.
      quick: after these, in a quick matrix.
    """

    module: str
    preset: str | None = None
    flags: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Attack:
    """A column of the matrix.

    Attributes:
      name: of flags and folders.
      title: for people.
      program: the attack without a defence.
      threat: the same, as a threat model.
      measure: of what leaks.
      controlled: further flags of the run without a defence, which has the control
        that its floor needs.
      defended: further flags of runs with a defence, which are measured against the
        floor and reference of the one without.
      works_on_sum: whether a server that sees sums alone can still attack.
    """

    name: str
    title: str
    program: Program
    threat: Threat
    measure: Measure = Measure.RECOVERED
    controlled: tuple[str, ...] = ()
    defended: tuple[str, ...] = ()
    works_on_sum: bool = False


Change = tuple[str, ...] | Program | str
"""What a defence does to a binary's command: flags after the attack's, another command
in its place, or nothing, for the reason that is given."""


@dataclasses.dataclass(frozen=True)
class Defence:
    """A row of the matrix.

    Attributes:
      name: of flags and folders.
      title: for people.
      on: by binary, or by the name of an attack, which goes before its binary.
      view: what a server sees of updates under it; a client sees the sum at most.
      family: of rows that are one defence before different adversaries: it stops what
        none of them gets through. Empty: alone.
      knows: what a client that attacks under it knows; None: what the attack says.
    """

    name: str
    title: str
    on: Mapping[str, Change]
    view: View = View.ROWS
    family: str = ""
    knows: frozenset[Knowledge] | None = None


@dataclasses.dataclass(frozen=True)
class Matrix:
    """Attacks against defences.

    Attributes:
      name: of the flag, and of the data set.
      attacks: by name.
      defences: by name; the first is `NO_DEFENCE`.
      quick: names of the attacks, and of the defences, that a quick matrix has.
    """

    name: str
    attacks: Mapping[str, Attack]
    defences: Mapping[str, Defence]
    quick: tuple[tuple[str, ...], tuple[str, ...]]


NO_DEFENCE = Defence(
    "none",
    "no defence",
    on={CLIENT_GAN: (), SERVER_GAN: (), UPDATE_ATTACKS: ()},
)


def threat_under(attack: Attack, defence: Defence) -> Threat:
    """Returns the threat model of an attack when a defence is in place.

    Raises:
      InputError: if the combination contradicts itself, with the reason.
    """
    if attack.threat.adversary is Adversary.CLIENT:
        # What the server sees does not help it.
        known = attack.threat.knowledge if defence.knows is None else defence.knows
        return dataclasses.replace(attack.threat, knowledge=known)
    threat = dataclasses.replace(attack.threat, view=defence.view)
    if threat.view is View.SUM and not attack.works_on_sum:
        raise InputError(
            f"view is sum of the server in {attack.title!r}: expected rows, since it "
            f"draws one client from its own updates; leave {defence.name} out"
        )
    return threat


def change_of(attack: Attack, defence: Defence) -> Change:
    """Returns what a defence does to an attack's command."""
    binary = attack.program.module
    missing = f"{binary.rpartition('.')[2]} has no flag for this defence"
    return defence.on.get(attack.name, defence.on.get(binary, missing))


# Hitaj et al.: a client sees the shared model, and knows which class it wants.
_MALICIOUS_CLIENT = Threat(
    Adversary.CLIENT, Behaviour.ACTIVE, View.SUM, frozenset({Knowledge.LABELS})
)
_CURIOUS_SERVER = Threat(Adversary.SERVER, Behaviour.PASSIVE, View.ROWS)
_AUXILIARY_SERVER = dataclasses.replace(
    _CURIOUS_SERVER, knowledge=frozenset({Knowledge.AUXILIARY_DATA})
)

_IN_TURNS = (
    "participants train in turns: the sum of a cohort of one is its participant's "
    "update, and the next one downloads it anyway"
)

_OF_TURNS = (
    "it chooses what a participant's turn uploads; the clients of this server send "
    "whole updates"
)


def _client_gan(preset: str, quick: tuple[str, ...]) -> Attack:
    return Attack(
        "client_gan",
        "GAN of a malicious client (Hitaj et al.)",
        Program(CLIENT_GAN, preset, ("--targets=3",), quick),
        _MALICIOUS_CLIENT,
        controlled=("--arms=attack,control",),
        defended=("--arms=attack",),
    )


def _averaging(*flags: str) -> Attack:
    """The same in federated averaging, where there is a cohort to hide in.

    The adversary is exempt from the noise of records and updates, as nobody can make it
    add any. It keeps to selective sharing and to the sparse vector technique, as in the
    paper, so that these may look better than they are.
    """
    program = Program(
        CLIENT_GAN, "digits_averaging", ("--targets=3", *flags), ("--rounds=40",)
    )
    return dataclasses.replace(
        _client_gan("digits_averaging", ()),
        name=AVERAGING,
        title="GAN of a malicious client in federated averaging",
        program=program,
    )


def _update_attack(
    name: str,
    title: str,
    program: Program,
    measure: Measure = Measure.RECOVERED,
) -> Attack:
    return Attack(
        name,
        title,
        program,
        _CURIOUS_SERVER,
        measure,
        works_on_sum=True,
    )


def _update_attacks(dataset: str) -> list[Attack]:
    # As many clients as user-level DP wants at least, for all to be comparable.
    shared = (f"--dataset={dataset}", "--clients=40")

    def program(preset: str, *flags: str) -> Program:
        return Program(UPDATE_ATTACKS, preset, (*shared, *flags))

    # At the preset's rate the mean of forty unclipped gradients diverges. By cosine:
    # clipping alone would stop the squared distance.
    inversion = (
        "--victims=0,1,2,3",
        "--training=learning_rate=0.1",
        "--inversion=distance=cosine,iterations=200",
    )
    aimed_at = ("--victims=0,1,2,3,4,5,6,7,8,9",)
    return [
        _update_attack(
            "gradient_inversion",
            "Gradient inversion by the server (Zhu et al.; Geiping et al.'s distance)",
            program("inversion_digits", *inversion),
        ),
        _update_attack(
            "gradient_inversion_rounds",
            "Gradient inversion by the server, from 30 rounds together",
            program("inversion_digits", *inversion, "--pooled_rounds=30"),
        ),
        _update_attack(
            "first_layer",
            "First layer in closed form by the server (Aono et al.)",
            program("first_layer_digits", *aimed_at),
        ),
        _update_attack(
            "first_layer_rounds",
            "First layer in closed form by the server, from 30 rounds together",
            program("first_layer_digits", *aimed_at, "--pooled_rounds=30"),
        ),
        _update_attack(
            "membership",
            "Membership by the loss (Yeom et al.)",
            program("membership_digits"),
            Measure.ADVANTAGE,
        ),
    ]


# Of attacks on updates, `--training` under a defence that clips: at the rate without it
# the model learns less for that alone, which would be laid at the defence's door. Task
# accuracy on digits, one seed each, at the rate without a defence and at the best one
# that was tried (two or three; on MNIST none were):
#
#   inversion (.88 at .1 without)   record-level, noise .1   .36   .88 at 1
#                                   record-level, noise .6   .33   .75 at 1
#                                   record-level, noise 1.1  .32   .62 at .3
#                                   record-level, noise 2    .37   (.23 at .3, .13 at 1)
#                                   user-level, noise .3     .36   .89 at 1
#                                   local, noise .003        .68   .88 at .3
#   first layer (.75 at .05)        record-level, noise .1   .41   .51 at .2
#                                   user-level, noise .3     .64   (.58 at .1; .54: .2)
#   membership (.90 at .1)          record-level, noise .1   .78   .88 at .3
#                                   record-level, noise 2    .60   (.18 at .3)
#
# Where nothing was better, and where nothing was tried, the rate is that without.
_RECORD_RATES: Mapping[str, Mapping[str, str]] = {
    "0.1": {
        "gradient_inversion": "learning_rate=1",
        "first_layer": "learning_rate=0.2,epochs=5",
        "membership": "learning_rate=0.3,epochs=5",
    },
    "0.6": {"gradient_inversion": "learning_rate=1"},
    "1.1": {"gradient_inversion": "learning_rate=0.3"},
}
# Of the server's GAN, in batches of 30. On MNIST, network of half the width, 18 rounds,
# one seed, without an attack: .54 without a defence, at the paper's rate of .002 in
# batches of 3, which is not the best one; with noise .1 .40 at .02 in batches of 3, and
# in those of 30 .42 at .2 and .73 at 1; noise .6 .43 at .2, .61 at 1; noise 2 .41 at
# .4, .31 at 1. Noise 1.1 and 4 were not tried. Local DP keeps .53 to .56 at the rate of
# no defence.
_SERVER_GAN_RATES = {"0.1": "1", "0.6": "1", "1.1": "0.4", "2": "0.4", "4": "0.2"}


def _server_gan_training(noise: str) -> tuple[str, ...]:
    """How clients train by DP-SGD, and gamma, which follows it.

    As in the preset, gamma is half of rate * steps / 4; there 100 steps of .002, here
    10. That gradients are clipped shortens updates further, which it does not know.
    """
    rate = _SERVER_GAN_RATES[noise]
    gamma = float(rate) * 10 / 8
    return (
        f"--training=learning_rate={rate}",
        "--batch_size=30",
        "--matching=images=9,iterations=60,tv_weight=0.001,start_noise=0.5,"
        f"gamma={gamma:g}",
    )


# In federated averaging of the client GAN, whose rate is .4 without a defence. Seed 0:
# noise .1 .76 at .4, .85 at 1; noise .6 .72 at .4, .80 at 1, .80 at 3; noise 2 .48 at
# .4, .17 at 2. Noise 1.1 and 4 were not tried. User-level DP at the rate without keeps
# .96 (noise .3 and 1), .94 (4) and .85 (8).
_AVERAGING_RATES = dict.fromkeys(
    ("0.1", "0.6"), ("--training=learning_rate=1,batch_size=32",)
)
_USER_RATES = {"gradient_inversion": "learning_rate=1"}
_LOCAL_RATES = {"gradient_inversion": "learning_rate=0.3"}


# Of gradient inversion, where clients add noise: an attack that knows of it. The total
# variation takes the noise out, what is found gets the contrast of its kind back, and
# 300 steps stand for 200. The values are the best of a few that were tried with seed 0
# under local DP (of MNIST's training pixels .85 are black, of digits' .63). Seed 0,
# recovered (judge's share) without and with:
#
#   MNIST    local, noise .01     -.11 (.00)    .58 (.81)
#            record-level, .1     -.40 (.00)   -.35 (.00)
#   digits   local, noise .003    -.48 (.00)    .81 (.88)
#            local, noise .01    -1.31 (.00)    .33 (.06)
_BACKGROUND = {"digits": "0.6", "mnist": "0.7"}
_VARIATION = {"0.003": "0.1"}


def _against_noise(dataset: str, noise: str) -> str:
    variation = _VARIATION.get(noise, "0.3")
    return (
        "--inversion=distance=cosine,iterations=300,"
        f"tv_weight={variation},background={_BACKGROUND[dataset]}"
    )


def _at_rates(
    rates: Mapping[str, str], flag: str, against: Mapping[str, str] | None = None
) -> dict[str, Change]:
    """A flag for all attacks on updates, and what some of them have beside it.

    What an attack has it has over several rounds as well.

    Args:
      rates: `--training` by attack.
      flag: the defence's.
      against: by attack, what it does against the defence.
    """
    against = against or {}
    named = {
        name: (
            *((f"--training={rates[name]}",) if name in rates else ()),
            *((against[name],) if name in against else ()),
            flag,
        )
        for name in {**rates, **against}
    }
    over_rounds = {f"{name}_rounds": flags for name, flags in named.items()}
    return {UPDATE_ATTACKS: (flag,), **named, **over_rounds}


def _sparse_vector(epsilon: str) -> Defence:
    return Defence(
        f"sparse_vector_{epsilon}",
        f"sparse vector technique, eps/c = {epsilon}",
        {
            CLIENT_GAN: (f"--sparse_vector=epsilon_per_parameter={epsilon}",),
            UPDATE_ATTACKS: _OF_TURNS,
            SERVER_GAN: _OF_TURNS,
        },
    )


def _record_dp(dataset: str, noise: str) -> Defence:
    settings = f"clip=1,noise_multiplier={noise}"
    return Defence(
        f"record_dp_{noise}",
        f"record-level DP (DP-SGD), noise {noise}",
        {
            # Clipped gradients are shorter: two and a half times the rate without.
            CLIENT_GAN: (
                "--training=learning_rate=0.05,batch_size=32",
                f"--record_dp={settings},sampling=poisson",
            ),
            # A client of few examples makes one step on all of them.
            AVERAGING: (
                *_AVERAGING_RATES.get(noise, ()),
                f"--record_dp={settings}",
            ),
            SERVER_GAN: (*_server_gan_training(noise), f"--record_dp={settings}"),
            **_at_rates(
                _RECORD_RATES.get(noise, {}),
                f"--record_dp={settings}",
                {"gradient_inversion": _against_noise(dataset, noise)},
            ),
        },
        View.NOISED_ROWS,
    )


def _local_dp(dataset: str, noise: str) -> Defence:
    def flag(clip: str) -> str:
        return f"--local_dp=clip={clip},noise_multiplier={noise}"

    return Defence(
        f"local_dp_{noise}",
        f"local DP of the update, noise {noise}",
        {
            CLIENT_GAN: (flag("0.5"),),
            SERVER_GAN: (flag("0.5"),),
            **_at_rates(
                _LOCAL_RATES,
                flag("1"),
                {"gradient_inversion": _against_noise(dataset, noise)},
            ),
        },
        View.NOISED_ROWS,
    )


def _user_dp(noise: str, mechanism: str = "") -> Defence:
    settings = f"clip=0.5,noise_multiplier={noise}"
    name, title = noise, f"noise {noise}"
    if mechanism:
        settings += f",mechanism={mechanism}"
        name, title = f"{mechanism}_{noise}", f"{mechanism}, noise {noise}"
    return Defence(
        f"user_dp_{name}",
        f"user-level DP at the server, {title}",
        {
            CLIENT_GAN: "participants upload to a parameter server, one at a time: "
            "there is no cohort to hide among",
            AVERAGING: (f"--user_dp={settings}",),
            SERVER_GAN: "it is the server that adds this noise, after it has the rows",
            **_at_rates(_USER_RATES, f"--user_dp={settings}"),
        },
    )


def _class_keys(
    guess: str, title: str, program: Program, family: str = "keys"
) -> Defence:
    changed = dataclasses.replace(program, flags=(*program.flags, f"--guesses={guess}"))
    reason = "class keys are of participants that share a classifier in turns"
    return Defence(
        f"keys_{guess.partition(':')[0]}",
        f"class keys; the adversary {title}",
        {
            CLIENT_GAN: changed,
            **dict.fromkeys((AVERAGING, UPDATE_ATTACKS, SERVER_GAN), reason),
        },
        family=family,
        knows=parse_guesses([guess])[0].threat.knowledge,
    )


def _defences(dataset: str, keys: Program) -> list[Defence]:
    return [
        NO_DEFENCE,
        Defence(
            "selective_sharing",
            "selective sharing, theta_u = .1",
            {
                CLIENT_GAN: ("--sharing=upload_fraction=0.1",),
                UPDATE_ATTACKS: _OF_TURNS,
                SERVER_GAN: _OF_TURNS,
            },
        ),
        *map(_sparse_vector, ("100", "10", "0.01")),
        *(_record_dp(dataset, noise) for noise in ("0.1", "0.6", "1.1", "2", "4")),
        *(_local_dp(dataset, noise) for noise in ("0.003", "0.01", "0.03", "0.1")),
        *map(_user_dp, ("0.3", "1", "4", "8")),
        *(_user_dp("1", mechanism) for mechanism in ("adaptive", "tree")),
        # Keys do not claim to stop who has them.
        _class_keys("known", "has the right one: the positive control", keys, ""),
        _class_keys("random", "draws one at random", keys),
        _class_keys("embeddings:20", "estimates one from the fetched model", keys),
        Defence(
            "secure_aggregation",
            "secure aggregation",
            {
                CLIENT_GAN: _IN_TURNS,
                **dict.fromkeys(
                    (AVERAGING, UPDATE_ATTACKS), ("--secure_aggregation=bound=1",)
                ),
            },
            View.SUM,
        ),
    ]


def _matrix(
    name: str,
    attacks: list[Attack],
    keys: Program,
    quick: tuple[tuple[str, ...], tuple[str, ...]],
) -> Matrix:
    return Matrix(
        name,
        {attack.name: attack for attack in attacks},
        {defence.name: defence for defence in _defences(name, keys)},
        quick,
    )


_QUICK_ATTACKS = ("client_gan", "gradient_inversion")
_QUICK_DEFENCES = (
    "none",
    "selective_sharing",
    "sparse_vector_10",
    "record_dp_1.1",
    "local_dp_0.03",
    "keys_embeddings",
    "secure_aggregation",
)

# At d = 1024 behind a fixed layer, where a search has been seen to find keys.
_DIGITS_KEYS = Program(KEY_PROTECTED, "keys_digits", quick=("--rounds=60",))
_MNIST_KEYS = Program(KEY_PROTECTED, "keys_adaptive_small", quick=("--rounds=60",))

DIGITS = _matrix(
    "digits",
    [
        _client_gan("digits", ("--rounds=60",)),
        _averaging(),
        *_update_attacks("digits"),
    ],
    _DIGITS_KEYS,
    (_QUICK_ATTACKS, _QUICK_DEFENCES),
)
MNIST = _matrix(
    "mnist",
    [
        _client_gan("hitaj_fig6a_small", ("--rounds=60",)),
        _averaging("--dataset=mnist", "--per_class=90"),
        Attack(
            "server_gan",
            "GAN of the server (Wang et al., strengthened)",
            Program(
                SERVER_GAN,
                "mgan_fig4_strengthened",
                # What it leaks is measured against a control of its own.
                ("--arms=attack,control",),
                (
                    "--rounds=18",
                    "--gan=learning_rate=0.001,momentum=0.5,batch_size=16,planes=16,"
                    "base_filters=48",
                ),
            ),
            _AUXILIARY_SERVER,
        ),
        *_update_attacks("mnist"),
    ],
    _MNIST_KEYS,
    (_QUICK_ATTACKS, _QUICK_DEFENCES),
)
MATRICES = {matrix.name: matrix for matrix in (DIGITS, MNIST)}
