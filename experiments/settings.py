"""Settings of a dataclass from one flag: `--attack=generator_steps=30,replay_turns=2`.

The dataclasses document their fields and check their values; a flag only overrides
defaults. So a binary keeps few flags, and a new setting needs none.
"""

import dataclasses
import enum
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from tff_leak.errors import InputError

T = TypeVar("T")

_BOOLEANS = {"true": True, "false": False}


def parse(cls: type[T], text: str, *, flag: str, given: Collection[str] = ()) -> dict:
    """Reads `name=value` pairs, separated by commas, as fields of a dataclass.

    Args:
      cls: the dataclass.
      text: the flag's value; empty for no override.
      flag: its name, for messages.
      given: fields that the caller sets itself and the flag may not.

    Returns:
      Values by field name, converted to the fields' types (int, float, bool, str,
      enum, or one of these or None, written `none`).

    Raises:
      InputError: for an unknown name, a value of the wrong type, a missing "=", or a
        name that stands twice.
    """
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls) if f.name not in given]
    values: dict[str, Any] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if name not in names or not equals or name in values:
            raise InputError(
                f"--{flag} has {pair!r}: expected name=value, each name once, with a "
                f"name of {', '.join(names)}; correct the flag"
            )
        values[name] = _convert(hints[name], value, f"--{flag} {name}")
    return values


def build_optional(
    cls: type[T], text: str, *, flag: str, given: Mapping[str, Any] | None = None
) -> T | None:
    """Builds a dataclass from a flag that may be left out.

    Args:
      cls: the dataclass.
      text: the flag's value, as for `parse`; empty for None.
      flag: its name, for messages.
      given: fields that the caller sets itself, with their values.

    Raises:
      InputError: as `parse`, or if a field without default is not given.
    """
    given = given or {}
    if not text.strip():
        return None
    values = parse(cls, text, flag=flag, given=given)
    if not values:
        # Commas alone: somebody wanted it, and must not go without it.
        raise InputError(
            f"--{flag} is {text!r}: expected name=value in it; correct it, or leave "
            "the flag out"
        )
    values |= given
    for field in dataclasses.fields(cls):
        if field.default is dataclasses.MISSING and field.name not in values:
            raise InputError(
                f"--{flag} is {text!r}: expected {field.name}=... in it, which has no "
                "default; add it"
            )
    return cls(**values)


def _convert(hint: Any, text: str, where: str) -> Any:
    kinds = [hint]
    if isinstance(hint, types.UnionType):
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        if text.lower() == "none":
            return None
    (kind,) = kinds
    try:
        if kind is bool:
            return _BOOLEANS[text.lower()]
        value = kind(text)
        # TensorFlow's counters would wrap, and nothing be done.
        if kind is int and not -(2**31) <= value < 2**31:
            raise ValueError
        return value
    except (KeyError, ValueError):
        raise InputError(
            f"{where} is {text!r}: expected {_expected(kind)}; correct the flag"
        ) from None


def _expected(kind: Any) -> str:
    if kind is bool:
        return "true or false"
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "one of " + ", ".join(member.value for member in kind)
    return {int: "an integer from -2**31 to 2**31 - 1", float: "a number"}[kind]


def plain(value: Any, *, newer: Collection[str] = ()) -> Any:
    """Returns a dataclass of settings as JSON's types, for `config.json`.

    Args:
      value: the settings.
      newer: fields that are left out where they have their default, so that runs from
        before there were these fields go on.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(value)}
    settings = dataclasses.asdict(value)
    return {
        name: entry.value if isinstance(entry, enum.Enum) else entry
        for name, entry in settings.items()
        if name not in newer or entry != defaults[name]
    }
