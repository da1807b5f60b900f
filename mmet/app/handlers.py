"""The handlers of the page's events: each takes values of the page's fields and returns new ones.

handlers = Handlers(Catalogue.open(["people"]), PageOptions(), folder=Path("/tmp/page"))
visit, answer, details, timeline, link = handlers.search(None, "people", "a man in black", None, "", *filters)
"""

from __future__ import annotations

import html
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from threading import Lock
from typing import Any

import gradio as gr

from mmet.app.catalogue import Catalogue, OfferedGallery
from mmet.app.explaining import Explanations, Panel
from mmet.app.requests import MATCHES, RequestError, SearchRequest
from mmet.app.searching import Answer, gallery_of, readable_errors, search, sightings_of
from mmet.app.uploads import OwnGallery, read_entries, read_picture
from mmet.app.views import Views
from mmet.gallery.listing import write_csv
from mmet.gallery.sheet import render_sheet

logger = logging.getLogger(__name__)

CROPS, TRACKS = "Crops", "Tracks"
MAX_VISITS = 200
"""Visitors whose last answer and pictures are kept; those of the oldest visits are dropped first."""

_FIELDS, _ANSWERED = 9, 5
"""Number of fields that a link sets, and of values that an answer sets."""

_UNEXPECTED = "Something went wrong on our side. The log of this page has the details."


@dataclass(frozen=True)
class PageOptions:
    """
    Attributes:
        writable: whether visitors may add crops to the galleries and remove them.
        log: file to which searches are appended, one JSON object per line; None to keep no record.
    """

    writable: bool = False
    log: Path | None = None


@dataclass(frozen=True, eq=False)
class Visit:
    """What the page remembers of a visitor until they leave: the last answer, and a gallery of their pictures."""

    answer: Answer | None = None
    own_gallery: OwnGallery | None = None

    @property
    def own_offered(self) -> OfferedGallery | None:
        """The visitor's own gallery, in the form of the page's galleries."""
        return None if self.own_gallery is None else self.own_gallery.offered


class Handlers:
    """The handlers of one page.

    Args:
        catalogue: the galleries of the page.
        options: what visitors may do.
        folder: folder for pictures that visitors add; the caller removes it in the end.
    """

    def __init__(self, catalogue: Catalogue, options: PageOptions, folder: Path) -> None:
        self.catalogue, self.options, self.folder = catalogue, options, folder
        self.views = Views()
        self.explanations = Explanations()
        self._own_galleries: list[OwnGallery] = []
        self._lock = Lock()

    def search(
        self, visit: Visit | None, gallery: str, text: str, picture: str | None, crop: str, *filters: Any
    ) -> tuple[Visit, str, str, str, str]:
        """Search with the values of the fields; return the new visit, answer, details, timeline and link."""
        visit = visit or Visit()
        try:
            shown = None if picture is None or crop else read_picture(picture, "This picture")
            request = make_request(gallery, text, shown, crop, *filters)
            answer = search(self.catalogue, request, own_gallery=visit.own_offered)
        except RequestError as error:
            return replace(visit, answer=None), self.views.message(str(error)), "", "", ""
        except Exception:
            logger.exception("a search failed")
            return replace(visit, answer=None), self.views.message(_UNEXPECTED), "", "", ""
        self._log(answer)
        return replace(visit, answer=answer), self.views.answer(answer), "", "", request.link

    def search_again(
        self, visit: Visit | None, gallery: str, text: str, picture: str | None, crop: str, *filters: Any
    ) -> Any:
        """Search again after a filter was changed; change nothing while the fields name nobody."""
        if not (text or "").strip() and picture is None and not crop:
            return _unchanged(_ANSWERED)
        return self.search(visit, gallery, text, picture, crop, *filters)

    def choose_gallery(self, visit: Visit | None, gallery: str) -> Any:
        """Show another gallery: return cameras, unit, start page, and empty details, timeline and link."""
        try:
            offered = gallery_of(self.catalogue, gallery, (visit or Visit()).own_offered)
        except RequestError as error:
            return gr.skip(), gr.skip(), self.views.message(str(error)), "", "", ""
        cameras = gr.update(choices=offered.cameras, value=[], visible=len(offered.cameras) > 1)
        return cameras, unit_of(offered), self.views.welcome(offered), "", "", ""

    def restore(self, visit: Visit | None, link: str) -> Any:
        """Restore the page from a link: return all fields, then the values of `search`; no change without a link."""
        try:
            request = SearchRequest.from_link(link or "")
            offered = gallery_of(self.catalogue, request.gallery, (visit or Visit()).own_offered)
        except RequestError as error:
            return *_unchanged(_FIELDS), visit, self.views.message(str(error)), "", "", ""
        if not link:
            return _unchanged(_FIELDS + _ANSWERED)
        if request.is_empty:
            return *self._fields(request, offered, None), visit, self.views.welcome(offered), "", "", ""
        unit = TRACKS if request.by_track else CROPS
        filters = [list(request.cameras), request.after, request.before, request.k, unit]
        result = self.search(visit, offered.name, request.text, None, request.crop, *filters)
        picture = None if result[0].answer is None else result[0].answer.request.picture
        return *self._fields(request, offered, picture), *result

    def show_details(self, visit: Visit | None, event: gr.EventData) -> Iterator[str]:
        """Yield a match's details: first without its explanation, then again as parts of that are ready."""
        try:
            answer, rank = answer_of(visit), whole(event, "rank")
            match = answer.match(rank)
            with readable_errors():
                track = answer.track_of(match)
        except RequestError as error:
            yield self.views.message(str(error))
            return

        def details(**more: Any) -> str:
            can_remove = self.options.writable
            return self.views.details(answer, match, rank, track=track, can_remove=can_remove, **more)

        yield details()
        panels: list[Panel] = []
        try:
            with readable_errors():
                for panel in self.explanations.panels(answer, match):
                    panels.append(panel)
                    if len(panels) == 1:
                        yield details(panels=panels)
                yield details(panels=panels)
        except RequestError as error:
            yield details(panels=panels, note=str(error))
        except Exception:
            logger.exception("an explanation failed")
            yield details(panels=panels, note=_UNEXPECTED)

    def show_timeline(self, visit: Visit | None, event: gr.EventData) -> str:
        """Show where and when the person of a match was seen."""
        try:
            answer = answer_of(visit)
            return self.views.timeline(sightings_of(answer, answer.match(whole(event, "timeline"))))
        except RequestError as error:
            return self.views.message(str(error), is_error=False)

    def find_person(self, visit: Visit | None, event: gr.EventData) -> Any:
        """Return the fields of a search for the person of a match: no sentence, picture and id of the crop."""
        try:
            match = answer_of(visit).match(whole(event, "find"))
            with readable_errors():
                return "", match.open_image(), match.id
        except RequestError as error:
            raise _shown(error) from error

    def take_example(self, visit: Visit | None, gallery: str, event: gr.EventData) -> Any:
        """Return sentence, picture and crop id of an example that was clicked, a sentence or a crop."""
        text = getattr(event, "text", None) if "text" in event._data else None
        if isinstance(text, str):
            return text, None, ""
        try:
            samples = gallery_of(self.catalogue, gallery, (visit or Visit()).own_offered).samples
            number = whole(event, "sample")
            if not 1 <= number <= len(samples):
                raise RequestError("This person is not here any more; load the page again.")
            with readable_errors():
                return "", samples[number - 1].open_image(), samples[number - 1].id
        except RequestError as error:
            raise _shown(error) from error

    def build_own(self, visit: Visit | None, gallery: str, files: Sequence[str] | None) -> Any:
        """Build a gallery of a visitor's pictures; return the new visit, the choice of galleries and a message."""
        visit = visit or Visit()
        try:
            with readable_errors():
                is_own = visit.own_offered is not None and gallery == visit.own_offered.name
                embedder = self.catalogue.get("" if is_own else gallery).gallery.embedder
                own_gallery = OwnGallery.build(_named(files), embedder, self.folder)
        except RequestError as error:
            return visit, gr.skip(), self.views.message(str(error))
        self.forget(visit)
        with self._lock:
            self._own_galleries.append(own_gallery)
            for oldest in self._own_galleries[:-MAX_VISITS]:
                oldest.delete()
            self._own_galleries = self._own_galleries[-MAX_VISITS:]
        names = [*self.catalogue.names, own_gallery.offered.name]
        choice = gr.update(choices=names, value=own_gallery.offered.name, visible=True)
        message = self.views.message(own_gallery.description, is_error=False)
        return Visit(own_gallery=own_gallery), choice, message

    def add_pictures(self, gallery: str, camera: str, files: Sequence[str] | None) -> str:
        """Add pictures to a gallery if the page is writable; return a message."""
        try:
            if not self.options.writable:
                raise RequestError("The galleries of this page are read-only.")
            offered = self.catalogue.get(gallery)
            entries, skipped = read_entries(_named(files))
            with readable_errors(), self._lock:
                rows = [{**entry, "camera_id": camera.strip() or None} for entry in entries]
                report = offered.gallery.add(rows, num_workers=1)
        except RequestError as error:
            return self.views.message(str(error))
        left_out = f" {len(skipped)} left out, because they cannot be read." if skipped else ""
        return self.views.message(f"{report.added} added to “{offered.name}”.{left_out}", is_error=False)

    def remove_match(self, visit: Visit | None, event: gr.EventData) -> str:
        """Remove a match from its gallery if the page is writable; return a message."""
        try:
            if not self.options.writable:
                raise RequestError("The galleries of this page are read-only.")
            answer = answer_of(visit)
            with readable_errors(), self._lock:
                answer.offered.gallery.remove([answer.match(whole(event, "remove")).id])
        except RequestError as error:
            return self.views.message(str(error))
        return self.views.message("Removed. Search again to see what is left.", is_error=False)

    def export(self, visit: Visit | None, kind: str) -> str:
        """Return the last answer as a file's text: CSV, or a contact sheet in HTML."""
        try:
            answer = answer_of(visit)
        except RequestError as error:
            raise _shown(error) from error
        if kind == "csv":
            return write_csv(answer.result)
        words = [*answer.request.filter_words, *(["tracks by their best crop"] if answer.request.by_track else [])]
        return render_sheet(answer.offered.gallery, answer.query, answer.result, words)

    def forget(self, visit: Visit | None) -> None:
        """Delete what is kept of a visitor."""
        if visit is not None and visit.own_gallery is not None:
            visit.own_gallery.delete()
            with self._lock:
                self._own_galleries = [kept for kept in self._own_galleries if kept is not visit.own_gallery]

    def _log(self, answer: Answer) -> None:
        if self.options.log is None:
            return
        request = answer.request
        line = {
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "gallery": answer.offered.name,
            "text": request.text,
            "crop": request.crop,
            "picture": request.picture is not None,
            "filters": request.filter_words,
        }
        with self._lock, self.options.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _fields(self, request: SearchRequest, offered: OfferedGallery, picture: Any) -> list[Any]:
        """Values of all fields that a link sets, in the order of `build_page`."""
        cameras = gr.update(choices=offered.cameras, value=list(request.cameras), visible=len(offered.cameras) > 1)
        return [
            offered.name, request.text, picture, request.crop if picture is not None else "", cameras,
            request.after, request.before, request.k, TRACKS if request.by_track else CROPS,
        ]  # fmt: skip


def _shown(error: RequestError) -> gr.Error:
    """The error that Gradio shows over the page. Gradio reads the text as HTML, so it is escaped."""
    return gr.Error(html.escape(str(error), quote=False), print_exception=False)


def _unchanged(count: int) -> tuple[Any, ...]:
    return tuple(gr.skip() for _ in range(count))


def make_request(gallery: str, text: str, picture: Any, crop: str, *filters: Any) -> SearchRequest:
    """Make a request of the page's fields; `filters` are cameras, from, to, number of results, and crops or tracks."""
    cameras, after, before, count, unit = filters
    return SearchRequest(
        gallery=gallery or "",
        text=text or "",
        picture=picture,
        crop=crop or "",
        cameras=tuple(map(str, cameras or ())),
        after=after or "",
        before=before or "",
        k=int(count or MATCHES),
        by_track=unit == TRACKS,
    )


def unit_of(offered: OfferedGallery) -> str:
    """Whether a gallery is shown as crops or as tracks at first: tracks if the first rows have any."""
    return TRACKS if any(row.track_id is not None for row in offered.samples) else CROPS


def answer_of(visit: Visit | None) -> Answer:
    """The last answer of a visit. Raises `RequestError` if there is none, or it was dropped."""
    if visit is None or visit.answer is None:
        raise RequestError("There is no answer yet, or it is too old: search first.")
    return visit.answer


def whole(event: gr.EventData, name: str) -> int:
    """Read a whole number that the browser sent with an event. Raises `RequestError` for anything else."""
    value = event._data.get(name) if isinstance(event._data, dict) else None
    if isinstance(value, bool) or not isinstance(value, int):
        raise RequestError("The browser sent something that the page does not understand; load it again.")
    return value


def _named(files: Sequence[str] | None) -> list[tuple[str, str]]:
    return [(Path(path).name, path) for path in files or ()]
