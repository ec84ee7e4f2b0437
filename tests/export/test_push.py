"""What leaves this machine on request, and that nothing else does; the hub is a stand-in."""

import json
import sys

import pytest

from advcore.errors import ConfigError
from advcore.export import push as pushing
from advcore.export.folder import SCHEMA

hub = pytest.importorskip("huggingface_hub", reason="needs the package huggingface_hub: install the extra hf")


class Hub:
    """Stands in for HfApi: notes what is asked of it. public : what was there already is. error : what it raises."""

    calls: list = []
    public = False
    error: Exception | None = None

    def create_repo(self, repo, **options):
        self.calls.append(("create", repo, options))
        return hub.RepoUrl(f"https://huggingface.co/{repo}")

    def model_info(self, repo):
        return hub.hf_api.ModelInfo(id=repo, private=not self.public)

    def upload_folder(self, **options):
        if self.error is not None:
            raise self.error
        self.calls.append(("upload", options))


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr(Hub, "calls", [])
    monkeypatch.setattr(hub, "HfApi", Hub)
    monkeypatch.setattr(hub, "get_token", lambda: "hf_x")
    return Hub


@pytest.fixture
def export(tmp_path):
    folder = tmp_path / "export"
    (folder / "coresets").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"schema": SCHEMA}))
    for name in ("README.md", "model.safetensors", "coresets/epoch-001.npz"):
        (folder / name).write_bytes(b"x")
    return folder


FILES = ["README.md", "config.json", "coresets/epoch-001.npz", "model.safetensors"]


@pytest.mark.parametrize("private", [False, True])
def test_the_files_of_an_export_are_uploaded_and_no_others(api, export, private):
    assert pushing.push(export, "me/model", private=private) == "https://huggingface.co/me/model"
    create, (_, upload) = api.calls
    assert create == ("create", "me/model", {"private": private, "exist_ok": True})
    assert upload["folder_path"] == export and upload["repo_id"] == "me/model" and upload["allow_patterns"] == FILES


def test_nothing_goes_to_a_repository_that_everybody_can_read_if_it_is_to_be_private(api, export, monkeypatch):
    monkeypatch.setattr(api, "public", True)
    with pytest.raises(ConfigError, match="--private must be left out for a repository that everybody can read"):
        pushing.push(export, "me/model", private=True)
    assert [kind for kind, *_ in api.calls] == ["create"]
    pushing.push(export, "me/model")


@pytest.mark.parametrize("name", ["net.pt", ".netrc", "coresets/x.pkl", "link.json"])
def test_what_no_export_holds_is_never_uploaded(api, export, name):
    if name == "link.json":
        (export / name).symlink_to("/etc/passwd")
    else:
        (export / name).write_bytes(b"x")
    with pytest.raises(ConfigError, match=f"--push must be used on a folder that holds only an export, got '.*{name}'"):
        pushing.push(export, "me/model")
    assert api.calls == []


def test_a_folder_that_is_no_export_is_never_uploaded(api, export):
    (export / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="--push must be used on a folder that holds only an export, got '.*export'"):
        pushing.push(export, "me/model")
    assert api.calls == []


@pytest.mark.parametrize("repo", ["model", "me/a/b", "me/", "me/mo del", "https://huggingface.co/me/model"])
def test_the_repository_is_named_by_owner_and_name(api, repo):
    with pytest.raises(ConfigError, match="--push must be OWNER/REPO of a model on the hub, got"):
        pushing.check_push(repo)


def test_the_command_prints_what_it_uploads_and_a_failure_is_one_line(advcore, api, export, monkeypatch, tmp_path):
    from advcore.export import export as exporting

    monkeypatch.setattr(exporting, "export", lambda *_, **__: exporting.Exported(export))
    code, out, _ = advcore("export", tmp_path, "--push", "me/model", "--private")
    assert code == 0 and "model.safetensors\n" in out
    assert f"uploading 4 files of {export} to me/model\npushed: https://huggingface.co/me/model\n" in out
    monkeypatch.setattr(api, "error", OSError("no\nnetwork"))
    code, _, err = advcore("export", tmp_path, "--push", "me/model")
    assert code == 3 and err == (
        f"advcore: --push me/model: nothing is uploaded (OSError: no network); the export is in {export}: fix this, "
        f"then hf upload me/model {export}\n"
    )


def test_before_any_work_a_push_that_cannot_be_is_one_line(advcore, api, monkeypatch, tmp_path):
    def check(line: str, *options: str) -> None:
        code, _, err = advcore("export", tmp_path, *options)
        assert code == 2 and err.startswith(f"advcore: {line}") and err.count("\n") == 1, err

    check("--private must be given with --push, got True", "--private")
    check("--evaluation must be given with --robustbench, got 'e.json'", "--evaluation", "e.json")
    check("--format must be all or model with --robustbench, got 'co", "--robustbench", "--format", "coresets")
    monkeypatch.setattr(hub, "get_token", lambda: None)
    line = "--push must be used with a token of the hub, got None; set HF_TOKEN, or log in: hf auth login"
    check(line, "--push", "me/model")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    check("--push needs the package huggingface_hub, which cannot be imported", "--push", "me/model")
