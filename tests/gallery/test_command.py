"""`mmet-gallery`: what it prints and writes, and one line with exit code 2 for every bad input."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from colour_embedder import COLOURS, ColourEmbedder
from PIL import Image

from mmet.gallery import Gallery
from mmet.gallery.command import main
from mmet.gallery.embedding import ModelEmbedder
from modeling_mmet import MMETForReID


@pytest.fixture(autouse=True)
def colours(monkeypatch):
    """Every model is one that sees colours."""
    monkeypatch.setattr(ModelEmbedder, "load", classmethod(lambda cls, name, backend="auto": ColourEmbedder()))


@pytest.fixture
def people(gallery, gallery_path):
    """The folder of a gallery of five rows."""
    return str(gallery_path)


def run(capsys, *arguments):
    """Exit code, standard output and standard error."""
    try:
        code = main(list(map(str, arguments)))
    except SystemExit as ended:
        code = ended.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_build__says_what_it_made_and_lists_what_it_skipped(tmp_path, entries, capsys, caplog):
    (tmp_path / "crops" / "torn.png").write_bytes(b"no picture")
    code, out, _ = run(capsys, "build", tmp_path / "crops", "--model", "colours", "--output", tmp_path / "g")
    assert code == 0
    assert "5 rows" in out
    assert "1 picture left out" in out
    assert "torn.png: cannot read image" in caplog.text
    assert len(Gallery.open(tmp_path / "g")) == 5


def test_search__prints_a_table(people, capsys):
    code, out, err = run(capsys, "search", people, "--text", "a red coat", "-k", "3")
    header, _, first, *_ = out.splitlines()
    assert (code, err) == (0, "")
    assert [cell.strip() for cell in header.split("|")[1:-1]] == ["#", "id", "camera", "track", "time", "score"]
    assert [cell.strip() for cell in first.split("|")[1:-1]] == ["1", "a", "gate", "1", "0:00", "1.000"]


def test_search__by_image_and_both_with_filters(people, entries, capsys):
    def found(*options):
        code, out, _ = run(capsys, "search", people, *options, "--json")
        assert code == 0
        return [match["id"] for match in json.loads(out)["matches"]]

    green, blue = entries[2]["image"], entries[3]["image"]
    assert found("--image", green, "-k", "1") == ["c"]
    assert set(found("--image", green, blue, "-k", "3")) == {"c", "d", "e"}
    assert found("--image", green, "--text", "blue", "--blend", "0.9", "-k", "1") == ["d"]
    assert set(found("--text", "red", "--camera", "7")) == {"d", "e"}
    assert set(found("--text", "red", "--camera", "7", "gate")) == set("abcde")
    assert set(found("--text", "red", "--after", "1", "--before", "0:02")) == {"b", "c"}
    assert set(found("--text", "red", "--track", "2", "--exclude", "d")) == {"c"}
    assert set(found("--text", "red", "--by_track")) == {"a", "c", "d", "e"}


def test_search__json_and_csv_hold_everything(people, capsys):
    code, out, _ = run(capsys, "search", people, "--text", "blue", "-k", "1", "--json")
    answer = json.loads(out)
    match = answer["matches"][0]
    assert (code, answer["searched"], answer["in_gallery"]) == (0, 5, None)
    assert (match["rank"], match["id"], match["camera_id"], match["time"]) == (1, "d", 7, 3.0)
    assert match["box"] == [1.0, 2.0, 8.0, 16.0]
    assert match["row"] == {"note": "seen in blue"}
    code, out, _ = run(capsys, "search", people, "--text", "blue", "-k", "2", "--csv")
    rows = list(csv.DictReader(out.splitlines()))
    assert [row["rank"] for row in rows] == ["1", "2"]
    assert rows[0]["row.note"] == "seen in blue"


def test_search__an_empty_answer_is_no_error(people, capsys):
    filters = ["--text", "red", "--camera", "7", "--before", "1"]
    assert run(capsys, "search", people, *filters)[:2] == (0, "No match: 0 rows searched\n")
    assert json.loads(run(capsys, "search", people, *filters, "--json")[1])["matches"] == []
    assert run(capsys, "search", people, *filters, "--csv")[1] == "rank,id,score\n"


def test_add_remove_merge_compact_calibrate_info_verify(people, tmp_path, capsys):
    (tmp_path / "more").mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (4, 8), colour).save(tmp_path / "more" / f"{name}.png")
    assert run(capsys, "add", people, tmp_path / "more")[1].endswith("4 rows added; 9 rows now\n")
    assert run(capsys, "add", people, tmp_path / "more", "--on_conflict", "keep")[1].endswith("9 rows now\n")
    assert run(capsys, "remove", people, "red.png", "a")[1].endswith("2 rows removed, 7 rows left\n")
    assert run(capsys, "compact", people)[0] == 0
    Gallery.build([{"id": "z", "image": tmp_path / "more" / "red.png"}], tmp_path / "other", model=ColourEmbedder())
    assert run(capsys, "merge", people, tmp_path / "other")[1].endswith("1 row added; 8 rows now\n")
    assert json.loads(run(capsys, "info", people, "--json")[1])["rows"] == 8
    assert "cameras" in run(capsys, "info", people)[1]
    assert run(capsys, "verify", people)[0] == 0
    assert run(capsys, "calibrate", people)[0] == 2  # nobody is known by name


def test_calibrate__search_says_whether_the_person_is_here(tmp_path, capsys):
    rows = []
    for person, colour in enumerate(COLOURS):
        for camera in (1, 2, 3):
            path = tmp_path / f"{colour}-{camera}.png"
            Image.new("RGB", (4, 8), tuple(max(0, value - 9 * camera) for value in COLOURS[colour])).save(path)
            rows.append({"id": path.stem, "image": path, "person_id": person, "camera_id": camera})
    Gallery.build(rows, tmp_path / "g", model=ColourEmbedder())
    code, out, _ = run(capsys, "calibrate", tmp_path / "g")
    assert (code, "image (24 pairs of one person)" in out) == (0, True)
    code, out, _ = run(capsys, "search", tmp_path / "g", "--image", tmp_path / "red-1.png")
    assert "probability" in out.splitlines()[0]
    assert out.splitlines()[-1].startswith("Probably here (")


def test_verify__a_damaged_file_gives_exit_code_1(people, capsys):
    segment = next(Path(people, "segments").glob("*.parquet"))
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(bytes(content))
    code, out, _ = run(capsys, "verify", people)
    assert code == 1
    assert segment.name in out


BAD = [
    ([], "required: COMMAND"),
    (["serch"], "did you mean 'search'"),
    (["search", "{people}"], 'say --text "a sentence", --image FILE, or both'),
    (["search", "{people}", "--text", ""], "argument --text: expected a value, received an empty one"),
    (["search", "{people}", "--text", "женщина"], "language and alphabet"),
    (["search", "{people}", "--txt", "red"], "unknown option --txt; did you mean '--text'"),
    (["search", "{people}", "--text", "red", "-k", "0"], "argument -k: expected a whole number of at least 1"),
    (["search", "{people}", "--text", "red", "-k", "1000000000"], "at most 10000"),
    (["search", "{people}", "--text", "red", "-k", "many"], "argument -k: expected a whole number"),
    (["search", "{people}", "--text", "red", "--camera", "gat"], "no camera 'gat'"),
    (["search", "{people}", "--text", "red", "--camera", "gat"], "did you mean 'gate'"),
    (["search", "{people}", "--image", "{tmp}/absent.png"], "absent.png"),
    (["search", "{people}", "--image", "{tmp}/text.png"], "cannot read image"),
    (["search", "{people}", "--text", "red", "--after", "noon"], "--after: expected seconds"),
    (["search", "{people}", "--text", "red", "--after", "nan"], "--after: expected a moment"),
    (["search", "{people}", "--text", "red", "--after", "3", "--before", "1"], "start that is not after the end"),
    (["search", "{people}", "--text", "red", "--blend", "0.5"], "an image and a text"),
    (["search", "{people}", "--text", "red", "--json", "--csv"], "not allowed with argument --json"),
    (["search", "{people}", "--text", "red", "--html", "{tmp}"], "is a folder"),
    (["search", "{people}", "--text", "red", "--html", "{tmp}/text.png/a.html"], "text.png"),
    (["search", "{tmp}/absent", "--text", "red"], "there is no gallery at"),
    (["search", "{tmp}/empty", "--text", "red"], "is not a gallery"),
    (["build", "{tmp}/empty", "--model", "m", "--output", "{tmp}/new"], "holds no pictures"),
    (["build", "{tmp}/absent", "--model", "m", "--output", "{tmp}/new"], "there is no folder"),
    (["build", "{tmp}/unreadable", "--model", "m", "--output", "{tmp}/new"], "no picture could be read"),
    (["build", "{tmp}/crops", "--model", "m", "--output", "{people}"], "is a gallery already"),
    (["build", "{tmp}/crops", "--model", "m", "--output", "{tmp}/text.png"], "text.png"),
    (["add", "{people}", "{tmp}/absent"], "there is no folder"),
    (["remove", "{people}", "zebra"], "no row 'zebra': nothing was removed"),
    (["merge", "{people}", "{tmp}/absent"], "there is no gallery at"),
    (["merge", "{people}", "{people}"], "nothing was added"),
    (["calibrate", "{people}", "--captions", "words"], "received 0 pairs of one person"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input__is_one_line_and_exit_code_2(arguments, message, people, tmp_path, capsys):
    for name in ("empty", "unreadable"):
        (tmp_path / name).mkdir()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "unreadable" / "x.png").write_text("no picture")
    before = [row.id for row in Gallery.open(people)]
    code, out, err = run(capsys, *(word.format(people=people, tmp=tmp_path) for word in arguments))
    assert code == 2
    assert message in err
    assert (err.startswith("mmet-gallery"), err.count("\n"), out) == (True, 1, "")
    assert [row.id for row in Gallery.open(people)] == before
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "subcommand", ["", "build", "search", "add", "remove", "merge", "compact", "calibrate", "info"]
)
def test_help__is_readable(subcommand, capsys):
    code, out, err = run(capsys, *[subcommand][: bool(subcommand)], "--help")
    assert (code, err) == (0, "")
    assert out.isascii()
    assert max(map(len, out.splitlines())) <= 100


def test_with_a_model__from_crops_to_answer(tmp_path, monkeypatch, config, processor, entries, capsys):
    """The whole way with a real, untrained model: crops of a folder, both kinds of query, a model that moved."""
    monkeypatch.undo()
    MMETForReID(config).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    code, out, _ = run(
        capsys, "build", tmp_path / "crops", "--model", tmp_path / "model", "--output", tmp_path / "g", "--flip"
    )
    assert (code, "5 rows" in out) == (0, True)
    query = ["search", tmp_path / "g", "--image", entries[0]["image"], "--text", "a man in red"]
    code, out, _ = run(capsys, *query, "--json")
    assert (code, len(json.loads(out)["matches"])) == (0, 5)
    shutil.move(tmp_path / "model", tmp_path / "moved")
    assert run(capsys, *query)[0] == 2
    assert run(capsys, *query, "--model", tmp_path / "moved")[0] == 0


def test_ctrl_c__is_one_line(tmp_path):
    """While pictures are embedded; the same command then goes on."""
    program = (
        "import sys, time; sys.path.insert(0, sys.argv.pop(1))\n"
        "from colour_embedder import ColourEmbedder\n"
        "from mmet.gallery.embedding import ModelEmbedder\n"
        "from mmet.gallery.command import main\n"
        "class Slow(ColourEmbedder):\n"
        "    def embed(self, images, texts, *, flip=False):\n"
        "        print('embedding', flush=True); time.sleep(30)\n"
        "ModelEmbedder.load = classmethod(lambda cls, name, backend='auto': Slow())\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    Image.new("RGB", (4, 8)).save(tmp_path / "a.png")
    command = [sys.executable, "-c", program, str(Path(__file__).parents[1]), "build", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--model", "m", "--output", str(tmp_path / "g")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "embedding\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "mmet-gallery build: stopped by Ctrl-C; the same command continues where it stopped\n"
