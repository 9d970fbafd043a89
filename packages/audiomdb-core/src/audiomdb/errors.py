"""Define all exceptions that the library raises deliberately.

    AudioMDBError
    ├── AudioError (ValueError)                    a clip cannot be used
    │   ├── UnreadableAudioError                   not audio, or no decoder for it
    │   └── DamagedAudioError                      truncated, a wrong header, missing frames
    ├── SampleError (ValueError)                   a sample cannot be stored
    │   ├── UnsupportedValueError (TypeError)      a field's value has no stored form
    │   ├── InvalidKeyError                        empty, too long or not text
    │   └── DuplicateKeyError                      the dataset already holds this key
    ├── DatasetError                               a dataset on disk cannot be used
    │   ├── DatasetNotFoundError (FileNotFoundError)
    │   ├── MetadataError (ValueError)             metadata.json is damaged or wrong
    │   ├── FormatVersionError                     written by a newer AudioMDB
    │   └── CorruptShardError                      a shard's file is incomplete or damaged
    │       └── CorruptRecordError                 one record of a shard is damaged
    ├── UnknownKeyError (KeyError)                 no sample has this key
    ├── UnknownColumnError (KeyError)              no such column or field
    ├── ConversionError                            a conversion cannot continue
    │   ├── SourceError (ValueError)               a folder or manifest is not a valid source
    │   ├── ProcessingError                        a processor failed on a sample
    │   ├── OutputExistsError (FileExistsError)    the output folder holds something else
    │   ├── OutputBusyError                        another process is writing there
    │   ├── OutputWriteError (OSError)             full disk, no permission
    │   ├── OptionsChangedError (ValueError)       finished shards were made with other options
    │   └── SourceChangedError (ValueError)        the source yields other samples than before
    ├── PlanError (ValueError)                     the options of an epoch contradict each other
    ├── InvalidURLError (ValueError)               a URL cannot be used here
    │   └── UnknownSchemeError                     no installed package opens URLs of this scheme
    ├── BackendError (ImportError)                 the package that opens a URL cannot be used
    ├── UnknownOptionError (TypeError)             an option of this name does not exist
    ├── UploadError (OSError)                      a file was not uploaded completely
    ├── DownloadError (OSError)                    a file of a remote dataset is not available
    │   └── DownloadInterruptedError (ConnectionError)  interrupted; a retry may succeed
    └── CacheError                                 a cache directory cannot be used
        ├── CacheTooSmallError (ValueError)        max_cache_bytes is less than required at once
        ├── CacheFullError (OSError)               the disk is full, and nothing can be evicted
        └── CachePlaceError (OSError)              a file system that is not fit for a cache

Catch `AudioMDBError` for all of them, or the built-in class named in parentheses. Messages name the
file, shard or key, and state what was found and what to do.
"""

from __future__ import annotations

__all__ = [
    "AudioError",
    "AudioMDBError",
    "BackendError",
    "CacheError",
    "CacheFullError",
    "CachePlaceError",
    "CacheTooSmallError",
    "ConversionError",
    "CorruptRecordError",
    "CorruptShardError",
    "DamagedAudioError",
    "DatasetError",
    "DatasetNotFoundError",
    "DownloadError",
    "DownloadInterruptedError",
    "DuplicateKeyError",
    "FormatVersionError",
    "InvalidKeyError",
    "InvalidURLError",
    "MetadataError",
    "OptionsChangedError",
    "OutputBusyError",
    "OutputExistsError",
    "OutputWriteError",
    "PlanError",
    "ProcessingError",
    "SampleError",
    "SourceChangedError",
    "SourceError",
    "UnknownColumnError",
    "UnknownKeyError",
    "UnknownOptionError",
    "UnknownSchemeError",
    "UnreadableAudioError",
    "UnsupportedValueError",
    "UploadError",
]


class AudioMDBError(Exception):
    """Base class of all exceptions that the library raises deliberately."""


class AudioError(AudioMDBError, ValueError):
    """A clip cannot be used."""


class UnreadableAudioError(AudioError):
    """The bytes are not audio, or no available decoder can read them."""


class DamagedAudioError(AudioError):
    """The clip is truncated, its header is wrong, or frames are missing."""


class SampleError(AudioMDBError, ValueError):
    """A sample cannot be stored as it is."""


class UnsupportedValueError(SampleError, TypeError):
    """A field holds a value that has no stored form."""


class InvalidKeyError(SampleError):
    """A key is empty, too long, or not a string."""


class DuplicateKeyError(SampleError):
    """The dataset already holds a sample with this key."""


class DatasetError(AudioMDBError):
    """A dataset on disk cannot be used."""


class DatasetNotFoundError(DatasetError, FileNotFoundError):
    """There is no dataset at this location."""


class MetadataError(DatasetError, ValueError):
    """`metadata.json` is damaged or does not match the files beside it."""


class FormatVersionError(DatasetError):
    """The dataset was written in a format newer than this library."""


class CorruptShardError(DatasetError):
    """The file of a shard is missing, incomplete or damaged."""


class CorruptRecordError(CorruptShardError):
    """One record of a shard is damaged."""


class _NamedKeyError(AudioMDBError, KeyError):
    def __str__(self) -> str:
        # KeyError shows the repr of its argument, which would put the message in quotes.
        return str(self.args[0]) if self.args else ""


class UnknownKeyError(_NamedKeyError):
    """No sample of the dataset has this key."""


class UnknownColumnError(_NamedKeyError):
    """The index has no column, or the samples have no field, with this name."""


class ConversionError(AudioMDBError):
    """A conversion cannot continue."""


class SourceError(ConversionError, ValueError):
    """A folder or manifest cannot be read as a source of samples."""


class ProcessingError(ConversionError):
    """A processor failed on a sample; its exception is the `__cause__`, in the same process."""


class OutputExistsError(ConversionError, FileExistsError):
    """The output folder holds something that this conversion did not write."""


class OutputBusyError(ConversionError):
    """Another process is writing to the output folder."""


class OutputWriteError(ConversionError, OSError):
    """The output folder cannot be written, such as on a full disk or without permission."""


class OptionsChangedError(ConversionError, ValueError):
    """Finished shards were made with other options than those given."""


class SourceChangedError(ConversionError, ValueError):
    """The source yields other samples, or another order, than when finished shards were made."""


class PlanError(AudioMDBError, ValueError):
    """The options of an epoch contradict each other."""


class InvalidURLError(AudioMDBError, ValueError):
    """A URL lacks a bucket, names another machine, or is given where a folder is expected."""


class UnknownSchemeError(InvalidURLError):
    """No installed package opens URLs of this scheme."""


class BackendError(AudioMDBError, ImportError):
    """The class registered for a URL's scheme cannot be used, or several packages register one."""


class UnknownOptionError(AudioMDBError, TypeError):
    """Neither the retriever or uploader of a URL nor the stream has an option of this name."""


class UploadError(AudioMDBError, OSError):
    """A file was not completely uploaded to its destination."""


class DownloadError(AudioMDBError, OSError):
    """A remote file cannot be downloaded: it is missing, access is refused, or retries failed."""


class DownloadInterruptedError(DownloadError, ConnectionError):
    """A download was interrupted, or the store is busy, so a retry may succeed.

    Retrievers raise this, or any other ConnectionError or TimeoutError, to request a retry.
    """


class CacheError(AudioMDBError):
    """A cache directory cannot be used."""


class CacheTooSmallError(CacheError, ValueError):
    """`max_cache_bytes` is less than the cache must hold at once; the message has the minimum."""


class CacheFullError(CacheError, OSError):
    """The disk is full, and nothing in the cache can be evicted."""


class CachePlaceError(CacheError, OSError):
    """The cache directory is on a file system whose locks are not reliable."""
