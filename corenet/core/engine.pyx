"""The engine is a scheduler whose descriptors can be watched: by readers and writers, waiters, and `watch`.

A descriptor has one watcher in the poller. For readers, writers and waiters that is its `FdHandlers`; a `Watch` or a
transport excludes them, and they exclude those, unless the owner has closed the descriptor and its number was reused.
"""

cimport cython
from libc.stdint cimport uint32_t

from corenet.core cimport libc as c
from corenet.core.handles cimport Handle, new_handle
from corenet.core.libc cimport PyContext_CopyCurrent
from corenet.core.poller cimport Watch, Watcher
from corenet.core.scheduler cimport Scheduler


@cython.final
cdef class FdHandlers(Watcher):
    """Reader and writer of one descriptor: a handle is called for each event, a waiter (a future) is set once.

    Registrations. With a reader or writer: level-triggered. With waiters: one-shot, and the disarmed entry stays in the
    kernel's table, so the next wait costs one MOD; when the descriptor was closed meanwhile, the MOD fails and becomes
    an ADD.

    Exception: a wait for reading on a socket object that can be identified by `owner` stays registered edge-triggered
    between waits. A caller waits only after a read got EAGAIN, so the next edge belongs to its wait. Whether the entry
    is still that of the file that has this number is tested by an ADD, which fails with EEXIST in that case and costs
    less than a MOD. An edge without a waiter may have come before the receive that got its data; a second one in a row
    means that no receive is waiting, and ends the registration. When another file is found under the number (dup2),
    waits for this number are one-shot from then on: the first file may return, and its old registration with it.
    """

    cdef object callback_to_report(self):
        cdef Handle handle = self.writer if self.reader is None else self.reader
        return None if handle is None else handle.callback

    cdef int arm(self, object owner) except -1:
        """Register the interest of handlers and waiters, of which there must be at least one."""
        cdef uint32_t events = 0
        self.edge_registration_owner = None
        if self.reader is not None or self.read_waiter is not None:
            events |= c.EPOLLIN
        if self.writer is not None or self.write_waiter is not None:
            events |= c.EPOLLOUT
        self.armed_oneshot = self.read_waiter is not None or self.write_waiter is not None
        if self.armed_oneshot:
            if owner is not None and events == c.EPOLLIN and self.reader is None:
                events |= c.EPOLLET
                self.armed_oneshot = False
            else:
                owner = None
                events |= c.EPOLLONESHOT
        else:
            owner = None
        if self.engine.poller.find(self.fd) is self:
            self.engine.poller.modify(self.fd, events)
        else:
            self.engine.poller.add(self.fd, events, self)
        self.edge_registration_owner = owner
        return 0

    cdef int rearm_remaining(self) except -1:
        """Register what remains when one side has ended. When the kernel refuses, the remaining side gets the error.

        The side that has ended, or is being woken, does not see the error.
        """
        try:
            self.arm(None)
        except Exception as error:
            self.on_registration_lost(error)
        return 0

    cdef int on_registration_lost(self, object error) except -1:
        """No event will come any more: waiters get `error`, reader and writer are dropped.

        The loss of reader or writer is reported, except when the program has closed the descriptor: then asyncio does
        not call them any more, either, and reports nothing.
        """
        cdef object read_waiter, write_waiter
        cdef Handle reader, writer
        cdef bint closed = isinstance(error, OSError) and error.errno in (c.EBADF, c.ENOENT, c.EPERM)
        read_waiter, self.read_waiter = self.read_waiter, None
        write_waiter, self.write_waiter = self.write_waiter, None
        reader, self.reader = self.reader, None
        writer, self.writer = self.writer, None
        self.edge_registration_owner = None
        self.armed_oneshot = False
        if self.engine.poller.find(self.fd) is self:
            self.engine.poller.remove(self.fd)
        # Cancelled, because they may be about to be called for events that were already reported.
        if reader is not None:
            reader.cancel()
            self.engine._handler_dropped(self.fd, False)
        if writer is not None:
            writer.cancel()
            self.engine._handler_dropped(self.fd, True)
        if read_waiter is not None and not read_waiter.done():
            read_waiter.set_exception(error)
        if write_waiter is not None and not write_waiter.done():
            write_waiter.set_exception(type(error)(*error.args))
        if not closed and (reader is not None or writer is not None):
            self.engine._watcher_failed(error, self.fd)
        return 0

    cdef bint has_interest(self) noexcept:
        """Return whether there is a reader, a writer or a waiter."""
        return (
            self.reader is not None
            or self.writer is not None
            or self.read_waiter is not None
            or self.write_waiter is not None
        )

    cdef int on_events(self, uint32_t events) except -1:
        cdef bint once = self.armed_oneshot
        cdef object read_waiter = None
        cdef object write_waiter = None
        cdef Handle reader = None
        cdef Handle writer = None
        # Hang-ups and errors wake both sides; each gets the error from its own system call.
        if events & ~<uint32_t>c.EPOLLOUT:
            reader = self.reader
            read_waiter = self.read_waiter
            self.read_waiter = None
        if self.edge_registration_owner is not None:
            if read_waiter is not None:
                return self.engine.set_waiter_result(read_waiter)
            self.unclaimed_edges += 1
            if self.unclaimed_edges > 1:
                self.edge_registration_owner = None
                self.engine.poller.remove(self.fd)
            return 0
        if events & ~<uint32_t>c.EPOLLIN:
            writer = self.writer
            write_waiter = self.write_waiter
            self.write_waiter = None
        if once:
            if self.has_interest():
                self.rearm_remaining()
        elif not self.has_interest():
            self.engine.poller.remove(self.fd)
        if read_waiter is not None:
            self.engine.set_waiter_result(read_waiter)
        if write_waiter is not None:
            self.engine.set_waiter_result(write_waiter)
        if reader is not None:
            self.engine.run_io_handle(reader)
        # The reader's callback may have cancelled the writer; then this does nothing.
        if writer is not None:
            self.engine.run_io_handle(writer)
        return 0


cdef class Engine(Scheduler):
    """Runs callbacks, timers and watchers of descriptors on one thread."""

    cdef FdHandlers descriptor(self, int fd, bint writing):
        """Return the FdHandlers of `fd`, a new one if there is none. Raises RuntimeError when a transport owns `fd`."""
        cdef Watcher watcher = self.poller.find(fd)
        cdef FdHandlers found
        if isinstance(watcher, FdHandlers):
            return <FdHandlers>watcher
        if watcher is not None and (writing or not watcher.yield_to_reader()):
            if self.poller.owner_of(fd) is watcher or not self.poller.kernel_lost_registration(fd):
                kind = "" if isinstance(watcher, Watch) else "transport "
                raise RuntimeError(f"File descriptor {fd!r} is used by {kind}{watcher!r}")
            # The descriptor was closed without being unwatched; its number was reused.
            self.poller.remove(fd)
        self.check_not_owned(fd)
        found = FdHandlers.__new__(FdHandlers)
        found.engine = self
        found.fd = fd
        return found

    cdef int remove_stale_handlers(self, int fd) except -1:
        """Remove the reader and writer of an earlier descriptor with the number of a new transport's.

        Raises RuntimeError when a transport owns `fd`.
        """
        if self.poller.find(fd) is not None:
            self.descriptor(fd, True)
            self.poller.remove(fd)
        return 0

    cdef int check_not_owned(self, int fd) except -1:
        """Raise RuntimeError for the descriptor of a transport that is paused, and therefore not registered."""
        cdef Watcher owner = self.poller.owner_of(fd)
        if owner is not None and not (<object>owner).is_closing():
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {owner!r}")
        return 0

    def _set_handler(self, fd: int, writing: bool, callback: object, args: tuple) -> Handle:
        """Set reader or writer of `fd`; a previous one is cancelled."""
        cdef FdHandlers descriptor
        cdef Handle handle, previous
        cdef int number = fd
        self.check_open()
        descriptor = self.descriptor(number, writing)
        handle = new_handle(self, callback, args, None)
        handle.keep = True
        if self.debug:
            self._handle_created(handle)
        if writing:
            previous, descriptor.writer = descriptor.writer, handle
            descriptor.write_waiter = None
        else:
            previous, descriptor.reader = descriptor.reader, handle
            descriptor.read_waiter = None
        if previous is not None:
            previous.cancel()
        # Events that the poll has already reported were for the previous handler.
        self.poller.invalidate_pending_events(number)
        try:
            descriptor.arm(None)
        except BaseException:
            self.clear_direction(descriptor, writing)
            self._handler_dropped(number, writing)
            raise
        return handle

    def _clear_handler(self, fd: int, writing: bool) -> bool:
        cdef Watcher watcher
        cdef FdHandlers descriptor
        if self.closed:
            return False
        watcher = self.poller.find(fd)
        if not isinstance(watcher, FdHandlers):
            if watcher is not None:
                if not writing and watcher.yield_to_reader():
                    return True
                raise RuntimeError(f"File descriptor {fd!r} is used by transport {watcher!r}")
            self.check_not_owned(fd)
            return False
        descriptor = <FdHandlers>watcher
        return self.clear_direction(descriptor, writing)

    cdef bint clear_direction(self, FdHandlers descriptor, bint writing) except -1:
        """Remove reader or writer; return False when there was none."""
        cdef Handle handle
        cdef object waiter
        cdef bint found
        if writing:
            handle, descriptor.writer = descriptor.writer, None
            waiter, descriptor.write_waiter = descriptor.write_waiter, None
        else:
            handle, descriptor.reader = descriptor.reader, None
            waiter, descriptor.read_waiter = descriptor.read_waiter, None
        if handle is None and waiter is None:
            return False
        # A waiter that is done was cancelled: it does not count.
        found = handle is not None or not waiter.done()
        if handle is not None:
            handle.cancel()
        # If the kernel still has the one-shot interest of the removed side, one event comes and finds no handler.
        descriptor.armed_oneshot = descriptor.armed_oneshot and descriptor.has_interest()
        if descriptor.has_interest():
            descriptor.rearm_remaining()
        else:
            descriptor.edge_registration_owner = None
            self.poller.remove(descriptor.fd)
        return found

    cdef int wait_ready(self, int fd, bint writing, object waiter, object owner) except -1:
        """Set the future `waiter` when `fd` is ready or closed by its owner; it replaces a previous waiter.

        A cancelled waiter may stay: it is skipped. `owner` is a weak reference to the object that owns `fd`, or None; a
        wait for reading with the same owner as the last one changes nothing in the kernel.
        """
        cdef FdHandlers descriptor = self.descriptor(fd, writing)
        cdef Handle previous
        if writing:
            previous, descriptor.writer = descriptor.writer, None
            descriptor.write_waiter = waiter
        else:
            previous, descriptor.reader = descriptor.reader, None
            descriptor.read_waiter = waiter
            descriptor.unclaimed_edges = 0
            if descriptor.fd_was_reused:
                owner = None
            elif owner is not None and descriptor.edge_registration_owner is owner:
                if self.poller.kernel_has_registration(fd):
                    return 0
                descriptor.fd_was_reused = True
                owner = None
        if previous is not None:
            previous.cancel()
        try:
            descriptor.arm(owner)
        except BaseException:
            self.clear_direction(descriptor, writing)
            raise
        return 0

    cdef int wake_waiters(self, int fd) except -1:
        """Wake the waiters of `fd` because its owner closes it; they get the error from the system call they repeat."""
        cdef Watcher watcher = self.poller.find(fd)
        cdef FdHandlers descriptor
        cdef object reading, writing
        if not isinstance(watcher, FdHandlers):
            return 0
        descriptor = <FdHandlers>watcher
        reading, descriptor.read_waiter = descriptor.read_waiter, None
        writing, descriptor.write_waiter = descriptor.write_waiter, None
        if not descriptor.has_interest():
            descriptor.edge_registration_owner = None
            self.poller.remove(fd)
        if reading is not None:
            self.set_waiter_result(reading)
        if writing is not None:
            self.set_waiter_result(writing)
        return 0

    cdef int set_waiter_result(self, object waiter) except -1:
        """Set the future of a wait, unless it was cancelled."""
        if not waiter.done():
            waiter.set_result(None)
        return 0

    def _wait_ready(self, fd: int, writing: bool, waiter: object, owner: object) -> None:
        self.wait_ready(fd, writing, waiter, owner)

    def watch(self, fd: int, events: int, callback: object, mode: int = 0) -> Watch:
        """Call ``callback(events)`` directly from the poll, in a copy of the current context; see `Poller.watch`.

        Replaces an earlier watch of the same descriptor. An exception of the callback goes to the exception handler;
        the watch stays.

        Raises:
            RuntimeError: a transport, or a reader or writer, uses the descriptor.
        """
        cdef int number = fd
        self.check_open()
        self.check_watchable(number)
        return self.poller.register_watch(number, events, callback, mode, PyContext_CopyCurrent())

    def unwatch(self, target: object) -> bool:
        """Undo `watch`, given the descriptor or the `Watch`; return False when it was not watched.

        Raises:
            RuntimeError: a transport, or a reader or writer, uses the descriptor.
        """
        if not isinstance(target, Watch):
            self.check_watchable(target)
        return self.poller.unwatch(target)

    cdef int check_watchable(self, int fd) except -1:
        """Raise RuntimeError when `fd` is in use, unless its owner closed it and the number was reused."""
        cdef Watcher watcher = self.poller.find(fd)
        if watcher is None:
            return self.check_not_owned(fd)
        if isinstance(watcher, Watch):
            return 0
        if isinstance(watcher, FdHandlers) and not (<FdHandlers>watcher).has_interest():
            # Kept registered for the next wait of a sock_ method: give it up.
            (<FdHandlers>watcher).edge_registration_owner = None
            self.poller.remove(fd)
            return 0
        if self.poller.kernel_lost_registration(fd):
            self.poller.remove(fd)
            # The transport still has the number, which is no longer its own; its later requests fail.
            self.poller.disown(fd, watcher)
            return 0
        if isinstance(watcher, FdHandlers):
            raise RuntimeError(f"File descriptor {fd!r} is used by a reader or writer")
        raise RuntimeError(f"File descriptor {fd!r} is used by transport {watcher!r}")

    def _handler_dropped(self, fd: int, writing: bool) -> None:
        """Called when the reader or writer of `fd` was dropped because the kernel refused its registration."""
