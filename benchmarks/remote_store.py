"""An S3 server: moto's application, under a web server that keeps connections.

`python -m benchmarks.remote_store PORT`. moto's own server ends the connection after each answer,
which no real store does: clients that keep connections would gain nothing by it, and connections
that break between two requests would never happen.
"""

from __future__ import annotations

import sys

from cheroot.wsgi import Server
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

_THREADS = 32
_KEEP_S = 60


def main() -> None:
    """Serve on a port of 127.0.0.1 until ended. Objects are kept in memory."""
    application = DomainDispatcherApplication(create_backend_app)
    address = ("127.0.0.1", int(sys.argv[1]))
    Server(address, application, numthreads=_THREADS, timeout=_KEEP_S).start()


if __name__ == "__main__":
    main()
