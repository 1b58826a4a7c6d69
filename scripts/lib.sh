# What the scripts share. Sourced; sets ROOT and BUILD, never changes the caller's directory.
set -euo pipefail
ROOT=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
BUILD=${PYRO_BUILD:-$ROOT/build}
# Kernels take minutes to build and depend on few inputs: they are kept outside of build/, by the hash of those inputs.
CACHE=${PYRO_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/pyro}
JOBS=${JOBS:-$(nproc)}

say() { printf 'pyro: %s\n' "$*" >&2; }
# fail WHAT CURE: what happened, and what to do about it.
fail() { printf 'pyro: %s\n' "$1" >&2; printf 'pyro: hint: %s\n' "$2" >&2; exit 1; }

# as_root COMMAND...: directly for root, by sudo for others.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo > /dev/null; then sudo "$@"
    else fail "this step needs root: $*" "run the script as root, or install sudo"; fi
}

# step NAME COMMAND...: one line that says what runs, its output in a log, and the end of the log where it fails.
step() {
    local name=$1 log started=$SECONDS
    shift
    mkdir -p "$BUILD/log"
    log=$BUILD/log/${name//[^a-z0-9-]/-}.log
    printf 'pyro: %s ... ' "$name" >&2
    if "$@" > "$log" 2>&1 < /dev/null; then printf 'done (%ss)\n' $((SECONDS - started)) >&2
    else printf 'failed\n' >&2; tail -n 30 "$log" >&2; fail "$name failed" "the whole output is in $log"; fi
}
