"""Pictures out of `cuhk-03.mat`, the one file of the original release of CUHK03, as a folder that `cuhk03` reads.

    pip install 'mmet[cuhk03]'
    python -m mmet.data.extract_cuhk03 --mat /data/cuhk03_release/cuhk-03.mat --output /data/cuhk03-classic

The file is HDF5 as MATLAB writes it. `labeled` and `detected` hold a cell for each of five camera pairs, in it a cell
for each person and picture (five of the first view, then five of the second; empty where there is none); `testsets`
holds, for each of 20 splits, the camera pair and number of 100 test persons.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from mmet.argument_parser import OptionParser
from mmet.command_line import Command, run_command
from mmet.data.cuhk03 import BOXES, CLASSIC_SPLITS_FILE
from mmet.data.schema import DatasetError
from mmet.folder_lock import locked_target
from mmet.starting import program_name
from mmet.whole_files import FolderDraft, whole_folder

_PICTURES_OF_A_VIEW = 5


def extract(mat: Path, output: Path) -> int:
    """Write every picture and the splits; returns the number of pictures. `output` appears only when complete.

    Raises:
        DatasetError: `mat` is not the file, or h5py is not installed.
        FileExistsError: `output` exists.
        OSError: `output` cannot be written, or a picture is missing or changed at the end.
    """
    if output.exists():
        raise FileExistsError(f"{output} exists; name a folder to be created")
    with locked_target(output), _open(mat) as file, whole_folder(output) as partial:
        splits = list(_splits(file))
        for boxes in BOXES:
            (partial / boxes).mkdir(parents=True)
        draft = FolderDraft(partial)
        draft.write(CLASSIC_SPLITS_FILE, json.dumps(splits) + "\n")
        count = sum(_write_pictures(file, boxes, draft) for boxes in BOXES)
        draft.check()
        return count


def _open(mat: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise DatasetError("reading cuhk-03.mat needs h5py: pip install 'mmet[cuhk03]'") from error
    if mat.exists() and not mat.is_file():
        raise DatasetError(f"{mat}: not a regular file; name the file {mat.name} itself")
    try:
        file = h5py.File(mat, "r")
    except OSError as error:
        raise DatasetError(f"{mat}: not a readable HDF5 file ({error})") from error
    missing = [name for name in (*BOXES, "testsets") if name not in file]
    if missing:
        file.close()
        raise DatasetError(f"{mat}: has no {' and no '.join(missing)}; is it the original cuhk-03.mat?")
    return file


def _cells(file: Any, name: str) -> list[Any]:
    """What the cells of a row or column refer to, in order."""
    return [file[reference] for reference in file[name][:].reshape(-1)]


def _splits(file: Any) -> Iterator[list[int]]:
    """Test persons of each split, numbered as in file names: 1,000 times the camera pair plus the person's number."""
    for cell in _cells(file, "testsets"):
        pairs, numbers = np.asarray(cell[:], dtype=np.int64)  # (2, persons): MATLAB's arrays arrive transposed
        yield (1_000 * pairs + numbers).tolist()


def _write_pictures(file: Any, boxes: str, draft: FolderDraft) -> int:
    count = 0
    for pair, cell in enumerate(_cells(file, boxes), start=1):
        references = cell[:]  # (pictures, persons)
        persons = tqdm(range(references.shape[1]), desc=f"{boxes}, camera pair {pair}", unit="person", disable=None)
        for person in persons:
            for index, reference in enumerate(references[:, person]):
                pixels = file[reference][:]
                if pixels.ndim != 3:  # an empty cell
                    continue
                view = 1 + index // _PICTURES_OF_A_VIEW
                content = io.BytesIO()
                Image.fromarray(np.ascontiguousarray(pixels.T)).save(content, "PNG")
                name = f"{pair}_{person + 1:03d}_{view}_{index + 1:02d}.png"
                draft.write(f"{boxes}/{name}", content.getvalue())
                count += 1
    return count


def main(arguments: Sequence[str] | None = None) -> int:
    """Extract; returns the exit code, 2 for errors that the user has to correct."""
    parser = OptionParser(
        prog=program_name("python -m mmet.data.extract_cuhk03"),
        description="Make a folder of pictures from cuhk-03.mat.",
    )
    parser.add_argument("--mat", required=True, type=Path, help="the file of the original release")
    parser.add_argument("--output", required=True, type=Path, help="folder to create")

    def work(command: Command) -> None:
        options = parser.parse_args(arguments)
        count = extract(options.mat, options.output)
        print(f"{count:,} pictures in {options.output}; load them as cuhk03={options.output}?split=1")

    return run_command(parser.prog, work, after_stop="nothing was written")


if __name__ == "__main__":
    sys.exit(main())
