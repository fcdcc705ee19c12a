"""Makes the virtual environment with the `pfl` package and PyTorch for benchmark (e).

    python -m benchmarks.pfl_environment

It lies in `benchmarks/.venv-pfl` (about 1.1 GB), with what `pfl-requirements.txt`
pins, and is made anew when that file changes. TensorFlow Federated and pfl want
different versions of the same packages, so they cannot share one.
"""

import hashlib
import pathlib
import subprocess
import sys

_FOLDER = pathlib.Path(__file__).parent
_REQUIREMENTS = _FOLDER / "pfl-requirements.txt"
_ENVIRONMENT = _FOLDER / ".venv-pfl"
_STAMP = _ENVIRONMENT / "installed"
PYTHON = _ENVIRONMENT / "bin" / "python"
_TIMEOUT_S = 1800


class UnavailableError(Exception):
    """The environment cannot be made; says why in one line."""


def ensure() -> pathlib.Path:
    """Makes the environment, if it is not there, and returns its Python.

    Raises:
      UnavailableError: if packages cannot be had or do not work.
    """
    pins = hashlib.sha256(_REQUIREMENTS.read_bytes()).hexdigest()
    if _STAMP.is_file() and _STAMP.read_text() == pins:
        return PYTHON
    print(f"making {_ENVIRONMENT} (some minutes, 1.1 GB)", file=sys.stderr)
    _run(sys.executable, "-m", "venv", "--clear", str(_ENVIRONMENT))
    pip = (str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input")
    _run(*pip, "install", "--quiet", "--requirement", str(_REQUIREMENTS))
    _run(str(PYTHON), "-c", "import pfl.model.pytorch")
    _STAMP.write_text(pins)
    return PYTHON


def _run(*command: str) -> None:
    what = " ".join(command[:6])
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{what}: {error}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        reason = (lines or done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UnavailableError(f"{what}: {reason.strip()}")


if __name__ == "__main__":
    try:
        print(ensure())
    except UnavailableError as problem:
        sys.exit(f"pfl_environment: {problem}")
