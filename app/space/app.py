"""The page as a Hugging Face Space: over the gallery in `gallery/`, or over people who are drawn at the first start.

python app.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from mmet.app.command import main
from mmet.data.synthetic import write_world
from mmet.gallery import Gallery

MODEL = "starter"
GALLERY = Path(__file__).parent / "gallery"
ADDRESS = ["--host", "0.0.0.0", "--port", "7860"]
FRAMES = "https://huggingface.co https://*.hf.space"
"""Who shows the page in a frame: the Hub."""


def prepare_gallery(folder: Path, model: str = MODEL) -> Path:
    """The gallery; of drawn people where there is none."""
    if not (folder / "manifest.json").is_file():
        drawn = folder.with_name("drawn")
        if not drawn.exists():
            write_world("market1501", drawn, num_train_ids=1, num_test_ids=60, images_per_id=8, seed=2)
        Gallery.build(f"market1501={drawn}", folder, model=model, keep_images=True)
    return folder


if __name__ == "__main__":
    sys.exit(main(["--gallery", str(prepare_gallery(GALLERY)), *ADDRESS, "--frames", FRAMES]))
