"""The operators that the paper compares TVConv with, its own limits, and one of ours; each takes TVConv's place.

=====================  ===================================================================================
per image dynamic      ``condconv``, ``weightnet``, ``dyconv_dw``, ``dyconv_pw``: one kernel an image
per pixel dynamic      ``involution``, ``ddf``, ``tvconv_dynamic``: one kernel an image and pixel
self-attention         ``sasa`` (local), ``axial`` (along h, then w)
static, per pixel      ``locally_connected`` (Eq. 2), ``tvconv_linear`` (Eq. 3), ``tvconv_lowrank`` (ours)
=====================  ===================================================================================

Those that normalize over the batch, as their papers do, say so with ``has_norm`` and take ``train``; the others do not.
"""
