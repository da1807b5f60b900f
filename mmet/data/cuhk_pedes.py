"""CUHK-PEDES (Li et al., "Person Search with Natural Language Description", CVPR 2017).

`reid_raw.json` is a list of objects with `split`, `id`, `file_path` (below `imgs/`) and `captions`; there are no
cameras. The older `caption_all.json` lacks the split. Counts as commonly published for this split, see the readers of
https://github.com/anosorae/IRRA.
"""

from __future__ import annotations

from pathlib import Path

from mmet.data.captioned import CaptionedLayout
from mmet.data.registry import ReidDatasetSpec, SplitCount, register

ANNOTATION_FILE = "reid_raw.json"
OLD_ANNOTATION_FILE = "caption_all.json"

_OLD_FILE_ADVICE = f"""\
{OLD_ANNOTATION_FILE} is there, but it does not say which picture is for training and which for testing.
{ANNOTATION_FILE} does; it is part of the current release, to be had from the dataset's authors
(https://github.com/ShuangLI59/Person-Search-with-Natural-Language-Description). Renaming the file does not help."""


def _advise(home: Path) -> str:
    return _OLD_FILE_ADVICE if (home / OLD_ANNOTATION_FILE).is_file() else ""


LAYOUT = CaptionedLayout(
    title="CUHK-PEDES",
    folder_names=("CUHK-PEDES",),
    annotation_files=(ANNOTATION_FILE,),
    path_field="file_path",
    expected_tree="""\
CUHK-PEDES/                          (name this folder, or the one that holds it)
├── imgs/
│   ├── CUHK01/  CUHK03/  Market/  cam_a/  cam_b/
│   └── test_query/  train_query/
└── reid_raw.json                    list of {"split", "id", "file_path", "captions"}
""",
    picture_folders=("CUHK01", "CUHK03", "Market", "cam_a", "cam_b", "test_query", "train_query"),
    advise=_advise,
)

CUHK_PEDES = register(
    ReidDatasetSpec(
        name="cuhk_pedes",
        title=LAYOUT.title,
        expected_tree=LAYOUT.expected_tree,
        read=LAYOUT.read,
        published_counts={
            "train": SplitCount(images=34_054, persons=11_003, captions=68_126),
            "validation": SplitCount(images=3_078, persons=1_000, captions=6_158),
            "test": SplitCount(images=3_074, persons=1_000, captions=6_156),
        },
        protocol="text-to-image",
        licence="for research, on request to the authors; the pictures come from other datasets with their own terms",
    )
)
