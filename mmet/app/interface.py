"""The page's functions for programs, with the same checks and messages.

    client = gradio_client.Client("http://127.0.0.1:7860")
    client.predict(text="a woman in a red jacket", k=5, api_name="/search")

Pictures go in and come out as `data:` addresses (`data:image/jpeg;base64,…`). Calls keep no state.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from mmet.app.catalogue import Catalogue
from mmet.app.explaining import Explanations
from mmet.app.requests import RequestError, SearchRequest
from mmet.app.searching import Answer, readable_errors, search, sightings_of
from mmet.app.uploads import read_picture
from mmet.app.views import LARGE, picture_uri
from mmet.gallery.listing import write_json
from mmet.report.page import jpeg_uri
from mmet.serving.request_pictures import decode_data_address

MATCHES = 10


class Interface:
    """Functions for programs that search the galleries of a page."""

    def __init__(self, catalogue: Catalogue, explanations: Explanations) -> None:
        self._catalogue, self._explanations = catalogue, explanations

    def offer(self) -> None:
        """Add the functions to the blocks that are being built."""
        for function in (self.galleries, self.search, self.explain, self.timeline):
            gr.events.api(function, api_name=function.__name__, concurrency_limit=8, concurrency_id="programs")

    def galleries(self) -> list[dict[str, Any]]:
        """List the galleries: `name`, number of `rows`, names of `cameras`."""
        with _errors_for_programs():
            offered = [self._catalogue.get(name) for name in self._catalogue.names]
            return [{"name": entry.name, "rows": len(entry.gallery), "cameras": entry.cameras} for entry in offered]

    def search(
        self,
        text: str = "",
        image: str = "",
        crop: str = "",
        gallery: str = "",
        k: int = MATCHES,
        cameras: list[str] = [],  # noqa: B006  # never changed; Gradio shows the default to programs
        after: str = "",
        before: str = "",
        by_track: bool = False,
        pictures: bool = False,
    ) -> dict[str, Any]:
        """
        Find the crops most similar to a sentence, a picture, a crop of the gallery, or a sentence with one of these.

        Args:
            text: a sentence.
            image: a picture as a `data:` address.
            crop: id of a row, whose picture is the query.
            gallery: name of a gallery; empty for the first.
            k: largest number of matches.
            cameras: names of the cameras to search; none for all.
            after, before: moments, such as `1:02:05` or `2024-05-01T12:00:00`.
            by_track: whether to return tracks, each by its best crop, instead of crops.
            pictures: whether matches come with their pictures.

        Returns:
            `in_gallery`, `searched`, `notes` and `matches`, as printed by `mmet-gallery search --json`.
        """
        with _errors_for_programs():
            request = SearchRequest(
                gallery=gallery, text=text, picture=_picture(image), crop=crop, cameras=tuple(cameras or ()),
                after=after, before=before, k=k, by_track=by_track,
            )  # fmt: skip
            answer = search(self._catalogue, request)
            fields: dict[str, Any] = json.loads(write_json(answer.result, indent=None))
            for entry, match in zip(fields["matches"], answer.result, strict=True):
                if pictures:
                    entry["picture"] = picture_uri(match, LARGE)
            return fields

    def explain(self, id: str, text: str = "", image: str = "", gallery: str = "") -> list[dict[str, Any]]:
        """
        Explain what makes a crop of a gallery similar to a query, by pictures of the crop under a map.

        Args:
            id: id of the crop.
            text, image, gallery: as for `search`.

        Returns:
            `label` and `picture` for the whole query, then for each word.
        """
        with _errors_for_programs():
            answer = self._ask(text, image, gallery)
            panels = self._explanations.panels(answer, self._row(answer, id))
            return [{"label": panel.label, "picture": jpeg_uri(panel.picture)} for panel in panels]

    def timeline(self, id: str, gallery: str = "") -> list[dict[str, Any]]:
        """
        List where and when the person of a crop was seen, in the order of time.

        Args:
            id: id of the crop.
            gallery: name of a gallery; empty for the first.

        Returns:
            `camera_id`, `track_id`, `start`, `end`, `score`, `probability` and `id` of each sighting's best crop.
        """
        with _errors_for_programs():
            answer = search(self._catalogue, SearchRequest(gallery=gallery, crop=id, k=1))
            names = ("camera_id", "track_id", "start", "end", "score", "probability")
            return [
                {**{name: getattr(seen, name) for name in names}, "id": seen.best.id}
                for seen in sightings_of(answer, self._row(answer, id))
            ]

    def _ask(self, text: str, image: str, gallery: str) -> Answer:
        request = SearchRequest(gallery=gallery, text=text, picture=_picture(image), k=1)
        return search(self._catalogue, request)

    def _row(self, answer: Answer, id: str) -> Any:
        with readable_errors():
            rows = answer.offered.gallery.find([id])
        if not rows:
            raise RequestError(f"There is no crop {id!r} in “{answer.offered.name}”.")
        return rows[0]


def _picture(address: str) -> Any:
    """Read the picture of a `data:` address; None for an empty one. Raises `RequestError` if that fails."""
    if not address:
        return None
    try:
        content = decode_data_address(address)
    except ValueError as error:
        raise RequestError(f"image: {error}") from error
    return read_picture(content, "The image")


@contextmanager
def _errors_for_programs() -> Iterator[None]:
    """Turn `RequestError`s into the errors that Gradio hands to programs."""
    try:
        yield
    except RequestError as error:
        raise gr.Error(str(error), print_exception=False) from error
