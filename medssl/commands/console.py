"""What a verb tells the user: plain lines on standard output."""

import sys


def say(text: str) -> None:
    """Write a line and flush, so that it is seen before long work begins."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
