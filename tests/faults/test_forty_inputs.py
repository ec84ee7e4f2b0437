"""Inputs that people bring, two or so for each kind of fault: the right number, or one line that says the way out.

They were written from the list of kinds alone, before the code that mends them was read: each is another member of its
family than the ones that the list names. What is right is computed by a slow obvious twin. Where both a right answer
and a refusal serve the user, either passes; a silent wrong number and a traceback never do.
"""

import contextlib
import copy
import io
from collections import namedtuple
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from forked import Forked
from PIL import Image, ImageOps
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from advcore import AdversarialCoreset, Trainer, evaluate
from advcore.adversary import perturb
from advcore.attacks import L2PGD, LPA, FastLPA, LinfPGD
from advcore.data import DATASETS
from advcore.data.source import Resident, Streamed
from advcore.errors import AdvcoreError, UserError
from advcore.evaluation.autoattack import AutoAttack
from advcore.minibatch import Margin
from advcore.models import MODELS
from advcore.objectives import Pgd, Standard, Trades
from advcore.rng import Stream
from advcore.selection.schedule import Schedule
from advcore.solvers import Craig, EasyCore, GradMatch, Random
from advcore.training import SGD
from advcore.types import Selection

CPU = torch.device("cpu")
ATTACK = LinfPGD(eps=0.1, step_size=0.04, steps=3)
CONSTANT = {"optimizer": SGD(lr=0.05, momentum=0.0, weight_decay=0.0)}


def draw(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def make_images(n=24, classes=3, size=4, channels=1, seed=0):
    return draw(n, channels, size, size, seed=seed), torch.arange(n) % classes


def make_data(n=24, classes=3, **more):
    return TensorDataset(*make_images(n, classes, **more))


def make_net(classes=3, features=16, hidden=8, *, seed=0, middle=nn.ReLU):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(features, hidden), middle(), nn.Linear(hidden, classes))


def make_right(net, x):
    """Data whose labels are what `net` says, so that its clean accuracy is 1."""
    with torch.no_grad():
        return TensorDataset(x, net(x).argmax(1))


def select(model, data, *, objective=None, attack=None, solver=None, **settings):
    settings = {"partition": "whole", "budget": 0.25, "chunk_size": 16, **settings}
    chooser = AdversarialCoreset(
        objective=objective or Standard(), attack=attack, solver=solver or GradMatch(), **settings
    )
    return chooser.select(model, data, seed=0)


def build_trainer(*, epochs=1, objective=None, attack=ATTACK, batch_size=8, **settings):
    settings = {"schedule": Schedule(epochs=epochs), **CONSTANT, **settings}
    return Trainer(objective=objective or Pgd(), attack=attack, batch_size=batch_size, **settings)


def train(model, data, **settings):
    return build_trainer(**settings).fit(model, data, seed=0)


def train_on_coresets(model, data, *, selector=None, epochs=2, **settings):
    selection = {"partition": "whole", "budget": 0.5, "solver": GradMatch(), "attack": ATTACK, **(selector or {})}
    chooser = AdversarialCoreset(objective=Pgd(), **selection)
    schedule = Schedule(epochs=epochs, budget=chooser.budget, warm_start=0.0, period=1)
    return train(model, data, selector=chooser, schedule=schedule, **settings)


def describe(error):
    """What the user reads, on one line."""
    text = str(error)
    assert "\n" not in text and len(text) < 600, text
    return text.lower()


@contextlib.contextmanager
def refused(*words, allowed=AdvcoreError):
    """One line of ours that says each of `words`; "a|b" is either."""
    with pytest.raises(allowed) as caught:
        yield caught
    text = describe(caught.value)
    for word in words:
        assert any(part in text for part in word.lower().split("|")), f"{word!r} is not said: {text}"


def measure_error_by_autograd(model, head, data, coreset):
    """Slow twin of `gradient_error`: the head's gradients, one example at a time."""
    rows = []
    for x, y in data:
        loss = F.cross_entropy(model(x[None]), y[None])
        rows.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(head.parameters()))]))
    rows = torch.stack(rows).double()
    total = rows.sum(0)
    picked = (coreset.weights.double()[:, None] * rows[coreset.indices]).sum(0)
    return float((picked - total).norm() / total.norm())


def check_right_or_refused(model, head, data, *words):
    try:
        coreset = select(model, data)
    except UserError as error:
        text = describe(error)
        for word in words:
            assert any(part in text for part in word.split("|")), f"{word!r} is not said: {text}"
        return
    expected = measure_error_by_autograd(model.eval(), head, data, coreset)
    assert coreset.quality["gradient_error"] == pytest.approx(expected, rel=1e-3, abs=1e-5)


def count_right(net, data, indices=None):
    x, y = data.tensors
    chosen = torch.arange(len(x)) if indices is None else torch.as_tensor(indices)
    return float((net(x[chosen]).argmax(1) == y[chosen]).double().mean())


# 1. The caller's autograd state


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_1_an_attack_called_by_hand_moves_the_images_whatever_the_mode(mode):
    net, (x, y) = make_net(), make_images(8)
    stream = Stream(seed=0, purpose="attack").at(torch.arange(8))
    plain = perturb(net, Pgd(), ATTACK, x, y, generator=stream)
    with mode():
        inside = perturb(net, Pgd(), ATTACK, x, y, generator=stream)
        assert not torch.is_grad_enabled()
    assert torch.equal(inside, plain) and (plain - x).abs().max() > 0.05


def test_1_images_and_labels_made_under_inference_mode_train_as_others_do():
    with torch.inference_mode():
        frozen = make_data(16)
    nets = make_net(), make_net()
    for net, data in zip(nets, (frozen, make_data(16)), strict=True):
        train_on_coresets(net, data)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(a, b)


# 2. No gradient reaches the image


class Front(nn.Module):
    """A net behind a function of the images."""

    def __init__(self, function, net):
        super().__init__()
        self.function, self.net = function, net

    def forward(self, x):
        return self.net(self.function(x))


class Words(nn.Module):
    """Pixels are looked up in a table, as tokens are: no gradient leads through an index."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.fc = nn.Embedding(256, 4), nn.Linear(64, 3)

    def forward(self, x):
        return self.fc(self.table((x * 255).long()).flatten(1))


def binarise(x):
    return (x > 0.5).float()


def round_straight_through(x):
    return x + ((x * 8).round() / 8 - x).detach()


def test_2_training_on_thresholded_images_is_refused():
    with refused("gradient", "image|input"):
        train(Front(binarise, make_net()), make_data(16))


def test_2_selection_on_looked_up_pixels_is_refused():
    with refused("gradient", "image|input"):
        select(Words(), make_data(16), objective=Pgd(), attack=ATTACK)


@pytest.mark.parametrize("build", [Words, lambda: Front(binarise, make_net())], ids=["embedding", "threshold"])
def test_2_an_evaluation_without_checks_says_that_no_gradient_was_there(build):
    net = build()
    found = evaluate(net, make_right(net, make_images()[0]), [ATTACK])
    assert any("gradient" in flag for flag in found.flags), found.flags


def test_2_a_dead_trunk_is_refused_though_a_graph_is_there():
    net = make_net()
    nn.init.constant_(net[1].bias, -100.0)  # no ReLU is ever on
    with refused("gradient", "image|input|zero"):
        train(net, make_data(16))


def test_2_a_straight_through_estimator_trains_and_has_no_flag_of_a_gradient():
    net = Front(round_straight_through, make_net())
    found = evaluate(net, make_right(net, make_images()[0]), [ATTACK])
    assert not any("gradient" in flag for flag in found.flags), found.flags
    assert found.attacks[0]["accuracy"] < 1
    assert np.isfinite(train(net, make_data(16)).epochs[0]["loss"])


@pytest.mark.parametrize("kind", ["head of zeros", "radius 0"])
def test_2_what_has_no_gradient_by_design_trains(kind):
    net, attack = make_net(), ATTACK
    if kind == "head of zeros":
        nn.init.zeros_(net[3].weight)
    else:
        net, attack = Front(torch.round, net), LinfPGD(eps=0.0, step_size=0.01, steps=1)
    trained = train(net, make_data(16), attack=attack, epochs=2)
    assert np.isfinite(trained.epochs[-1]["loss"])
    assert not any("gradient" in str(event) for event in trained.events), trained.events


# 3. Losses in a narrow dtype


class Narrow(nn.Module):
    """Logits in another dtype, and, if `back`, in float32 again."""

    def __init__(self, net, dtype, back):
        super().__init__()
        self.net, self.dtype, self.back = net, dtype, back

    def forward(self, x):
        z = self.net(x).to(self.dtype)
        return z.float() if self.back else z


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_3_narrow_logits_give_the_numbers_of_the_same_logits_in_float32(dtype):
    x, _ = make_images(24)
    narrow, wide = Narrow(make_net(), dtype, False), Narrow(make_net(), dtype, True)
    data = make_right(wide, x)
    ours, twin = (evaluate(net, data, [ATTACK], keep_examples=True) for net in (narrow, wide))
    assert torch.equal(ours.verdicts["0"], twin.verdicts["0"]) and torch.equal(ours.examples["0"], twin.examples["0"])
    stream = Stream(seed=0, purpose="attack").at(torch.arange(24))
    attacked = [perturb(net, Trades(), ATTACK, *data.tensors, generator=stream) for net in (narrow, wide)]
    assert torch.equal(*attacked)
    trained = [train(net, data, objective=Trades()).epochs[0]["loss"] for net in (narrow, wide)]
    assert trained[0] == pytest.approx(trained[1], rel=1e-6)


def test_3_the_callers_autocast_does_not_reach_an_evaluation():
    net, data = make_net(hidden=64), make_data(48)
    plain = evaluate(net, data, [ATTACK], keep_examples=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = evaluate(net, data, [ATTACK], keep_examples=True)
    assert torch.equal(plain.verdicts["clean"], inside.verdicts["clean"])
    assert torch.equal(plain.examples["0"], inside.examples["0"])


class Half(nn.Module):
    """A sure model that works in float16: with a margin of 20, the gradient at the image is below what float16 has."""

    def __init__(self):
        super().__init__()
        self.anchor = nn.Linear(16, 3)
        with torch.no_grad():
            self.anchor.weight.zero_()
            self.anchor.bias.copy_(torch.tensor([24.0, 0.0, 0.0]))
            self.anchor.weight[0] = 0.5

    def forward(self, x):
        z = F.linear(x.flatten(1).half(), self.anchor.weight.half(), self.anchor.bias.half())
        return z.float()


def test_3_a_gradient_that_underflows_in_float16_is_flagged_unasked():
    net = Half()
    found = evaluate(net, make_right(net, make_images()[0]), [LinfPGD(eps=0.1, steps=10)])
    assert found.flags and any("gradient" in flag or "float16" in flag for flag in found.flags), found.flags


# 4. What the head's hook sees


class After(nn.Module):
    """Something done to the logits after the head."""

    def __init__(self, change, net=None):
        super().__init__()
        self.net, self.change = net or make_net(), change

    def forward(self, x):
        return self.change(self.net(x))


@pytest.mark.parametrize(
    "change",
    [
        lambda z: z.tanh_(),
        lambda z: z.sub_(z.mean(1, keepdim=True)),
        lambda z: z.index_fill_(1, torch.tensor([0]), 0.5),
    ],
    ids=["tanh_", "centred in place", "one logit overwritten"],
)
def test_4_logits_changed_in_place_have_right_rows_or_are_refused(change):
    net = After(change)
    check_right_or_refused(net, net.net[3], make_data(), "logits|head")


Output = namedtuple("Output", "logits hidden")


class Named(nn.Module):
    """Logits with the hidden state beside them, as a named tuple or a mapping."""

    def __init__(self, wrap):
        super().__init__()
        self.net, self.wrap = make_net(), wrap

    def forward(self, x):
        hidden = self.net[:3](x)
        return self.wrap(self.net[3](hidden), hidden)


@pytest.mark.parametrize(
    "wrap", [Output, lambda z, h: {"hidden": h, "logits": z}], ids=["named tuple", "mapping, hidden first"]
)
def test_4_an_output_with_logits_in_it_gives_the_numbers_of_the_logits(wrap):
    named, plain, data = Named(wrap), make_net(), make_data()
    ours, twin = (evaluate(net, data, [ATTACK]) for net in (named, plain))
    assert torch.equal(ours.verdicts["0"], twin.verdicts["0"])
    ours, twin = (select(net, data, objective=Pgd(), attack=ATTACK) for net in (named, plain))
    assert torch.equal(ours.indices, twin.indices)
    train(named, data)
    train(plain, data)
    assert torch.equal(named.net[3].weight, plain[3].weight)


def test_4_a_traced_graph_of_torch_fx_selects_as_the_module_does():
    net, data = make_net(), make_data()
    traced = torch.fx.symbolic_trace(copy.deepcopy(net))
    ours, twin = (select(each, data, objective=Pgd(), attack=ATTACK) for each in (traced, net))
    assert torch.equal(ours.indices, twin.indices) and torch.equal(ours.weights, twin.weights)


def test_4_a_scripted_model_selects_as_the_module_does_or_is_refused_by_its_name():
    net, data = make_net(), make_data()
    try:
        ours = select(torch.jit.trace(net, data.tensors[0][:2]), data, objective=Pgd(), attack=ATTACK)
    except UserError as error:
        assert "script" in describe(error) or "jit" in describe(error), str(error)
    else:
        assert torch.equal(ours.indices, select(net, data, objective=Pgd(), attack=ATTACK).indices)


# 5. Pixels as the decoder hands them over


def write_folder(path, pictures, suffix="png", **more):
    """`pictures` as the one class of training, in order, beside a class of one grey image; both again as test."""
    for part in ("train", "test"):
        (path / part / "b").mkdir(parents=True)
        Image.new("RGB", (16, 16), (128, 128, 128)).save(path / part / "b" / "grey.png")
        (path / part / "a").mkdir()
    for i, picture in enumerate(pictures):
        for part in ("train", "test"):
            picture.save(path / part / "a" / f"{i:02d}.{suffix}", **more)
    return path


def read_part(data, label=None):
    ((_, x, y),) = data.train.batches([torch.arange(len(data.train))])
    return (x, y) if label is None else x[y == label]


def load(name, path, **settings):
    return DATASETS[name](path=str(path), validation=0.0, **settings).load(CPU)


def paint_half_transparent():
    """Left: transparent, with red hidden below; right: green."""
    image = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    image.paste((0, 255, 0, 255), (8, 0, 16, 16))
    return image


def paint_palette():
    image = Image.new("P", (16, 16), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.paste(1, (8, 0, 16, 16))
    image.info["transparency"] = 0
    return image


def paint_colour_key():
    image = Image.new("RGB", (16, 16), (255, 0, 0))
    image.paste((0, 255, 0), (8, 0, 16, 16))
    image.info["transparency"] = (255, 0, 0)
    return image


def test_5_a_transparent_palette_and_a_colour_key_read_as_rgba_does(tmp_path):
    pictures = [paint_half_transparent(), paint_palette(), paint_colour_key()]
    x = read_part(load("image_folder", write_folder(tmp_path, pictures), size=8), 0)
    for image in x:
        left, right = image[:, :, 0], image[:, :, -1]
        assert torch.allclose(left[0], left[1], atol=0.01), "the hidden red shows"
        assert torch.allclose(right, torch.tensor([0.0, 1.0, 0.0])[:, None].expand_as(right), atol=0.01)
    assert torch.allclose(x[1], x[0], atol=0.01) and torch.allclose(x[2], x[0], atol=0.01)


def test_5_one_bit_and_grey_with_alpha_have_their_range(tmp_path):
    half = Image.new("LA", (16, 16), (255, 255))
    half.paste((128, 255), (8, 0, 16, 16))
    bit = Image.new("1", (16, 16), 1)
    x = read_part(load("image_folder", write_folder(tmp_path, [bit, half]), size=8), 0)
    assert torch.equal(x[0], torch.ones_like(x[0]))
    assert x[1][:, :, 0].min() == 1 and x[1][:, :, -1].mean() == pytest.approx(128 / 255, abs=0.01)


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_5_orientation_in_exif_is_followed_in_other_formats_than_jpeg(tmp_path, suffix):
    image = Image.new("RGB", (16, 16))
    image.paste((255, 255, 255), (8, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6
    write_folder(tmp_path, [image], suffix, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(tmp_path / "train" / "a" / f"00.{suffix}") as stored:
        shown = np.asarray(ImageOps.exif_transpose(stored).convert("L"))  # bottom half white
    assert shown[0].max() == 0 and shown[-1].min() == 255
    x = read_part(load("image_folder", tmp_path, size=8), 0)[0]
    assert x[:, 0].max() == 0 and x[:, -1].min() == 1


def test_5_a_mode_without_a_sure_range_is_refused_by_the_files_name(tmp_path):
    signed = Image.fromarray(np.arange(256, dtype=np.int32).reshape(16, 16) * 100_000)
    write_folder(tmp_path, [signed], "tif")
    with refused("00.tif"):
        read_part(load("image_folder", tmp_path, size=8))


def encode(image, form="png"):
    stream = io.BytesIO()
    image.save(stream, form)
    return stream.getvalue()


def write_parquet(path, images, labels, names=("image", "label"), types=(None, None)):
    columns = [pa.array(images, types[0]), pa.array(labels, types[1])]
    pq.write_table(pa.table(dict(zip(names, columns, strict=True))), path)


def make_pngs(n=6, size=8):
    pixels = np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    return torch.tensor(pixels).permute(0, 3, 1, 2).float() / 255, [encode(Image.fromarray(each)) for each in pixels]


def test_5_sixteen_bit_grey_and_grey_with_alpha_beside_rgb_in_one_parquet(tmp_path):
    deep = Image.fromarray(np.full((8, 8), 16_448, dtype=np.uint16))  # 64/255
    pictures = [deep, Image.new("LA", (8, 8), (64, 255)), Image.new("RGB", (8, 8), (64, 64, 64))]
    images = [{"bytes": encode(each), "path": None} for each in pictures]
    for part in ("train", "test"):
        write_parquet(tmp_path / f"{part}-00000-of-00001.parquet", images, [0, 1, 0])
    x, _ = read_part(load("parquet", tmp_path))
    assert x.shape == (3, 3, 8, 8)
    assert torch.allclose(x, torch.full_like(x, 64 / 255), atol=0.003)


# 6. Files by name and number


def make_classes(path, **counts):
    for part in ("train", "test"):
        for name, count in counts.items():
            (path / part / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(path / part / name / f"{i}.png")
    return path


def test_6_what_a_zip_of_another_system_leaves_is_no_class_and_no_image(tmp_path, advcore):
    make_classes(tmp_path / "pets", cat=2, dog=3)
    for stray in ("__MACOSX/cat/._0.png", "cat/Thumbs.db", "cat/notes.txt", "dog/.gitkeep"):
        (tmp_path / "pets" / "train" / stray).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / "train" / stray).write_bytes(b"\0\5\x16\7")
    data = load("image_folder", tmp_path / "pets", size=8)
    assert (data.num_classes, len(data.train)) == (2, 5)
    file = write_run_file(tmp_path, tmp_path / "pets", kind="image_folder, size: 8")
    code, out, err = advcore("check", file)
    assert code == 0, err
    assert "skip" in out + err or "left out" in out + err, out + err


def test_6_images_count_whatever_their_suffix(tmp_path):
    make_classes(tmp_path, cat=1, dog=1)
    image = Image.new("RGB", (8, 8))
    for name, form in [("1.jpe", "JPEG"), ("2.PGM", "PPM"), ("3.WEBP", "WEBP"), ("4.tiff", "TIFF"), ("5.Jpg", "JPEG")]:
        (image.convert("L") if form == "PPM" else image).save(tmp_path / "train" / "cat" / name, form)
    assert len(load("image_folder", tmp_path, size=8).train) == 7


def test_6_a_folder_that_is_linked_into_its_class_again_counts_once(tmp_path):
    make_classes(tmp_path, cat=1, dog=1)
    batch = tmp_path / "train" / "cat" / "batch_1"
    batch.mkdir()
    Image.new("RGB", (8, 8)).save(batch / "a.png")
    (tmp_path / "train" / "cat" / "latest").symlink_to(batch, target_is_directory=True)
    assert len(load("image_folder", tmp_path, size=8).train) == 3


def test_6_a_link_that_leads_nowhere_is_said(tmp_path, caplog):
    make_classes(tmp_path, cat=2, dog=2)
    (tmp_path / "train" / "cat" / "9.png").symlink_to(tmp_path / "gone.png")
    try:
        data = load("image_folder", tmp_path, size=8)
        read_part(data)
    except UserError as error:
        assert "9.png" in describe(error)
    else:
        assert len(data.train) == 4 and ("9.png" in caplog.text or "skip" in caplog.text)


def test_6_a_test_set_that_lacks_its_first_shard_is_refused(tmp_path):
    images = [{"bytes": image, "path": None} for image in make_pngs()[1]]
    write_parquet(tmp_path / "train-00000-of-00001.parquet", images, [0, 1] * 3)
    write_parquet(tmp_path / "test-00001-of-00002.parquet", images, [0, 1] * 3)
    with refused("test-00000-of-00002"):
        load("parquet", tmp_path)


def write_idx(path, values):
    header = bytes([0, 0, 8, values.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in values.shape)
    path.write_bytes(header + values.tobytes())


def test_6_more_labels_than_test_images_in_idx_files_are_refused(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, images, labels in (("train", 20, 20), ("t10k", 10, 12)):
        write_idx(raw / f"{part}-images-idx3-ubyte", np.zeros((images, 28, 28), np.uint8))
        write_idx(raw / f"{part}-labels-idx1-ubyte", (np.arange(labels) % 10).astype(np.uint8))
    with refused("10", "12"):
        load("mnist", tmp_path)


# 7. Layout by shape alone


def write_npz(path, x_train, x_test, **more):
    arrays = {"x_train": x_train, "y_train": np.arange(len(x_train)) % 2}
    arrays |= {"x_test": x_test, "y_test": np.arange(len(x_test)) % 2}
    np.savez(path, **(arrays | more))
    return path


def make_pixels(n=8, size=8, channels=3):
    return np.random.default_rng(0).integers(0, 256, (n, size, size, channels), dtype=np.uint8)


def test_7_channels_last_in_one_part_and_first_in_the_other_are_the_same_images(tmp_path):
    last = make_pixels()
    first = np.ascontiguousarray(last.transpose(0, 3, 1, 2))
    data = load("npz", write_npz(tmp_path / "a.npz", last, first))
    x, _ = read_part(data)
    assert torch.equal(x, torch.tensor(first).float() / 255)
    ((_, x_test, _),) = data.test.batches([torch.arange(8)])
    assert torch.equal(x_test, x)


@pytest.mark.parametrize("shape", [(10, 64), (8, 8, 3, 10)], ids=["flat rows", "N last, as in a .mat file"])
def test_7_an_array_that_no_layout_fits_is_refused_with_its_shape(tmp_path, shape):
    x, labels = np.zeros(shape, np.uint8), np.arange(10) % 2
    path = write_npz(tmp_path / "a.npz", x, x, y_train=labels, y_test=labels)
    with refused(str(shape).strip("()"), "reshape" if len(shape) == 2 else "transpose|moveaxis|labels"):
        load("npz", path)


def test_7_grey_images_without_an_axis_for_channels_have_one_channel(tmp_path):
    x = make_pixels(channels=1)[..., 0]
    try:
        images, _ = read_part(load("npz", write_npz(tmp_path / "a.npz", x, x)))
    except UserError as error:
        assert "(8, 8, 8)" in describe(error) and "channel" in describe(error)
    else:
        assert torch.equal(images, torch.tensor(x)[:, None].float() / 255)


def test_7_one_hot_labels_mean_their_class_or_are_refused_by_name(tmp_path):
    x = make_pixels().transpose(0, 3, 1, 2)
    hot = np.eye(3, dtype=np.float32)[np.array([2, 0, 1, 2, 2, 1, 0, 0])]
    path = write_npz(tmp_path / "a.npz", x, x, y_train=hot, y_test=hot)
    try:
        _, labels = read_part(load("npz", path))
    except UserError as error:
        assert ("labels" in describe(error) or "y_train" in describe(error)) and "(8, 3)" in describe(error)
    else:
        assert labels.tolist() == [2, 0, 1, 2, 2, 1, 0, 0]


RUN_FILE = """
name: brought
data: {{name: {kind}, path: {path}, validation: 0.25}}
model: {{name: small_cnn, width: 2, normalize: none}}
objective: {{name: pgd}}
attack: {{name: linf_pgd, eps: 0.05, steps: 1}}
training: {{epochs: 1, batch_size: 16, optimizer: {{name: sgd, lr: 0.05}}}}
evaluation: {{attacks: [{{name: linf_pgd, eps: 0.05, steps: 10}}], checks: false}}
device: cpu
"""


def write_run_file(folder, path, kind="npz", extra=""):
    file = folder / "brought.yaml"
    file.write_text(RUN_FILE.format(kind=kind, path=path) + extra)
    return file


def test_7_check_tells_the_shape_that_it_made_of_arrays_with_channels_last(tmp_path, advcore):
    write_npz(tmp_path / "a.npz", make_pixels(16), make_pixels(8))
    code, out, err = advcore("check", write_run_file(tmp_path, tmp_path / "a.npz"))
    assert code == 0, err
    row = next((line for line in out.splitlines() if "3 x 8 x 8" in line or "(3, 8, 8)" in line), "")
    assert "2 classes" in row and "12" in row and "8" in row, out


# 8. Column and folder names of the hub


def test_8_columns_of_any_other_name_are_refused_with_the_setting_to_write(tmp_path):
    _, images = make_pngs()
    for part in ("train", "test"):
        write_parquet(tmp_path / f"{part}-0.parquet", images, [0, 1] * 3, names=("picture", "species"))
    with refused("columns", "picture", "species"):
        load("parquet", tmp_path)


def test_8_large_binary_images_and_small_integers_are_read(tmp_path):
    pixels, images = make_pngs()
    for part in ("train", "test"):
        write_parquet(tmp_path / f"{part}-0.parquet", images, [1, 0] * 3, types=(pa.large_binary(), pa.int8()))
    x, y = read_part(load("parquet", tmp_path))
    assert torch.equal(x, pixels) and y.tolist() == [1, 0] * 3


@pytest.mark.parametrize("kind", ["text", "categories"])
def test_8_labels_in_words_mean_their_sorted_class_or_are_refused_by_column(tmp_path, kind):
    _, images = make_pngs()
    labels = pa.array(["dog", "cat", "ant"] * 2)
    labels = labels.dictionary_encode() if kind == "categories" else labels
    for part in ("train", "test"):
        table = pa.table({"image": pa.array(images), "label": labels})
        pq.write_table(table, tmp_path / f"{part}-0.parquet")
    try:
        _, y = read_part(load("parquet", tmp_path))
    except UserError as error:
        assert "label" in describe(error) and ("number" in describe(error) or "integer" in describe(error))
    else:
        assert y.tolist() in ([2, 1, 0] * 2, [0, 1, 2] * 2)


def test_8_a_shard_that_lacks_a_column_is_named(tmp_path):
    _, images = make_pngs()
    for part in ("train", "test"):
        write_parquet(tmp_path / f"{part}-00000-of-00002.parquet", images, [0, 1] * 3)
    pq.write_table(pa.table({"image": pa.array(images)}), tmp_path / "train-00001-of-00002.parquet")
    write_parquet(tmp_path / "test-00001-of-00002.parquet", images, [0, 1] * 3)
    with refused("train-00001-of-00002", "label"):
        read_part(load("parquet", tmp_path))


# 9. Objects of other libraries where ours are expected


class Columns:
    """An objective of the user's whose losses are a column (B, 1): times weights (B,), that would be (B, B)."""

    passes: ClassVar = ("adversarial",)
    ascent_needs_clean: ClassVar = False

    def loss(self, y, *, adversarial):
        return F.cross_entropy(adversarial, y, reduction="none")[:, None]

    def bind_ascent(self, y, clean):
        return lambda logits: F.cross_entropy(logits, y, reduction="none")


@pytest.mark.parametrize("entry", ["fit", "select"])
def test_9_losses_in_a_column_are_refused_or_count_once(entry):
    net, data = make_net(), make_data()
    try:
        if entry == "select":
            ours = select(net, data, objective=Columns(), attack=ATTACK)
            twin = select(net, data, objective=Pgd(), attack=ATTACK)
            assert torch.equal(ours.indices, twin.indices)
        else:
            twin = make_net()
            train(net, data, objective=Columns())
            train(twin, data)
            assert torch.equal(net[3].weight, twin[3].weight)
    except UserError as error:
        assert "loss" in describe(error) and "column" in describe(error) and "1" in describe(error)


@pytest.mark.parametrize("slot", ["objective", "attack", "solver", "optimizer", "schedule"])
def test_9_a_class_where_an_instance_is_expected_is_one_line(slot):
    brought = {"objective": Pgd, "attack": LinfPGD, "solver": GradMatch, "optimizer": SGD, "schedule": Schedule}[slot]
    with refused(slot, brought.__name__):
        if slot in ("objective", "attack", "solver"):
            settings = {"objective": Pgd(), "attack": ATTACK, "solver": GradMatch(), slot: brought}
            select(make_net(), make_data(), **settings)
        else:
            train(make_net(), make_data(), **{slot: brought})


class Pictures(Dataset):
    """A torchvision data set without a transform: PIL images."""

    def __len__(self):
        return 8

    def __getitem__(self, i):
        picture = Image.linear_gradient("L").resize((8, 8)).rotate(45 * i)
        return picture, i % 2


@pytest.mark.parametrize("entry", ["fit", "select", "evaluate"])
def test_9_pil_images_are_their_pixels_or_refused_with_what_to_write(entry):
    pixels = torch.tensor(np.stack([np.asarray(picture) for picture, _ in map(Pictures().__getitem__, range(8))]))
    twin = TensorDataset(pixels[:, None], torch.arange(8) % 2)
    works = {
        "fit": lambda net, data: train(net, data).last["3.weight"],
        "select": lambda net, data: select(net, data, objective=Pgd(), attack=ATTACK).weights,
        "evaluate": lambda net, data: evaluate(net, data, [ATTACK], keep_examples=True).examples["0"],
    }
    try:
        ours = works[entry](make_net(2, features=64), Pictures())
    except UserError as error:
        assert "tensor" in describe(error) and "image" in describe(error)
    else:
        assert torch.equal(ours, works[entry](make_net(2, features=64), twin))


def test_9_a_pair_of_tensors_in_place_of_a_data_set_is_one_line():
    for work in (train, select, evaluate):
        with refused("tensordataset|resident|data set|dataset"):
            work(make_net(), make_images())


@pytest.mark.parametrize("kind", ["range", "numpy", "mask"])
def test_9_indices_of_other_types_mean_what_they_say(kind):
    net, data = make_net(), make_data()
    indices = {"range": range(3, 11), "numpy": np.arange(3, 11)}.get(kind)
    if kind == "mask":
        indices = torch.zeros(24, dtype=torch.bool)
        indices[3:11] = True
    try:
        found = evaluate(net, data, indices=indices)
    except UserError as error:
        assert "indices" in describe(error)
    else:
        assert found.clean.n == 8 and found.clean.accuracy == pytest.approx(count_right(net, data, range(3, 11)))


@pytest.mark.parametrize("work", [evaluate, select, train])
def test_9_a_model_in_double_precision_works_or_is_refused_by_its_dtype(work):
    try:
        work(make_net().double(), make_data())
    except UserError as error:
        assert "float64" in describe(error) or "double" in describe(error)


# 10. State dicts that are not plain finite tensors


class Observed(nn.Module):
    """Ranges that were not observed yet (inf and NaN), a complex, an empty and a transposed buffer."""

    def __init__(self):
        super().__init__()
        self.net = make_net()
        self.register_buffer("low", torch.tensor(float("inf")))
        self.register_buffer("mean", torch.full((3,), float("nan")))
        self.register_buffer("phase", torch.tensor([1 + 2j, 3j]))
        self.register_buffer("empty", torch.empty(0))
        self.register_buffer("turned", torch.arange(6.0).view(2, 3).T)

    def forward(self, x):
        return self.net(x)


def test_10_buffers_of_observers_train_and_come_back_as_they_are():
    net, twin, data = Observed(), make_net(), make_data()
    trained = train(net, data)
    train(twin, data)
    assert torch.equal(net.net[3].weight, twin[3].weight)
    again = Observed()
    again.load_state_dict(trained.best)
    assert torch.equal(again.net[3].weight, twin[3].weight) and again.low == float("inf") and again.mean.isnan().all()
    assert torch.equal(again.phase, net.phase) and torch.equal(again.turned, net.turned)
    found = evaluate(again, data, [ATTACK], checks=True)
    assert found.attacks[0]["accuracy"] == evaluate(twin, data, [ATTACK]).attacks[0]["accuracy"]


def mask_last(z):
    return z.masked_fill(torch.tensor([False, False, True]), -torch.inf)


def test_10_trades_with_a_class_masked_in_the_forward_pass_is_trades_without_that_class():
    masked, fewer = make_net(3), make_net(2)
    with torch.no_grad():
        fewer[1].load_state_dict(masked[1].state_dict())
        fewer[3].weight.copy_(masked[3].weight[:2])
        fewer[3].bias.copy_(masked[3].bias[:2])
    data = make_data(16, classes=2)
    ours = train(After(mask_last, masked), data, objective=Trades())
    twin = train(fewer, data, objective=Trades())
    assert ours.epochs[0]["loss"] == pytest.approx(twin.epochs[0]["loss"], rel=1e-4)
    assert torch.allclose(masked[3].weight[:2], fewer[3].weight, atol=1e-5)
    assert torch.allclose(masked[1].weight, fewer[1].weight, atol=1e-5)


@pytest.mark.parametrize("form", ["compiled inside lightning", "averaged and data-parallel"])
def test_10_a_checkpoint_with_two_prefixes_is_the_model(tmp_path, advcore, form):
    x = make_pixels(16).transpose(0, 3, 1, 2)
    write_npz(tmp_path / "a.npz", x, x)
    net = MODELS["small_cnn"](width=2, normalize="none").build(2, (3, 8, 8))
    if form == "compiled inside lightning":
        weights = {f"model._orig_mod.{name}": value for name, value in net.state_dict().items()}
        saved = {"state_dict": weights, "epoch": 3, "pytorch-lightning_version": "2.5.0"}
    else:
        saved = {f"module.module.{name}": value for name, value in net.state_dict().items()}
        saved["n_averaged"] = torch.tensor(4)
    torch.save(saved, tmp_path / "weights.pt")
    file, examples = write_run_file(tmp_path, tmp_path / "a.npz"), tmp_path / "x.npz"
    code, _, err = advcore("evaluate", file, "--checkpoint", tmp_path / "weights.pt", "--examples", examples)
    assert code == 0, err
    twin = evaluate(net, TensorDataset(torch.tensor(x), torch.arange(16) % 2), [LinfPGD(eps=0.05, steps=10)],
                    keep_examples=True)  # fmt: skip
    stored = np.load(examples)
    pictures = [stored[name] for name in stored.files if stored[name].ndim == 4]
    assert any(np.allclose(each, twin.examples["0"].numpy()) for each in pictures), stored.files


# 11. Submodules kept in eval


class WithDropout(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.net, self.drop = make_net(), nn.Dropout(p)

    def forward(self, x):
        return self.net[3](self.drop(self.net[:3](x)))


def test_11_dropout_kept_in_eval_drops_nothing_while_the_rest_trains():
    frozen, without, data = WithDropout(0.5), WithDropout(0.0), make_data()
    frozen.train()
    frozen.drop.eval()
    for net in (frozen, without):
        train(net, data)
    assert torch.equal(frozen.net[3].weight, without.net[3].weight)
    assert not frozen.drop.training and frozen.training


def build_normed():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    )  # fmt: skip


def test_11_a_selection_that_attacks_in_train_mode_leaves_frozen_batchnorm_in_eval():
    net, data = build_normed().train(), make_data()
    net[1].eval()
    with torch.no_grad():
        net[1].running_mean.fill_(0.3)
    before = copy.deepcopy(net.state_dict())
    ours = select(net, data, objective=Pgd(), attack=ATTACK, attack_mode="train")
    twin = select(net, data, objective=Pgd(), attack=ATTACK, attack_mode="eval")
    assert torch.equal(ours.indices, twin.indices) and torch.equal(ours.weights, twin.weights)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training and not net[1].training


# 12. A perceptual attack that ends outside or short of its ball


def build_perceptual():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3),
    )  # fmt: skip


def build_sharp(gain):
    """A net whose margins are so large that a penalty for leaving the ball weighs little: Fast-LPA falls short."""
    net = build_perceptual()
    torch.manual_seed(2)
    for value in net.parameters():
        value.data = torch.randn_like(value) * value.shape[-1] ** -0.5 * 0.7
    net[-1].weight.data.mul_(gain)
    return net


WEAK_FIRST = [FastLPA(eps=0.3, steps=10, project=True), LPA(eps=0.3, steps=10, rounds=5)]
SHORT_LPA = [LPA(eps=0.4, steps=5, rounds=3), FastLPA(eps=0.4, steps=10, project=True)]


@pytest.mark.parametrize("gain, attacks", [(10, WEAK_FIRST), (1, SHORT_LPA)], ids=["Fast-LPA short", "LPA short"])
def test_12_two_perceptual_attacks_of_one_ball_agree_or_are_flagged(gain, attacks):
    net = build_sharp(gain)
    found = evaluate(net, make_right(net, draw(24, 3, 8, 8)), attacks, checks=True)
    weak, strong = found.attacks
    if weak["interval"][0] > strong["interval"][1]:
        assert any("lpa" in flag for flag in found.flags), (weak["accuracy"], strong["accuracy"], found.flags)


def test_12_the_epochs_of_a_perceptual_training_are_judged_as_lpa_judges_them():
    net = build_sharp(10)
    data, held = make_right(net, draw(8, 3, 8, 8, seed=1)), make_right(net, draw(20, 3, 8, 8))
    trainer = build_trainer(attack=FastLPA(eps=0.3, steps=3), optimizer=SGD(lr=1e-9, momentum=0.0, weight_decay=0.0))
    judged = trainer.fit(net, data, held, seed=0).epochs[-1]["probe"]
    strong = evaluate(net, held, [LPA(eps=0.3, steps=10, rounds=4)]).attacks[0]
    assert judged["interval"][0] <= strong["interval"][1], (judged["accuracy"], strong["accuracy"])


# 13. Normalised inputs


@pytest.mark.parametrize("kind", ["-1 to 1", "0 to 255", "not a number"])
def test_13_images_outside_their_range_are_refused_by_a_direct_attack(kind):
    x, y = make_images(8)
    x = {"-1 to 1": 2 * x - 1, "0 to 255": 255 * x, "not a number": x.clone()}[kind]
    if kind == "not a number":
        x[3, 0, 0, 0] = torch.nan
    with refused("[0, 1]|finite|nan"):
        perturb(make_net(), Pgd(), ATTACK, x, y, generator=Stream(seed=0, purpose="attack").at(torch.arange(8)))


def test_13_bytes_given_to_a_direct_attack_are_scaled_or_refused():
    net, (x, y) = make_net(), make_images(8)
    levels = (255 * x).to(torch.uint8)
    stream = Stream(seed=0, purpose="attack").at(torch.arange(8))
    try:
        ours = perturb(net, Pgd(), ATTACK, levels, y, generator=stream)
    except UserError as error:
        assert "255" in describe(error) or "uint8" in describe(error)
    else:
        assert torch.equal(ours, perturb(net, Pgd(), ATTACK, levels.float() / 255, y, generator=stream))


# 14. What a head is, by behaviour


class Tokens(nn.Module):
    """A head on each of four tokens, whose logits are averaged."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(x.flatten(2)[:, 0].view(-1, 4, 4).tanh()).mean(1)


class Tied(nn.Module):
    """The head's weight also stands in the trunk, through F.linear: the module itself is called once."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(16, 3)

    def forward(self, x):
        h = x.flatten(1)
        return self.fc(h + 3 * F.linear(F.linear(h, self.fc.weight).tanh(), self.fc.weight.t()))


class Crops(nn.Module):
    """The mean of the logits of an image and of its mirror image, as test-time augmentation has it."""

    def __init__(self):
        super().__init__()
        self.net = make_net()
        self.fc = self.net[3]

    def forward(self, x):
        return (self.net(x) + self.net(x.flip(3))) / 2


@pytest.mark.parametrize("build", [Tokens, Tied, Crops])
def test_14_a_head_that_is_more_than_a_last_layer_has_right_rows_or_is_refused(build):
    net = build()
    check_right_or_refused(net, net.fc, make_data(), "head|linear|layer")


# 15. Data that change under a run


class Changing(Dataset):
    """Images whose number or labels change after the first `after` readings, or that are mirrored at random."""

    def __init__(self, what, n=16, after=16):
        self.what, self.after, self.read = what, after, 0
        self.images, self.labels = make_images(n, 2)

    @property
    def is_changed(self):
        return self.read >= self.after

    def __len__(self):
        return len(self.images) - 6 * (self.what == "shrinks" and self.is_changed)

    def __getitem__(self, i):
        self.read += 1
        x, y = self.images[i], int(self.labels[i])
        if self.what == "mirror" and self.read % 3 == 0:
            x = x.flip(2)
        if self.what == "labels" and self.read > self.after and self.read % 4 == 0:
            y = 1 - y
        return x, y


def test_15_data_that_shrink_between_epochs_are_refused():
    with refused("16", "10"):
        train(make_net(2), Changing("shrinks", after=40), epochs=4)


def test_15_a_label_that_is_drawn_anew_at_each_reading_is_refused():
    with refused("label"):
        train(make_net(2), Changing("labels"), epochs=3)


@pytest.mark.parametrize("use", ["memory", "scores", "select"])
def test_15_a_random_mirror_in_the_data_set_is_refused_where_indices_count(use):
    net, data = make_net(2), Changing("mirror")
    with refused("image|example", "augment|transform|plain|random|same"):
        if use == "memory":
            train(net, data, attack=LinfPGD(eps=0.1, steps=2, start="remembered"), epochs=2)
        elif use == "scores":
            train_on_coresets(net, data, selector={"solver": EasyCore(), "attack": ATTACK}, probe_epochs=2)
        else:
            select(net, data, objective=Pgd(), attack=ATTACK, solver=Craig())


# 16. One-example pieces


def build_flat_normed(classes=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, classes))


def train_on_blocks(n):
    net = build_flat_normed()
    selector = {"partition": "per_batch", "block_size": 16, "chunk_size": 16, "attack_mode": "train", "budget": 0.6}
    trained = train_on_coresets(net, make_data(n), selector=selector, batch_size=16, attack_mode="train")
    assert len(trained.coresets) == 2 and all(value.isfinite().all() for value in net.state_dict().values())


def test_16_blocks_of_a_number_that_leaves_one_example_train():
    train_on_blocks(33)


def test_16_the_only_block_of_17_examples_is_refused_by_a_bound_that_16_breaks():
    with refused("block", "17", allowed=UserError) as caught:
        train_on_blocks(17)
    assert "less than the 17 examples, got 16" not in str(caught.value), "16 is less than 17"


def test_16_a_rule_that_leaves_one_example_of_a_batch_trains_or_is_refused():
    net = build_flat_normed()
    try:
        train(net, make_data(24), minibatch=Margin(rho=0.13, warm_up=0, clean=0.0))  # int(0.13 x 8) = 1
    except UserError as error:
        assert "rho must be larger" in describe(error)
    else:
        assert all(value.isfinite().all() for value in net.state_dict().values())


def test_16_classes_of_one_example_are_scored_in_train_mode():
    net, (x, _) = build_flat_normed(4), make_images(33)
    labels = torch.tensor([0] * 30 + [1, 2, 3])
    coreset = select(net, TensorDataset(x, labels), objective=Pgd(), attack=ATTACK, partition="per_class",
                     attack_mode="train", budget=0.3)  # fmt: skip
    assert coreset.weights.isfinite().all() and coreset.quality["gradient_error"] < 1


# 17. Reductions with a zero denominator


class Absent:
    """A solver of the user's that gives most of its picks no weight."""

    reads: ClassVar = "last_layer"

    def __call__(self, rows, k, *, target=None, generator):
        weights = torch.zeros(k)
        weights[0] = float(len(rows))
        return Selection(indices=torch.arange(k), weights=weights, info={})


@pytest.mark.parametrize("normalise", ["batch", "coreset", "none"])
def test_17_batches_of_weightless_examples_move_nothing(normalise):
    net = make_net()
    trained = train_on_coresets(net, make_data(), selector={"solver": Absent(), "normalise": normalise},
                                batch_size=2, normalise=normalise)  # fmt: skip
    assert all(value.isfinite().all() for value in net.state_dict().values())
    assert np.isfinite(trained.epochs[-1]["loss"])
    assert all(np.isfinite(v) for v in trained.coresets[0].quality.values() if isinstance(v, float))


@pytest.mark.parametrize("solver", [GradMatch(), Craig()])
def test_17_a_perfect_classifier_has_no_gradient_and_no_nan(solver):
    net = make_net()
    with torch.no_grad():
        net[3].weight.mul_(1e4)
    data = make_right(net, make_images()[0])
    coreset = select(net, data, solver=solver)
    numbers = [value for value in coreset.quality.values() if isinstance(value, float)]
    assert coreset.weights.isfinite().all() and not any(np.isnan(value) for value in numbers), coreset.quality


# 18. A combined attack hides its parts


def shatter(x):
    """Images whose gradient is noise: a black box finds what white boxes do not."""
    return x + 0.05 * torch.sin(1000 * x)


@pytest.mark.slow
@pytest.mark.parametrize("classes, eps", [(3, 0.2), (4, 0.1)], ids=["three classes", "shattered gradients"])
def test_18_autoattack_tells_where_its_black_box_beats_its_white_boxes(classes, eps):
    torch.manual_seed(3)
    honest = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))  # the gradient is the way out of the class
    for net, expected in ((Front(shatter, honest), True), (honest, False)):
        found = evaluate(net, make_right(net, draw(10, 1, 8, 8)), [AutoAttack(eps=eps)], checks=True)
        flags = [flag for flag in found.flags if flag.startswith("masked")]
        assert bool(flags) == expected, (found.attacks, found.flags)


# 19. Scale tricks


def measure_scaled(change, attack):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    net[1].weight.data.mul_(8)
    data = make_right(net, draw(64, 1, 8, 8))
    plain = evaluate(net, data, [attack]).attacks[0]["accuracy"]
    found = evaluate(After(change, net), data, [attack], checks=True)
    return plain, found.attacks[0]["accuracy"], found.flags


@pytest.mark.parametrize(
    "change",
    [lambda z: z * 1e-5, lambda z: z / z.norm(dim=1, keepdim=True) / 50, lambda z: torch.sigmoid(4 * z)],
    ids=["a hundred-thousandth", "unit length, no scale", "sigmoid"],
)
def test_19_a_scale_makes_no_model_robust_without_a_word(change):
    plain, scaled, flags = measure_scaled(change, L2PGD(eps=0.6, steps=20))
    assert 0.1 < plain < 0.9, plain
    assert flags or scaled <= plain + 0.01, (plain, scaled)


# 20. Selections too large for their machine


LARGE = """
selection: {solver: {name: craig}, partition: whole, budget: 0.3, warm_start: 0.0, period: 1%s}
"""


@pytest.fixture(scope="module")
def many_images(tmp_path_factory):
    x = np.zeros((200_000, 1, 8, 8), np.uint8)
    return write_npz(tmp_path_factory.mktemp("many") / "a.npz", x, x[:8])


def test_20_craig_on_all_of_many_rows_says_how_long_it_takes(tmp_path, advcore, many_images):
    code, out, err = advcore("check", write_run_file(tmp_path, many_images, extra=LARGE % ""))
    said = (out + err).lower()
    assert code == 0, err
    assert "hour" in said or "minutes" in said or "days" in said, said


def test_20_it_is_refused_beyond_max_minutes_with_the_way_out(tmp_path, advcore, many_images):
    code, _, err = advcore("check", write_run_file(tmp_path, many_images, extra=LARGE % ", max_minutes: 0.1"))
    assert code == 2 and "max_minutes" in err and "per_batch" in err and err.count("\n") <= 1, err


def test_20_a_small_selection_is_within_any_limit():
    coreset = select(make_net(), make_data(), objective=Pgd(), attack=ATTACK, max_minutes=1.0)
    assert torch.equal(coreset.indices, select(make_net(), make_data(), objective=Pgd(), attack=ATTACK).indices)


def test_20_no_selection_at_random_takes_long(tmp_path, advcore, many_images):
    extra = (LARGE % ", max_minutes: 1").replace("craig", "random")
    code, _, err = advcore("check", write_run_file(tmp_path, many_images, extra=extra))
    assert code == 0, err


# 21. Errors of one process of several


class Poisoned(nn.Module):
    """Logits that are not finite for images whose first pixel is 1."""

    def __init__(self):
        super().__init__()
        self.net = make_net()

    def forward(self, x):
        bad = x[:, 0, 0, 0] == 1
        return torch.where(bad[:, None], torch.nan, self.net(x))


class Unreadable(Dataset):
    """Its example 37 cannot be read."""

    def __len__(self):
        return 64

    def __getitem__(self, i):
        if i == 37:
            raise OSError("truncated file")
        return torch.full((1, 4, 4), 0.5), i % 3


def select_poisoned():
    x, y = make_images(64)
    x.clamp_(max=0.9)[[20, 37, 41, 63], 0, 0, 0] = 1.0
    select(Poisoned(), Resident(x, y), objective=Standard())


def select_unreadable():
    select(make_net(), Streamed(Unreadable(), "cpu", labels=torch.arange(64) % 3), objective=Pgd(), attack=ATTACK)


def tell(work, path):
    try:
        work()
    except AdvcoreError as error:
        path.write_text(str(error))


def work_as_one_of_two(work, rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )  # fmt: skip
    tell(work, folder / f"{rank}.txt")


@pytest.mark.slow
@pytest.mark.parametrize("work", [select_poisoned, select_unreadable])
def test_21_two_processes_name_what_one_would_have_named(tmp_path, work):
    tell(work, tmp_path / "alone.txt")
    alone = (tmp_path / "alone.txt").read_text()
    assert ("37" if work is select_unreadable else "20") in alone, alone
    folders = [tmp_path / str(rank) for rank in range(2)]
    for folder in folders:
        folder.mkdir()
    children = [Forked(lambda rank=rank: work_as_one_of_two(work, rank, tmp_path), folders[rank]) for rank in range(2)]
    assert [child.code() for child in children] == [0, 0], [child.stderr for child in children]
    assert alone in [(tmp_path / f"{rank}.txt").read_text() for rank in range(2) if (tmp_path / f"{rank}.txt").exists()]


def test_random_selection_is_no_reason_to_look_for_a_gradient():
    """Kind 2 again: what reads nothing of the model has nothing to refuse."""
    coreset = select(Front(binarise, make_net()), make_data(), objective=Pgd(), attack=ATTACK, solver=Random())
    assert coreset.weights.isfinite().all()
