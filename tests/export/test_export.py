"""Exported files compute what their model computes, take its place, and are refused when they are not whole."""

from __future__ import annotations

import importlib.util
import json
import shutil

import numpy as np
import pytest
import torch

from mmet.evaluation.systems.cache import fingerprint_weights
from mmet.evaluation.systems.exported import ExportedModel, load_exported
from mmet.evaluation.systems.loading import check_checkpoint, load_any_embedder, load_embedder, load_system
from mmet.export import export_model
from mmet.export.__main__ import main
from mmet.exported_files import KINDS, MANIFEST, TOLERANCE, find_exported, read_manifest
from mmet.footage.__main__ import main as read_footage
from mmet.footage.searching import add_to_gallery
from mmet.gallery import Gallery, GalleryError, ModelEmbedder
from mmet.gallery.command import main as gallery_command
from modeling_mmet import MMETForReID
from tests.export.conftest import save_model

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SHARED = "weights.onnx.data"

MOBILE_NET = {"model_type": "mobilenet_v2", "tf_padding": False, "layer_norm_eps": 1e-5, "depth_multiplier": 0.35}


@pytest.fixture(scope="session")
def exported_run(tmp_path_factory, make_config, tokenizer):
    """The folder of a model with its exported files inside it; not to be changed."""
    folder = tmp_path_factory.mktemp("run") / "model"
    save_model(folder, make_config(encoder={"num_hidden_layers": 1}), tokenizer)
    export_model(folder)
    return folder


@pytest.fixture(scope="session")
def small_run(tmp_path_factory, make_config, tokenizer):
    """The same of a model with a backbone that embeds pictures alone, in 8 bits."""
    image = {"image_size": (64, 32), "backbone_config": MOBILE_NET}
    sizes = {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 512}
    config = make_config(image=image, encoder=sizes, identity_pooling="image")
    folder = save_model(tmp_path_factory.mktemp("small") / "model", config, tokenizer)
    export_model(folder)
    export_model(folder, folder / "int8", dtype="int8")
    return folder


@pytest.fixture(scope="session")
def pair(exported_run):
    """The model, and its exported files as a model."""
    return load_embedder(str(exported_run))[0].eval(), load_exported(exported_run / "onnx")[0]


@pytest.fixture
def run_copy(tmp_path, exported_run):
    """A copy of the model and its exported files that a test may change."""
    return shutil.copytree(exported_run, tmp_path / "run")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("batch_size", "length"), [(1, 3), (2, 12), (7, 5)])
@torch.no_grad()
def test_exported__embeds_as_the_model_at_any_batch_size_and_length(pair, make_batch, kind, batch_size, length):
    model, exported = pair
    batch = make_batch(batch_size, length, seed=7)
    inputs = {name: batch[name] for name in KINDS[kind]}
    received = exported(**inputs).embeddings
    torch.testing.assert_close(received, model(**inputs).embeddings, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(received.norm(dim=-1), torch.ones(batch_size))


@torch.no_grad()
def test_exported__padding_changes_nothing_and_no_mask_means_no_padding(pair, make_batch):
    _, exported = pair
    words = make_batch(2, 5)["input_ids"].clamp(min=5)
    padded = torch.nn.functional.pad(words, (0, 4))
    mask = (torch.arange(9) < 5).long().expand(2, 9)
    expected = exported(input_ids=words).embeddings
    torch.testing.assert_close(exported(input_ids=padded, attention_mask=mask).embeddings, expected, atol=1e-5, rtol=0)


def test_manifest__says_what_was_exported_and_how_near_it_is(exported_run, pair):
    manifest = read_manifest(exported_run / "onnx")
    model, _ = pair
    assert manifest.weights == fingerprint_weights(model)
    assert set(manifest.files) == {"image.onnx", "text.onnx", "both.onnx", SHARED}
    assert set(manifest.parity) == set(KINDS)
    assert all(set(measured) == {"random", "drawn"} for measured in manifest.parity.values())
    assert max(value for measured in manifest.parity.values() for value in measured.values()) <= TOLERANCE
    assert {"torch", "onnx", "onnxscript", "onnxruntime", "transformers"} <= set(manifest.versions)
    assert set(manifest.source_files) == {"model.safetensors"}


@pytest.mark.slow
def test_small_model__with_a_backbone_embeds_pictures_alone(small_run):
    model, (exported, _) = load_embedder(str(small_run))[0].eval(), load_exported(small_run / "onnx")
    pixels, words = torch.randn(5, 3, 64, 32), torch.full((5, 4), 6)
    with torch.no_grad():
        expected = model(pixel_values=pixels).embeddings
    torch.testing.assert_close(exported(pixel_values=pixels).embeddings, expected, atol=TOLERANCE, rtol=0)
    both = exported(pixel_values=pixels, input_ids=words).embeddings
    torch.testing.assert_close(both, expected, atol=TOLERANCE, rtol=0)
    with pytest.raises(ValueError, match=r"embeds image .*, received text"):
        exported(input_ids=words)
    with pytest.raises(ValueError, match=r"expected pixel_values of size \[64, 32\], received \[32, 64\]"):
        exported(pixel_values=pixels.mT)


def weights_of(graph):
    """Places `(offset, length)` in the shared file, and bytes in the graph, of a graph's weights."""
    weights = onnx.load(str(graph), load_external_data=False).graph.initializer
    stored = [{entry.key: entry.value for entry in weight.external_data} for weight in weights]
    assert {fields["location"] for fields in stored if fields} == {SHARED}
    places = {(int(fields["offset"]), int(fields["length"])) for fields in stored if fields}
    return places, sum(len(weight.raw_data) for weight in weights)


def test_graphs__store_the_weights_that_they_share_once(exported_run):
    folder = exported_run / "onnx"
    places, inside = zip(*(weights_of(folder / f"{kind}.onnx") for kind in KINDS), strict=True)
    images, texts, both = places
    assert len(images & both) > 5
    assert len(texts & both) > 5
    lengths = [length for _, length in images | texts | both]
    assert sum(lengths) == (folder / SHARED).stat().st_size
    assert max(inside) < 0.1 * sum(lengths)


def test_quantize__embeddings_of_words_too(run_copy):
    from mmet.export.quantization import quantize

    folder = run_copy / "onnx"
    feed = {"input_ids": np.full((2, 5), 6), "attention_mask": np.ones((2, 5), dtype=np.int64)}
    exact = onnxruntime.InferenceSession(str(folder / "text.onnx")).run(None, feed)[0]
    quantize(folder / "text.onnx")
    kinds = {
        weight.data_type for weight in onnx.load(str(folder / "text.onnx")).graph.initializer if len(weight.dims) == 2
    }
    assert onnx.TensorProto.FLOAT not in kinds
    near = onnxruntime.InferenceSession(str(folder / "text.onnx")).run(None, feed)[0]
    assert (exact * near).sum(axis=-1).min() > 0.98


@pytest.mark.slow
def test_int8__is_smaller_near_and_another_model(small_run, pictures, tmp_path):
    exact, near = load_exported(small_run / "onnx")[0], load_exported(small_run / "int8")[0]
    pixels = torch.randn(5, 3, 64, 32)
    cosines = (exact(pixel_values=pixels).embeddings * near(pixel_values=pixels).embeddings).sum(dim=-1)
    assert cosines.min() > 0.95
    assert not torch.allclose(cosines, torch.ones(5), atol=1e-6)
    sizes = [(small_run / folder / "image.onnx").stat().st_size for folder in ("onnx", "int8")]
    assert sizes[1] < sizes[0]
    assert exact.weights_fingerprint == fingerprint_weights(load_embedder(str(small_run))[0])
    assert near.weights_fingerprint != exact.weights_fingerprint
    Gallery.build(pictures, tmp_path / "people", model=small_run)
    with pytest.raises(GalleryError, match=r"was embedded by .* vectors cannot be compared"):
        Gallery.open(tmp_path / "people", model=small_run / "int8")


def test_gallery__is_built_and_searched_by_either(exported_run, pictures, tmp_path):
    built = {
        backend: Gallery.build(pictures, tmp_path / backend, model=exported_run, backend=backend, dtype="float32")
        for backend in ("torch", "onnx")
    }
    assert isinstance(built["onnx"].embedder.model, ExportedModel)
    assert isinstance(built["torch"].embedder.model, MMETForReID)
    assert built["onnx"].info["weights"] == built["torch"].info["weights"]
    for place, backend in (("torch", "onnx"), ("onnx", "torch"), ("onnx", "auto")):
        gallery = Gallery.open(tmp_path / place, backend=backend)
        assert isinstance(gallery.embedder.model, ExportedModel) == (backend == "onnx")
        for query in (
            {"text": "a woman in a red coat"},
            {"image": pictures[2]},
            {"image": pictures[1], "text": "bag"},
        ):
            expected, received = built["torch"].search(**query), gallery.search(**query)
            assert [match.id for match in received] == [match.id for match in expected]
            scores = [match.score for match in expected]
            assert [match.score for match in received] == pytest.approx(scores, abs=TOLERANCE)


def test_gallery__of_the_exported_folder_itself(exported_run, pictures, tmp_path):
    """It is opened again without a word about the backend."""
    Gallery.build(pictures, tmp_path / "people", model=exported_run / "onnx", flip=True)
    gallery = Gallery.open(tmp_path / "people")
    assert gallery.search(image=pictures[3], flip=True).matches[0].score == pytest.approx(1, abs=1e-3)
    assert isinstance(gallery.embedder.model, ExportedModel)


def test_commands__take_a_backend(exported_run, pictures, tmp_path, capsys):
    people = str(tmp_path / "people")
    crops = tmp_path / "crops"
    crops.mkdir()
    for path in pictures:
        shutil.copy(path, crops)
    build = ["build", str(crops), "--model", str(exported_run), "--output", people, "--backend", "onnx"]
    assert gallery_command(build) == 0
    assert gallery_command(["search", people, "--image", pictures[1], "-k", "1", "--csv", "--backend", "onnx"]) == 0
    assert "1.png" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        gallery_command(["search", people, "--text", "coat", "--backend", "tensorrt"])
    assert ended.value.code == 2
    assert read_footage(["film.mp4", "--output", str(tmp_path / "c"), "--backend", "onnx"]) == 2
    assert "--backend would have no effect: name a gallery" in capsys.readouterr().err


def test_footage__crops_go_into_a_gallery_by_exported_files(exported_run, pictures, tmp_path):
    crops = tmp_path / "monday"
    crops.mkdir()
    rows = []
    for number, path in enumerate(pictures):
        shutil.copy(path, crops / f"{number}.png")
        row = {"image": f"{number}.png", "camera_id": "gate", "track_id": f"gate-{number}", "time": float(number)}
        rows.append(row | {"track_start": float(number), "track_end": number + 0.5, "box": [0, 0, 28, 52]})
    (crops / "annotations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    gallery = add_to_gallery(crops, tmp_path / "people", model=exported_run, backend="onnx")
    assert isinstance(gallery.embedder.model, ExportedModel)
    again = add_to_gallery(crops, tmp_path / "people", backend="onnx")
    assert (len(again), again.info["weights"]) == (4, read_manifest(exported_run / "onnx").weights)


def test_evaluation__takes_exported_files_for_a_model(exported_run):
    check_checkpoint(str(exported_run / "onnx"))
    assert isinstance(load_system(str(exported_run / "onnx")).model, ExportedModel)
    with pytest.raises(ValueError, match="exported files, without the ITM head that --itm_top_k re-scores with"):
        load_system(str(exported_run / "onnx"), rescore=True)
    with pytest.raises(ValueError, match="holds exported files and no weights for PyTorch"):
        load_embedder(str(exported_run / "onnx"))


def test_backend__that_the_folder_does_not_have(exported_run, tmp_path):
    with pytest.raises(ValueError, match="backend: expected one of auto, torch, onnx, openvino"):
        find_exported(str(exported_run), "tensorrt")
    with pytest.raises(ValueError, match="expected the model that they were made from"):
        find_exported(str(exported_run / "onnx"), "torch")
    with pytest.raises(ValueError, match="write them with mmet-export owner/name"):
        find_exported("owner/name", "onnx")
    with pytest.raises(ValueError, match="write them with mmet-export owner/name --format openvino"):
        find_exported("owner/name", "openvino")
    with pytest.raises(ValueError, match="holds files for the backend onnx: expected these, received openvino"):
        find_exported(str(exported_run / "onnx"), "openvino")
    assert find_exported(str(exported_run)) is None
    assert find_exported(str(exported_run), "onnx") == exported_run / "onnx"
    assert find_exported(str(exported_run / "onnx")) == exported_run / "onnx"


def test_stale__weights_that_were_trained_on_after_the_export(run_copy):
    with (run_copy / "model.safetensors").open("ab") as file:
        file.write(b" ")
    with pytest.raises(ValueError, match="was exported from other weights than"):
        ModelEmbedder.load(run_copy, "onnx")


def _cut(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("text.onnx", lambda path: path.unlink(), "names 'text.onnx', which .* does not hold"),
        ("text.onnx", _cut, "text.onnx is not the file that was exported"),
        (SHARED, lambda path: path.unlink(), "names 'weights.onnx.data', which .* does not hold"),
        (SHARED, _cut, "weights.onnx.data is not the file that was exported"),
        (MANIFEST, _cut, "is not a manifest of exported files"),
        (MANIFEST, lambda path: path.write_text("[]"), "is not a manifest of exported files"),
        (MANIFEST, lambda path: path.write_text('{"source": "a"}'), "is not a manifest of exported files"),
        (MANIFEST, lambda path: path.unlink(), "expected a finished export"),
        ("config.json", lambda path: path.unlink(), "holds no config.json"),
        ("tokenizer.json", lambda path: path.unlink(), "tokenizer"),
    ],
)
def test_damaged__files_are_named(run_copy, name, damage, message):
    damage(run_copy / "onnx" / name)
    with pytest.raises(ValueError, match=message):
        load_any_embedder(str(run_copy / "onnx"))


def test_damaged__a_graph_that_onnxruntime_does_not_read(run_copy):
    """Whoever changed both the file and its checksum gets ONNX Runtime's own words, in one line of ours."""
    (run_copy / "onnx" / "text.onnx").write_bytes(b"no graph")
    manifest = json.loads((run_copy / "onnx" / MANIFEST).read_text())
    manifest["files"]["text.onnx"] = "cd3b3a5c1e0e4d4b8f6d7a0c"
    (run_copy / "onnx" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"text.onnx cannot be run by onnxruntime"):
        ExportedModel(run_copy / "onnx")(input_ids=torch.full((1, 3), 6))


def test_missing_packages__are_named_with_the_extra(exported_run, monkeypatch, tmp_path):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if "onnx" in name else find_spec(name, *a))
    with pytest.raises(
        ValueError, match=r'not installed: onnxruntime. Install them with pip install "mmet\[export\]"'
    ):
        load_any_embedder(str(exported_run), "onnx")
    with pytest.raises(ValueError, match="not installed: onnx, onnxscript, onnxruntime"):
        export_model(exported_run, tmp_path / "out")


@pytest.mark.slow
def test_export__that_differs_from_the_model_leaves_nothing(small_run, tmp_path):
    with pytest.raises(ValueError, match=r"expected exported embeddings within 0e\+00 .* nothing was written"):
        export_model(small_run, tmp_path / "out", tolerance=0.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_command__says_where_the_files_are_and_how_near(small_run, tmp_path, capsys):
    assert main([str(small_run), "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "image: embeddings within" in printed
    assert f"{tmp_path / 'out'}: image; " in printed
    assert find_exported(str(tmp_path / "out")) == tmp_path / "out"
    assert main([str(small_run), "--output", str(tmp_path / "out")]) == 2
    assert f"{tmp_path / 'out'} exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "absent", "expected the folder of a model"),
        (lambda folder: folder, "config.json"),
        (lambda folder: "owner/name", "for a model of the Hub, give --output"),
    ],
)
def test_command__of_what_is_no_model(tmp_path, capsys, make, message):
    assert main([str(make(tmp_path))]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
