"""One process of several that take batches from images on their devices, for test_distributed.py."""

import os
from contextlib import closing

import jax
import numpy as np

from tvconv_jax.data.cache import cache_dir
from tvconv_jax.data.pipeline import index_batches, train_batches
from tvconv_jax.data.subset import Subset
from tvconv_jax.data.synthetic import embedded
from tvconv_jax.training.device_cache import DeviceBatches, load_images
from tvconv_jax.training.distributed import connected, find_process
from tvconv_jax.training.mesh import local_rows, make_mesh, put_batch

BATCH, SIDE, COUNT = 16, 24, 61  # not a multiple of the devices


class Counted(Subset):
    """Images that count how many of them were read."""

    count = 0

    def __getitems__(self, indices):
        Counted.count += len(indices)
        return super().__getitems__(indices)


def main():
    """Compares with the pipeline, and returns how many images this process decoded."""
    mesh, source = make_mesh(), Counted(embedded.load("smoke", cache_dir())[0], np.arange(COUNT))
    images = load_images(source, SIDE, mesh)
    decoded, options = Counted.count, {"batch_size": BATCH, "seed": 5}
    plain = train_batches(source, image_size=SIDE, **options, rows=local_rows(BATCH, mesh))
    with closing(plain), closing(DeviceBatches(index_batches(COUNT, **options), images, SIDE, mesh)) as taken:
        for _ in range(5):
            found, expected = put_batch(next(taken), mesh), put_batch(next(plain), mesh)
            assert found.keys() == expected.keys()
            for name in found:
                for ours, theirs in zip(*(of[name].addressable_shards for of in (found, expected)), strict=True):
                    np.testing.assert_array_equal(ours.data, theirs.data)
    return decoded


if __name__ == "__main__":
    with connected(find_process(None, None, None, os.environ)):
        print(f"process of {jax.process_count()}: equal, {main()} images decoded")
