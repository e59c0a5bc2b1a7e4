"""What a port says to a stranger: `probe.py HOST PORT FOLDER [NAME]`, where FOLDER has certificates, or is `-` for none.

Prints one word: `closed` (without a byte), `refused` (TLS is not gone into, or ended with an alert), `answered` (bytes
came), `silent` (connected, and nothing came for a second). NAME is the server's; `ca` as the folder's name after a
colon leaves the client's certificate out: `FOLDER:ca`.
"""

from __future__ import annotations

import pathlib
import socket
import ssl
import sys

# The preface of HTTP/2 with an empty SETTINGS frame: every server of gRPC answers it.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


def context(folder: str) -> ssl.SSLContext | None:
    if folder == "-":
        return None
    path = pathlib.Path(folder.removesuffix(":ca"))
    made = ssl.create_default_context(cafile=path / "ca.pem")
    made.set_alpn_protocols(["h2"])
    if not folder.endswith(":ca"):
        made.load_cert_chain(path / "client.pem", path / "client.key")
    return made


def probe(host: str, port: int, folder: str, name: str, says: bytes) -> str:
    connection = socket.create_connection((host, port), timeout=5)
    connection.settimeout(1)
    try:
        if (tls := context(folder)) is not None:
            connection = tls.wrap_socket(connection, server_hostname=name)
        connection.sendall(says)
        return "answered" if connection.recv(1) else "closed"
    except TimeoutError:
        return "silent"
    except ssl.SSLError:
        return "refused"
    except OSError:
        return "closed"


host, port, folder, *more = sys.argv[1:]
name = more[0] if more else "corpusmill"
says = PREFACE if len(more) < 2 else more[1].encode().decode("unicode_escape").encode()
print(probe(host, int(port), folder, name, says))
