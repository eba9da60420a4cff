"""The HTML report of a run or a sweep: one file that loads nothing and runs no script.

    python -m tvconv_jax.report WORKDIR

A run's report is made of ``config.json``, ``results.json``, ``metrics.jsonl`` and ``report.npz``: scores of pairs,
learning rates, affinity maps. :func:`tvconv_jax.report.run.shows_images` decides whether images of the data are shown.
"""
