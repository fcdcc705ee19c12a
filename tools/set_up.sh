#!/bin/sh
# Makes the virtual environment .venv anew: the packages of requirements.lock, each
# checked against its hashes, and then the project itself, editable.
#
# The stamp .venv/.installed is written last, so an interrupted set-up is repeated.
# PYTHON=/path/to/python3.11 chooses the interpreter.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "set-up: $1" >&2
    exit 1
}

is_python_311() {
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null
}

# Sets `python` to the first Python 3.11 that can make virtual environments.
find_python() {
    python=
    without_venv=
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3 python \
        /usr/bin/python3.11 /usr/local/bin/python3.11; do
        is_python_311 "$candidate" || continue
        if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            python=$candidate
            return
        fi
        without_venv=${without_venv:-$candidate}
    done
    if [ -n "$without_venv" ]; then
        fail "$without_venv is Python 3.11 without its venv module; install it, \
for example with 'apt-get install python3.11-venv', and try again."
    fi
    fail "Python 3.11 is missing (looked for python3.11, python3 and python); \
install it, for example with 'apt-get install python3.11 python3.11-venv', and try \
again, or name it: make PYTHON=/path/to/python3.11."
}

# Prints the lock's entries for the packages that build others from source.
build_requirements() {
    awk '/^(setuptools|wheel)==/ {inside = 1}
         inside {print}
         !/\\$/ {inside = 0}' requirements.lock
}

install() {
    .venv/bin/python -m pip --disable-pip-version-check --no-input install \
        --quiet --progress-bar off "$@"
}

find_python
# The locked wheels of TensorFlow Federated exist for this platform only.
"$python" -c 'import platform, sys
machine = (platform.system(), platform.machine(), platform.libc_ver()[0])
version = tuple(map(int, (platform.libc_ver()[1] or "0").split(".")))
sys.exit(machine != ("Linux", "x86_64", "glibc") or version < (2, 31))' ||
    fail "found $(uname -sm), expected Linux x86_64 with glibc 2.31 or newer: \
TensorFlow Federated has no wheels for anything else; use such a machine or container."
echo "set-up: making .venv with $("$python" --version) from requirements.lock" \
    "(1 to 2 minutes, 3 GB)" >&2
rm -f .venv/.installed
"$python" -m venv --clear .venv
# `promise` has no wheel. It is built from its hash-locked source by the setuptools
# that the lock names, not by whatever is newest on the index.
build_requirements | install --require-hashes --no-deps -r /dev/stdin
install --require-hashes --no-deps --no-build-isolation \
    --only-binary :all: --no-binary promise -r requirements.lock
install --no-deps --no-build-isolation --editable .
touch .venv/.installed
