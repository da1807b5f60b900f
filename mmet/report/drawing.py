"""The canvas of the report's pictures, laid out in logical pixels and in the colours of a theme.

    drawing = Drawing(320, 170, LIGHT)
    drawing.text(8, 8, "mAP", size=14, bold=True)
    Path("picture.png").write_bytes(drawing.png())

Text of size 10 is 10 logical pixels high.
"""

from __future__ import annotations

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from mmet.evaluation.analyses.panels import line_label
from mmet.figure_style import Theme, font_families

_CAPITALS, _LINE_PITCH = 0.77, 1.3
"""Height of capitals and distance of lines, in multiples of the text size."""


class Drawing:
    """A picture laid out in logical pixels from the top left corner; `overlay` are axes over all of it.

    Args:
        width, height: size in logical pixels.
        theme: the colours.
        scale: image pixels per logical pixel.
        transparent: whether to leave out the background.
    """

    def __init__(self, width: float, height: float, theme: Theme, *, scale: float = 2, transparent: bool = False):
        self.width, self.height, self.theme, self.scale = width, height, theme, scale
        self.ground = (0, 0, 0, 0) if transparent else theme.ground
        self._pictures: list[tuple[Image.Image, tuple[int, int]]] = []
        # At 72 dots per inch a point is a pixel, so font sizes are in logical pixels too.
        self.figure = Figure(figsize=(width / 72, height / 72), dpi=72 * scale, facecolor="none")
        FigureCanvasAgg(self.figure)
        self.overlay = self.figure.add_axes((0, 0, 1, 1), facecolor="none", zorder=2)
        self.overlay.set(xlim=(0, width), ylim=(height, 0))
        self.overlay.set_axis_off()

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Add axes in the given box, in the theme's colours, without top and right spines."""
        box = (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        ax = self.figure.add_axes(box, facecolor="none")
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color(self.theme.line)
        ax.tick_params(colors=self.theme.muted, labelsize=9.5, length=0, pad=4, labelfontfamily=font_families())
        ax.grid(color=self.theme.line, linewidth=0.6)
        ax.set_axisbelow(True)
        return ax

    def text(
        self,
        left: float,
        top: float,
        string: str,
        *,
        size: float = 11,
        color: str | None = None,
        bold: bool = False,
        align: str = "left",
    ) -> None:
        """Draw text; the tops of capitals are at `top`. `$` does not start mathematics."""
        for number, line in enumerate(string.split("\n")):
            self.overlay.text(
                left,
                top + (_CAPITALS + _LINE_PITCH * number) * size,
                line_label(line),
                fontsize=size,
                fontfamily=font_families(),
                fontweight="bold" if bold else "normal",
                color=color or self.theme.ink,
                ha=align,
                va="baseline",
                parse_math=False,
            )

    def picture(self, left: float, top: float, width: float, height: float, image: Image.Image) -> None:
        """Add a picture that fills the given box, below everything that is drawn."""
        box = [round(length * self.scale) for length in (left, top, width, height)]
        self._pictures.append((ImageOps.fit(image, (box[2], box[3]), Image.Resampling.LANCZOS), (box[0], box[1])))

    def png(self) -> bytes:
        """Return the picture as the bytes of a PNG file."""
        agg = self.figure.canvas
        assert isinstance(agg, FigureCanvasAgg)
        agg.draw()  # type: ignore[no-untyped-call]
        drawing = Image.fromarray(np.asarray(agg.buffer_rgba()))  # type: ignore[no-untyped-call]
        result = Image.new("RGBA", drawing.size, self.ground)
        # Pasted, because matplotlib takes ten times as long to draw an image.
        for picture, corner in self._pictures:
            result.paste(picture, corner)
        result.alpha_composite(drawing)
        buffer = io.BytesIO()
        whole = result if self.ground == (0, 0, 0, 0) else result.convert("RGB")
        whole.save(buffer, format="PNG", dpi=(72 * self.scale, 72 * self.scale))  # a logical pixel is a point in print
        return buffer.getvalue()
