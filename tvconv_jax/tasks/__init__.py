"""Jobs: model, loss and evaluation put together. ``TASKS`` names them for configs."""

from tvconv_jax.tasks import face, frontal, segmentation

TASKS = {"face": face, "frontal": frontal, "segmentation": segmentation}
