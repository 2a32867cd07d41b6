"""Wait until the code server accepts connections, then replace this process with the command in the arguments.

Webserver and daemon would log misleading errors if they started before the definitions are loaded.
"""

import os
import socket
import sys
import time


def main() -> None:
    address = os.environ["DAGSTER_GRPC_HOST"], int(os.environ["DAGSTER_GRPC_PORT"])
    while True:
        try:
            socket.create_connection(address, timeout=1).close()
        except OSError:
            time.sleep(0.5)
        else:
            os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - supervisord.conf is the only caller


if __name__ == "__main__":
    main()
