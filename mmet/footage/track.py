"""Tracking: which boxes of successive frames show the same person (ByteTrack, from the library `trackers`).

    tracker = Tracker(frame_rate=2.5)
    ids = tracker.update(detections, time=frame.time, image=frame.image)       # -1: belongs to no track yet

ByteTrack uses positions alone and confuses people who meet. Here a box continues a track only if the clothes match.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mmet.footage.appearance import clothing_colors
from mmet.footage.boxes import Detections

LOST_SECONDS = 1.5
"""Seconds for which a person may be hidden and remain in the same track."""

_SURE = 0.5
"""Smallest score of a box that starts a track."""

_UNLIKE, _ALIKE = 0.72, 0.9
"""Similarity of clothes below which a box cannot belong to a track, and above which clothes do not matter."""

_MEMORY = 0.9
"""Weight of a track's old colours when a box is added."""


class Tracker:
    """
    ByteTrack with times, to support variable frame rates and skipped frames, and with clothes.

    Boxes are enlarged before they are compared, more at lower frame rates: a walking person moves by about their own
    width in a third of a second.

    Args:
        frame_rate: frames per second that are looked at.
    """

    def __init__(self, *, frame_rate: float) -> None:
        try:
            import supervision
            from trackers import ByteTrackTracker
            from trackers.utils.iou import BIoU
        except ImportError as error:
            raise ValueError(f"tracking needs the library trackers ({error}): pip install 'mmet[footage]'") from error
        self._as_supervision = supervision.Detections
        self._lost_seconds = max(LOST_SECONDS, 3.5 / frame_rate)
        self._near = BIoU(buffer_ratio=float(np.clip(1.0 / frame_rate, 0.05, 0.5)))
        self._tracker = ByteTrackTracker(
            lost_track_buffer=round(30 * self._lost_seconds),
            frame_rate=frame_rate,
            track_activation_threshold=_SURE,
            high_conf_det_threshold=_SURE,
            minimum_consecutive_frames=2,
            minimum_iou_threshold=0.1,
            iou=self._similarity(BIoU),
        )
        self._colors: dict[int, np.ndarray] = {}
        self._boxes, self._box_colors = np.zeros((0, 4), np.float32), np.zeros((0, 1), np.float32)

    @property
    def lost_seconds(self) -> float:
        """Seconds after which an unseen track ends."""
        return self._lost_seconds

    def update(self, detections: Detections, *, time: float, image: np.ndarray) -> np.ndarray:
        """
        Assign the boxes of the next frame to tracks.

        Args:
            detections: N boxes. If they have ids, these are the tracks.
            time: seconds, later than that of the previous frame.
            image: the frame, uint8 (H, W, 3).

        Returns:
            int64 (N,): the number of each box's track, from 0; -1 if it belongs to none yet.
        """
        if detections.ids is not None:
            return detections.ids
        self._boxes = detections.boxes.astype(np.float32).reshape(-1, 4)
        self._box_colors = clothing_colors(image, detections.boxes)
        tracked = self._tracker.update(
            self._as_supervision(
                xyxy=self._boxes,
                confidence=detections.scores.astype(np.float32),
                data={"order": np.arange(len(detections))},
            ),
            timestamp=time,
        )
        ids = np.full(len(detections), -1, dtype=np.int64)
        if len(tracked):
            ids[np.asarray(tracked.data["order"])] = np.asarray(tracked.tracker_id)
        self._remember(ids)
        return ids

    def _remember(self, ids: np.ndarray) -> None:
        """Update the colours of the tracks, and forget those of ended tracks."""
        alive = {track.tracker_id for track in self._tracker.tracks}
        self._colors = {number: colors for number, colors in self._colors.items() if number in alive}
        for number, colors in zip(ids.tolist(), self._box_colors, strict=True):
            if number >= 0:
                mixed = _MEMORY * self._colors.get(number, colors) + (1 - _MEMORY) * colors
                self._colors[number] = mixed / max(float(np.linalg.norm(mixed)), 1e-9)

    def _similarity(self, base: type) -> Any:
        """The library's measure of how well boxes fit tracks, lowered where the clothes differ."""
        tracker = self

        class Similarity(base):  # type: ignore[misc]  # the library comes without types
            def _compute(self, boxes_1: np.ndarray, boxes_2: np.ndarray) -> np.ndarray:
                return np.asarray(super()._compute(boxes_1, boxes_2) * tracker._agreement(boxes_1, boxes_2))

        return Similarity(buffer_ratio=self._near.buffer_ratio)

    def _agreement(self, predicted: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """
        Factors (N, M), 0..1, for N tracks and M boxes of the frame.

        The library passes boxes alone, so tracks are identified by their expected positions, in the library's order.
        """
        places = {box.tobytes(): place for place, box in enumerate(self._boxes)}
        colors = self._box_colors[[places[box.tobytes()] for box in boxes]]
        tracks = iter(self._tracker.tracks)
        factors = np.ones((len(predicted), len(boxes)))
        for row, box in zip(factors, predicted, strict=True):
            number = next(track.tracker_id for track in tracks if np.array_equal(track.get_state_bbox(), box))
            if number in self._colors:
                row[:] = np.clip((colors @ self._colors[number] - _UNLIKE) / (_ALIKE - _UNLIKE), 0, 1)
        return factors
