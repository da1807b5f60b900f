"""The page as a server: what it serves, to whom, and what it refuses."""

from __future__ import annotations

import base64
import io
import socket

import httpx
import pytest
from colour_embedder import ColourEmbedder
from fastapi.testclient import TestClient
from gradio_client import Client
from page_people import build_people, served
from PIL import Image

from mmet.app.catalogue import Catalogue
from mmet.app.handlers import Handlers, PageOptions
from mmet.app.page import style
from mmet.app.service import MAX_BODY_BYTES, ServiceOptions, build_service, read_users, sign_in
from mmet.gallery import GalleryError


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A catalogue of `page_people`, and the folder of its gallery."""
    folder = tmp_path_factory.mktemp("service")
    embedder = ColourEmbedder()
    catalogue = Catalogue.open([build_people(folder, embedder)], model=embedder)
    yield catalogue, folder
    catalogue.close()


@pytest.fixture(scope="module")
def address(people):
    """A page that is served on this machine."""
    catalogue, folder = people
    service = build_service(Handlers(catalogue, PageOptions(), folder), ServiceOptions())
    with served(service) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    with httpx.Client(base_url=address, timeout=60) as client:
        yield client


def test_the_page_and_its_health(client):
    page = client.get("/")
    assert page.status_code == 200
    assert "MMET" in page.text
    assert client.get("/health").json() == {"status": "ok", "galleries": 1}


def test_nothing_comes_from_elsewhere_and_nobody_may_frame_it(client):
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert client.get("/").headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["{crop}", "/etc/passwd", "{manifest}", "../../../etc/passwd", "setup.cfg"])
def test_no_file_of_the_machine_is_served(client, people, path):
    folder = people[1]
    path = path.format(crop=folder / "crops" / "a.png", manifest=folder / "people" / "manifest.json")
    for address in (f"/gradio_api/file={path}", f"/file={path}"):
        assert client.get(address).status_code in (403, 404)


@pytest.mark.parametrize(
    "path", ["/gradio_api/file=http://example.org/a.png", "/gradio_api/proxy=https://example.org"]
)
def test_nothing_is_fetched_for_visitors(client, path):
    assert client.get(path).status_code == 403


def test_a_stranger_s_host_name_is_refused(client):
    """Under which a web site could read the page through the visitor's browser."""
    assert client.get("/", headers={"host": "evil.example:7860"}).status_code == 421
    assert client.get("/", headers={"host": "localhost:7860"}).status_code == 200


def test_large_bodies_are_refused(client):
    head = f"POST /gradio_api/upload HTTP/1.1\r\nhost: localhost\r\ncontent-length: {MAX_BODY_BYTES + 1}\r\n\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_signing_in(people):
    handlers = Handlers(people[0], PageOptions(), people[1])
    service = build_service(handlers, ServiceOptions(users={"ada": "secret"}))
    with TestClient(service, base_url="http://127.0.0.1:7860") as client:
        assert client.get("/gradio_api/info").status_code == 401
        assert client.post("/login", data={"username": "ada", "password": "wrong"}).status_code == 400
        assert client.post("/login", data={"username": "ada", "password": "secret"}).status_code == 200
        assert client.get("/gradio_api/info").status_code == 200
        assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("name", "password", "expected"),
    [("ada", "secret", True), ("ada", "", False), ("bob", "", False), ("", "", False), ("ada", "sécret", False)],
)
def test_passwords(name, password, expected):
    assert sign_in({"ada": "secret"})(name, password) is expected


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        ("ada:secret", 0o644, "can be read by others"),
        ("# nobody\n\n", 0o600, "names nobody"),
        ("ada", 0o600, "line 1: expected name:password"),
        ("ok:1\nada:", 0o600, "line 2: expected name:password"),
    ],
)
def test_files_of_passwords_that_will_not_do(tmp_path, content, mode, message):
    file = tmp_path / "users"
    file.write_text(content)
    file.chmod(mode)
    with pytest.raises(GalleryError, match=message):
        read_users(file)


def test_a_file_of_passwords(tmp_path):
    file = tmp_path / "users"
    file.write_text("# visitors\nada:se:cret\n bob : x \n")
    file.chmod(0o600)
    assert read_users(file) == {"ada": "se:cret", "bob": " x "}
    with pytest.raises(GalleryError, match="cannot be read"):
        read_users(tmp_path / "absent")


def test_the_style_has_both_colour_schemes():
    assert ":root{--mm-ground:#ffffff" in style()
    assert ".dark{--mm-ground:#15181c" in style()


# -- for programs ---------------------------------------------------------------------------------------------------


def picture_of(colour):
    file = io.BytesIO()
    Image.new("RGB", (8, 16), colour).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def test_programs_do_what_the_page_does(address):
    client = Client(address, verbose=False, httpx_kwargs={"timeout": 120})
    assert client.predict(api_name="/galleries")[0]["rows"] == 6
    answer = client.predict(text="red", k=2, cameras=["gate"], pictures=True, api_name="/search")
    assert [match["id"] for match in answer["matches"]] == ["a", "b"]
    assert answer["matches"][0]["picture"].startswith("data:image/jpeg;base64,")
    answer = client.predict(image=picture_of("blue"), k=1, api_name="/search")
    assert answer["matches"][0]["id"] == "d"
    assert client.predict(crop="a", k=1, api_name="/search")["matches"][0]["id"] == "e"
    assert {seen["id"] for seen in client.predict(id="a", api_name="/timeline")} >= {"e"}
    for call, message in [
        ({"api_name": "/search"}, "Type whom you are looking for"),
        ({"text": "red", "cameras": ["x"], "api_name": "/search"}, "There is no camera"),
        ({"image": "http://example.org/a.png", "api_name": "/search"}, "addresses are not fetched"),
        ({"image": "data:image/png;base64,aGVsbG8=", "api_name": "/search"}, "not a picture"),
        ({"id": "zz", "text": "red", "api_name": "/explain"}, "no crop 'zz'"),
        ({"id": "a", "text": "red", "api_name": "/explain"}, "cannot explain"),
    ]:
        with pytest.raises(Exception, match=message):
            client.predict(**call)
