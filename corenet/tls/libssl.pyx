"""Access to the libssl that Python's `_ssl` uses: found at run time, and checked before use.

There are no headers and no linking. So the wheel works with every Python, and OpenSSL's security fixes come with
Python or the system. Functions are looked up by name through `_ssl` itself, so they belong to the library of `_ssl` even
if the process has loaded another one. The address of a connection (`SSL *`) is the second field of `PySSLSocket`, a private
struct of CPython. So `load` first checks on a test connection that

1. the layout of this version of Python is known, and the library's version equals `ssl.OPENSSL_VERSION`;
2. the memory at the addresses in these fields is readable and holds the expected pointers: a memory BIO points to this
   library's table of memory BIOs, a connection to the two BIOs that it was made with. The kernel reads this memory (a
   write to a pipe fails with EFAULT), so a wrong address gives an error and not a crash;
3. libssl's functions, called only now, agree with Python's objects: BIOs, context, method, options, host name.

If a check fails, `load` returns the reason, and connections use `ssl.MemoryBIO` (`corenet.tls.stdlib_engine`).
"""

import _ssl
import os
import ssl
import struct
import sys

from cpython.object cimport PyObject
from libc.stddef cimport size_t
from libc.string cimport strcmp

from corenet.core.libc cimport RTLD_LAZY, RTLD_NOLOAD, SYS_write, dlopen, dlsym, probing_call

__all__ = ["load"]

# The versions of CPython whose Modules/_ssl.c was reviewed: `PySSLSocket` begins with Socket, ssl; `PySSLMemoryBIO` with
# bio; `PySSLContext` with ctx.
OLDEST = (3, 11)
NEWEST = (3, 15)

cdef enum:
    # The compared fields are within this many bytes from the start of OpenSSL's structs.
    LOOKED_AT = 256

cdef LibSSL table
cdef bint proved = False


cdef LibSSL *libssl() noexcept nogil:
    return &table if proved else NULL


cdef void *field(object holder, int index) noexcept:
    """The pointer that is field `index` of the struct of a Python object."""
    return (<void **>(<char *><PyObject *>holder + sizeof(PyObject)))[index]


cdef void *ssl_of(object core) noexcept:
    """The `SSL *` of an `_ssl._SSLSocket`, borrowed; valid only after `load`."""
    return field(core, 1)


cdef void *context_of(object context) noexcept:
    """The `SSL_CTX *` of an SSLContext, borrowed; valid only after `load`."""
    return field(context, 0)


def load() -> str | None:
    """Look up libssl's functions and check that they fit this Python's ssl; return None, or the reason why not."""
    global proved
    if proved:
        return None
    if sys.implementation.name != "cpython" or not OLDEST <= sys.version_info[:2] <= NEWEST:
        return "this version of Python is not known"
    if not ssl.OPENSSL_VERSION.startswith("OpenSSL "):
        return f"Python's ssl uses {ssl.OPENSSL_VERSION}, not OpenSSL"
    missing = look_up()
    if missing is not None:
        return missing
    reason = disproof()
    proved = reason is None
    return reason


cdef object look_up():
    cdef bytes path = os.fsencode(getattr(_ssl, "__file__", None) or "")
    # If `_ssl` is built into the interpreter, libssl's functions are symbols of the program itself.
    cdef void *handle = dlopen(<const char *>path if path else NULL, RTLD_LAZY | RTLD_NOLOAD)
    cdef void **slot = <void **>&table
    cdef bytes name
    if handle == NULL:
        return "the module _ssl cannot be opened"
    if sizeof(LibSSL) != len(NAMES) * sizeof(void *):
        raise AssertionError("the table of functions and the list of their names differ")
    for at, name in enumerate(NAMES):
        slot[at] = dlsym(handle, name)
        if slot[at] == NULL:
            return f"libssl's function {name.decode()} cannot be found: it may be linked into Python"
    return None


cdef object disproof():
    """The reason why the addresses cannot be used, else None. Reads no memory that may be unmapped."""
    cdef const char *name
    cdef void *bio_in
    cdef void *bio_out
    cdef void *connection
    cdef void *context_address
    if table.OpenSSL_version(0).decode() != ssl.OPENSSL_VERSION:
        return "the library found is not the one that Python's ssl uses"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    wrapper = context.wrap_bio(incoming, outgoing, server_hostname="layout.invalid")
    core = getattr(wrapper, "_sslobj", None)
    for holder, kind, fields in ((incoming, _ssl.MemoryBIO, 1), (context, _ssl._SSLContext, 1), (core, _ssl._SSLSocket, 2)):
        if not isinstance(holder, kind) or kind.__basicsize__ < sizeof(PyObject) + fields * sizeof(void *):
            return "the objects of Python's ssl have an unknown type or size"
    bio_in, bio_out = field(incoming, 0), field(outgoing, 0)
    connection, context_address = ssl_of(core), context_of(context)
    if not (
        points_to(bio_in, table.BIO_s_mem()) and points_to(bio_out, table.BIO_s_mem())
        and points_to(connection, bio_in) and points_to(connection, bio_out)
    ):
        return "the structs of Python's ssl have an unknown layout"
    if (
        table.SSL_get_rbio(connection) != bio_in or table.SSL_get_wbio(connection) != bio_out
        or table.SSL_get_SSL_CTX(connection) != context_address
        or table.SSL_CTX_get_ssl_method(context_address) != table.TLS_client_method()
        or table.SSL_CTX_get_options(context_address) != <uint64_t><long long>int(context.options)
    ):
        return "libssl and Python's ssl disagree about a test connection"
    name = table.SSL_get_servername(connection, 0)
    if name == NULL or strcmp(name, b"layout.invalid") != 0:
        return "libssl and Python's ssl disagree about the host name of a test connection"
    return None


cdef bint points_to(void *address, void *wanted):
    """Return whether the memory at `address` is readable and holds the pointer `wanted`."""
    cdef Py_ssize_t got
    if address == NULL or <size_t>address % sizeof(void *):
        return False
    receiving, sending = os.pipe()
    try:
        # The kernel may copy less, up to the end of a page, because the next page may be unmapped.
        got = probing_call(SYS_write, <long>sending, address, <size_t>LOOKED_AT)
        if got <= 0:
            return False
        words = os.read(receiving, got)
    finally:
        os.close(receiving)
        os.close(sending)
    count = len(words) // sizeof(void *)
    return <size_t>wanted in struct.unpack(f"{count}N", words[: count * sizeof(void *)])


# In the order of `LibSSL`.
NAMES = [
    b"OpenSSL_version", b"ERR_peek_error", b"ERR_clear_error", b"TLS_client_method", b"SSL_CTX_get_ssl_method",
    b"SSL_CTX_get_options", b"SSL_CTX_ctrl", b"SSL_CTX_callback_ctrl", b"SSL_CTX_set_ex_data", b"SSL_CTX_get_ex_data",
    b"SSL_CTX_get0_certificate", b"SSL_get_SSL_CTX", b"SSL_get_rbio", b"SSL_get_wbio", b"SSL_set_bio",
    b"SSL_get_servername", b"SSL_read_ex", b"SSL_write_ex", b"SSL_get_error", b"SSL_pending", b"SSL_free_buffers",
    b"SSL_get_shutdown", b"SSL_set_shutdown", b"SSL_shutdown", b"SSL_ctrl", b"SSL_get_session", b"SSL_get1_session",
    b"SSL_set_session", b"SSL_session_reused", b"SSL_SESSION_is_resumable", b"SSL_SESSION_free",
    b"SSL_SESSION_get_protocol_version", b"SSL_SESSION_get_ticket_lifetime_hint", b"SSL_SESSION_get_timeout",
    b"SSL_SESSION_get0_ticket", b"SSL_SESSION_get0_peer", b"SSL_get_peer_cert_chain", b"OPENSSL_sk_num",
    b"OPENSSL_sk_value", b"i2d_X509", b"X509_get0_notAfter", b"X509_cmp_current_time", b"BIO_s_mem",
    b"BIO_get_new_index", b"BIO_meth_new", b"BIO_meth_set_write_ex", b"BIO_meth_set_read_ex", b"BIO_meth_set_ctrl",
    b"BIO_meth_set_destroy", b"BIO_new", b"BIO_free", b"BIO_up_ref", b"BIO_set_data", b"BIO_get_data",
    b"BIO_set_init", b"BIO_set_flags", b"BIO_clear_flags", b"CRYPTO_malloc", b"CRYPTO_get_ex_new_index",
]
