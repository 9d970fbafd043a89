"""What all parts for the Hub share: errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from audiomdb.errors import AudioMDBError

__all__ = ["advice", "hub_errors", "request_errors"]

_LOG_IN = "log in (hf auth login), or give token="
_AGAIN = "the Hub is busy or out of reach; run again, what has arrived is not sent again"

# Looked for in this order: a refused repository says 404 too.
_BY_CLASS = {
    "GatedRepoError": "accept the conditions of the repository on its page, and " + _LOG_IN,
    "RepositoryNotFoundError": "check the name; for a private repository, " + _LOG_IN,
    "RevisionNotFoundError": "check revision=",
    "HFValidationError": "a repository is named 'user/name' or 'organization/name'",
    "LocalTokenNotFoundError": _LOG_IN,
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set",
}
_BY_STATUS = {
    401: _LOG_IN,
    403: "the token may not write there; make one with write access",
    409: "somebody else has committed meanwhile; run again",
    412: "somebody else has committed meanwhile; run again",
    413: "the store is full",
    429: "too many requests; wait, and run again",
}


def request_errors() -> tuple[type[Exception], ...]:
    """Classes of what the Hub's client raises when a request fails."""
    from huggingface_hub.errors import HfHubHTTPError

    # Among its bases is the root of the errors of the HTTP library that this release is built on,
    # which has changed twice.
    bases = (base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception))
    return (OSError, *bases)


@contextmanager
def hub_errors(doing: str, kind: type[AudioMDBError]) -> Iterator[None]:
    """Turn whatever the Hub's client raises into `kind`, saying what to do.

    Only for calls of the client: it raises RuntimeError and ValueError, too.

    Args:
        doing: What goes after "cannot", such as "upload to datasets/user/name".
        kind: Class of the error to raise.
    """
    errors: tuple[type[Exception], ...] = (*request_errors(), RuntimeError, ValueError)
    try:
        yield
    except AudioMDBError:
        raise
    except errors as exc:
        said = " ".join(str(exc).split())
        raise kind(f"cannot {doing}: {said} ({advice(exc)})") from exc


def advice(error: BaseException) -> str:
    """What to do about an error, or about one of those that led to it."""
    cause: BaseException | None = error
    while cause is not None:
        names = {base.__name__ for base in type(cause).__mro__}
        for name, hint in _BY_CLASS.items():
            if name in names:
                return hint
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status in _BY_STATUS:
            return _BY_STATUS[status]
        if "xet" in str(cause).lower():
            return "a server without Xet storage needs HF_HUB_DISABLE_XET=1 in the environment"
        cause = cause.__cause__ or cause.__context__
    return _AGAIN
