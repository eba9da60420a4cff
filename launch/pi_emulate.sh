#!/usr/bin/env bash
# Runs the self-check of tvconv_jax/edge/benchmark.py on an emulated Cortex-A72, the core of a Raspberry Pi 4:
#     launch/pi_emulate.sh DIR [--dry-run]
# DIR, or its folders, hold what `python -m tvconv_jax.export` wrote: .onnx files, and model.safetensors with native.py
# and native.cpp, each with its check.npz. It proves that a file loads and is right on that core; an emulator's times
# mean nothing, so none are taken.
#
# Needs Debian, or a system based on it, whose package servers hold arm64, python3 with pip (another: PYTHON=...), and no root: the
# emulator, Python for arm64 and its wheels are unpacked below ${TVCONV_JAX_CACHE:-$HOME/.cache/tvconv_jax}/pi, once.
# The native engine is compiled on this machine, by aarch64-linux-gnu-g++; without it the .onnx files alone are checked.
set -euo pipefail
. "$(dirname "$0")/artifacts.sh"

ONNXRUNTIME=1.20.1  # 1.21.0 dies of an illegal instruction on that core

fail() { echo "error: $1" >&2; exit 2; }
show() { [ -z "$dry" ] || printf '%s\n' "$*"; }
# Runs a command, or with --dry-run prints it.
run() { if [ -n "$dry" ]; then printf '%s\n' "$*"; else "$@" >>"$log" 2>&1 || fail "$1 failed, see $log: $(tail -n 1 "$log")"; fi; }

usage="usage: ${CALLED_AS:-launch/pi_emulate.sh} DIR [--dry-run]"
dir='' dry=''
for argument in "$@"; do
  case $argument in
    -h|--help) echo "$usage"; sed -n '2,$ { /^#/!q; /^#SBATCH/!s/^# \{0,1\}//p; }' "$0"; exit ;;
    --dry-run) dry=yes ;;
    -*) fail "$argument is unknown; $usage" ;;
    *) [ -z "$dir" ] || fail "$argument is one folder too many; give one, with folders in it if need be"; dir=$argument ;;
  esac
done
[ -n "$dir" ] || fail "no folder; $usage"
[ -d "$dir" ] || fail "$dir is not a folder; python -m tvconv_jax.export --formats=onnx --out=$dir makes one"
artifacts=() runtimes='' cross=$(command -v aarch64-linux-gnu-g++) || cross=''
none='and no native engine'
while read -r runtime artifact; do
  if [ "$runtime" = native ] && [ -z "$cross" ]; then
    none='and there is no aarch64-linux-gnu-g++ for its native engine: apt-get install g++-aarch64-linux-gnu'
    echo "$dir/$artifact is not checked: no aarch64-linux-gnu-g++ (apt-get install g++-aarch64-linux-gnu)" >&2
    continue
  fi
  artifacts+=("$dir/$artifact") runtimes+=,$runtime
done < <(artifacts_in "$dir")
[ ${#artifacts[@]} -gt 0 ] || fail "$dir holds no .onnx file $none; python -m tvconv_jax.export --formats=onnx,native --out=$dir writes them"
for artifact in "${artifacts[@]}"; do
  [ -f "$(dirname "$artifact")/check.npz" ] || fail "$artifact has no check.npz beside it; copy the exporter's whole folder"
done

here=$(cd "$(dirname "$0")" && pwd)
package=$here/../tvconv_jax
[ -d "$package" ] || package=$here/..  # inside the installed package
benchmark=$package/edge/benchmark.py
python=${PYTHON:-$here/../.venv/bin/python}
[ -x "$python" ] || python=$(command -v "${PYTHON:-python3}") || fail "no python3; name one that has pip: PYTHON=..."
cache=${TVCONV_JAX_CACHE:-${HOME:-}/.cache/tvconv_jax}/pi
[ "${cache#\~/}" = "$cache" ] || cache=${HOME:-}/${cache#\~/}
log=$cache/log.txt root=$cache/root site=$cache/site-$ONNXRUNTIME

# apt with lists, cache and architecture of its own, so that the machine's are as they were.
fetch() {
  local architecture=$1 to=$2 apt=$cache/apt-$1
  shift 2
  if [ -z "$dry" ]; then
    mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial"
    : >"$apt/status"
  fi
  local options=(-qq -o APT::Architecture="$architecture" -o APT::Architectures="$architecture" -o Dir::State="$apt/state"
    -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" -o Debug::NoLocking=1 -o APT::Sandbox::User=)
  run rm -rf "$to.part"  # of a call that was stopped
  run apt-get "${options[@]}" update
  run apt-get "${options[@]}" install -y --download-only --no-install-recommends "$@"
  show "dpkg -x $apt/cache/archives/*.deb $to"
  [ -n "$dry" ] || for package in "$apt"/cache/archives/*.deb; do run dpkg -x "$package" "$to.part"; done
  run mv "$to.part" "$to"
  run rm -rf "$apt"
}

[ -n "$dry" ] || { mkdir -p "$cache" && : >"$log"; }
qemu=$(command -v qemu-aarch64-static) || qemu=$cache/qemu/usr/bin/qemu-aarch64-static
if [ -x "$qemu" ]; then show "# $qemu is here"; else
  command -v apt-get dpkg >/dev/null || fail "no qemu-aarch64-static, and no apt-get to fetch it; install qemu-user-static"
  fetch "$(dpkg --print-architecture)" "$cache/qemu" qemu-user-static
fi
if [ -d "$root" ]; then show "# $root is here"; else
  command -v apt-get dpkg >/dev/null || fail "no apt-get to fetch Python for arm64; run this on Debian"
  fetch arm64 "$root" python3-minimal libpython3-stdlib libstdc++6
fi
[ -n "$dry" ] && [ ! -d "$root" ] && interpreter="$root/usr/bin/python3.11" || interpreter=$(ls "$root"/usr/bin/python3.*[0-9])
if [ -d "$site" ]; then show "# $site is here"; else
  run rm -rf "$site.part"
  run "$python" -m pip install -q --disable-pip-version-check --target "$site.part" --only-binary=:all: \
    --platform manylinux2014_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux_2_28_aarch64 \
    --implementation cp --python-version "${interpreter##*python}" numpy "onnxruntime==$ONNXRUNTIME"
  run mv "$site.part" "$site"
fi

# -march=native would ask for this machine's instructions.
if [ -n "$cross" ] && [ -z "$dry" ]; then
  printf '#!/bin/sh\nfor word do shift; [ "$word" = -march=native ] && word=-mcpu=cortex-a72; set -- "$@" "$word"; done\nexec %q "$@"\n' \
    "$cross" >"$cache/c++"
  chmod +x "$cache/c++"
fi
check=(env QEMU_CPU=cortex-a72 CXX="$cache/c++" TVCONV_JAX_CACHE="$cache/compiled" PYTHONPATH="$site" PYTHONDONTWRITEBYTECODE=1
  "$qemu" -L "$root" "$interpreter" "$benchmark" --check-only --runtime="${runtimes#,}" "${artifacts[@]}")
if [ -n "$dry" ]; then printf '%s\n' "${check[*]}"; else exec "${check[@]}"; fi
