"""Every preset can be read by its binary, and says what it is."""

import pathlib
import re

import pytest

from experiments import publish_result
from experiments.client_gan_program import GeneratorSettings
from experiments.settings import build_optional, parse
from tff_leak.attacks.client_gan import ClientGan
from tff_leak.attacks.model_inversion import ModelInversion
from tff_leak.defences.selective_sharing import SelectiveSharing
from tff_leak.defences.sparse_vector import SparseVector
from tff_leak.models.training import LocalSgd

CONFIGS = sorted(publish_result._CONFIGS.glob("*.flags"))
BINARIES = publish_result._CONFIGS.parent
SETTINGS = {
    "sharing": SelectiveSharing,
    "training": LocalSgd,
    "generator": GeneratorSettings,
    "inversion": ModelInversion,
}


def _binary(preset: pathlib.Path) -> str:
    if preset.stem.startswith("dssgd"):
        return "run_dssgd"
    return "run_model_inversion" if "_mi_" in preset.stem else "run_client_gan"


@pytest.mark.parametrize("preset", CONFIGS, ids=lambda path: path.stem)
def test_its_flags_and_settings_exist(preset):
    source = (BINARIES / f"{_binary(preset)}.py").read_text()
    defined = set(re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", source))
    flags = publish_result._flags(preset)
    assert set(flags) <= defined
    for name, text in flags.items():
        if name in SETTINGS:
            # Out-of-range values are refused here as well.
            SETTINGS[name](**parse(SETTINGS[name], text, flag=name))
    fixed = ("generator", "optimizer", "fake_class", "aim")
    parse(ClientGan, flags.get("attack", ""), flag="attack", given=fixed)
    private = flags.get("sparse_vector", "")
    assert bool(build_optional(SparseVector, private, flag="sparse_vector")) == bool(
        private
    )


@pytest.mark.parametrize("preset", CONFIGS, ids=lambda path: path.stem)
def test_it_begins_with_what_it_is(preset):
    assert preset.read_text().startswith("# ")


@pytest.mark.parametrize(
    "preset",
    [path for path in CONFIGS if path.stem.endswith("_quick")],
    ids=lambda path: path.stem,
)
def test_a_quick_one_is_another_preset_made_shorter(preset):
    full = preset.with_name(preset.name.replace("_quick", ""))
    assert full.exists()
    quick, whole = publish_result._flags(preset), publish_result._flags(full)
    same = {"dataset", "participants", "targets", "sharing", "sparse_vector"}
    for name in same:
        assert quick.get(name) == whole.get(name)
    length = "epochs" if "epochs" in whole else "rounds"
    assert int(quick[length]) != int(whole[length])
