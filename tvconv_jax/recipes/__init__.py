"""Configs of the jobs, one file each; ``configs/`` holds what a user names on the command line."""

from tvconv_jax.recipes.arguments import Argument, parse_arguments
from tvconv_jax.recipes.face import face_config
from tvconv_jax.recipes.frontal import frontal_config
from tvconv_jax.recipes.odoc import odoc_config

__all__ = ["Argument", "face_config", "frontal_config", "odoc_config", "parse_arguments"]
