#!/usr/bin/env bash
# Trains on a Cloud TPU, from a single host to a pod slice, and goes on by itself after a pre-emption:
#     launch/tpu_pod.sh run NAME --zone=us-west4-a --type=v5litepod-64 --bucket=BUCKET [--spot] [--project=P] \
#         [--runtime=R] [--wheel=FILE] [--dry-run] -- --config=configs/face_mb10.py --workdir=bucket/runs/a
# `run` is what these do, one after the other, and again when the TPU is gone or the processes ended with 75:
#     create   asks for the TPU as a queued resource, and waits until it is there
#     install  copies the tree to every worker (or the wheel of --wheel=FILE), makes the environment, mounts the bucket
#     start    starts the command on all workers; it goes on when the connection is lost
#     follow   shows the log of worker 0 until it ends, and ends with its exit code
#     delete   gives the TPU back; after `run` it stays until then
# What a TPU holds is gone with it, so the workdir lies in the bucket, which is ~/tvconv_jax/bucket on every worker;
# give the bucket a hierarchical namespace, where renaming a folder is atomic.
#
# Commands: https://cloud.google.com/sdk/gcloud/reference/compute/tpus (queued-resources, tpu-vm);
# states: https://cloud.google.com/tpu/docs/queued-resources; bucket: https://cloud.google.com/storage/docs/gcsfuse-install
set -euo pipefail

RESTART=75  # saved before the end: start again
POLL=${POLL:-30}  # seconds
USAGE="usage: ${CALLED_AS:-launch/tpu_pod.sh} run|create|install|start|follow|delete NAME --zone=Z [--type=T] [--bucket=B] [-- flags]"

fail() { echo "error: $1" >&2; exit 2; }
run() { if [ -n "$dry" ]; then printf '%s\n' "$*"; else "$@"; fi; }

zone='' type='' bucket='' runtime='' wheel='' dry='' words=() spot=() project=() flags=() tree=$(cd "$(dirname "$0")/.." && pwd)
while [ $# -gt 0 ]; do
  case $1 in
    --zone=*) zone=${1#*=} ;; --type=*) type=${1#*=} ;; --bucket=*) bucket=${1#*=} ;; --runtime=*) runtime=${1#*=} ;;
    --wheel=*) wheel=${1#*=} ;; --project=*) project=("$1") ;; --spot) spot=(--spot) ;; --dry-run) dry=yes ;;
    -h|--help) echo "$USAGE"; sed -n '2,$ { /^#/!q; /^#SBATCH/!s/^# \{0,1\}//p; }' "$0"; exit ;;
    --) shift; flags=("$@"); break ;;
    -*) fail "$1 is unknown; $USAGE" ;; *) words+=("$1") ;;
  esac
  shift
done
action=${words[0]:-} name=${words[1]:-}; [ ${#words[@]} -eq 2 ] || fail "an action and a name are needed; $USAGE"
need() { local flag; for flag in "$@"; do [ -n "${!flag}" ] || fail "$action needs --$flag=...; $USAGE"; done; }
case $action in
  run) need zone type bucket ;; create) need zone type ;; install) need zone bucket ;; start|follow|delete) need zone ;;
  *) fail "action $action is unknown; $USAGE" ;;
esac
case $action in run|start) [ ${#flags[@]} -gt 0 ] || fail "$action needs the flags of tvconv_jax.main after --; $USAGE" ;; esac
case $action in run|install) [ -f "${wheel:-$tree/pyproject.toml}" ] || fail "$action installs ${wheel:-the checkout around this script}, which is not there; name a wheel: --wheel=FILE" ;; esac
case $type in v4-*) system=tpu-ubuntu2204-base ;; v5p-*) system=v2-alpha-tpuv5 ;; v6e-*) system=v2-alpha-tpuv6e ;;
  *) system=v2-alpha-tpuv5-lite ;; esac

at=(--zone="$zone" ${project[@]+"${project[@]}"})
queued() { local verb=$1; shift; run gcloud compute tpus queued-resources "$verb" "$name" "${at[@]}" "$@"; }
on() { run gcloud compute tpus tpu-vm ssh "$name" "${at[@]}" --worker="$1" --command="$2"; }

# NONE where there is no such TPU; nothing where nobody answers, as without a network.
state() {
  local said; said=$(gcloud compute tpus queued-resources describe "$name" "${at[@]}" --format='value(state.state)' 2>&1) &&
    echo "${said##*$'\n'}" || case $said in *NOT_FOUND*) echo NONE ;; esac
}
ask() { queued create --node-id="$name" --accelerator-type="$type" --runtime-version="${runtime:-$system}" ${spot[@]+"${spot[@]}"}; }
create() {
  ask || exit
  if [ -n "$dry" ]; then echo "# waits until the state is ACTIVE"; return; fi
  while :; do case $(state) in ACTIVE) return ;; FAILED|SUSPENDED) return 1 ;; *) sleep "$POLL" ;; esac; done
}

# The systems' own Python is 3.10; uv brings a later one.
install() {
  local archive=${TMPDIR:-/tmp}/tvconv_jax-$name.tar.gz to=tvconv_jax.tar.gz what="-c requirements.lock -e '.[tpu,train]'" unpack="tar -xzf tvconv_jax.tar.gz -C tvconv_jax"
  if [ -n "$wheel" ]; then archive=$wheel to=${wheel##*/} unpack=true what="'../${wheel##*/}[tpu,train]'"
  else run tar -C "$tree" --exclude=.git --exclude=.venv --exclude=runs -czf "$archive" .; fi &&
  run gcloud compute tpus tpu-vm scp "$archive" "$name:$to" "${at[@]}" --worker=all && { [ -n "$wheel" ] || run rm "$archive"; } &&
  on all "set -e; mkdir -p tvconv_jax/bucket; $unpack; cd tvconv_jax; key=/usr/share/keyrings/cloud.google.asc
command -v gcsfuse >/dev/null || { curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee \$key >/dev/null
echo \"deb [signed-by=\$key] https://packages.cloud.google.com/apt gcsfuse-\$(lsb_release -cs) main\" | sudo tee /etc/apt/sources.list.d/gcsfuse.list
sudo apt-get update -q; sudo apt-get install -qy gcsfuse; }
mountpoint -q bucket || gcsfuse --implicit-dirs $(printf %q "$bucket") bucket
python3 -m pip install -q --user uv; uv=\$HOME/.local/bin/uv; [ -d .venv ] || \$uv venv -q --python 3.11 .venv
\$uv pip install -q --python .venv $what"
}

start() {
  # One that still runs saves first: it holds the workdir.
  on all "cd tvconv_jax; [ ! -f pid ] || { kill -- -\$(cat pid); while kill -0 -- -\$(cat pid); do sleep 1; done; } 2>/dev/null
rm -f exit_code
setsid nohup sh -c 'echo \$\$ > pid; TVCONV_JAX_COORDINATOR=auto .venv/bin/python -m tvconv_jax.main \"\$@\"; echo \$? > exit_code' sh$(printf ' %q' ${flags[@]+"${flags[@]}"}) > log.txt 2>&1 < /dev/null & sleep 1"
}

# Leaves the exit code of worker 0 in `code`: nothing while it runs or does not answer, 75 if it was started again.
follow() {
  local how="cat exit_code 2>/dev/null || kill -0 \$(cat pid) 2>/dev/null || echo $RESTART"
  on 0 'cd tvconv_jax; tail -n +1 -F --pid=$(cat pid) log.txt' || true  # a lost connection is not the end
  if [ -n "$dry" ]; then on 0 "cd tvconv_jax; $how"; else code=$(on 0 "cd tvconv_jax; $how") || code=''; fi
}

delete() { queued delete --force --quiet; }

go_on() {
  local installed='' started='' now
  while :; do
    now=$(state)
    case $now in
      NONE) installed='' started=''; ask || [ "$(state)" != NONE ] || exit 1 ;;  # refused, and not just unanswered
      FAILED|SUSPENDED) echo "the TPU is $now; another is asked for"; delete || true ;;
    esac
    [ "$now" = ACTIVE ] || { sleep "$POLL"; continue; }  # it is on its way, or nobody answers
    [ -n "$installed" ] || { install && installed=yes; } || { sleep "$POLL"; continue; }
    [ -n "$started" ] || { start && started=yes; } || { sleep "$POLL"; continue; }
    follow
    case $code in
      0) return ;;
      "$RESTART") echo "stopped before its end; starting again"; started='' ;;
      *) sleep "$POLL"; [ -z "$code" ] || [ "$(state)" != ACTIVE ] || return "$code" ;;  # workers of a lost TPU fail too
    esac
  done
}

case $action in
  run) if [ -z "$dry" ]; then go_on; else
    create; install; start; follow
    echo "# code $RESTART: start and follow again; state not ACTIVE: delete, and all of it again"; fi ;;
  follow) follow; [ -n "$dry" ] || exit "${code:-1}" ;;
  *) "$action" ;;
esac
