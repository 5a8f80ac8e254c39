# Run by gdb: records the functions of src/ that are entered while one message is echoed.
# tests/walk.rs starts it, and reads the lines that it prints with "walk:" in front.
#
# Environment: WALK_SOURCES is the folder of the sources.

import os
import re

import gdb

SOURCES = os.path.realpath(os.environ["WALK_SOURCES"]) + "/"
# The system calls that can read the message, and those that can write the echo.
READS = ["recvfrom", "recvmsg", "read", "readv"]
WRITES = ["sendto", "sendmsg", "write", "writev"]


def say(*words):
    print("walk:", *words, flush=True)


def source(address):
    """The file of the function at an address, from src/ on. None if it is not one of them."""
    table = gdb.find_pc_line(address).symtab
    path = table and os.path.realpath(table.fullname())
    return "src/" + path[len(SOURCES):] if path and path.startswith(SOURCES) else None


def plain(mangled, path):
    """The name of a function without the modules, the type parameters and the hash."""
    name = gdb.execute("demangle -l rust -- " + mangled, to_string=True).strip()
    name = re.sub(r"::h[0-9a-f]{16}$", "", name)
    name = re.sub(r"\[[0-9a-f]+\]", "", name)
    module = "::".join(["ikisocket"] + path[len("src/"):-len(".rs")].split("/"))
    name = re.sub("^" + re.escape(module.removesuffix("::mod")) + "::", "", name)
    # The modules before a type.
    name = re.sub(r"(?<![\w:>}])(?:[a-z_]\w*::)+(?=[A-Z<])", "", name)
    # An `impl` says no more than its type: <impl Server<S>>::poll is Server::poll.
    name = re.sub(r"<impl (\w+)(?:<[^<>]*>)?>", r"\1", name)
    name = re.sub(r"(\w)<[^<>]*>(?=::)", r"\1", name)
    return name.replace("{{closure}}", "{closure}")


class Entry(gdb.Breakpoint):
    """A function of the sources. It is recorded, and the program goes on."""

    walk = []

    def __init__(self, address, name):
        super().__init__("*" + hex(address), internal=True)
        self.name = name

    def stop(self):
        Entry.walk.append(self.name)
        return False


def functions(name):
    """The address and the symbol of each function that has a name in its symbol."""
    program = gdb.current_progspace().filename
    symbols = gdb.execute("maint print msymbols -objfile " + program, to_string=True)
    found = re.findall(r"^\[\s*\d+\] [tTwWvV] (0x[0-9a-f]+) (\S+)", symbols, re.MULTILINE)
    return {int(address, 16): symbol for address, symbol in found if name in symbol}


def break_at(name):
    """Stops at a function of tests/walk.rs. Line tables alone do not have its plain name."""
    [symbol] = functions("4walk" + str(len(name)) + name).values()
    return gdb.Breakpoint(symbol)


def catch(calls):
    """Stops at the entry and the return of system calls; returns the catchpoint's number."""
    gdb.execute("catch syscall " + " ".join(calls))
    return int(gdb.parse_and_eval("$bpnum"))


def next_stop():
    """Lets the program run, and returns the number of the breakpoint that stops it."""
    gdb.execute("continue")
    if gdb.selected_inferior().pid == 0:
        raise gdb.GdbError("the program ended before the walk did")
    # What `continue` prints cannot be had as a string.
    return int(re.search(r"breakpoint (\d+)", gdb.execute("info program", to_string=True))[1])


def record():
    gdb.execute("set pagination off")
    gdb.execute("set confirm off")
    gdb.execute("set startup-with-shell off")
    if not any(source(address) for address in functions("ikisocket")):
        say("blind")
        return
    begin = break_at("a_message_is_there")
    gdb.execute("run")
    if gdb.selected_inferior().pid == 0:
        return
    say("started")
    begin.delete()
    listener = break_at("listener").number
    read, write = catch(READS), catch(WRITES)

    # To the return of the read that has the message: the first stop is its call.
    if next_stop() != read or next_stop() != read:
        raise gdb.GdbError("the server has done something else before it read the message")
    for address, symbol in functions("ikisocket").items():
        path = source(address)
        if path is not None:
            Entry(address, (path, plain(symbol, path)))

    while next_stop() != listener:
        say("before the listener: one more system call")
    comes_in, Entry.walk = Entry.walk, []

    while next_stop() != write:
        say("before the write: one more system call")
    goes_out, Entry.walk = Entry.walk, []
    for path, name in comes_in:
        say("in", path, name)
    for path, name in goes_out:
        say("out", path, name)
    say("done")


record()
