"""A server that is told to stop: answers are finished, endless streams are ended, and nobody sees a traceback."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from mmet.serving.running import Responses

ROOT = Path(__file__).resolve().parents[2]

SERVER = """
import asyncio
import sys
from mmet.serving.running import run_server

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"begun ", "more_body": True})
    await asyncio.sleep({"/short": 1, "/long": 600, "/alive/1": 600}[scope["path"]])
    await send({"type": "http.response.body", "body": b"done"})

run_server(app, "127.0.0.1", 0, lambda address: print(address, flush=True), grace_seconds=3, endless=["/alive/"])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_with_open_responses__ends_them_without_a_traceback(number):
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        address = server.stdout.readline().strip()
        with httpx.Client(base_url=address, timeout=120) as client:
            responses = [client.stream("GET", path) for path in ("/short", "/alive/1", "/long")]
            opened = [response.__enter__() for response in responses]
            streams = [response.iter_text() for response in opened]
            assert [next(stream) for stream in streams] == ["begun "] * 3
            server.send_signal(number)
            assert ["".join(stream) for stream in streams] == ["done", "", ""]
            for response in responses:
                response.__exit__(None, None, None)
        _, errors = server.communicate(timeout=120)
    lines = errors.strip().splitlines()
    assert "timeout graceful shutdown exceeded" in lines[0]  # of /long alone
    assert "Cancel 1 running task(s)" in lines[0]
    if number == signal.SIGTERM:
        assert server.returncode == -number
        assert len(lines) == 1


def respond(scope_path, *, begin=True, endless=("/alive/",)):
    """`Responses` over an application that never ends, its task, and what it sent."""
    sent = []

    async def app(scope, receive, send):
        if begin:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await asyncio.sleep(600)

    async def send(message):
        sent.append(message)

    responses = Responses(app, endless)
    return responses, asyncio.ensure_future(responses({"type": "http", "path": scope_path}, None, send)), sent


async def let_run():
    for _ in range(5):
        await asyncio.sleep(0)


def test_responses__a_stop_ends_endless_ones_alone():
    async def check():
        responses, task, sent = respond("/alive/1")
        await let_run()
        responses.stop()
        await asyncio.wait_for(task, 10)
        assert sent[-1] == {"type": "http.response.body", "body": b""}
        responses, task, sent = respond("/answer")
        await let_run()
        responses.stop()
        await let_run()
        assert not task.done()
        task.cancel()
        await asyncio.wait_for(task, 10)
        assert len(sent) == 3

    asyncio.run(check())


def test_responses__one_that_has_not_begun_is_refused():
    async def check():
        responses, task, sent = respond("/alive/1", begin=False)
        await let_run()
        responses.stop()
        await asyncio.wait_for(task, 10)
        assert [message.get("status") for message in sent] == [503, None]

    asyncio.run(check())


def test_responses__a_cancellation_without_a_stop_goes_on():
    async def check():
        _, task, _ = respond("/answer")
        await let_run()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(check())
