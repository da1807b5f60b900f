"""Models in OpenVINO's format compute what their model computes, and take its place as ONNX files do."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from mmet.evaluation.systems.exported import ExportedModel, load_exported
from mmet.evaluation.systems.loading import load_any_embedder, load_embedder
from mmet.export import export_model
from mmet.export.__main__ import main
from mmet.exported_files import KINDS, TOLERANCE, find_exported, read_manifest
from mmet.gallery import Gallery
from tests.export.conftest import save_model


@pytest.fixture(scope="module")
def run(tmp_path_factory, make_config, tokenizer):
    """The folder of a model of random weights."""
    config = make_config(encoder={"num_hidden_layers": 1})
    return save_model(tmp_path_factory.mktemp("run") / "model", config, tokenizer)


@pytest.fixture(scope="module")
def exported_run(run):
    """The same with its exported files inside it; not to be changed."""
    pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    assert main([str(run), "--format", "openvino"]) == 0
    return run


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("batch_size", "length"), [(1, 3), (2, 12), (7, 5)])
@torch.no_grad()
def test_openvino__embeds_as_the_model_at_any_batch_size_and_length(
    exported_run, make_batch, kind, batch_size, length
):
    model, exported = load_embedder(str(exported_run))[0].eval(), load_exported(exported_run / "openvino")[0]
    batch = make_batch(batch_size, length, seed=7)
    inputs = {name: batch[name] for name in KINDS[kind]}
    first = exported(**inputs).embeddings
    torch.testing.assert_close(first, model(**inputs).embeddings, atol=TOLERANCE, rtol=0)
    kept = first.clone()
    exported(**{name: values.flip(0) for name, values in inputs.items()})
    assert torch.equal(first, kept)  # the next call writes elsewhere


def test_openvino__files_and_manifest(exported_run):
    manifest = read_manifest(exported_run / "openvino")
    assert set(manifest.files) == {f"{kind}.{part}" for kind in KINDS for part in ("xml", "bin")}
    assert list((exported_run / "openvino").glob("*.onnx*")) == []
    assert manifest.format == "openvino"
    assert manifest.is_same_model
    assert "openvino" in manifest.versions
    assert find_exported(str(exported_run)) is None
    assert find_exported(str(exported_run), "openvino") == exported_run / "openvino"


def test_openvino__a_gallery_is_searched_with_and_without(exported_run, pictures, tmp_path):
    built = Gallery.build(pictures, tmp_path / "people", model=exported_run, backend="openvino", dtype="float32")
    assert isinstance(built.embedder.model, ExportedModel)
    expected = Gallery.open(tmp_path / "people").search(text="a woman in a red coat")
    received = Gallery.open(tmp_path / "people", backend="openvino").search(text="a woman in a red coat")
    assert [match.id for match in received] == [match.id for match in expected]
    assert [match.score for match in received] == pytest.approx([match.score for match in expected], abs=TOLERANCE)


def test_openvino__damaged_weights_are_named(exported_run, tmp_path):
    for path in (exported_run / "openvino").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[: -1 if path.name == "text.bin" else None])
    with pytest.raises(ValueError, match=r"text\.bin is not the file that was exported"):
        load_any_embedder(str(tmp_path))


def test_int8__is_of_onnx_alone(run, capsys):
    assert main([str(run), "--format", "openvino", "--int8"]) == 2
    assert "expected float32 for the format openvino, received int8" in capsys.readouterr().err


def test_missing_package__is_named_with_its_extra(run, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "openvino" else find_spec(name, *rest)
    )
    message = r'not installed: openvino\. Install them with pip install "mmet\[openvino\]"'
    with pytest.raises(ValueError, match=message):
        export_model(run, tmp_path / "out", file_format="openvino")
    assert not (tmp_path / "out").exists()
