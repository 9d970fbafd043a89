# fmt: off
"""The README's Redis retriever as it stands there. It writes nothing."""

from audiomdb.retrievers.base import BaseRetriever
import json
import os

class RedisRetriever(BaseRetriever):
    """Redis Cache Retriever, Redis is already fast, You may want to check if AudioRL may be worth it"""
    
    def __init__(self, redis_host, redis_port=6379, **kwargs):
        import redis
        self.redis_client = redis.Redis(host=redis_host, port=redis_port)
        super().__init__(**kwargs)
    
    def download_metadata(self):
        metadata_json = self.redis_client.get("audiomdb:metadata")
        metadata = json.loads(metadata_json)
        
        local_path = os.path.join(self.cache_dir, "metadata.json") 
        with open(local_path, 'w') as f:
            json.dump(metadata, f)
        return local_path
    
    def download_shard(self, shard_id):
        shard_data = self.redis_client.get(f"audiomdb:shard:{shard_id}")
        shard_dir = os.path.join(self.cache_dir, f"shard_{shard_id:05d}")
        return shard_dir
