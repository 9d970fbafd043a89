"""Reads a dataset of four samples, in two shards, in processes that are handed one retriever.

Arguments: cache directory, and a start method, or "none" to read in this process alone. Waits for a
line on standard input before it reads all; with a start method, it reads the first sample earlier.
"""

import multiprocessing
import sys

import audiomdb.cache.retry
from audiomdb.retrievers.hf import HFRetriever


def read(retriever, numbers, results):
    audiomdb.cache.retry.FIRST_WAIT_S = 1e-6
    results.put("".join(retriever.open()[number]["text"] for number in numbers))


def say(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main():
    cache_dir, start_method = sys.argv[1:]
    retriever = HFRetriever("user/digits", cache_dir=cache_dir)
    if start_method == "none":
        say("ready")
        sys.stdin.readline()
        say("".join(sample["text"] for sample in retriever.open()))
        return
    say(retriever.open()[0]["text"])
    sys.stdin.readline()
    context = multiprocessing.get_context(start_method)
    results = context.SimpleQueue()
    shares = [(0, 2), (1, 3)]
    processes = [context.Process(target=read, args=(retriever, share, results)) for share in shares]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    texts = [results.get() for process in processes if process.exitcode == 0]
    say(" ".join([*sorted(texts), retriever.open()[3]["text"]]))


if __name__ == "__main__":
    main()
