"""The operators that the paper compares TVConv with, its own limits, and one of ours; each takes TVConv's place.

=====================  ===================================================================================
:mod:`.per_image`      ``condconv``, ``weightnet``, ``dyconv_dw``, ``dyconv_pw``: one kernel an image
:mod:`.per_pixel`      ``involution``, ``ddf``, ``tvconv_dynamic``: one kernel an image and pixel
:mod:`.attention`      ``sasa`` (local), ``axial`` (along h, then w)
:mod:`.per_position`   ``locally_connected`` (Eq. 2), ``tvconv_linear`` (Eq. 3), ``tvconv_lowrank`` (ours): static
=====================  ===================================================================================

Those that normalize over the batch, as their papers do, say so with ``has_norm`` and take ``train``; the others do not.
"""
