"""Weights that timm, torchvision or the Hugging Face hub keep: where they are looked for, and how they are fitted."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from advcore.config.load import from_dict, resolve
from advcore.config.run_key import identify
from advcore.errors import UserError
from advcore.files.tensors import read_state
from advcore.models import MODELS
from advcore.reporting.record import RunRecord
from advcore.run.prepare import prepare
from advcore.run.pretrained import Beginning
from advcore.run.weights import put_state

timm = pytest.importorskip("timm", reason="needs the package timm: install the extra hf")
constants = pytest.importorskip("huggingface_hub").constants
hub_errors = pytest.importorskip("huggingface_hub.utils")

RUN = {
    "name": "tuned",
    "data": {"name": "digits", "train_size": 60, "test_size": 20},
    "objective": {"name": "pgd"},
    "attack": {"name": "linf_pgd", "eps": 0.1, "steps": 1},
    "training": {"epochs": 1, "batch_size": 30, "optimizer": {"name": "sgd", "lr": 0.05}},
    "evaluation": {"attacks": [{"name": "linf_pgd", "eps": 0.1, "steps": 1}], "checks": False},
}
VIT = {"depth": 1, "embed_dim": 8, "num_heads": 2}
TAG = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
GREY_VIT = {"name": "timm:vit_tiny_patch16_224", "options": VIT | {"img_size": 8, "patch_size": 2}}
RESNET = {"name": "torchvision:resnet18"}


def begin(**model):
    return prepare(from_dict(RUN | {"model": model}))


def refuse(*parts, **model):
    with pytest.raises(UserError) as caught:
        begin(**model)
    (line,) = caught.value.lines
    assert all(part in line for part in parts), line


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Empty caches of the hub and of torch; a function puts weights into the hub's as a download would."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def store(repository, state):
        folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        path = folder / "snapshots" / ("a" * 40) / "model.safetensors"
        path.parent.mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs/main").write_text("a" * 40)
        save_file(state, path)
        return path

    return store


@pytest.fixture(scope="module")
def trained():
    """A ViT of another size, in colour, of another number of classes."""
    torch.manual_seed(1)
    return timm.create_model("vit_tiny_patch16_224", img_size=8, patch_size=2, num_classes=3, **VIT).state_dict()


def test_weights_of_timm_bring_their_normalisation_and_are_fitted_to_grey_images(cache, trained, caplog):
    cache(f"timm/{TAG}", trained)
    prepared = begin(**GREY_VIT, weights="timm", new_head=True)
    state = prepared.model[1].state_dict()
    for name, value in trained.items():
        if name == "patch_embed.proj.weight":
            assert torch.allclose(state[name], value.sum(1, keepdim=True), atol=1e-6)  # of equal colours, the same
        elif not name.startswith("head."):
            assert torch.equal(state[name], value)
    assert state["head.weight"].shape == (10, 8)
    assert float(prepared.model[0].mean) == float(prepared.model[0].std) == 0.5
    assert "has no normalisation" not in caplog.text
    note = prepared.plan.notes["weights"]
    assert note.startswith(f"starts from the weights in timm, {TAG}, with a random head, fitted to this network: patch")
    assert "patch_embed.proj.weight [8, 3, 2, 2] -> [8, 1, 2, 2]; they were trained on images of 224 x 224" in note
    assert "these have 8 x 8; the mean" in note and "mean [0.5, 0.5, 0.5]" in note
    assert prepared.inputs["model.weights.name"] == TAG and len(prepared.inputs["model.weights"]) == 64


def test_weights_that_are_named_and_not_taken_are_told_of(caplog):
    begin(**GREY_VIT | {"name": f"timm:{TAG}"})
    assert caplog.messages == [
        "model.name names the weights augreg_in21k_ft_in1k, but training starts from random ones; "
        "model.weights: timm loads them"
    ]


def test_a_file_is_fitted_to_another_size_of_images_and_what_is_given_wins(tmp_path):
    larger = timm.create_model("vit_tiny_patch16_224", img_size=12, patch_size=4, num_classes=10, **VIT).state_dict()
    save_file(larger, tmp_path / "net.safetensors")
    model = GREY_VIT | {"weights": str(tmp_path / "net.safetensors"), "mean": [0.25], "std": [0.125]}
    prepared = begin(**model)
    state = prepared.model[1].state_dict()
    assert torch.equal(state["head.weight"], larger["head.weight"]), "of as many classes, the head stays"
    assert torch.equal(state["pos_embed"][:, 0], larger["pos_embed"][:, 0])
    assert float(prepared.model[0].mean) == 0.25
    note = prepared.plan.notes["weights"]
    assert "[8, 3, 4, 4] -> [8, 1, 2, 2], pos_embed [1, 10, 8] -> [1, 17, 8]; the cost" in note
    deeper = {**model, "options": GREY_VIT["options"] | {"depth": 2}}
    refuse("is a checkpoint of another model; 14 keys differ", "1.blocks.1.", "/ not in the file", **deeper)


def test_of_another_number_of_classes_a_new_head_is_asked_for(cache, trained):
    cache(f"timm/{TAG}", trained)
    refuse("2 keys differ", "1.head.weight [10, 8] / [3, 8]", "model.new_head: true starts", **GREY_VIT, weights="timm")


def test_a_repository_of_the_hub_is_read_as_a_file_is(cache, trained, caplog):
    cache("me/my-net_1.0", trained)
    prepared = begin(**GREY_VIT, weights="hub:me/my-net_1.0", new_head=True)
    assert torch.equal(prepared.model[1].state_dict()["pos_embed"], trained["pos_embed"])
    assert prepared.inputs["model.weights.name"] == "hub:me/my-net_1.0"
    assert identify(prepared.config)["model"]["weights"] == "hub:me/my-net_1.0", "another owner's are others"
    assert float(prepared.model[0].mean) != 0.5, "nobody says by what they were normalised"
    assert caplog.text.count("has no normalisation; the one from the settings is put in front of it") == 1


def test_weights_of_torchvision_are_summed_over_colours_and_need_no_counts_of_batches(cache, tmp_path):
    settings = MODELS["torchvision"](architecture="shufflenet_v2_x0_5", weights="torchvision")
    net = settings.build(1000, (3, 8, 8))
    state = {name: value for name, value in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    path = tmp_path / "torch/hub/checkpoints" / Path(settings.find_pretrained().url).name
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    prepared = begin(name="torchvision:shufflenet_v2_x0_5", weights="torchvision", new_head=True)
    loaded = prepared.model[1].state_dict()
    assert torch.equal(loaded["conv1.0.weight"], state["conv1.0.weight"].sum(1, keepdim=True))
    assert torch.equal(loaded["conv5.1.running_var"], state["conv5.1.running_var"])
    assert float(prepared.model[0].mean) == pytest.approx(torch.tensor([0.485, 0.456, 0.406]).mean().item())
    assert prepared.inputs["model.weights.name"] == "shufflenet_v2_x0_5.IMAGENET1K_V1"


def test_torchvisions_own_ways_with_its_weights_are_kept():
    """GoogLeNet normalises a second time, and has further heads for training only; DenseNets' weights are renamed."""
    dense = MODELS["torchvision"](architecture="densenet121", weights="torchvision")
    old = {f"features.denseblock1.denselayer12.{name}": torch.zeros(1) for name in ("norm.1.bias", "conv.2.weight")}
    new = ["features.denseblock1.denselayer12.norm1.bias", "features.denseblock1.denselayer12.conv2.weight"]
    assert list(dense.fit_weights(old, (3, 8, 8))) == new
    position, patches = torch.randn(1, 10, 4), torch.ones(4, 3, 16, 16)
    vit = MODELS["torchvision"](architecture="vit_b_16", options={"image_size": 32})
    fitted = vit.fit_weights({"encoder.pos_embedding": position, "conv_proj.weight": patches}, (1, 32, 32))
    assert torch.equal(fitted["encoder.pos_embedding"][:, 0], position[:, 0])
    assert fitted["encoder.pos_embedding"].shape == (1, 5, 4), "one of the image and 2 x 2 of patches"
    assert torch.equal(fitted["conv_proj.weight"], 3 * patches[:, :1])
    state = {"fc.weight": torch.zeros(2, 2), "aux1.fc2.weight": torch.zeros(2, 2)}
    usual = {"transform_input": True, "aux_logits": False, "init_weights": False}
    for weights, options in (("torchvision", usual), (None, {}), ("net.pt", {})):
        google = MODELS["torchvision"](architecture="googlenet", weights=weights)
        assert google.list_arguments(10, (3, 8, 8))["options"] == options
        assert len(google.fit_weights(state, (3, 8, 8))) == (2 - bool(options))


def test_the_plan_says_which_size_of_images_is_the_weights_own():
    folder = RUN | {
        "data": {"name": "image_folder", "path": "x", "size": 64},
        "model": RESNET | {"weights": "torchvision"},
    }
    config = from_dict(folder)
    beginning = Beginning(path=Path("x"), source=config.model.find_pretrained(), side=64, reshaped=[])
    assert "224 x 224 pixels, these have 64 x 64 (data.size: 224 gives theirs); the mean [" in beginning.describe(
        config
    )
    assert "these have" not in replace(beginning, side=224).describe(config)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["googlenet", "densenet121", "mnasnet0_5"])
def test_weights_of_torchvision_give_the_logits_of_its_own_network(cache, tmp_path, architecture):
    """The twin is built by torchvision itself, which finds the same file in the same cache."""
    from torchvision import models

    settings = MODELS["torchvision"](architecture=architecture, weights="torchvision")
    path = tmp_path / "torch/hub/checkpoints" / Path(settings.find_pretrained().url).name
    path.parent.mkdir(parents=True)
    options = {}
    if architecture == "googlenet":
        options = {"init_weights": False}
    torch.manual_seed(0)
    torch.save(models.get_model(architecture, **options).state_dict(), path)
    theirs = models.get_model(architecture, weights="DEFAULT").eval()
    ours = settings.build(1000, (3, 64, 64)).eval()
    put_state(ours, settings.fit_weights(read_state(path), (3, 64, 64)), path)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(ours(x), theirs(x))


CNN = {"name": "small_cnn"}
AT_TORCH = "https://download.pytorch.org/models/resnet18-f37072fd.pth"
OFFER = "set model.download: true to fetch it, or name a file"
REFUSED = [
    (GREY_VIT | {"weights": "hub:me/my--net"}, "HFValidationError: Cannot have -- "),
    (GREY_VIT | {"weights": "timm"}, f"model.weights: {TAG} is not in the local cache, and would come from timm/{TAG} "
     f"(model.safetensors or pytorch_model.bin) on the Hugging Face hub; {OFFER}"),
    (RESNET | {"weights": "torchvision"}, f"is not in the local cache, and would come from {AT_TORCH}; {OFFER}"),
    (CNN | {"weights": "hub:me/it"}, "model.weights: hub:me/it is not in the local cache, and would come from me/it ("),
    (CNN | {"weights": "hub:me/../it"}, "model.weights must be hub:owner/repository, got 'hub:me/../it'"),
    (RESNET | {"weights": "timm"}, "model.weights must be a file or hub:owner/repository for a network that is not of "
     "timm, got 'timm'; choose model.name: timm:NAME"),
    (RESNET | {"download": True}, "model.download must be true only with weights of timm, torchvision or hub:owner"),
    ({"name": "resnet18", "weights": "torchvision"}, "model.stem must be imagenet with weights: torchvision"),
    (GREY_VIT | {"options": VIT}, "Input height (8) doesn't match model (224).; set model.options: {img_size: 8}, or "
     "data.size: 224 for a folder of images"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "line"), REFUSED)
def test_what_cannot_be_had_is_one_line(cache, model, line):
    refuse(line, **model)


def test_only_a_download_that_is_asked_for_leaves_the_machine(cache, monkeypatch):
    asked = []

    def fetch(*names, **_):
        asked.append(names)
        raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    line = "cannot be fetched (OSError: no route); fetch a file elsewhere, and set model.weights"
    refuse("would come from", **GREY_VIT, weights="timm")
    refuse("would come from", **RESNET, weights="torchvision")
    assert not asked
    refuse(line, **GREY_VIT, weights="timm", download=True)
    assert asked == [(f"timm/{TAG}", "model.safetensors")]
    refuse(line, **RESNET, weights="torchvision", download=True)
    assert len(asked) == 2


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_weights_in_the_cache_are_taken_without_a_look_at_the_hub(cache, trained, monkeypatch, name):
    path = cache("me/net", trained)
    if name.endswith("bin"):
        torch.save(trained, path.with_name(name))
        path.unlink()
    monkeypatch.setattr("huggingface_hub.hf_hub_download", None)
    prepared = begin(**GREY_VIT, weights="hub:me/net", download=True, new_head=True)
    assert torch.equal(prepared.model[1].state_dict()["pos_embed"], trained["pos_embed"])


ABSENT = hub_errors.EntryNotFoundError


@pytest.mark.parametrize(("errors", "line"), [
    ({"model.safetensors": ABSENT}, None),
    ({"model.safetensors": hub_errors.LocalEntryNotFoundError}, "NotFoundError: model.safetensors)"),
    (dict.fromkeys(["model.safetensors", "pytorch_model.bin"], ABSENT), "Error: pytorch_model.bin)"),
])  # fmt: skip
def test_a_repository_without_safetensors_is_asked_for_the_older_file(
    cache, trained, tmp_path, monkeypatch, errors, line
):
    torch.save(trained, tmp_path / "pytorch_model.bin")

    def fetch(repository, name):
        if name in errors:
            raise errors[name](name)
        return tmp_path / name

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    if line is None:
        assert begin(**GREY_VIT, weights="hub:me/net", download=True, new_head=True).inputs
        return
    refuse("cannot be fetched", line, **GREY_VIT, weights="hub:me/net", download=True, new_head=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "saved", "options", "reshaped"),
    [
        ("vit_tiny_patch16_224", {}, {"img_size": 8, "patch_size": 2}, "pos_embed [1, 197, 192] -> [1, 17, 192]"),
        ("convnext_atto", {"patch_size": 1}, {"patch_size": 1}, "stem.0.weight [40, 3, 1, 1] -> [40, 1, 1, 1]"),
    ],
)
def test_a_network_of_timm_is_tuned_on_digits_from_a_file_with_selections(
    advcore, tmp_path, architecture, saved, options, reshaped
):
    path = tmp_path / "net.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model(architecture, **saved).state_dict(), path)
    model = {"name": f"timm:{architecture}", "options": options, "weights": str(path), "new_head": True}
    run = RUN | {"model": model, "training": RUN["training"] | {"epochs": 2, "head_epochs": 1}}
    run["data"] = {"name": "digits", "train_size": 40, "test_size": 10}
    run["selection"] = {"solver": {"name": "gradmatch"}, "budget": 0.5, "warm_start": 0.5, "period": 1}
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(run))
    code, out, err = advcore("run", file, "--out", tmp_path / "run")
    assert code == 0 and reshaped in " ".join(out.split()), err
    record = RunRecord.load(tmp_path / "run/record.json")
    assert (
        record.finished and record.selections and from_dict(resolve(from_dict(record.config))).model.options == options
    )
    given = ("--checkpoint", tmp_path / "run/checkpoints/last.safetensors", "--out", tmp_path / "coreset.npz")
    code, out, err = advcore("select", file, *given)
    assert code == 0 and "coreset" in out, err
    assert advcore("export", tmp_path / "run", "--out", tmp_path / "export")[0] == 0
