"""A user's segmenter, named `module:function` in a recipe, imported and checked before training starts.

    segmenter = load_segmenter("my_project.silhouettes:segment")
    masks = segmenter([picture, ...])  # one mask of the picture's size, or None, for each

Naming a segmenter runs its module's code: name only modules that you trust.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable
from typing import Any, cast

from PIL import Image

Segmenter = Callable[[list[Image.Image]], list[Image.Image | None]]
"""Returns for each picture a mask of its size, 255 on the person and 0 elsewhere, or None."""

_DOTTED = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_PATH = re.compile(rf"({_DOTTED}):({_DOTTED})")


def load_segmenter(path: str) -> Segmenter:
    """
    The callable that `module:function` names; the function may be an attribute of an object in the module.

    Raises:
        ValueError: the path has another form, the module cannot be imported or lacks the name, or the object cannot be
            called with pictures.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise ValueError(f"person_segmenter: expected module:function, such as my_module:segment, received {path!r}")
    module_name, name = match.groups()
    try:
        named: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # importing runs code, which may raise anything
        raise ValueError(
            f"person_segmenter {path}: the module {module_name} cannot be imported ({type(error).__name__}: {error}); "
            "install it, or put its folder on PYTHONPATH"
        ) from error
    for part in name.split("."):
        if not hasattr(named, part):
            near = difflib.get_close_matches(part, dir(named), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"person_segmenter {path}: {module_name} has no {name}{hint}")
        named = getattr(named, part)
    if isinstance(named, type) or not callable(named):
        kind = "a class" if isinstance(named, type) else type(named).__name__
        raise ValueError(
            f"person_segmenter {path}: expected a function of a list of pictures, received {kind}; "
            "a class's instance can be named as well"
        )
    return cast(Segmenter, named)
