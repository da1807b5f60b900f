"""A depth buffer for bodies made of swept ellipsoids, and the camera that sees them.

Every limb, garment and bag is the volume that an ellipsoid sweeps on its way between two points while it grows or
shrinks. `Relief.sweep` writes the nearest surface of each pixel: its normal, how far along the sweep it lies, and
which surface it is. Shading happens once, afterwards, on the whole picture.
"""

from __future__ import annotations

import math

import numpy as np

Point = tuple[float, float, float]


class Lens:
    """Projection of body coordinates (x to the person's left, y up, z to the front; body height 1) to pixels.

    Args:
        yaw: view angle in radians, 0 front, positive to the person's right side.
        elevation: how far the camera looks down, in radians.
        roll: rotation of the picture, as a wide lens shows people at its edge, in radians.
        scale: pixels of one body height.
        foot: pixel (x, y) of the ground between the feet.
        near: how much larger a point is drawn for each body height that it is closer to the camera.
    """

    def __init__(
        self, yaw: float, elevation: float, roll: float, scale: float, foot: tuple[float, float], near: float
    ) -> None:
        self.yaw, self.elevation, self.scale, self.foot, self.near = yaw, elevation, scale, foot, near
        self.cos, self.sin = math.cos(yaw), math.sin(yaw)
        self.rise, self.drop = math.cos(elevation), math.sin(elevation)
        self.roll_cos, self.roll_sin = math.cos(roll), math.sin(roll)

    def __call__(self, point: Point) -> Point:
        """Pixel x, pixel y and depth towards the camera, in pixels."""
        x, y, z = point
        across, out = x * self.cos + z * self.sin, z * self.cos - x * self.sin
        down, depth = self.drop * out - self.rise * y, self.rise * out + self.drop * y
        size = self.scale * (1 + self.near * depth)
        across, down = across * size, down * size
        sx = self.foot[0] + across * self.roll_cos - down * self.roll_sin
        sy = self.foot[1] + across * self.roll_sin + down * self.roll_cos
        return sx, sy, depth * self.scale

    def radii(self, radii: Point) -> Point:
        """Half axes in pixels on the screen (across, down, depth) of an ellipsoid that stands upright in the body."""
        wide, tall, deep = radii
        across = math.hypot(wide * self.cos, deep * self.sin) * self.scale
        out = math.hypot(wide * self.sin, deep * self.cos) * self.scale
        tall *= self.scale
        return across, math.hypot(tall * self.rise, out * self.drop), math.hypot(out * self.rise, tall * self.drop)

    def body_direction(self, nx: np.ndarray, ny: np.ndarray, nz: np.ndarray) -> tuple[np.ndarray, ...]:
        """Screen normals as directions (to the person's left, up, to the front)."""
        out, up = self.drop * ny + self.rise * nz, self.drop * nz - self.rise * ny
        return nx * self.cos - out * self.sin, up, nx * self.sin + out * self.cos


class Relief:
    """Nearest surfaces by pixel.

    Attributes:
        depth: float32 (H, W), -inf where nothing is.
        nx, ny: the surface normal to the right and down, -1..1.
        along: body height, or another coordinate, between the two ends of the sweep.
        surface: uint8 number of the surface, 0 where nothing is.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.depth = np.full((height, width), -np.inf, dtype=np.float32)
        self.nx, self.ny, self.along = (np.zeros((height, width), dtype=np.float32) for _ in range(3))
        self.surface = np.zeros((height, width), dtype=np.uint8)
        self.behind = 0.0  # pixels by which what is added next lies behind its place: clothes hang over legs
        self.columns = np.arange(width, dtype=np.float32) + np.float32(0.5)
        self.rows = np.arange(height, dtype=np.float32) + np.float32(0.5)

    def sweep(
        self,
        start: Point,
        end: Point,
        radii: Point,
        growth: float,
        surface: int,
        along: tuple[float, float] = (0.0, 1.0),
        boxy: bool = False,
        deepening: float | None = None,
    ) -> None:
        """Add an ellipsoid that moves from `start` to `end` (pixels and depth) and grows to `growth` of its `radii`.

        `deepening` is the growth of its depth, where that is another one.
        """
        (ax, ay, az), (bx, by, bz), (rx, ry, rz) = start, end, radii
        most = max(1.0, growth)
        left, right = max(0, int(min(ax, bx) - rx * most)), min(self.width, int(max(ax, bx) + rx * most) + 2)
        top, bottom = max(0, int(min(ay, by) - ry * most)), min(self.height, int(max(ay, by) + ry * most) + 2)
        if left >= right or top >= bottom:
            return
        window = slice(top, bottom), slice(left, right)
        x, y = (self.columns[left:right] - ax) / rx, (self.rows[top:bottom] - ay) / ry
        dx, dy = (bx - ax) / rx, (by - ay) / ry
        length = dx * dx + dy * dy
        if length > 1e-4:
            share = np.add.outer(y * (dy / length), x * (dx / length))
            np.maximum(share, 0, out=share)
            np.minimum(share, 1, out=share)
        else:
            share = np.zeros((len(y), len(x)), dtype=np.float32)
        ux, uy = x - share * dx, y[:, None] - share * dy
        square = ux * ux
        down = uy * uy
        if boxy:
            square *= square
            down *= down
        square += down
        size = 1 + share * (growth - 1)
        edge = size * size
        if boxy:
            edge *= edge
        shown = square < edge
        square /= edge
        np.subtract(1, square, out=square)  # the square of the normal towards the camera
        np.maximum(square, 0, out=square)
        front = np.sqrt(square, out=square)
        front *= size if deepening is None else 1 + share * (deepening - 1)
        front *= rz
        front += share * (bz - az)
        front += az - self.behind
        near = self.depth[window]
        shown &= front > near
        np.copyto(near, front, where=shown)
        ux /= size
        uy /= size
        np.copyto(self.nx[window], ux, where=shown)
        np.copyto(self.ny[window], uy, where=shown)
        share *= along[1] - along[0]
        share += along[0]
        np.copyto(self.along[window], share, where=shown)
        np.copyto(self.surface[window], np.uint8(surface), where=shown)
