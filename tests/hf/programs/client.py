"""Runs pieces of code that come on its standard input, one a line, and says what they printed."""

import contextlib
import io
import json
import sys
import traceback


def main() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        sys.argv[1:] = job["arguments"]
        printed, error = io.StringIO(), None
        try:
            with contextlib.redirect_stdout(printed):
                exec(job["code"], {"__name__": "client"})  # noqa: S102
        except Exception:  # noqa: BLE001
            error = traceback.format_exc()
        sys.stdout.write(json.dumps({"printed": printed.getvalue(), "error": error}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
