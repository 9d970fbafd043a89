# ruff: noqa: PTH103, PTH118
"""The README's custom S3 retriever as it stands there, read by torch's DataLoader.

Arguments: endpoint, bucket, prefix, start method. Prints the keys of two epochs.
"""

import json
import os
import sys

import boto3
from torch.utils.data import DataLoader

from audiomdb.data.base import StreamingDataset
from audiomdb.retrievers.base import BaseRetriever


class CustomS3Retriever(BaseRetriever):
    """Retriever for s3 storage"""

    def __init__(self, bucket, prefix, endpoint_url=None, **kwargs):
        self.bucket = bucket
        self.prefix = prefix
        self.s3_client = boto3.client("s3", endpoint_url=endpoint_url)
        super().__init__(**kwargs)

    def download_metadata(self):
        """Download and return path to metadata.json"""
        metadata_key = f"{self.prefix}/metadata.json"
        local_path = os.path.join(self.cache_dir, "metadata.json")

        self.s3_client.download_file(self.bucket, metadata_key, local_path)
        return local_path

    def download_shard(self, shard_id):
        """Download a specific shard directory"""
        shard_name = f"shard_{shard_id:05d}"
        shard_dir = os.path.join(self.cache_dir, shard_name)
        os.makedirs(shard_dir, exist_ok=True)

        # Download LMDB files
        for file_name in ["data.mdb", "lock.mdb"]:
            s3_key = f"{self.prefix}/{shard_name}/{file_name}"
            local_path = os.path.join(shard_dir, file_name)
            self.s3_client.download_file(self.bucket, s3_key, local_path)

        return shard_dir


def main():
    endpoint, bucket, prefix, start_method = sys.argv[1:]
    retriever = CustomS3Retriever(bucket, prefix, endpoint_url=endpoint)
    dataset = StreamingDataset(retriever, num_threads=4, shuffle=True)
    options = (
        {"multiprocessing_context": start_method, "persistent_workers": start_method != "fork"}
        if start_method != "none"
        else {}
    )
    dataloader = DataLoader(dataset, batch_size=2, num_workers=2 if options else 0, **options)
    epochs = [[key for batch in dataloader for key in batch["__key__"]] for _ in range(2)]
    sys.stdout.write(json.dumps(epochs))


if __name__ == "__main__":
    main()
