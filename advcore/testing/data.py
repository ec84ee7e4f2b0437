"""The contract of a data set that is named in run files."""

import pytest
import torch

from advcore.data.base import Data


class DataContract:
    """What every data set promises; the fixture `data` returns what its settings load."""

    @pytest.fixture
    def data(self) -> Data:
        raise NotImplementedError("give the contract a fixture `data`")

    def test_images_are_in_0_to_1_and_labels_are_classes(self, data: Data) -> None:
        for source in (data.train, data.test):
            indices, x, y = next(source.batches([torch.arange(min(16, len(source)))]))
            assert x.shape == (len(indices), *source.shape)
            assert x.is_floating_point()
            assert x.min() >= 0
            assert x.max() <= 1
            assert y.dtype == torch.int64
            assert torch.equal(y.cpu(), source.labels()[indices.cpu()].cpu())

    def test_the_plain_view_is_the_same_every_time(self, data: Data) -> None:
        chunk = torch.arange(min(16, len(data.train)))
        (_, first, _), (_, second, _) = (next(data.train.batches([chunk])) for _ in range(2))
        assert torch.equal(first, second)

    def test_labels_are_below_the_number_of_classes(self, data: Data) -> None:
        for source in (data.train, data.test):
            assert int(source.labels().min()) >= 0
            assert int(source.labels().max()) < data.num_classes
