"""Command lines of binaries without the seconds that it takes to start each."""

# bazel: dep = tools.forking

import contextlib
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[2]
_TIMEOUT = 120  # Seconds, of the imports or of one command.


def _imported() -> list[str]:
    """What takes long in binaries, and defines no flags."""
    kinds = ("evaluation", "program", "report")
    return sorted(
        f"experiments.{path.stem}"
        for kind in kinds
        for path in (ROOT / "experiments").glob(f"*_{kind}.py")
    )


class _Binaries:
    """What they import is imported once, and again after a failure; see forking.py."""

    def __init__(self, folder: pathlib.Path):
        self._files = {name: folder / name for name in ("stdout", "stderr")}
        self._errors = folder / "errors"
        self._server: subprocess.Popen | None = None

    def _start(self) -> None:
        path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        with open(self._errors, "w", encoding="utf-8") as errors:
            self._server = subprocess.Popen(
                [sys.executable, str(ROOT / "tools" / "forking.py"), *_imported()],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                bufsize=1,
                start_new_session=True,
            )

    def run(self, module: str, flags: tuple[str, ...]) -> subprocess.CompletedProcess:
        if self._server is None:
            self._start()
        files = {name: str(path) for name, path in self._files.items()}
        with contextlib.suppress(BrokenPipeError):  # It says below why it ended.
            self._server.stdin.write(
                json.dumps({"module": module, "flags": flags, **files}) + "\n"
            )
        ready, _, _ = select.select([self._server.stdout], [], [], _TIMEOUT)
        answer = self._server.stdout.readline() if ready else ""
        if not answer:
            # Its next answer would be taken for that of another command.
            self.end()
            pytest.fail(f"{module} {flags}: no exit code; {self.errors()}")
        texts = {name: path.read_text() for name, path in self._files.items()}
        return subprocess.CompletedProcess(flags, int(answer), **texts)

    def errors(self) -> str:
        """What the imports wrote, which no command would have to stderr."""
        return self._errors.read_text() if self._errors.exists() else ""

    def end(self) -> None:
        if self._server is None:
            return
        # With a command that hangs, if there is one.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._server.pid, signal.SIGKILL)
        self._server.wait()
        with contextlib.suppress(BrokenPipeError):
            self._server.stdin.close()
        self._server.stdout.close()
        self._server = None


@pytest.fixture(scope="session")
def judges(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The flag of a folder of judges, one for all of pytest-xdist's workers.

    To train one takes a good part of a binary's time.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    return f"--judges={folder / 'judges'}"


@pytest.fixture(scope="session")
def forked(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., subprocess.CompletedProcess]]:
    """`(module, *flags)`, e.g. `("experiments.run_dssgd", "--rounds=0")`, to a result.

    As `subprocess.run` of `python -m module` with captured text, for commands that end
    before anything is computed, bad input above all. With the environment that the
    first one found.
    """
    binaries = _Binaries(tmp_path_factory.mktemp("forked"))

    def run(module: str, *flags: str) -> subprocess.CompletedProcess:
        return binaries.run(module, flags)

    yield run
    binaries.end()
    assert binaries.errors() == ""
