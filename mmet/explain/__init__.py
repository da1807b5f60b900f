"""Why a model finds a picture similar to a query: maps over the picture, for images, sentences and single words.

from mmet.explain import Explainer
explainer = Explainer(model, processor)
explainer.explain(picture, text="a woman in a red jacket")           # (H, W) in [0, 1]
explainer.explain_words(picture, "a woman in a red jacket")          # [("a", map), ("woman", map), ...]
"""

from __future__ import annotations

from mmet.explain.explainer import Explainer, ExplanationError
from mmet.explain.methods import DEFAULT_METHOD, METHODS

__all__ = ["DEFAULT_METHOD", "METHODS", "Explainer", "ExplanationError"]
