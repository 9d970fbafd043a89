"""The README's own converters and processors, as a reader would type them."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from audiomdb.audio import encode
from audiomdb.converters.base import BaseConverter
from audiomdb.errors import UnreadableAudioError
from audiomdb.processors.base import BaseProcessor
from audiomdb.shards import DatasetReader, verify_dataset


def clip(seed: int, rate: int = 16000) -> bytes:
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, rate // 2)
    return encode(noise.astype(np.float32), rate, "flac")


def make_processors() -> tuple[type[Any], type[Any]]:
    # Made here, so that worker processes get these classes by value, as they would those of a
    # script or a notebook.
    class Mel:
        """Stands for torchaudio's transform: frames of 400, one column for each."""

        def __init__(self, sample_rate: int, n_mels: int) -> None:
            self.matrix = np.random.default_rng(sample_rate).random((n_mels, 400), np.float32)

        def __call__(self, audio: np.ndarray) -> np.ndarray:
            assert audio.dtype == np.float32
            assert audio.ndim == 1
            result: np.ndarray = self.matrix @ audio[: len(audio) // 400 * 400].reshape(-1, 400).T
            return result

    class Tokens:
        """What a tokenizer returns with `return_tensors="np"`."""

        def __init__(self, text: str, length: int) -> None:
            octets = text.encode()[:length]
            self.input_ids = np.zeros((1, length), np.int64)
            self.input_ids[0, : len(octets)] = list(octets)
            self.attention_mask = (self.input_ids > 0).astype(np.int64)

    class MelSpectrogramProcessor(BaseProcessor):
        def __init__(self, n_mels=80, keep_original=False):
            super().__init__(keep_original)
            self.n_mels = n_mels
            self.mel_transform = Mel(sample_rate=16000, n_mels=n_mels)

        def process(self, sample, **kwargs):
            sample_rate = kwargs.get("sample_rate", 16000)
            result = sample.copy() if self.keep_original else {}

            if "audio" in sample:
                audio_data = sample["audio"]
                if isinstance(audio_data, bytes):
                    audio_array = self.load_array(audio_data, sample_rate)
                else:
                    audio_array = audio_data

                mel_spec = self.mel_transform(audio_array)

                result["mel_spectrogram"] = mel_spec
                result["mel_shape"] = mel_spec.shape
                result["sample_rate"] = sample_rate

            return result

    class CustomNLPProcessor(BaseProcessor):
        def __init__(self, model_name="bert-base-uncased", keep_original=False):
            super().__init__(keep_original)
            self.model_name = model_name
            self.tokenizer = Tokens

        def process(self, sample, **kwargs):  # noqa: ARG002
            result = sample.copy() if self.keep_original else {}

            if "text" in sample:
                text = sample["text"]
                text = text.lower().strip()

                tokens = self.tokenizer(text, 256)

                result["input_ids"] = tokens.input_ids[0]
                result["attention_mask"] = tokens.attention_mask[0]
                result["text_length"] = len(text)

            return result

    return MelSpectrogramProcessor, CustomNLPProcessor


class Api(BaseHTTPRequestHandler):
    """Serves a list of samples to whoever knows the token, and their audio."""

    clips: ClassVar[int] = 5
    broken: ClassVar[set[int]] = set()

    def do_GET(self) -> None:
        if self.path == "/v1/speech":
            if self.headers["Authorization"] != "Bearer secret":
                self.send_error(401)
                return
            host = self.headers["Host"]
            listing = [
                {
                    "audio_url": f"http://{host}/audio/{i}.flac",
                    "transcript": f"Sentence {i}",
                    "speaker_id": f"s{i % 2}" if i else None,
                    **({"sample_rate": 8000, "duration": 0.5} if i % 2 else {}),
                }
                for i in range(self.clips)
            ]
            body = json.dumps({"samples": listing}).encode()
        else:
            number = int(Path(self.path).stem)
            body = b"<html>" if number in self.broken else clip(number, 16000 - 8000 * (number % 2))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("OSINT_API_TOKEN", "secret")
    monkeypatch.setattr(Api, "broken", set())
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/speech"
    server.shutdown()
    thread.join()
    server.server_close()


class APIConverter(BaseConverter):
    """Convert data from API to LMDB AudioRL format"""

    def __init__(self, api_endpoint, **kwargs):
        super().__init__(**kwargs)
        self.api_endpoint = api_endpoint
        self.auth_token = os.environ["OSINT_API_TOKEN"]
        self.dataset_name = f"api_data_{api_endpoint.split('/')[-1]}"

    def sample_iterator(self):
        """Fetch data from API and yield samples"""
        import requests

        headers = {"Authorization": f"Bearer {self.auth_token}"}
        response = requests.get(self.api_endpoint, headers=headers, timeout=60)
        data = response.json()

        for idx, item in enumerate(data["samples"]):
            audio_response = requests.get(item["audio_url"], timeout=60)
            audio_bytes = audio_response.content

            yield (
                f"sample_{idx:08d}",
                {
                    "audio": audio_bytes,
                    "text": item["transcript"],
                    "sample_rate": item.get("sample_rate", 16000),
                    "speaker_id": item.get("speaker_id"),
                    "duration": item.get("duration"),
                },
            )

    @property
    def converter_name(self) -> str:
        return "api"


class DatabaseConverter(BaseConverter):
    """Convert data from a database to LMDB"""

    def __init__(self, db_connection_string, query, **kwargs):
        super().__init__(**kwargs)
        self.db_connection_string = db_connection_string
        self.query = query
        self.dataset_name = "database_audio"

    def sample_iterator(self):
        import sqlalchemy as sa

        engine = sa.create_engine(self.db_connection_string)
        with engine.connect() as conn:
            result = conn.execute(sa.text(self.query))

            for idx, row in enumerate(result):
                with open(row.audio_path, "rb") as f:  # noqa: PTH123
                    audio_bytes = f.read()

                yield (
                    f"sample_{idx:08d}",
                    {
                        "audio": audio_bytes,
                        "text": row.transcript,
                        "sample_rate": 16000,
                        "metadata": {
                            "speaker": row.speaker,
                            "emotion": row.emotion,
                            "quality_score": row.quality_score,
                        },
                    },
                )

    @property
    def converter_name(self) -> str:
        return "database"


def test_the_api_converter_stores_what_the_api_serves(tmp_path: Path, endpoint: str) -> None:
    converter = APIConverter(endpoint, output_dir=tmp_path / "out", samples_per_shard=2)
    report = converter.run()
    assert (report.samples, report.shards, report.contradictions) == (5, 3, {})
    assert verify_dataset(tmp_path / "out") == []
    with DatasetReader.open(tmp_path / "out") as dataset:
        assert dataset.metadata.name == "api_data_speech"
        assert dataset["sample_00000003"] == {
            "__key__": "sample_00000003",
            "audio": clip(3, 8000),
            "text": "Sentence 3",
            "sample_rate": 8000,
            "channels": 1,
            "frames": 4000,
            "duration": 0.5,
            "speaker_id": "s1",
        }
        first = dataset["sample_00000000"]
    assert first["speaker_id"] is None
    assert first["duration"] == 0.5


def test_an_answer_that_is_no_audio_is_named_by_its_key(tmp_path: Path, endpoint: str) -> None:
    Api.broken = {1}
    with pytest.raises(UnreadableAudioError, match="'sample_00000001'"):
        APIConverter(endpoint, output_dir=tmp_path / "raise").run()
    report = APIConverter(endpoint, output_dir=tmp_path / "skip", on_error="skip").run()
    assert (report.samples, report.rejected) == (4, 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_api_converter_works_with_the_readmes_processors(
    tmp_path: Path, endpoint: str, workers: int
) -> None:
    mel, nlp = make_processors()
    APIConverter(
        endpoint,
        output_dir=tmp_path / "out",
        processor=[mel(n_mels=40), nlp()],
        num_workers=workers,
    ).run()
    with DatasetReader.open(tmp_path / "out") as dataset:
        assert dataset.metadata.processors == (
            "MelSpectrogramProcessor(keep_original=False, n_mels=40)",
            "CustomNLPProcessor(keep_original=False, model_name='bert-base-uncased')",
        )
        sample = dataset["sample_00000001"]
    assert sample["mel_spectrogram"].shape == (40, 20)
    assert sample["mel_shape"] == [40, 20]
    assert sample["sample_rate"] == 16000  # what the mel spectrogram was made at
    assert bytes(sample["input_ids"][:10].tolist()) == b"sentence 1"
    assert sample["attention_mask"].sum() == sample["text_length"] == 10
    assert sample.keys() & {"audio", "text"} == set()


def test_the_database_converter_stores_what_the_query_finds(tmp_path: Path) -> None:
    database = tmp_path / "speech.sqlite"
    connection = sqlite3.connect(database)
    connection.execute(
        "create table clips (audio_path, transcript, speaker, emotion, quality_score real)"
    )
    for i in range(4):
        path = tmp_path / f"{i}.flac"
        path.write_bytes(clip(i))
        row = (str(path), f"line {i}", f"s{i}", None if i else "joy", i / 4)
        connection.execute("insert into clips values (?, ?, ?, ?, ?)", row)
    connection.commit()
    connection.close()

    converter = DatabaseConverter(
        f"sqlite:///{database}",
        "select * from clips where quality_score < 0.7 order by quality_score desc",
        output_dir=tmp_path / "out",
    )
    assert converter.run().samples == 3
    with DatasetReader.open(tmp_path / "out") as dataset:
        assert dataset.metadata.name == "database_audio"
        samples = list(dataset)
    assert [sample["text"] for sample in samples] == ["line 2", "line 1", "line 0"]
    assert samples[2]["metadata"] == {"speaker": "s0", "emotion": "joy", "quality_score": 0.0}
    assert samples[0]["audio"] == clip(2)
