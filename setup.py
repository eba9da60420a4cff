"""Packages of the wheel: ``configs/`` and ``launch/`` lie beside the package in a checkout, and inside it in a wheel."""

from setuptools import find_packages, setup

FOLDERS = {"tvconv_jax.configs": "configs", "tvconv_jax.configs.sweeps": "configs/sweeps", "tvconv_jax.launch": "launch"}

setup(packages=[*find_packages(include=["tvconv_jax*"]), *FOLDERS], package_dir=FOLDERS)
