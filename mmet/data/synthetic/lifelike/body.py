"""Build a person of swept ellipsoids: limbs, garments with their bulk and length, hair, hats, bags.

body = Body(look, place_joints(look.build, posture), posture, lens, relief)
body.build()
body.surfaces[relief.surface]      # what each pixel shows
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

from mmet.data.synthetic.canvas import Part
from mmet.data.synthetic.identity import RGB
from mmet.data.synthetic.lifelike.people import Garment, Look, Thing
from mmet.data.synthetic.lifelike.poses import Joints, Posture
from mmet.data.synthetic.lifelike.relief import Lens, Point, Relief

Radii = tuple[float, float, float]


class Role(IntEnum):
    """Which coordinates decide the detail of a surface."""

    PLAIN = 0
    TORSO = 1
    SLEEVE = 2
    LEG = 3
    SKIRT = 4
    HEAD = 5
    HAIR = 6


@dataclass(frozen=True, slots=True)
class Surface:
    """The meaning of a surface number in the relief."""

    part: Part
    rgb: RGB
    texture: str
    role: Role = Role.PLAIN
    garment: Garment | None = None


class Body:
    """One person in one posture, built into a relief."""

    def __init__(self, look: Look, joints: Joints, posture: Posture, lens: Lens, relief: Relief) -> None:
        self.look, self.joints, self.posture, self.lens, self.relief = look, joints, posture, lens, relief
        self.surfaces: list[Surface] = [Surface(Part.SKIN, (0, 0, 0), "none")]  # number 0 is what is behind
        self.girth = look.build.girth
        self.limb_girth = 0.62 + 0.38 * look.build.girth
        self.turn = posture.turn

    def build(self) -> None:
        """Build the whole person: body, clothes and things carried."""
        self.relief.behind = 0.045 * self.lens.scale
        self._legs()
        self.relief.behind = 0.02 * self.lens.scale
        self._lower_body()
        self.relief.behind = 0.0
        self._trunk()
        self._arms()
        self._head()
        self._hair()
        self._headwear()
        self._scarf()
        self._bag()
        self._carried()

    # -- tools ---------------------------------------------------------------------------------------------------

    def surface(
        self, part: Part, rgb: RGB, texture: str, role: Role = Role.PLAIN, garment: Garment | None = None
    ) -> int:
        self.surfaces.append(Surface(part, rgb, texture, role, garment))
        return len(self.surfaces) - 1

    def limb(self, surface: int, points: tuple[Point, ...], radii: tuple[float, ...], heights: bool = True) -> None:
        """Round limbs through `points`, with a radius at each."""
        scale = self.lens.scale
        seen = [self.lens(point) for point in points]
        for index in range(len(points) - 1):
            first, last = radii[index], radii[index + 1]
            along = (points[index][1], points[index + 1][1]) if heights else (float(index), index + 1.0)
            size = max(first * scale, 0.6)
            self.relief.sweep(seen[index], seen[index + 1], (size, size, size), last / first, surface, along)

    def blob(self, surface: int, center: Point, radii: Radii, boxy: bool = False) -> None:
        """One ellipsoid."""
        place = self.lens(center)
        half = self.lens.radii(radii)
        bottom, top = center[1] - radii[1], center[1] + radii[1]
        self.relief.sweep(place, place, half, 1.0, surface, (bottom, top), boxy)

    def column(
        self, surface: int, rows: tuple[tuple[Point, float, float], ...], tall: float = 0.03, boxy: bool = False
    ) -> None:
        """A body of elliptic slices (centre, half width, half depth), top to bottom."""
        for (start, wide, deep), (end, wide_end, deep_end) in pairwise(rows):
            half, last = self.lens.radii((wide, tall, deep)), self.lens.radii((wide_end, tall, deep_end))
            half = (max(half[0], 0.6), max(half[1], 0.6), max(half[2], 0.6))
            along = (start[1], end[1])
            self.relief.sweep(
                self.lens(start), self.lens(end), half, last[0] / half[0], surface, along, boxy, last[2] / half[2]
            )

    # -- legs ----------------------------------------------------------------------------------------------------

    def _legs(self) -> None:
        look, thick = self.look, self.limb_girth
        shapes = (self._thigh, 0.041 * thick, 0.027 * thick)
        lower = look.lower
        bare = lower is None or lower.kind.endswith("skirt")
        skin = self.surface(Part.LEGWEAR, look.legwear, "skin")
        flesh = self.surface(Part.SKIN, look.skin, "skin")
        cloth = 0
        if lower is not None and not bare:
            cloth = self.surface(Part.TROUSER_LEG, lower.rgb, lower.cut.texture, Role.LEG, lower)
        for side in (0, 1):
            hip, knee, ankle = self.joints.hips[side], self.joints.knees[side], self.joints.ankles[side]
            self._shoe(side, knee, ankle, covered=not bare and lower is not None and lower.kind != "shorts")
            if bare:
                self.limb(skin, (hip, knee, ankle), shapes)
            elif lower is not None and lower.kind == "shorts":
                self.limb(flesh, (knee, ankle), shapes[1:])
                end = _between(hip, knee, 0.8)
                self.limb(flesh, (end, knee), (shapes[1] * 1.1, shapes[1]))
                self.limb(cloth, (hip, end), (shapes[0] * 1.06, shapes[1] * 1.25 * lower.bulk))
            elif lower is not None:
                end = _between(knee, ankle, 0.6 if look.shoes.kind == "boots" else 0.95)
                loose = lower.bulk
                radii = (shapes[0] * (0.8 + 0.24 * loose), shapes[1] * loose * 1.06, shapes[2] * (loose * 1.75 - 0.6))
                self.limb(cloth, (hip, knee, end), radii)

    def _shoe(self, side: int, knee: Point, ankle: Point, covered: bool) -> None:
        look, shoes = self.look, self.look.shoes
        x, y, z = ankle
        raised = max(0.0, y - 0.05)
        heel: Point = (x, y - 0.02 + raised * 0.2, z - 0.018)
        toe: Point = (x * 1.1, max(0.018, y - 0.024 - raised * 0.5), z + 0.085)
        bare = shoes.kind == "sandals"
        upper = self.surface(Part.SHOE, shoes.rgb, "leather" if shoes.kind != "trainers" else "smooth")
        sole = self.surface(
            Part.SOLE, look.sole if shoes.kind in {"trainers", "ankle boots"} else (40, 36, 34), "hard"
        )
        under = -0.012 if shoes.kind == "trainers" else -0.008
        self.limb(sole, ((heel[0], heel[1] + under, heel[2]), (toe[0], toe[1] + under, toe[2])), (0.023, 0.02))
        self.limb(self.surface(Part.SKIN, look.skin, "skin") if bare else upper, (heel, toe), (0.025, 0.021))
        if bare:
            self.limb(upper, (_between(heel, toe, 0.55), _between(heel, toe, 0.7)), (0.026, 0.025))
        if shoes.kind in {"boots", "ankle boots"}:
            top = _between(ankle, knee, 0.62 if shoes.kind == "boots" else 0.2)
            tight = 0.04 if not covered or shoes.kind == "boots" else 0.028
            self.limb(upper, (top, ankle, heel), (tight * self.limb_girth, 0.031, 0.026))
        elif shoes.kind == "trainers":
            self.limb(upper, (ankle, heel), (0.026, 0.026))

    # -- trunk ---------------------------------------------------------------------------------------------------

    def _profile(self, bulk: float) -> dict[float, tuple[float, float]]:
        """Half width and half depth of the trunk by body height."""
        build, female = self.look.build, self.look.gender == "female"
        shoulders, hips, girth = build.shoulders, build.hips, self.girth
        return {
            0.835: (0.055 * shoulders, 0.042 * bulk),
            0.79: (0.1 * shoulders * (0.7 + 0.3 * bulk), 0.058 * girth * bulk),
            0.72: (0.1 * shoulders * (0.45 + 0.55 * girth) * bulk, (0.069 + 0.006 * female) * girth * bulk),
            0.61: (
                (0.076 if female else 0.086) * (0.35 + 0.65 * girth) * (1 + 0.25 * build.belly) * bulk,
                0.06 * girth * (1 + build.belly) * bulk,
            ),
            0.53: (0.09 * hips * (0.45 + 0.55 * girth) * bulk, 0.069 * girth * (1 + 0.4 * build.belly) * bulk),
        }

    @property
    def _thigh(self) -> float:
        return (0.066 if self.look.gender == "female" else 0.062) * self.limb_girth

    def _rows(self, bulk: float, heights: tuple[float, ...]) -> list[tuple[Point, float, float]]:
        profile = self._profile(bulk)
        rows = []
        for y in heights:
            wide, deep = profile[y]
            deep = max(deep, self._thigh + 0.006) if y == 0.53 else deep
            rows.append((self.joints.trunk(y), wide, deep))
        return rows

    def _trunk(self) -> None:
        look = self.look
        skin = self.surface(Part.SKIN, look.skin, "skin")
        neck = self.joints.trunk(0.89, 0.006)
        self.limb(skin, (neck, self.joints.trunk(0.82)), (0.034 * (0.7 + 0.3 * self.girth), 0.042))
        garment = look.outermost
        part = self.surface(Part.UPPER, garment.rgb, garment.cut.texture, Role.TORSO, garment)
        rows = self._rows(garment.bulk, (0.835, 0.79, 0.72, 0.61, 0.53))
        hem = garment.hem
        if look.dress and not look.outer:
            hem = look.top.hem
        if hem < 0.5:
            _, wide, deep = rows[-1]
            flare = 1.04 + (0.53 - hem) * (1.6 if garment.kind in {"dress", "sleeveless dress"} else 0.9)
            if garment.cut.texture == "padded" or garment.kind in {"jumper", "sweatshirt", "hoodie"}:
                flare = 0.98
            rows.append((self.joints.trunk(hem), wide * flare, max(deep * flare, self._reach(hem))))
        self.column(part, tuple(rows), tall=0.022)
        self._shoulders(part, garment)
        self._collar(garment)

    def _reach(self, height: float) -> float:
        """Half the depth of a garment that hangs over the legs at `height`."""
        reach = 0.0
        joints = self.joints
        for hip, knee, ankle in zip(joints.hips, joints.knees, joints.ankles, strict=True):
            first, last = (hip, knee) if height > knee[1] - joints.lift else (knee, ankle)
            share = min(1.0, max(0.0, (first[1] - joints.lift - height) / max(first[1] - last[1], 0.01)))
            thick = self._thigh * (1 - 0.5 * share) if first is hip else 0.03
            reach = max(reach, abs(first[2] + share * (last[2] - first[2])) * 0.9 + thick)
        return reach

    def _shoulders(self, part: int, garment: Garment) -> None:
        round_ = 0.036 * (0.6 + 0.4 * self.girth) * (0.5 + 0.5 * garment.bulk)
        neck = self.joints.trunk(0.838)
        for side in (0, 1):
            x, y, z = self.joints.shoulders[side]
            outer: Point = (x * 0.9, y, z)
            if garment.cut.sleeve == "none" and garment.kind in {"tank top", "sleeveless dress"}:
                outer = (x * 0.72, y + 0.01, z)
            self.limb(part, (neck, outer), (0.034, round_))

    def _collar(self, garment: Garment) -> None:
        collar = garment.cut.collar
        part = self.surface(Part.TRIM, _darker(garment.rgb, 0.86), garment.cut.texture)
        if collar in {"high", "lapels", "shirt"} or self.look.hood_up:
            wide = 0.05 if collar == "high" else 0.047
            rows = (
                (self.joints.trunk(0.862 if collar == "high" else 0.85), wide, wide),
                (self.joints.trunk(0.832), 0.058, 0.05),
            )
            self.column(part, rows, tall=0.008)
        if garment.hood and not self.look.hood_up:
            hood = self.surface(Part.UPPER2, _darker(garment.rgb, 0.92), garment.cut.texture)
            for x in (-0.03, 0.03):
                self.blob(hood, self.joints.trunk(0.828, -0.058 * self.girth, x), (0.045, 0.036, 0.036))

    def _lower_body(self) -> None:
        look = self.look
        if look.lower is None:
            if look.outer:  # the dress shows below the outer garment
                self._skirt(look.top, Part.LOWER)
            return
        if look.lower.kind.endswith("skirt"):
            self._skirt(look.lower, Part.LOWER)
            return
        lower = look.lower
        part = self.surface(Part.LOWER, lower.rgb, lower.cut.texture, Role.LEG, lower)
        rows = self._rows(1.0, (0.61, 0.53))
        _, wide, deep = rows[1]
        self.column(part, (*rows, (self.joints.trunk(0.475), wide * 0.98, deep * 0.96)), tall=0.02)

    def _skirt(self, garment: Garment, kind: Part) -> None:
        part = self.surface(kind, garment.rgb, garment.cut.texture, Role.SKIRT, garment)
        rows = self._rows(1.0, (0.61, 0.53))
        _, wide, deep = rows[1]
        flare = garment.bulk * (1.06 + 0.25 * (0.53 - garment.hem))
        rows.append((self.joints.trunk(garment.hem), wide * flare, max(deep * flare, self._reach(garment.hem))))
        self.column(part, tuple(rows), tall=0.018)

    # -- arms ----------------------------------------------------------------------------------------------------

    def _arms(self) -> None:
        look, garment = self.look, self.look.outermost
        thick = self.limb_girth * (0.9 if look.gender == "female" else 1.0)
        bulk = 0.35 + 0.65 * garment.bulk
        worn = garment
        if garment.cut.sleeve == "none" and look.outer:
            worn, bulk = look.top, 0.35 + 0.65 * look.top.bulk
        rgb = worn.second_rgb if worn.pattern == "sleeves" else worn.rgb
        if worn.pattern == "yoke":
            rgb = worn.second_rgb
        sleeve = self.surface(Part.SLEEVE, rgb, worn.cut.texture, Role.SLEEVE, worn)
        skin = self.surface(Part.SKIN, look.skin, "skin")
        radii = (0.041 * thick, 0.031 * thick, 0.021 * thick)
        for side in (0, 1):
            shoulder, elbow, wrist = (j[side] for j in (self.joints.shoulders, self.joints.elbows, self.joints.wrists))
            hand = _between(wrist, elbow, -0.13)
            if self.posture.arms[side] != "pockets":
                self.limb(skin, (wrist, hand), (0.02, 0.022))
            if worn.cut.sleeve == "long":
                self.limb(
                    sleeve,
                    (shoulder, elbow, wrist),
                    (radii[0] * bulk * 1.06, radii[1] * bulk * 1.2, radii[2] * bulk * 1.25),
                    heights=False,
                )
                continue
            self.limb(skin, (shoulder, elbow, wrist), radii)
            if worn.cut.sleeve == "short":
                self.limb(
                    sleeve, (shoulder, _between(shoulder, elbow, 0.68)), (radii[0] * 1.1, radii[0] * 1.06), False
                )

    # -- head ----------------------------------------------------------------------------------------------------

    def _at_head(self, x: float, y: float, z: float) -> Point:
        """A point given relative to the centre of the head, which turns and nods."""
        size = self.look.build.head
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        x, y, z = x * size, y * size, z * size
        return self.joints.trunk(0.93 + y, z * cos - x * sin + self.posture.nod + 0.012, x * cos + z * sin)

    def _head_blob(self, surface: int, center: Point, radii: Radii, boxy: bool = False) -> None:
        size = self.look.build.head
        self.blob(surface, self._at_head(*center), (radii[0] * size, radii[1] * size, radii[2] * size), boxy)

    def _head(self) -> None:
        face = self.surface(Part.FACE, self.look.skin, "skin", Role.HEAD)
        self._head_blob(face, (0, 0, 0), (0.048, 0.064, 0.056))
        self._head_blob(face, (0, -0.028, 0.014), (0.035, 0.036, 0.04))

    def _hair(self) -> None:
        look = self.look
        style = look.hair
        if look.hood_up or (look.hat and look.hat.kind == "headscarf"):
            return
        if style == "bald":
            return
        hair = self.surface(Part.HAIR, look.hair_rgb, "hair", Role.HAIR)
        if style == "receding":
            self._head_blob(hair, (0, 0.0, -0.014), (0.052, 0.045, 0.05))
            return
        volume = {"cropped": 1.0, "short": 1.08, "curly": 1.22, "afro": 1.6, "long curly": 1.22, "bob": 1.12}
        size = min(1.06, volume.get(style, 1.06)) if look.hat else volume.get(style, 1.06)
        lift = 0.014 * size
        self._head_blob(hair, (0, lift, -0.012), (0.051 * size, 0.06 * size, 0.057 * size))
        self._head_blob(hair, (0, 0.036, 0.012), (0.043, 0.03, 0.047))
        if style in {"bob", "long", "long curly", "curly"}:
            down = {"bob": 0.075, "curly": 0.055, "long": 0.16, "long curly": 0.15}[style]
            wide = 0.05 * (1.25 if "curly" in style else 1.0)
            for x in (-0.028, 0.0, 0.028):
                self.limb(
                    hair,
                    (self._at_head(x * 1.35, 0.0, -0.02), self._at_head(x * 1.4, -down, -0.032)),
                    (wide * 0.72, wide * (0.62 if style != "long" else 0.46)),
                )
        if style == "ponytail":
            self.limb(
                hair,
                (self._at_head(0, 0.02, -0.06), self._at_head(0, -0.02, -0.085), self._at_head(0, -0.11, -0.07)),
                (0.018, 0.025, 0.01),
            )
        if style == "bun":
            self._head_blob(hair, (0, 0.05, -0.052), (0.03, 0.028, 0.028))

    def _headwear(self) -> None:
        look, hat = self.look, self.look.hat
        if look.hood_up:
            garment = look.outermost
            hood = self.surface(Part.UPPER2, _darker(garment.rgb, 0.95), garment.cut.texture)
            self._head_blob(hood, (0, 0.008, -0.016), (0.066, 0.08, 0.066))
            self._head_blob(hood, (0, -0.065, -0.012), (0.068, 0.04, 0.062))
            return
        if hat is None:
            return
        cloth = self.surface(Part.HAT, hat.rgb, "knit" if hat.kind in {"beanie", "bobble hat"} else "smooth")
        if hat.kind == "headscarf":
            self._head_blob(cloth, (0, 0.006, -0.014), (0.06, 0.074, 0.062))
            self._head_blob(cloth, (0, -0.07, -0.002), (0.066, 0.04, 0.06))
            return
        if hat.kind in {"beanie", "bobble hat"}:
            self._head_blob(cloth, (0, 0.03, -0.006), (0.055, 0.05, 0.062))
            rim = self.surface(Part.HAT2, _darker(hat.rgb, 0.88), "knit")
            self._head_blob(rim, (0, 0.018, -0.004), (0.057, 0.016, 0.064), boxy=True)
            if hat.kind == "bobble hat":
                self._head_blob(
                    self.surface(Part.HAT2, hat.second_rgb, "hair"), (0, 0.088, -0.008), (0.025, 0.023, 0.025)
                )
            return
        crown = 0.042 if hat.kind == "cap" else 0.05
        self._head_blob(cloth, (0, 0.03, -0.004), (0.054, crown, 0.06))
        brim = self.surface(Part.HAT2, hat.rgb if hat.size > 0.95 else hat.second_rgb, "smooth")
        if hat.kind == "cap":
            self._head_blob(brim, (0, 0.024, 0.07), (0.042, 0.008, 0.045))
        else:
            self._head_blob(brim, (0, 0.022, 0.0), (0.098, 0.009, 0.102))

    def _scarf(self) -> None:
        scarf = self.look.scarf
        if scarf is None:
            return
        part = self.surface(Part.SCARF, scarf.rgb, "knit")
        self.column(
            part,
            ((self.joints.trunk(0.866, 0.006), 0.056, 0.056), (self.joints.trunk(0.838), 0.066, 0.062)),
            tall=0.016,
        )
        if scarf.size > 1.0:
            deep = 0.075 * self.girth * self.look.outermost.bulk
            side = 0.022 * self.look.side
            self.limb(
                part,
                (
                    self.joints.trunk(0.84, 0.05, side),
                    self.joints.trunk(0.72, deep, side * 1.3),
                    self.joints.trunk(0.64, deep, side * 1.3),
                ),
                (0.022, 0.024, 0.024),
            )

    # -- things carried ------------------------------------------------------------------------------------------

    def _bag(self) -> None:
        bag = self.look.bag
        if bag is None:
            return
        part = self.surface(Part.BAG, bag.rgb, "leather" if bag.size > 1.05 else "heavy")
        accent = self.surface(Part.BAG2, _darker(bag.rgb, 0.7) if bag.size < 1.1 else bag.second_rgb, "heavy")
        build = {
            "backpack": self._backpack,
            "shoulder bag": self._hanging,
            "tote bag": self._hanging,
            "crossbody bag": self._hanging,
            "handbag": self._in_hand,
            "carrier bag": self._in_hand,
            "briefcase": self._in_hand,
            "suitcase": self._suitcase,
        }[bag.kind]
        build(bag, part, accent)

    def _backpack(self, bag: Thing, part: int, accent: int) -> None:
        back = -(0.062 * self.girth * self.look.outermost.bulk + 0.038)
        size = bag.size
        self.blob(part, self.joints.trunk(0.705, back), (0.074 * size, 0.105 * size, 0.052 * size), boxy=True)
        self.blob(accent, self.joints.trunk(0.66, back - 0.04 * size), (0.056 * size, 0.045 * size, 0.024), boxy=True)

    def _hanging(self, bag: Thing, part: int, accent: int) -> None:
        side, kind = self.look.side, bag.kind
        wide, tall, y = {
            "shoulder bag": (0.07, 0.055, 0.53), "tote bag": (0.075, 0.09, 0.52), "crossbody bag": (0.068, 0.052, 0.5),
        }[kind]  # fmt: skip
        out = 0.1 * self.look.build.hips * (0.4 + 0.6 * self.girth) * self.look.outermost.bulk + 0.026
        center = self.joints.trunk(y, -0.015, side * out)
        self.blob(part, center, (0.03, tall * bag.size, wide * bag.size), boxy=True)
        self.blob(
            accent,
            (center[0] + side * 0.012, center[1] + tall * 0.45, center[2]),
            (0.022, tall * 0.4, wide * 0.9),
            True,
        )
        deep = 0.07 * self.girth * self.look.outermost.bulk
        start = -1 if kind == "crossbody bag" else 0.72
        top = self.joints.trunk(0.835, 0.0, side * 0.075 * start)
        for z in (deep, -deep):
            middle = self.joints.trunk(0.69, z, side * (0.0 if kind == "crossbody bag" else 0.075))
            self.limb(part, (top, middle, (center[0] * 0.9, center[1] + tall * 0.8, z * 0.5)), (0.008, 0.009, 0.008))

    def _in_hand(self, bag: Thing, part: int, accent: int) -> None:
        x, y, z = self.joints.wrists[1 if self.look.side > 0 else 0]
        wide, tall, thick = {
            "handbag": (0.065, 0.048, 0.03), "carrier bag": (0.075, 0.095, 0.035), "briefcase": (0.09, 0.062, 0.022),
        }[bag.kind]  # fmt: skip
        wide, tall = wide * bag.size, tall * bag.size
        below = 0.045 + tall
        self.blob(part, (x + self.look.side * 0.01, y - below, z), (thick, tall, wide), boxy=True)
        for shift in (-0.4, 0.4):
            end: Point = (x, y - below + tall * 0.9, z + shift * wide)
            self.limb(accent, ((x, y - 0.02, z), end), (0.006, 0.006))

    def _suitcase(self, bag: Thing, part: int, accent: int) -> None:
        x, y, z = self.joints.wrists[1 if self.look.side > 0 else 0]
        side = self.look.side
        center: Point = (x + side * 0.05, 0.16, z - 0.12)
        self.blob(part, center, (0.085 * bag.size, 0.14, 0.05), boxy=True)
        self.limb(accent, ((x, y - 0.02, z), (center[0], 0.29, center[2])), (0.007, 0.007))

    def _carried(self) -> None:
        thing = self.look.carried
        if thing is None:
            return
        hand = self.joints.wrists[0 if self.look.side > 0 else 1]
        x, y, z = hand
        if thing.kind == "umbrella":
            metal = self.surface(Part.THING, (60, 60, 64), "hard")
            cloth = self.surface(Part.THING, thing.rgb, "smooth")
            top: Point = (x * 0.5, 1.13, z * 0.5)
            self.limb(metal, (hand, top), (0.006, 0.006))
            self.blob(cloth, (top[0], top[1] - 0.03, top[2]), (0.25 * thing.size, 0.075, 0.25 * thing.size))
        elif thing.kind == "papers":
            self.blob(self.surface(Part.THING, thing.rgb, "hard"), (x, y + 0.01, z + 0.03), (0.045, 0.03, 0.03), True)
        elif thing.kind == "cup":
            self.blob(
                self.surface(Part.THING, thing.rgb, "hard"), (x, y + 0.03, z + 0.02), (0.014, 0.024, 0.014), True
            )
        else:
            self.blob(
                self.surface(Part.THING, (24, 24, 28), "hard"), (x, y + 0.03, z + 0.01), (0.01, 0.026, 0.014), True
            )


def _between(start: Point, end: Point, share: float) -> Point:
    ax, ay, az = start
    bx, by, bz = end
    return ax + (bx - ax) * share, ay + (by - ay) * share, az + (bz - az) * share


def _darker(rgb: RGB, factor: float) -> RGB:
    red, green, blue = (min(255, round(c * factor)) for c in rgb)
    return red, green, blue
