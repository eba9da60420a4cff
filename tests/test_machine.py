"""What the machine is called: on x86 two processors' text, on a Raspberry Pi its own, elsewhere the architecture."""

import platform

import pytest

from tvconv_jax.utils.environment import cores, device_description, processor

X86 = "processor\t: {n}\ncpu family\t: 6\nmodel\t\t: {m}\nmodel name\t: Some(R) CPU: big\nflags\t\t:\n\n"
PI = "processor\t: 0\nCPU part\t: 0xd08\n\nRevision\t: c03111\nModel\t\t: Raspberry Pi 4 Model B Rev 1.1\n"


@pytest.mark.parametrize(
    "said, name",
    [
        (X86.format(n=0, m=207) + X86.format(n=1, m=208), "Some(R) CPU: big, family 6, model 207"),
        (PI, "Raspberry Pi 4 Model B Rev 1.1"),
        ("no colon here\n", platform.processor() or platform.machine()),
    ],
)
def test_a_processor_is_called_what_linux_calls_the_first(tmp_path, said, name):
    file = tmp_path / "cpuinfo"
    file.write_text(said)
    assert processor(file) == name


def test_where_nothing_is_said_it_is_the_architecture(tmp_path):
    assert processor(tmp_path / "none") == (platform.processor() or platform.machine())


def test_a_run_says_of_what_processor_it_is():
    assert processor() in device_description() and f"({cores()} core" in device_description()
