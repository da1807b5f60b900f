"""Read videos and write a folder of person crops with camera, track, time and box.

    from mmet import footage
    footage.read(["entrance.mp4", "yard.mp4"], "crops", every=4)

The folder has the `folder` layout of `mmet.data`: everything that reads a dataset reads it. See `docs/footage.md`.
"""

from __future__ import annotations

from mmet.footage.boxes import Detections, FootageError
from mmet.footage.decode import Frame, open_footage
from mmet.footage.detect import Detector
from mmet.footage.reading import CameraReport, read

__all__ = ["CameraReport", "Detections", "Detector", "FootageError", "Frame", "open_footage", "read"]
