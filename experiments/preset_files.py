"""Presets as files: flags of an experiment, line by line."""

import pathlib
import re

from tff_leak.errors import InputError

CONFIGS = pathlib.Path(__file__).parent / "configs"


def read(preset: pathlib.Path) -> dict[str, str]:
    """Returns the flags of a preset; they override those of presets that it includes.

    A flag that stands twice in one file is a list.

    Raises:
      InputError: for a line that is neither a flag with its value nor a comment.
    """
    flags_of: dict[str, str] = {}
    here: set[str] = set()
    for line in preset.read_text(encoding="utf-8").splitlines():
        found = re.fullmatch(r"--(\w+)=(.*)", line.strip())
        if found and found[1] == "flagfile":
            flags_of |= read(preset.with_name(pathlib.Path(found[2]).name))
        elif found:
            repeated = found[1] in here
            here.add(found[1])
            before = f"{flags_of[found[1]]}," if repeated else ""
            flags_of[found[1]] = before + found[2]
        elif line.strip() and not line.startswith("#"):
            raise InputError(
                f"{preset.name} has the line {line.strip()!r}: expected --name=value, "
                "also of a flag that is true or false; write it so"
            )
    return flags_of
