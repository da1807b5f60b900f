"""An embedder without a model: a picture's mean colour, the colours that a sentence names, or both together."""

from __future__ import annotations

import numpy as np

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (128, 128, 128)}


class ColourEmbedder:
    def __init__(self, weights="one", calibrations=None):
        self.identity = {"model": "colours", "revision": None, "preprocessing": "mean", "weights": weights}
        self.calls = 0
        self._calibrations = calibrations or {}

    def embed(self, images, texts, *, flip=False):
        parts = []
        if images is not None:
            self.calls += len(images)
            parts.append(np.array([np.asarray(image).reshape(-1, 3).mean(axis=0) for image in images]) + 1)
        if texts is not None:
            words = [[np.array(COLOURS[word]) for word in text.split() if word in COLOURS] for text in texts]
            parts.append(np.array([np.sum(colours, axis=0) if colours else np.ones(3) for colours in words]) + 1)
        vectors = sum(part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts)
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    def unknown_words(self, text):
        unknown = [word for word in text.split() if not word.isascii()]
        return unknown, len(unknown) == len(text.split())

    def calibration(self, query):
        return self._calibrations.get(query)
