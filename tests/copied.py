"""Programs of ``tvconv_jax/edge`` that are copied alone: their answers in this process, and as a copied file."""

import shutil
import subprocess
import sys

import pytest


def commands(program):
    """Functions of ``capsys`` and a program's arguments: exit code, stdout and stderr; and the line of a refusal."""

    def call(capsys, *arguments):
        with pytest.raises(SystemExit) as info:
            program.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return info.value.code, out, err

    def refusal(capsys, *arguments):
        code, out, err = call(capsys, *arguments)
        assert (code, out) == (2, "") and err.startswith("error: ") and len(err.splitlines()) == 1, (code, out, err)
        return err

    return call, refusal


def run_copied(program, folder, *arguments):
    """Stdout of a program's file, copied into a folder, which loads no package of ours and has no error."""
    copied, name = shutil.copy(program.__file__, folder), program.__name__.rpartition(".")[2]
    code = (
        f"import sys, {name}; names = {{name.split('.')[0] for name in sys.modules}}\n"
        f"assert {name}.__file__ == sys.argv[1], {name}.__file__\n"
        "assert not names & {'jax', 'tvconv_jax', 'torch', 'onnxruntime', 'cv2', 'scipy'}, names"
    )
    subprocess.run([sys.executable, "-c", code, copied], cwd=folder, check=True)
    done = subprocess.run([sys.executable, copied, *arguments], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
