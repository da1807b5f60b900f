"""Tracks: which boxes of successive frames are one person (ByteTrack, of the library `trackers`).

tracker = Tracker(frame_rate=2.5)
ids = tracker.update(detections, time=frame.time)       # -1 where a box belongs to no track yet
"""

from __future__ import annotations

import numpy as np

from mmet.footage.boxes import Detections

LOST_SECONDS = 1.5
"""How long a person may be hidden and still be the same track."""

_SURE = 0.5
"""Score from which a box may begin a track."""


class Tracker:
    """
    ByteTrack by times, so that a variable frame rate and skipped frames are understood.

    Boxes are enlarged before they are compared, the more the fewer frames there are a second: a walking person moves
    by about her own width in a third of a second.

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
        self._tracker = ByteTrackTracker(
            lost_track_buffer=round(30 * self._lost_seconds),
            frame_rate=frame_rate,
            track_activation_threshold=_SURE,
            high_conf_det_threshold=_SURE,
            minimum_consecutive_frames=2,
            minimum_iou_threshold=0.1,
            iou=BIoU(buffer_ratio=float(np.clip(1.5 / frame_rate, 0.05, 0.6))),
        )

    @property
    def lost_seconds(self) -> float:
        """A track that has not been seen for longer does not go on."""
        return self._lost_seconds

    def update(self, detections: Detections, *, time: float) -> np.ndarray:
        """
        The tracks of the boxes of the next frame.

        Args:
            detections: N boxes. Where they have ids, these are the tracks.
            time: seconds, later than that of the frame before.

        Returns:
            int64 (N,): a number of each track from 0; -1 where a box belongs to none yet.
        """
        if detections.ids is not None:
            return detections.ids
        order = np.arange(len(detections))
        tracked = self._tracker.update(
            self._as_supervision(
                xyxy=detections.boxes.astype(np.float32).reshape(-1, 4),
                confidence=detections.scores.astype(np.float32),
                data={"order": order},
            ),
            timestamp=time,
        )
        ids = np.full(len(detections), -1, dtype=np.int64)
        if len(tracked):
            ids[tracked.data["order"]] = tracked.tracker_id
        return ids
