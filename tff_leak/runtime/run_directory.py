"""The run directory: everything that one run of an experiment writes.

Its files are listed in `RunDirectory`. One process at a time owns it, and it
belongs to one configuration: a second one is refused instead of mixed in.
"""

import dataclasses
import datetime
import fcntl
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Collection, Mapping
from typing import IO, Any

import numpy as np

import tff_leak
from tff_leak.errors import InputError
from tff_leak.runtime.atomic import (
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    remove_leftovers,
)
from tff_leak.runtime.reconstructions import (
    Reconstructions,
    read_reconstructions,
    write_reconstructions,
)

__all__ = [
    "Reconstructions",
    "RunDirectory",
    "atomic_write_bytes",
    "atomic_write_json",
    "atomic_write_text",
    "read_reconstructions",
    "write_reconstructions",
]

_CONFIG = "config.json"
_LOCK = ".lock"
# Written beside the configuration; only versions are compared when a run is resumed.
_RECORDED = ("git_commit", "created")
_VERSIONS = "versions"
_PACKAGES = ("tensorflow", "tensorflow-federated", "numpy")


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """The paths of one run. Make it with `RunDirectory.open`.

    The directory is locked against other processes until `close`, the end of the
    `with` block, or the death of the process.

    Attributes:
      path: the directory.
      config: the configuration, in JSON's types.
    """

    path: pathlib.Path
    config: Mapping[str, Any]
    _lock: IO[str] = dataclasses.field(repr=False, compare=False)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        config: Mapping[str, Any],
        volatile: Collection[str] = (),
    ) -> "RunDirectory":
        """Makes a run directory, or opens one of the same configuration.

        A new one gets a `config.json` with `config` and, beside it, the versions of
        Python and the libraries, the git commit (None outside a checkout) and the
        time. An existing one must have been made with an equal `config` and the same
        versions; its `config.json` stays as it is.

        Args:
          path: the directory; made with its parents if it is not there.
          config: every flag and the seed; values of JSON's types, tuples, paths and
            numpy scalars.
          volatile: keys of `config` that are recorded but may differ when the run
            is resumed, such as the number of threads.

        Raises:
          InputError: if the directory holds another configuration, or files but no
            `config.json`, is in use by another process, or cannot be written, or if
            a number of `config` is not finite. No file of a run is changed.
          ValueError: if `config` uses a key kept for what is recorded beside it.
        """
        for key in (*_RECORDED, _VERSIONS):
            if key in config:
                raise ValueError(f"The key {key!r} is kept for config.json itself.")
        config = _plain(config)
        if not os.fspath(path):
            raise InputError(
                "the output directory is empty; expected a path; give --output_dir"
            )
        directory = pathlib.Path(path).expanduser()
        try:
            _check_own_or_empty(directory)
            directory.mkdir(parents=True, exist_ok=True)
            lock = _take_lock(directory)
            try:
                _write_or_compare(directory, config, volatile)
                remove_leftovers(directory)
            except BaseException:
                lock.close()
                raise
        except OSError as error:
            raise InputError(
                f"{directory}: {error.strerror or error}; expected a directory that "
                "can be written to; give another --output_dir"
            ) from error
        return cls(directory, config, lock)

    def close(self) -> None:
        """Lets other processes use the directory."""
        self._lock.close()

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def metrics_csv(self) -> pathlib.Path:
        """One row a round."""
        return self.path / "metrics.csv"

    @property
    def tensorboard(self) -> pathlib.Path:
        """The directory of TensorBoard events."""
        return self.path / "tensorboard"

    @property
    def program_state(self) -> pathlib.Path:
        """What is needed to resume the run."""
        return self.path / "program_state"

    @property
    def reconstructions(self) -> pathlib.Path:
        """See `reconstructions.Reconstructions`."""
        return self.path / "reconstructions.npz"

    @property
    def summary(self) -> pathlib.Path:
        """The final figures."""
        return self.path / "summary.json"

    @property
    def figures(self) -> pathlib.Path:
        """The directory of pictures."""
        return self.path / "figures"

    @property
    def report(self) -> pathlib.Path:
        """One file with pictures inside."""
        return self.path / "report.html"


def _check_own_or_empty(directory: pathlib.Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise InputError(
            f"{directory}: is a file; expected a directory; give another --output_dir"
        )
    if not directory.is_dir() or (directory / _CONFIG).exists():
        return
    for entry in sorted(directory.iterdir()):
        # A process killed while it made the directory leaves these two.
        if entry.name != _LOCK and not entry.match(f".{_CONFIG}.*.tmp"):
            raise InputError(
                f"{directory}: holds {entry.name!r} but no {_CONFIG}; expected an "
                "empty directory or that of an earlier run; give another --output_dir"
            )


def _take_lock(directory: pathlib.Path) -> IO[str]:
    lock = open(directory / _LOCK, "a")
    try:
        # The kernel releases it when the process dies, however it dies.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise InputError(
            f"{directory}: in use by another process; expected a directory of its "
            "own for each run; wait for the other to end or give another --output_dir"
        ) from None
    except BaseException:
        lock.close()
        raise
    return lock


def _write_or_compare(
    directory: pathlib.Path, config: Mapping[str, Any], volatile: Collection[str]
) -> None:
    path = directory / _CONFIG
    if not path.exists():
        recorded = {
            _VERSIONS: _versions(),
            "git_commit": _git_commit(),
            "created": datetime.datetime.now(datetime.UTC).isoformat(),
        }
        atomic_write_json(path, {**config, **recorded})
        return
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")
    except ValueError as error:
        raise InputError(
            f"{path}: cannot be read ({error}); expected the configuration of an "
            f"earlier run; give another --output_dir, or delete {directory}"
        ) from None
    ignored = {*_RECORDED, *volatile}
    before = _flattened({k: v for k, v in found.items() if k not in ignored})
    # Other versions of the libraries give other bits.
    present = {**config, _VERSIONS: _versions()}
    now = _flattened({k: v for k, v in present.items() if k not in ignored})
    for key in sorted({*before, *now}):
        old, new = before.get(key, "(absent)"), now.get(key, "(absent)")
        if old != new:
            raise InputError(
                f"{directory}: was made with {key}={old}, this run has {key}={new}; "
                "expected the same configuration; give another --output_dir, or "
                "delete that directory"
            )


def _flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Leaves by dotted key, as JSON text, which tells 1 from 1.0 and "1"."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= _flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value)
    return flat


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as JSON gives it back."""

    def convert(value: object) -> object:
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, Mapping):
            return dict(value)
        raise TypeError(f"Expected a value that JSON can hold, found {value!r}.")

    plain = {}
    for key, value in config.items():
        try:
            text = json.dumps(value, default=convert, allow_nan=False)
        except ValueError:
            raise InputError(
                f"{key} is {value}; expected finite numbers; give another --{key}"
            ) from None
        plain[key] = json.loads(text)
    return plain


def _versions() -> dict[str, str | None]:
    """Versions by distribution name, without importing anything large."""
    versions: dict[str, str | None] = {
        "python": platform.python_version(),
        "tff_leak": tff_leak.__version__,
    }
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _git_commit() -> str | None:
    """The commit of this code, `-dirty` if changed since, None if unknown."""
    source = pathlib.Path(tff_leak.__file__)

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments],
            cwd=source.parent,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        return done.stdout.strip()

    try:
        # An installed package may lie inside somebody else's checkout.
        git("ls-files", "--error-unmatch", source.name)
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None
