"""A Ray session for one job, with quiet logs, and one clear error if Ray cannot be reached."""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
import warnings

from curate.base.child import silent_stderr
from curate.base.extras import install_command


class ExecutorError(Exception):
    """The job cannot run at all: what is missing, and the fix."""


def require_ray(instead: str) -> None:
    """Raise ExecutorError if Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise ExecutorError(f"the package ray is not installed: {install_command('ray')}, or {instead}")


class RaySession:
    """Ray during one job: an existing cluster, or started on this machine and shut down afterwards."""

    def __init__(self, address: str | None, instead: str) -> None:
        """address: of a cluster, or None: this machine. instead: what to do without Ray, for the error."""
        self.address, self.instead = address, instead

    def __enter__(self) -> None:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # the job detects and reports lost workers
        warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
        require_ray(self.instead)
        import ray

        self.started = not ray.is_initialized()
        if self.started:
            try:
                _check_reachable(self.address)
                options = {"logging_level": logging.ERROR, "log_to_driver": False}
                with silent_stderr():
                    if self.address:
                        ray.init(address=self.address, **options)
                    else:
                        ray.init(include_dashboard=False, **options)
            except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                reason = " ".join(str(error).split())[:200]
                raise ExecutorError(
                    f"Ray at {self.address or 'this machine'} cannot be reached ({reason}): start it with `ray start --head`, or {self.instead}"
                ) from None

    def __exit__(self, *_: object) -> None:
        import ray

        if self.started:
            ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Raise OSError at once if nothing listens at host:port; Ray itself would wait for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def worker_environment(threads: int) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    passed = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME", "XDG_CACHE_HOME")
    return dict.fromkeys(names, str(threads)) | {name: os.environ[name] for name in passed if name in os.environ}
