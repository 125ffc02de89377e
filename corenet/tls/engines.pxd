"""C interface of the choice between the TLS engines."""

from corenet.tls.engine cimport TlsEngine

cdef TlsEngine make_engine(object context, bint server_side, object server_hostname)
