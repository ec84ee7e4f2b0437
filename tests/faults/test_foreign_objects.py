"""Objects of other libraries where ours are expected: taken for what they surely mean, else refused in one line."""

import collections
import fractions
import pathlib
import random
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset

from advcore import AdversarialCoreset, Coreset, Trainer, evaluate
from advcore.adversary import perturb
from advcore.attacks import L2PGD, LPA, LinfPGD
from advcore.cost import CostLedger
from advcore.data import Digits
from advcore.data.source import Resident, as_source
from advcore.errors import BudgetError, ConfigError, DataError, UserError
from advcore.evaluation.autoattack import AutoAttack
from advcore.evaluation.evaluate import smallest_radius
from advcore.gradients.base import MeasurementSettings
from advcore.gradients.last_layer import last_layer_rows
from advcore.gradients.scores import score_examples
from advcore.minibatch import RULES
from advcore.objectives import Pgd, Standard, Trades
from advcore.rng import Stream
from advcore.rows import DenseRows
from advcore.runtime.precision import Speed
from advcore.selection.schedule import Schedule
from advcore.solvers import Craig, GradMatch, Random
from advcore.training import SGD, Cosine, MultiStep, budget
from advcore.training.plan import Reference
from advcore.training.progress import Listener
from advcore.work import Work

ATTACK = LinfPGD(eps=0.1, steps=1)
STREAM = Stream(seed=0, purpose="foreign")
N = 24
PIXELS = torch.randint(0, 256, (N, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
LABELS = torch.arange(N) % 4
NATIVE = [(x, int(y)) for x, y in zip(PIXELS, LABELS, strict=True)]
RGB = torch.randint(0, 256, (3, 8, 6), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.fixture
def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


def build_selector(**settings) -> AdversarialCoreset:
    usual = {"objective": Pgd(), "solver": GradMatch(), "attack": ATTACK, "budget": 0.5, "chunk_size": 16}
    return AdversarialCoreset(**usual | settings)


def build_trainer(**settings) -> Trainer:
    usual = {"objective": Pgd(), "attack": ATTACK, "optimizer": SGD(lr=0.05), "schedule": Schedule(epochs=1)}
    return Trainer(**usual | {"batch_size": 8} | settings)


def refuse(error: type[UserError], line: str, call, *arguments, **keywords) -> None:
    with pytest.raises(error) as caught:
        call(*arguments, **keywords)
    assert str(caught.value) == line


def read_all(data) -> tuple[torch.Tensor, torch.Tensor]:
    source = as_source(data, torch.device("cpu"))
    _, x, y = next(source.batches([torch.arange(len(source))]))
    return x, y


# ---- data sets and their samples ----


class Samples:
    """A data set as of the hub: no class of torch, an example by an int alone."""

    def __init__(self, change, n=N):
        self.change, self.n = change, n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        assert type(i) is int
        return self.change(*NATIVE[i])


class Yields(IterableDataset):
    def __iter__(self):
        return iter(NATIVE)


class YieldsSoMany(Yields):
    def __len__(self):
        return N


ACCEPTED = {
    "TensorDataset": TensorDataset(PIXELS, LABELS),
    "Subset": Subset(TensorDataset(PIXELS, LABELS), range(N)),
    "ConcatDataset": ConcatDataset([Subset(NATIVE, range(9)), Subset(NATIVE, range(9, N))]),
    "list of pairs": NATIVE,
    "image, label": Samples(lambda x, y: {"image": x, "label": y}),
    "img, labels": Samples(lambda x, y: {"img": x, "labels": y, "id": 7}),
    "pixel_values, labels": Samples(lambda x, y: collections.UserDict(pixel_values=x, labels=y)),
    "x, y": Samples(lambda x, y: types.MappingProxyType({"x": x, "y": y})),
    "image, target": Samples(lambda x, y: collections.OrderedDict(image=x, target=y)),
    "named tuple": Samples(collections.namedtuple("Example", "image label")),
    "triple": Samples(lambda x, y: (x, y, "path")),
    "PIL": Samples(lambda x, y: (Image.fromarray(x[0].numpy()), y)),
    "PIL in a mapping": Samples(lambda x, y: {"image": Image.fromarray(x[0].numpy()), "label": y}),
    "numpy (H, W, C)": Samples(lambda x, y: (x.permute(1, 2, 0).numpy(), y)),
    "numpy (C, H, W)": Samples(lambda x, y: (x.numpy(), y)),
    "numpy (H, W)": Samples(lambda x, y: (x[0].numpy(), y)),
    "numpy read-only": Samples(lambda x, y: (np.broadcast_to(x.numpy(), x.shape), y)),
    "label np.int64": Samples(lambda x, y: (x, np.int64(y))),
    "label np.uint8": Samples(lambda x, y: (x, np.uint8(y))),
    "label tensor ()": Samples(lambda x, y: (x, torch.tensor(y))),
    "label tensor (1,)": Samples(lambda x, y: (x, torch.tensor([y]))),
    "label array (1,)": Samples(lambda x, y: (x, np.array([y]))),
}


@pytest.mark.parametrize("data", ACCEPTED.values(), ids=ACCEPTED)
def test_samples_are_read_as_the_same_images_and_labels(data):
    x, y = read_all(data)
    assert torch.equal(x, PIXELS.float() / 255) and torch.equal(y, LABELS)


@pytest.mark.parametrize("image", [Image.fromarray(RGB.permute(1, 2, 0).numpy()), RGB.permute(1, 2, 0).numpy()])
def test_colours_stand_in_front(image):
    x, _ = read_all([(image, 0)])
    assert torch.equal(x[0], RGB.float() / 255)


@pytest.mark.parametrize(("size", "channels"), [((4, 4), 1), ((3, 1), 1), ((4, 4), 3), ((1, 3), 3)])
def test_of_a_pil_image_it_is_known_where_the_channels_are(size, channels):
    pixels = torch.arange(size[0] * size[1] * channels, dtype=torch.uint8).reshape(*size, channels)
    image = Image.fromarray(pixels.squeeze(2).numpy() if channels == 1 else pixels.numpy())
    x, _ = read_all([(image, 0)])
    assert torch.equal(x[0], pixels.permute(2, 0, 1).float() / 255)


def test_a_selection_on_mappings_is_that_on_pairs_bit_for_bit(net):
    native, mappings = (build_selector().select(net, data, seed=0) for data in (NATIVE, ACCEPTED["image, label"]))
    assert torch.equal(native.indices, mappings.indices) and torch.equal(native.weights, mappings.weights)
    assert native.fingerprint == mappings.fingerprint
    batch = next(iter(native.loader(ACCEPTED["PIL in a mapping"], len(native), shuffle=False)))
    image, label = [key for key in batch if key != "weight"]
    assert torch.equal(batch[image], PIXELS[native.indices]) and torch.equal(batch[label], LABELS[native.indices])
    assert torch.equal(batch["weight"], native.training_weights())


def test_a_loader_is_that_of_the_subset_and_takes_its_options(net):
    coreset = build_selector().select(net, NATIVE, seed=0)
    batches = list(coreset.loader(NATIVE, 3, shuffle=False, drop_last=True))
    x, y, w = (torch.cat(parts) for parts in zip(*batches, strict=True))
    kept = len(coreset) // 3 * 3
    assert len(batches) == kept // 3 and torch.equal(w, coreset.training_weights()[:kept])
    assert torch.equal(y, LABELS[coreset.indices[:kept]]) and len(x) == kept


@pytest.mark.parametrize("size", [0, -2, None, 2.0, "8"])
def test_a_loader_of_batches_of_no_size_is_refused(net, size):
    coreset = build_selector().select(net, NATIVE, seed=0)
    refuse(ConfigError, f"batch_size must be a whole number of at least 1, got {size!r}", coreset.loader, NATIVE, size)


def test_a_mapping_with_a_weight_of_its_own_is_refused(net):
    data = [{"image": x, "label": y, "weight": 2.0} for x, y in NATIVE]
    coreset = build_selector().select(net, data, seed=0)
    with pytest.raises(DataError, match="must not have the key weight, got image, label, weight; rename it"):
        coreset.subset(data)[0]


MAP_STYLE = "the data set must be map-style, with a length, got"
INDEXED = "examples are read by index: collect what it yields in a list, list(...)"
OF_A_LOADER = "pass the loader's data set, loader.dataset: advcore reads examples by index and makes its own batches"
ARRAYS = "turn tensors into torch.utils.data.TensorDataset(images, labels)"
SAMPLE = "an example is (image, label), or a mapping with such keys"
IMAGE_KEYS = "example 0 must have one of the keys image, img, images, pixel_values, x for its image, got"
LABEL_KEYS = "example 0 must have one of the keys label, labels, y, target, targets for its label, got"
NO_DATA = {
    "DataLoader": (DataLoader(NATIVE, batch_size=8), f"{MAP_STYLE} DataLoader; {OF_A_LOADER}"),
    "loader of a stream": (DataLoader(Yields(), batch_size=8), f"{MAP_STYLE} DataLoader; {OF_A_LOADER}"),
    "stream": (Yields(), f"{MAP_STYLE} Yields; {INDEXED}"),
    "stream with a length": (YieldsSoMany(), f"{MAP_STYLE} YieldsSoMany; {INDEXED}"),
    "zip": (zip(PIXELS, LABELS, strict=True), f"{MAP_STYLE} zip; {INDEXED}"),
    "class": (Samples, f"{MAP_STYLE} Samples; that is a class: create an instance"),
    "name": ("digits", f"{MAP_STYLE} str; load it first, as in advcore.data.Digits().load(device).train"),
    "settings": (Digits(), f"{MAP_STYLE} Digits; {SAMPLE}"),
    "parts": (
        types.SimpleNamespace(train=NATIVE),
        f"{MAP_STYLE} SimpleNamespace; pass one part of it, such as its `train`",
    ),
    "tensor": (PIXELS, f"example 0 must be a pair (x, y), got Tensor; {ARRAYS}"),
    "tensors": ((PIXELS, LABELS), f"example 0 must be a pair (x, y), got Tensor; {ARRAYS}"),
    "arrays": ([PIXELS.numpy(), LABELS.numpy()], f"example 0 must be a pair (x, y), got ndarray; {ARRAYS}"),
    "named parts": (
        {"train": NATIVE, "test": NATIVE},
        "example 0 cannot be read: KeyError: 0; pass one data set of it, such as that of 'train', "
        "or TensorDataset(x, y) of arrays",
    ),
    "no label": (Samples(lambda x, y: x), f"example 0 must be a pair (x, y), got Tensor; {SAMPLE}"),
    "two images": (
        Samples(lambda x, y: {"image": x, "img": x, "label": y}),
        f"{IMAGE_KEYS} image, img, label; or return a pair (x, y)",
    ),
    "two labels": (
        Samples(lambda x, y: {"img": x, "fine_label": y, "coarse_label": y}),
        f"{LABEL_KEYS} img, fine_label, coarse_label; or return a pair (x, y)",
    ),
    "positions as keys": (Samples(lambda x, y: {0: x, 1: y}), f"{IMAGE_KEYS} 0, 1; or return a pair (x, y)"),
    "palette": (
        Samples(lambda x, y: (Image.new("P", (8, 8)), y)),
        "image 0 must be in mode L or RGB, got P; add image.convert('RGB')",
    ),
    "both ends": (
        Samples(lambda x, y: (np.zeros((3, 8, 3)), y)),
        "image 0 must be a tensor (C, H, W), got an ndarray (3, 8, 3), in which both ends may be channels; "
        "add torchvision.transforms.ToTensor()",
    ),
}


@pytest.mark.parametrize(("data", "line"), NO_DATA.values(), ids=NO_DATA)
def test_what_is_no_data_set_is_refused_with_what_to_write(net, data, line):
    refuse(DataError, line, build_selector().select, net, data, seed=0)


@pytest.mark.parametrize("label", [0.5, 1.0, "cat", None, [1], torch.tensor([0, 1]), np.eye(2)[0], True])
def test_a_label_that_is_no_class_number_is_refused(net, label):
    way_out = "turn one-hot or text labels into class numbers, and floats by int(y)"
    line = f"label 0 must be a whole number, got {label!r}; {way_out}"
    data = Samples(lambda x, y: (x, label))
    refuse(DataError, line, build_selector(objective=Standard()).select, net, data, seed=0)


def test_subset_refuses_a_loader_as_select_does(net):
    coreset = build_selector().select(net, NATIVE, seed=0)
    refuse(DataError, f"{MAP_STYLE} DataLoader; {OF_A_LOADER}", coreset.subset, DataLoader(NATIVE))


# ---- losses ----


class Custom:
    """An objective of someone's own, whose two losses are given."""

    passes = ("adversarial",)
    ascent_needs_clean = False

    def __init__(self, loss, ascent):
        self.reduce, self.ascent = loss, ascent

    def loss(self, y, *, adversarial):
        return self.reduce(adversarial, y)

    def bind_ascent(self, y, clean):
        return lambda logits: self.ascent(logits, y)


def compute_each(z, y):
    return F.cross_entropy(z, y, reduction="none")


WAY_OUT = "keep one number for each example, with nothing reduced over the batch (reduction='none')"
LOSSES = {
    "mean": (F.cross_entropy, "torch.float32 of shape ()"),
    "mean of one": (lambda z, y: F.cross_entropy(z, y)[None], "torch.float32 of shape (1,)"),
    "sum": (lambda z, y: compute_each(z, y).sum(), "torch.float32 of shape ()"),
    "column": (lambda z, y: compute_each(z, y)[:, None], "torch.float32 of shape (8, 1)"),
    "pairs": (lambda z, y: compute_each(z, y)[:, None] + compute_each(z, y), "torch.float32 of shape (8, 8)"),
    "classes": (lambda z, y: F.relu(z), "torch.float32 of shape (8, 4)"),
    "right or wrong": (lambda z, y: (z.argmax(1) != y).long(), "torch.int64 of shape (8,)"),
    "tuple": (lambda z, y: (compute_each(z, y),), "tuple"),
    "number": (lambda z, y: 0.5, "float"),
    "none": (lambda z, y: None, "NoneType"),
}
MEASURE = {"ledger": CostLedger(), "attack": ATTACK, "stream": STREAM, "chunk_size": 8}


@pytest.mark.parametrize(("loss", "got"), LOSSES.values(), ids=LOSSES)
def test_a_loss_that_is_not_one_number_an_example_is_refused(net, loss, got):
    source = Resident(PIXELS, LABELS)
    for objective, name in (
        (Custom(loss, compute_each), "the loss of"),
        (Custom(compute_each, loss), "bind_ascent of"),
    ):
        line = f"{name} Custom must be a tensor (B,) of floats, here (8,), got {got}; {WAY_OUT}"
        refuse(ConfigError, line, last_layer_rows, net, source, MeasurementSettings(objective=objective, **MEASURE))
        refuse(ConfigError, line, build_trainer(objective=objective).fit, net, source)


@pytest.mark.parametrize("rule", [RULES["margin"](warm_up=0), RULES["loss_ranked"]()], ids=["margin", "loss_ranked"])
def test_a_mean_is_refused_under_a_minibatch_rule_too(net, rule):
    trainer = build_trainer(objective=Custom(F.cross_entropy, compute_each), minibatch=rule)
    with pytest.raises(ConfigError, match=r"^the loss of Custom must be a tensor \(B,\) of floats, here"):
        trainer.fit(net, NATIVE)


def test_a_loss_that_leads_nowhere_is_refused(net):
    objective = Custom(lambda z, y: compute_each(z.detach(), y), compute_each)
    line = "the loss of Custom must lead back to the logits, got one that has no gradient"
    refuse(ConfigError, line, build_selector(objective=objective).select, net, NATIVE, seed=0)
    refuse(ConfigError, line, build_trainer(objective=objective).fit, net, NATIVE)


def test_a_custom_loss_of_one_number_an_example_is_that_of_the_package(net):
    native, custom = (
        build_selector(objective=o).select(net, NATIVE, seed=0) for o in (Pgd(), Custom(*[compute_each] * 2))
    )
    assert torch.equal(native.indices, custom.indices) and torch.equal(native.weights, custom.weights)


@pytest.mark.parametrize("attack", [ATTACK, L2PGD(eps=0.1, steps=1, restarts=2), LPA(eps=0.5, steps=1, rounds=1)])
def test_an_attack_called_by_itself_refuses_a_mean(attack):
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4))
    bound = attack.bind(net, lambda network: network)
    x = PIXELS[:8].float() / 255
    with pytest.raises(
        ConfigError, match=r"^the loss that is attacked must be a tensor \(B,\) .* here \(8,\), got .*\(\)"
    ):
        bound(lambda images: F.cross_entropy(net(images), LABELS[:8]), x, generator=STREAM.at(torch.arange(8)))


def test_the_preferences_of_a_rule_are_one_number_an_example(net):
    class Averaged(RULES["margin"]):
        def compute_preferences(self, seen):
            return super().compute_preferences(seen).mean()

    got = f"here (8,), got torch.float32 of shape (); {WAY_OUT}"
    line = f"the preferences of Averaged must be a tensor (B,) of floats, {got}"
    refuse(ConfigError, line, build_trainer(minibatch=Averaged(warm_up=0)).fit, net, NATIVE)


def test_a_score_is_one_number_an_example(net):
    def average(z, y, rows):
        return z.mean()

    line = "a score must be one number, or one row, for each of 8 examples, got 'shape ()'"
    refuse(ConfigError, line, score_examples, average, net, Resident(PIXELS, LABELS), MeasurementSettings(**MEASURE))


def test_the_answer_of_a_solver_is_a_selection(net):
    class Indices(Random):
        def __call__(self, rows, k, *, target=None, generator):
            return torch.arange(k)

    with pytest.raises(
        ConfigError, match="^the answer of Indices must be an object of the class advcore.types.Selection"
    ):
        build_selector(solver=Indices()).select(net, NATIVE, seed=0)


# ---- objects in the place of ours ----


class Torchattack:
    """As torchattacks has them: called with images and labels."""

    def __call__(self, images, labels):
        return images


FIT = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
ATTACKS = "an attack, such as advcore.attacks"
OPTIMIZERS = "one of SGD, Adam, AdamW, TimmOptimizer, such as advcore.training"
RATES = "one of Constant, MultiStep, Cosine, OneCycle, Cyclic, TimmSchedule, such as advcore.training"
OBJECTIVES = "an objective, such as advcore.objectives"
A_CLASS = "; that is a class: create an instance"
SETTINGS = {
    "objective: CrossEntropyLoss()": (
        "objective",
        nn.CrossEntropyLoss(),
        f"{OBJECTIVES}.Standard(...), got CrossEntropyLoss()",
    ),
    "objective: name": ("objective", "tradez", f"{OBJECTIVES}.Standard(...), got 'tradez'"),
    "objective: class": (
        "objective",
        Pgd,
        f"{OBJECTIVES}.Pgd(...), got <class 'advcore.objectives.standard.Pgd'>{A_CLASS}",
    ),
    "attack: name": ("attack", "l2_pgd", f"{ATTACKS}.L2PGD(...), got 'l2_pgd'"),
    "attack: number": ("attack", 0.03, f"{ATTACKS}.LinfPGD(...), got 0.03"),
    "attack: AutoAttack": (
        "attack",
        AutoAttack(eps=0.1),
        f"{ATTACKS}.LinfPGD(...), got AutoAttack(eps=0.1)",
    ),
    "optimizer: torch's": ("optimizer", FIT, f"{OPTIMIZERS}.SGD(...), got torch.optim.sgd.SGD"),
    "optimizer: torch's class": (
        "optimizer",
        torch.optim.Adam,
        f"{OPTIMIZERS}.Adam(...), got <class 'torch.optim.adam.Adam'>",
    ),
    "optimizer: name": ("optimizer", "sgd", f"{OPTIMIZERS}.SGD(...), got 'sgd'"),
    "lr_schedule: class": (
        "lr_schedule",
        Cosine,
        f"{RATES}.Cosine(...), got <class 'advcore.training.lr.Cosine'>{A_CLASS}",
    ),
    "lr_schedule: name": ("lr_schedule", "multi_step", f"{RATES}.MultiStep(...), got 'multi_step'"),
    "minibatch: name": (
        "minibatch",
        "margins",
        "one of AttackSubset, UpdateSubset, WholeBatch, EpochSubset, such as advcore.minibatch.Margin(...), got "
        "'margins'",
    ),
    "schedule: number": ("schedule", 5, "an object of the class advcore.selection.schedule.Schedule, got 5"),
    "selector: solver": (
        "selector",
        Random(),
        "an object of the class advcore.selection.coreset.AdversarialCoreset, got Random()",
    ),
    "speed: mapping": ("speed", {}, "an object of the class advcore.runtime.precision.Speed, got {}"),
}


@pytest.mark.parametrize(("setting", "value", "rule"), SETTINGS.values(), ids=SETTINGS)
def test_a_setting_that_holds_something_else_is_refused(setting, value, rule):
    refuse(ConfigError, f"{setting} must be {rule}", build_trainer, **{setting: value})


@pytest.mark.parametrize(
    ("value", "example"),
    [("kraig", "Random"), (Craig, "Craig"), ({"name": "craig"}, "Random"), (random.sample, "Random"), (FIT, "Random")],
)
def test_a_solver_that_is_none_is_refused(value, example):
    with pytest.raises(ConfigError, match=rf"^solver must be a solver, such as advcore.solvers.{example}\(...\), got "):
        build_selector(solver=value)


def test_a_name_of_the_tables_is_the_object_with_its_defaults_where_it_needs_no_settings():
    assert build_selector(solver="gradmatch", objective="trades") == build_selector(
        solver=GradMatch(), objective=Trades()
    )
    assert build_trainer(lr_schedule="cosine").lr_schedule == Cosine()
    with pytest.raises(ConfigError, match=r"attack must be an attack, such as .*LinfPGD\(\.\.\.\), got 'linf_pgd'"):
        build_selector(attack="linf_pgd")  # its radius has no default


def test_an_object_beside_a_wrong_number_hides_neither():
    with pytest.raises(ConfigError) as caught:
        build_trainer(optimizer="sgd", batch_size=0, eps_ramp="x")
    assert [problem.path for problem in caught.value.problems] == ["batch_size", "eps_ramp", "optimizer"]


def test_an_object_that_has_all_that_is_asked_for_is_accepted(net):
    class Halving:
        def factor(self, progress, lr_index):
            return 0.5**lr_index

    class AdamW:
        lr = 1e-3

        def build(self, model, *, fused=False):
            return torch.optim.AdamW(model.parameters(), self.lr)

    build_trainer(lr_schedule=Halving(), optimizer=AdamW()).fit(net, NATIVE)


# ---- attacks of an evaluation, indices, sizes ----


@pytest.mark.parametrize("attacks", [ATTACK, (ATTACK,), iter([ATTACK])], ids=["alone", "tuple", "iterator"])
def test_an_attack_outside_of_a_list_is_that_in_one(net, attacks):
    assert torch.equal(evaluate(net, NATIVE, attacks).verdicts["0"], evaluate(net, NATIVE, [ATTACK]).verdicts["0"])


@pytest.mark.parametrize(
    "attack",
    ["linf_pgd", Torchattack(), LinfPGD, None, 8, nn.Linear(1, 1), [ATTACK]],
    ids=["name", "torchattacks", "class", "none", "number", "module", "list"],
)
def test_what_is_no_attack_is_refused_in_a_list_and_alone(net, attack):
    rule = "must be one of Attack, AutoAttack, such as advcore.attacks.LinfPGD(...), got"
    with pytest.raises(ConfigError, match=rf"^attacks.0 {rule.replace('(', '[(]').replace(')', '[)]')}"):
        evaluate(net, NATIVE, [attack])
    if not isinstance(attack, list):
        with pytest.raises(ConfigError, match=r"^attacks must be one of Attack, AutoAttack, such as"):
            evaluate(net, NATIVE, attack)


MASK = torch.tensor([i in (1, 4, 9) for i in range(N)])
CHOSEN = {
    "list": [1, 4, 9],
    "tuple": (1, 4, 9),
    "numpy": np.array([1, 4, 9]),
    "int32": np.array([1, 4, 9], dtype=np.int32),
    "unsigned": np.array([1, 4, 9], dtype=np.uint16),
    "unsigned, of a file": np.array([1, 4, 9], dtype=np.uint64),
    "numpy scalars": [np.int64(1), np.int64(4), np.int64(9)],
    "mask": MASK,
    "numpy mask": MASK.numpy(),
    "list of bools": MASK.tolist(),
}


@pytest.mark.parametrize("indices", CHOSEN.values(), ids=CHOSEN)
def test_indices_in_any_form_choose_the_same_examples(net, indices):
    native = evaluate(net, NATIVE, [ATTACK], indices=torch.tensor([1, 4, 9]))
    result = evaluate(net, NATIVE, [ATTACK], indices=indices)
    assert result.verdicts.keys() == native.verdicts.keys() and result.clean.n == 3
    assert all(torch.equal(result.verdicts[key], native.verdicts[key]) for key in native.verdicts)


def test_a_range_chooses_as_its_numbers_do(net):
    settings = {"stream": STREAM, "ledger": CostLedger(), "parts": 2}
    native = smallest_radius(net, Resident(PIXELS, LABELS), ATTACK, torch.arange(5), **settings)
    assert torch.equal(native, smallest_radius(net, NATIVE, ATTACK, range(5), **settings))


RULE = "indices must be a list or tensor of whole numbers, or a mask, got"
WHOLE = "indices must be whole numbers (n,), or a mask of all 24 examples, got"
NO_INDICES = {
    "number": (3, f"{RULE} 3"),
    "text": ("012", f"{RULE} '012'"),
    "slice": (slice(3), f"{RULE} slice(None, 3, None)"),
    "set": ({3}, f"{RULE} {{3}}"),
    "Subset": (Subset(NATIVE, [1]), f"{RULE} 'Subset'; pass its `indices`"),
    "none in a list": ([None], f"{RULE} [None]"),
    "floats": ([0.0, 1.0], f"{WHOLE} torch.float32 of shape (2,)"),
    "unsigned, beyond": (np.array([2**64 - 1], dtype=np.uint64), "indices must be in 0..23, got -1 to -1"),
    "bytes": (np.array([0, 1], dtype=np.uint8), f"{WHOLE} torch.uint8 of shape (2,)"),
    "short mask": ([True, False], f"{WHOLE} torch.bool of shape (2,)"),
    "matrix": (torch.zeros(1, 2).long(), f"{WHOLE} torch.int64 of shape (1, 2)"),
    "empty": ([], "indices must name at least one example, got none"),
    "empty mask": (torch.zeros(N).bool(), "indices must name at least one example, got a mask without any"),
    "from the end": ([-1], "indices must be in 0..23, got -1 to -1"),
    "beyond": ([0, 24], "indices must be in 0..23, got 0 to 24"),
}


@pytest.mark.parametrize(("indices", "line"), NO_INDICES.values(), ids=NO_INDICES)
def test_what_are_no_indices_is_refused(net, indices, line):
    refuse(DataError, line, evaluate, net, NATIVE, [ATTACK], indices=indices)


@pytest.mark.parametrize(
    ("size", "rule"), [(0, " of at least 1"), (-1, " of at least 1"), (2.0, ""), ("8", ""), (None, ""), (True, "")]
)
def test_a_batch_of_no_size_is_refused(net, size, rule):
    line = f"batch_size must be a whole number{rule}, got {size!r}"
    refuse(ConfigError, line, evaluate, net, NATIVE, [ATTACK], batch_size=size)


# ---- seeds and other numbers ----

GENERATORS = [torch.Generator(), np.random.default_rng(0), np.random.RandomState(0), random.Random(0), STREAM]


@pytest.mark.parametrize(
    "seed", [*GENERATORS, None, 0.5, "0", True, [0], np.float32(1)], ids=lambda seed: type(seed).__name__
)
def test_a_seed_that_is_no_whole_number_is_refused_everywhere(net, seed):
    for call in (build_selector().select, build_trainer().fit, evaluate):
        with pytest.raises(
            ConfigError, match="^seed must be a whole number, got .*; all random numbers are named by it"
        ):
            call(net, NATIVE, seed=seed)


@pytest.mark.parametrize("seed", [np.int64(3), np.uint8(3), torch.tensor(3), np.array(3)], ids=repr)
def test_a_seed_of_numpy_or_torch_is_the_number(net, seed):
    native, result = (build_selector(solver=Random()).select(net, NATIVE, seed=number) for number in (3, seed))
    assert torch.equal(native.indices, result.indices) and type(result.seed) is int


@pytest.mark.parametrize("generator", [*GENERATORS[:4], None, 0], ids=lambda generator: type(generator).__name__)
def test_an_attack_takes_a_stream_alone(generator):
    with pytest.raises(
        ConfigError, match=r"^generator must be an object of the class advcore.rng.Stream, got .*; such as"
    ):
        ATTACK(lambda x: x.flatten(1).sum(1), PIXELS.float() / 255, generator=generator)


def test_numbers_of_numpy_and_torch_are_settings():
    native = build_trainer(batch_size=16, eps_ramp=0.5, schedule=Schedule(epochs=2, budget=1.0))
    foreign = build_trainer(
        batch_size=np.int64(16),
        eps_ramp=torch.tensor(0.5),
        schedule=Schedule(epochs=torch.tensor(2), budget=np.float32(1)),
    )
    assert native == foreign and type(foreign.batch_size) is int and type(foreign.eps_ramp) is float
    assert LinfPGD(eps=fractions.Fraction(8, 255), steps=np.int32(3)) == LinfPGD(eps=8 / 255, steps=3)
    assert (
        MultiStep(milestones=np.array([2, 5])) == MultiStep(milestones=[2, 5]) == MultiStep(milestones=[np.int64(2), 5])
    )
    assert MultiStep(milestones=(np.int64(2), 5)) == MultiStep(milestones=(2, 5))
    assert Speed(fused=np.bool_(True)) == Speed(fused=True)


def test_a_solver_counts_in_numpy_too():
    rows = DenseRows(matrix=torch.randn(6, 3))
    counts = [Craig()(rows, k, generator=STREAM.at(torch.arange(6))).indices for k in (3, np.int64(3))]
    assert torch.equal(*counts)
    with pytest.raises(BudgetError):
        Craig()(rows, np.bool_(True), generator=STREAM)
    rule = "one of FactoredRows, DenseRows, BlockRows, such as advcore.rows.FactoredRows(...)"
    line = f"rows must be {rule}, got torch.Tensor"
    refuse(ConfigError, line, Craig(), torch.randn(60, 3), 3, generator=STREAM)


def test_a_stream_is_named_by_a_whole_number():
    assert Stream(seed=np.int64(3), purpose="attack").key == Stream(seed=3, purpose="attack").key
    for seed in (0.5, "3", torch.Generator(), True):
        with pytest.raises(
            ConfigError, match="^seed must be a whole number, got .*; all random numbers are named by it"
        ):
            _ = Stream(seed=seed, purpose="attack").key


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"objective": nn.CrossEntropyLoss()},
            "objective must be an objective, such as advcore.objectives.Standard(...), got",
        ),
        ({"attack": None}, "attack must be an attack, such as advcore.attacks.LinfPGD(...), got None"),
        ({"attack": "linf_pgd"}, "attack must be an attack, such as advcore.attacks.LinfPGD(...), got 'linf_pgd'"),
        ({"x": np.zeros((8, 1, 8, 8))}, "x must be an object of the class torch.Tensor, got numpy.ndarray"),
        ({"y": list(range(8))}, "y must be an object of the class torch.Tensor, got [0, 1, 2, 3, 4, 5, 6, 7]"),
    ],
)
def test_perturb_takes_objects_of_ours(net, changes, line):
    usual = {"objective": Pgd(), "attack": ATTACK, "x": PIXELS[:8] / 255, "y": LABELS[:8]}
    with pytest.raises(ConfigError) as caught:
        perturb(net, **usual | changes, generator=STREAM.at(torch.arange(8)))
    assert str(caught.value).startswith(line)


def test_a_device_may_be_named_by_a_text():
    assert Digits(train_size=40).load("cpu").train.device == torch.device("cpu")
    for device in ("gpu", None):
        refuse(ConfigError, f"device must be cpu, cuda or cuda:N, got {device!r}", Resident, PIXELS, LABELS, device)


def test_a_coreset_holds_tensors():
    usual = {"num_examples": 4, "fingerprint": "", "solver": "", "partition": "whole", "seed": 0, "budget": 0.5}
    line = "indices must be an object of the class torch.Tensor, got [1, 2]"
    refuse(ConfigError, line, Coreset, indices=[1, 2], weights=torch.ones(2), **usual)
    line = "a coreset needs whole numbers (K,) as indices, got torch.bool"
    refuse(DataError, line, Coreset, indices=torch.tensor([True, False]), weights=torch.ones(2), **usual)


# ---- models ----


class Brightness(nn.Module):
    """Logits without a parameter; with a buffer, if asked."""

    def __init__(self, *, buffer=False):
        super().__init__()
        if buffer:
            self.register_buffer("scale", torch.tensor(4.0))

    def forward(self, x):
        bright = getattr(self, "scale", 4.0) * (x.flatten(1).mean(1) - 0.5)
        return torch.stack([bright, -bright, bright * 0.5, -bright * 0.5], 1)


@pytest.mark.parametrize("buffer", [False, True])
def test_a_model_without_parameters_is_evaluated(buffer):
    result = evaluate(Brightness(buffer=buffer), NATIVE, [ATTACK])
    assert result.clean.accuracy == float((Brightness()(PIXELS / 255).argmax(1) == LABELS).double().mean())


NO_MODELS = {
    "class": nn.Linear,
    "function": lambda x: x,
    "state dict": nn.Linear(1, 1).state_dict(),
    "name": "resnet18",
    "list": [nn.Linear(1, 1)],
    "nothing": None,
    "optimiser": FIT,
}


@pytest.mark.parametrize("model", NO_MODELS.values(), ids=NO_MODELS)
def test_what_is_no_module_is_refused_everywhere(model):
    source = Resident(PIXELS, LABELS)
    measure = {"stream": STREAM, "ledger": CostLedger()}
    for call in (
        lambda: build_selector().select(model, source, seed=0),
        lambda: build_trainer().fit(model, source),
        lambda: evaluate(model, source),
        lambda: smallest_radius(model, source, ATTACK, [0], **measure),
        lambda: last_layer_rows(model, source, MeasurementSettings(**measure)),
    ):
        with pytest.raises(ConfigError, match="^model must be an object of the class torch.nn.Module, got "):
            call()


def build_flat(head: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), head)


LAZY = "model must be one whose lazy layers know their sizes, got 'Sequential'"
ON_META = "model must be on a device that holds numbers, got 'the device meta'"
NARROW = "model must be one that takes images in torch.float32, got 'weights in torch"


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize(
    ("build", "line"),
    [
        (
            lambda: build_flat(nn.LazyLinear(4)),
            "model must be one whose lazy layers know their sizes, got 'Sequential'",
        ),
        (
            lambda: build_flat(nn.Linear(64, 4)).to("meta"),
            "model must be on a device that holds numbers, got 'the device meta'",
        ),
        (
            lambda: build_flat(nn.Linear(64, 4)).half(),
            f"{NARROW}.float16'; write model.float()",
        ),
        (
            lambda: build_flat(nn.Linear(64, 4)).bfloat16(),
            f"{NARROW}.bfloat16'",
        ),
    ],
    ids=["lazy", "meta", "half", "bfloat16"],
)
def test_a_model_that_cannot_take_images_yet_is_refused_in_one_line(build, line):
    source = Resident(PIXELS, LABELS)
    for call in (
        lambda: build_selector().select(build(), source, seed=0),
        lambda: build_trainer().fit(build(), source),
        lambda: evaluate(build(), source),
        lambda: last_layer_rows(build(), source, MeasurementSettings(stream=STREAM, ledger=CostLedger())),
    ):
        with pytest.raises(UserError) as caught:
            call()
        assert str(caught.value).startswith(line) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "model", [Brightness(), build_flat(nn.Linear(64, 4)).requires_grad_(False)], ids=["none", "frozen"]
)
def test_a_model_without_parameters_to_train_is_not_trained(model):
    line = (
        f"model must be one with parameters to train, got '{type(model).__name__}'; "
        "let some require gradients: parameter.requires_grad_(True)"
    )
    refuse(ConfigError, line, build_trainer().fit, model, NATIVE)


# ---- functions and files ----


def test_functions_are_told_apart_by_what_they_take(net):
    line = "on_chunk must be a function of 2 arguments, got"
    for function in (lambda done: None, 3, None, "print"):
        with pytest.raises(ConfigError, match=f"^{line}"):
            evaluate(net, NATIVE, on_chunk=function)
    with pytest.raises(ConfigError, match="^augment must be a function of 2 arguments, got Identity"):
        build_trainer().fit(net, NATIVE, augment=nn.Identity())
    evaluate(net, NATIVE, on_chunk=max)  # a builtin, which does not say what it takes


@pytest.mark.parametrize(
    ("augment", "got"),
    [
        (lambda x, stream: None, "'NoneType'"),
        (lambda x, stream: x[:1], "'torch.float32 of shape (1, 1, 8, 8)'"),
        (lambda x, stream: x[0], "'torch.float32 of shape (1, 8, 8)'"),
        (lambda x, stream: (x * 255).byte(), "'torch.uint8 of shape (8, 1, 8, 8)'"),
        (lambda x, stream: x.numpy(), "'ndarray'"),
    ],
)
def test_augmented_images_are_a_batch_of_images(net, augment, got):
    line = f"augment must be a function that returns the 8 images of a batch as floats, got {got}"
    refuse(ConfigError, line, build_trainer().fit, net, NATIVE, augment=augment)


@pytest.mark.parametrize(
    ("argument", "kind"),
    [("previous", "selection.result.Coreset"), ("ledger", "cost.CostLedger")],
)
def test_an_argument_of_another_class_is_refused_before_anything_is_attacked(net, argument, kind):
    line = f"{argument} must be an object of the class advcore.{kind}, got {{}}"
    refuse(ConfigError, line, build_selector().select, net, NATIVE, seed=0, **{argument: {}})


def test_all_wrong_arguments_are_told_at_once(net):
    with pytest.raises(ConfigError) as caught:
        build_trainer().fit(net, NATIVE, seed=None, listener=Listener, augment=0)
    assert [problem.path for problem in caught.value.problems] == ["seed", "augment", "listener"]


def test_a_state_may_be_named_by_a_text(net, tmp_path):
    evaluate(net, NATIVE, [ATTACK], state=str(tmp_path / "state.npz"))
    assert pathlib.Path(tmp_path / "state.npz").exists()
    refuse(ConfigError, "state must be an object of the class pathlib.Path, got []", evaluate, net, NATIVE, state=[])


def test_an_offer_where_every_variant_is_refused_says_why(monkeypatch):
    def refuse_all(*_):
        raise ConfigError("attack must be another")

    monkeypatch.setattr(budget, "_find_least_size", refuse_all)
    trainer = build_trainer(selector=build_selector(), schedule=Schedule(epochs=2, budget=0.5), batch_size=128)
    reference = Reference(1, None, Work(forward=10**6))
    refuse(ConfigError, "attack must be another", budget.list_offers, trainer, 100, 10, 1e-9, reference)
