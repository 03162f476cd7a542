"""Runs one program where it reaches nothing but itself. A script of its own: standard library only, no imports of ours.

``python -I -S jail.py <length>``: the first ``length`` bytes of standard input are a JSON object that says what to run;
the rest is the program's own input. The program gets

* namespaces of its own for processes, network, mounts, IPC and host name: no network, not even a loopback that is up; a
  root that holds the directories it was given, read-only, and an empty ``/tmp`` in memory; no ``/proc``, no ``/sys``;
* a user without privileges, and no way to gain any: no namespaces of its own, in which it would be root;
* no memory that its limits do not count: shared segments outlive their processes, files in memory have no path;
* no look into another of its processes;
* limits on processor time, address space, size and number of files, processes.

With ``"namespaces": false`` only the limits hold. Exit status 125 and a line on standard error: it could not be set up.
"""

# ruff: noqa: PTH101, PTH103, PTH112, PTH114, PTH115, PTH120, PTH123, PTH211
# pathlib would be half of its time to start.
import contextlib
import ctypes
import errno
import json
import os
import resource
import signal
import sys

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWCGROUP = 0x10000000, 0x20000000, 0x40000000, 0x02000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
PR_SET_SECCOMP, SECCOMP_MODE_FILTER, SECCOMP_ALLOW, SECCOMP_ERRNO = 22, 2, 0x7FFF0000, 0x00050000
BPF_LOAD, BPF_EQUAL, BPF_AT_LEAST, BPF_ANY_BIT, BPF_RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
OFFSET_NUMBER, OFFSET_MACHINE, OFFSET_FIRST_ARGUMENT = 0, 4, 16
# By machine: its number, and the system calls that no program makes.
CALLS = {
    "x86_64": (
        0xC000003E,
        {
            "shmget": 29, "semget": 64, "msgget": 68, "ptrace": 101, "mount": 165, "add_key": 248, "request_key": 249,
            "keyctl": 250, "unshare": 272, "perf_event_open": 298, "setns": 308, "process_vm_readv": 310,
            "process_vm_writev": 311, "memfd_create": 319, "bpf": 321, "userfaultfd": 323,
        },
        56,
    ),
    "aarch64": (
        0xC00000B7,
        {
            "mount": 40, "unshare": 97, "ptrace": 117, "msgget": 186, "semget": 190, "shmget": 194, "add_key": 217,
            "request_key": 218, "keyctl": 219, "perf_event_open": 241, "setns": 268, "process_vm_readv": 270,
            "process_vm_writev": 271, "memfd_create": 279, "bpf": 280, "userfaultfd": 282,
        },
        220,
    ),
}  # fmt: skip
NEWER_CALLS = {"io_uring_setup": 425, "pidfd_getfd": 438, "memfd_secret": 447}
CLONE3, OTHER_ABI = 435, 0x40000000
FIRST_UID, NUM_UIDS = 61000, 4000
REFUSED = 125

libc = ctypes.CDLL(None, use_errno=True)


def check(result, what):
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def mount(source, target, kind, flags, options=""):
    check(
        libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()),
        f"mount {target}",
    )


def pivot_root(new, old):
    check(libc.syscall(ctypes.c_long(PIVOT_ROOT[os.uname().machine]), new.encode(), old.encode()), "pivot_root")


def isolate(asked):
    """New namespaces, and a root of our own in them. Returns the user to become, or None to stay who we are."""
    flags = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        os.unshare(flags)
        become = FIRST_UID + os.getpid() % NUM_UIDS
    else:
        os.unshare(flags | CLONE_NEWUSER)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        become = None
    mount("none", "/", "none", MS_REC | MS_PRIVATE)
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")
    os.makedirs("/tmp/new")
    os.makedirs("/tmp/old")
    mount("/tmp/new", "/tmp/new", "none", MS_BIND)
    pivot_root("/tmp", "/tmp/old")
    os.chdir("/")
    os.makedirs("/new/tmp")  # before the rest: a Python may live below /tmp
    mount("tmpfs", "/new/tmp", "tmpfs", MS_NOSUID | MS_NODEV, f"mode=1777,size={asked['file_bytes']},nr_inodes=1024")
    for path in asked["readonly"]:
        give(path)
    os.makedirs("/new/dev")
    for name in ("null", "zero", "urandom", "random"):
        open(f"/new/dev/{name}", "w").close()
        mount(f"/old/dev/{name}", f"/new/dev/{name}", "none", MS_BIND)
    check(libc.umount2(b"/old", MNT_DETACH), "umount the old root")
    os.chdir("/new")
    pivot_root(".", ".")
    check(libc.umount2(b".", MNT_DETACH), "umount the temporary root")
    os.chdir("/")
    mount("none", "/", "none", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    return become


def give(path):
    """A directory (or link) of the old root at the same place of the new one, read-only."""
    source, target = f"/old{path}", f"/new{path}"
    if os.path.lexists(target):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(source):
        os.symlink(os.readlink(source), target)
    elif os.path.isdir(source):
        os.makedirs(target)
        mount(source, target, "none", MS_BIND)
        # What a mount forbade before, a user's namespace must go on forbidding.
        kept = os.statvfs(target).f_flag & (MS_NOSUID | MS_NODEV | 8)
        mount("none", target, "none", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | kept)


def die_with_parent():
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def limit(asked):
    for name, value in asked["limits"].items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


class Filter(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("value", ctypes.c_uint32))


class Filters(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("first", ctypes.POINTER(Filter)))


def forbid():
    """Refuse the system calls that no program needs, for this process and all that it starts."""
    machine, calls, clone = CALLS[os.uname().machine]

    def refused(test, value, error=errno.EPERM):
        return [(test, 0, 1, value), (BPF_RETURN, 0, 0, SECCOMP_ERRNO | error)]

    program = [
        (BPF_LOAD, 0, 0, OFFSET_MACHINE),
        (BPF_EQUAL, 1, 0, machine),
        (BPF_RETURN, 0, 0, SECCOMP_ERRNO | errno.EPERM),
    ]
    program += [(BPF_LOAD, 0, 0, OFFSET_NUMBER), *refused(BPF_AT_LEAST, OTHER_ABI)]
    for number in (*calls.values(), *NEWER_CALLS.values()):
        program += refused(BPF_EQUAL, number)
    program += refused(BPF_EQUAL, CLONE3, errno.ENOSYS)  # its flags are out of reach: a C library then uses the older
    program += [(BPF_EQUAL, 1, 0, clone), (BPF_RETURN, 0, 0, SECCOMP_ALLOW), (BPF_LOAD, 0, 0, OFFSET_FIRST_ARGUMENT)]
    namespaces = (
        CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWCGROUP
    )
    program += [*refused(BPF_ANY_BIT, namespaces), (BPF_RETURN, 0, 0, SECCOMP_ALLOW)]
    filters = Filters(len(program), (Filter * len(program))(*program))
    check(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(filters), 0, 0), "seccomp")


def run(asked, become):
    """Become the program."""
    for path, text in asked["files"].items():
        with open(path, "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(text)
        os.chmod(path, 0o444)
    os.chdir(asked["cwd"])
    if become is not None:
        os.setgroups([])
        os.setresgid(become, become, become)
        os.setresuid(become, become, become)
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    os.closerange(3, 4096)
    limit(asked)
    forbid()
    os.execve(asked["argv"][0], asked["argv"], asked["env"])


def fork(child):
    """Run ``child`` in a process; it never comes back."""
    pid = os.fork()
    if pid:
        return pid
    try:
        die_with_parent()
        child()
    except BaseException as error:
        refuse(error)
    finally:
        os._exit(REFUSED)


def first(asked, become):
    """The first process of its namespace: all others end with it."""
    program = fork(lambda: run(asked, become))
    while True:
        pid, status = os.wait()  # orphans come here, too
        if pid == program:
            leave(status)


def leave(status):
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def refuse(error):
    with contextlib.suppress(OSError):
        os.write(2, f"jail: {error}\n".encode(errors="replace"))


def read_exactly(length):
    data = b""
    while len(data) < length:
        more = os.read(0, length - len(data))
        if not more:
            raise EOFError("standard input ended before what to run was said")
        data += more
    return json.loads(data)


def main():
    die_with_parent()
    try:
        asked = read_exactly(int(sys.argv[1]))
        become = isolate(asked) if asked["namespaces"] else None
        child = (lambda: first(asked, become)) if asked["namespaces"] else (lambda: run(asked, become))
        pid = fork(child)
    except Exception as error:
        refuse(error)
        os._exit(REFUSED)
    leave(os.waitpid(pid, 0)[1])


main()
