"""Packages of the wheel, in which ``configs/`` and ``launch/`` lie inside the package; in a checkout, beside it."""

from setuptools import find_packages, setup

FOLDERS = {
    "tvconv_jax.configs": "configs",
    "tvconv_jax.configs.sweeps": "configs/sweeps",
    "tvconv_jax.launch": "launch",
}

setup(packages=[*find_packages(include=["tvconv_jax*"]), *FOLDERS], package_dir=FOLDERS)
