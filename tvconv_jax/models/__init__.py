"""The paper's models, each one page; ``create_model`` builds one by name."""

from tvconv_jax.models.registry import create_model, list_models

__all__ = ["create_model", "list_models"]
