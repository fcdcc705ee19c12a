"""Settings of a dataclass from one flag."""

import pytest

from experiments import settings
from tff_leak.attacks.client_gan import ClientGan
from tff_leak.defences.selective_sharing import (
    Criterion,
    DownloadCriterion,
    SelectiveSharing,
)
from tff_leak.defences.sparse_vector import SparseVector
from tff_leak.defences.user_level_dp import UserLevelDp
from tff_leak.errors import InputError


def test_values_are_converted_to_the_fields_types():
    text = "upload_fraction=0.1, criterion=random,threshold=1e-4,bound=none"
    values = settings.parse(SelectiveSharing, text, flag="sharing")
    assert values == {
        "upload_fraction": 0.1,
        "criterion": Criterion.RANDOM,
        "threshold": 1e-4,
        "bound": None,
    }
    assert settings.parse(SelectiveSharing, "", flag="sharing") == {}
    flags = settings.parse(ClientGan, "influence=FALSE,replay_turns=2", flag="attack")
    assert flags == {"influence": False, "replay_turns": 2}


@pytest.mark.parametrize(
    "text, message",
    [
        ("upload=0.1", "--sharing has 'upload=0.1': expected name=value"),
        ("upload_fraction", "--sharing has 'upload_fraction': expected name=value"),
        (
            "bound=1,bound=2",
            "--sharing has 'bound=2': expected name=value, each name once",
        ),
        ("criterion=best", "criterion is 'best': expected one of largest, random"),
        ("bound=many", "--sharing bound is 'many': expected a number"),
    ],
)
def test_what_cannot_be_read_is_named(text, message):
    with pytest.raises(InputError, match=message):
        settings.parse(SelectiveSharing, text, flag="sharing")


def test_fields_that_the_caller_sets_are_not_offered():
    with pytest.raises(InputError) as caught:
        settings.parse(ClientGan, "fake_class=1", flag="attack", given=["fake_class"])
    assert "fake_class," not in str(caught.value).replace("'fake_class=1'", "")


def test_booleans_and_integers_are_checked():
    with pytest.raises(InputError, match="influence is '1': expected true or false"):
        settings.parse(ClientGan, "influence=1", flag="attack")
    with pytest.raises(InputError, match="replay_turns is '1.5': expected an integer"):
        settings.parse(ClientGan, "replay_turns=1.5", flag="attack")
    with pytest.raises(
        InputError, match="steps is '2147483648': expected an integer f"
    ):
        settings.parse(ClientGan, "generator_steps=2147483648", flag="attack")


def test_a_flag_that_may_be_left_out():
    def build(text):
        return settings.build_optional(SparseVector, text, flag="sparse_vector")

    assert build("") is None
    assert build("epsilon_per_parameter=10,upload_fraction=0.1") == SparseVector(
        10.0, upload_fraction=0.1
    )
    message = "--sparse_vector is 'bound=1': expected epsilon_per_parameter=... in it"
    with pytest.raises(InputError, match=message):
        build("bound=1")
    with pytest.raises(InputError, match="sparse_vector is ', ,': expected name=value"):
        build(", ,")
    with pytest.raises(InputError, match="epsilon_per_parameter is -1.0: expected"):
        build("epsilon_per_parameter=-1")


def test_a_flag_that_may_be_left_out_with_a_field_of_the_callers():
    def build(text):
        given = {"clients_per_round": 50}
        return settings.build_optional(UserLevelDp, text, flag="user_dp", given=given)

    assert build("") is None
    assert build("clip=1,noise_multiplier=2") == UserLevelDp(1.0, 2.0, 50)
    with pytest.raises(InputError, match="clients_per_round=60.*expected name=value"):
        build("clip=1,noise_multiplier=2,clients_per_round=60")


def test_plain_is_json():
    sharing = SelectiveSharing(criterion=Criterion.RANDOM)
    assert settings.plain(sharing)["criterion"] == "random"


def test_a_newer_field_is_written_where_it_is_not_the_default():
    newer = {"newer": ("download_criterion",)}
    assert "download_criterion" not in settings.plain(SelectiveSharing(), **newer)
    random = SelectiveSharing(
        download_fraction=0.5, download_criterion=DownloadCriterion.RANDOM
    )
    assert settings.plain(random, **newer)["download_criterion"] == "random"
