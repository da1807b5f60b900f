"""`/v1/embeddings`: vectors of all kinds, in OpenAI's shape, and errors that name the field."""

from __future__ import annotations

import base64
import io
import re
import threading

import numpy as np
import pytest
from colour_embedder import ColourEmbedder
from PIL import Image

testclient = pytest.importorskip("fastapi.testclient", reason="fastapi is not installed (extra [app])")

from mmet.serving.items import Limits  # noqa: E402
from mmet.serving.server import build_server  # noqa: E402


def picture(colour, size=(8, 16), kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def make_client():
    """A function that makes a client of a server with these options."""
    clients = []

    def make(embedder=None, **options):
        client = testclient.TestClient(build_server(embedder or ColourEmbedder(), **options))
        clients.append(client.__enter__())
        return client

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(make_client):
    return make_client(limits=Limits(items=4, text=50, image_bytes=20_000, pixels=10_000))


def vectors(response):
    assert response.status_code == 200, response.text
    return np.array([entry["embedding"] for entry in response.json()["data"]], dtype=np.float32)


def test_sentences_pictures_and_both_in_one_request(client):
    red, embedder = Image.new("RGB", (8, 16), "red"), ColourEmbedder()
    inputs = ["red", {"image": picture("red")}, {"text": "blue", "image": picture("red")}, picture("red")]
    response = client.post("/v1/embeddings", json={"input": inputs, "model": "mmet"})
    expected = [
        embedder.embed(None, ["red"]), embedder.embed([red], None), embedder.embed([red], ["blue"]),
        embedder.embed([red], None),
    ]  # fmt: skip
    assert np.allclose(vectors(response), np.concatenate(expected), atol=1e-6)
    body = response.json()
    assert (body["object"], body["model"], body["usage"]["total_tokens"]) == ("list", "mmet", 2)
    assert [entry["index"] for entry in body["data"]] == [0, 1, 2, 3]


def test_a_single_input(client):
    assert vectors(client.post("/v1/embeddings", json={"input": "red"})).shape == (1, 3)
    assert vectors(client.post("/v1/embeddings", json={"input": {"text": "red"}})).shape == (1, 3)


def test_base64_as_openai_s_client_asks_for_it(client):
    plain = vectors(client.post("/v1/embeddings", json={"input": "red"}))
    coded = client.post("/v1/embeddings", json={"input": "red", "encoding_format": "base64"}).json()
    values = np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), dtype=np.float32)
    assert np.array_equal(values, plain[0])


def test_health_and_models(client):
    assert client.get("/health").json() == {"status": "ok", "model": "mmet", "dimension": 3}
    assert client.get("/v1/models").json()["data"][0]["id"] == "mmet"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "expected a JSON object"),
        ({}, "input: expected a sentence"),
        ({"input": []}, "input: expected 1 to 4 entries, received 0"),
        ({"input": ["red"] * 5}, "received 5"),
        ({"input": [1, 2]}, "input\\[0\\]: expected a sentence"),
        ({"input": ["red", ""]}, "input\\[1\\].text: expected a sentence"),
        ({"input": " \n"}, "input.text: expected a sentence"),
        ({"input": "x" * 51}, "at most 50 characters, received 51"),
        ({"input": "红色"}, "input\\[0\\].text: the model's vocabulary holds no word"),
        ({"input": {"txt": "red"}}, "input: expected a sentence"),
        ({"input": {"text": None}}, "received neither"),
        ({"input": {"image": "http://example.org/a.png"}}, "input.image: expected a picture as data:.*not fetched"),
        ({"input": {"image": 3}}, "input.image: expected a picture as data:"),
        ({"input": "data:image/png;base64,###"}, "input.image: expected base64"),
        ({"input": "data:image/png;base64,aGVsbG8="}, "input.image: expected a picture .JPEG"),
        ({"input": picture("red", (200, 100))}, "at most 10,000 pixels, received 200 × 100"),
        ({"input": picture("red", kind="PNG")[:100] + "===="}, "input.image"),
        ({"input": "red", "model": "other"}, "model: expected 'mmet'"),
        ({"input": "red", "dimensions": 2}, "dimensions: expected 3"),
        ({"input": "red", "dimensions": True}, "dimensions: expected a whole number"),
        ({"input": "red", "encoding_format": "hex"}, "encoding_format: expected one of"),
        ({"input": "red", "inputs": 1}, "inputs: unknown field; did you mean 'input'"),
    ],
)
def test_errors_name_the_field(client, body, message):
    response = client.post("/v1/embeddings", json=body)
    assert response.status_code in (400, 404)
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert re.search(message, error["message"]), error["message"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"input": "red", "input": "blue"}', b"[" * 50_000])
def test_bodies_that_are_no_json(client, content):
    response = client.post("/v1/embeddings", content=content)
    assert response.status_code == 400
    assert "expected JSON" in response.json()["error"]["message"]


def test_large_bodies_are_refused_whatever_they_announce(client):
    def chunks():
        for _ in range(30):
            yield b" " * 10_000

    assert client.post("/v1/embeddings", content=b" " * 200_000).status_code == 413
    assert client.post("/v1/embeddings", content=chunks()).status_code == 413


def test_keys(make_client):
    client = make_client(keys=["one", "two"])
    body = {"input": "red"}
    assert client.post("/v1/embeddings", json=body).status_code == 401
    assert client.post("/v1/embeddings", json=body, headers={"authorization": "Bearer three"}).status_code == 401
    assert client.post("/v1/embeddings", json=body, headers={"authorization": "Bearer two"}).status_code == 200
    assert client.get("/health").status_code == 200


def test_too_many_at_once_are_told_to_come_back(make_client):
    class Held(ColourEmbedder):
        def __init__(self):
            super().__init__()
            self.go, self.begun = threading.Event(), threading.Event()

        def embed(self, images, texts, *, flip=False):
            if texts != ["a person"]:
                self.begun.set()
                self.go.wait(10)
            return super().embed(images, texts, flip=flip)

    held = Held()
    client = make_client(held, limits=Limits(waiting=1))
    answers = []
    thread = threading.Thread(target=lambda: answers.append(client.post("/v1/embeddings", json={"input": "red"})))
    thread.start()
    assert held.begun.wait(10)
    refused = client.post("/v1/embeddings", json={"input": "red"})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    held.go.set()
    thread.join()
    assert answers[0].status_code == 200
    assert client.post("/v1/embeddings", json={"input": "red"}).status_code == 200


def test_a_failure_of_the_model_is_no_secret_told(make_client, caplog):
    class Failing(ColourEmbedder):
        def embed(self, images, texts, *, flip=False):
            if texts == ["red"]:
                raise RuntimeError("secret")
            return super().embed(images, texts, flip=flip)

    response = make_client(Failing()).post("/v1/embeddings", json={"input": "red"})
    assert response.status_code == 500
    assert "secret" not in response.text
    assert "secret" in caplog.text
