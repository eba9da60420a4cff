#!/usr/bin/env bash
# Measures exported models on a Raspberry Pi, or any machine behind ssh, and brings the figures home:
#     launch/pi.sh HOST DIR [--dry-run] [flags of the benchmark, as --compare or --seconds=5]
# DIR, or its folders, hold what `python -m tvconv_jax.export` wrote: .onnx files, and model.safetensors with native.py
# and native.cpp, each with its check.npz. They go to ~/tvconv_jax_benchmark on HOST, with tvconv_jax/edge/benchmark.py
# and a venv of numpy and onnxruntime; the figures come to DIR/HOST.json. HOST needs python3 with venv, 3.9 (Raspberry
# Pi OS Bullseye) or later, a 64-bit system for onnxruntime, and g++ for the native engine. launch/pi_emulate.sh tries both without a Pi.
set -euo pipefail
. "$(dirname "$0")/artifacts.sh"

ONNXRUNTIME=1.20.1  # 1.21.0 dies of an illegal instruction on a Raspberry Pi 4
ONNXRUNTIME_39=1.19.2  # the last one for Python 3.9

fail() { echo "error: $1" >&2; exit 2; }
usage="usage: ${CALLED_AS:-launch/pi.sh} HOST DIR [--dry-run] [flags of the benchmark]"

there=() flags=() dry=''
while [ $# -gt 0 ]; do
  case $1 in
    -h|--help) echo "$usage"; sed -n '2,$ { /^#/!q; /^#SBATCH/!s/^# \{0,1\}//p; }' "$0"; exit ;;
    --dry-run) dry=yes ;;
    --batch|--threads|--runtime|--seconds|--json|--check)  # with a value behind a space
      [ $# -gt 1 ] || fail "$1 needs a value; $usage"
      flags+=("$1" "$2"); shift ;;
    -*) flags+=("$1") ;;
    *) there+=("$1") ;;
  esac
  shift
done
[ ${#there[@]} -eq 2 ] || fail "${#there[@]} arguments beside the flags, not 2; $usage"
host=${there[0]} dir=${there[1]%/}
[ -d "$dir" ] || fail "$dir is not a folder; python -m tvconv_jax.export --formats=onnx --out=$dir makes one"
artifacts=() runtimes='' native=()
while read -r runtime artifact; do
  artifacts+=("$artifact") runtimes+=,$runtime
  [ "$runtime" != native ] || native+=("$(dirname "$artifact")")
done < <(artifacts_in "$dir")
[ ${#artifacts[@]} -gt 0 ] || fail "$dir holds no .onnx file and no native engine; python -m tvconv_jax.export --formats=onnx,native --out=$dir writes them"
if [ ${#native[@]} -gt 0 ]; then  # a .safetensors may be for PyTorch too; what the caller says goes before
  flags=("--runtime=${runtimes#,}" ${flags[@]+"${flags[@]}"})
fi

# One folder to copy, as it will stand on HOST.
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
to=$stage/tvconv_jax_benchmark
mkdir "$to"
package=$(dirname "$0")/../tvconv_jax
[ -d "$package" ] || package=$(dirname "$0")/..  # inside the installed package
cp "$package/edge/benchmark.py" "$to/"
for artifact in "${artifacts[@]}"; do
  mkdir -p "$to/models/$(dirname "$artifact")"
  cp "$dir/$artifact" "$to/models/$artifact"
  check=$(dirname "$artifact")/check.npz
  [ ! -f "$dir/$check" ] || cp "$dir/$check" "$to/models/$check"
done
for folder in ${native[@]+"${native[@]}"}; do cp "$dir/$folder/native.py" "$dir/$folder/native.cpp" "$to/models/$folder/"; done

# Before anything is copied. What HOST's shell gets is one word; what it finds is one line.
needs="python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null || {
  echo \"error: \$(hostname) has \$(python3 --version 2>/dev/null || echo no python3), and the benchmark needs Python 3.9 or later: sudo apt-get install python3 python3-venv, or a newer Raspberry Pi OS\" >&2; exit 2; }"

# What HOST's shell gets: every word quoted, none of it expanded again.
words=$(printf ' %q' "${artifacts[@]/#/models/}" ${flags[@]+"${flags[@]}"} --json=figures.json)
remote="set -e; cd tvconv_jax_benchmark; rm -f figures.json
venv/bin/python -c 'import numpy, onnxruntime' 2>/dev/null || {
  version=\$(python3 -c 'import sys; print(\"$ONNXRUNTIME_39\" if sys.version_info < (3, 10) else \"$ONNXRUNTIME\")')
  python3 -m venv venv; venv/bin/python -m pip install --disable-pip-version-check -q numpy onnxruntime==\$version; }
venv/bin/python benchmark.py$words"
result=$dir/${host##*@}.json
[ -n "$dry" ] || [ ! -e "$result" ] || echo "note: $result existed and is overwritten" >&2

# Models of an earlier call would lie beside these, so they go first.
run() { if [ -n "$dry" ]; then printf '%s\n' "$*"; else "$@"; fi; }
[ -z "$dry" ] || (cd "$stage" && find . -type f | sort | sed 's/^/# copied: /')
run ssh "$host" "$needs; rm -rf tvconv_jax_benchmark/models"
run scp -rq "$to" "$host:"
run ssh "$host" "$remote"
run scp -q "$host:tvconv_jax_benchmark/figures.json" "$result"
[ -n "$dry" ] || echo "wrote $result"
