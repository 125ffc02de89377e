"""sockaddr to Python and back, in the forms of the socket module.

IPv4, IPv6, Unix, netlink and vsock are converted here, because the socket module would need a socket object and a
second system call for each datagram. Conversions to Python are cached in a bounded dictionary that is emptied when
full, so forged source addresses cost CPU time and no memory.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint32_t

from corenet.core cimport libc as c
from corenet.core.libc cimport sockaddr, sockaddr_in, sockaddr_in6, sockaddr_nl, sockaddr_storage, sockaddr_un
from corenet.core.libc cimport sockaddr_vm, socklen_t

from corenet.limits import ADDRESS_CACHE
from corenet.transports.peer import PeerAddress

cdef dict cached = {}
cdef Py_ssize_t CACHE_SIZE = ADDRESS_CACHE
cdef Py_ssize_t UNIX_PATH_OFFSET = sizeof(sockaddr_un) - 108


cdef object decode(const sockaddr *address, socklen_t length):
    """Return the Python form of `address`; None for a family that is not supported."""
    cdef char text[64]
    cdef const sockaddr_in *v4
    cdef const sockaddr_in6 *v6
    cdef const sockaddr_un *local
    cdef const sockaddr_nl *netlink
    cdef const sockaddr_vm *vsock
    cdef Py_ssize_t size
    if length < <socklen_t>sizeof(c.sa_family_t):
        # An unnamed Unix peer has no address.
        return ""
    if address.sa_family == c.AF_INET and length >= <socklen_t>sizeof(sockaddr_in):
        v4 = <const sockaddr_in *>address
        c.inet_ntop(c.AF_INET, &v4.sin_addr, text, sizeof(text))
        return (text.decode("ascii"), <int>c.ntohs(v4.sin_port))
    if address.sa_family == c.AF_INET6 and length >= <socklen_t>sizeof(sockaddr_in6):
        v6 = <const sockaddr_in6 *>address
        c.inet_ntop(c.AF_INET6, &v6.sin6_addr, text, sizeof(text))
        return (
            text.decode("ascii"),
            <int>c.ntohs(v6.sin6_port),
            <unsigned int>c.ntohl(v6.sin6_flowinfo),
            <unsigned int>v6.sin6_scope_id,
        )
    if address.sa_family == c.AF_UNIX:
        local = <const sockaddr_un *>address
        size = <Py_ssize_t>length - UNIX_PATH_OFFSET
        if size <= 0:
            return ""
        size = min(size, 108)
        if local.sun_path[0] == 0:
            # The abstract namespace: all bytes count, and the result is bytes, as in the socket module.
            return PyBytes_FromStringAndSize(local.sun_path, size)
        size = c.strnlen(local.sun_path, size)
        return PyBytes_FromStringAndSize(local.sun_path, size).decode("utf-8", "surrogateescape")
    if address.sa_family == c.AF_NETLINK and length >= <socklen_t>sizeof(sockaddr_nl):
        netlink = <const sockaddr_nl *>address
        return (<unsigned int>netlink.nl_pid, <unsigned int>netlink.nl_groups)
    if address.sa_family == c.AF_VSOCK and length >= <socklen_t>sizeof(sockaddr_vm):
        vsock = <const sockaddr_vm *>address
        return (vsock.svm_cid, vsock.svm_port)
    return None


cdef object to_object(const sockaddr *address, socklen_t length):
    """Return `address` as the socket module shows it."""
    cdef bytes key
    cdef object found
    if length > <socklen_t>sizeof(sockaddr_in6):
        return decode(address, length)
    key = PyBytes_FromStringAndSize(<const char *>address, length)
    found = cached.get(key)
    if found is None:
        found = decode(address, length)
        if len(cached) >= CACHE_SIZE:
            cached.clear()
        cached[key] = found
    return found


cdef object to_peer(const sockaddr *address, socklen_t length, const PacketInfo *pktinfo):
    """Return `address` as a `PeerAddress` with the local address to which the datagram came, if `pktinfo` has one."""
    cdef char text[64]
    cdef bytes key
    cdef object found
    if pktinfo.family == 0 or length > <socklen_t>sizeof(sockaddr_in6):
        return to_object(address, length)
    # Longer than any key of `to_object`, so that the keys differ.
    key = PyBytes_FromStringAndSize(NULL, length + sizeof(PacketInfo))
    c.memcpy(PyBytes_AS_STRING(key), address, length)
    c.memcpy(PyBytes_AS_STRING(key) + length, pktinfo, sizeof(PacketInfo))
    found = cached.get(key)
    if found is None:
        c.inet_ntop(pktinfo.family, pktinfo.address, text, sizeof(text))
        found = PeerAddress(decode(address, length))
        found.local = text.decode("ascii")
        found.pktinfo = PyBytes_FromStringAndSize(<const char *>pktinfo, sizeof(PacketInfo))
        if len(cached) >= CACHE_SIZE:
            cached.clear()
        cached[key] = found
    return found


cdef bint pktinfo_of(object address, PacketInfo *out) except -1:
    """Fill `out` and return True if `address` is a `PeerAddress` that `to_peer` made."""
    cdef bytes packed
    if type(address) is not PeerAddress:
        return False
    packed = address.pktinfo
    if PyBytes_GET_SIZE(packed) != sizeof(PacketInfo):
        return False
    c.memcpy(out, PyBytes_AS_STRING(packed), sizeof(PacketInfo))
    return True


cdef int port_of(object value) except -1:
    cdef long port
    if not isinstance(value, int):
        raise TypeError("an integer is required for the port")
    port = value
    if port < 0 or port > 65535:
        raise OverflowError("port must be 0-65535.")
    return <int>port


cdef int from_object(object address, int family, sockaddr_storage *out, socklen_t *length) except -2:
    """Fill `out` from a numeric `address`; return -1 when it needs the socket module (a name, another form)."""
    cdef sockaddr_in *v4
    cdef sockaddr_in6 *v6
    cdef sockaddr_un *local
    cdef sockaddr_nl *netlink
    cdef sockaddr_vm *vsock
    cdef const char *text
    cdef Py_ssize_t size, parts
    cdef bytes path
    if family == c.AF_UNIX:
        if isinstance(address, str):
            path = (<str>address).encode("utf-8", "surrogateescape")
        elif isinstance(address, bytes):
            path = address
        else:
            return -1
        size = PyBytes_GET_SIZE(path)
        if size == 0 or size >= 108:
            return -1
        local = <sockaddr_un *>out
        c.memset(local, 0, sizeof(sockaddr_un))
        local.sun_family = c.AF_UNIX
        c.memcpy(local.sun_path, PyBytes_AS_STRING(path), size)
        # The length includes the final zero of a path; an abstract name has none.
        length[0] = <socklen_t>(UNIX_PATH_OFFSET + size + (0 if local.sun_path[0] == 0 else 1))
        return 0
    if not isinstance(address, tuple):
        return -1
    parts = len(<tuple>address)
    if family == c.AF_NETLINK and parts == 2:
        netlink = <sockaddr_nl *>out
        c.memset(netlink, 0, sizeof(sockaddr_nl))
        netlink.nl_family = c.AF_NETLINK
        netlink.nl_pid = (<tuple>address)[0]
        netlink.nl_groups = (<tuple>address)[1]
        length[0] = sizeof(sockaddr_nl)
        return 0
    if family == c.AF_VSOCK and parts == 2:
        vsock = <sockaddr_vm *>out
        c.memset(vsock, 0, sizeof(sockaddr_vm))
        vsock.svm_family = c.AF_VSOCK
        vsock.svm_cid = (<tuple>address)[0]
        vsock.svm_port = (<tuple>address)[1]
        length[0] = sizeof(sockaddr_vm)
        return 0
    if parts < 2 or type((<tuple>address)[0]) is not str:
        return -1
    text = PyUnicode_AsUTF8AndSize((<tuple>address)[0], &size)
    if <Py_ssize_t>c.strnlen(text, size) != size:
        return -1
    if family == c.AF_INET:
        v4 = <sockaddr_in *>out
        c.memset(v4, 0, sizeof(sockaddr_in))
        if parts != 2 or c.inet_pton(c.AF_INET, text, &v4.sin_addr) != 1:
            return -1
        v4.sin_family = c.AF_INET
        v4.sin_port = c.htons(port_of((<tuple>address)[1]))
        length[0] = sizeof(sockaddr_in)
        return 0
    if family == c.AF_INET6:
        v6 = <sockaddr_in6 *>out
        c.memset(v6, 0, sizeof(sockaddr_in6))
        if parts > 4 or c.inet_pton(c.AF_INET6, text, &v6.sin6_addr) != 1:
            return -1
        v6.sin6_family = c.AF_INET6
        v6.sin6_port = c.htons(port_of((<tuple>address)[1]))
        if parts > 2:
            v6.sin6_flowinfo = c.htonl(<uint32_t>(<tuple>address)[2])
        if parts > 3:
            v6.sin6_scope_id = <uint32_t>(<tuple>address)[3]
        length[0] = sizeof(sockaddr_in6)
        return 0
    return -1
