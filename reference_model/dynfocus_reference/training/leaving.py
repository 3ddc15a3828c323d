"""The end of one process of several."""

from __future__ import annotations

import atexit
import logging
import os
import sys

import torch


def leave(code: int) -> int:
    """End this process where several trained together; alone, hand back its exit code.

    Threads of the process group outlive the interpreter, and one that still holds a tensor then aborts a run that
    had ended well. So a process of several ends without tearing the interpreter down, after everything that was
    registered for its end has run.
    """
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return code
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    atexit._run_exitfuncs()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
