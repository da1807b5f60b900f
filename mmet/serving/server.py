"""`POST /v1/embeddings` for pictures, sentences and pairs of both, in the form that OpenAI's clients use.

    app = build_server(ModelEmbedder.load("outputs/demo/model"))

Requests that arrive together are embedded together (`mmet.serving.batching`). `GET /health` answers while the server
is up, and `GET /v1/models` names the model.
"""

from __future__ import annotations

import base64
import hmac
import logging
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from numpy.typing import NDArray

from mmet.field_checks import shown
from mmet.gallery.embedding import Embedder
from mmet.serving.batching import BatchingEmbedder
from mmet.serving.guard import Guard, TooLarge
from mmet.serving.items import BadRequest, EmbeddingRequest, Item, Limits, read_request
from mmet.whole_files import parse_json

logger = logging.getLogger(__name__)

__all__ = ["Limits", "build_server"]

RETRY_SECONDS = 1


class EmbeddingService:
    """The answers to requests, without the web server."""

    def __init__(self, embedder: Embedder, name: str, limits: Limits) -> None:
        self.embedder = BatchingEmbedder(embedder)
        self.name, self.limits = name, limits
        self.dimension = int(embedder.embed(None, ["a person"]).shape[1])
        self._places = threading.BoundedSemaphore(limits.waiting)

    def embed(self, body: bytes) -> dict[str, Any]:
        """Answer the body of a request. Raises `BadRequest` for an invalid body or too many requests at once."""
        if not self._places.acquire(blocking=False):
            raise BadRequest("too many requests wait already, come back in a second", status=503, code="overloaded")
        try:
            try:
                request = read_request(parse_json(body.decode("utf-8")), self.limits)
            except BadRequest:
                raise
            except ValueError as error:
                raise BadRequest(f"expected JSON in UTF-8, received something else ({error})") from error
            self._check(request)
            return self._answer(request, self.embed_items(request.items))
        finally:
            self._places.release()

    def embed_items(self, items: Sequence[Item]) -> NDArray[np.float32]:
        """Embed items as unit vectors `(n, D)`, all items of one kind in one call."""
        vectors = np.empty((len(items), self.dimension), dtype=np.float32)
        for has_image, has_text in sorted({item.kind for item in items}):
            places = [place for place, item in enumerate(items) if item.kind == (has_image, has_text)]
            images = [items[place].image for place in places] if has_image else None
            texts = [items[place].text for place in places] if has_text else None
            vectors[places] = self.embedder.embed(images, texts)  # type: ignore[arg-type]
        return vectors

    def _check(self, request: EmbeddingRequest) -> None:
        if request.model not in (None, self.name):
            raise BadRequest(
                f"model: expected {self.name!r}, which is served here, or none; received {shown(request.model)}",
                status=404,
                code="model_not_found",
            )
        if request.dimensions not in (None, self.dimension):
            raise BadRequest(f"dimensions: expected {self.dimension}, the model's own; received {request.dimensions}")
        for number, item in enumerate(request.items):
            if item.text is not None and self.embedder.unknown_words(item.text)[1]:
                raise BadRequest(
                    f"input[{number}].text: the model's vocabulary holds no word of {shown(item.text)}; write in the "
                    "language and alphabet that it was trained on"
                )

    def _answer(self, request: EmbeddingRequest, vectors: NDArray[np.float32]) -> dict[str, Any]:
        is_text = request.encoding_format == "float"
        tokens = sum(len((item.text or "").split()) for item in request.items)
        return {
            "object": "list",
            "data": [
                {
                    "object": "embedding",
                    "index": number,
                    "embedding": vector.tolist() if is_text else base64.b64encode(vector.tobytes()).decode("ascii"),
                }
                for number, vector in enumerate(vectors)
            ],
            "model": self.name,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }


def build_server(
    embedder: Embedder,
    *,
    name: str = "mmet",
    limits: Limits | None = None,
    keys: Sequence[str] = (),
    names: Sequence[str] | None = None,
) -> FastAPI:
    """
    Build the application that a web server runs.

    Args:
        embedder: the embedder of pictures and sentences.
        name: name of the model for clients.
        limits: limits of requests.
        keys: clients must send one of them (`Authorization: Bearer …`); empty for a server without keys.
        names: host names that the server answers to; None for all.
    """
    service = EmbeddingService(embedder, name, limits or Limits())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.embedder.close()  # all requests have been answered

    app = FastAPI(title="MMET embeddings", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.service = service

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"status": "ok", "model": name, "dimension": service.dimension}

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        entry = {"id": name, "object": "model", "owned_by": "mmet", "dimension": service.dimension}
        return {"object": "list", "data": [entry]}

    @app.post("/v1/embeddings")
    async def embeddings(request: Request) -> Response:
        try:
            check_key(request.headers.get("authorization", ""), keys)
            body = await request.body()
            return JSONResponse(await run_in_threadpool(service.embed, body))
        except BadRequest as error:
            return error_response(error)
        except TooLarge:
            raise
        except Exception:
            logger.exception("a request failed")
            return error_response(BadRequest("the server failed; its log says why", status=500, code="server_error"))

    app.add_middleware(Guard, max_bytes=service.limits.body_bytes, names=names)
    return app


def check_key(header: str, keys: Sequence[str]) -> None:
    """Raise `BadRequest` if the server has keys and the header has none of them."""
    sent = header.removeprefix("Bearer ").strip().encode("utf-8", "replace")
    # Compares all keys each time, so that the duration says nothing about them.
    if keys and not sum(hmac.compare_digest(sent, key.encode("utf-8")) for key in keys):
        raise BadRequest("expected a key that this server knows (Authorization: Bearer …)", status=401, code="bad_key")


def error_response(error: BadRequest) -> JSONResponse:
    """Answer with an error in the form of OpenAI's."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    headers = {"retry-after": str(RETRY_SECONDS)} if error.status == 503 else None
    return JSONResponse(
        {"error": {"message": str(error), "type": kind, "code": error.code}}, status_code=error.status, headers=headers
    )
