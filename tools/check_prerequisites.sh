#!/usr/bin/env bash
# Says plainly which prerequisite is missing: Python 3.11 with venv, Rust, a C compiler, git.
set -u
python=${1:-python3}
min_rust=1.90
missing=0

need() {
    echo "missing prerequisite: $1" >&2
    echo "  $2" >&2
    missing=1
}

if ! command -v "$python" >/dev/null; then
    need "Python 3.11 or newer (\`$python\` was not found)" "install it, or name another: make PYTHON=python3.12 …"
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    need "Python 3.11 or newer (\`$python\` is $("$python" -V 2>&1))" "install it, or name another: make PYTHON=python3.12 …"
elif ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    need "Python's venv module" "on Debian and Ubuntu: apt install python3-venv"
fi

if ! command -v cargo >/dev/null || ! command -v rustc >/dev/null; then
    need "Rust $min_rust or newer (\`cargo\` was not found)" "see https://rustup.rs"
else
    rust=$(rustc --version | cut -d' ' -f2)
    if [ "$(printf '%s\n%s\n' "$min_rust" "$rust" | sort -V | head -n1)" != "$min_rust" ]; then
        need "Rust $min_rust or newer (found $rust)" "rustup update stable"
    fi
fi

command -v cc >/dev/null || need "a C compiler (\`cc\` was not found)" "on Debian and Ubuntu: apt install build-essential"
command -v git >/dev/null || need "git" "on Debian and Ubuntu: apt install git"
exit "$missing"
