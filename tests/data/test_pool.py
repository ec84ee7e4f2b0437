"""A pool: its images by index, which of them an epoch takes, its files, and one line for each that does not fit."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from advcore.data import DATASETS
from advcore.data.named import Digits
from advcore.data.pool import Pool, Pooled
from advcore.data.source import Resident, Streamed, hash_content, hash_sample
from advcore.errors import UserError
from advcore.rng import Stream

N, P, SHAPE = 50, 30, (1, 2, 2)
REAL, POOL = torch.rand(N, *SHAPE), torch.randint(0, 256, (P, *SHAPE), dtype=torch.uint8)
LABELS, POOL_LABELS = torch.arange(N) % 3, torch.arange(P) % 2


def pooled(share=0.6, *, streams=False, pool=POOL) -> Pooled:
    extra = Streamed(TensorDataset(pool, POOL_LABELS)) if streams else Resident(pool, POOL_LABELS)
    return Pooled(Resident(REAL, LABELS), extra, share)


def draw(source, epoch, size=8):
    return source.draw_batches(size, Stream(seed=4, purpose="order", epoch=epoch))


# ---- indices ----


@pytest.mark.parametrize("streams", [False, True])
def test_batches_hold_real_and_pool_images_by_index_in_the_order_asked(streams):
    source = pooled(streams=streams)
    chunks = [[52, 7, 79, 0, 50], [3, 1], [66]]
    everything = torch.cat([REAL, POOL.float() / 255])
    labels = torch.cat([LABELS, POOL_LABELS])
    for chunk, (indices, x, y) in zip(chunks, source.batches([torch.tensor(c) for c in chunks]), strict=True):
        assert indices.tolist() == chunk
        for row, label, i in zip(x, y, chunk, strict=True):  # one image at a time
            assert torch.equal(row, everything[i]) and label == labels[i]


def test_everything_that_counts_the_data_counts_the_real_ones():
    source = pooled()
    assert (len(source), source.index_count, source.shape) == (N, N + P, SHAPE)
    assert source.class_counts() == Resident(REAL, LABELS).class_counts() and torch.equal(source.labels(), LABELS)
    assert source.nbytes == REAL.nbytes + POOL.nbytes


def test_another_pool_or_share_is_other_data():
    names = {pooled(share).fingerprint() for share in (0.5, 0.6)} | {Resident(REAL, LABELS).fingerprint()}
    assert len(names) == 3
    other = POOL.clone()
    other[15] ^= 1
    (kind, name), (same_kind, other_name) = (hash_content(pooled(pool=x)).rsplit(" ", 1) for x in (POOL, other))
    assert kind == same_kind == "images and a pool of images" and name != other_name
    everything = torch.arange(N + P)
    assert hash_sample(pooled(streams=True), everything) != hash_sample(pooled(streams=True, pool=other), everything)


def test_a_pool_whose_images_change_is_noticed():
    pool = Resident(POOL.clone(), POOL_LABELS)
    source = Pooled(Resident(REAL, LABELS), pool, 0.6)
    assert source.list_changed() == []
    pool._images[4] = 0
    assert source.list_changed() == [N + 4]


# ---- what an epoch takes ----


@pytest.mark.parametrize("share, taken", [(0.6, [5] * 6 + [1]), (0.3, [2] * 6 + [1]), (0.9, [7] * 6 + [2])])
def test_each_batch_takes_its_share_from_the_pool_and_an_epoch_the_steps_of_the_real_data(share, taken):
    batches = draw(pooled(share), epoch=2)
    plain = draw(Resident(REAL, LABELS), epoch=2)
    assert [len(batch) for batch in batches] == [len(batch) for batch in plain] == [8] * 6 + [2]
    assert [int((batch >= N).sum()) for batch in batches] == taken
    for batch, without in zip(batches, plain, strict=True):
        assert set(batch[batch < N].tolist()) < set(without.tolist())


def test_the_pool_is_gone_through_in_random_orders_one_after_the_other():
    """31 images an epoch of a pool of 30."""
    walk = torch.cat([pooled().draw_from_pool(31, Stream(seed=1, purpose="x", epoch=e)) for e in range(30)])
    orders = walk.split(P)
    assert len(orders) == 31 and all(sorted(order.tolist()) == list(range(P)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 31


def test_a_large_pool_is_taken_without_repetition_over_the_epochs():
    source = pooled(0.25)
    walk = torch.cat([source.draw_from_pool(7, Stream(seed=1, purpose="x", epoch=e)) for e in range(4)])
    assert len(walk.unique()) == 28


def test_an_epoch_is_a_matter_of_its_seed_and_number_alone():
    one, two = draw(pooled(), 5), draw(pooled(), 5)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0], draw(pooled(), 6)[0])


def test_real_and_pool_images_are_mixed_within_a_batch():
    """Several processes cut a batch into pieces."""
    firsts = [bool(batch[0] >= N) for epoch in range(8) for batch in draw(pooled(0.5), epoch)[:-1]]
    assert 10 < sum(firsts) < 38


# ---- files ----


def encode(level: int, size=8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), level, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path, levels, names=(), size=8):
    table = pa.table({"image": [{"bytes": encode(v, size), "path": ""} for v in levels], "label": [0, 1, 2]})
    if names:
        info = f'{{"info": {{"features": {{"label": {{"names": {list(names)}}}}}}}}}'.replace("'", '"')
        table = table.replace_schema_metadata({"huggingface": info})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def write_folders(path, levels=(20, 90, 160), names=("ant", "bee", "cow")):
    for name, level in zip(names, levels, strict=True):
        (path / name).mkdir(parents=True)
        (path / name / "0.png").write_bytes(encode(level))


@pytest.fixture
def root(tmp_path):
    """Real data in each format, of three classes, and pools."""
    real = np.stack([np.full((8, 8, 3), v, np.uint8) for v in (10, 80, 150)])
    np.savez(tmp_path / "real.npz", x_train=real, y_train=[0, 1, 2], x_test=real, y_test=[0, 1, 2])
    np.savez(tmp_path / "pool.npz", image=real + 10, label=[0, 1, 2])
    for part in ("train", "test"):
        write_parquet(tmp_path / "real" / f"{part}-0.parquet", (10, 80, 150), ("ant", "bee", "cow"))
        write_folders(tmp_path / "images" / part, (10, 80, 150))
    write_parquet(tmp_path / "pool.parquet", (20, 90, 160), ("ant", "bee", "cow"))
    write_parquet(tmp_path / "shards" / "made.parquet", (20, 90, 160))
    write_folders(tmp_path / "folders")
    return tmp_path


REALS = {"npz": "real.npz", "parquet": "real", "image_folder": "images"}


def load(root, name, pool, share=0.5, **settings):
    if name == "image_folder":
        settings["size"] = 8
    settings |= {"path": str(root / REALS[name]), "validation": 0, "pool": Pool(path=str(root / pool), share=share)}
    return DATASETS[name](**settings).load(torch.device("cpu"))


@pytest.mark.parametrize(
    "name, pool",
    [
        ("npz", "pool.npz"),
        ("npz", "pool.parquet"),
        ("npz", "shards"),
        ("parquet", "pool.npz"),
        ("parquet", "pool.parquet"),
        ("image_folder", "pool.npz"),
        ("image_folder", "folders"),
    ],
)
def test_a_pool_of_any_format_is_read_beside_data_of_any(root, name, pool):
    data = load(root, name, pool)
    ((_, x, y),) = data.train.batches([torch.arange(6)])
    assert [round(255 * float(image.mean())) for image in x] == [10, 80, 150, 20, 90, 160]
    assert y.tolist() == [0, 1, 2, 0, 1, 2]
    assert len(data.test) == 3 and isinstance(data.test, Resident)
    assert f"; pool: 3 images of {root / pool}, 0.5 of each training batch" in data.describe()


def spoil(root):
    """Pools that do not fit, by what is wrong with them."""
    x = np.zeros((3, 8, 8, 3), np.uint8)
    np.savez(root / "large.npz", image=np.zeros((3, 9, 9, 3), np.uint8), label=[0, 1, 2])
    np.savez(root / "classes.npz", image=x, label=[0, 1, 3])
    np.savez(root / "unlabelled.npz", image=x)
    (root / "pool.pickle").write_bytes(b"")
    write_parquet(root / "names.parquet", (1, 2, 3), ("bee", "ant", "cow"))
    write_folders(root / "more", (1, 2, 3), ("ant", "bee", "dog"))
    write_folders(root / "linked")
    (root / "linked" / "ant" / "test.png").symlink_to(root / "images" / "test" / "ant" / "0.png")


@pytest.mark.parametrize(
    "name, pool, line",
    [
        ("npz", "large.npz", "images of the pool must be of the shape of the real ones, (3, 8, 8), got (3, 9, 9)"),
        ("npz", "classes.npz", "labels must be whole numbers in 0..2, got 3 at example 2; renumber the labels, or use"),
        ("npz", "unlabelled.npz", "must hold images and labels, called image and label, got image_train"),
        ("npz", "nowhere.npz", "path must be an existing file or folder, got"),
        ("npz", "pool.pickle", "path must be an .npz file, a .parquet file, or a folder, got"),
        ("npz", "folders", "path must be a folder with train-*.parquet files, got"),
        ("parquet", "names.parquet", "class names must be those of the data, "),
        ("image_folder", "more", "must hold the classes of the training part and no other, got ['dog'] more"),
        ("image_folder", "linked", "got 1 links to the same files"),
    ],
)
def test_a_pool_that_does_not_fit_is_refused_in_a_line(root, name, pool, line):
    spoil(root)
    with pytest.raises(UserError) as caught:
        load(root, name, pool)
    (message,) = str(caught.value).splitlines()
    assert message.startswith("data.pool: ") and line in message


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_a_share_that_leaves_nothing_of_either_is_refused(share):
    for make in (Pool, lambda path, share: pooled(share)):
        with pytest.raises(UserError, match=r"^share must be a number in \[0.001, 0.999\], got "):
            make(path="x", share=share)


@pytest.mark.parametrize(("labels", "warned"), [("given", True), ("pseudo", False)])
def test_classes_that_the_pool_lacks_are_named_unless_a_teacher_labels_it(tmp_path, caplog, labels, warned):
    images = np.zeros((6, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "pool.npz", image=images, label=np.arange(6) % 2)
    teacher = None if labels == "given" else "teacher.safetensors"
    Digits(pool=Pool(path=str(tmp_path / "pool.npz"), share=0.5, labels=labels, teacher=teacher)).load(
        torch.device("cpu")
    )
    assert ("8 of 10 classes have no image in the pool: 2, 3" in caplog.text) == warned
