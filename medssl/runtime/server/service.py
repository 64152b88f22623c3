"""The server as a whole: starts in an order in which nothing accepted can be lost, and stops in the reverse one."""

import contextlib
import platform
import socket
import ssl
import threading

import uvicorn

from medssl.imaging.naming import safe
from medssl.runtime.server.api import build_api
from medssl.runtime.server.audit import AuditLog
from medssl.runtime.server.desk import Desk
from medssl.runtime.server.dicom_listener import DicomListener
from medssl.runtime.server.folders import Folders
from medssl.runtime.server.guard import App, Guard, read_tokens
from medssl.runtime.server.last_lines import LastLines
from medssl.runtime.server.ledger import Ledger, open_database
from medssl.runtime.server.listening import cannot_listen
from medssl.runtime.server.logs import LOG
from medssl.runtime.server.options import QueueOptions, ServeOptions, check_options
from medssl.runtime.server.pool import WorkerPool
from medssl.runtime.server.queue import JobQueue
from medssl.runtime.server.runner import Runner
from medssl.runtime.server.secret import Secret

_HOUSEKEEPING_S = 30.0
_STOP_S = 10


class Service:
    """Everything that runs.

    Args:
        options: Checked before anything is opened.

    Raises:
        ConfigError: Mistakes in the options.
        MedsslError: A bundle must not be used, DATA is in use, the audit log was changed.
    """

    def __init__(self, options: ServeOptions) -> None:
        check_options(options)
        tokens = read_tokens(options.http.tokens) if options.http.tokens else {}
        self.options = options
        node = _node(options.queue)
        self._folders = Folders(options.data, node)
        with contextlib.ExitStack() as undo:
            undo.callback(self._folders.close)
            secret = Secret(options.data / "secret.key")
            place = options.queue.url or options.data / "jobs.db"
            database = open_database(place)
            log = options.data / f"audit-{node}.jsonl"
            audit = AuditLog(log, secret, LastLines(database), options.new_audit_log)
            audit.check_others()
            self.desk = Desk(options, self._folders, Ledger(database, node), secret, audit)
            self.socket = _listen(options)
            undo.callback(self.socket.close)
            self.pool = WorkerPool(options, [bundle.folder for bundle in self.desk.bundles.values()])
            undo.callback(self.pool.close)
            undo.callback(self.pool.interrupt)
            self._queue = JobQueue(open_database(place), Runner(self.desk, self.pool).run, options.queue.workers)
            self.desk.queue = self._queue
            self.dicom = DicomListener(self.desk) if options.dicom.listen else None
            undo.pop_all()
        self.app: App = Guard(build_api(self.desk), options.http, tokens, self._refused)
        self._stop = threading.Event()
        self._housekeeper = threading.Thread(target=self._keep_house, name="housekeeping", daemon=True)

    @property
    def url(self) -> str:
        """Where REST is served."""
        host, port = self.socket.getsockname()[:2]
        scheme = "https" if self.options.tls.certificate else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def start(self) -> None:
        """Recover, then work, then listen."""
        self.desk.recover()
        self._queue.start()
        self._housekeeper.start()
        if self.dicom is not None:
            self.dicom.start()
            LOG.info(
                "DICOM at %s:%d, AE title %s", self.options.dicom.host, self.dicom.port, self.options.dicom.ae_title
            )
        for caution in self.desk.cautions():
            LOG.warning("%s", caution)
        hashes = {name: bundle.sha256 for name, bundle in self.desk.bundles.items()}
        self.desk.audit.write("server", "start", bundles=hashes)

    def serve(self) -> None:
        """Answer requests until a signal comes."""
        uvicorn.Server(http_config(self.options, self.app)).run(sockets=[self.socket])

    def stop(self) -> None:
        """Stop; jobs that run are interrupted and done after the next start."""
        self._stop.set()
        if self.dicom is not None:
            self.dicom.stop()
        self._queue.ask_to_stop()
        self.pool.interrupt()
        self._queue.stop()
        self.pool.close()
        if self._housekeeper.is_alive():
            self._housekeeper.join()
        self.socket.close()
        self.desk.audit.write("server", "stop")
        self._folders.close()

    def _refused(self, who: str, reason: str) -> None:
        self.desk.metrics.refused.labels(reason).inc()
        if reason == "token":
            self.desk.audit.write(who, "wrong-token")

    def _keep_house(self) -> None:
        while not self._stop.wait(_HOUSEKEEPING_S):
            try:
                self.desk.keep_house()
            except Exception as error:  # tried again half a minute later
                LOG.error("housekeeping failed: %s", type(error).__name__)


def _node(queue: QueueOptions) -> str:
    """Name among the servers of a database; who is alone has one that does not change with the machine's."""
    return safe(queue.node or platform.node()) if queue.url else "alone"


def _listen(options: ServeOptions) -> socket.socket:
    host, port = options.http.host, options.http.port
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise cannot_listen("http", host, port, error) from error


def http_config(options: ServeOptions, app: App) -> uvicorn.Config:
    """Settings of the HTTP server: no log of its own, TLS from version 1.2 on, no trust in forwarded addresses."""
    tls = options.tls
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # the audit log says who did what
        server_header=False,
        proxy_headers=False,
        ssl_certfile=tls.certificate,
        ssl_keyfile=str(tls.key) if tls.key else None,
        timeout_graceful_shutdown=_STOP_S,
        limit_concurrency=200,
        h11_max_incomplete_event_size=64 * 1024,
        ws="none",
    )
    if tls.certificate:
        config.load()
        if config.ssl is not None:
            config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    return config
