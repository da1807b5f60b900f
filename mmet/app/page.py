"""The page: Gradio's components and the handlers of their events.

blocks = build_page(Handlers(Catalogue.open(["people"]), PageOptions(), folder=Path("/tmp/page")))
"""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable
from typing import Any

import gradio as gr

from mmet.app.handlers import CROPS, MAX_VISITS, TRACKS, Handlers, unit_of
from mmet.app.interface import Interface
from mmet.app.requests import MATCHES
from mmet.app.views import read_asset
from mmet.figure_style import DARK, LIGHT, Theme

TITLE = "MMET · find a person"
COUNTS = (12, MATCHES, 48, 96, 200)

_VISIT_SECONDS = 3_600
_SEARCHES_AT_ONCE = 8


def only_uploads(component: type[Any]) -> type[Any]:
    """
    Make a variant of a Gradio component that passes uploads on unread and fetches nothing from addresses.

    `read_picture` opens the file later, within limits and with messages for visitors. The variant is a class, because
    Gradio creates a field again from its class whenever the page updates it. The class is made without Gradio's
    metaclass, which would write a file beside this module.
    """

    def check(place: Any) -> Any:
        if place is not None and str(place).startswith(("http:", "https:", "data:")):
            raise gr.Error("Upload the picture itself; addresses are not fetched.", print_exception=False)
        return place

    def store(self: Any, place: Any) -> Any:
        return component.move_resource_to_block_cache(self, check(place))

    async def store_later(self: Any, place: Any) -> Any:
        return await component.async_move_resource_to_block_cache(self, check(place))

    def preprocess(self: Any, payload: Any) -> Any:
        is_picture = hasattr(payload, "path")  # several files come as a list
        return payload.path if is_picture else component.preprocess(self, payload)

    methods = {
        "move_resource_to_block_cache": store,
        "async_move_resource_to_block_cache": store_later,
        "preprocess": preprocess,
    }
    fields = {"__module__": component.__module__, "__doc__": component.__doc__}
    made: type[Any] = ABCMeta.__new__(type(component), component.__name__, (component,), fields | methods)
    return made


UploadedPicture = only_uploads(gr.Image)
UploadedFiles = only_uploads(gr.File)


def build_page(handlers: Handlers) -> gr.Blocks:
    """Build the page as Gradio blocks, to be mounted with `style` and `theme`."""
    first = handlers.catalogue.get("")
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, _VISIT_SECONDS)) as blocks:
        # First, because Gradio names events after their functions, and only the first of two keeps the bare name.
        Interface(handlers.catalogue, handlers.explanations).offer()
        # Not a bound method: Gradio copies the page's description for every visitor, and would copy the model with it.
        visit = gr.State(None, time_to_live=_VISIT_SECONDS, delete_callback=lambda left: handlers.forget(left))
        crop, link, file = (gr.Textbox("", visible="hidden", elem_id=name) for name in ("crop", "link", "file"))
        _html(read_asset("header.html"), "mm-header")
        with gr.Row(elem_id="mm-ask"):
            picture = UploadedPicture(
                type="filepath", sources=["upload", "clipboard"], label="Picture of the person", height=196,
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
                        handlers.catalogue.names, value=first.name, label="Gallery", elem_id="mm-gallery",
                        visible=len(handlers.catalogue.names) > 1, min_width=150,
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
        timeline = _html("", "mm-when")
        with gr.Row(elem_id="mm-main"):
            with gr.Column(scale=5, min_width=300, elem_id="mm-left"):
                with gr.Row(elem_id="mm-export"):
                    csv = gr.Button("Save as CSV", size="sm", elem_id="mm-csv", min_width=110)
                    sheet = gr.Button("Save as HTML", size="sm", elem_id="mm-sheet", min_width=110)
                    copy = gr.Button("Copy link", size="sm", elem_id="mm-copy", min_width=110)
                results = _html(handlers.views.welcome(first), "mm-results", read_asset("results.js"))
            with gr.Column(scale=3, min_width=300, elem_id="mm-right"):
                details = _html("", "mm-detail", read_asset("details.js"))
        with gr.Accordion("Search your own pictures", open=False, elem_id="mm-own"):
            files = UploadedFiles(file_count="multiple", label="Crops that show one person each", height=140)
            with gr.Row():
                use = gr.Button("Search these pictures", size="sm", elem_id="mm-use")
                camera = gr.Textbox(
                    label="Camera", placeholder="of pictures to add", visible=handlers.options.writable
                )
                add = gr.Button("Add to the gallery", size="sm", elem_id="mm-add", visible=handlers.options.writable)
            said = _html("", "mm-said")
        _html(handlers.views.footer(logs=handlers.options.log is not None), "mm-foot")

        asked = [visit, gallery, text, picture, crop, cameras, after, before, count, unit]
        answered = [visit, results, details, timeline, link]
        hide: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        busy: dict[str, Any] = {
            "show_progress": "minimal", "show_progress_on": results, "api_visibility": "private",
            "concurrency_limit": _SEARCHES_AT_ONCE, "concurrency_id": "search",
        }  # fmt: skip
        long: dict[str, Any] = {**hide, "concurrency_limit": 2, "concurrency_id": "long"}
        remember: Callable[[Any], Any] = lambda event: event.then(None, link, None, js="mmet.remember")  # noqa: E731

        def look_for(event: Any) -> None:
            remember(event.then(handlers.search, asked, answered, **busy))

        remember(gr.on([text.submit, button.click], handlers.search, asked, answered, **busy))
        changes = [cameras.input, after.submit, before.submit, count.input, unit.input]
        remember(gr.on(changes, handlers.search_again, asked, answered, **busy))
        chosen = [cameras, unit, results, details, timeline, link]
        gallery.input(handlers.choose_gallery, [visit, gallery], chosen, **hide)
        picture.clear(lambda: "", None, crop, **hide)
        look_for(picture.upload(lambda: "", None, crop, **hide))
        look_for(results.click(handlers.take_example, [visit, gallery], [text, picture, crop], **hide))
        look_for(details.submit(handlers.find_person, visit, [text, picture, crop], **hide))
        results.select(handlers.show_details, visit, details, trigger_mode="always_last", **long)
        results.select(lambda: "", None, timeline, js="(...values) => { mmet.open(); return values; }", **hide)
        details.clear(lambda: ("", ""), None, [details, timeline], **hide)
        details.click(handlers.show_timeline, visit, timeline, **long).then(None, None, None, js="mmet.showTimeline")
        details.delete(handlers.remove_match, visit, details, **hide)
        for save, kind in ((csv, "csv"), (sheet, "html")):
            save.click(lambda visit, kind=kind: handlers.export(visit, kind), visit, file, **hide).success(
                lambda _: "", file, file, js=f"mmet.save{kind.upper()}", **hide
            )
        copy.click(None, None, None, js="mmet.copyLink")
        use.click(handlers.build_own, [visit, gallery, files], [visit, gallery, said], **long).then(
            handlers.choose_gallery, [visit, gallery], chosen, **hide
        )
        add.click(handlers.add_pictures, [gallery, camera, files], said, **long)
        fields = [gallery, text, picture, crop, cameras, after, before, count, unit]
        blocks.load(handlers.restore, [visit, link], [*fields, *answered], js="mmet.arrive", **hide)
    # Visitors learn their place in the queue once a second; for many visitors, each change would cost more than the
    # answers do.
    blocks.queue(max_size=1_000, default_concurrency_limit=4, status_update_rate=1)
    blocks.state_session_capacity = MAX_VISITS
    page: gr.Blocks = blocks
    return page


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
