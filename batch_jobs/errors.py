"""Every error the product raises, split by who must act.

    BatchJobsError
    ├── UserError            the person who uploaded the file
    │   ├── FileRefused          the table can't be taken as it is: names file, row, column
    │   │   └── FileTooLarge     over the byte limit
    │   ├── UnknownName          no such task, data case, provider, model or sheet
    │   ├── JobNotFound          no such task_id
    │   ├── KeyReused            an idempotency key that stands for another request
    │   ├── NotAllowed           no key, or a wrong one
    │   └── WrongMoment          the job's phase does not allow it (download before done)
    ├── ConfigError          the operator: config.json, prompt_lib, an environment variable
    │   ├── KeyMissing           the variable that should hold the provider's key is empty
    │   └── SchemaMissing        the schema module that a prompt names is not there yet
    ├── ProviderError        the provider, or the way to it
    │   ├── RateLimited          definite: not accepted, come back later
    │   ├── QuotaExhausted       definite: money or quota is used up; the operator must act
    │   ├── AuthRefused          definite: the key is wrong or may not; the operator must act
    │   ├── RequestRejected      definite: this request will never be accepted
    │   ├── ServerFailed         5xx or overloaded: may have been accepted
    │   ├── ConnectionFailed     no answer: may have been accepted
    │   │   └── Unreachable          definite: no connection came about, so nothing was sent
    │   ├── TimedOut             no answer in time: may have been accepted
    │   └── UnreadableReply      an answer that can't be read: may have been accepted
    ├── StoreError           our own disk or database
    │   ├── JobHeld              another process advances this job
    │   └── SyncFailed           the disk took data and could not keep it: the process stops
    ├── WorkerDied           a worker process died
    │   └── RenderFailed     while it rendered
    └── Interrupted          Ctrl-C: what was in flight is kept, the job can be resumed

The class docstring is the default message. `exit_code` and `http_status` on the class are the one table
that the CLI and the API read.
"""

from __future__ import annotations

from typing import ClassVar

from batch_jobs.models import Allowance

EXIT_OK = 0
EXIT_BUG = 1
EXIT_BAD_INPUT = 2
EXIT_ROWS_FAILED = 3
EXIT_OPERATOR = 4
EXIT_NOT_DONE = 5
EXIT_INTERRUPTED = 130


class BatchJobsError(Exception):
    """Something went wrong."""

    exit_code: ClassVar[int] = EXIT_BUG
    http_status: ClassVar[int] = 500

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip().splitlines()[0])

    @property
    def message(self) -> str:
        """What was wrong, where, and what to do, in one text for people."""
        return str(self.args[0])


class UserError(BatchJobsError):
    """The request can't be carried out as it was given."""

    exit_code = EXIT_BAD_INPUT
    http_status = 422


class FileRefused(UserError):
    """The file can't be taken as it is."""

    def __init__(
        self,
        problem: str,
        *,
        file: str | None = None,
        rows: tuple[int, ...] = (),
        column: str | None = None,
        fix: str | None = None,
    ) -> None:
        """Build the message from its parts.

        Args:
            problem: what was wrong, without the place.
            file: the name the user knows the file by.
            rows: row numbers as the spreadsheet shows them (header = 1); the first 5 are named.
            column: the column's name.
            fix: what to do.
        """
        self.problem, self.file, self.rows, self.column, self.fix = problem, file, rows, column, fix
        place = [file] if file else []
        if rows:
            shown = ", ".join(f"{row:,}" for row in rows[:5])
            more = f" and {len(rows) - 5:,} more" if len(rows) > 5 else ""
            place.append(f"row{'s' if len(rows) > 1 else ''} {shown}{more}")
        if column is not None:
            place.append(f'column "{column}"')
        text = f"{', '.join(place)}: {problem}" if place else problem
        super().__init__(f"{text}. {fix}" if fix else text)


class FileTooLarge(FileRefused):
    """The file is over the byte limit."""

    http_status = 413


class UnknownName(UserError):
    """No such name."""


class JobNotFound(UserError):
    """No job has this task_id."""

    http_status = 404


class KeyReused(UserError):
    """This idempotency key was used for another request."""


class NotAllowed(UserError):
    """A valid API key is needed."""

    http_status = 401


class WrongMoment(UserError):
    """The job is not at a point where this can be done."""

    exit_code = EXIT_NOT_DONE
    http_status = 409


class ConfigError(BatchJobsError):
    """The configuration is not valid."""

    exit_code = EXIT_BAD_INPUT
    http_status = 500


class KeyMissing(ConfigError):
    """The provider's key is not set."""

    http_status = 503


class SchemaMissing(ConfigError):
    """The schema that a prompt names is not there."""


class ProviderError(BatchJobsError):
    """The provider did not do what was asked.

    `definite` says that the request was certainly not accepted; anything else is an unknown outcome when
    it happens to a create.
    """

    exit_code = EXIT_OPERATOR
    http_status = 502
    definite: ClassVar[bool] = False
    transient: ClassVar[bool] = False
    operator: ClassVar[bool] = False

    def __init__(
        self,
        message: str | None = None,
        *,
        code: str | None = None,
        status: int | None = None,
        retry_after_seconds: float | None = None,
        allowance: Allowance | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.status, self.retry_after_seconds = code, status, retry_after_seconds
        self.allowance = allowance


class RateLimited(ProviderError):
    """The provider asks to come back later."""

    definite = True
    transient = True


class QuotaExhausted(ProviderError):
    """The account's money or quota is used up: top it up, then resume the job."""

    definite = True
    operator = True


class AuthRefused(ProviderError):
    """The provider refuses the key: check it, then resume the job."""

    definite = True
    operator = True


class RequestRejected(ProviderError):
    """The provider will not accept this request."""

    definite = True


class ServerFailed(ProviderError):
    """The provider failed or is overloaded."""

    transient = True


class ConnectionFailed(ProviderError):
    """The provider could not be reached, or hung up."""

    transient = True


class Unreachable(ConnectionFailed):
    """The provider could not be reached."""

    definite = True


class TimedOut(ProviderError):
    """The provider did not answer in time."""

    transient = True


class UnreadableReply(ProviderError):
    """The provider's answer can't be read."""

    transient = True


class StoreError(BatchJobsError):
    """The store could not be read or written: nothing was lost; free the disk or check its rights, resume."""

    exit_code = EXIT_OPERATOR
    http_status = 507


class JobHeld(StoreError):
    """Another process is working on this job."""

    exit_code = EXIT_NOT_DONE
    http_status = 409


class SyncFailed(StoreError):
    """The disk could not make data durable: this process stops, and what was recorded before is safe."""


class WorkerDied(BatchJobsError):
    """A worker process died (out of memory?). Nothing was lost; run the same command again."""

    exit_code = EXIT_OPERATOR
    http_status = 500


class RenderFailed(WorkerDied):
    """A worker process died while it rendered the requests."""


class Interrupted(BatchJobsError):
    """Interrupted: what was in flight is kept."""

    exit_code = EXIT_INTERRUPTED
    http_status = 503
