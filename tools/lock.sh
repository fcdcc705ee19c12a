#!/bin/sh
# Makes requirements.lock from requirements.in and requirements.overrides, and
# requirements-gpu.lock and requirements-ray.lock from their .in files. Versions already
# in the locks are kept where they still fit; --upgrade takes newer ones.
set -eu
cd "$(dirname "$0")/.."

if ! uv=$(command -v uv); then
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    "${PYTHON:-python3}" -m venv "$scratch"
    "$scratch/bin/python" -m pip install --quiet uv
    uv=$scratch/bin/uv
fi
# Wheels only: a source package needs a compiler, which the user may not have.
# `promise` is the exception; it is pure Python and there is no wheel of it.
"$uv" pip compile requirements.in --override requirements.overrides \
    --python-version 3.11 --python-platform x86_64-manylinux_2_31 \
    --only-binary :all: --no-binary promise \
    --generate-hashes --no-header --no-annotate --quiet \
    --output-file requirements.lock "$@"
# What they need beside themselves is in requirements.lock.
for extra in gpu ray; do
    "$uv" pip compile "requirements-$extra.in" --no-deps \
        --python-version 3.11 --python-platform x86_64-manylinux_2_31 \
        --only-binary :all: --generate-hashes --no-header --no-annotate --quiet \
        --output-file "requirements-$extra.lock" "$@"
done
