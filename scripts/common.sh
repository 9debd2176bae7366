# Sourced by the scripts beside it: messages, the lock, and the tools of .venv/ in front of the system's.
# shellcheck shell=bash
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
venv=$root/.venv

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# One run at a time changes .venv/ and build/. The lock ends with the last process that holds it, so a build
# that outlives a killed script is waited for.
lock() {
  mkdir -p build
  exec 9>build/.lock
  if ! flock -n 9; then
    say "waiting for another run in this folder"
    flock 9
  fi
}

version_at_least() { [[ $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1) == "$2" ]]; }

cmake_is_new_enough() {
  command -v cmake >/dev/null && version_at_least "$(cmake --version | awk 'NR==1 {print $3}')" 3.25
}

# The compiler: $CXX, else g++ if it is new enough, else the newest g++-N that is.
find_compiler() {
  local candidate
  for candidate in ${CXX:+"$CXX"} g++ g++-14 g++-13 g++-12; do
    command -v "$candidate" >/dev/null || continue
    if [[ $candidate == "${CXX-}" ]] || version_at_least "$("$candidate" -dumpfullversion)" 12; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  return 1
}

cores() { nproc 2>/dev/null || echo 2; }

# Without .venv/ (it may be the active environment): the Python that .venv/ is made from is looked for there.
outer_path=${PATH//"$venv/bin:"/}
[[ ! -d $venv/bin ]] || PATH=$venv/bin:$outer_path

# A compiler cache makes the Python module's second build of the library nearly free, but must never break a build.
if command -v ccache >/dev/null; then
  cache=$(ccache -k cache_dir 2>/dev/null || true)
  if [[ -n $cache ]] && mkdir -p "$cache" 2>/dev/null && [[ -w $cache ]]; then
    export CMAKE_CXX_COMPILER_LAUNCHER=ccache
    # Without these it does not cache what includes a precompiled header.
    export CCACHE_SLOPPINESS=${CCACHE_SLOPPINESS:+$CCACHE_SLOPPINESS,}pch_defines,time_macros
  else
    export CCACHE_DISABLE=1
  fi
  unset cache
fi
