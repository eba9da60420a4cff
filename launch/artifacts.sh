#!/usr/bin/env bash
# For pi.sh and pi_emulate.sh, which source it: what edge/benchmark.py can run of an exporter's folder and of those in it.

if [ "${BASH_SOURCE[0]}" = "$0" ]; then  # not sourced
  echo 'usage: . launch/artifacts.sh'; sed -n '2,$ { /^#/!q; /^#SBATCH/!s/^# \{0,1\}//p; }' "$0"; exit
fi

# Lines of a runtime and a file, from DIR: artifacts_in DIR
artifacts_in() {
  local found weights
  (cd "$1" && find . -maxdepth 2 -not -path '*/.*' \( -name '*.onnx' -o -name native.cpp \) | sort) | while IFS= read -r found; do
    found=${found#./}
    case $found in
      *.onnx) echo "onnxruntime $found" ;;
      *) weights=${found%native.cpp}model.safetensors; [ ! -f "$1/$weights" ] || echo "native $weights" ;;
    esac
  done
}
