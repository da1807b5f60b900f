"""The layout of datasets annotated like CUHK-PEDES: one JSON list of pictures with split, person and sentences.

    CaptionedLayout("CUHK-PEDES", ("CUHK-PEDES",), ("reid_raw.json",), "file_path", TREE).read(root)

An entry is `{"split": "train", "id": 1, "file_path": "CUHK01/a.png", "captions": ["…"]}`, its path below `imgs/`;
there are no cameras. Other fields (such as `processed_tokens`) are not read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmet.data.annotations import AnnotationEntry, clean_captions, read_entries
from mmet.data.defects import Defect, DefectKind
from mmet.data.paths import UnsafePathError, join_inside, layout_error, list_tree
from mmet.data.schema import DatasetError, PersonImage, ReidFolder
from mmet.data.split_folders import find_home

IMAGE_FOLDER = "imgs"
SPLITS = {"train": "train", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class CaptionedLayout:
    """A dataset of this layout.

    Attributes:
        title: the dataset in prose.
        folder_names: names under which the dataset's folder is published.
        annotation_files: possible names of its annotation file; the first that exists is read.
        path_field: the field that names the picture.
        expected_tree: see `ReidDatasetSpec`.
        picture_folders: folders below `imgs/` that a complete copy has.
        splits: the values of `split` that it uses, keys of `SPLITS`.
        advise: further advice for a folder without annotation file; "" for none.
    """

    title: str
    folder_names: Sequence[str]
    annotation_files: Sequence[str]
    path_field: str
    expected_tree: str
    picture_folders: Sequence[str] = ()
    splits: Sequence[str] = ("train", "val", "test")
    advise: Callable[[Path], str] = lambda home: ""

    def read(self, root: Path) -> ReidFolder:
        """Read the folder. Raises `DatasetError` when pictures or annotations are missing or an entry is malformed."""
        home = find_home(root, self.folder_names)
        annotations = self._require_files(home)
        folder = ReidFolder(home, splits={})
        merged: dict[Path, tuple[str, PersonImage]] = {}
        entries = read_entries(annotations)
        if not entries:
            raise DatasetError(f"{annotations}: the list has no entries")
        for entry in entries:
            self._read_entry(folder, entry, merged)
        folder.splits = {split: [] for split in SPLITS.values() if split in folder.splits}
        for split, image in merged.values():
            folder.splits[split].append(image)
        folder.find_unlisted(list_tree(home / IMAGE_FOLDER)[0], merged)
        self._note_missing(folder)
        return folder

    def _require_files(self, home: Path) -> Path:
        """The annotation file."""
        files = [home / name for name in self.annotation_files if (home / name).is_file()]
        missing = [] if (home / IMAGE_FOLDER).is_dir() else [f"{IMAGE_FOLDER}/"]
        if not files:
            missing.append(" or ".join(self.annotation_files))
        if missing:
            advice = "" if files else self.advise(home)
            raise layout_error(self.title, home, missing, self.expected_tree, advice)
        return files[0]

    def _read_entry(
        self, folder: ReidFolder, entry: AnnotationEntry, merged: dict[Path, tuple[str, PersonImage]]
    ) -> None:
        """Add one entry to `merged`; further entries of a picture add captions that it does not have yet."""
        name, split, person_id = entry.get(self.path_field, str), self._split(entry), entry.get("id", int)
        if person_id < 0:
            raise entry.error(f"field 'id' must not be negative, {person_id} is")
        folder.splits.setdefault(split, [])
        captions, defects = clean_captions(entry.get_strings("captions"))
        folder.skip(f"{name} ({entry.place})", *defects)
        try:
            path = join_inside(folder.root / IMAGE_FOLDER, name)
        except UnsafePathError as error:
            folder.skip(f"{name} ({entry.place})", error.defect)
            return
        if path not in merged:
            merged[path] = split, PersonImage(path, person_id, captions=tuple(captions))
            return
        earlier_split, image = merged[path]
        if (earlier_split, image.person_id) != (split, person_id):
            reason = "entry gives its picture another person or split than an earlier entry"
            folder.skip(f"{name} ({entry.place})", Defect(DefectKind.CONTRADICTION, reason))
            return
        new = [caption for caption in captions if caption not in image.captions]
        merged[path] = split, replace(image, captions=(*image.captions, *new))

    def _split(self, entry: AnnotationEntry) -> str:
        value = entry.get("split", str)
        if value not in self.splits:
            raise entry.error(f"field 'split' must be one of {', '.join(self.splits)}, not {value!r}")
        return SPLITS[value]

    def _note_missing(self, folder: ReidFolder) -> None:
        """Note the missing picture folders that annotations refer to."""
        base = folder.root / IMAGE_FOLDER
        named = {image.image_path.relative_to(base).parts[0] for images in folder.splits.values() for image in images}
        folder.missing += [
            f"{IMAGE_FOLDER}/{name}/" for name in self.picture_folders if name in named and not (base / name).is_dir()
        ]
