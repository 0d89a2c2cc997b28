"""One handler that does what ``event["do"]`` says, good or bad, and tells what came of it.

Each action is a function below, named as ``do`` names it; the event's other members are its arguments. What happens while
the module loads is chosen by the variable INIT: ``exit`` (status INIT_STATUS, 1 unless told), ``raise``, or ``sleep``
(INIT_SECONDS, 60 unless told).
"""

import glob
import os
import signal
import socket
import sys
import time

ACTIONS = {}
STATE = {"count": 0}


def action(function):
    ACTIONS[function.__name__.rstrip("_")] = function
    return function


def lambda_handler(event, context):
    arguments = dict(event)
    return ACTIONS[arguments.pop("do")](context, **arguments)


def outcome(attempt, *arguments):
    """What ``attempt`` returned, or the error's class and number: hardening tests want to see which refusal it was."""
    try:
        return {"ok": attempt(*arguments)}
    except OSError as error:
        return {"error": type(error).__name__, "errno": error.errno}
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)}


# --- answers ---------------------------------------------------------------------------------------------------------


@action
def echo(context, **event):
    return event


@action
def return_bytes(context, bytes):
    """An answer whose JSON is exactly ``bytes`` long: a string and its two quotes."""
    return "x" * (bytes - 2)


@action
def return_unserialisable(context):
    return {1, 2, 3}


@action
def env(context):
    return dict(os.environ)


@action
def context(context):
    fields = ["function_name", "function_version", "invoked_function_arn", "memory_limit_in_mb", "aws_request_id"]
    fields += ["log_group_name", "log_stream_name"]
    seen = {field: getattr(context, field) for field in fields}
    seen["remaining_ms"] = context.get_remaining_time_in_millis()
    client = context.client_context
    seen["client_context"] = None if client is None else {"custom": client.custom, "env": client.env}
    return seen


@action
def count(context):
    """Rises by one with each invocation that this environment has served."""
    STATE["count"] += 1
    return {"count": STATE["count"], "pid": os.getpid()}


@action
def tmp(context, name="kept", write=None):
    """What /tmp/NAME held before; then it holds ``write``, if that was given."""
    path = os.path.join("/tmp", name)
    before = None
    if os.path.exists(path):
        with open(path) as file:
            before = file.read()
    if write is not None:
        with open(path, "w") as file:
            file.write(write)
    return {"before": before}


# --- failures --------------------------------------------------------------------------------------------------------


@action
def raise_(context, message="on purpose", type="ValueError"):
    raise {"ValueError": ValueError, "KeyError": KeyError, "MemoryError": MemoryError}[type](message)


@action
def exit_(context, status=1, hard=False):
    """sys.exit is caught by the runtime client as any exception; ``hard`` leaves without asking it."""
    (os._exit if hard else sys.exit)(status)


@action
def signal_self(context, signal):
    os.kill(os.getpid(), signal)
    return "still here"


@action
def sleep(context, seconds):
    time.sleep(seconds)
    return {"slept": seconds}


@action
def ignore_sigterm(context, seconds):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(seconds)
    return {"ignored": True}


# --- greed -----------------------------------------------------------------------------------------------------------


@action
def eat_memory(context, mb):
    """Touches ``mb`` MB, page by page, and holds them while it answers."""
    hoard = []
    for _ in range(mb):
        hoard.append(bytearray(b"\xff") * (1024 * 1024))
    return {"mb": len(hoard)}


@action
def print_bytes(context, bytes, stream="stdout", line=80):
    """Prints ``bytes`` bytes in lines of ``line``, straight to the descriptor."""
    descriptor = {"stdout": 1, "stderr": 2}[stream]
    left = bytes
    block = (b"p" * (line - 1) + b"\n") * max(1, 65536 // line)
    while left > 0:
        left -= os.write(descriptor, block[:left])
    return {"printed": bytes}


@action
def print_text(context, text, stream="stdout"):
    print(text, file={"stdout": sys.stdout, "stderr": sys.stderr}[stream], flush=True)
    return {"printed": len(text)}


@action
def fork_bomb(context, limit=100_000):
    """Forks until it is refused; the children wait to be killed. Tells how many there were and what refused more."""
    children = []
    refused = None
    while len(children) < limit:
        try:
            child = os.fork()
        except OSError as error:
            refused = error.errno
            break
        if child == 0:
            while True:
                signal.pause()
        children.append(child)
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)
    return {"children": len(children), "errno": refused}


@action
def fork_bomb_unbounded(context):
    """The classic: every process forks for ever; nobody cleans up."""
    while True:
        try:
            os.fork()
        except OSError:
            pass


@action
def fill_tmp(context, mb=100_000):
    """Writes to /tmp until it is full or holds ``mb`` MB more, and leaves it so."""
    written = 0
    block = b"\xff" * (1024 * 1024)
    try:
        with open("/tmp/filler-%d" % time.monotonic_ns(), "wb", buffering=0) as file:
            while written < mb * len(block):
                written += file.write(block)
    except OSError as error:
        return {"bytes": written, "errno": error.errno}
    return {"bytes": written, "errno": None}


# --- the Runtime API, spoken wrongly ---------------------------------------------------------------------------------


def runtime_api(data, answer_bytes=4096, timeout=5):
    """Sends bytes to the Runtime API on a connection of their own and returns what came back, as text."""
    host, _, port = os.environ["AWS_LAMBDA_RUNTIME_API"].partition(":")
    with socket.create_connection((host, int(port or 80)), timeout=timeout) as connection:
        connection.settimeout(timeout)
        try:
            connection.sendall(data)
            return connection.recv(answer_bytes).decode("latin-1")
        except OSError as error:
            return "%s %s" % (type(error).__name__, error.errno)


def post(path, body, headers=()):
    lines = ["POST /2018-06-01/runtime/%s HTTP/1.1" % path, "Host: runtime", "Content-Length: %d" % len(body)]
    return runtime_api("\r\n".join([*lines, *headers, "", ""]).encode() + body)


@action
def answer_twice(context):
    """Answers by itself; the client then answers a second time for the same id."""
    return {"first": post("invocation/%s/response" % context.aws_request_id, b'"first"')}


@action
def answer_other(context, id="00000000-0000-4000-8000-000000000000"):
    return {"answer": post("invocation/%s/response" % id, b'"for another"')}


@action
def answer_error_other(context, id="00000000-0000-4000-8000-000000000000"):
    return {"answer": post("invocation/%s/error" % id, b"{}")}


@action
def late_init_error(context):
    return {"answer": post("init/error", b'{"errorType": "Late", "errorMessage": "init is over"}')}


@action
def garbage(context, kind="bytes"):
    """Not HTTP, or HTTP with lies in it."""
    pieces = {
        "bytes": os.urandom(4096),
        "long_line": b"GET /" + b"a" * 1_000_000,
        "many_headers": b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 100_000,
        "negative_length": b"POST /2018-06-01/runtime/init/error HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "two_lengths": b"POST /2018-06-01/runtime/init/error HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "bad_chunk": b"POST /2018-06-01/runtime/init/error HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "huge_length": b"POST /2018-06-01/runtime/init/error HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
        "unknown_path": b"GET /2018-06-01/nothing HTTP/1.1\r\nHost: x\r\n\r\n",
    }
    return {"answer": runtime_api(pieces[kind])}


@action
def hold_connections(context, number):
    """Opens connections to the Runtime API, says nothing on them and keeps them for the environment's life."""
    host, _, port = os.environ["AWS_LAMBDA_RUNTIME_API"].partition(":")
    held = STATE.setdefault("held", [])

    def connect():
        held.append(socket.create_connection((host, int(port or 80)), timeout=5))

    for _ in range(number):
        result = outcome(connect)
        if "error" in result:
            return {"held": len(held), **result}
    return {"held": len(held)}


@action
def raw(context, data):
    """Sends the text as it is, for what the other actions do not think of."""
    return {"answer": runtime_api(data.encode("latin-1"))}


# --- looking where it should not --------------------------------------------------------------------------------------


def read_file(path, size=65536):
    with open(path, "rb") as file:
        return file.read(size).decode("latin-1")


def read_memory(pid):
    """The first readable bytes of a process's memory."""
    with open("/proc/%d/maps" % pid) as maps:
        start = int(maps.readline().split("-")[0], 16)
    with open("/proc/%d/mem" % pid, "rb", buffering=0) as memory:
        memory.seek(start)
        return len(memory.read(16))


@action
def read_proc(context, pid=1):
    """What another process (the agent, unless told otherwise) lets this one see."""
    base = "/proc/%d/" % pid
    return {
        "environ": outcome(read_file, base + "environ"),
        "mem": outcome(read_memory, pid),
        "fd": outcome(os.listdir, base + "fd"),
        "root": outcome(os.listdir, base + "root"),
        "cmdline": outcome(read_file, base + "cmdline"),
        # Signal 0 goes through the same permission check and hurts nobody where the check is missing.
        "kill": outcome(os.kill, pid, 0),
    }


@action
def read(context, path, size=65536):
    return outcome(read_file, path, size)


@action
def list_(context, path):
    return outcome(lambda: sorted(os.listdir(path)))


@action
def write(context, path, text="x"):
    def attempt():
        with open(path, "w") as file:
            return file.write(text)

    return outcome(attempt)


@action
def descriptors(context):
    """Every open descriptor of this process and what it is."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink("/proc/self/fd/" + name)
        except OSError:
            pass
    return found


@action
def connect_anywhere(context):
    """Tries every Unix socket it can find, by path, by abstract name, and among its own descriptors."""
    tried = {}

    def connect(address):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(1)
            peer.connect(address)
            return "connected"

    addresses = set()
    try:
        with open("/proc/net/unix") as table:
            addresses.update(line.split()[7].replace("@", "\0", 1) for line in table if len(line.split()) == 8)
    except OSError:
        pass
    for root in ("/run", "/tmp", "/var", "/dev", "/opt"):
        for path in glob.iglob(root + "/**", recursive=True):
            try:
                if os.stat(path).st_mode & 0o170000 == 0o140000:
                    addresses.add(path)
            except OSError:
                pass
    addresses.discard("Path")
    for address in sorted(addresses):
        tried[address.replace("\0", "@")] = outcome(connect, address)
    for name, what in descriptors(context).items():
        if int(name) > 2 and what.startswith("socket:"):
            tried["fd " + name] = outcome(os.write, int(name), b"\xff" * 16)
    return tried


@action
def connect(context, host, port):
    def attempt():
        with socket.create_connection((host, port), timeout=2):
            return "connected"

    return outcome(attempt)


@action
def identity(context):
    """Who it is and what it may: ids, capabilities, seccomp, no_new_privs, as the kernel tells it."""
    with open("/proc/self/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    wanted = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
    return {name: status.get(name) for name in wanted}


# --- while the module loads -------------------------------------------------------------------------------------------

INIT = os.environ.get("INIT")
if INIT == "exit":
    os._exit(int(os.environ.get("INIT_STATUS", "1")))
elif INIT == "raise":
    raise RuntimeError("init failed on purpose")
elif INIT == "sleep":
    time.sleep(float(os.environ.get("INIT_SECONDS", "60")))
elif INIT is not None:
    raise ValueError("INIT is %r, not exit, raise or sleep" % INIT)
