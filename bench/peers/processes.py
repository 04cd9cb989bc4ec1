"""Programs that a case runs: commands with an answer, and servers that stay.

Every program dies with this one (setpriv), and leads a process group of its own, so that a server with all its children can be stopped for good, or
frozen while another side is measured: an idle server of several processes is not an idle machine.
"""
# SPDX-License-Identifier: Apache-2.0
import json
import os
import signal
import socket
import subprocess
import time

COMMAND_S, START_S, STOP_S = 900, 600, 20


class Failed(Exception):
    """One side could not be measured; the others go on."""


def rows(command, limit_s=COMMAND_S):
    """The JSON objects that a command prints, one a line."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        raise Failed(f"{os.path.basename(command[0])} took more than {limit_s} s") from None
    if done.returncode != 0:
        raise Failed(f"{os.path.basename(command[0])} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def answers_200(port, path):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as s:
            s.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            return b" 200 " in s.recv(64)
    except OSError:
        return False


def family(pid):
    """pid and all below it."""
    found = [pid]
    for parent in found:
        try:
            for thread in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{thread}/children", encoding="ascii") as file:
                    found += map(int, file.read().split())
        except OSError:
            pass
    return found


def peak_resident_mb(pid):
    """VmHWM of a process and its children, added up."""
    total = 0
    for member in family(pid):
        try:
            with open(f"/proc/{member}/status", encoding="ascii") as file:
                total += sum(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
        except OSError:
            pass
    return total / 1024


class Program:
    """Runs until stop(); its output goes to log."""

    def __init__(self, command, log, env=None, **pipes):
        self.log_path = log
        with open(log, "ab") as file:
            self.process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], stdout=pipes.pop("stdout", file), stderr=file,
                                            env=env, stdin=pipes.pop("stdin", subprocess.DEVNULL), start_new_session=True, **pipes)
        self.pid = self.process.pid

    def why(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            lines = [line for line in file.read().splitlines() if line.strip()]
        return lines[-1][-300:] if lines else "it said nothing"

    def send(self, number):
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass

    def freeze(self):
        self.send(signal.SIGSTOP)

    def thaw(self):
        self.send(signal.SIGCONT)

    def stop(self):
        self.thaw()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                pass
        self.send(signal.SIGKILL)  # and whoever it left behind in its group
        self.process.wait()


class Server(Program):
    """up() says when it serves: path on port answers 200."""

    def __init__(self, command, log, port, path, env=None):
        self.began = time.monotonic()
        super().__init__(command, log, env)
        self.port, self.path = port, path

    def up(self):
        """Seconds from the process's start to its first good answer."""
        while not answers_200(self.port, self.path):
            if self.process.poll() is not None:
                raise Failed(f"the server ended with {self.process.returncode}: {self.why()}")
            if time.monotonic() - self.began > START_S:
                self.stop()
                raise Failed(f"the server was not up after {START_S} s: {self.why()}")
            time.sleep(0.003)
        return time.monotonic() - self.began
