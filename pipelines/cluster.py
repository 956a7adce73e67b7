"""A Ray session for one job, with quiet logs, a limit to each wait, and one clear error if Ray cannot be reached."""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from curate.base.child import silent_stderr
from curate.base.extras import install_command

START_SECONDS = 120.0  # for Ray to start, or to be connected to
START_TRIES = 2  # Ray itself gives a daemon 30 s, which are not enough on a machine with much else to do
DRIVER = "WINNOW_DRIVER"  # variable of workers: the machine of their driver
PLACE_SECONDS = 120.0  # for all workers to get their place
LOG = logging.getLogger("winnow")


class ExecutorError(Exception):
    """The job cannot run at all: what is missing, and the fix."""


class RayDied(ExecutorError):
    """A daemon of this machine's Ray has ended, and all its workers with it; Ray can be started again."""


def require_ray(instead: str) -> None:
    """Raise ExecutorError if Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise ExecutorError(f"the package ray is not installed: {install_command('ray')}, or {instead}")


class RaySession:
    """Ray during one job: an existing cluster, or one of its own on this machine, which is shut down afterwards.

    Without an address no cluster is joined, whatever RAY_ADDRESS or the last `ray start` on this machine says.
    """

    def __init__(self, address: str | None, instead: str, note: Callable[[str], None] = LOG.info) -> None:
        """address: of a cluster, or None: this machine. instead: what to do without Ray, for the error. note: is told what
        is waited for."""
        self.address, self.instead, self.note = address, instead, note
        self.daemons: dict[psutil.Process, str] = {}  # without which nothing works -> their names

    def __enter__(self) -> RaySession:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # the job detects and reports lost workers
        # Ray's own 15 gives its workers a thirtieth of a processor beside anything else: they start for minutes, as if hung
        os.environ.setdefault("RAY_worker_niceness", "0")
        warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
        require_ray(self.instead)
        import ray

        self.thread: _Starter | None = None
        self.inherited: str | None = None
        if ray.is_initialized():
            return self
        for tries in range(START_TRIES):
            try:
                self._start()
                break
            except Exception as error:  # of many kinds: daemons that die while they start, addresses, time
                self.__exit__()
                last = tries == START_TRIES - 1 or isinstance(error, TimeoutError)
                if self.address or last:
                    raise self._told(error) from None
                self.note("Ray did not start: trying again")
        return self

    def _start(self) -> None:
        import ray

        options = {"logging_level": logging.ERROR, "log_to_driver": False}
        _check_reachable(self.address)
        if self.address:
            self.note(f"connecting to Ray at {self.address}")
            options["address"] = self.address
        else:
            self.note("starting Ray on this machine")
            self.inherited = os.environ.pop("RAY_ADDRESS", None)  # its processes would take it for theirs
            options |= {"address": "local", "include_dashboard": False}
        self.thread = _Starter(lambda: ray.init(**options))
        with silent_stderr():
            self.thread.begin(START_SECONDS)
        if not self.address:
            self.daemons = {child: name for child in _rays() if (name := _daemon(child))}
            OPEN.append(self)

    def _told(self, error: Exception) -> ExecutorError:
        """The one line of an error of Ray's."""
        reason = " ".join(str(error).split())[:200]
        if self.address and _is_refused(error):
            return ExecutorError(
                f"Ray at {self.address} wants a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or "
                f"RAY_AUTH_TOKEN_PATH as on the cluster, or {self.instead}"
            )
        what = f"Ray at {self.address} cannot be reached" if self.address else "Ray cannot be started on this machine"
        fix = "start it with `ray start --head`" if self.address else "free memory and processors"
        return ExecutorError(f"{what} ({reason}): {fix}, or {self.instead}")

    def __exit__(self, *_: object) -> None:
        import ray

        if self in OPEN:
            OPEN.remove(self)
        if self.thread is not None:
            if self._died():
                for child in _rays():  # without its daemons, Ray would wait for them
                    with suppress(psutil.Error):
                        child.kill()
            elif self.thread.begun:
                ray.shutdown()
            self.thread.ended.set()
            self.thread, self.daemons = None, {}
        if self.inherited is not None:
            os.environ["RAY_ADDRESS"] = self.inherited

    def check(self) -> None:
        """Raise RayDied where a daemon of this machine's Ray has ended: what is asked of Ray then is never answered."""
        if died := self._died():
            raise RayDied(
                f"Ray on this machine has ended (its {died} was killed; the machine may have run out of memory)"
            )

    def _died(self) -> str | None:
        for daemon, name in self.daemons.items():
            with suppress(psutil.Error):
                if daemon.is_running() and daemon.status() != psutil.STATUS_ZOMBIE:
                    continue
            return name
        return None


OPEN: list[RaySession] = []  # of this process, that have started Ray


def check_ray() -> None:
    """Raise RayDied where a daemon of a Ray that this process has started has ended. For a thread: others may wait for Ray."""
    for session in list(OPEN):
        session.check()


class _Starter:
    """A thread that starts Ray, and stays while Ray is there: its processes die with the thread that made them."""

    def __init__(self, start: Callable[[], object]) -> None:
        self.start, self.begun, self.ended, self.error = start, False, threading.Event(), None
        self._done = threading.Event()

    def begin(self, seconds: float) -> None:
        """Raises what `start` raises, and TimeoutError when it takes longer; nothing that it started is left then."""
        before = {child.pid for child in _rays()}
        threading.Thread(target=self._run, daemon=True, name="ray").start()
        if not self._done.wait(seconds):
            for child in _rays():
                if child.pid not in before:
                    with suppress(psutil.Error):
                        child.kill()
            raise TimeoutError(f"it was not there within {seconds:.0f} s: see whether the machine is overloaded")
        if self.error is not None:
            raise self.error
        self.begun = True

    def _run(self) -> None:
        try:
            self.start()
        except BaseException as error:  # is raised where it was asked for
            self.error = error
        self._done.set()
        if self.error is None:
            self.ended.wait()


def _rays() -> list[psutil.Process]:
    """This process's children that are of Ray."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any("ray" in Path(part).parts or part.startswith("ray::") for part in child.cmdline()):
                found.append(child)
    return found


def _daemon(process: psutil.Process) -> str | None:
    """The name of a process that is a daemon of Ray."""
    with suppress(psutil.Error):
        name = Path(next(iter(process.cmdline()), "")).name
        return name if name in ("raylet", "gcs_server") else None
    return None


def place(bundle: Mapping[str, float], count: int, note: Callable[[str], None], seconds: float | None = None) -> None:
    """See that `count` workers, each with a bundle of resources, can be placed now. Raises ExecutorError.

    seconds: to wait until others have freed what is missing; None: PLACE_SECONDS.
    """
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    seconds = PLACE_SECONDS if seconds is None else seconds
    have, free = ray.cluster_resources(), ray.available_resources()
    there = ", ".join(f"{free.get(key, 0):g} of {have.get(key, 0):g} {key}s free" for key in bundle)
    each = " and ".join(f"{value:g} {key}s" for key, value in bundle.items())
    note(f"{count} workers wanted, of {each} each; {there}")
    wish = f"{count} workers of {each} each cannot be placed"
    if any(value * count > have.get(key, 0) + 1e-6 for key, value in bundle.items()):
        raise ExecutorError(
            f"{wish}: there is not as much ({there}): use fewer --workers, or add machines to the cluster"
        )
    group = placement_group([dict(bundle)] * count)
    try:
        if not group.wait(seconds):
            raise ExecutorError(
                f"{wish}, also after {seconds:.0f} s ({there}): end other jobs on the cluster, or use fewer --workers"
            )
    finally:
        remove_placement_group(group)


def _is_refused(error: Exception) -> bool:
    """Whether a cluster wants a token that this process lacks, or has another one."""
    text = f"{error} {error.__cause__}".lower()  # Ray may hide the reason behind "Failed to connect to Ray cluster"
    return (
        type(error).__name__ == "AuthenticationError"
        or "unauthenticated" in text
        or "auth_token" in text
        or "auth token" in text
    )


def _check_reachable(address: str | None) -> None:
    """Raise OSError at once if nothing listens at host:port; Ray itself would wait for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def elsewhere() -> bool:
    """Whether this process works for one on another machine, which may see other files."""
    return os.environ.get(DRIVER, machine()) != machine()


def machine() -> str:
    """The boot of this machine, and which of its file systems are seen (containers have their own)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/').st_dev} {os.stat('/').st_ino}"
    except OSError:
        return socket.gethostname()


def worker_environment(threads: int) -> dict[str, str]:
    """Variables for workers of a job of this machine: their threads, where weights are, and `elsewhere`."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    passed = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME", "XDG_CACHE_HOME")
    own = {name: os.environ[name] for name in passed if name in os.environ}
    return dict.fromkeys(names, str(threads)) | own | {DRIVER: machine()}
