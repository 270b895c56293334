"""``torch.distributed.run`` that ends without a traceback of its own when a scheduler or Ctrl-C stops it.

Its processes have got the signal by then and said what there is to say; see tools/launch.sh for the command line. When
it is killed, they end by themselves (``mmetris.utils.command_line.end_with_launcher``).
"""

from __future__ import annotations

import os
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.run import main

if __name__ == '__main__':
    # Not imported from the package, which takes seconds that the processes take anyway.
    os.environ['MMETRIS_LAUNCHER'] = str(os.getpid())
    try:
        main()
    except SignalException as stopped:
        sys.exit(128 + stopped.sigval)
