"""Recipes, one file each; the files of ``configs/``, which a user names on the command line, call them."""

from tvconv_jax.tasks.configs.arguments import Argument, parse_arguments
from tvconv_jax.tasks.configs.classification import classification_config
from tvconv_jax.tasks.configs.face import face_config
from tvconv_jax.tasks.configs.frontal import frontal_config
from tvconv_jax.tasks.configs.odoc import odoc_config
from tvconv_jax.tasks.configs.segmentation import segmentation_config

__all__ = [
    "Argument",
    "classification_config",
    "face_config",
    "frontal_config",
    "odoc_config",
    "parse_arguments",
    "segmentation_config",
]
