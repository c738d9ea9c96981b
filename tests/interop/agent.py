"""An agent on Python's websockets. See README.md for what it prints."""

import asyncio
import copy
import datetime
import http.client
import json
import pathlib
import sys
import urllib.parse

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

SCAN = json.loads((pathlib.Path(__file__).parent / "scan.json").read_text())


def say(event, **more):
    print(json.dumps({"event": event, **more}), flush=True)


def now():
    return datetime.datetime.now(datetime.timezone.utc)


def headers(host, key):
    return {"X-Api-Id": host["api_id"], "X-Api-Key": key}


def post(host, path, body):
    at = urllib.parse.urlsplit(host["url"])
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=30)
    try:
        connection.request("POST", path, json.dumps(body), {**headers(host, host["api_key"]), "Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def upgrade(host, key):
    url = "ws" + host["url"].removeprefix("http") + "/api/v1/agents/ws"
    # The limit of real agents. Compression is offered, as this library does by default; the server has none.
    return connect(url, additional_headers=headers(host, key), max_size=65536, proxy=None)


async def in_fragments(socket, text):
    """One message, cut inside a character, with a ping between the fragments."""
    whole = text.encode()
    cut = whole.index("é".encode()) + 1

    async def parts():
        yield whole[:cut]
        pong = await socket.ping(b"between")
        await pong
        say("pong", payload="between")
        yield whole[cut:]

    await socket.send(parts(), text=True)


async def scan(host, socket):
    began = now()
    # Agents' times of progress are whole seconds, those of results are not.
    for number, progress in enumerate(SCAN["progress"]):
        text = json.dumps({**progress, "timestamp": now().strftime("%Y-%m-%dT%H:%M:%SZ")}, ensure_ascii=False)
        await (in_fragments(socket, text) if number == 1 else socket.send(text))
    results = copy.deepcopy(SCAN["results"])
    for one in results["scans"]:
        one.update(started_at=began.isoformat(), completed_at=now().isoformat())
    status, body = await asyncio.to_thread(post, host, "/api/v1/compliance/scans", results)
    say("posted", status=status, body=body)
    await socket.send(json.dumps({**SCAN["completed"], "timestamp": now().strftime("%Y-%m-%dT%H:%M:%SZ")}))


async def read(host, socket):
    async for message in socket:
        frame = json.loads(message)
        if frame.get("type") == "compliance_scan":
            say("scan", frame=frame)
            await scan(host, socket)


async def main():
    host = json.loads(sys.argv[1])
    try:
        async with upgrade(host, "0" * 64):
            say("connected", greeting="a wrong key was let in")
            return
    except InvalidStatus as refused:
        answer = refused.response
        say("refused", status=answer.status_code, body=json.loads(answer.body))
    async with upgrade(host, host["api_key"]) as socket:
        say("connected", greeting=json.loads(await socket.recv()))
        pong = await socket.ping(b"alone")
        await pong
        say("pong", payload="alone")
        reading = asyncio.create_task(read(host, socket))
        ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        done, _ = await asyncio.wait({reading, ended}, return_when=asyncio.FIRST_COMPLETED)
        await socket.close(1000, "done")
        say("closed", code=socket.close_code)
        if reading in done:
            reading.result()


asyncio.run(main())
