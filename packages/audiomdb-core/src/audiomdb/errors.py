"""Every error the library raises on purpose.

    AudioMDBError
    ├── AudioError (ValueError)                    a clip cannot be used
    │   ├── UnreadableAudioError                   not audio, or no decoder for it
    │   └── DamagedAudioError                      truncated, a lying header, missing frames
    ├── SampleError (ValueError)                   a sample cannot be stored
    │   ├── UnsupportedValueError (TypeError)      a field's value has no stored form
    │   ├── InvalidKeyError                        empty, too long or not text
    │   └── DuplicateKeyError                      the dataset already holds this key
    ├── DatasetError                               a dataset on disk cannot be used
    │   ├── DatasetNotFoundError (FileNotFoundError)
    │   ├── MetadataError (ValueError)             metadata.json is damaged or lies
    │   ├── FormatVersionError                     written by a newer AudioMDB
    │   └── CorruptShardError                      a shard's file is incomplete or damaged
    │       └── CorruptRecordError                 one record of a shard is damaged
    ├── UnknownKeyError (KeyError)                 no sample has this key
    ├── UnknownColumnError (KeyError)              no such column or field
    ├── ConversionError                            a conversion cannot go on
    │   ├── SourceError (ValueError)               a folder or manifest cannot be read as one
    │   ├── ProcessingError                        a processor failed on a sample
    │   ├── OutputExistsError (FileExistsError)    the output folder holds something else
    │   ├── OutputBusyError                        another process is writing there
    │   ├── OutputWriteError (OSError)             full disk, no permission
    │   ├── OptionsChangedError (ValueError)       finished shards were made with other options
    │   └── SourceChangedError (ValueError)        the source yields other samples than before
    ├── PlanError (ValueError)                     the options of an epoch contradict each other
    ├── InvalidURLError (ValueError)               a URL that leads nowhere
    │   └── UnknownSchemeError                     no installed package opens URLs of this scheme
    ├── BackendError (ImportError)                 a package says it opens a URL, and cannot
    ├── UnknownOptionError (TypeError)             nothing takes an option of this name
    ├── UploadError (OSError)                      a file did not arrive whole
    ├── DownloadError (OSError)                    a file of a remote dataset cannot be had
    │   └── DownloadInterruptedError (ConnectionError)  it broke off; trying again may help
    └── CacheError                                 a cache directory cannot be used
        ├── CacheTooSmallError (ValueError)        max_cache_bytes is less than is needed at once
        ├── CacheFullError (OSError)               the disk is full, and nothing can be evicted
        └── CachePlaceError (OSError)              a file system that cannot hold a cache

Catch `AudioMDBError` for all of them, or the builtin named in brackets. Messages name the file,
shard or key, say what was found and what to do.
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
    """Base of every error the library raises on purpose."""


class AudioError(AudioMDBError, ValueError):
    """A clip cannot be used."""


class UnreadableAudioError(AudioError):
    """The bytes are no audio, or no decoder here reads them."""


class DamagedAudioError(AudioError):
    """The clip is truncated, its header lies, or frames are missing."""


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
    """There is no dataset at this place."""


class MetadataError(DatasetError, ValueError):
    """`metadata.json` is damaged or does not fit the files beside it."""


class FormatVersionError(DatasetError):
    """The dataset was written in a format newer than this library."""


class CorruptShardError(DatasetError):
    """A shard's file is missing, incomplete or damaged."""


class CorruptRecordError(CorruptShardError):
    """One record of a shard is damaged."""


class _NamedKeyError(AudioMDBError, KeyError):
    def __str__(self) -> str:
        # KeyError shows the repr of its argument, which would put quotes around a sentence.
        return str(self.args[0]) if self.args else ""


class UnknownKeyError(_NamedKeyError):
    """No sample of the dataset has this key."""


class UnknownColumnError(_NamedKeyError):
    """The index has no column, or the samples have no field, of this name."""


class ConversionError(AudioMDBError):
    """A conversion cannot go on."""


class SourceError(ConversionError, ValueError):
    """A folder or manifest cannot be read as a source of samples."""


class ProcessingError(ConversionError):
    """A processor failed on a sample; the cause is the exception it raised."""


class OutputExistsError(ConversionError, FileExistsError):
    """The output folder holds something that this conversion did not write."""


class OutputBusyError(ConversionError):
    """Another process is writing to the output folder."""


class OutputWriteError(ConversionError, OSError):
    """The output folder cannot be written: a full disk, a missing permission."""


class OptionsChangedError(ConversionError, ValueError):
    """Finished shards were made with other options than these."""


class SourceChangedError(ConversionError, ValueError):
    """The source yields other samples, or another order, than finished shards were made of."""


class PlanError(AudioMDBError, ValueError):
    """The options of an epoch contradict each other."""


class InvalidURLError(AudioMDBError, ValueError):
    """A URL without a bucket, of another machine, or in the place of a folder."""


class UnknownSchemeError(InvalidURLError):
    """No installed package opens URLs of this scheme."""


class BackendError(AudioMDBError, ImportError):
    """An installed package registers a class for URLs that cannot be used, or two packages do."""


class UnknownOptionError(AudioMDBError, TypeError):
    """Neither the retriever or uploader of a URL nor the stream takes an option of this name."""


class UploadError(AudioMDBError, OSError):
    """A file did not arrive whole at its destination."""


class DownloadError(AudioMDBError, OSError):
    """A file of a remote dataset cannot be had: refused, missing, or given up after retries."""


class DownloadInterruptedError(DownloadError, ConnectionError):
    """A download broke off, or the store is busy: worth another try.

    Retrievers raise it, or any other ConnectionError or TimeoutError, to be tried again.
    """


class CacheError(AudioMDBError):
    """A cache directory cannot be used."""


class CacheTooSmallError(CacheError, ValueError):
    """`max_cache_bytes` is less than must lie in the cache at once; the message has the number."""


class CacheFullError(CacheError, OSError):
    """The disk is full, and nothing in the cache can be evicted."""


class CachePlaceError(CacheError, OSError):
    """The cache directory is on a file system whose locks cannot be relied on."""
