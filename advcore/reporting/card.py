"""The README.md of an exported model, in the layout of Hugging Face model cards, from its record; pure functions."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path

from advcore.errors import format_count
from advcore.pixels import format_exactly, format_pixels
from advcore.reporting.costs import list_units
from advcore.reporting.record import JsonObject, RunRecord
from advcore.reporting.tables import (
    describe_reference,
    format_interval,
    format_percent,
    list_robust_entries,
    name_attack,
    name_contents,
    name_data,
    to_markdown,
)

_CITATION = """@inproceedings{dolatabadi2022robustness,
  title     = {l-infinity-Robustness and Beyond: Unleashing Efficient Adversarial Training},
  author    = {Dolatabadi, Hadi M. and Erfani, Sarah and Leckie, Christopher},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year      = {2022}
}"""

_TAGS = ("adversarial-training", "adversarial-robustness", "image-classification")


def write_card(record: RunRecord, which: str, epoch: int, facts: JsonObject) -> str:
    """Return the model card of a checkpoint, "last" or "best", after an epoch that is counted from 0.

    facts : about the export: `shape` and `num_classes`, `needs` (the packages that loading takes), the numbers of
    `samples` and `coresets`, and `standalone` (whether there is a model.py).
    """
    final = record.final.get(which) if is_measured(record, which, epoch) else None
    parts = [
        *_write_metadata(record, final),
        f"# {record.name}",
        _describe_model(record, which, epoch, facts),
        _describe_threat(record),
        _describe_accuracy(record, final) if final else _describe_unmeasured(record, epoch),
        _describe_training(record),
        _describe_loading(record, facts),
        _list_files(facts),
        "## Citation\n\nThe method, where the model was trained on coresets; add the solver's own paper:\n\n"
        f"```bibtex\n{_CITATION}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def is_measured(record: RunRecord, which: str, epoch: int) -> bool:
    """Return whether the final accuracies of a record belong to the state of a checkpoint after an epoch.

    They do not while the run goes on, nor to a checkpoint of before its end.
    """
    if not record.finished or which not in record.final or not record.epochs:
        return False
    if which == "best" and record.best_epoch is not None:
        return epoch == record.best_epoch
    return epoch == record.epochs[-1]["epoch"]


def can_write_metadata() -> bool:
    """Return whether the package is there that writes a card's metadata."""
    return importlib.util.find_spec("huggingface_hub") is not None


def _write_metadata(record: RunRecord, final: JsonObject | None) -> list[str]:
    """Return the metadata as the hub reads it, with one result for each attack; nothing without the hub's package."""
    if not can_write_metadata():
        return []
    from huggingface_hub import EvalResult, ModelCardData

    results = []
    for name, entry in _list_results(final):
        results.append(
            EvalResult(
                task_type="image-classification",
                dataset_type=record.config["data"]["name"],
                dataset_name=name_data(record),
                dataset_split="test",
                metric_type="accuracy",
                metric_name=f"{name}, {format_count(entry['n'], 'image')}",
                metric_value=entry["accuracy"],
            )
        )
    data = ModelCardData(
        model_name=record.name,
        library_name="pytorch",
        pipeline_tag="image-classification",
        tags=[*_TAGS, *(["coreset"] * bool(record.selections))],
        eval_results=results or None,
    )
    return [f"---\n{data.to_yaml()}\n---"]


def _list_results(final: JsonObject | None) -> list[tuple[str, JsonObject]]:
    """Return the clean and each robust accuracy with a name; none where none were measured."""
    if not final:
        return []
    robust = [(f"robust accuracy ({name_attack(attack)})", attack) for attack in final["attacks"]]
    return [("clean accuracy", final["clean"]), *robust]


def _describe_model(record: RunRecord, which: str, epoch: int, facts: JsonObject) -> str:
    shape = " x ".join(map(str, facts["shape"]))
    return (
        f"`{record.config['model']['name']}` for {name_data(record)}: float images {shape} in [0, 1] to "
        f"{facts['num_classes']} logits, with the normalisation inside. Objective: "
        f"{_format_method(record.config['objective'])}. This is the state `{which}`, after epoch {epoch + 1} of a "
        f"run of advcore {record.environment.get('advcore', '')} with seed {record.config['seed']}."
    )


def _format_method(settings: JsonObject | None) -> str:
    """Write the name of a method with its settings: "`trades` (beta 6)"."""
    if settings is None:
        return "none"
    rest = ", ".join(
        f"{key} {_format_value(value)}" for key, value in settings.items() if key != "name" and value is not None
    )
    return f"`{settings['name']}`" + (rest and f" ({rest})")


def _format_value(value: object) -> str:
    """Write a setting: of a path its last part, of a radius in pixels a fraction of 255."""
    if not isinstance(value, float):
        return str(value).rpartition("/")[2]
    return format_exactly(value) or f"{value:.6g}"


def _describe_threat(record: RunRecord) -> str:
    attack = record.config["attack"]
    if attack is None:
        return "## Threat model\n\nTrained without an attack: no robustness is to be expected."
    units = "pixels in [0, 1]" if find_norm(attack) else "its own"
    return (
        f"## Threat model\n\nTrained against {_format_method(attack)}, in units of {units}. Other norms, "
        "larger balls, and changes such as rotation or blur are not covered."
    )


# ---- accuracy ----


def _describe_accuracy(record: RunRecord, final: JsonObject) -> str:
    rows = [
        (name, format_percent(entry["accuracy"]), format_interval(entry), str(entry["n"]))
        for name, entry in (("clean", final["clean"]), *list_robust_entries(final, "all of these at once"))
    ]
    table = to_markdown(("on the test set", "accuracy, %", "95 % interval", "images"), rows)
    steps = "; ".join(
        f"{name_attack(attack)}: step size {format_pixels(attack['step_size'])}, seed {attack['seed']}"
        for attack in final["attacks"]
        if attack.get("step_size")
    )
    upper = f"A robust accuracy is an upper bound: a stronger attack can only lower it. {steps and f'{steps}.'}"
    return f"## Accuracy\n\n{table}\n\n{upper}\n\n{_describe_checks(record, final)}"


def _describe_checks(record: RunRecord, final: JsonObject) -> str:
    if final.get("flags"):
        return "Reasons not to trust these numbers:\n\n" + _list_items(final["flags"])
    if record.config.get("evaluation", {}).get("checks", True):
        return "The built-in checks found nothing."
    return "The built-in checks were switched off."


def _list_items(lines: Iterable[object]) -> str:
    """Write the lines of a list. What is not a line, because its condition does not hold, is left out."""
    return "\n".join(f"- {line}" for line in lines if line)


def _describe_unmeasured(record: RunRecord, epoch: int) -> str:
    reason = "**The final accuracies are not of this state.**"
    if not record.finished:
        reason = "**The run is not finished: this is an intermediate state, and nothing was measured on the test set.**"
    entry = next((entry for entry in record.epochs if entry["epoch"] == epoch), {})
    rows = [(name, format_percent(entry[name])) for name in ("clean", "robust") if entry.get(name) is not None]
    if not rows:
        return f"## Accuracy\n\n{reason}"
    table = to_markdown(("probe", "accuracy, %"), rows)
    return f"## Accuracy\n\n{reason} On validation images, by the probe that chooses `best`:\n\n{table}"


# ---- training ----


def _describe_training(record: RunRecord) -> str:
    config = record.config
    training = config["training"]
    device = record.environment.get("device", "a machine")
    reference = record.reference and describe_reference(record.reference)
    selection = config.get("selection")
    weights = config["model"].get("weights")
    name = record.inputs.get("model.weights.name", Path(weights or "").name)
    pool = config["data"].get("pool")
    errors = [
        f"{entry['gradient_error']:.3f} ({entry['gradient_error_random']:.3f})"
        for entry in record.selections
        if entry.get("gradient_error") is not None
    ]
    lines = [
        f"plan: {record.plan}",
        weights and f"started from trained weights: `{name}`, whose own training is in none of these costs",
        pool
        and f"{100 * pool['share']:g} % of each batch from a pool of {record.data['pool']:,} images, "
        f"`{Path(pool['path']).name}`",
        *(
            f"{unit.title}: {unit.compare(record):.3f} of full training ({reference or 'unknown reference'})"
            for unit in list_units(record)
        ),
        selection
        and f"coresets: {_format_method(selection['solver'])}, partition `{selection['partition']}`, "
        f"budget {selection['budget']}",
        errors and f"gradient error of each selection (and of random subsets): {', '.join(errors)}",
        config.get("minibatch") and f"minibatch rule: {_format_method(config['minibatch'])}",
        f"optimiser: {_format_method(training['optimizer'])}; learning rate: {_format_method(training['lr_schedule'])}",
        training.get("regularizer") and f"regulariser: {_format_method(training['regularizer'])}",
        training.get("attack_steps") and f"attack steps by epoch: {_format_method(training['attack_steps'])}",
        training.get("ema") is not None and f"the weights are a moving average, decay {training['ema']}",
        training.get("swa") and f"from {training['swa']['start']} of the run on, the weights are an average of epochs",
        f"batch size {training['batch_size']}; {record.seconds:.0f} s on {device}",
        *(f"event at epoch {entry['epoch']}: {entry['event']}" for entry in record.events),
    ]
    return f"## Training\n\n{_list_items(lines)}\n\nAll settings are in `config.json`, under `run`."


# ---- loading ----

# The data sets of RobustBench by name, with their shape and number of classes.
_BENCHMARKS = {"cifar10": (3, 32, 32, 10), "cifar100": (3, 32, 32, 100), "imagenet": (3, 224, 224, 1000)}
# The norm of attacks whose eps is in units of pixels, by the first word of their name ("n" of n_fgsm).
_PIXELS = {"linf": "Linf", "l2": "L2", "l1": "L1", "n": "Linf", "fgsm": "Linf"}


def find_norm(attack: JsonObject) -> str | None:
    """Return the norm of an attack whose eps is in units of pixels; None of any other attack."""
    return _PIXELS.get(str(attack.get("name")).partition("_")[0])


def _describe_loading(record: RunRecord, facts: JsonObject) -> str:
    if not facts["standalone"]:
        return (
            "## Loading\n\n`model.safetensors` is the state dict of the network that advcore builds from `run` in "
            "`config.json`: `advcore evaluate FILE --checkpoint model.safetensors`, with those settings as FILE."
        )
    needs = ", ".join(("torch", *facts["needs"]))
    return f"""## Loading

With {needs} and safetensors, and without advcore; no file holds a pickle:

```python
from model import load  # in this folder

model = load()  # eval mode; images in [0, 1], logits out
```

`python model.py` compares what your machine computes with what was exported. {_describe_benchmark(record, facts)}"""


def _describe_benchmark(record: RunRecord, facts: JsonObject) -> str:
    intro = "RobustBench's evaluator takes the model as it is"
    name = name_contents(record.config)
    attack = record.config["attack"] or {}
    norm = find_norm(attack)
    if _BENCHMARKS.get(name) != (*facts["shape"], facts["num_classes"]):
        return f"{intro}; it has no such data."
    if norm not in ("Linf", "L2"):
        return f"{intro}; it has no threat model of this kind."
    eps = format_exactly(attack["eps"]) or f"{attack['eps']:.10g}"
    return f"""{intro}:

```python
from robustbench.eval import benchmark

benchmark(load(), dataset="{name}", threat_model="{norm}", eps={eps})
```"""


def _list_files(facts: JsonObject) -> str:
    samples = f"{format_count(facts['samples'], 'test image')} with labels and logits"
    coresets = f"{format_count(facts['coresets'], 'coreset')}: indices into the training set as it was read, weights"
    lines = [
        "`model.safetensors`: weights and buffers",
        "`config.json`: the network, its input, all settings, accuracies",
        facts["standalone"] and "`model.py`: network and loader",
        "`check-noise.safetensors`: random images and their logits",
        facts["samples"] and f"`check-samples.safetensors`: {samples}",
        facts["coresets"] and f"`coresets/`: {coresets}, and the data's fingerprint",
    ]
    return f"## Files\n\n{_list_items(lines)}"
