"""What a port says to a stranger: `probe.py HOST PORT FOLDER`, where FOLDER has certificates, or is `-` for none.

Prints one word: `refused` (closed, with no more than an alert of TLS), `answered` (bytes came), `silent` (connected, and
nothing came for a second). `:ca` behind the folder leaves the client's certificate out.
"""

from __future__ import annotations

import pathlib
import socket
import ssl
import sys

# The preface of HTTP/2 with an empty SETTINGS frame: every server of gRPC answers it.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"

# The first byte of an alert of TLS (RFC 8446, 5.1).
ALERT = b"\x15"


def context(folder: str) -> ssl.SSLContext | None:
    if folder == "-":
        return None
    path = pathlib.Path(folder.removesuffix(":ca"))
    made = ssl.create_default_context(cafile=path / "ca.pem")
    made.set_alpn_protocols(["h2"])
    if not folder.endswith(":ca"):
        made.load_cert_chain(path / "client.pem", path / "client.key")
    return made


def probe(host: str, port: int, folder: str) -> str:
    connection = socket.create_connection((host, port), timeout=5)
    connection.settimeout(1)
    try:
        if (tls := context(folder)) is not None:
            connection = tls.wrap_socket(connection, server_hostname="corpusmill")
        connection.sendall(PREFACE)
        heard = connection.recv(1)
        return "answered" if heard and (tls or heard != ALERT) else "refused"
    except TimeoutError:
        return "silent"
    except OSError:
        return "refused"


host, port, folder = sys.argv[1:]
print(probe(host, int(port), folder))
