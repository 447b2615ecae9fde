"""The comparison's own nginx on loopback: HTTP, HTTPS by a CA made for it, and a slow way."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

import trustme

from bench.peer_workloads import LATENCY_S, Workload

ECHO_MODULE = Path("/usr/lib/nginx/modules/ngx_http_echo_module.so")
CONFIG = """\
{modules}
{user}
worker_processes {workers};
daemon off;
pid {etc}/pid;
worker_rlimit_nofile 20000;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000000;
    keepalive_timeout 600s;
    open_file_cache max=20000 inactive=1h;
    open_file_cache_valid 1h;
    client_body_temp_path {etc}/body;
    proxy_temp_path {etc}/proxy;
    fastcgi_temp_path {etc}/fastcgi;
    uwsgi_temp_path {etc}/uwsgi;
    scgi_temp_path {etc}/scgi;
    ssl_certificate {etc}/server.pem;
    ssl_certificate_key {etc}/server.key;
    ssl_session_cache shared:tls:10m;
    root {root};
    autoindex on;
    server {{ listen 127.0.0.1:{http} backlog=4096; {slow} }}
    server {{ listen 127.0.0.1:{https} ssl backlog=4096; {slow} }}
}}
"""
SLOW = "location ~ ^/slow/(?<rest>.*)$ {{ echo_sleep {seconds}; echo_exec /$rest; }}"


class Nginx:
    """Serves ``root`` until the end of the ``with``; RuntimeError when it cannot."""

    def __init__(self, etc: Path, root: Path, workers: int) -> None:
        program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            raise RuntimeError("nginx is not installed (Debian: apt install nginx-light)")
        self.can_be_slow = ECHO_MODULE.exists()
        self.ca = etc / "ca.pem"
        self._ports = {False: free_port(), True: free_port()}
        self._log = etc / "error.log"
        self._certify(etc)
        config = etc / "nginx.conf"
        config.write_text(
            CONFIG.format(
                modules=f"load_module {ECHO_MODULE};" if self.can_be_slow else "",
                user="user root;" if os.geteuid() == 0 else "",  # else nobody may look in /dev/shm
                workers=workers,
                etc=etc,
                root=root,
                http=self._ports[False],
                https=self._ports[True],
                slow=SLOW.format(seconds=LATENCY_S) if self.can_be_slow else "",
            )
        )
        self._process = subprocess.Popen(
            [program, "-p", etc, "-c", config, "-e", self._log], stderr=subprocess.DEVNULL
        )

    def _certify(self, etc: Path) -> None:
        ca = trustme.CA()
        ca.cert_pem.write_to_path(str(self.ca))
        own = ca.issue_cert("127.0.0.1", "localhost")
        own.private_key_pem.write_to_path(str(etc / "server.key"))
        for number, pem in enumerate(own.cert_chain_pems):
            pem.write_to_path(str(etc / "server.pem"), append=number > 0)

    def folder_url(self, workload: Workload) -> str:
        scheme = "https" if workload.tls else "http"
        way = "slow/" if workload.shape.slow else ""
        return f"{scheme}://127.0.0.1:{self._ports[workload.tls]}/{way}{workload.shape.data}/"

    def __enter__(self) -> Self:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._ports[False]), 1).close()
            except OSError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    said = self._log.read_text().strip() if self._log.exists() else error
                    self.__exit__()
                    raise RuntimeError(f"nginx did not start: {said}") from None
                time.sleep(0.05)
            else:
                return self

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert isinstance(port, int)
        return port
