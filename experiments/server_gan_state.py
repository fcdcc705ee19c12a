"""What a malicious server's state says about its attack."""

from typing import Any

from tff_leak.attacks import server_gan

_NOTED = (
    "discriminator_loss",
    "generator_loss",
    "category_share",
    "identity_share",
    "score",
)


def attack_state(state: Any) -> server_gan.State:
    """Returns the attack's part of the state of a process of `malicious_server`."""
    return state.finalizer.attack


def attack_metrics(state: Any) -> dict[str, float]:
    """Returns the attack's note on the last round; nothing where it did not train.

    `discriminator_loss`, `generator_loss` (nats), `category_share`, `identity_share`
    and `score`: see `tff_leak.attacks.server_gan.Note`.
    """
    note = attack_state(state).note
    if not int(note.generator_steps):
        return {}
    return {name: float(getattr(note, name)) for name in _NOTED}
