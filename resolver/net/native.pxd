# No C door: the handler is handed to the transport as a pointer.
