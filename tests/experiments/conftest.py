"""Command lines of binaries without the seconds that it takes to start each."""

# bazel: dep = tools.forking

import json
import os
import pathlib
import select
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[2]
_TIMEOUT = 300  # Seconds, of the imports or of one command.


@pytest.fixture(scope="module")
def forked(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., subprocess.CompletedProcess]]:
    """`(module, *flags)`, e.g. `("experiments.run_dssgd", "--rounds=0")`, to a result.

    As `subprocess.run` of `python -m module` with captured text, for bad input above
    all. Not for what `python -m` itself does, nor for signals and pipes.
    """
    written = tmp_path_factory.mktemp("forked")
    servers: dict[str, subprocess.Popen] = {}

    def run(module: str, *flags: str) -> subprocess.CompletedProcess:
        if module not in servers:
            servers[module] = subprocess.Popen(
                [sys.executable, str(ROOT / "tools" / "forking.py")] + [module],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
        server = servers[module]
        files = {name: str(written / name) for name in ("stdout", "stderr")}
        server.stdin.write(json.dumps({"flags": flags, **files}) + "\n")
        ready, _, _ = select.select([server.stdout], [], [], _TIMEOUT)
        assert ready, f"{module} {flags}: no answer in {_TIMEOUT} s"
        answer = server.stdout.readline()
        assert answer, f"{module}: cannot be imported; see stderr"
        texts = {name: pathlib.Path(file).read_text() for name, file in files.items()}
        return subprocess.CompletedProcess(flags, int(answer), **texts)

    try:
        yield run
    finally:
        for server in servers.values():
            server.kill()
            server.wait()
            server.stdin.close()
            server.stdout.close()
