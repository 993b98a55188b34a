"""Counts the bytes that Python receives from other machines.

Python imports a module of this name when it starts. `make timings` puts this folder on PYTHONPATH,
so that a notebook's kernel is counted, and every Python that the notebook starts. Each piece that
arrives becomes a line in the file that COMPANION_RECEIVED names: its number of bytes, without
encryption. Not seen is what a library receives by other means than `socket` and `ssl`.
"""

import functools
import ipaddress
import os
import socket
import ssl

# What tells how much has come, of what each method returns.
RECEIVING = {
    "recv": len,
    "recv_into": int,
    "recvfrom": lambda result: len(result[0]),
    "recvfrom_into": lambda result: result[0],
    "recvmsg": lambda result: len(result[0]),
}


def count_into(path, is_far):
    """From now on, write down what the sockets receive for which `is_far(socket)` holds."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def counted(method, size_of):
        @functools.wraps(method)
        def receive(self, *args, **kwargs):
            result = method(self, *args, **kwargs)
            if is_far(self):
                os.write(file, b"%d\n" % size_of(result))
            return result

        return receive

    for name, size_of in RECEIVING.items():
        if hasattr(socket.socket, name):  # Windows has no recvmsg
            setattr(socket.socket, name, counted(getattr(socket.socket, name), size_of))
    ssl.SSLSocket.read = counted(
        ssl.SSLSocket.read, lambda result: result if isinstance(result, int) else len(result)
    )


def is_far(connection):
    """Whether what the socket receives comes from outside this machine."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    own = ipaddress.ip_address(connection.getsockname()[0].split("%")[0])
    return not (getattr(own, "ipv4_mapped", None) or own).is_loopback


if "COMPANION_RECEIVED" in os.environ:
    count_into(os.environ["COMPANION_RECEIVED"], is_far)
