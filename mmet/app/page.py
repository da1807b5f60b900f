"""The page: Gradio's components and what happens when they are used. Its logic is in the other modules.

page = Page(Catalogue.open(["people"]), PageOptions(), folder=Path("/tmp/page"))
blocks = page.build()
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from threading import Lock
from typing import Any

import gradio as gr

from mmet.app.catalogue import Catalogue, OfferedGallery
from mmet.app.explaining import Explanations, Panel
from mmet.app.interface import Interface
from mmet.app.requests import MATCHES, RequestError, SearchRequest
from mmet.app.searching import Answer, gallery_of, readable_errors, search, sightings_of
from mmet.app.uploads import OwnGallery, read_entries, read_picture
from mmet.app.views import Views, read_asset
from mmet.gallery.listing import write_csv
from mmet.gallery.sheet import render_sheet
from mmet.report.drawing import DARK, LIGHT, Theme

logger = logging.getLogger(__name__)

TITLE = "MMET · find a person"
COUNTS = (12, MATCHES, 48, 96, 200)
CROPS, TRACKS = "Crops", "Tracks"
MAX_VISITS = 200
"""Visitors whose last answer is kept, and whose own pictures are; the oldest go first."""

_VISIT_SECONDS = 3_600
_UNEXPECTED = (
    "Something went wrong here, and it is not your fault. Whoever runs this page finds the reason in its log."
)
_SEARCHES_AT_ONCE = 8


@dataclass(frozen=True)
class PageOptions:
    """
    Attributes:
        writable: whether visitors may add crops to the galleries and remove them.
        log: file to which searches are appended, a JSON object a line; None to keep no record.
    """

    writable: bool = False
    log: Path | None = None


@dataclass(frozen=True, eq=False)
class Visit:
    """What the page remembers of a visitor until she leaves: her last answer and her own gallery."""

    answer: Answer | None = None
    own: OwnGallery | None = None

    @property
    def own_offered(self) -> OfferedGallery | None:
        """Her own gallery, as the page's galleries are."""
        return None if self.own is None else self.own.offered


class QueryImage(gr.Image):
    """Gradio's picture field, which hands over files as they are, and fetches none from addresses."""

    is_template = True

    def preprocess(self, payload: Any) -> str | None:
        """The uploaded file; `read_picture` opens it, within limits and with messages for visitors."""
        return None if payload is None else payload.path

    def move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        return super().move_resource_to_block_cache(_local(url_or_file_path))

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        return await super().async_move_resource_to_block_cache(_local(url_or_file_path))


class QueryFiles(gr.File):
    """Gradio's field for files, which fetches none from addresses."""

    is_template = True

    def move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        return super().move_resource_to_block_cache(_local(url_or_file_path))

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        return await super().async_move_resource_to_block_cache(_local(url_or_file_path))


def _local(place: str | Path | None) -> str | Path | None:
    if place is not None and str(place).startswith(("http:", "https:", "data:")):
        raise gr.Error("Upload the picture itself; addresses are not fetched.")
    return place


class Page:
    """The page over some galleries.

    Args:
        catalogue: the galleries.
        options: what visitors may do.
        folder: for pictures that visitors add; whoever makes the page removes it afterwards.
    """

    def __init__(self, catalogue: Catalogue, options: PageOptions, folder: Path) -> None:
        self.catalogue, self.options, self.folder = catalogue, options, folder
        self.views = Views()
        self.explanations = Explanations()
        self._own: list[OwnGallery] = []
        self._lock = Lock()

    # -- what happens -----------------------------------------------------------------------------------------------

    def search(
        self, visit: Visit | None, gallery: str, text: str, picture: str | None, crop: str, *filters: Any
    ) -> tuple[Visit, str, str, str, str]:
        """Answer the fields: the visit, answer, details, timeline and link that follow."""
        visit = visit or Visit()
        try:
            shown = None if picture is None or crop else read_picture(picture, "This picture")
            request = make_request(gallery, text, shown, crop, *filters)
            answer = search(self.catalogue, request, own=visit.own_offered)
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
        """The same after a filter was changed; before there is anybody to search for, nothing happens."""
        if not (text or "").strip() and picture is None and not crop:
            return tuple(gr.skip() for _ in range(5))
        return self.search(visit, gallery, text, picture, crop, *filters)

    def choose_gallery(self, visit: Visit | None, gallery: str) -> Any:
        """What changes when another gallery is chosen: cameras, unit, answer, details, timeline, link."""
        try:
            offered = gallery_of(self.catalogue, gallery, (visit or Visit()).own_offered)
        except RequestError as error:
            return gr.skip(), gr.skip(), self.views.message(str(error)), "", "", ""
        cameras = gr.update(choices=offered.cameras, value=[], visible=len(offered.cameras) > 1)
        return cameras, unit_of(offered), self.views.welcome(offered), "", "", ""

    def restore(self, visit: Visit | None, link: str) -> Any:
        """The page as a link has it: all fields, then what `search` gives."""
        try:
            request = SearchRequest.from_link(link or "")
            offered = gallery_of(self.catalogue, request.gallery, (visit or Visit()).own_offered)
        except RequestError as error:
            request, offered = SearchRequest(), self.catalogue.get("")
            return *self._fields(request, offered, unit_of(offered)), visit, self.views.message(str(error)), "", "", ""
        if request.is_empty:
            return *self._fields(request, offered, unit_of(offered)), visit, self.views.welcome(offered), "", "", ""
        unit = TRACKS if request.by_track else CROPS
        filters = [list(request.cameras), request.after, request.before, request.k, unit]
        result = self.search(visit, offered.name, request.text, None, request.crop, *filters)
        picture = None if result[0].answer is None else result[0].answer.request.picture
        return *self._fields(request, offered, unit, picture), *result

    def show_details(self, visit: Visit | None, event: gr.EventData) -> Iterator[str]:
        """A match's details: at once, then with each step of its explanation."""
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
        """Where and when the person of a match was seen."""
        try:
            answer = answer_of(visit)
            return self.views.timeline(sightings_of(answer, answer.match(whole(event, "timeline"))))
        except RequestError as error:
            return self.views.message(str(error), is_error=False)

    def find_person(self, visit: Visit | None, event: gr.EventData) -> Any:
        """The fields of a search for a match: sentence, picture and crop."""
        try:
            match = answer_of(visit).match(whole(event, "find"))
            with readable_errors():
                return "", match.open_image(), match.id
        except RequestError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def take_example(self, visit: Visit | None, gallery: str, event: gr.EventData) -> Any:
        """The fields of an example that was clicked: a sentence, or a crop of the gallery."""
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
            raise gr.Error(str(error), print_exception=False) from error

    def build_own(self, visit: Visit | None, gallery: str, files: Sequence[str] | None) -> Any:
        """Make a visitor's pictures her own gallery: visit, galleries to choose from, what to say."""
        visit = visit or Visit()
        try:
            with readable_errors():
                embedder = self.catalogue.get("" if visit.own and gallery == visit.own.offered.name else gallery)
                own = OwnGallery.build(_named(files), embedder.gallery.embedder, self.folder)
        except RequestError as error:
            return visit, gr.skip(), self.views.message(str(error))
        self.forget(visit)
        with self._lock:
            self._own.append(own)
            for oldest in self._own[:-MAX_VISITS]:
                oldest.delete()
            self._own = self._own[-MAX_VISITS:]
        names = [*self.catalogue.names, own.offered.name]
        choice = gr.update(choices=names, value=own.offered.name, visible=True)
        return Visit(own=own), choice, self.views.message(own.description, is_error=False)

    def add_pictures(self, gallery: str, camera: str, files: Sequence[str] | None) -> str:
        """Add pictures to a gallery, where the page is writable: what to say."""
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
        """Remove a match from its gallery, where the page is writable: what to say."""
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
        """The last answer as a file: CSV, or a contact sheet in HTML."""
        try:
            answer = answer_of(visit)
        except RequestError as error:
            raise gr.Error(str(error), print_exception=False) from error
        if kind == "csv":
            return write_csv(answer.result)
        return render_sheet(answer.offered.gallery, answer.query, answer.result, answer.request.filter_words)

    def forget(self, visit: Visit | None) -> None:
        """Delete what was kept of a visitor."""
        if visit is not None and visit.own is not None:
            visit.own.delete()
            with self._lock:
                self._own = [own for own in self._own if own is not visit.own]

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

    def _fields(self, request: SearchRequest, offered: OfferedGallery, unit: str, picture: Any = None) -> list[Any]:
        """Values of all fields that a link sets, in the order of `build`."""
        cameras = gr.update(choices=offered.cameras, value=list(request.cameras), visible=len(offered.cameras) > 1)
        return [
            offered.name, request.text, picture, request.crop if picture is not None else "", cameras,
            request.after, request.before, request.k, unit,
        ]  # fmt: skip

    # -- how it looks -----------------------------------------------------------------------------------------------

    def build(self) -> gr.Blocks:
        """The page as Gradio's blocks; hand `STYLE` to whoever mounts them."""
        first = self.catalogue.get("")
        with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, _VISIT_SECONDS)) as blocks:
            visit = gr.State(None, time_to_live=_VISIT_SECONDS, delete_callback=self.forget)
            crop, link, file = (gr.Textbox("", visible="hidden", elem_id=name) for name in ("crop", "link", "file"))
            _html(read_asset("header.html"), "mm-header")
            with gr.Row(elem_id="mm-ask"):
                picture = QueryImage(
                    type="filepath", sources=["upload", "clipboard"], label="Picture of the person", height=190,
                    elem_id="mm-picture", min_width=150, scale=1, buttons=[],
                )  # fmt: skip
                with gr.Column(scale=5, min_width=280):
                    with gr.Row(elem_id="mm-sentence"):
                        text = gr.Textbox(
                            label="Whom are you looking for?", placeholder="a woman in a red jacket with a backpack",
                            elem_id="mm-text", autofocus=True, lines=1, max_lines=3, scale=6, min_width=220,
                        )  # fmt: skip
                        button = gr.Button("Search", variant="primary", elem_id="mm-search", scale=1, min_width=110)
                    with gr.Row(elem_id="mm-filters"):
                        gallery = gr.Dropdown(
                            self.catalogue.names, value=first.name, label="Gallery", elem_id="mm-gallery",
                            visible=len(self.catalogue.names) > 1, min_width=150,
                        )  # fmt: skip
                        cameras = gr.Dropdown(
                            first.cameras, label="Cameras", multiselect=True, value=[], elem_id="mm-cameras",
                            visible=len(first.cameras) > 1, min_width=170,
                        )  # fmt: skip
                        after = gr.Textbox(label="From", placeholder="1:02:05", elem_id="mm-after", min_width=110)
                        before = gr.Textbox(label="To", placeholder="1:10:00", elem_id="mm-before", min_width=110)
                        unit = gr.Radio(
                            [CROPS, TRACKS], value=unit_of(first), label="Show", elem_id="mm-unit", min_width=180
                        )
                        count = gr.Dropdown(COUNTS, value=MATCHES, label="Results", elem_id="mm-count", min_width=90)
            with gr.Row(elem_id="mm-main"):
                with gr.Column(scale=5, min_width=300, elem_id="mm-left"):
                    results = _html(self.views.welcome(first), "mm-results", read_asset("results.js"))
                    with gr.Row(elem_id="mm-export"):
                        csv = gr.Button("Save as CSV", size="sm", elem_id="mm-csv", min_width=110)
                        sheet = gr.Button("Save as HTML", size="sm", elem_id="mm-sheet", min_width=110)
                        copy = gr.Button("Copy link", size="sm", elem_id="mm-copy", min_width=110)
                with gr.Column(scale=3, min_width=300, elem_id="mm-right"):
                    details = _html("", "mm-detail", read_asset("details.js"))
                    timeline = _html("", "mm-when")
            with gr.Accordion("Search your own pictures", open=False, elem_id="mm-own"):
                files = QueryFiles(file_count="multiple", label="Crops that show one person each", height=140)
                with gr.Row():
                    use = gr.Button("Search these pictures", size="sm", elem_id="mm-use")
                    camera = gr.Textbox(
                        label="Camera", placeholder="of pictures to add", visible=self.options.writable
                    )
                    add = gr.Button("Add to the gallery", size="sm", elem_id="mm-add", visible=self.options.writable)
                said = _html("", "mm-said")
            _html(self.views.footer(logs=self.options.log is not None), "mm-foot")

            asked = [visit, gallery, text, picture, crop, cameras, after, before, count, unit]
            answered = [visit, results, details, timeline, link]
            hide = {"show_progress": "hidden", "api_visibility": "private"}
            busy = {
                "show_progress": "minimal", "show_progress_on": results, "api_visibility": "private",
                "concurrency_limit": _SEARCHES_AT_ONCE, "concurrency_id": "search",
            }  # fmt: skip
            long = {**hide, "concurrency_limit": 2, "concurrency_id": "long"}
            remember: Callable[[Any], Any] = lambda event: event.then(None, link, None, js="mmet.remember")  # noqa: E731

            def look_for(event: Any) -> None:
                remember(event.then(self.search, asked, answered, **busy))

            remember(gr.on([text.submit, button.click], self.search, asked, answered, **busy))
            changes = [cameras.input, after.submit, before.submit, count.input, unit.input]
            remember(gr.on(changes, self.search_again, asked, answered, **busy))
            chosen = [cameras, unit, results, details, timeline, link]
            gallery.input(self.choose_gallery, [visit, gallery], chosen, **hide)
            picture.clear(lambda: "", None, crop, **hide)
            look_for(picture.upload(lambda: "", None, crop, **hide))
            look_for(results.click(self.take_example, [visit, gallery], [text, picture, crop], **hide))
            look_for(details.submit(self.find_person, visit, [text, picture, crop], **hide))
            results.select(self.show_details, visit, details, trigger_mode="always_last", **long).then(
                None, None, None, js="mmet.settle"
            )
            results.select(lambda: "", None, timeline, js="(...values) => { mmet.open(); return values; }", **hide)
            details.clear(lambda: ("", ""), None, [details, timeline], **hide)
            details.click(self.show_timeline, visit, timeline, **long)
            details.delete(self.remove_match, visit, details, **hide)
            for save, kind in ((csv, "csv"), (sheet, "html")):
                save.click(lambda visit, kind=kind: self.export(visit, kind), visit, file, **hide).success(
                    lambda: "", file, file, js=f"mmet.save{kind.upper()}", **hide
                )
            copy.click(None, None, None, js="mmet.copyLink")
            use.click(self.build_own, [visit, gallery, files], [visit, gallery, said], **long).then(
                self.choose_gallery, [visit, gallery], chosen, **hide
            )
            add.click(self.add_pictures, [gallery, camera, files], said, **long)
            fields = [gallery, text, picture, crop, cameras, after, before, count, unit]
            blocks.load(self.restore, [visit, link], [*fields, *answered], js="mmet.arrive", **hide)
            Interface(self.catalogue, self.explanations).offer()
        blocks.queue(max_size=1_000, default_concurrency_limit=4)
        blocks.state_session_capacity = MAX_VISITS
        return blocks


def make_request(gallery: str, text: str, picture: Any, crop: str, *filters: Any) -> SearchRequest:
    """The request of the page's fields; `filters` are cameras, from, to, how many, and crops or tracks."""
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
    """What a gallery is shown as at first: tracks where it has some."""
    return TRACKS if any(row.track_id is not None for row in offered.samples) else CROPS


def answer_of(visit: Visit | None) -> Answer:
    """The last answer. Raises `RequestError` where there is none, or none any more."""
    if visit is None or visit.answer is None:
        raise RequestError("There is no answer yet, or it is too old: search first.")
    return visit.answer


def whole(event: gr.EventData, name: str) -> int:
    """A whole number that the browser sent with an event. Raises `RequestError`."""
    value = event._data.get(name) if isinstance(event._data, dict) else None
    if isinstance(value, bool) or not isinstance(value, int):
        raise RequestError("The browser sent something that the page does not understand; load it again.")
    return value


def _named(files: Sequence[str] | None) -> list[tuple[str, str]]:
    return [(Path(path).name, path) for path in files or ()]


def _html(value: str, name: str, script: str | None = None) -> gr.HTML:
    return gr.HTML(value, elem_id=name, apply_default_css=False, js_on_load=script, padding=False)


def _colours(theme: Theme, tint: str) -> str:
    return (
        f"--mm-ground:{theme.ground};--mm-ink:{theme.ink};--mm-muted:{theme.muted};--mm-line:{theme.line};"
        f"--mm-accent:{theme.accent};--mm-yes:{theme.match};--mm-no:{theme.mismatch};--mm-tint:{tint};"
    )


def style() -> str:
    """The page's CSS, in the colours of the project's figures."""
    light, dark = _colours(LIGHT, "#f3f5f8"), _colours(DARK, "#1e2329")
    return f":root{{{light}}}\n.dark{{{dark}}}\n" + read_asset("page.css")


def theme() -> Any:
    """Gradio's plainest theme with the system's fonts, so that nothing is loaded from elsewhere."""
    fonts = [
        "ui-sans-serif",
        "system-ui",
        "-apple-system",
        "Segoe UI",
        "Roboto",
        "Helvetica Neue",
        "Arial",
        "sans-serif",
    ]
    return gr.themes.Base(font=fonts, font_mono=["ui-monospace", "Consolas", "monospace"], radius_size="md")
