"""From footage to person crops: videos in, a folder of crops with camera, track, time and box out.

    from mmet import footage
    footage.read(["entrance.mp4", "yard.mp4"], "crops", every=4)

The folder is in the `folder` layout of `mmet.data`: whatever reads a dataset reads it. See `docs/footage.md`.
"""

from __future__ import annotations

from mmet.footage.boxes import Detections, FootageError
from mmet.footage.decode import Frame, open_footage
from mmet.footage.detect import Detector
from mmet.footage.reading import CameraReport, read

__all__ = ["CameraReport", "Detections", "Detector", "FootageError", "Frame", "open_footage", "read"]
