"""What every command shares: whatever goes wrong is one sentence and an exit code, never a traceback."""

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable

from s2llib.params import ParamsError, first_line
from s2llib.store import DiskFull

__all__ = ["guarded"]


class _Terminated(KeyboardInterrupt):
    """SIGTERM: of `kill`, of a batch queue whose time is up, of a container that is stopped."""


def _terminate(*_) -> None:
    raise _Terminated


def guarded(call: Callable[[], int]) -> int:
    """The exit code of a command: its own; 2 and one sentence for what cannot be used; 1, one sentence and a log for any other error."""
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        return call()
    except (ParamsError, DiskFull) as error:
        print(" ".join(str(error).splitlines()), file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print("\nInterrupted; run the same command again to go on from here.", file=sys.stderr)
        return 143 if isinstance(stop, _Terminated) else 130
    except BrokenPipeError:  # whoever read our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        print(f"Unexpected: {first_line(error)}; the details are in {_log()}: please report it.", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)


def _log() -> str:
    """A new file with the traceback of the error that is being handled."""
    handle, name = tempfile.mkstemp(prefix=time.strftime("s2llib-%Y%m%d-%H%M%S-"), suffix=".log")
    with open(handle, "w", encoding="utf-8") as file:
        file.write(f"{' '.join(sys.argv)}\n\n{traceback.format_exc()}")
    return name
