"""The starter model, which comes with the package, and the commands that make it.

    model = MMETForReID.from_pretrained(starter_model())

`start` builds the model that training starts from, of a network trained on photographs and a text encoder that knows
many words. `ship` packs the trained model.
"""

from __future__ import annotations

from pathlib import Path

STARTER = "starter"
"""The name of the starter model in all commands that take a model."""


def starter_model() -> Path:
    """Folder of the starter model: configuration, processor, tokenizer, weights and model card."""
    return Path(__file__).parent


def resolve_model(name_or_path: str) -> str:
    """Replace `starter` by the starter model's folder, unless a path of that name exists; keep other names."""
    if name_or_path == STARTER and not Path(name_or_path).exists():
        return str(starter_model())
    return name_or_path
