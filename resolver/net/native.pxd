# No C interface: the transport gets the handler as a function pointer.
