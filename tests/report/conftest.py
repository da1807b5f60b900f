"""A tiny untrained run with made-up losses and results, and small synthetic worlds to report on."""

from __future__ import annotations

import json

import pytest

from configuration_mmet import MMETConfig
from mmet.data import DataArgument, load_reid_dataset
from mmet.data.synthetic import write_world
from mmet.report.builder import ReportRequest, collect_page
from mmet.training.tokenization import train_wordpiece_tokenizer
from modeling_mmet import MMETForPreTraining
from processing_mmet import MMETImageProcessor, MMETProcessor

ENCODER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="session")
def worlds(tmp_path_factory):
    """Folders of three small synthetic worlds."""
    root = tmp_path_factory.mktemp("worlds")
    size = {"image_height": 64, "image_width": 32}
    write_world("finegpr", root / "source", num_ids=3, images_per_id=4, **size)
    for layout in ("market1501", "cuhk_pedes"):
        write_world(layout, root / layout, num_train_ids=1, num_test_ids=5, images_per_id=6, **size)
    return {"finegpr": root / "source", "market1501": root / "market1501", "cuhk_pedes": root / "cuhk_pedes"}


@pytest.fixture(scope="session")
def run(tmp_path_factory, worlds):
    """A run folder: model, processor and a hand-made training history."""
    folder = tmp_path_factory.mktemp("run")
    captions = [text for row in load_reid_dataset("finegpr", worlds["finegpr"])["train"]["captions"] for text in row]
    tokenizer = train_wordpiece_tokenizer(captions, vocab_size=1200)
    config = MMETConfig(
        image_config={**ENCODER, "image_size": [64, 32], "patch_size": 16, "patch_stride": 12},
        text_config={**ENCODER, "vocab_size": len(tokenizer), "max_position_embeddings": 64},
        multimodal_config=ENCODER,
        projection_dim=16,
        codebook_size=8,
        num_identities=3,
    )
    MMETForPreTraining(config).save_pretrained(folder)
    image_processor = MMETImageProcessor(size={"height": 64, "width": 32}, patch_size=16, patch_stride=12)
    MMETProcessor(image_processor, tokenizer).save_pretrained(folder)
    history = [
        {"step": step, "loss": 9.0 - step / 10, "learning_rate": 1e-3, "itm_loss": 0.7, "identity_loss": 1.1}
        for step in range(10, 60, 10)
    ]
    history.append({"step": 50, "train_runtime": 228.4, "train_loss": 6.0})
    state = {"global_step": 50, "log_history": history}
    (folder / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
    return folder


def make_result(data, query, gallery, system, precision):
    """A row of `results.json`."""
    cmc = [min(1.0, precision + rank / 50) for rank in range(50)]
    return {
        "data": data,
        "data_root": f"/data/{data}",
        "protocol": "market" if data == "market1501" else "text-to-image",
        "query": query,
        "gallery": gallery,
        "system": system,
        "metrics": {"mAP": precision, "mINP": precision / 2, "rank1": cmc[0], "rank5": cmc[4], "rank10": cmc[9]},
        "cmc": cmc,
        "num_queries": 12,
        "num_valid_queries": 11,
        "num_gallery": 40,
    }


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """A `results.json` of two tasks."""
    rows = [
        make_result("market1501", "image", "image", "chance", 0.0312),
        make_result("market1501", "image", "image", "histogram", 0.1049),
        make_result("market1501", "image", "image", "model", 0.4267),
        make_result("cuhk_pedes", "text", "image", "untrained", 0.0551),
        make_result("cuhk_pedes", "text", "image", "model", 0.2938),
    ]
    content = {"model": "run", "created": "2026-01-02T03:04:05+00:00", "versions": {"torch": "2.8"}, "results": rows}
    path = tmp_path_factory.mktemp("eval") / "results.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def request_of(worlds, run, results, tmp_path_factory):
    """The request for the whole report; tests replace parts of it."""
    return ReportRequest(
        run=run,
        results=results,
        data=[DataArgument(name, worlds[name], {}) for name in ("market1501", "cuhk_pedes")],
        training_data=[DataArgument("finegpr", worlds["finegpr"], {})],
        output=tmp_path_factory.mktemp("report") / "out",
    )


@pytest.fixture(scope="session")
def page(request_of):
    """What the whole report shows."""
    return collect_page(request_of)
