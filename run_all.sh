#!/usr/bin/env bash
# Sets up the environment if needed, then runs the study (or, with --test, the tests). `./run_all.sh --help` lists the flags.
set -euo pipefail
caller=$PWD # relative paths of --set are those of whoever calls
cd "$(dirname "$0")"
export PYTHONUTF8=1 # names and captions are UTF-8, whatever the terminal is set to

fail() { echo "$*" >&2; exit 1; }

find_python() {
    local name
    for name in python3.11 python3.12 python3.13 python3 python; do
        if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    fail "Python 3.11 or newer is needed and none is on the PATH; install it, or create the conda environment of environment.yml."
}

for argument in "$@"; do
    case "$argument" in -h | --help) exec "$(find_python)" s2llib/arguments.py --help ;; esac
done

# an active virtual or conda environment is used as it is; otherwise .venv is made
if [ -n "${VIRTUAL_ENV:-}" ]; then
    home=$VIRTUAL_ENV
elif [ -n "${CONDA_PREFIX:-}" ] && [ "${CONDA_DEFAULT_ENV:-base}" != base ]; then
    home=$CONDA_PREFIX
else
    home=$PWD/.venv
    [ -x "$home/bin/python" ] || "$(find_python)" -m venv "$home"
fi
python=$home/bin/python
stamp=$home/.s2llib-$(cat pyproject.toml constraints.txt <(pwd) | cksum | cut -d' ' -f1)
if [ ! -e "$stamp" ]; then
    echo "Setting up $home (once, a few minutes) ..." >&2
    "$python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' || fail "The packages could not be installed; see pip's message above."
    "$python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[quality]' 2>/dev/null ||
        echo "The package brisque could not be installed (its libsvm needs a compiler): the tables' BRISQUE will be empty." >&2
    touch "$stamp"
fi
export PATH="$home/bin:$PATH"

for argument in "$@"; do
    if [ "$argument" = --test ]; then
        scratch=$(mktemp -d)
        trap 'rm -rf "$scratch"' EXIT
        export S2L_PROFILE=tiny S2L_HOME=$scratch/artifacts S2L_FIGURES=$scratch/figures
        "$python" -m ruff check . && "$python" -m ruff format --check . &&
            OMP_NUM_THREADS=1 "$python" -m pytest -n auto --dist loadfile --nbval-lax --nbval-current-env --durations=10
        exit
    fi
done

export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
cd "$caller"
exec "$python" -P -m s2llib.run "$@" # -P: nothing that lies in the caller's folder is imported
