"""Scripts of this checkout in processes of their own, forked from one that has imported what they import.

Each is a process with its own arguments, variables, folder and output, and ends by the code that the script ends with;
what a fork saves is the seconds that PyTorch, MMEngine and MMSegmentation take to be imported. What a start itself
says or costs is not tested this way: tests of that start Python afresh (``fresh=True``).
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_server: subprocess.Popen | None = None


def run_script(
    script: str | os.PathLike,
    *arguments: Any,
    cwd: str | os.PathLike = ROOT,
    env: dict[str, str] | None = None,
    timeout: float = 900,
    merge: bool = False,
    fresh: bool = False,
) -> subprocess.CompletedProcess:
    """Run a Python script to its end.

    Args:
        script: The file.
        *arguments: Its arguments, turned into text.
        cwd: Its folder. Defaults to the checkout's.
        env: Its environment variables. Defaults to None: those of this process.
        timeout: Seconds; then it and its processes are killed.
        merge: Whether stderr goes to stdout.
        fresh: Whether Python is started afresh.

    Returns:
        ``returncode``, ``stdout`` and ``stderr`` as text.

    Raises:
        subprocess.TimeoutExpired: If it takes longer.
    """
    command = [str(script), *map(str, arguments)]
    env = dict(os.environ if env is None else env)
    if fresh or not hasattr(os, 'fork'):
        return subprocess.run(
            [sys.executable, *command],
            cwd=cwd,
            env=env,
            timeout=timeout,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merge else subprocess.PIPE,
        )
    server = _start_server()
    with tempfile.TemporaryDirectory() as folder:
        out, err = f'{folder}/out', f'{folder}/out' if merge else f'{folder}/err'
        request = dict(command=command, cwd=str(Path(cwd).resolve()), env=env, out=out, err=err)
        server.stdin.write(json.dumps(request) + '\n')
        server.stdin.flush()
        pid = int(server.stdout.readline())
        killer = threading.Timer(timeout, os.killpg, (pid, signal.SIGKILL))
        killer.start()
        code = int(server.stdout.readline())
        is_late = not killer.is_alive()
        killer.cancel()
        texts = [Path(name).read_text(errors='replace') if Path(name).exists() else '' for name in (out, err)]
    stdout, stderr = texts[0], '' if merge else texts[1]
    if is_late:
        raise subprocess.TimeoutExpired(command, timeout, stdout, stderr)
    return subprocess.CompletedProcess([sys.executable, *command], code, stdout, stderr)


def _start_server() -> subprocess.Popen:
    global _server
    if _server is None or _server.poll() is not None:
        env = dict(os.environ, OMP_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1', MKL_NUM_THREADS='1')
        env['PYTHONPATH'] = str(ROOT)
        _server = subprocess.Popen(
            [sys.executable, __file__],
            cwd=ROOT,
            env=env,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        atexit.register(_server.kill)
    return _server


def _serve() -> None:
    """Fork for each request on the standard input; a line with the process's number, then one with its exit status."""
    answers = os.fdopen(os.dup(1), 'w', buffering=1)
    os.dup2(2, 1)  # What packages print while they are imported is no answer.
    _import_all()
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            answers.close()
            _become(request)
        print(pid, file=answers)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=answers)


def _import_all() -> None:
    import matplotlib.pyplot  # noqa: F401
    import mmseg.apis  # noqa: F401
    import torch

    import mmetris.apis
    import mmetris.benchmark
    import mmetris.cli
    import mmetris.datasets.shapes
    import mmetris.deployment
    import mmetris.engine.strategies
    import mmetris.evaluation
    import mmetris.visualization  # noqa: F401

    torch.set_num_threads(1)


def _become(request: dict[str, Any]) -> None:
    """Run a script as Python does, and end."""
    code = 1
    try:
        os.setsid()
        for number, name in enumerate(('in', 'out', 'err')):
            path = os.devnull if name == 'in' else request[name]
            opened = os.open(path, os.O_RDONLY if name == 'in' else os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(opened, number)
            os.close(opened)
        sys.stdin = open(0)  # noqa: SIM115
        os.chdir(request['cwd'])
        os.environ.clear()
        os.environ.update(request['env'])
        _set_threads()
        script, *arguments = request['command']
        script = os.path.abspath(script)
        sys.argv = [script, *arguments]
        sys.path[0] = os.path.dirname(script)
        sys.path[1:1] = filter(None, os.environ.get('PYTHONPATH', '').split(os.pathsep))
        try:
            runpy.run_path(script, run_name='__main__')
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except KeyboardInterrupt:
            code = 130
        except BaseException:
            traceback.print_exc()
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code & 0xFF)


def _set_threads() -> None:
    import torch

    threads = os.environ.get('OMP_NUM_THREADS', '')
    torch.set_num_threads(int(threads) if threads.isdigit() else len(os.sched_getaffinity(0)))


if __name__ == '__main__':
    _serve()
