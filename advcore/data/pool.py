"""A pool of extra images, such as generated ones, from which every training batch takes a share."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from advcore.data.contract import Batch, Source
from advcore.data.mapped import is_folder_of_arrays
from advcore.data.split import Split
from advcore.data.tar import list_shards, read_shards
from advcore.errors import DataError, check, check_one_of, check_within, must, require
from advcore.kinds import accept_arguments
from advcore.rng import Stream
from advcore.settings import setting, settings

if TYPE_CHECKING:
    from advcore.data.base import DataSettings

LABELS = ("given", "pseudo")
_FORMATS = {".npz": "npz", ".parquet": "parquet"}


@settings
class Pool:
    """Extra images with labels, from which every training batch takes a share, as if they were real (`Pooled`).

    Parameters
    ----------
    path : an .npz file with the arrays image and label, or a folder with image.npy and label.npy; a .parquet file, or a
        .tar file as webdataset writes them, or a folder of either; for an image_folder, a folder with its sub-folders.
        Arrays of more than 4 GiB that are not compressed stay in their files. A relative path is also looked up below
        the folder that ADVCORE_DATA names.
    share : of each batch that comes from the pool, in [0.001, 0.999].
    labels : "given", those in the files, or "pseudo", the classes that a teacher predicts; the files' are not read
        then, and an .npz file needs none.
    teacher : with pseudo: the folder of a run, whose best weights count, or a file of weights, of a run's network or
        else of this one.
    """

    path: str
    share: float = setting(default=0.7, unit="share")
    labels: str = "given"
    teacher: str | None = None

    def __post_init__(self) -> None:
        is_pseudo = self.labels == "pseudo"
        name_one = "name a run's folder, or a file of weights"
        require(
            check_within("share", self.share, 0.001, 0.999, "leave out data.pool to train without one"),
            check_one_of("labels", self.labels, LABELS),
            check(not is_pseudo or self.teacher, "teacher", "set with labels: pseudo", self.teacher, name_one),
            check(is_pseudo or self.teacher is None, "teacher", "left out with labels: given", self.teacher),
        )

    def read(self, data: "DataSettings", path: Path) -> Split:
        """Return what the files at `path` hold; they are read by the settings of the real data, if these read such.

        Raises DataError for files that cannot be read.
        """
        from advcore.data import DATASETS  # late, as it imports this module

        shards = list_shards(path)
        if shards:
            return read_shards(shards, labelled=self.labels == "given")
        name = _FORMATS.get(path.suffix.lower())
        if path.is_dir():
            name = "parquet"
            if isinstance(data, DATASETS["image_folder"]):
                name = "image_folder"
        if is_folder_of_arrays(path):
            name = "npz"
        if name is None:
            way_out = "numpy.savez(path, image=..., label=...) writes one"
            raise DataError(must("path", "an .npz file, a .parquet file, or a folder", str(path), way_out))
        kind = DATASETS[name]
        reader = data
        if not isinstance(data, kind):
            reader = kind(path=str(path))
        if self.labels == "given":
            return reader.read_pool(path)
        read = getattr(reader, "read_unlabelled_pool", reader.read_pool)  # of formats that know files without labels
        split = read(path)
        return replace(split, labels=torch.zeros_like(split.labels), class_names=())


class Pooled(Source):
    """Real data and a pool; batches of an epoch hold images of both, and the length is that of the real data.

    Indices 0 to N - 1 are the real images, and N to N + P - 1 those of the pool: whatever reads all examples by their
    number, such as a normalisation, reads the real ones. An epoch has the batches that it has without a pool; in each,
    round(share x its size) images come from the pool. Real images are drawn again in each epoch, each at most once;
    those of the pool in a random order of all of it, which continues from epoch to epoch, and then in another.

    Parameters
    ----------
    real, pool : sources of images of one shape, on one device. share : of a batch that comes from the pool.

    Raises DataError where they do not fit each other.
    Reference: Gowal et al. 2021; Wang et al. 2023 (SemiSupervisedSampler in core/data/semisup.py of their code, github
    wzekai99/DM-Improves-AT). Differs: they draw from the pool with replacement, round its share of a batch down, and
    fill the last batch of an epoch.
    """

    @accept_arguments
    def __init__(self, real: Source, pool: Source, share: float = 0.7) -> None:
        Pool(path="", share=share)  # which checks the share
        if pool.shape != real.shape:
            raise DataError(must("images of the pool", f"of the shape of the real ones, {real.shape}", pool.shape))
        if pool.device != real.device:
            raise DataError(must("the pool", f"on the device of the real data, {real.device}", str(pool.device)))
        self.real = real
        self.pool = pool
        self.share = share
        self.device = real.device
        self.shape = real.shape
        self.nbytes = real.nbytes + pool.nbytes

    def __len__(self) -> int:
        return len(self.real)

    @property
    def index_count(self) -> int:
        return len(self.real) + len(self.pool)

    def batches(self, chunks: Sequence[Tensor]) -> Iterator[Batch]:
        n = len(self)
        are_real = [chunk < n for chunk in chunks]
        pairs = list(zip(chunks, are_real, strict=True))
        real = self.real.batches([chunk[is_real] for chunk, is_real in pairs if is_real.any()])
        pool = self.pool.batches([chunk[~is_real] - n for chunk, is_real in pairs if not is_real.all()])
        for chunk, is_real in pairs:
            parts = []
            if is_real.any():
                parts.append(next(real))
            if not is_real.all():
                with name_pool():
                    parts.append(next(pool))
            places = torch.cat([is_real.nonzero()[:, 0], (~is_real).nonzero()[:, 0]]).argsort().to(self.device)
            x, y = (torch.cat([part[i] for part in parts])[places] for i in (1, 2))
            yield chunk.to(self.device), x, y

    def draw_batches(self, size: int, stream: Stream, chosen: Tensor | None = None) -> list[Tensor]:
        """Return an epoch's batches of indices. chosen : (K,) of the pool, which alone are drawn from; None: all."""
        batches = super().draw_batches(size, stream)
        shares = [self.count_from_pool(len(batch)) for batch in batches]
        extra = self.draw_from_pool(sum(shares), stream.child("pool"), chosen) + len(self)
        mixed = []
        for batch, part in zip(batches, extra.split(shares), strict=True):
            both = torch.cat([batch[len(part) :], part])
            # Several processes cut a batch into pieces, and each piece is to hold some of both.
            mixed.append(both[stream.child("mix").at(both).permutation()])
        return mixed

    def count_from_pool(self, size: int) -> int:
        """Return how many images of a batch of `size` come from the pool."""
        return round(self.share * size)

    def draw_from_pool(self, count: int, stream: Stream, chosen: Tensor | None = None) -> Tensor:
        """Return which images (count,) of the pool an epoch takes, where each epoch takes as many.

        chosen : (K,) images that alone are taken; None: all.
        """
        start = stream.epoch * count
        if chosen is None:
            chosen = torch.arange(len(self.pool))
        rounds = range(start // len(chosen), (start + count - 1) // len(chosen) + 1)
        orders = [chosen[stream.at_epoch(i).at(chosen).permutation()] for i in rounds]
        return torch.cat([chosen[:0], *orders])[start % len(chosen) :][:count]

    def labels(self) -> Tensor:
        return self.real.labels()

    def class_counts(self) -> list[int] | None:
        return self.real.class_counts()

    def fingerprint(self) -> str:
        names = repr((self.real.fingerprint(), self.pool.fingerprint(), self.share))
        return hashlib.sha256(names.encode()).hexdigest()[:16]

    def list_changed(self) -> list[int]:
        return self.real.list_changed() + [len(self) + i for i in self.pool.list_changed()]


def find_candidates(source: Source) -> Source:
    """Return what coresets are chosen from: a pool where one goes with the data, else the data."""
    return source.pool if isinstance(source, Pooled) else source


def find_goal(source: Source, validation: Source | None, target: str) -> Source | None:
    """Return the data whose gradients a selection matches besides those it chooses from; None for none.

    target : of the selection (`SelectionSettings.target`).
    """
    if target == "real" and isinstance(source, Pooled):
        return source.real
    return validation


@contextlib.contextmanager
def name_pool() -> Iterator[None]:
    """Begin the line of each DataError that is raised inside the block with the setting of the pool."""
    try:
        yield
    except DataError as error:
        raise DataError(f"data.pool: {str(error).removeprefix('data.')}") from error
