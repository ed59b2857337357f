"""Connections: how many one address holds at once, and how long one may take to say what it wants.

uvicorn counts all connections together and waits without end for the first words of one: a single client could hold every place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from safelight.serve.guard import whole

# Seconds from the first byte of a request, or from the connection's beginning, until its headers must be whole.
PATIENCE = 20.0


def lines(most: int, exempt: Collection[str] = ()) -> type[asyncio.Protocol]:
    """The protocol of a server that lets one address hold `most` connections. exempt: addresses that speak for many, as proxies do."""

    class Line(H11Protocol):
        """A connection."""

        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            self._late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            address = self.client[0] if self.client else "local"
            if address not in exempt:
                mine = whole(address)
                others = [getattr(one, "client", None) for one in tuple(self.connections)]
                if sum(whole(one[0]) == mine for one in others if one) > most:
                    transport.abort()
                    return
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is h11.IDLE:
                self._wait()
            else:
                self._rest()

        def connection_lost(self, exc: Exception | None) -> None:
            self._rest()
            super().connection_lost(exc)

        def _wait(self) -> None:
            if self._late is None:
                self._late = self.loop.call_later(PATIENCE, self.transport.abort)

        def _rest(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

    return Line


__all__ = ["PATIENCE", "lines"]
