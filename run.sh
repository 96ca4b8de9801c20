#!/usr/bin/env bash
# Set up a private Python environment in .venv, once, and run the project in it.
set -euo pipefail

PYTHONS=(python3.11 python3.12 python3.13 python3) # tried in this order

usage() {
    cat <<'TEXT'
usage: ./run.sh [COMMAND] [OPTIONS]

  quick        all figures and claims at a reduced scale (the default)
  paper        the same at full scale: full grids, ten replications
  test         the test suite
  setup        only the environment in .venv (1.6 GB)
  setup-vllm   the same, with vLLM's CPU build (2 GB more; Linux on x86-64)

Options after quick and paper go to Snakemake (./run.sh quick --dry-run), after test to pytest.
PYTHON=/path/to/python3.11 chooses the Python to build .venv with (3.11, 3.12 or 3.13).
paper and test install vLLM too, where there is a build of it, and go on without it elsewhere. VLLM=no leaves it out:
then the tests of the real engine are skipped, and the experiments on it are drawn from the recordings in data/.
TEXT
}

die() {
    echo "run.sh: $*" >&2
    exit 1
}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

# Vidur's wheels end at Python 3.13, the package itself starts at 3.11.
is_supported() { case "$(version_of "$1")" in 3.11 | 3.12 | 3.13) true ;; *) false ;; esac }

choose_python() {
    if [ -n "${PYTHON:-}" ]; then
        is_supported "$PYTHON" || die "PYTHON=$PYTHON is no Python 3.11, 3.12 or 3.13"
        echo "$PYTHON"
        return
    fi
    local candidate
    for candidate in .venv/bin/python "${PYTHONS[@]}"; do
        if is_supported "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    die "no Python 3.11, 3.12 or 3.13 found; install one, or name it: PYTHON=/path/to/python3.11 ./run.sh"
}

# A stamp is written after its step succeeded, so whatever was interrupted is done again.
is_current() { [ -x .venv/bin/python ] && [ "$(cat ".venv/$1" 2>/dev/null)" = "$2" ]; }

# Console scripts hold the absolute path of the checkout, so moving it calls for a new environment.
environment_key() { echo "$PWD $(version_of "$1")" | cat - requirements.lock | sha256sum; }

build_environment() { # PYTHON KEY
    local base
    # .venv itself is about to be removed: fall back on the Python that it was made from
    base=$("$1" -c 'import sys; print(getattr(sys, "_base_executable", None) or sys.executable)')
    if [ -e .venv ] && [ ! -e .venv/made-by-run.sh ]; then
        rmdir .venv 2>/dev/null || die ".venv was not made by run.sh; move it away first"
    fi
    echo "run.sh: installing $(grep -c '^[^#]' requirements.lock) pinned packages into .venv with Python $(version_of "$1")" \
        "(1.6 GB, a few minutes, only this once)" >&2
    rm -rf .venv/bin .venv/lib .venv/lib64 .venv/lock-stamp .venv/package-stamp .venv/vllm-stamp
    mkdir -p .venv
    touch .venv/made-by-run.sh
    "$base" -m venv .venv
    # Two packages come as source: setuptools, pinned as well, builds them.
    pip_install "$(grep '^setuptools==' requirements.lock)"
    pip_install --no-build-isolation -r requirements.lock
    echo "$2" >.venv/lock-stamp
}

pip_install() { .venv/bin/python -m pip --disable-pip-version-check install --quiet --no-deps "$@"; }

vllm_key() { cat requirements.lock requirements-vllm.lock | sha256sum; }

# PyTorch comes first and with what it depends on: its build for CUDA, if that is what the index has, needs more
# packages than its build for the CPU. The locks have the last word.
install_vllm() {
    if [ "$(uname -sm)" != "Linux x86_64" ]; then
        echo "there is no build for $(uname -sm)"
        return 1
    fi
    .venv/bin/python -m pip --disable-pip-version-check install --quiet "$(grep '^torch==' requirements-vllm.lock)" &&
        pip_install -r requirements.lock -r requirements-vllm.lock &&
        vllm_key >.venv/vllm-stamp
}

add_vllm() {
    local log=.venv/vllm-install.log
    if is_current vllm-stamp "$(vllm_key)"; then return; fi
    echo "run.sh: adding vLLM's CPU build to .venv (2 GB, a few minutes, only this once; VLLM=no leaves it out)" >&2
    if ! install_vllm >"$log" 2>&1; then
        echo "run.sh: vLLM is not installed: $(tail -n 1 "$log")" >&2
        return 1
    fi
}

set_up() {
    local python key package_key
    python=$(choose_python)
    key=$(environment_key "$python")
    is_current lock-stamp "$key" || build_environment "$python" "$key"
    package_key=$(sha256sum <pyproject.toml)
    if ! is_current package-stamp "$package_key"; then
        pip_install --no-build-isolation --editable .
        # Numba stumbles over machine code whose modules have been renamed since.
        find src -name '*.nb[ic]' -delete
        echo "run.sh: compiling the simulator for every policy (half a minute, only this once)" >&2
        .venv/bin/fluidwait compile >/dev/null || echo "run.sh: not compiled now; the first runs will do it" >&2
        echo "$package_key" >.venv/package-stamp
    fi
}

main() {
    local command=${1:-quick}
    [ $# -eq 0 ] || shift
    case "$command" in
    quick | paper | test | setup | setup-vllm) ;;
    -h | --help | help) usage && exit ;;
    *) die "unknown command '$command'; valid: quick, paper, test, setup, setup-vllm, help" ;;
    esac

    cd "$(dirname "${BASH_SOURCE[0]}")"
    unset PYTHONPATH PYTHONHOME # of another environment
    exec 9<run.sh
    if command -v flock >/dev/null; then flock 9; fi # one set-up at a time
    set_up
    case "$command" in
    paper | test) [ "${VLLM:-yes}" = no ] || add_vllm || true ;; # they can go on without
    setup-vllm) add_vllm || exit 1 ;;
    esac
    exec 9<&-

    export VIRTUAL_ENV="$PWD/.venv" PATH="$PWD/.venv/bin:$PATH"
    case "$command" in
    quick | paper) exec python -m snakemake --cores all --config "scale=$command" "$@" ;;
    test) exec python -m pytest -n 2 --dist loadfile "$@" ;; # no more: tests start real engines
    esac
}

main "$@"
