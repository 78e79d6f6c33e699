"""Faults on purpose: the next requests that match fail in a chosen way, below the application.

An ASGI layer around the server's application, so that connections really break and bytes are really missing.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Kind(StrEnum):
    """What goes wrong."""

    error_500 = "the server answers 500 and does nothing"
    drop_request = "the connection breaks while the request's body arrives"
    drop_answer = "the request is carried out, but the connection breaks before the answer"
    truncate = "the second half of the answer is missing"
    corrupt = "one byte of the answer is wrong"
    stall = "nothing comes until the fault is released"


@dataclass
class Fault:
    """Applies to requests whose `METHOD /path` the pattern finds, as often as `times` says."""

    kind: Kind
    pattern: str
    times: int = 1
    seen: int = 0
    released: threading.Event = field(default_factory=threading.Event)


class FaultyApplication:
    """Passes requests on to an application unless a fault is planned for them; keeps a log of all with headers."""

    def __init__(self, application: Any) -> None:
        self.application = application
        self.planned: list[Fault] = []
        self.log: list[str] = []
        self.headers: list[tuple[str, dict[str, str]]] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.application(scope, receive, send)
            return
        line = f"{scope['method']} {scope['path']}"
        self.log.append(line)
        self.headers.append((line, {key.decode(): value.decode() for key, value in scope["headers"]}))
        fault = next((f for f in self.planned if f.seen < f.times and re.search(f.pattern, line)), None)
        if fault is None:
            await self.application(scope, receive, send)
            return
        fault.seen += 1
        if fault.kind is Kind.stall:
            while not fault.released.is_set():
                await asyncio.sleep(0.01)
            await self.application(scope, receive, send)
            return
        await _FAILURES[fault.kind](self.application, scope, receive, send)


def _transport(receive: Receive) -> Any:
    """The connection itself, which uvicorn's request cycle keeps."""
    return receive.__self__.transport  # type: ignore[attr-defined]


async def _error_500(application: Any, scope: Message, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 500, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"out of order"})


async def _drop_request(application: Any, scope: Message, receive: Receive, send: Send) -> None:
    await receive()
    _transport(receive).abort()


async def _drop_answer(application: Any, scope: Message, receive: Receive, send: Send) -> None:
    async def swallow(message: Message) -> None:
        return None

    await application(scope, receive, swallow)
    _transport(receive).abort()


async def _truncate(application: Any, scope: Message, receive: Receive, send: Send) -> None:
    sent = 0
    total = 0
    transport = _transport(receive)

    async def half(message: Message) -> None:
        nonlocal sent, total
        if message["type"] == "http.response.start":
            total = int(dict(message["headers"])[b"content-length"])
            await send(message)
        elif sent < total // 2:
            part = message["body"][: total // 2 - sent]
            sent += len(part)
            await send({"type": "http.response.body", "body": part, "more_body": True})
            if sent >= total // 2:
                transport.close()

    await application(scope, receive, half)


async def _corrupt(application: Any, scope: Message, receive: Receive, send: Send) -> None:
    async def flipped(message: Message) -> None:
        if message["type"] == "http.response.body" and message.get("body"):
            body = bytearray(message["body"])
            body[len(body) // 2] ^= 0x01
            message = {**message, "body": bytes(body)}
        await send(message)

    await application(scope, receive, flipped)


_FAILURES = {
    Kind.error_500: _error_500,
    Kind.drop_request: _drop_request,
    Kind.drop_answer: _drop_answer,
    Kind.truncate: _truncate,
    Kind.corrupt: _corrupt,
}
