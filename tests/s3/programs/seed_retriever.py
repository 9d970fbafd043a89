"""The README's custom S3 retriever as it stands there, read by torch's DataLoader.

Arguments: endpoint, bucket, prefix, start method. Prints the keys of two epochs.
"""

import json
import sys

from readme_retriever import CustomS3Retriever  # type: ignore[import-not-found]
from torch.utils.data import DataLoader

from audiomdb.data.base import StreamingDataset


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
