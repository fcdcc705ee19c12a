"""The data of the matrices: every command can be read by its binary."""

# bazel: size = large
# bazel: dep = experiments.run_client_gan
# bazel: dep = experiments.run_key_protected
# bazel: dep = experiments.run_server_gan
# bazel: dep = experiments.run_update_attacks

import dataclasses
import functools
import json
import pathlib
import re
import subprocess
import sys

import pytest

from experiments import leak_matrix_cells as cells
from experiments import leak_matrix_program, preset_files, presets
from experiments.key_guesses import parse_guesses
from experiments.settings import parse
from tff_leak.errors import InputError
from tff_leak.threat import Behaviour, Knowledge, View

PAIRS = [
    pytest.param(attack, defence, id=f"{matrix.name}-{attack.name}-{defence.name}")
    for matrix in cells.MATRICES.values()
    for attack in matrix.attacks.values()
    for defence in matrix.defences.values()
]


def _flags_of(program, more):
    """By name, those of a command; the last of a name counts."""
    found = {}
    if program.preset:
        found = preset_files.read(preset_files.CONFIGS / f"{program.preset}.flags")
    for flag in (*program.flags, *program.quick, *more):
        name, equals, value = flag.removeprefix("--").partition("=")
        assert flag.startswith("--") and equals
        found[name] = value
    return found


@pytest.mark.parametrize("attack, defence", PAIRS)
def test_flags_of_its_command_exist_and_can_be_read(attack, defence):
    change = cells.change_of(attack, defence)
    if isinstance(change, str):
        return
    program, more = attack.program, (*attack.controlled, *attack.defended)
    if isinstance(change, cells.Program):
        program, more = change, ()
    else:
        more += change
    binary = program.module.removeprefix("experiments.")
    defined = set(re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", presets.flag_sources(binary)))
    found = _flags_of(program, more)
    assert set(found) <= defined
    experiment = binary.removeprefix("run_")
    for name, text in found.items():
        cls = presets.settings_of(experiment, name)
        if cls is not None:
            given = presets.fixed_fields(experiment, name)
            values = parse(cls, text, flag=name, given=given)
            if name not in ("attack", "user_dp"):  # The program has the rest of these.
                cls(**values)
    parse_guesses(found.get("guesses", "known").split(","))


@pytest.mark.parametrize(
    "attack, defence, rate",
    [
        ("gradient_inversion", "record_dp_0.1", "learning_rate=1"),
        ("gradient_inversion", "record_dp_2", None),
        ("gradient_inversion", "user_dp_1", "learning_rate=1"),
        ("gradient_inversion", "secure_aggregation", None),
        ("gradient_inversion_rounds", "record_dp_0.1", "learning_rate=1"),
        ("first_layer", "record_dp_0.1", "learning_rate=0.2,epochs=5"),
        ("first_layer_rounds", "record_dp_0.1", "learning_rate=0.2,epochs=5"),
        ("membership", "local_dp_0.03", None),
    ],
)
def test_a_defence_that_clips_has_a_rate_of_its_own(attack, defence, rate):
    column, row = cells.DIGITS.attacks[attack], cells.DIGITS.defences[defence]
    change = leak_matrix_program.change_of(column, row)
    rates = [flag for flag in change if flag.startswith("--training=")]
    assert rates == ([f"--training={rate}"] if rate else [])
    # The defence itself is there as well, and what an inversion does against noise.
    inverts = attack.startswith("gradient_inversion")
    tries = inverts and row.name.startswith(("record", "local"))
    assert len(change) == len(rates) + 1 + tries


@pytest.mark.parametrize("matrix", cells.MATRICES.values(), ids=cells.MATRICES.keys())
def test_an_inversion_knows_of_noise_that_clients_add(matrix):
    inversion = matrix.attacks["gradient_inversion"]
    for name, defence in matrix.defences.items():
        change = cells.change_of(inversion, defence)
        if isinstance(change, str):
            continue
        found = _flags_of(inversion.program, change)["inversion"]
        noised = defence.view is View.NOISED_ROWS
        assert ("background=" in found) == ("tv_weight=" in found) == noised, name


# Reads commands as the binary would, one after another, and says what it thinks.
_READER = """
import importlib, inspect, json, sys
from absl import flags
from absl.testing import flagsaver
from tff_leak.errors import InputError
binary = importlib.import_module(sys.argv[1])
for name, arguments in json.load(sys.stdin).items():
    saved = flagsaver.save_flag_values()
    try:
        [_] = flags.FLAGS(["binary", *arguments])
        # Some want to know how many participants the data have.
        wanted = inspect.signature(binary._settings).parameters
        binary._settings(*[1000] * len(wanted))
        print("read", name)
    except (InputError, flags.Error, TypeError, ValueError) as error:
        print("failed", name, repr(error))
    flagsaver.restore_flag_values(saved)
"""


@functools.cache
def _commands():
    """Arguments after `-m MODULE`, by module and by the name of the run."""
    found = {}
    for name, matrix in cells.MATRICES.items():
        for quick in (False, True):
            plan = leak_matrix_program.build_plan(
                matrix, attacks=[], defences=[], seeds=[3], threads=1, quick=quick
            )
            for job in leak_matrix_program.jobs_of(plan, pathlib.Path("m"), None):
                dash, module, *arguments = job.arguments
                assert dash == "-m"
                of_module = found.setdefault(module, {})
                of_module[f"{name}/{quick}/{job.name}"] = [*arguments, *job.places]
    return found


@pytest.mark.parametrize(
    "module, count",
    [
        (cells.CLIENT_GAN, 80),
        (cells.KEY_PROTECTED, 8),
        (cells.SERVER_GAN, 10),
        (cells.UPDATE_ATTACKS, 178),
    ],
)
def test_binaries_read_the_commands_of_their_cells(module, count):
    commands = _commands()[module]
    assert len(commands) == count
    done = subprocess.run(
        [sys.executable, "-c", _READER, module],
        input=json.dumps(commands),
        cwd=leak_matrix_program.ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"read {name}" for name in commands]


def test_a_cell_has_a_command_or_a_reason():
    for matrix in cells.MATRICES.values():
        plan = leak_matrix_program.build_plan(
            matrix, attacks=[], defences=[], seeds=[0], threads=1, quick=False
        )
        assert len(plan.cells) == len(matrix.attacks) * len(matrix.defences)
        for cell in plan.cells.values():
            measured = cell.status is leak_matrix_program.Status.MEASURED
            assert bool(cell.arguments) == measured != bool(cell.reason)


@pytest.mark.parametrize("matrix", cells.MATRICES.values(), ids=cells.MATRICES.keys())
def test_every_row_and_column_has_something_to_measure(matrix):
    def runs(attack, defence):
        return not isinstance(cells.change_of(attack, defence), str)

    defences = list(matrix.defences.values())
    assert defences[0] is cells.NO_DEFENCE
    for attack in matrix.attacks.values():
        assert runs(attack, cells.NO_DEFENCE)
    for defence in defences:
        assert any(runs(attack, defence) for attack in matrix.attacks.values())
    assert set(matrix.quick[0]) <= set(matrix.attacks)
    assert set(matrix.quick[1]) <= set(matrix.defences)
    assert cells.NO_DEFENCE.name in matrix.quick[1]


def test_defences_do_not_apply_where_there_is_a_reason():
    """And not because a binary was forgotten."""
    for matrix in cells.MATRICES.values():
        reasons = {
            (attack.program.module, defence.name): change
            for attack in matrix.attacks.values()
            for defence in matrix.defences.values()
            if isinstance(change := cells.change_of(attack, defence), str)
        }
        plan = leak_matrix_program.build_plan(
            matrix, attacks=[], defences=[], seeds=[0], threads=1, quick=False
        )
        told = [cell.reason for cell in plan.cells.values()]
        assert not [why for why in told if "has no flag" in why]
        dssgd_only = [
            name
            for name in matrix.defences
            if name.startswith(("selective_sharing", "sparse_vector"))
        ]
        for name in dssgd_only:
            assert reasons[cells.UPDATE_ATTACKS, name] == cells._OF_TURNS
        assert reasons[cells.CLIENT_GAN, "secure_aggregation"] == cells._IN_TURNS


@pytest.mark.parametrize("noise, preset", [("0.6", "06"), ("1.1", "11"), ("4", "40")])
def test_record_dp_of_the_client_gan_is_the_presets(noise, preset):
    attack = cells.DIGITS.attacks["client_gan"]
    change = cells.DIGITS.defences[f"record_dp_{noise}"].on[attack.program.module]
    found = _flags_of(dataclasses.replace(attack.program, quick=()), change)
    path = preset_files.CONFIGS / f"digits_record_dp_{preset}.flags"
    assert found == preset_files.read(path) | {"targets": "3"}


def test_what_a_server_sees_is_the_defences():
    matrix = cells.MNIST
    inversion = matrix.attacks["gradient_inversion"]
    views = {
        name: cells.threat_under(inversion, matrix.defences[name]).view
        for name in ("none", "record_dp_2", "local_dp_0.1", "secure_aggregation")
    }
    assert views == {
        "none": View.ROWS,
        "record_dp_2": View.NOISED_ROWS,
        "local_dp_0.1": View.NOISED_ROWS,
        "secure_aggregation": View.SUM,
    }


def test_a_client_sees_the_sum_whatever_the_defence():
    attack = cells.DIGITS.attacks["client_gan"]
    for defence in cells.DIGITS.defences.values():
        assert cells.threat_under(attack, defence).view is View.SUM


def test_who_attacks_class_keys_knows_what_the_row_says():
    attack = cells.DIGITS.attacks["client_gan"]

    def known(name):
        return cells.threat_under(attack, cells.DIGITS.defences[name]).knowledge

    assert known("none") == {Knowledge.LABELS}
    assert known("keys_known") == {Knowledge.LABELS, Knowledge.KEY}
    assert known("keys_random") == known("keys_embeddings") == set()


def test_an_attack_that_needs_rows_is_refused_over_a_secure_sum():
    secure = cells.MNIST.defences["secure_aggregation"]
    attack = cells.MNIST.attacks["server_gan"]
    with pytest.raises(
        InputError, match="view is sum of the server .*leave secure_agg"
    ):
        cells.threat_under(attack, secure)
    # An active one is refused by the threat model, whatever the attack says of itself.
    active = dataclasses.replace(attack.threat, behaviour=Behaviour.ACTIVE)
    with pytest.raises(InputError, match="view is sum of an active server"):
        cells.threat_under(
            dataclasses.replace(attack, threat=active, works_on_sum=True), secure
        )
