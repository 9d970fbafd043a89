"""Turn errors of the Hub's client into errors of AudioMDB that say what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from audiomdb.errors import (
    AudioMDBError,
    DatasetNotFoundError,
    DownloadError,
    DownloadInterruptedError,
)

__all__ = ["advice", "download_error", "error_names", "hub_errors", "request_errors"]

_LOG_IN = "log in (hf auth login), or give token="
_AGAIN = "the Hub is busy or out of reach; run again, what has arrived is not sent again"
_LOCAL = "this is about a file on this machine, not about the Hub; then run again"

# Checked in this order, because a refused repository also answers with status 404.
_BY_CLASS = {
    "GatedRepoError": "accept the conditions of the repository on its page, and " + _LOG_IN,
    "RepositoryNotFoundError": "check the name; for a private repository, " + _LOG_IN,
    "RevisionNotFoundError": "check revision=",
    "HFValidationError": "a repository is named 'user/name' or 'organization/name'",
    "LocalTokenNotFoundError": _LOG_IN,
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set",
    # Errors of the HTTP library.
    "InvalidSchema": "check endpoint= and HF_ENDPOINT",
    "InvalidURL": "check endpoint= and HF_ENDPOINT",
    "MissingSchema": "check endpoint= and HF_ENDPOINT",
    "TooManyRedirects": "check endpoint= and HF_ENDPOINT",
    "UnsupportedProtocol": "check endpoint= and HF_ENDPOINT",
    # Of the header that takes the token: all else in a request is ASCII.
    "UnicodeEncodeError": "no token has such a character: copy it again for token=, HF_TOKEN or "
    "hf auth login",
}
_BY_STATUS = {
    401: _LOG_IN,
    403: "the token may not write there; make one with write access",
    409: "somebody else has committed meanwhile; run again",
    412: "somebody else has committed meanwhile; run again",
    413: "the store is full",
    429: "too many requests; wait, and run again",
}
_BY_WORD = {
    "xet": "a server without Xet storage needs HF_HUB_DISABLE_XET=1 in the environment",
    "not a file on the local file system": _LOCAL,
}

_READING_BY_STATUS = {
    401: _LOG_IN,
    403: "the token may not read there; make one that may",
    404: "there is no such file",
    429: "too many requests; wait, or " + _LOG_IN + ", which raises the limit",
}
_READING_AGAIN = "the Hub is busy or out of reach; run again, what has arrived is kept"

_INTERRUPTED = frozenset(
    {
        *("TransportError", "TimeoutException"),  # of httpx
        *("ConnectionError", "Timeout", "ChunkedEncodingError"),  # of requests
    }
)
"""Names of errors without an HTTP response after which another attempt may succeed."""


def request_errors() -> tuple[type[Exception], ...]:
    """Return the classes of exceptions that the Hub's client raises when a request fails."""
    from huggingface_hub.errors import HfHubHTTPError

    # Its bases include the base class of the errors of the HTTP library that the installed release
    # is built on, which has changed twice.
    bases = (base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception))
    return (OSError, *bases)


@contextmanager
def hub_errors(doing: str, kind: type[AudioMDBError]) -> Iterator[None]:
    """Turn any error of the Hub's client into an error of class `kind` that says what to do.

    Only for calls of the client, since it also turns RuntimeError and ValueError, which the client
    raises, into `kind`.

    Args:
        doing: Text after "cannot" in the message, such as "upload to datasets/user/name".
        kind: Class of the error to raise.
    """
    errors: tuple[type[Exception], ...] = (*request_errors(), RuntimeError, ValueError)
    try:
        yield
    except AudioMDBError:
        raise
    except errors as exc:
        raise kind(f"cannot {doing}: {_said(exc)} ({advice(exc)})") from exc


def download_error(place: str, error: Exception) -> AudioMDBError:
    """Return the exception to raise for an error of the Hub's client while reading a file.

    Args:
        place: Name of the file in the message.
        error: The error of the client.
    """
    hint = _hint(error, _READING_BY_STATUS, {}) or _READING_AGAIN
    return _kind(error)(f"cannot read {place}: {_said(error)} ({hint})")


def advice(error: BaseException) -> str:
    """Return advice on an error while writing, or on one of the errors that caused it."""
    hint = _hint(error, _BY_STATUS, _BY_WORD)
    # Errors of requests name no file.
    local = isinstance(error, OSError) and error.filename is not None
    return hint or (_LOCAL if local else _AGAIN)


def error_names(error: BaseException) -> set[str]:
    """Return the names of an error's class and its base classes.

    Names are used because the module of the client, or the HTTP library, that defines the classes
    depends on the release.
    """
    return {base.__name__ for base in type(error).__mro__}


def _kind(error: Exception) -> type[AudioMDBError]:
    """Choose the class of the error to raise by whether another attempt may succeed."""
    response = getattr(error, "response", None)
    if response is not None:
        status = response.status_code
        if status == 404:
            return DatasetNotFoundError
        # Links to the store expire; each attempt asks the Hub for a new one.
        expired = status == 403 and response.history
        again = status in (408, 429) or status >= 500 or expired
    else:
        names = error_names(error)
        again = names & _INTERRUPTED and not names & _BY_CLASS.keys()
    return DownloadInterruptedError if again else DownloadError


def _hint(error: BaseException, by_status: dict[int, str], by_word: dict[str, str]) -> str | None:
    cause: BaseException | None = error
    while cause is not None:
        names = error_names(cause)
        for name, hint in _BY_CLASS.items():
            if name in names:
                return hint
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status in by_status:
            return by_status[status]
        for word, hint in by_word.items():
            if word in str(cause).lower():
                return hint
        cause = cause.__cause__ or cause.__context__
    return None


def _said(error: BaseException) -> str:
    """Return an error's text on one line, without passwords and signatures in its URLs."""
    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        said += f" {_said(error.__cause__)}"  # the RuntimeError itself does not say why
    said = re.sub(r"(://[^\s/:@]*):[^\s/]*@", r"\1:***@", said)
    said = re.sub(r"://[^\s/:@]+@", "://***@", said)  # a token alone
    return re.sub(r"(https?://[^\s?'\"]*)\?[^\s'\"]*", r"\1", said)
