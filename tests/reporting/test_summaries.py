"""What a page says first: titles, sentences that can be read out, and what to bear in mind."""

import pytest
from reporting.test_report import attacked, entry, final, record, seeded, selection, words

from advcore.reporting import comparison, summary, titles
from advcore.reporting.page import render
from advcore.reporting.parts import Example, Folded, Gallery, Note, Page, Section, Table
from advcore.reporting.run_page import RunFiles, build_run_page
from advcore.reporting.suite import Results, build_tables
from advcore.reporting.suite_page import build_suite_page
from advcore.reporting.tables import list_closing_rows


@pytest.mark.parametrize(("name", "title"), [
    ("gradmatch-pgd-2-remembered", "GradMatch PGD-2 remembered"), ("fgsm-mep", "FGSM-MEP"), ("full", "full"),
    ("preact_resnet18", "PreAct ResNet-18"), ("timm:resnet26", "timm:resnet26"), ("fewer steps (PGD-4)",) * 2,
    ("random-static-60-no-warm-start", "random static 60 no warm start"), ("cifar10", "CIFAR-10"),
])  # fmt: skip
def test_slugs_become_titles_and_other_names_stay(name, title):
    assert titles.write_title(name) == title


def test_methods_whose_titles_would_be_equal_keep_their_names():
    assert titles.write_titles(["a-b", "a_b", "rcs"]) == {"a-b": "a-b", "a_b": "a_b", "rcs": "RCS"}


def _settings(**changes) -> dict:
    return {**record().config, **changes}


@pytest.mark.parametrize(("config", "title"), [
    (_settings(), "TRADES on 50 % of digits, chosen by GradMatch"),
    (_settings(selection={"solver": {"name": "random"}}), "TRADES on a random 50 % of digits"),
    (_settings(selection=None, objective={"name": "pgd"}), "Adversarial training on digits"),
    (_settings(selection=None, minibatch={"name": "infobatch"}), "TRADES on digits, with the minibatch rule InfoBatch"),
])  # fmt: skip
def test_a_run_has_a_title_from_its_settings(config, title):
    assert titles.name_run(record(config=config), 0.5) == title


def test_a_summary_says_what_was_trained_what_it_cost_and_how_robust_it_is():
    assert summary.write_sentences(record()) == [
        "This run trained the small CNN model on digits with TRADES for 6 epochs: 2 on all data, then 4 on the 50 % "
        "that GradMatch chose.",
        "It cost 54.7 % of the passes of full training (6 epochs, 10 attack steps).",
        "Under attack (linf 0.1, PGD-50 x 3) it classifies 70.3 % of 400 test images correctly (95 % interval: 67.3 to "
        "72.3); without an attack, 91.2 %.",
    ]
    last = final(0.9, 0.6) | {"attacks": [attacked(0.6), attacked(0.3, "l2_pgd")], "worst": entry(0.28)}
    several = summary.write_sentences(record(final={"last": last, "best": last}))
    assert "Under attack (all 2 attacks) it classifies 28.0 %" in several[2]
    clean = final(0.9, 0.6) | {"attacks": []}
    assert summary.write_sentences(record(final={"last": clean}))[2].endswith("correctly; it was not attacked.")
    unfinished = summary.write_sentences(record(final={}, finished=False))
    assert len(unfinished) == 2 and unfinished[1].endswith("so far.")
    assert summary.write_sentences(record(config={}, reference={}, final={})) == []


def test_what_to_bear_in_mind_is_in_the_record():
    def read(**changes):
        return [(note.kind, note.text) for note in summary.list_cautions(record(**changes))]

    assert read(events=[]) == [
        ("good", "All reliability checks passed."),
        ("plain", "AutoAttack was not run: a stronger attack may lower the robust accuracy."),
        ("plain", "One seed: intervals cover the choice of test images, not the variation over seeds."),
    ]
    assert ("warning", "1 event; see the section on events.") in read()
    flagged = {"last": final(0.9, 0.7, "masked: flat"), "best": final(0.9, 0.7)}
    assert read(final=flagged)[0] == (
        "flag",
        "1 flag, shown above: do not trust the accuracies until each is explained.",
    )
    assert "good" not in dict(read(final=flagged))
    switched_off = ("warning", "The reliability checks were switched off.")
    assert switched_off in read(config={"evaluation": {"checks": False}})
    weak = ("warning", "In 1 of 2 selections, the gradient error is not below that of random subsets.")
    assert weak in read(selections=[selection(2, 0.05), selection(4, 0.72)])
    overfitting = {"last": final(0.9, 0.6), "best": final(0.9, 0.7)}
    assert any(text.startswith("Robust overfitting") for _, text in read(final=overfitting))
    assert not any(text.startswith("Robust overfitting") for _, text in read())
    complete = final(0.9, 0.6)
    complete["attacks"].append(attacked(0.55, "autoattack") | {"version": "standard"})
    complete["worst"] = entry(0.5)
    assert not any("AutoAttack" in text for _, text in read(final={"last": complete, "best": complete}))
    busy = ("plain", "Seconds cannot be compared: other processes were using the machine.")
    assert busy in read(environment={"load_warning": "3 on 2 cores"})


def test_the_table_that_ends_a_run_names_radii_as_written_and_equal_checkpoints_once():
    last = final(0.9, 0.7)
    last["attacks"][0] |= {"eps": 8 / 255}
    names = [row[0] for row in list_closing_rows(record(final={"last": last, "best": last}))]
    assert names[:2] == ["last and best: clean, % of 400", "last and best: robust, % (linf 8/255, PGD-50 x 3)"]
    names = [row[0] for row in list_closing_rows(record())]
    assert [name.split(":")[0] for name in names[:4]] == ["last", "last", "best", "best"]


def _groups(*robust: float) -> dict:
    """Return a dear method on all data and a cheap one, with a seed for each of the robust accuracies."""
    groups = {"full": [seeded(i, share) for i, share in enumerate(robust)]}
    groups["cheap"] = [seeded(i, share - 0.05 - 0.001 * i, attack={"steps": 2}) for i, share in enumerate(robust)]
    for one in groups["full"]:
        one.relative_cost = 1.0
    return groups


def test_a_comparison_says_what_is_best_what_is_cheap_and_what_is_chance():
    sentences = comparison.write_sentences(_groups(0.70, 0.71, 0.72), "full")
    assert sentences == [
        "This page compares 2 methods on digits: 6 runs with seeds 0-2, tested on 400 images under linf 0.1, "
        "PGD-50 x 3.",
        "The most robust is full, with 71.0 ± 1.0 % robust accuracy at 100.0 % of the passes of full training. The "
        "cheapest on the Pareto front is cheap, with 65.9 ± 0.9 % robust accuracy at 25.0 %.",
        "Of 1 tested difference, 1 is beyond chance: cheap is below full.",
    ]
    level = _groups(0.70, 0.71, 0.72)
    level["cheap"] = [seeded(i, share) for i, share in enumerate((0.75, 0.66, 0.72))]
    assert comparison.write_sentences(level, "full")[2].startswith("Of 1 tested difference, none is beyond chance")
    alone = comparison.write_sentences({"full": level["full"]}, "full")
    assert alone[1].endswith("at 100.0 % of the passes of full training; it is alone on the Pareto front.")
    single = _groups(0.70)
    assert comparison.write_sentences(single, "full")[2] == "No difference can be tested."
    assert any(note.text.startswith("One run per method") for note in comparison.list_cautions(single))


def test_a_suites_page_has_a_picture_whose_numbers_are_the_tables():
    results = Results(reference="full")
    for name, records in _groups(0.70, 0.71, 0.72).items():
        for i, one in enumerate(records):
            results.add(name, i, one)
    results.add("lost", 0, None, error="loss is nan")
    page = render(build_suite_page("A title", build_tables(results, "A title"), results))
    told = words(page[page.index("<body>") :])
    top = told[: told.index("Robust accuracy over cost")]
    for part in (
        "A title 3 methods, 7 runs, 6 of them finished.", "This page compares 2 methods on digits",
        "Of 1 tested difference, 1 is beyond chance", "Runs without a result: 1 failed.", "No evaluation has a flag.",
    ):  # fmt: skip
        assert part in top, part
    order = ['id="front-0"', 'id="checkpoint-last"', 'id="checkpoint-best"', 'id="differences-checkpoint-last"']
    assert [page.index(part) for part in order] == sorted(map(page.index, order))
    assert "1. full 3" in told and "2. cheap 3" in told and "lost, seed 0: failed: loss is nan" in told
    assert told.count("Speed-ups are relative to full.") == 1  # a note that two tables share stands once
    assert '<td class="below">below</td>' in page


def test_a_suite_without_any_record_has_a_page_that_says_so():
    results = Results(reference="full")
    results.add("full", 0, None)
    told = words(render(build_suite_page("t", build_tables(results, "t"), results)))
    assert "Runs without a result: 1 missing" in told and "No run has finished." in told


def test_hashes_and_settings_are_folded():
    page = render(build_run_page(record(data={"hash": {"train": "images ab12"}}), RunFiles()))
    for secret in ("ab12", "abc123", "speed.fused", "budget: 0.5"):
        before = page[: page.index(secret)]
        assert before.rindex("<details>") > before.rfind("</details>"), secret
    assert "<details open" not in page


def test_a_gallery_shows_its_first_examples_and_folds_the_rest():
    examples = [Example([("as it is", "data:,")], [f"Class {i}"]) for i in range(5)]
    assert [len(part) for part in (Gallery("x", examples).first, Gallery("x", examples).rest)] == [3, 2]
    page = words(render(build_run_page(record(), RunFiles(galleries=[("Highest weights", examples)]))))
    assert page.index("Class 2") < page.index("2 more: highest weights") < page.index("Class 3")


def test_folded_tables_and_notes_are_escaped():
    folded = Folded("<b>", [Table("<i>", ("a", "b"), [("<u>", "1")]), Note("<s>")])
    page = render(Page("t", "s", summary=["<em>"], cautions=[Note("<q>")], sections=[Section("x", "x", [folded])]))
    assert not any(tag in page for tag in ("<b>", "<i>", "<u>", "<s>", "<em>", "<q>")) and "&lt;q&gt;" in page
