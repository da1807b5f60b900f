"""Decoding: every frame once, upright, in 8 bits, with the file's times; and files that are not as they should be."""

from __future__ import annotations

import os
import socket
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from PIL import Image

from mmet.data.synthetic.video import encode_film
from mmet.footage import FootageError, open_footage
from mmet.footage.__main__ import main


def brightness(path: Path | str, **options: int) -> list[int]:
    with open_footage(path, **options) as footage:
        return [round(float(frame.image.mean())) for frame in footage]


def write(path: Path, images: list[np.ndarray], pts: list[int] | None = None, **stream_options: object) -> None:
    """A video with one time stamp in hundredths of a second for each picture."""
    codec = stream_options.pop("codec", "mpeg4")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = str(stream_options.get("pix_fmt", "yuv420p"))
        stream.codec_context.time_base = Fraction(1, 100)
        for place, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = (pts[place] if pts else 10 * place), Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_open_footage__gives_all_frames_in_order(clip: Path) -> None:
    with open_footage(clip) as footage:
        assert (footage.frame_rate, footage.num_frames, footage.is_live) == (5, 20, False)
        frames = list(footage)
    assert [frame.index for frame in frames] == list(range(20))
    assert [frame.time for frame in frames] == pytest.approx([index / 5 for index in range(20)])
    assert frames[0].image.shape == (64, 96, 3)
    assert frames[0].image.dtype == np.uint8
    for frame in frames:
        assert frame.image.mean() == pytest.approx(10 * frame.index, abs=3)
    assert footage.problem == ""


def test_open_footage__every_skips_frames_and_keeps_numbers_and_times(clip: Path) -> None:
    with open_footage(clip, every=6) as footage:
        frames = list(footage)
    assert [frame.index for frame in frames] == [0, 6, 12, 18]
    assert [frame.time for frame in frames] == pytest.approx([0, 1.2, 2.4, 3.6])
    assert footage.frames_read == 20


def test_open_footage__keeps_a_variable_frame_rate(tmp_path: Path) -> None:
    pts = [0, 10, 15, 60, 61, 200]
    write(tmp_path / "variable.mkv", [np.full((64, 64, 3), 90, np.uint8)] * 6, pts)
    with open_footage(tmp_path / "variable.mkv") as footage:
        times = [frame.time for frame in footage]
    assert times == pytest.approx([value / 100 for value in pts], abs=0.002)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_open_footage__turns_pictures_as_the_display_matrix_says(tmp_path: Path, degrees: int) -> None:
    image = np.zeros((64, 128, 3), np.uint8)
    image[:32, :64] = 255  # the corner on the top left is white
    write(tmp_path / "plain.mp4", [image] * 3)
    content = bytearray((tmp_path / "plain.mp4").read_bytes())
    # The matrix of the track header, which FFmpeg reads as a rotation: a, b, u, c, d, v in 16.16, row by row.
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    header = content.index(b"tkhd") + 4 + 4 + 5 * 4 + 8 + 8
    matrix = [cosine, sine, 0, -sine, cosine, 0]
    content[header : header + 24] = b"".join((value * 65536).to_bytes(4, "big", signed=True) for value in matrix)
    (tmp_path / "turned.mp4").write_bytes(content)
    with open_footage(tmp_path / "turned.mp4") as footage:
        turned = next(iter(footage)).image
    expected = np.rot90(image, -degrees // 90)  # players turn clockwise
    assert turned.shape == expected.shape
    assert np.abs(turned.astype(int) - expected).mean() < 12


def test_open_footage__brings_ten_bits_to_eight(tmp_path: Path) -> None:
    if "libx264" not in av.codecs_available:
        pytest.skip("no encoder of ten bits")
    write(tmp_path / "ten.mkv", [np.full((64, 64, 3), 180, np.uint8)] * 4, codec="libx264", pix_fmt="yuv420p10le")
    with av.open(str(tmp_path / "ten.mkv")) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p10le"
    assert brightness(tmp_path / "ten.mkv") == pytest.approx([180] * 4, abs=3)


def test_open_footage__reads_folders_of_pictures_by_name_and_rate(tmp_path: Path) -> None:
    folder = tmp_path / "seq" / "img1"
    folder.mkdir(parents=True)
    for index in (2, 1, 3):
        Image.new("RGB", (16, 8), (index * 20,) * 3).save(folder / f"{index:06d}.png")
    (tmp_path / "seq" / "seqinfo.ini").write_text("[Sequence]\nframeRate=25\n")
    (folder / "notes.txt").write_text("no picture")
    with open_footage(folder) as footage:
        frames = list(footage)
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [20, 40, 60]
    assert [frame.time for frame in frames] == pytest.approx([0, 0.04, 0.08])


def test_open_footage__a_broken_picture_of_a_folder_is_named_and_the_others_kept(tmp_path: Path) -> None:
    Image.new("RGB", (16, 8)).save(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(b"no picture")
    with open_footage(tmp_path) as footage:
        assert len(list(footage)) == 1
    assert "2.png" in footage.problem


@pytest.mark.parametrize("rate", ["", "fast", "1.2.3", "-25", "0", "1e2", "9" * 400, "nan"])
def test_open_footage__a_rate_that_cannot_be_is_refused(tmp_path: Path, rate: str) -> None:
    Image.new("RGB", (16, 8)).save(tmp_path / "1.png")
    (tmp_path / "seqinfo.ini").write_text(f"[Sequence]\nframeRate = {rate}\n")
    with pytest.raises(FootageError, match=r"seqinfo\.ini: frameRate: expected 0\.001 to 10,000 frames per second"):
        open_footage(tmp_path)


def test_open_footage__reads_pictures_as_everything_else_does(tmp_path: Path) -> None:
    Image.new("RGBA", (16, 8), (10, 20, 30, 0)).save(tmp_path / "1.png")  # transparent: the ground is white
    os.mkfifo(tmp_path / "2.png")  # waits for ever when it is opened
    with open_footage(tmp_path) as footage:
        frames = list(footage)
    np.testing.assert_array_equal(frames[0].image, np.full((8, 16, 3), 255, np.uint8))
    assert len(frames) == 1
    assert "2.png" in footage.problem


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_open_footage__a_truncated_video_gives_what_there_is_and_says_so(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    write(tmp_path / f"whole{suffix}", [rng.integers(0, 255, (64, 96, 3), dtype=np.uint8) for _ in range(40)])
    content = (tmp_path / f"whole{suffix}").read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(content[: len(content) // 2])
    with open_footage(tmp_path / f"cut{suffix}") as footage:
        frames = list(footage)
    assert 10 <= len(frames) < 30
    assert footage.problem


def test_open_footage__an_mp4_without_its_index_is_refused(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:900])
    with pytest.raises(FootageError, match=r"cut\.mp4: cannot be read as a video .*cut short"):
        open_footage(tmp_path / "cut.mp4")


def write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_open_footage__says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    write_sound(tmp_path / "sound.wav")
    (tmp_path / "text.mp4").write_text("this is no video " * 50)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder").mkdir()
    for name, message in {
        "sound.wav": "no pictures in it .it holds audio",
        "text.mp4": "cannot be read as a video",
        "empty.mp4": "the file is empty",
        "missing.mp4": "no such file",
        "folder": "no pictures in it; expected a video file or a folder",
    }.items():
        with pytest.raises(FootageError, match=message) as error:
            open_footage(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)


def test_open_footage__a_video_without_frames_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "one.avi", [np.zeros((64, 64, 3), np.uint8)])
    content = (tmp_path / "one.avi").read_bytes()
    (tmp_path / "none.avi").write_bytes(content[: content.index(b"movi") + 4])
    with (
        pytest.raises(FootageError, match=r"none\.avi: no frame can be read"),
        open_footage(tmp_path / "none.avi") as footage,
    ):
        list(footage)


def test_open_footage__a_stream_that_is_not_there_is_named() -> None:
    with pytest.raises(FootageError, match=r"rtsp://127\.0\.0\.1:9/x: the stream cannot be opened"):
        open_footage("rtsp://127.0.0.1:9/x")


@pytest.mark.parametrize("answer", ["none", "silence", "hang up", "nonsense"])
def test_main__a_dead_stream_is_one_message_in_bounded_time(answer, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("mmet.footage.decode._OPEN_SECONDS", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"127.0.0.1:{server.getsockname()[1]}/live"
        if answer == "none":
            server.close()
        elif answer != "silence":  # the system accepts for a silent one
            words = b"" if answer == "hang up" else b"HTTP/1.1 404 Not Found\r\n\r\n"
            threading.Thread(target=_answer_once, args=(server, words), daemon=True).start()
        begun = time.monotonic()
        assert main([f"rtsp://guard:se@cret@{place}", "--output", str(tmp_path / "crops")]) == 2
        assert time.monotonic() - begun < 10
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert f"rtsp://{place}: the stream cannot be opened" in errors[0]  # no password
    assert not (tmp_path / "crops").exists()


def _answer_once(server: socket.socket, words: bytes) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(1000)
        connection.sendall(words)


def test_open_footage__memory_does_not_grow_with_the_film(tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    encode_film(path, (np.full((360, 480, 3), index % 256, np.uint8) for index in range(400)), 25)
    process, sizes = psutil.Process(), {}
    with open_footage(path) as footage:
        for frame in footage:
            sizes[frame.index] = process.memory_info().rss
    assert sizes[399] - sizes[40] < 40e6  # the frames are 187 MB together
