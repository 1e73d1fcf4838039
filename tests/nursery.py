"""Programs that start at once, because they are forked from a process that has imported everything.

To import torch, torchvision and fastai takes six seconds of a core, and the tests start a hundred programs. `run` and `Popen` are those of `subprocess`
for `[sys.executable, "-c", code, …]`, `[sys.executable, "file.py", …]` and the package's own commands; `real=True`, or `--long` for most of them, starts
a process of its own, as a user does. What is about the start itself (how quick it is, what it imports, how much memory it owns) is no matter for a nursery.
"""
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, CalledProcessError, CompletedProcess, TimeoutExpired

everything_real = os.name == "nt"
_server = None


# ---------------------------------------------------------------- the process that has imported everything

def _import_everything():
    import importlib
    import pkgutil

    import torch
    torch.set_num_threads(1)
    import colorize
    for module in pkgutil.walk_packages(colorize.__path__, "colorize."): importlib.import_module(module.name)
    import matplotlib.pyplot
    import pandas


def _serve(fd):
    "Fork for everyone who asks on the socket `fd`, and tell him at the end what became of it"
    import signal
    import warnings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _import_everything()
    asked, running = socket.socket(fileno=fd), {}
    asked.sendall(b"ready")
    while True:
        if select.select([asked], [], [], .01 if running else None)[0]:
            data, fds, *_ = socket.recv_fds(asked, len(b"fork"), 5)
            if not data: break
            told, request, *files = fds
            pid = os.fork()
            if not pid:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                _become(json.loads(open(request, encoding="utf-8").read()), files)
            for file in (request, *files): os.close(file)
            running[pid] = socket.socket(fileno=told)
            running[pid].sendall(f"{pid}\n".encode())
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid: break
            with running.pop(pid) as told:
                try: told.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
                except OSError: pass


def _become(what, files):
    "From here on this process is the program that was asked for"
    import atexit
    import runpy
    import signal
    import threading
    import traceback
    import types
    import warnings
    code = 0
    try:
        for number, file in enumerate(files): os.dup2(file, number)
        os.closerange(3, 64)
        os.environ.clear(), os.environ.update(what["env"])
        os.chdir(what["cwd"])
        encoding, _, errors = os.environ.get("PYTHONIOENCODING", "utf-8").partition(":")
        sys.stdin, sys.stdout = open(0, encoding=encoding), open(1, "w", encoding=encoding, errors=errors or "strict", buffering=1 if os.isatty(1) else -1)
        sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace", buffering=1)
        if what["env"].get("PYTHONWARNINGS"): warnings.simplefilter(what["env"]["PYTHONWARNINGS"])
        import random

        import numpy
        random.seed(), numpy.random.seed()
        sys.argv, place = what["argv"], what["argv"][0]
        try:
            if what["code"]:
                sys.path.insert(0, "")
                sys.modules["__main__"] = main = types.ModuleType("__main__")
                exec(compile(what["code"], "<string>", "exec"), vars(main))
            else:
                sys.path.insert(0, os.path.dirname(os.path.abspath(place)))
                runpy.run_path(place, run_name="__main__")
        except SystemExit as end:
            code = end.code
            if isinstance(code, str): print(code, file=sys.stderr)
            code = 0 if code is None else code if isinstance(code, int) else 1
        except KeyboardInterrupt: traceback.print_exc(); code = -signal.SIGINT
        except BaseException: traceback.print_exc(); code = 1
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush(), sys.stderr.flush()
    except BaseException: traceback.print_exc(); code = 1
    finally:
        if code < 0:
            signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        os._exit(code & 255)


# ---------------------------------------------------------------- who asks

def _understood(args):
    "What the server is asked for, or None where it has to be a real process"
    program, *rest = map(os.fspath, args)
    if program == sys.executable and rest and rest[0] == "-c": return dict(code=rest[1], argv=["-c", *rest[2:]])
    if program == sys.executable and rest and not rest[0].startswith("-"): return dict(code=None, argv=rest)
    if Path(program).parent == Path(sys.executable).parent and Path(program).name.startswith("colorize"): return dict(code=None, argv=[program, *rest])


def open_server():
    global _server
    if _server is None:
        ours, theirs = socket.socketpair()
        env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": os.environ.get("MPLBACKEND", "agg")}
        process = subprocess.Popen([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import nursery; nursery._serve({theirs.fileno()})"],
                                   env=env, pass_fds=[theirs.fileno()], stdin=DEVNULL)
        theirs.close()
        if ours.recv(5) != b"ready": raise RuntimeError("the process that was to import everything has ended")
        _server = process, ours
    return _server[1]


def close_server():
    global _server
    if _server:
        _server[1].close()
        _server[0].wait(30)
        _server = None


class Forked(subprocess.Popen):
    "`subprocess.Popen` whose process is the server's child: started, waited for and signalled by way of it"
    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *_):
        what = dict(_understood(args), env=dict(os.environ if env is None else env), cwd=os.fspath(cwd or os.getcwd()))
        self._told, theirs = socket.socketpair()
        with theirs, tempfile.TemporaryFile("w+", encoding="utf-8") as request:
            json.dump(what, request), request.seek(0)
            files = [number if given == -1 else given for number, given in enumerate((p2cread, c2pwrite, errwrite))]
            socket.send_fds(open_server(), [b"fork"], [theirs.fileno(), request.fileno(), *files])
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)
        self._child_created, self._line = True, b""
        self.pid = self._read(None)

    def _read(self, timeout):
        "The next number from the server; None after `timeout` seconds"
        end = None if timeout is None else time.monotonic() + timeout
        while b"\n" not in self._line:
            if not select.select([self._told], [], [], None if end is None else max(0, end - time.monotonic()))[0]: return None
            data = self._told.recv(64)
            if not data: raise RuntimeError("the nursery has ended")
            self._line += data
        number, _, self._line = self._line.partition(b"\n")
        return int(number)

    def _internal_poll(self, _deadstate=None, **_):
        if self.returncode is None and (code := self._read(0)) is not None: self.returncode = code
        return self.returncode

    def _wait(self, timeout):
        if self.returncode is None:
            code = self._read(timeout)
            if code is None: raise TimeoutExpired(self.args, timeout)
            self.returncode = code
        return self.returncode


def Popen(args, *, real=None, **kwargs):
    if real is None: real = everything_real
    return (subprocess.Popen if real or _understood(args) is None else Forked)(args, **kwargs)


def run(args, *, real=None, capture_output=False, timeout=None, check=False, **kwargs):
    "As `subprocess.run`"
    if capture_output: kwargs |= dict(stdout=PIPE, stderr=PIPE)
    with Popen(args, real=real, **kwargs) as process:
        try: out, err = process.communicate(timeout=timeout)
        except BaseException: process.kill(); raise
    if check and process.returncode: raise CalledProcessError(process.returncode, args, out, err)
    return CompletedProcess(args, process.returncode, out, err)
