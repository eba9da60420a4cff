#!/usr/bin/env bash
# Runs a command in N processes on the CPUs of this machine, as one run:
#     launch/local_processes.sh N [--dry-run] -- python -m tvconv_jax.main --config=configs/face_mb01.py --workdir=DIR
# The environment tells each its place. What process 0 prints is shown; what the others print goes to files, in
# DIR/processes where the command names a --workdir. Ctrl-C, SIGTERM and SIGHUP go to all of them; when one fails the others are
# ended too, and its exit code is this script's.
set -uo pipefail

PATIENCE=${PATIENCE:-20}  # seconds between asking the others to end and ending them

fail() { echo "error: $1" >&2; exit 2; }
usage="usage: ${CALLED_AS:-launch/local_processes.sh} N [--dry-run] -- command ..."

set -m  # a process group each: Ctrl-C reaches them through this script alone, once

number='' dry=''
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case $1 in
    -h|--help) echo "$usage"; sed -n '2,$ { /^#/!q; /^#SBATCH/!s/^# \{0,1\}//p; }' "$0"; exit ;;
    --dry-run) dry=yes ;;
    -*) fail "$1 is unknown; $usage" ;;
    *) [ -z "$number" ] || fail "$1 is one word too many before --; $usage"; number=$1 ;;
  esac
  shift
done
[[ $number =~ ^[1-9][0-9]*$ ]] || fail "N is '$number', not a number of processes; $usage"
[ $# -gt 1 ] || fail "no command behind --; $usage"
shift

# Killed itself, it takes them along, where the system can say so: they would keep the folder from its next start.
tether=(setpriv --pdeathsig KILL)
"${tether[@]}" true 2>/dev/null || tether=()

free_port='import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
port=$(python3 -c "$free_port") || fail "python3 found no free port"
logs=''
for word in "$@"; do [[ $word != --workdir=* ]] || logs=${word#--workdir=}/processes; done
[ -n "$logs" ] || logs=$(mktemp -du)

pids=()
tell() { for pid in ${pids[@]+"${pids[@]}"}; do kill "-$1" "$pid" 2>/dev/null; done; }
trap "tell INT" INT
trap "tell TERM" TERM
trap "tell HUP" HUP  # which is not set under nohup, where HUP is ignored

for ((i = 0; i < number; i++)); do
  place=(JAX_PLATFORMS=cpu TVCONV_JAX_COORDINATOR="127.0.0.1:$port" TVCONV_JAX_PROCESSES="$number" TVCONV_JAX_PROCESS="$i")
  out=$logs/$i.txt
  if [ -n "$dry" ]; then
    echo "${place[*]}$(printf ' %q' "$@")$([ "$i" -eq 0 ] || echo " >$out 2>&1") &"
    continue
  fi
  if [ "$i" -eq 0 ]; then env "${place[@]}" ${tether[@]+"${tether[@]}"} "$@" & else
    mkdir -p "$logs" || fail "$logs cannot be made; choose another --workdir"
    env "${place[@]}" ${tether[@]+"${tether[@]}"} "$@" >"$out" 2>&1 &
  fi
  pids[i]=$!
done

code=0 deadline=''
while [ ${#pids[@]} -gt 0 ]; do
  sleep 0.1
  [ -z "$deadline" ] || [ "$SECONDS" -lt "$deadline" ] || tell KILL
  for i in "${!pids[@]}"; do
    kill -0 "${pids[i]}" 2>/dev/null && continue
    wait "${pids[i]}"
    status=$?
    unset "pids[i]"
    [ "$status" -ne 0 ] && [ "$code" -eq 0 ] || continue
    code=$status deadline=$((SECONDS + PATIENCE))
    [ "$i" -eq 0 ] || echo "process $i ended with exit code $code, see $logs/$i.txt: $(tail -n 1 "$logs/$i.txt")" >&2
    tell TERM
  done
done
exit "$code"
