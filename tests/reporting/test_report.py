"""Pages of runs: everything from records, escaped, and a line in the place of what is not there."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advcore.config.yaml_reader import parse
from advcore.reporting import charts, frame, scales, svg
from advcore.reporting.compare import BrokenRun, Run, group_runs, split_into_blocks
from advcore.reporting.front import Method, classify_run, draw_front, find_front
from advcore.reporting.page import render
from advcore.reporting.parts import Example, Note, Page, Section, Table
from advcore.reporting.record import RunRecord
from advcore.reporting.run_page import RunFiles, build_run_page
from advcore.reporting.runs_page import build_runs_page
from advcore.reporting.selection_parts import pick_evenly
from advcore.reporting.settings_parts import flatten, format_settings

SECTIONS = ("accuracy", "cost", "learning", "selections", "weights", "classes", "images", "events", "settings")


def entry(accuracy: float, n: int = 400) -> dict:
    return {"n": n, "accuracy": accuracy, "interval": [accuracy - 0.03, accuracy + 0.02]}


def attacked(accuracy: float, name: str = "linf_pgd", n: int = 400) -> dict:
    how = {"name": name, "norm": "linf", "eps": 0.1, "steps": 50, "step_size": 0.013, "restarts": 3, "start": "uniform"}
    return {**how, "seed": 7, "split": "test", **entry(accuracy, n)}


def final(clean: float, robust: float, *flags: str) -> dict:
    return {"clean": entry(clean), "attacks": [attacked(robust)], "flags": list(flags)}


def epoch(i: int, action: str = "full", **more) -> dict:
    return {
        "epoch": i,
        "action": action,
        "loss": 2.0 - 0.1 * i,
        "clean": 0.5 + 0.04 * i,
        "robust": 0.3 + 0.03 * i,
    } | more


def selection(at: int, error: float, overlap: float | None = None) -> dict:
    quality = {"gradient_error": error, "gradient_error_random": 0.71, "gradient_error_trained": 0.213}
    quality |= {"effective_sample_size": 0.8125, "weight_sum": 0.93, "class_counts": [30, 20], "overlap": overlap}
    spent = {"seconds": {"attack": 1.25, "rows": 0.0, "solve": 0.125}, "passes": 4321}
    return {"epoch": at, "solver": "gradmatch", "k": 50, "filled": 0, "rounds": 1, **quality, **spent}


def record(**changes) -> RunRecord:
    """A finished run of six epochs and two selections."""
    known = {
        "name": "two_moons",
        "config": {
            "seed": 3,
            "data": {"name": "digits"},
            "model": {"name": "small_cnn"},
            "objective": {"name": "trades"},
            "selection": {"solver": {"name": "gradmatch"}, "budget": 0.5},
        },
        "environment": {"advcore": "0.1.0", "device": "cpu (x86_64)", "speed": {"fused": False}},
        "plan": "2 full epochs, then 4 at 50 %: 0.55 of full training",
        "reference": {"epochs": 6, "steps": 10, "units": 10_000},
        "finished": True,
        "relative_cost": 0.5473,
        "seconds": 61.5,
        "peak_memory": 123_000_000,
        "best_epoch": 4,
        "ledger": {
            "attack": {"forward": 2111, "backward": 2000, "seconds": 12.75},
            "solve": {"forward": 0, "backward": 0, "seconds": 0.5},
            "update": {"forward": 681, "backward": 681, "seconds": 3.25},
            "evaluation": {"forward": 9876, "backward": 5432, "seconds": 8.5},
        },
        "epochs": [epoch(i, "full" if i < 2 else "reuse") for i in range(6)],
        "selections": [selection(2, 0.0512), selection(4, 0.0634, 0.62)],
        "events": [{"epoch": 2, "event": "class 1 was filled"}],
        "resumes": [{"epoch": 3, "changed": ["device: 'cpu' -> 'cuda'"], "damaged": []}],
        "final": {"last": final(0.912, 0.703), "best": final(0.901, 0.711)},
        "data": {"train": 100, "validation": 10, "test": 400, "class_counts": [60, 40]},
        "inputs": {"selection.solver.scores": {"sha256": "abc123"}},
    }
    return RunRecord(**{**known, **changes})


def page_of(one: RunRecord, beside: RunFiles | None = None) -> str:
    return render(build_run_page(one, beside or RunFiles()))


@pytest.fixture(scope="module")
def page() -> str:
    beside = RunFiles(weights={2: [0.5, 1.5, 1.0], 4: [1.0, 1.0, 4.0]}, galleries=[("Highest weights", SHOWN)])
    return page_of(record(), beside)


SHOWN = [Example([("example 12", "data:image/png;base64,AAAA")], ["weight 4, class 1"])]


def section(page: str, name: str) -> str:
    return re.search(rf'<section id="{name}">.*?</section>', page, re.S)[0]


def words(markup: str) -> str:
    """Without tags, spaces as one."""
    return " ".join(re.sub(r"<[^>]*>", " ", markup).split())


def test_every_section_is_there_and_none_says_that_the_record_is_odd(page):
    for name in SECTIONS:
        assert f'<section id="{name}">' in page and f'href="#{name}"' in page
    assert "does not hold what belongs here" not in page and 'class="note missing"' not in page
    charts = 1 + 3 + 1 + 2 + 3 + 1  # at the top, accuracy and cost, learning, selections, weights, classes
    assert page.count("<figure") == charts and page.count('class="narrow"') == page.count('class="wide"') == charts
    assert page.count("<svg") == 2 * charts + 4  # each in two sizes, and a bar below each number at the top


@pytest.mark.parametrize(("name", "numbers"), [
    ("accuracy", ["91.2", "[88.2, 93.2]", "70.3", "[67.3, 72.3]", "71.1", "linf 0.1, PGD-50 x 3", "0.013", "test"]),
    ("cost", ["0.411", "0.136", "0.547", "12.8 s", "2,111", "9,876", "5,432", "10,000 passes", "62 s", "123 MB"]),
    ("learning", ["2", "epochs done"]),
    ("selections", ["0.051", "0.063", "0.710", "0.213", "0.620", "0.930", "0.812", "4,321", "solve, s", "1.25"]),
    ("weights", ["selection at 2: 0.5 to 1.5", "selection at 4: 1 to 4", "81.2 % of 3"]),
    ("events", ["class 1 was filled", "device: 'cpu' -> 'cuda'"]),
    ("settings", ["budget: 0.5", "abc123", "speed.fused", "false", "cpu (x86_64)"]),
])  # fmt: skip
def test_numbers_on_the_page_are_the_records(page, name, numbers):
    told = words(section(page, name)).replace("&#39;", "'").replace("&gt;", ">")
    for number in numbers:
        assert number in told, number


def test_what_matters_most_comes_first(page):
    top = words(page[: page.index("<main>")])
    for part in (
        "TRADES on 50 % of digits, chosen by GradMatch Run two_moons, seed 3.",
        "0.55 of full training",
        "70.3 % 95 % interval 67.3 to 72.3, n = 400",
        "91.2 %",
        "54.7 %",
        "0.063 random subsets 0.710; last selection, after 4 epochs",
    ):
        assert part in top, part


def test_the_shares_of_data_and_coreset_are_told_to_who_cannot_see_them(page):
    assert "class 0: data 60.0, last coreset 60.0; class 1: data 40.0, last coreset 40.0" in page
    odd = record(selections=[selection(2, 0.05) | {"class_counts": [50, 0]}])
    assert "class 1: data 40.0, last coreset 0.0" in page_of(odd)
    assert "Classes without an example in the last coreset: 1." in page_of(odd)


def test_of_many_classes_those_are_shown_that_changed_most():
    counts = [10] * 40
    chosen = [5] * 40
    chosen[33] = 0
    page = page_of(record(data={"class_counts": counts}, selections=[selection(1, 0.1) | {"class_counts": chosen}]))
    assert "24 of 40 classes" in page and "class 33: data 2.5, last coreset 0.0" in page


def test_flags_stand_first_and_switched_off_checks_are_a_flag():
    flagged = page_of(record(final={"last": final(0.9, 0.7, "masked: flat"), "best": final(0.9, 0.7, "masked: flat")}))
    assert words(flagged[: flagged.index("<main>")]).count("Flag masked: flat") == 1
    assert "switched off" in page_of(record(config={"evaluation": {"checks": False}}))
    unchecked = {key: value for key, value in final(0.9, 0.7).items() if key != "flags"}
    assert "older than the checks" in page_of(record(final={"last": unchecked, "best": unchecked}))


@pytest.mark.parametrize(("changes", "told"), [
    ({"finished": False, "final": {}}, ["not finished. Epochs done: 6;", "No final accuracy yet", "epochs done: 6"]),
    ({"finished": False, "final": {}, "epochs": [], "selections": [], "ledger": {}},
     ["Epochs done: 0;", "No epoch is done yet", "No cost is counted yet", "No selection: none yet"]),
    ({"selections": [], "config": {"seed": 0}}, ["this run trains on all data", "all examples count equally"]),
    ({"selections": [], "data": {}}, ["does not say how many examples a class has"]),
    ({"data": {}}, ["does not say how many examples a class has in the data"]),
    ({"selections": [selection(2, 0.1)]}, ["there is no overlap to show"]),
    ({"selections": [selection(2, 0.1) | {"gradient_error": None, "gradient_error_random": None,
                                          "gradient_error_trained": None}]}, ["measures no gradients"]),
    ({"epochs": [epoch(0, clean=None, robust=None)]}, ["No validation accuracy was measured"]),
    ({"reference": {}}, ["does not say what costs are relative to"]),
    ({"environment": {}}, ["names no environment"]),
    ({"best_epoch": None, "final": {"last": final(0.9, 0.7), "best": final(0.9, 0.7)}}, ["best is last"]),
    ({"final": {"last": {}}}, ["does not hold what belongs here"]),
    ({"epochs": [{}]}, ["does not hold what belongs here"]),
    ({"ledger": {"attack": {}}}, ["does not hold what belongs here"]),
    ({"events": [], "resumes": []}, ["No events", "was not interrupted"]),
])  # fmt: skip
def test_what_is_not_there_is_said_in_its_place(changes, told):
    page = page_of(record(**changes))
    for name in SECTIONS:
        assert words(section(page, name)) != name
    for part in told:
        assert part in words(page), part
    odd = "does not hold what belongs here"
    assert (odd in page) == (odd in told)


def test_events_have_a_column_of_kinds_where_any_has_one():
    old, new = {"epoch": 1, "event": "fell"}, {"epoch": 2, "kind": "memory", "event": "rows go to a file"}
    for events, header in (([old], "epoch event"), ([new], "epoch kind event"), ([old, new], "epoch kind event")):
        changed = record(events=events)
        told = words(section(page_of(changed), "events"))
        assert header in told and ("2 memory rows go to a file" in told) == (new in events)
        several = words(section(render(build_runs_page("x", [Run("a-s0", changed)])), "flags"))
        assert ("method kind event seed and epoch" in several) == ("memory rows go to a file 3 at 2" in several)
        assert ("method event seed and epoch" in several) == (events == [old])


def test_reasons_from_beside_the_record_are_told_once_with_their_selections():
    page = page_of(
        record(), RunFiles(no_weights={2: "gone", 4: "gone"}, about_images=[Note("No images: gone.", "missing")])
    )
    assert "No weights of the selection at 2, 4: gone." in page and "No images: gone." in section(page, "images")


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=y>"


def test_whatever_a_record_holds_is_escaped():
    odd = record(
        name=HOSTILE,
        plan=HOSTILE,
        config={"seed": HOSTILE, HOSTILE: {HOSTILE: HOSTILE}},
        environment={"device": HOSTILE, HOSTILE: HOSTILE},
        events=[{"epoch": HOSTILE, "event": HOSTILE}],
        resumes=[{"epoch": 1, "changed": [HOSTILE], "damaged": [HOSTILE]}],
        inputs={HOSTILE: HOSTILE},
        selections=[selection(2, 0.1) | {"solver": HOSTILE}],
        final={"last": final(0.9, 0.7, HOSTILE), "best": final(0.9, 0.7)},
        epochs=[epoch(i, minibatch={HOSTILE: 0.5}) for i in range(3)],
        ledger={HOSTILE: {"forward": 5, "backward": 5, "seconds": 2.0}},
        data={HOSTILE: HOSTILE, "class_counts": [1, 2]},
    )
    galleries = [(HOSTILE, [Example([(HOSTILE, "data:,")], [HOSTILE])])]
    single = page_of(odd, RunFiles(weights={2: [1.0, 2.0]}, about_images=[Note(HOSTILE)], galleries=galleries))
    several = render(build_runs_page(HOSTILE, [Run("a-s0", odd), Run("b-s1", record()), BrokenRun(HOSTILE, HOSTILE)]))
    for page in (single, several):
        assert (
            page.count("<script") == 0
            and page.count("<img") == page.count('<img src="data:')
            and "&lt;script&gt;" in page
        )


def test_how_far_kept_images_are_from_the_boundary_is_drawn_over_epochs():
    radii = [{"n": 8, "flipped": 0.5, "mean": None}, {"n": 8, "flipped": 0.75, "mean": 0.02}]
    epochs = [epoch(i, minibatch={"p_up": 0.5, "radius": radius}) for i, radius in enumerate(radii)]
    page = page_of(record(epochs=epochs))
    assert all(
        f"Minibatch rule: {name}." in page for name in ("p up", "smallest radius that flips", "flipped in the ball")
    )
    assert "flipped in the ball over epochs, from 0.5 to 0.75" in page


def test_a_page_needs_nothing_from_outside(page):
    for one in (page, render(build_runs_page("x", [Run("a-s0", record())]))):
        assert not re.search(r"https?:|url\(|@import|<script|<link rel=\"stylesheet|srcset|\bon[a-z]+=", one)
        assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)"', one))
        assert "default-src 'none'" in one
        assert one.index("prefers-color-scheme") and one.index("@media print")


# ---- pictures ----


def test_a_known_point_stands_where_it_must():
    inside = frame.make_frame((0, 10), (0, 100))
    left, right = inside.x.start, inside.x.end
    assert inside.to_pixels(0, 0) == (left, frame.HEIGHT - 38) and inside.to_pixels(10, 100) == (right, 24)
    assert inside.to_pixels(5, 50) == pytest.approx(((left + right) / 2, (frame.HEIGHT - 38 + 24) / 2))
    line = charts.Line("a", [(0, 0), (5, 50), (10, 100)], 1, dots=True)
    drawn = charts.draw_curves([line], charts.Axes("", "", x_range=(0, 10), zero=True, top=100.0), alt="")
    marks = [tuple(map(float, found)) for found in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawn)]
    (x0, y0), (x1, y1), (x2, y2) = marks
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1) and y1 == pytest.approx((y0 + y2) / 2, abs=0.1)
    assert (y0, y2) == (162, 24)


@pytest.mark.parametrize(
    "drawn",
    [
        "".join(frame.make_frame((0, 10), (0, 100)).draw("x", "y")),
        str(draw_front([Method("one seed", "all data", [0.5], [88.0])], "robust", (340.0, 340.0))),
    ],
    ids=["axes", "front"],
)
def test_no_line_leads_from_a_point_to_itself(drawn):
    lines = re.findall(r'x1="(.*?)" y1="(.*?)" x2="(.*?)" y2="(.*?)"', drawn)
    assert lines and not [line for line in lines if line[:2] == line[2:]]


def test_a_logarithmic_axis_gives_factors_equal_room():
    across = scales.Scale(0.1, 10, 0, 100, log=True)
    assert [round(across(v), 6) for v in (0.1, 1, 10)] == [0, 50, 100]
    assert scales.choose_log_ticks(0.09, 1.1) == [0.1, 0.2, 0.5, 1.0]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 9))
def test_ticks_are_few_round_and_inside(low, wide, most):
    found = scales.choose_ticks(low, low + wide, most)
    slack = 1e-6 * wide + 2 * math.ulp(abs(low) + wide)
    assert len(found) <= most and all(low - slack <= v <= low + wide + slack for v in found)
    assert most < 4 or len(found) >= 1


@given(st.lists(st.floats(0, 100), min_size=1, max_size=6))
def test_labels_at_line_ends_are_moved_apart_in_their_order(wanted):
    placed = scales.separate(wanted, 15, 0, 100)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    gaps = [placed[j] - placed[i] for i, j in zip(order, order[1:], strict=False)]
    assert all(gap >= 15 - 1e-9 for gap in gaps) and max(placed) <= 100 + 1e-9


@given(st.lists(st.tuples(st.floats(0, 300), st.floats(0, 200)), min_size=1, max_size=25))
def test_placed_labels_never_cover_each_other_or_a_point(points):
    labels = svg.Labels((0, 0, 300, 200), taken=[svg.box_around(at, 6) for at in points])
    for i, at in enumerate(points):
        labels.place(at, [f"a long name {i}", str(i)])
    own = labels.taken[len(points) :]
    assert not any(svg.is_overlapping(a, b) for i, a in enumerate(own) for b in labels.taken[: len(points) + i])
    assert all(box[0] >= 0 and box[2] <= 300 and box[1] >= 0 and box[3] <= 200 for box in own)


def test_a_histogram_counts_every_weight_once():
    edges, counts = charts.bin_values([0.0, 0.05, 0.1, 0.55, 1.0])
    assert sum(counts) == 5 and edges[0] == 0 and edges[-1] > 1 and len(counts) <= 30
    assert edges[1] - edges[0] == pytest.approx(0.05) and counts[:3] == [1, 1, 1]
    edges, counts = charts.bin_values([-1.0, 1.0])
    assert sum(counts) == 2 and edges[0] == -1
    assert sum(charts.bin_values([0.0])[1]) == 1


def test_of_many_selections_the_first_and_the_last_are_drawn():
    assert pick_evenly(list(range(20)), 6) == [0, 4, 8, 11, 15, 19] and pick_evenly([1, 2], 6) == [1, 2]


# ---- several runs ----


def method(name: str, cost: float, *robust: float) -> Method:
    return Method(name, "all data", [cost] * len(robust), robust)


def test_the_pareto_front_of_a_hand_worked_case():
    cheap, better, worse, dear, same = (
        method("cheap", 0.1, 30, 32), method("better", 0.3, 40), method("worse", 0.3, 39), method("dear", 1, 40),
        method("same", 0.1, 31),
    )  # fmt: skip
    assert find_front([dear, worse, better, cheap, same]) == [cheap, better]
    assert find_front([method("dear but best", 1, 41), better]) == [better, method("dear but best", 1, 41)]
    assert cheap.accuracy == 31 and cheap.spread == pytest.approx(2**0.5) and better.spread == 0


def test_the_picture_that_matters_names_the_front_and_numbers_the_rest():
    points = [method(f"method {i}", 0.5, 50 + 0.01 * i) for i in range(30)]
    drawn = draw_front(points, "robust accuracy, %", (340, 340))
    assert "On the Pareto front: method 29: 50.3 % at 0.50." in drawn and "method 29</text>" in drawn
    assert drawn.count("<title>") == 30


@pytest.mark.parametrize(("config", "expected"), [
    ({}, "all data"), ({"minibatch": {"name": "margin"}}, "minibatch rule"),
    ({"selection": {"solver": {"name": "random"}}, "minibatch": {"name": "margin"}}, "random subset"),
    ({"selection": {"solver": {"name": "craig"}}}, "chosen coreset"),
])  # fmt: skip
def test_methods_are_told_apart_by_how_they_save(config, expected):
    assert classify_run(config) == expected


def seeded(seed: int, robust: float = 0.7, **config) -> RunRecord:
    chosen = {"seed": seed, "data": {"name": "digits"}, "selection": None, **config}
    return record(config=chosen, relative_cost=0.25, final={"last": final(0.9, robust), "best": final(0.9, robust)})


def test_runs_are_grouped_by_file_name_or_by_settings_without_the_seed():
    named = [Run(f"{name}-s{i}", seeded(i, attack=name)) for name in ("full", "a-s-b") for i in (0, 1)]
    assert {name: len(own) for name, own in group_runs(named).items()} == {"full": 2, "a-s-b": 2}
    folders = [Run("one", seeded(0, selection={"budget": 0.3})), Run("two", seeded(1, selection={"budget": 0.3}))]
    folders += [Run("three", seeded(0, selection={"budget": 0.5}))]
    assert {name: [run.where for run in own] for name, own in group_runs(folders).items()} == {
        "two_moons (selection.budget 0.3)": ["one", "two"],
        "two_moons (selection.budget 0.5)": ["three"],
    }


def test_where_a_run_was_done_and_who_was_told_make_no_other_method():
    here = seeded(0, tracking=[], data={"name": "two_moons", "workers": 0}, device="cpu")
    there = seeded(1, tracking=[{"name": "tensorboard"}], data={"name": "two_moons", "workers": 2}, device="cuda:1")
    assert [len(own) for own in group_runs([Run("one", here), Run("two", there)]).values()] == [2]


def test_a_record_of_an_older_version_that_lacks_a_setting_is_of_the_same_method():
    old, new, none = (seeded(i, training=t) for i, t in enumerate(({"epochs": 3}, {"epochs": 3, "ema": 0.9}, None)))
    found = group_runs([Run("a-s0", old), Run("a-s1", new), Run("a-s2", none)])
    assert [[run.where for run in own] for own in found.values()] == [["a-s0", "a-s1"], ["a-s2"]]


def test_runs_of_other_data_or_attacks_are_not_set_beside_each_other():
    other = seeded(0, data={"name": "mnist"})
    stronger = seeded(1)
    stronger.final["last"]["attacks"] = [attacked(0.6, "linf_pgd") | {"steps": 100}]
    found = split_into_blocks(group_runs([Run("a-s0", seeded(0)), Run("b-s0", other), Run("c-s1", stronger)]))
    assert [list(block.groups) for block in found] == [["a"], ["b"], ["c"]]
    page = render(build_runs_page("x", [Run("a-s0", seeded(0)), Run("b-s0", other)]))
    assert page.count('<section id="front-') == 2 and "mnist, linf 0.1, PGD-50 x 3" in page


def test_data_are_the_same_by_what_they_hold_not_by_where_they_lie():
    """Two machines keep one data set at two places; another file of the same name is other data."""

    def run(name, path, test, train="images 7"):
        one = seeded(0, data={"name": "npz", "path": path})
        one.data = {"hash": {"train": train, "test": test}}
        return Run(f"{name}-s0", one)

    same = [run("a", "/here/x.npz", "images 1"), run("b", "/there/x.npz", "images 1")]
    assert [list(block.groups) for block in split_into_blocks(group_runs(same))] == [["a", "b"]]
    assert "data differ" not in render(build_runs_page("x", same))
    other = run("c", "/there/x.npz", "images 2")
    assert [list(block.groups) for block in split_into_blocks(group_runs([*same, other]))] == [["a", "b"], ["c"]]
    told = "The test data differ, although the settings of the data are the same: a, b (1); c (2)."
    assert told in words(render(build_runs_page("x", [*same, other])))
    streamed = run("d", "/there/x.npz", "images 1", "labels 8")  # a hash of labels says nothing about images
    assert "data differ" not in render(build_runs_page("x", [*same, streamed]))
    older = seeded(0, data={"name": "npz", "path": "/here/x.npz"})
    found = split_into_blocks(group_runs([*same, Run("e-s0", older)]))
    assert [list(block.groups) for block in found] == [["a", "e"], ["b"]]  # without a hash, by where they lie


def test_the_page_of_several_runs_says_what_each_method_reached_and_what_is_missing():
    runs = [Run(f"full-s{i}", seeded(i, 0.70 + 0.02 * i), "full-s0/report.html" if i == 0 else "") for i in range(2)]
    open_one = record(finished=False, final={}, epochs=[epoch(0)], config={"seed": 5})
    flagged = seeded(9)
    flagged.final["last"]["flags"] = ["masked: flat"]
    runs += [Run("half-s5", open_one), BrokenRun("bad-s0", "is not JSON"), Run("odd-s9", flagged)]
    page = render(build_runs_page("study", [*runs, Run("copy/full-s1", runs[1].record)]))
    told = words(page)
    for part in (
        "3 methods, 4 runs, 3 of them finished", "71.0 ± 1.4", "Not finished, so left out of averages: half-s5.",
        "Without a readable record: bad-s0.", "is not JSON", "not finished, epochs done: 1",
        "Found twice, counted once: copy/full-s1 (as full-s1).", "odd masked: flat 9",
    ):  # fmt: skip
        assert part in told, part
    assert '<a href="full-s0/report.html">full-s0</a>' in page


def test_the_front_of_each_checkpoint_is_its_own():
    one, two = seeded(0, 0.7), seeded(0, 0.6, attack=2)
    two.final["best"] = final(0.9, 0.8)
    page = words(render(build_runs_page("x", [Run("a-s0", one), Run("b-s0", two)])))
    last, best = page[page.index("Checkpoint last") :].split("Checkpoint best")
    assert "a front" in last and "b front" not in last and "b front" in best and "a front" not in best


def test_costs_relative_to_different_things_are_flagged():
    other = seeded(0, 0.5, attack={"steps": 3})
    other.reference["units"] = 20_000
    page = render(build_runs_page("x", [Run("a-s0", seeded(0)), Run("b-s0", other)]))
    assert "relative to different references (10,000 passes, 20,000 passes)" in page
    assert "relative to different references" not in render(build_runs_page("x", [Run("a-s0", seeded(0))]))


def test_a_folder_in_which_nothing_is_finished_and_records_that_are_odd():
    page = render(build_runs_page("x", [Run("a", record(finished=False, final={}))]))
    assert "No run is finished yet" in page
    page = render(build_runs_page("x", [Run("a-s0", record(final={"last": {}})), Run("b-s0", record())]))
    assert "its accuracies cannot be read" in page


def test_settings_are_listed_as_in_a_run_file():
    tree = {"a": {"b": 1, "c": {}}, "d": [1, "x"], "e": None}
    assert flatten(tree) == {"a.b": 1, "a.c": {}, "d": [1, "x"], "e": None}
    assert format_settings(tree) == 'a:\n  b: 1\n  c: {}\nd: [1, "x"]\ne: null'


def test_settings_that_are_listed_read_back_bit_for_bit_and_radii_as_fractions():
    attacks = [{"name": "linf_pgd", "eps": 8 / 255, "step_size": 2 / 255}, {"name": "a: b", "eps": 0.1234567}]
    tree = {"attack": {"eps": 8 / 255, "step_size": None}, "evaluation": {"attacks": attacks}, "data": [{"0: x": [1]}]}
    text = format_settings(tree)
    assert "  eps: 8/255\n" in text and '"step_size": 2/255' in text and "0.1234567" in text
    assert parse(text, "page") == tree


def test_radii_and_steps_are_shown_as_they_were_written():
    told = record()
    told.final["last"] = final(0.9, 0.5)
    told.final["last"]["attacks"][0] |= {"eps": 8 / 255, "step_size": 0.5 / 255}
    page = render(build_run_page(told, RunFiles()))
    assert "linf 8/255, PGD-50 x 3" in page and "<td>0.5/255</td>" in page and "0.03137" not in page
    page = render(build_runs_page("x", [Run("a-s0", told), Run("b-s0", told)]))
    assert "linf 8/255, PGD-50 x 3 in steps of 0.5/255" in page and "0.03137" not in page


def test_methods_that_differ_in_their_radius_are_named_by_it_as_it_was_written():
    runs = []
    for eps in (8 / 255, 0.1):
        told = record()
        told.config["attack"] = {"name": "linf_pgd", "eps": eps}
        runs.append(Run(f"folder/{eps}/a-s0", told))
    assert list(group_runs(runs)) == ["a (attack.eps 8/255)", "a (attack.eps 0.1)"]


def test_a_table_says_which_cells_are_headers():
    page = render(Page("t", "s", sections=[Section("x", "x", [Table("c", ("a", "b"), [("1", "2")])])]))
    assert '<th scope="col" class="words">a</th><th scope="col">b</th>' in page
    assert '<th scope="row" class="words">1</th><td>2</td>' in page


def of(seed: int, where: str, robust: float = 0.7, **more) -> Run:
    config = {**record().config, "seed": seed, **more.pop("config", {})}
    return Run(where, record(config=config, final={"last": final(0.9, robust), "best": final(0.9, robust)}, **more))


def test_a_seed_that_was_run_twice_counts_once_in_the_mean():
    runs = [of(0, "first", 0.70), of(0, "second", 0.71), of(1, "third", 0.72)]
    page = render(build_runs_page("x", runs))
    (block,) = split_into_blocks(group_runs(runs))
    assert [len(own) for own in block.groups.values()] == [2]
    assert "left out of averages: second (as first)." in page and "71.0 ± 1.4" in page


def test_no_method_is_lost_where_what_sets_it_apart_is_too_long_for_its_name():
    long = [{"attacks": [{"name": "linf_pgd", "told": "x" * 200, "steps": i}]} for i in range(3)]
    found = group_runs([of(0, f"{i}/full-s0", config={"evaluation": one}) for i, one in enumerate(long)])
    assert [len(own) for own in found.values()] == [1, 1, 1]


def test_a_record_that_knows_less_does_not_join_two_methods():
    old = {key: value for key, value in record().config.items() if key != "selection"}
    runs = [Run("old", record(config={**old, "seed": 0}))]
    runs += [of(seed, f"r{seed}", config={"selection": {"budget": seed / 10}}) for seed in (1, 2)]
    runs[0].record.config["selection"] = {"solver": {"name": "gradmatch"}}
    assert sorted(len(own) for own in group_runs(runs).values()) == [1, 2]


def test_runs_judged_on_other_numbers_of_images_or_by_other_steps_are_not_set_beside_each_other():
    def run(where, **how):
        last = {"clean": entry(0.9), "attacks": [attacked(0.6) | how], "flags": []}
        return Run(where, record(name=where, final={"last": last, "best": last}))

    assert len(split_into_blocks(group_runs([run("a"), run("b")]))) == 1
    apart = split_into_blocks(group_runs([run("a"), run("b", n=100), run("c", step_size=0.001)]))
    assert (
        len(apart) == 3 and "100 under linf 0.1, PGD-50 x 3" in apart[1].conditions and "0.001" in apart[2].conditions
    )


ODD = [
    {"epochs": [{}]},
    {"final": {"last": 3, "best": {}}},
    {"final": {"last": {}}},
    {"config": {"seed": 0, "selection": {"solver": 3}}},
]


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_record_takes_nothing_from_the_others(odd):
    page = render(build_runs_page("x", [of(0, "good-s0"), Run("bad-s0", record(name="bad", **odd))]))
    assert "does not hold what belongs here" not in page
    for name, told in (("learning", "good"), ("flags", "Events"), ("runs", "good-s0"), ("runs", "bad-s0")):
        assert told in words(section(page, name))
    assert ("left out of averages: its accuracies cannot be read" in page) == ("epochs" not in odd)


def test_of_several_attacks_all_of_them_together_come_first():
    last = final(0.9, 0.6) | {"attacks": [attacked(0.6), attacked(0.3, "l2_pgd")], "worst": entry(0.28)}
    top = words(page_of(record(final={"last": last, "best": last})).partition("<main>")[0])
    assert "robust accuracy, all 2 attacks 28.0 %" in top and "60.0 %" not in top


def test_a_deviation_beyond_an_accuracy_of_one_stays_inside_the_picture():
    points = [Method("a", "all data", [0.5, 0.5], [88.0, 100.0])]
    drawn = str(draw_front(points, "robust", (340.0, 340.0)))
    assert min(float(y) for y in re.findall(r'y[12]="(-?[\d.]+)"', drawn)) >= 24
