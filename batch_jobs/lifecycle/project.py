"""One opened project: its settings, its store and its way to the providers. Built once, passed down.

No step keeps state of its own: what one leaves, the next reads from here by task_id.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakValueDictionary

from batch_jobs.config import BASE_URL_VARIABLES, ProviderEntry, Settings, load_settings, pick
from batch_jobs.errors import ConfigError, KeyMissing
from batch_jobs.lifecycle.pool.gate import Gate, Gates
from batch_jobs.lifecycle.rehearsal import ensure_sandbox
from batch_jobs.lifecycle.throttle import Throttle, per_minute
from batch_jobs.models import Dialect, Mode, Price
from batch_jobs.storage.call_cache import CallCache
from batch_jobs.storage.files import store_errors
from batch_jobs.storage.jobs import Job
from batch_jobs.storage.ledger import Ledger
from batch_jobs.storage.workspace import Workspace
from batch_jobs.workers import Workers
from providers.contract import Limits, Provider

SANDBOX_ACCOUNT = "sandbox"
BYTE_MARGIN = 0.98
ARROW_MEMORY = "ARROW_DEFAULT_MEMORY_POOL", "system"
"""For this process and its workers, before pyarrow is loaded: its own pool keeps what was freed, 40 MB a process."""


@dataclass(frozen=True)
class Project:
    """Everything the steps share.

    Attributes:
        prompt_lib: the folder of prompt modules, beside config.json.
        simulated: new jobs are rehearsals. An old job stays what it was: real, or simulated by the sandbox.
        environ: where keys are looked up.
        clock: unix seconds.
        workers: processes for steps that work on many rows.
        gates: what every single call of this process passes, by account and model.
        uptime: seconds since some moment of this process's life; setting the machine's clock does not change them.
        unknown_since: of creates that this process saw end without a clear answer, by shard key; in its uptime.
    """

    settings: Settings
    prompt_lib: Path
    workspace: Workspace
    ledger: Ledger
    cache: CallCache
    simulated: bool = False
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    clock: Callable[[], float] = time.time
    workers: Workers = field(default_factory=Workers)
    gates: Gates = field(default_factory=Gates)
    uptime: Callable[[], float] = time.monotonic
    unknown_since: dict[str, float] = field(default_factory=dict)
    _connected: dict[str, Provider] = field(default_factory=dict)
    _throttles: dict[str, Throttle] = field(default_factory=dict)
    _making: WeakValueDictionary[Path, threading.Lock] = field(default_factory=WeakValueDictionary)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def entry(self, provider: str) -> ProviderEntry:
        """The provider's entry in config.json."""
        return pick("provider", provider, self.settings.providers)

    def endpoint(self, provider: str) -> str | None:
        """The endpoint of an OpenAI-style provider; None for the other dialects."""
        entry = self.entry(provider)
        return (entry.endpoint or "/v1/chat/completions") if entry.dialect is Dialect.OPENAI else None

    def price(self, provider: str, model: str, mode: Mode) -> Price | None:
        """What the model costs in this mode, or None when config.json has no price."""
        entry = self.entry(provider).models.get(model)
        return None if entry is None else entry.price(mode)

    def limits(self, provider: str, model: str | None = None) -> Limits:
        """What one shard and the queue may hold: config.json's limits, else the provider's, with a margin on bytes."""
        from providers.connect import default_limits

        entry = self.entry(provider)
        published, own = default_limits(entry.dialect), entry.limits
        known = entry.models.get(model or entry.model)
        return Limits(
            max_requests=own.max_requests or published.max_requests,
            max_bytes=int((own.max_bytes or published.max_bytes) * BYTE_MARGIN),
            max_in_flight_batches=own.max_in_flight_batches or published.max_in_flight_batches,
            max_enqueued_tokens=(known.max_enqueued_tokens if known else None) or own.max_enqueued_tokens,
            max_enqueued_requests=own.max_enqueued_requests or published.max_enqueued_requests,
            max_output_bytes=published.max_output_bytes,
            creates=per_minute(own.creates_per_minute) or published.creates,
            uploads=per_minute(own.uploads_per_minute) or published.uploads,
        )

    def throttle(self, job: Job) -> Throttle:
        """How fast this account may be asked, over all jobs of this process."""
        with self._lock:
            return self._throttles.setdefault(f"{job.dialect} {job.account}", Throttle())

    def gate(self, job: Job) -> Gate:
        """What the single calls of a job's account and model pass, whichever job of this process makes them."""
        return self.gates.of(job.account, job.model, self.settings.concurrent, self.entry(job.provider).limits)

    def making(self, path: Path) -> threading.Lock:
        """Held while a file or folder is made on request, so that two requests at once make it once."""
        with self._lock:
            return self._making.setdefault(path, threading.Lock())

    def api_key(self, provider: str) -> str:
        """The provider's key.

        Raises:
            KeyMissing: its variable is empty; names the variable and the sandbox.
        """
        entry = self.entry(provider)
        if entry.api_key_env is None:
            return "none"
        key = self.environ.get(entry.api_key_env, "").strip()
        if not key:
            raise KeyMissing(
                f"provider {provider} needs a key and the environment variable {entry.api_key_env} is empty. "
                f"Set it (export {entry.api_key_env}=...), or rehearse without a key and without cost: --sandbox "
                "(in Python: sandbox=True)"
            )
        return key

    def base_url(self, provider: str) -> str | None:
        """Where the provider is reached; None for its SDK's own default."""
        entry = self.entry(provider)
        return entry.base_url or self.environ.get(BASE_URL_VARIABLES[entry.dialect]) or None

    def account(self, provider: str, *, simulated: bool) -> str:
        """Which account pays: dialect, address and a hash of the key, never the key; `sandbox` for a rehearsal."""
        if simulated:
            return SANDBOX_ACCOUNT
        digest = hashlib.sha256(self.api_key(provider).encode()).hexdigest()[:12]
        return f"{self.entry(provider).dialect} {self.base_url(provider) or 'default address'} key:{digest}"

    def provider(self, job: Job) -> Provider:
        """The connected provider of a job: a rehearsal's is the sandbox, a real one's only the account it began with.

        Raises:
            ConfigError: another key or address is set now than when the job was made.
        """
        account = self.account(job.provider, simulated=job.simulated)
        if account != job.account:
            raise ConfigError(
                f"job {job.task_id} was made with account [{job.account}], and now [{account}] is set. Set the same "
                f"key and address again, then: batch-jobs resume {job.task_id}"
            )
        base_url, key = self.base_url(job.provider), SANDBOX_ACCOUNT
        if job.simulated:
            from providers import sandbox

            base_url = sandbox.base_url(self.entry(job.provider).dialect, ensure_sandbox(self.workspace))
        else:
            key = self.api_key(job.provider)
        name = f"{job.provider} {job.model} {base_url}"
        with self._lock:
            if name not in self._connected:
                self._connected[name] = self._connect(job, base_url, key)
            return self._connected[name]

    def _connect(self, job: Job, base_url: str | None, key: str) -> Provider:
        from providers.connect import connect

        entry = self.entry(job.provider)
        return connect(
            entry.dialect,
            endpoint=job.endpoint,
            base_url=base_url,
            api_key=key,
            timeout_seconds=entry.timeout_seconds,
            limits=self.limits(job.provider),
            model=job.model,
        )

    def close(self) -> None:
        """Release connections and files."""
        self.workers.close()
        for provider in self._connected.values():
            provider.close()
        self.ledger.close()
        self.cache.close()


def open_project(config: Path, root: Path | None, *, simulated: bool = False) -> Project:
    """Open a project: read its config, make its folders, open its store.

    Args:
        config: config.json.
        root: holds batch_input/, batch_output/ and store/; None for the folder of config.json.
        simulated: new jobs are rehearsals.

    Raises:
        ConfigError: config.json is missing or wrong.
        StoreError: the folders can't be made or opened.
    """
    os.environ.setdefault(*ARROW_MEMORY)
    return project_with(load_settings(config), config, root, simulated=simulated, workers=Workers())


def project_with(settings: Settings, config: Path, root: Path | None, *, simulated: bool, workers: Workers) -> Project:
    """Open a project whose settings are at hand; see `open_project`."""
    workspace = workspace_of(settings, config, root)
    with store_errors(workspace.store):
        for folder in (workspace.batch_input, workspace.batch_output, workspace.store):
            folder.mkdir(parents=True, exist_ok=True)
    return Project(
        settings=settings,
        prompt_lib=config.resolve().parent / "prompt_lib",
        workspace=workspace,
        ledger=Ledger.open(workspace.ledger),
        cache=CallCache.open(workspace.call_cache),
        simulated=simulated,
        workers=workers,
    )


def workspace_of(settings: Settings, config: Path, root: Path | None) -> Workspace:
    """The folders of a project, below its root."""
    base = (root or config.parent).resolve()
    paths = settings.paths
    return Workspace(base / paths.batch_input, base / paths.batch_output, base / paths.store)
