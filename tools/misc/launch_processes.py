"""``torch.distributed.run`` that ends without a traceback of its own when a scheduler or Ctrl-C stops it.

Its processes have got the signal by then and said what there is to say; see tools/launch.sh for the command line. When
it is killed, they end by themselves (``mmetris.utils.command_line.end_with_launcher``).
"""

from __future__ import annotations

import logging
import os
import signal
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

if __name__ == '__main__':
    # It tells of each process that it ends, and of the one that ended first.
    logging.getLogger('torch.distributed.elastic.multiprocessing.api').setLevel(logging.CRITICAL)
    # Not imported from the package, which takes seconds that the processes take anyway.
    os.environ['MMETRIS_LAUNCHER'] = str(os.getpid())
    try:
        main()
    except SignalException as stopped:
        sys.exit(128 + stopped.sigval)
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if failure.exitcode < 0:  # What ends by itself has said why.
            name = signal.Signals(-failure.exitcode).name
            print(f'process {rank} (number {failure.pid}) was ended by {name}', file=sys.stderr)
        sys.exit(failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode)
