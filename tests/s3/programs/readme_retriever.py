"""The README's custom S3 retriever as it stands there."""

import os

import boto3

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
