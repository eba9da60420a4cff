"""The scripts for SLURM and TPUs and the manifest for GKE: what they would do, and do where their tools are played."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).parent.parent / "launch"
POD = ["pod", "--zone=us-west4-a", "--type=v5litepod-64", "--bucket=store"]
FLAGS = ["--config=configs/face_mb10.py", "--workdir=bucket/a b"]

# Plays Google's side. `codes` holds what worker 0 ended with, one a line; "gone": it was pre-empted meanwhile; "lost":
# the network was, for two questions. Who waits for a TPU has it when asked again.
GCLOUD = """#!/bin/bash
note() { echo "$1" >> log; }
case "$*" in
  *describe*)
    if [ -e lost ]; then rm lost; echo "ERROR: no network" >&2; exit 1; fi
    cat state 2>/dev/null || { echo "ERROR: (gcloud) NOT_FOUND: Resource 'pod' was not found" >&2; exit 1; }
    sed -i s/WAITING_FOR_RESOURCES/ACTIVE/ state ;;
  *queued-resources*create*) note create; echo ACTIVE > state ;;
  *queued-resources*delete*) note delete; rm state ;;
  *scp*) note copy ;;
  *setsid*) note start ;;
  *tail*) note follow ;;
  *exit_code*)
    code=$(head -n 1 codes); sed -i 1d codes
    if [ "$code" = gone ]; then echo SUSPENDED > state; exit 255; fi
    if [ "$code" = lost ]; then touch lost; exit 255; fi
    echo "$code" ;;
  *"uv pip install"*) note install ;;
esac
"""
# Plays a worker: ssh runs the command in a folder, and the training there saves on SIGTERM.
WORKER = """#!/bin/bash
for word in "$@"; do case $word in --command=*) exec bash -c "${word#--command=}" ;; esac; done
"""
TRAINING = """#!/bin/bash
echo "$TVCONV_JAX_COORDINATOR ${*: -1}" >> ran
trap 'sleep 0.5; echo saved >> ran; exit 75' TERM
while [ ! -e done ]; do sleep 0.05; done
exit 3
"""
# Plays srun: the step, which saves on SIGTERM.
SRUN = """#!/bin/bash
echo "srun $*" >> log
trap 'echo saved >> log; exit 75' TERM
touch started
while [ ! -e done ]; do sleep 0.05; done
exit $(cat done)
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*" >> log
"""


def run(script, *arguments, **environment):
    command = ["bash", str(LAUNCH / script), *map(str, arguments)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=60)


@pytest.fixture
def played(tmp_path):
    """A folder in which gcloud, srun and scontrol are scripts that keep a log; and the environment that finds them."""
    for name, text in (("gcloud", GCLOUD), ("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    return tmp_path, os.environ | {"PATH": path, "POLL": "0", "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7"}


@pytest.mark.parametrize("script", ["slurm.sbatch", "tpu_pod.sh"])
def test_scripts_parse_and_are_short(script):
    subprocess.run(["bash", "-n", LAUNCH / script], check=True)
    assert len((LAUNCH / script).read_text().splitlines()) <= 120


def test_slurm_dry_run_prints_the_step():
    done = run("slurm.sbatch", "--dry-run", *FLAGS, PYTHON="python", SLURM_SUBMIT_DIR="/shared/tree")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "cd /shared/tree",
        f"srun --kill-on-bad-exit=0 --wait=120 python -m tvconv_jax.main {FLAGS[0]} {FLAGS[1]}",
        "# SIGTERM is passed on to every process",
        "# exit code 75: scontrol requeue $SLURM_JOB_ID",
    ]
    options = [line for line in (LAUNCH / "slurm.sbatch").read_text().splitlines() if line.startswith("#SBATCH")]
    assert "#SBATCH --requeue" in options and "#SBATCH --signal=B:TERM@120" in options


def test_slurm_passes_sigterm_on_waits_for_the_save_and_queues_again(played):
    folder, environment = played
    process = subprocess.Popen(["bash", LAUNCH / "slurm.sbatch", *FLAGS], cwd=folder, env=environment)
    while not (folder / "started").exists():
        assert process.poll() is None
    process.terminate()
    assert process.wait(timeout=30) == 75
    log = (folder / "log").read_text().splitlines()
    assert log[0].startswith("srun") and log[1:] == ["saved", "scontrol requeue 7"]


def test_slurm_passes_on_a_sigterm_of_the_first_moment(played):
    folder, environment = played
    (folder / "bin" / "srun").write_text(SRUN.replace("touch started", "kill -TERM $PPID"))
    done = subprocess.run(["bash", LAUNCH / "slurm.sbatch", *FLAGS], cwd=folder, env=environment, timeout=30)
    assert done.returncode == 75 and (folder / "log").read_text().splitlines()[1:] == ["saved", "scontrol requeue 7"]


@pytest.mark.parametrize("code", [0, 1])
def test_slurm_ends_with_any_other_code(played, code):
    folder, environment = played
    (folder / "done").write_text(str(code))
    done = subprocess.run(["bash", LAUNCH / "slurm.sbatch", *FLAGS], cwd=folder, env=environment)
    assert done.returncode == code and "scontrol" not in (folder / "log").read_text()


def test_tpu_dry_run_prints_all_of_it():
    done = run("tpu_pod.sh", "run", *POD, "--spot", "--dry-run", "--", *FLAGS, PATH="/usr/bin:/bin", TMPDIR="/tmp")
    assert done.returncode == 0, done.stderr
    expected = [
        "gcloud compute tpus queued-resources create pod --zone=us-west4-a --node-id=pod "
        "--accelerator-type=v5litepod-64 --runtime-version=v2-alpha-tpuv5-lite --spot",
        "# waits until the state is ACTIVE",
        "tpu-vm scp /tmp/tvconv_jax-pod.tar.gz pod:tvconv_jax.tar.gz --zone=us-west4-a --worker=all",
        "gcsfuse --implicit-dirs store bucket",
        "pip install -q --python .venv -c requirements.lock -e '.[tpu,train]'",
        f'tvconv_jax.main "$@"; echo $? > exit_code\' sh {FLAGS[0]} --workdir=bucket/a\\ b > log.txt',
        "ssh pod --zone=us-west4-a --worker=0 --command=cd tvconv_jax; tail -n +1 -F --pid=$(cat pid) log.txt",
        "# code 75: start and follow again; state not ACTIVE: delete, and all of it again",
    ]
    at = [done.stdout.find(text) for text in expected]
    assert -1 not in at and at == sorted(at), done.stdout
    done = run("tpu_pod.sh", "delete", "pod", "--zone=z", "--dry-run")
    assert done.stdout == "gcloud compute tpus queued-resources delete pod --zone=z --force --quiet\n"


def test_tpu_installs_a_wheel_where_there_is_no_checkout(tmp_path):
    script, wheel = tmp_path / "a/launch/tpu_pod.sh", tmp_path / "tvconv_jax-1-py3-none-any.whl"
    script.parent.mkdir(parents=True)
    script.write_bytes((LAUNCH / "tpu_pod.sh").read_bytes())
    done = run(script, "install", "pod", "--zone=z", "--bucket=b", "--dry-run")
    assert done.returncode == 2 and "name a wheel: --wheel=FILE" in done.stderr and not done.stdout
    wheel.touch()
    done = run(script, "install", "pod", "--zone=z", "--bucket=b", "--dry-run", f"--wheel={wheel}")
    assert f"scp {wheel} pod:{wheel.name} --zone=z" in done.stdout and "tar" not in done.stdout
    assert done.stdout.endswith(f"pip install -q --python .venv '../{wheel.name}[tpu,train]'\n")


NEW = ["create", "copy", "install"]


@pytest.mark.parametrize(
    ("codes", "expected", "code"),
    [
        (["0"], [*NEW, "start", "follow"], 0),
        (["75", "0"], [*NEW, "start", "follow", "start", "follow"], 0),
        (["gone", "0"], [*NEW, "start", "follow", "delete", *NEW, "start", "follow"], 0),
        (["", "0"], [*NEW, "start", "follow", "follow"], 0),  # the connection was lost, the run was not
        (["lost", "0"], [*NEW, "start", "follow", "follow"], 0),  # and nobody said whether the TPU is there
        (["1"], [*NEW, "start", "follow"], 1),
    ],
)
def test_tpu_run_goes_on_until_the_end(played, codes, expected, code):
    done = run_pod(*played, codes)
    assert done.returncode == code, done.stderr
    assert (played[0] / "log").read_text().split() == expected
    assert not list(played[0].glob("*.gz"))


def test_tpu_run_waits_for_the_one_that_was_asked_for(played):
    (played[0] / "state").write_text("WAITING_FOR_RESOURCES\n")
    assert run_pod(*played, ["0"]).returncode == 0
    assert (played[0] / "log").read_text().split() == ["copy", "install", "start", "follow"]


def test_tpu_run_ends_where_a_tpu_is_refused(played):
    (played[0] / "bin/gcloud").write_text("#!/bin/bash\necho ERROR: NOT_FOUND, or no quota >&2; exit 1\n")
    done = run_pod(*played, [])
    assert done.returncode == 1 and "no quota" in done.stderr


def run_pod(folder, environment, codes):
    """``tpu_pod.sh run`` from a small tree, where worker 0 ends as ``codes`` say."""
    (folder / "codes").write_text("".join(f"{line}\n" for line in codes))
    tree = folder / "tree"
    (tree / "launch").mkdir(parents=True)
    (tree / "pyproject.toml").touch()
    (tree / "launch/tpu_pod.sh").write_bytes((LAUNCH / "tpu_pod.sh").read_bytes())
    command = ["bash", tree / "launch/tpu_pod.sh", "run", *POD, "--", *FLAGS]
    return subprocess.run(
        command, cwd=folder, env=environment | {"TMPDIR": str(folder)}, capture_output=True, text=True, timeout=60
    )


def test_tpu_start_waits_until_the_one_before_has_saved(played):
    folder, environment = played
    (folder / "bin/gcloud").write_text(WORKER)
    python = folder / "tvconv_jax/.venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(TRAINING)
    python.chmod(0o755)

    def act(*arguments):
        command = ["bash", LAUNCH / "tpu_pod.sh", *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)

    for _ in range(2):
        assert act("start", "pod", "--zone=z", "--", *FLAGS).returncode == 0
    (folder / "tvconv_jax/done").touch()
    assert act("follow", "pod", "--zone=z").returncode == 3
    assert (folder / "tvconv_jax/ran").read_text().splitlines() == [f"auto {FLAGS[-1]}", "saved", f"auto {FLAGS[-1]}"]


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("slurm.sbatch", ["--dry-run"], "no --config"),
        ("slurm.sbatch", ["--dry-run", FLAGS[0]], "no --workdir"),
        ("slurm.sbatch", FLAGS, "not under SLURM"),
        ("tpu_pod.sh", ["run"], "an action and a name are needed"),
        ("tpu_pod.sh", ["walk", "pod"], "action walk is unknown"),
        ("tpu_pod.sh", ["create", "pod", "--zone=z"], "create needs --type=..."),
        ("tpu_pod.sh", ["run", *POD], "run needs the flags of tvconv_jax.main after --"),
        ("tpu_pod.sh", ["run", *POD, "--fast"], "--fast is unknown"),
    ],
)
def test_mistakes_are_one_line(script, arguments, words):
    done = run(script, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and words in done.stderr


def test_the_manifest_restarts_all_pods_but_not_after_a_mistake():
    jobset = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] > 0
    saved, mistake = policy["rules"]  # the first that matches counts
    assert saved["action"] == "RestartJobSetAndIgnoreMaxRestarts" and mistake["action"] == "FailJobSet"
    assert saved["onJobFailureReasons"] == mistake["onJobFailureReasons"] == ["PodFailurePolicy"]
    message = "Container train for pod default/a failed with exit code 75 matching FailJob rule at index 0"
    assert re.search(saved["onJobFailureMessagePatterns"][0], message)
    (slices,) = jobset["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    assert job["completionMode"] == "Indexed" and job["completions"] == job["parallelism"] and job["backoffLimit"] == 0
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    (failing,) = job["podFailurePolicy"]["rules"]
    assert failing["action"] == "FailJob" and failing["onExitCodes"]["containerName"] == container["name"]
    assert failing["onExitCodes"]["values"] == [2, 75] and pod["restartPolicy"] == "Never"
    chips = [int(side) for side in pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")]
    assert chips[0] * chips[1] == job["completions"] * container["resources"]["limits"]["google.com/tpu"]
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    workdir = next(value for value in container["args"] if value.startswith("--workdir="))
    assert mount["name"] == volume["name"] and workdir.startswith(f"--workdir={mount['mountPath']}/")
    assert job["template"]["metadata"]["annotations"]["gke-gcsfuse/volumes"] == "true"
