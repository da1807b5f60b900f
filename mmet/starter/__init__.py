"""The starter model that comes with the package, and what it is made from.

    model = MMETForReID.from_pretrained(starter_model())

`start` puts together what training begins with: a network that knows photographs and a text encoder that knows words.
"""

from __future__ import annotations

from pathlib import Path

STARTER = "starter"
"""The name that stands for the starter model wherever a command takes a model."""


def starter_model() -> Path:
    """Folder of the starter model: configuration, processor, tokenizer, weights and its card."""
    return Path(__file__).parent


def resolve_model(name_or_path: str) -> str:
    """The starter model's folder for `starter`, unless a folder of that name is at hand; any other name as it is."""
    if name_or_path == STARTER and not Path(name_or_path).exists():
        return str(starter_model())
    return name_or_path
