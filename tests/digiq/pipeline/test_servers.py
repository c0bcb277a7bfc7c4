"""A server that forks: what one child imports the next finds, each has its own exit status, none outlives its server."""

import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from digiq.pipeline.servers import Server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")

PROGRAM = """
import os
import sys
from digiq.pipeline.servers import serve

def work(line):
    word, file = line.split(" ")
    with open(file, "w") as out:
        out.write("old " if "colorsys" in sys.modules else "new ")
    import colorsys
    if word == "fail":
        sys.exit(3)
    if word == "hang":
        import time
        with open(file, "a") as out:
            out.write(str(os.getpid()))
        time.sleep(60)

serve(work, os.getppid())
"""


@pytest.fixture
def server():
    made = Server([sys.executable, "-c", PROGRAM], os.environ)
    yield made
    made.terminate()
    made.wait()


def finish(server: Server, line: str) -> int:
    server.ask(line)
    return wait(server)


def wait(server: Server) -> int:
    while (status := server.poll()) is None:
        time.sleep(0.01)
    return status


def wait_for_pid(file: Path) -> int:
    while not (file.exists() and file.read_text().split(" ")[-1]):
        time.sleep(0.01)
    return int(file.read_text().split(" ")[-1])


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_one_child_imported_the_next_finds(server, tmp_path):
    for expected in ("new ", "old "):
        assert finish(server, f"go {tmp_path / 'file'}") == 0
        assert (tmp_path / "file").read_text() == expected


def test_a_failed_or_killed_child_leaves_the_server_at_work(server, tmp_path):
    file = tmp_path / "file"
    assert finish(server, f"fail {file}") == 3
    server.ask(f"hang {file}")
    os.kill(wait_for_pid(file), signal.SIGKILL)
    assert wait(server) == -signal.SIGKILL
    assert finish(server, f"go {file}") == 0 and server.is_alive


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_child_ends_with_its_server(server, tmp_path, how):
    server.ask(f"hang {tmp_path / 'file'}")
    child = wait_for_pid(tmp_path / "file")
    os.kill(server._process.pid, how)
    assert wait(server) and not server.is_alive
    assert not is_running(child)


HEAPS = """
import ctypes, sys, threading
from digiq.memory import return_freed_memory

if sys.argv[1] == "one":
    return_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
threads = [threading.Thread(target=libc.malloc, args=(1000,)) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
file = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_threads_share_one_heap(tmp_path):
    heaps = {}
    for how in ("own", "one"):
        subprocess.run([sys.executable, "-c", HEAPS, how, str(tmp_path / how)], check=True)
        heaps[how] = (tmp_path / how).read_text().count("<heap nr=")
    assert heaps["own"] > heaps["one"] == 1
