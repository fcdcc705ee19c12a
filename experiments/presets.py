"""What a preset says, flag by flag, with the binary's defaults behind it.

Flags that a preset leaves out are part of it: a run with one more, say differential
privacy, is another experiment.
"""

# Their sources are read for the defaults of flags.
# bazel: dep = experiments.common_flags
# bazel: dep = experiments.run_client_gan
# bazel: dep = experiments.run_dssgd
# bazel: dep = experiments.run_key_protected
# bazel: dep = experiments.run_leak_matrix
# bazel: dep = experiments.run_model_inversion
# bazel: dep = experiments.run_server_gan
# bazel: dep = experiments.place_flags
# bazel: dep = experiments.run_update_attacks

import ast
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from experiments import (
    client_gan_program,
    leak_matrix_program,
    server_gan_program,
    update_attacks_program,
)
from experiments.key_federation import KeySettings
from experiments.key_geometry_arm import Geometry
from experiments.key_guesses import SearchTurns
from experiments.leak_matrix_cells import MATRICES
from experiments.preset_files import read
from experiments.settings import parse, plain
from tff_leak.attacks.client_gan import ClientGan
from tff_leak.attacks.deviations import Deviations, Mode, deviations_of
from tff_leak.attacks.gradient_inversion import GradientInversion
from tff_leak.attacks.model_inversion import ModelInversion
from tff_leak.attacks.representatives import Representatives
from tff_leak.attacks.server_gan import ServerGan
from tff_leak.defences.key_protection import KeyTraining
from tff_leak.defences.local_dp import LocalDp
from tff_leak.defences.record_level_dp import RecordLevelDp
from tff_leak.defences.secure_aggregation import SecureAggregation
from tff_leak.defences.selective_sharing import SelectiveSharing
from tff_leak.defences.sparse_vector import SparseVector
from tff_leak.defences.user_level_dp import UserLevelDp
from tff_leak.models.batched_sgd import BatchSgd
from tff_leak.models.training import LocalSgd

BINARIES = {
    "client_gan": "run_client_gan",
    "dssgd": "run_dssgd",
    "key_protected": "run_key_protected",
    "leak_matrix": "run_leak_matrix",
    "model_inversion": "run_model_inversion",
    "server_gan": "run_server_gan",
    "update_attacks": "run_update_attacks",
}
"""By `config.json`'s experiment."""

_SETTINGS = {
    "sharing": SelectiveSharing,
    "training": LocalSgd,
    "adversary_training": LocalSgd,
    "generator": client_gan_program.GeneratorSettings,
    "inversion": ModelInversion,
    "sparse_vector": SparseVector,
    "record_dp": RecordLevelDp,
    "local_dp": LocalDp,
    "user_dp": UserLevelDp,
    "secure_aggregation": SecureAggregation,
    "keys": KeySettings,
    "geometry": Geometry,
    "search": SearchTurns,
    "attack": ClientGan,
    "deviations": Deviations,
    "gan": server_gan_program.GanSettings,
    "matching": Representatives,
}
# Without a value there is no such part.
_OPTIONAL = {
    "adversary_training",
    "sparse_vector",
    "record_dp",
    "local_dp",
    "user_dp",
    "secure_aggregation",
}
# Of the binaries whose flag of that name sets something else.
_OTHER_SETTINGS = {
    ("key_protected", "training"): KeyTraining,
    ("server_gan", "training"): BatchSgd,
    ("server_gan", "attack"): ServerGan,
    ("update_attacks", "training"): BatchSgd,
    ("update_attacks", "inversion"): GradientInversion,
    # There it is a name.
    ("update_attacks", "attack"): None,
}
# What runs did that are older than a field whose default is another way of doing it.
_BEFORE = {KeyTraining: {"regularised": "all"}}
# What a run may choose without being another experiment.
_FREE = {
    *("output_dir", "data_dir", "judges", "seed", "threads"),
    *("workers", "threads_per_job", "ray_address"),
}
_MANY_CLIENTS = 1_000_000
_SHARED_FLAGS = ("place_flags", "common_flags")


def flag_sources(binary: str) -> str:
    """Returns the text of the modules that define a binary's flags."""
    shared = ("place_flags",) if binary == "run_leak_matrix" else _SHARED_FLAGS
    names = (*shared, binary)
    paths = [pathlib.Path(__file__).with_name(f"{name}.py") for name in names]
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


def defaults(binary: str) -> dict[str, Any]:
    """Returns the defaults of a binary's flags, by name, read from its source.

    A list is the list, an enum's member its name in lower case; a default that is an
    expression is left out.
    """
    found = {}
    for node in ast.walk(ast.parse(flag_sources(binary))):
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if is_call and node.func.attr.startswith("DEFINE_"):
            name, default = node.args[:2]
            if isinstance(default, ast.Attribute):
                found[name.value] = default.attr.lower()
            elif isinstance(default, ast.Constant | ast.List):
                found[name.value] = ast.literal_eval(default)
    return found


def differences(preset: pathlib.Path, config: Mapping[str, Any]) -> list[str]:
    """Returns what a run's `config.json` has otherwise than a preset, one text each.

    Seed, threads and the place of the data may differ, a run may have more arms, and
    what the preset leaves open of the targets and of the data set may be anything. Of a
    leak matrix `config` has the attacks, defences and seeds that it has by now.
    """
    given = read(preset)
    default = defaults(BINARIES[config["experiment"]])
    expected, config = _with_cells(default | given), _with_cells(config)
    for name in ("targets", "dataset"):
        if name not in given:
            expected.pop(name, None)  # Not every binary has them.
    found = []
    for name, value in expected.items():
        if name in _FREE:
            continue
        if settings_of(config["experiment"], name) is not None:
            wanted = _wanted_settings(config["experiment"], name, expected)
            cls = settings_of(config["experiment"], name)
            usual = _defaults_of(cls) | _BEFORE.get(cls, {})
            found += _settings_differences(name, value, wanted, config.get(name), usual)
        elif name == "arms":
            if not set(_text(value).split(",")) <= set(config["arms"]):
                found.append(f"arms={_text(config['arms'])}, expected {_text(value)}")
        elif name in config and not _same(config[name], value):
            found.append(f"{name}={_text(config[name])}, expected {_text(value)}")
        elif name not in config and not _same(value, default.get(name)):
            # A run that knows nothing of a flag is older, and had what is the default.
            found.append(f"no {name}, expected {_text(value)}")
    return found


def _with_cells(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Flags; of a leak matrix with the names of all its attacks and defences.

    None given means all: a run of some of them is another than one of all.
    """
    if "matrix" not in flags:
        return dict(flags)
    found = leak_matrix_program.chosen(
        MATRICES[flags["matrix"]],
        _entries(flags.get("attacks")),
        _entries(flags.get("defences")),
        _text(flags["quick"]).lower() == "true",
    )
    names = ([entry.name for entry in entries] for entries in found)
    return {**flags, **dict(zip(("attacks", "defences"), names, strict=True))}


def _entries(value: object) -> list[str]:
    """Those of a list, as `config.json` has it or as a flag is written."""
    return [entry for entry in _text(value or "").split(",") if entry]


def settings_of(experiment: str, flag: str) -> type | None:
    """Returns the dataclass whose fields a flag sets; None for any other flag."""
    return _OTHER_SETTINGS.get((experiment, flag), _SETTINGS.get(flag))


def fixed_fields(experiment: str, flag: str) -> tuple[str, ...]:
    """Returns those fields of that dataclass that the program sets, and no flag."""
    if flag == "matching":
        return server_gan_program.FIXED_MATCHING_FIELDS
    if flag == "user_dp":
        return update_attacks_program.FIXED_USER_FIELDS
    if flag == "inversion" and experiment == "update_attacks":
        return update_attacks_program.FIXED_INVERSION_FIELDS
    if flag != "attack":
        return ()
    of_server = experiment == "server_gan"
    program = server_gan_program if of_server else client_gan_program
    return tuple(program.FIXED_ATTACK_FIELDS)


def _wanted_settings(
    experiment: str, flag: str, flags: Mapping[str, Any]
) -> dict[str, Any] | None:
    """What a flag that sets the fields of a dataclass stands for; None for nothing."""
    cls, text = settings_of(experiment, flag), flags[flag] or ""
    if flag in _OPTIONAL and not text:
        return None
    given = parse(cls, text, flag=flag, given=fixed_fields(experiment, flag))
    if cls is Deviations:
        return plain(deviations_of(Mode(flags["mode"]))) | given
    if cls is ServerGan:
        return server_gan_program.attack_config(given)
    if cls is Representatives:
        return server_gan_program.matching_config(given)
    if cls is GradientInversion:
        return update_attacks_program.inversion_config(given)
    if cls is UserLevelDp:
        fixed = update_attacks_program.FIXED_USER_FIELDS
        clients = int(flags.get("clients", _MANY_CLIENTS))
        wanted = plain(cls(**given, **dict.fromkeys(fixed, clients)))
        # Without that flag it is the number of participants, compared by itself.
        left_out = () if "clients" in flags else fixed
        return {name: wanted[name] for name in wanted if name not in left_out}
    if cls is ClientGan:
        return client_gan_program.attack_config(given)
    return plain(cls(**given))


def _settings_differences(
    name: str,
    text: str,
    expected: Mapping[str, Any] | None,
    found: Any,
    usual: Mapping[str, Any],
) -> list[str]:
    """Of one flag that sets the fields of a dataclass."""
    if expected is None:
        return [] if not found else [f"{name}={found}, expected none"]
    found = found or {}
    if not found:
        return [f"no {name}, expected {text}"] if text else []
    # A field that a run does not know is younger than the run, which had its default.
    return [
        f"{name} {key}={found.get(key, usual.get(key))}, expected {value}"
        for key, value in expected.items()
        if found.get(key, usual.get(key)) != value
    ]


def _defaults_of(cls: type) -> dict[str, Any]:
    """The defaults of a dataclass's fields, as `config.json` has them."""
    return {
        field.name: getattr(field.default, "value", field.default)
        for field in dataclasses.fields(cls)
        if field.default is not dataclasses.MISSING
    }


def _same(value: object, wanted: object) -> bool:
    """Whether a value of `config.json` is what a flag has or its text says."""
    if isinstance(value, bool):
        return _text(value).lower() == _text(wanted).lower()
    if isinstance(value, float) and not isinstance(wanted, bool | None):
        return value == float(wanted)
    return _text(value) == _text(wanted)


def _text(value: object) -> str:
    """A value as a flag would be written."""
    if isinstance(value, list):
        return ",".join(_text(entry) for entry in value)
    return str(value)
