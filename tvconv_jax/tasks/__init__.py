"""Jobs: model, loss and evaluation put together. ``TASKS`` names them for configs."""

from tvconv_jax.tasks import face, frontal

TASKS = {"face": face, "frontal": frontal}
