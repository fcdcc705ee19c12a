#!/bin/sh
# Runs `bazel test //...` against the packages in .venv; arguments are handed on:
#
#   tools/bazel_test.sh --test_tag_filters=-slow
#
# Works with a current Bazel (MODULE.bazel) and, without a network, with Bazel 4 as
# Debian packages it (bazel-bootstrap); that one gets the rules of other
# repositories from the stubs in tools/bazel_offline. Bazel's output lies in the
# user's cache directory, not in the tree, and no Bazel server stays behind.
set -eu
cd "$(dirname "$0")/.."
root=$(pwd)

if [ ! -e .venv/.installed ]; then
    echo "bazel_test: .venv is not set up; run 'make bazel-test'." >&2
    exit 1
fi
if ! version=$(bazel --version 2>/dev/null); then
    echo "bazel_test: bazel is missing; install it, for example with" \
        "'apt-get install bazel-bootstrap'." >&2
    exit 1
fi
# The checksum makes Bazel repeat all tests when the packages change.
set -- --test_env=LOCK="$(cksum <requirements.lock)" "$@"
if [ -n "${TFDS_DATA_DIR:-}" ]; then
    set -- --test_env=TFDS_DATA_DIR="$TFDS_DATA_DIR" "$@"
fi
case "$version" in
"bazel "[7-9].* | "bazel "[1-9][0-9].*)
    packages=$(.venv/bin/python -c \
        'import sysconfig; print(sysconfig.get_path("purelib"))')
    set -- --lockfile_mode=off --test_env=PYTHONPATH="$packages" "$@"
    ;;
*) # Debian's says "no_version".
    stubs=$root/tools/bazel_offline
    for name in rules_cc rules_java rules_python remote_coverage_tools; do
        set -- --override_repository="$name=$stubs/$name" "$@"
    done
    set -- --python_path="$root/.venv/bin/python" \
        --incompatible_use_python_toolchains=false --spawn_strategy=local "$@"
    ;;
esac
cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/tff_leak/bazel
exec bazel --batch --output_user_root="$cache" \
    test --symlink_prefix=/ --noshow_progress "$@" //...
