"""The cache of client TLS sessions for resumption: cache keys, limits and lifetimes.

A resumed handshake has no certificate, so it relies on the checks of the full handshake. A session is therefore used
only where the same checks would have the same result. A cache belongs to one context and is freed with it;
`corenet.tls.context.ClientContext` empties it when its certificates, authorities, ciphers or protocols change. The
cache key holds the host name, the port, and the settings of the context that affect the checks. A session is stored
after a successful handshake, for at most `TLS_SESSION_LIFETIME` seconds from the full handshake, however often
resumption renewed it, and not longer than the certificate, the ticket and the staple are valid.

A TLS 1.3 ticket is used once (RFC 8446 appendix C.4); a TLS 1.2 session is used until a newer one replaces it. The
child of a fork begins with an empty cache, because parent and child would otherwise use the same tickets.
"""

import contextlib
import os
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator

from corenet.limits import (
    TLS_SESSION_LIFETIME,
    TLS_SESSION_OCTETS,
    TLS_SESSION_SIZE,
    TLS_SESSIONS,
    TLS_SESSIONS_PER_ORIGIN,
)
from corenet.tls.openssl_engine import TlsSession

__all__ = ["Resumption", "SessionCache"]

_caches: "weakref.WeakSet[SessionCache]" = weakref.WeakSet()


class SessionCache:
    """Sessions by key, least recently used key first; safe from any thread. `clock` returns seconds since the epoch."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        # Incremented by `clear`. It is part of each key, so sessions of connections made before cannot be used after.
        self.generation = 0
        self._sessions: OrderedDict[Hashable, deque[TlsSession]] = OrderedDict()
        self._count = 0
        self._octets = 0
        # Taken again by finalizers that the collector runs in the middle of a call; `_inside` tells them.
        self._lock = threading.RLock()
        self._inside = False
        self._unwanted: set[Hashable] = set()
        self._all_unwanted = False
        _caches.add(self)

    def __len__(self) -> int:
        return self._count

    @property
    def octets(self) -> int:
        """Estimated memory of the stored sessions, in bytes."""
        return self._octets

    def put(self, key: Hashable, session: TlsSession) -> None:
        """Store `session` under `key`; drop older sessions when a limit is exceeded."""
        if session.octets > TLS_SESSION_SIZE or session.expires <= self.clock():
            return
        with self._alone() as alone:
            if not alone:
                return
            kept = self._sessions.setdefault(key, deque())
            self._sessions.move_to_end(key)
            while kept and (len(kept) >= TLS_SESSIONS_PER_ORIGIN or not session.single_use):
                self._forget(kept.popleft())
            kept.append(session)
            self._count += 1
            self._octets += session.octets
            while self._count > TLS_SESSIONS or self._octets > TLS_SESSION_OCTETS:
                self._drop(next(iter(self._sessions)))

    def take(self, key: Hashable) -> TlsSession | None:
        """Return the newest session of `key` that is still valid, None when there is none."""
        now = self.clock()
        with self._alone() as alone:
            kept = self._sessions.get(key) if alone else None
            while kept:
                session = kept[-1]
                valid = now < session.expires and session.resumable()
                if not valid or session.single_use:
                    self._forget(kept.pop())
                if valid:
                    self._sessions.move_to_end(key)
                    if not kept:
                        del self._sessions[key]
                    return session
            if alone:
                self._sessions.pop(key, None)
        return None

    def discard(self, key: Hashable) -> None:
        """Drop the sessions of `key`."""
        with self._alone() as alone:
            if not alone:
                self._unwanted.add(key)
            elif key in self._sessions:
                self._drop(key)

    def clear(self) -> None:
        """Drop all sessions."""
        with self._alone():
            self.generation += 1
            self._all_unwanted = True

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """Hold the lock. False to a finalizer in the middle of another call of this thread: it leaves the sessions
        unchanged, and those to drop are dropped at the end of that call."""
        with self._lock:
            if self._inside:
                yield False
                return
            self._inside = True
            try:
                self._forget_unwanted()
                yield True
                self._forget_unwanted()
            finally:
                self._inside = False

    def _forget_unwanted(self) -> None:
        while self._unwanted or self._all_unwanted:
            if self._all_unwanted:
                self._all_unwanted = False
                self._sessions.clear()
                self._count = self._octets = 0
            elif (key := self._unwanted.pop()) in self._sessions:
                self._drop(key)

    def _drop(self, key: Hashable) -> None:
        for session in self._sessions.pop(key):
            self._forget(session)

    def _forget(self, session: TlsSession) -> None:
        self._count -= 1
        self._octets -= session.octets

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        # Perhaps another thread of the parent was there.
        self._inside = False
        self.clear()


class Resumption:
    """The link between one client connection and the cache: it takes the session to offer, and stores new ones."""

    __slots__ = ("_cache", "_key", "_trusted_until")

    def __init__(self, cache: SessionCache, key: Hashable) -> None:
        self._cache = cache
        self._key = key
        self._trusted_until = 0.0

    def offer(self) -> TlsSession | None:
        """Return the session to offer to the server, if there is one."""
        session = self._cache.take(self._key)
        if session is not None:
            self._trusted_until = session.trusted_until
        return session

    def succeeded(self, reused: bool, valid_until: float) -> None:
        """Record a successful handshake; new sessions may be stored from now on.

        `reused`: a session was resumed. Otherwise `valid_until` is when the check of the staple expires, in seconds
        since the epoch.
        """
        if not reused:
            self._trusted_until = min(self._cache.clock() + TLS_SESSION_LIFETIME, valid_until)

    def failed(self) -> None:
        """Record a failed handshake: the sessions of this server are removed."""
        self._cache.discard(self._key)

    def keep(self, session: TlsSession) -> None:
        """Store a session that the server has issued."""
        if session.single_use and not session.lifetime:
            # TLS 1.3: "to be discarded immediately" (RFC 8446 section 4.6.1); TLS 1.2: not said (RFC 5077 section 3.3).
            return
        now = self._cache.clock()
        session.trusted_until = self._trusted_until
        session.expires = min(now + session.lifetime, self._trusted_until) if session.lifetime else self._trusted_until
        self._cache.put(self._key, session)


def _after_fork() -> None:
    for cache in list(_caches):
        cache._after_fork()


os.register_at_fork(after_in_child=_after_fork)
