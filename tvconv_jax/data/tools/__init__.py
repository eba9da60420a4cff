"""Commands of ``python -m tvconv_jax.data``: inspect, convert, align, pairs, speed."""
