"""A record to the README.md of an exported model, in the Hugging Face layout; pure."""

import json
from collections.abc import Iterable
from typing import Any

from advcore.errors import counted
from advcore.pixels import format_exactly, format_pixels
from advcore.reporting.record import RunRecord
from advcore.reporting.tables import attack_label, data_name, markdown, percent, reference_told, together

_CITATION = """@inproceedings{dolatabadi2022robustness,
  title     = {l-infinity-Robustness and Beyond: Unleashing Efficient Adversarial Training},
  author    = {Dolatabadi, Hadi M. and Erfani, Sarah and Leckie, Christopher},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year      = {2022}
}"""


def card(record: RunRecord, which: str, epoch: int, facts: dict[str, Any]) -> str:
    """The page of a run's checkpoint.

    facts : of the export: `shape`, `num_classes`, `needs` (packages that loading takes), `samples` and `coresets` (how
    many), `standalone` (whether there is a model.py).
    """
    final = record.final.get(which) if measured(record, which, epoch) else None
    parts = [
        _front(record, final),
        f"# {record.name}",
        _what(record, which, epoch, facts),
        _threat(record),
        _accuracy(record, final, epoch),
        _training(record),
        _loading(record, facts),
        _files(facts),
        "## Citation\n\nThe method, where the model was trained on coresets; add the solver's own paper:\n\n"
        f"```bibtex\n{_CITATION}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def measured(record: RunRecord, which: str, epoch: int) -> bool:
    """Whether the record's final accuracies are of this state: not while a run goes on, or before it has ended."""
    if not record.finished or which not in record.final or not record.epochs:
        return False
    last = record.epochs[-1]["epoch"]
    return epoch == (last if which == "last" or record.best_epoch is None else record.best_epoch)


def _front(record: RunRecord, final: dict | None) -> str:
    """The metadata: each value as JSON, which is YAML too."""
    tags = ["adversarial-training", "adversarial-robustness", "image-classification"]
    lines = {"library_name": "pytorch", "pipeline_tag": "image-classification"}
    lines["tags"] = [*tags, "coreset"] if record.selections else tags
    if final:
        metrics = [{"type": "accuracy", "name": "clean accuracy", "value": final["clean"]["accuracy"]}]
        metrics += [
            {"type": "accuracy", "name": f"robust accuracy ({attack_label(one)})", "value": one["accuracy"]}
            for one in final["attacks"]
        ]
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"name": f"{data_name(record)}, test split", "type": record.config["data"]["name"]},
            "metrics": metrics,
        }
        lines["model-index"] = [{"name": record.name, "results": [result]}]
    return "---\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in lines.items()) + "---"


def _what(record: RunRecord, which: str, epoch: int, facts: dict[str, Any]) -> str:
    network = record.config["model"]["name"]
    shape = " x ".join(map(str, facts["shape"]))
    state = f"the state `{which}`, after epoch {epoch + 1}"
    return (
        f"`{network}` for {data_name(record)}: float images {shape} in [0, 1] to {facts['num_classes']} logits, with "
        f"the normalisation inside. Objective: {_settings(record.config['objective'])}. This is {state} of a run of "
        f"advcore {record.environment.get('advcore', '')} with seed {record.config['seed']}."
    )


def _settings(one: dict | None) -> str:
    if one is None:
        return "none"
    rest = ", ".join(f"{key} {_short(value)}" for key, value in one.items() if key != "name" and value is not None)
    return f"`{one['name']}`" + (f" ({rest})" if rest else "")


def _short(value: Any) -> str:
    if not isinstance(value, float):
        return str(value).rpartition("/")[2]
    return format_exactly(value) or f"{value:.6g}"


def _threat(record: RunRecord) -> str:
    attack = record.config["attack"]
    if attack is None:
        return "## Threat model\n\nTrained without an attack: no robustness is to be expected."
    units = "pixels in [0, 1]" if _norm(attack) else "its own"
    return (
        f"## Threat model\n\nTrained against {_settings(attack)}, in units of {units}. Other norms, "
        "larger balls, and changes such as rotation or blur are not covered."
    )


def _accuracy(record: RunRecord, final: dict | None, epoch: int) -> str:
    if final is None:
        return _unfinished(record, epoch)
    entries = [("clean", final["clean"]), *((attack_label(one), one) for one in final["attacks"])]
    if worst := together(final):
        entries.append(("all of these at once", worst))
    rows = [
        (
            name,
            percent(one["accuracy"]),
            f"{percent(one['interval'][0])} to {percent(one['interval'][1])}",
            str(one["n"]),
        )
        for name, one in entries
    ]
    table = markdown(("on the test set", "accuracy, %", "95 % interval", "images"), rows)
    upper = "A robust accuracy is an upper bound: a stronger attack can only lower it."
    flags, looked = final.get("flags", ()), record.config.get("evaluation", {}).get("checks", True)
    told = (
        "What makes these numbers untrustworthy:\n\n" + _bullets(flags)
        if flags
        else "The built-in checks found nothing."
        if looked
        else "The built-in checks were switched off."
    )
    return f"## Accuracy\n\n{table}\n\n{upper} {_how(final['attacks'])}\n\n{told}"


def _how(attacks: Iterable[dict]) -> str:
    told = [
        f"{attack_label(one)}: step size {format_pixels(one['step_size'])}, seed {one['seed']}"
        for one in attacks
        if one.get("step_size")
    ]
    return ("; ".join(told) + ".") if told else ""


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _unfinished(record: RunRecord, epoch: int) -> str:
    """Of a run that is not at its end, what its epochs were judged by."""
    entry = next((one for one in record.epochs if one["epoch"] == epoch), {})
    rows = [
        (name, percent(entry[key]))
        for name, key in (("clean", "clean"), ("robust", "robust"))
        if entry.get(key) is not None
    ]
    told = (
        "**The run is not finished: this is a state on its way, and nothing was measured on the test set.**"
        if not record.finished
        else "**The final accuracies are not of this state.**"
    )
    if not rows:
        return f"## Accuracy\n\n{told}"
    probe = " On validation images, by the probe that chooses `best`:\n\n"
    return f"## Accuracy\n\n{told}{probe}{markdown(('probe', 'accuracy, %'), rows)}"


def _training(record: RunRecord) -> str:
    config, training = record.config, record.config["training"]
    device, chosen = record.environment.get("device", "a machine"), record.config.get("selection")
    errors = [one for one in record.selections if one.get("gradient_error") is not None]
    own = ", ".join(f"{one['gradient_error']:.3f} ({one['gradient_error_random']:.3f})" for one in errors)
    lines = [
        f"plan: {record.plan}",
        f"relative cost: {record.relative_cost:.3f} of full training ({_reference(record)})",
        chosen
        and f"coresets: {_settings(chosen['solver'])}, partition `{chosen['partition']}`, budget {chosen['budget']}",
        own and f"gradient error of each selection (and of random subsets): {own}",
        f"minibatch rule: {_settings(config['minibatch'])}" if config.get("minibatch") else None,
        f"optimiser: {_settings(training['optimizer'])}; learning rate: {_settings(training['lr_schedule'])}",
        f"attack steps by epoch: {_settings(training['attack_steps'])}" if training.get("attack_steps") else None,
        f"the weights are a moving average, decay {training['ema']}" if training.get("ema") is not None else None,
        f"batch size {training['batch_size']}; {record.seconds:.0f} s on {device}",
        *(f"event at epoch {one['epoch']}: {one['event']}" for one in record.events),
    ]
    return f"## Training\n\n{_bullets(filter(None, lines))}\n\nAll settings are in `config.json`, under `run`."


def _reference(record: RunRecord) -> str:
    reference = record.reference
    if not reference:
        return "unknown reference"
    return reference_told(reference)


_BENCHMARKS = {"cifar10": (3, 32, 32, 10), "cifar100": (3, 32, 32, 100), "imagenet": (3, 224, 224, 1000)}
"""RobustBench's data sets by name, with their shape and number of classes."""
_PIXELS = {"linf": "Linf", "l2": "L2", "l1": "L1", "n": "Linf"}
"""The norm of attacks whose eps is in units of pixels, by how their names begin (n_fgsm)."""


def _norm(attack: dict) -> str | None:
    return _PIXELS.get(str(attack.get("name")).partition("_")[0])


def _loading(record: RunRecord, facts: dict[str, Any]) -> str:
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

`python model.py` compares what your machine computes with what was exported. {_benchmark(record, facts)}"""


def _benchmark(record: RunRecord, facts: dict[str, Any]) -> str:
    """How RobustBench's evaluator is called, where it knows such data."""
    told = "RobustBench's evaluator takes the model as it is"
    name, attack = data_name(record).rpartition(" ")[2], record.config["attack"] or {}
    norm = _norm(attack)
    if _BENCHMARKS.get(name) != (*facts["shape"], facts["num_classes"]):
        return f"{told}; it has no such data of its own."
    if norm not in ("Linf", "L2"):
        return f"{told}; it has no threat model of this kind."
    eps = format_exactly(attack["eps"]) or f"{attack['eps']:.10g}"
    call = f'benchmark(load(), dataset="{name}", threat_model="{norm}", eps={eps})'
    return f"""{told}:

```python
from robustbench.eval import benchmark

{call}
```"""


def _files(facts: dict[str, Any]) -> str:
    lines = [
        "`model.safetensors`: weights and buffers",
        "`config.json`: the network, its input, all settings, accuracies",
    ]
    if facts["standalone"]:
        lines.append("`model.py`: network and loader")
    lines.append("`check-noise.safetensors`: random images and the logits that belong to them")
    if facts["samples"]:
        lines.append(f"`check-samples.safetensors`: {counted(facts['samples'], 'test image')} with labels and logits")
    if facts["coresets"]:
        lines.append(
            f"`coresets/`: {counted(facts['coresets'], 'coreset')}: indices into the training set as it was read, "
            "weights, and the data's fingerprint"
        )
    return f"## Files\n\n{_bullets(lines)}"
