"""Perturbations remembered between epochs: bitwise continuation, the frame of a moved image, rounding, forgetting."""

import pytest
import torch
from kernels import by_plain_kernels
from seeds import seeded
from torch import nn

from advcore.attacks import memory as module
from advcore.attacks.memory import PRECISIONS, Memory, Perturbations, refuse_unmoved
from advcore.attacks.pgd import L1PGD, L2PGD, LinfPGD
from advcore.data.augment import color_jitter, crop, crop_flip, flip, keep_images, randaugment
from advcore.errors import CheckpointError, ConfigError
from advcore.rng import Stream

N, SHAPE = 12, (3, 8, 8)
ALL = torch.arange(N)
CPU = torch.device("cpu")
ATTACKS = {"linf": LinfPGD(eps=0.1, step_size=0.03), "l2": L2PGD(eps=0.7, step_size=0.3), "l1": L1PGD(eps=6.0)}
every_attack = pytest.mark.parametrize("name", ATTACKS)
every_precision = pytest.mark.parametrize("precision", PRECISIONS)


def images(n=N, shape=SHAPE):
    """Pixels as bytes give them, many at or near 0 and 1, where additions round."""
    x = torch.randint(0, 256, (n, *shape), generator=torch.Generator().manual_seed(3))
    x[::2] = x[::2] // 16
    x[1] = 255 - x[1] // 16
    return x.float() / 255


def network():
    with seeded():
        return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5))


def loss_of(net):
    return lambda x: nn.functional.cross_entropy(net(x), torch.arange(len(x)) % 5, reduction="none")


def stream(epoch=0, purpose="attack", indices=ALL):
    return Stream(seed=1, purpose=purpose, epoch=epoch).at(indices)


def view(epoch):
    """What the augmented view of an epoch draws from."""
    return Stream(seed=1, purpose="augment", epoch=epoch)


def memory(precision="float32", augment=None, n=N, place=None, **settings):
    return Perturbations(Memory(precision=precision, **settings), n, SHAPE, CPU, augment, place)


def elsewhere(x):
    """A start that cannot be taken for a remembered one."""
    return lambda: x + 9


def remembering(name, steps=3):
    return ATTACKS[name].with_settings(start="remembered", steps=steps)


def attacked(attack, kept, x, epoch=0, indices=ALL):
    """Where the attack ends on images of the view, which is then remembered."""
    x_adv = attack.with_memory(kept)(loss_of(network()), x, generator=stream(epoch, indices=indices))
    kept.keep(x, x_adv, indices)
    return x_adv


@every_attack
def test_two_epochs_of_k_steps_are_one_of_2k_bitwise(name):
    attack = remembering(name).with_settings(step_size=remembering(name).length)
    kept = memory("float32")
    for epoch in range(2):
        kept.begin(ALL, view(epoch))
        twice = attacked(attack, kept, images(), epoch)
    once = attack.with_settings(steps=6, start="uniform")(loss_of(network()), images(), generator=stream())
    assert torch.equal(twice, once)
    assert not torch.equal(
        twice, attack.with_settings(start="uniform")(loss_of(network()), images(), generator=stream(1))
    )


@pytest.mark.parametrize("project", [attack.geometry.project for attack in ATTACKS.values()], ids=ATTACKS)
def test_a_projection_of_a_projection_is_the_same_bitwise(project):
    generator = torch.Generator().manual_seed(5)
    for size in (0.01, 0.3, 2.0):
        moved = images() + size * torch.randn(N, *SHAPE, generator=generator)
        for eps in (0.05, 0.7, 6.0):
            once = project(moved, images(), eps)
            assert torch.equal(project(once, images(), eps), once)


def carried(x, pattern, seen, epoch):
    """The slow twin: pixels know their own place by a value that no other has; perturbations follow it."""
    names = (1 + torch.arange(64.0)).view(1, 1, 8, 8).expand(len(x), 1, 8, 8)
    there = seen(names, view(epoch).at(ALL))
    out = torch.zeros_like(x)
    for i in range(len(x)):
        for row in range(8):
            for column in range(8):
                name = int(there[i, 0, row, column])
                if name:
                    out[i, :, row, column] = pattern[i, :, (name - 1) // 8, (name - 1) % 8]
    return out


@pytest.mark.parametrize("augment", [crop, flip, crop_flip], ids=["crop", "flip", "crop_flip"])
@every_precision
def test_a_planted_pattern_lands_on_the_same_pixels_of_every_later_view(augment, precision):
    pattern = torch.zeros(N, *SHAPE)
    pattern[:, :, 3:5, 2:6] = torch.tensor([0.01, 0.03, -0.02, 0.04])  # inside of every crop
    kept, x = memory(precision, augment), images()
    kept.begin(ALL, view(0))
    seen = augment(x, view(0).at(ALL))
    kept.keep(seen, seen + augment(pattern, view(0).at(ALL)), ALL)
    for epoch in range(1, 5):
        kept.begin(ALL, view(epoch))
        seen = augment(x, view(epoch).at(ALL))
        found = kept.recall(seen, ALL, elsewhere(seen)) - seen
        expected = carried(x, pattern, augment, epoch)
        assert torch.allclose(found, expected, atol=0.04 / 254 + 1e-6)
        assert int((expected != 0).sum()) >= N * 3 * 4


def test_what_a_crop_cuts_away_keeps_what_it_had_and_padding_is_lost():
    kept, x = memory("float16", crop), torch.full((N, *SHAPE), 0.5)
    for epoch, size in enumerate((0.25, 0.125)):
        kept.begin(ALL, view(epoch))
        seen = crop(x, view(epoch).at(ALL))
        kept.keep(seen, seen + size, ALL)
    kept.look(None)
    found = kept.recall(x, ALL, elsewhere(x)) - x
    inside = [crop(torch.ones(N, 1, 8, 8), view(epoch).at(ALL)) for epoch in range(2)]
    names = (1 + torch.arange(64.0)).view(1, 1, 8, 8).expand(N, 1, 8, 8)
    cut = 0
    for i in range(N):
        reached = [{int(v) for v in crop(names, view(e).at(ALL))[i].unique() if v} for e in range(2)]
        for name in range(1, 65):
            expected = 0.125 if name in reached[1] else 0.25 if name in reached[0] else 0.0
            assert float(found[i, 0, (name - 1) // 8, (name - 1) % 8]) == expected
            cut += name not in reached[1]
    assert cut and float(inside[1].mean()) < 1  # both happened


@pytest.mark.case("E1")
@every_attack
@every_precision
@pytest.mark.parametrize("augment", [None, keep_images, crop, flip, crop_flip])
@by_plain_kernels
def test_ball_and_box_hold_in_every_precision(name, precision, augment):
    attack, kept = remembering(name), memory(precision, augment)
    for epoch in range(3):
        kept.begin(ALL, view(epoch))
        x = images() if augment is None else augment(images(), view(epoch).at(ALL))
        now = attack.scale(0.5) if epoch == 1 else attack  # what is remembered may be outside of a ramp's ball
        start = now.geometry.project(kept.recall(x, ALL, elsewhere(x)), x, now.eps)
        for point in (start, attacked(now, kept, x, epoch)):
            assert float(now.excess(x, point).max()) <= 1e-7 * now.eps + (3e-8 if name == "linf" else 0)
            assert float(point.min()) >= 0 and float(point.max()) <= 1


@every_precision
def test_rounding_is_what_is_stated(precision):
    generator = torch.Generator().manual_seed(1)
    x, delta = torch.full((N, *SHAPE), 0.5), 0.06 * (torch.rand(N, *SHAPE, generator=generator) - 0.5)
    kept = memory(precision)
    kept.begin(ALL, None)
    kept.keep(x, x + delta, ALL)
    added = (x + delta).double() - x.double()
    off = (kept.recall(x, ALL, lambda: x).double() - x.double() - added).abs()
    bound = {
        "float32": torch.zeros_like(off),
        "float16": (added.abs() / 2048).clamp_min(3e-8) + 2**-25,  # the last: x + what was added is a float, too
        "int8": added.abs().amax((1, 2, 3), keepdim=True) / 254 + 2**-25,
    }[precision]
    assert bool((off <= bound).all())
    assert precision == "float32" or float(off.max()) > 0


def test_what_a_view_does_not_show_is_not_rounded_again_and_again():
    """Within int8's bound after 20 epochs in which the first column is cut away."""
    kept, x = memory("int8", lambda x, generator: torch.cat([x[..., 1:], torch.zeros_like(x[..., :1])], -1)), images()
    generator = torch.Generator().manual_seed(2)
    delta = 0.1 * (torch.rand(N, *SHAPE, generator=generator) - 0.5)
    kept.begin(ALL, None)
    kept.keep(x, x + delta, ALL)
    for epoch in range(20):
        kept.begin(ALL, view(epoch))
        seen = kept.augment(x, None)
        kept.keep(seen, seen + 0.09 * (torch.rand(N, *SHAPE, generator=generator) - 0.5), ALL)
    kept.look(None)
    off = (kept.recall(x, ALL, elsewhere(x)) - x - delta)[..., 0].abs().amax((1, 2))
    assert bool((off <= delta.abs().amax((1, 2, 3)) / 254 + 1e-7).all())


@every_attack
def test_an_example_that_nothing_is_known_of_starts_as_uniform_does(name):
    kept, attack = memory(), remembering(name)
    uniform = attack.with_settings(start="uniform")(loss_of(network()), images(), generator=stream())
    assert torch.equal(attack(loss_of(network()), images(), generator=stream()), uniform)  # no memory at all
    assert torch.equal(
        attack.with_memory(kept)(loss_of(network()), images(), generator=stream()), uniform
    )  # an empty one
    kept.begin(ALL, None)
    kept.keep(images()[:5], images()[:5] * 0.9, ALL[:5])
    start = kept.recall(images(), ALL, lambda: torch.full((N, *SHAPE), 7.0))
    assert torch.equal(start[:5], images()[:5] * 0.9) and bool((start[5:] == 7).all())


def test_no_fresh_start_is_drawn_where_all_is_known():
    kept, x = memory(), images()
    asked = []
    for some in (ALL[:6], ALL):  # then not all of the plain view, which a selection reads, but all of an epoch's
        kept.begin(some, view(0))
        kept.keep(x[some], x[some], some)
        kept.look(view(1))
        kept.recall(x[:4], ALL[:4], lambda: asked.append("epoch"))
        kept.look(None)
        kept.recall(x, ALL, lambda some=some: asked.append(len(some)) or x)
    assert asked == [6]


@every_precision
@pytest.mark.parametrize("later", [[1, 3, 4, 9], [0, 1, 2, 3, 9], [11]], ids=["as many", "more", "one"])
def test_who_stays_is_remembered_and_who_leaves_is_forgotten(precision, later):
    now, later = torch.tensor([9, 3, 5, 7]), torch.tensor(later)
    x, kept = images(), memory(precision)
    kept.begin(now, None)
    kept.keep(x[now], x[now] * 0.75, now)
    before = kept.recall(x, ALL, elsewhere(x))
    kept.begin(later, None)
    start = kept.recall(x, ALL, elsewhere(x))
    staying = [i for i in later.tolist() if i in now.tolist()]
    assert torch.equal(start[staying], before[staying])
    others = [i for i in range(N) if i not in staying]
    assert torch.equal(start[others], x[others] + 9)
    kept.keep(x[later], x[later] * 0.5, later)  # newcomers have room
    assert len(kept.known) == len(kept.values) == len(later)
    kept.begin(now, None)
    back = kept.recall(x, ALL, elsewhere(x))
    assert all(torch.equal(back[i], x[i] + 9) for i in now.tolist() if i not in staying)


def test_all_is_forgotten_every_reset_epochs():
    kept, x, known = memory(reset=3), images(), []
    for _ in range(8):
        kept.begin(ALL, None)
        known.append(bool(kept.known.any()))
        kept.keep(x, x, ALL)
    assert known == [False, True, True, False, True, True, False, True]


@every_precision
def test_a_restored_memory_goes_on_bitwise(precision):
    attack, kept, other = remembering("linf"), memory(precision, crop_flip), memory(precision, crop_flip)
    for epoch in range(2):
        kept.begin(ALL[:9], view(epoch))
        attacked(attack, kept, crop_flip(images()[:9], view(epoch).at(ALL[:9])), epoch, ALL[:9])
    other.restore(kept.state())
    ends = []
    for one in (kept, other):
        one.begin(ALL[2:11], view(2))
        ends.append(attacked(attack, one, crop_flip(images()[2:11], view(2).at(ALL[2:11])), 2, ALL[2:11]))
    assert torch.equal(*ends)
    assert all(
        torch.equal(getattr(kept, name).nan_to_num(), getattr(other, name).nan_to_num()) for name in module._STORED
    )


def test_a_state_is_a_copy():
    kept, x = memory(), images()
    kept.begin(ALL, None)
    kept.keep(x, x, ALL)
    state = kept.state()
    kept.keep(x, x * 0.5, ALL)
    kept.begin(ALL[:3], None)
    assert torch.equal(state["values"][:, :, 1:], x.flatten(2)) and bool(state["known"].all())


@pytest.mark.parametrize("other", [memory("float16"), memory("int8"), memory(n=N - 2)], ids=["float16", "int8", "size"])
def test_another_memorys_state_is_refused(other):
    with pytest.raises(CheckpointError, match=r"precision, shape and size must be .* got "):
        memory().restore(other.state())


@every_precision
def test_the_bytes_told_are_the_bytes_held(precision):
    kept = memory(precision)
    kept.begin(ALL[:7], None)
    held = kept.values.nbytes + kept.scale.nbytes + kept.known.nbytes
    assert Memory(precision=precision).count_bytes(7, SHAPE) == held


@pytest.mark.parametrize(
    ("device", "place", "where"),
    [
        ("cuda", "auto", "cuda"),  # 3 GB of 8 free ones
        ("cuda", "device", "cuda"),
        ("cuda", "host", "cpu"),
        ("cpu", "auto", "cpu"),
        ("cpu", "device", "cpu"),
    ],
)
def test_where_they_are_kept(monkeypatch, device, place, where):
    monkeypatch.setattr(module, "measure_free_memory", lambda device: {"cuda": 8e9, "cpu": 64e9}[device.type])
    assert Memory(place=place).settle(int(3e9), torch.device(device)).type == where


def test_what_does_not_fit_goes_to_the_host_or_is_refused_with_figures(monkeypatch):
    monkeypatch.setattr(module, "measure_free_memory", lambda device: {"cuda": 8e9, "cpu": 64e9}[device.type])
    assert Memory().settle(int(5e9), torch.device("cuda")).type == "cpu"
    for settings, device, needed, figures in [
        (Memory(place="device"), "cuda", 9e9, ("9 GB", "'device'", "8 GB are free on cuda")),
        (Memory(), "cuda", 65e9, ("65 GB", "'auto'", "64 GB are free on cpu")),
        (Memory(place="host"), "cuda", 65e9, ("65 GB", "'host'", "64 GB are free on cpu")),
        (Memory(), "cpu", 65e9, ("65 GB", "'auto'", "64 GB are free on cpu")),
    ]:
        with pytest.raises(ConfigError) as caught:
            settings.settle(int(needed), torch.device(device))
        assert all(figure in str(caught.value) for figure in figures), caught.value
    monkeypatch.setattr(module, "measure_free_memory", lambda device: None)
    assert Memory().settle(int(1e15), torch.device("cuda")).type == "cuda"  # not known: tried


def brighter(x, generator):
    return x * 1.1


def grey_only(x, generator):
    assert x.shape[1] == 3
    return x


def turned(x, generator):
    return x.rot90(1, (2, 3))


@pytest.mark.parametrize("augment", [keep_images, crop, flip, crop_flip, turned])
def test_augmentations_that_move_pixels_are_followed(augment):
    refuse_unmoved(augment, SHAPE, view(0))


def colours_swapped(x, generator):
    return x.flip(1)


def reflected(x, generator):
    return nn.functional.pad(x, (2, 2, 2, 2), mode="reflect")[:, :, :8, :8]


def smaller(x, generator):
    return x[:, :, :4]


@pytest.mark.parametrize(
    "augment", [brighter, grey_only, colours_swapped, reflected, smaller, color_jitter, randaugment]
)
def test_an_augmentation_that_does_more_is_refused(augment):
    with pytest.raises(ConfigError, match=f"augment must be .*moves pixels.*got '{augment.__name__}'"):
        refuse_unmoved(augment, SHAPE, view(0))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"precision": "bfloat16"}, "precision must be one of float32, float16, int8, got 'bfloat16'"),
        ({"reset": 0}, "reset must be a whole number of at least 1, got 0"),
        ({"place": "disk"}, "place must be one of auto, device, host, got 'disk'"),
    ],
)
def test_settings_are_checked(settings, line):
    with pytest.raises(ConfigError, match=line):
        Memory(**settings)


def test_one_end_is_remembered():
    with pytest.raises(ConfigError, match="restarts must be 1 for start: remembered, got 2"):
        LinfPGD(eps=0.1, start="remembered", restarts=2)


def test_what_judges_and_what_costs_compare_with_start_anew():
    attack = LinfPGD(eps=0.1, steps=5, start="remembered")
    assert attack.remembers and not attack.probe().remembers and not attack.reference(7).remembers
    assert attack.probe().steps == 5 and attack.passes() == attack.with_settings(start="uniform").passes()


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10])
def test_few_steps_are_judged_by_many(steps):
    judge = LinfPGD(eps=0.1, steps=steps, step_size=0.05).probe()
    assert (judge.steps, judge.step_size) == ((10, None) if steps < 4 else (steps, 0.05))


@pytest.mark.gpu
@pytest.mark.parametrize("place", ["cpu", "cuda"])
@every_precision
def test_cuda_remembers_what_the_cpu_does(place, precision):
    x = images()
    starts = []
    for device, where in (("cpu", "cpu"), ("cuda", place)):
        kept = Perturbations(
            Memory(precision=precision), N, SHAPE, torch.device(device), crop_flip, torch.device(where)
        )
        for epoch in range(2):
            kept.begin(ALL.to(device), view(epoch))
            indices = ALL.to(device)
            seen = crop_flip(x.to(device), view(epoch).at(indices))
            kept.keep(seen, (seen + 0.01 * (epoch + 1)).clamp(0, 1), indices)
        kept.look(None)
        starts.append(kept.recall(x.to(device), ALL.to(device), elsewhere(x.to(device))).cpu())
    assert torch.equal(*starts)
