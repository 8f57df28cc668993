"""Walls of the operating system around a worker, for the day when WebAssembly's own does not hold.

On Linux: no new privileges, resource limits, Landlock (no files but one directory to read, no TCP) and seccomp (no
sockets, no processes, no debugging). What a kernel lacks is left out; `enter` tells what is up.

Sources: landlock(7), seccomp(2), `include/uapi/linux/{landlock,seccomp,filter,audit}.h`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
import sys

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_PR_SET_DUMPABLE = 4
_SECCOMP_MODE_FILTER = 2

_SYS_LANDLOCK_CREATE_RULESET = 444
_SYS_LANDLOCK_ADD_RULE = 445
_SYS_LANDLOCK_RESTRICT_SELF = 446
_LANDLOCK_CREATE_RULESET_VERSION = 1
_LANDLOCK_RULE_PATH_BENEATH = 1
_LANDLOCK_READ_FILE = 1 << 2

_LANDLOCK_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
"""All rights over files that a version of Landlock knows. Version 4 added TCP, 6 signals and abstract sockets."""

_LANDLOCK_TCP_RIGHTS = 0b11
_LANDLOCK_SCOPES = 0b11

# What a worker never does, by number on x86-64 and on aarch64; None where there is no such call.
_FORBIDDEN_CALLS = {
    "accept": (43, 202),
    "accept4": (288, 242),
    "add_key": (248, 217),
    "bind": (49, 200),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "connect": (42, 203),
    "delete_module": (176, 106),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fork": (57, None),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "listen": (50, 201),
    "memfd_secret": (447, 447),
    "mount": (165, 40),
    "move_mount": (429, 429),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setns": (308, 268),
    "shmat": (30, 196),
    "shmget": (29, 194),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "swapon": (167, 224),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vfork": (58, None),
}
_CLONE = (56, 220)
_CLONE3 = (435, 435)
_CLONE_THREAD = 0x10000

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_KILL_PROCESS = 0x80000000


def enter(readable_directory: str) -> list[str]:
    """Puts up the walls around this process, for good. To be called before it starts threads.

    Args:
        readable_directory: the only place from which files can be read afterwards.

    Returns:
        Which walls are up.
    """
    walls = []
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Files that the process has open are not affected; nothing it would write to a file is welcome.
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    walls.append("rlimits")
    if sys.platform != "linux":
        return walls
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # no debugger, and /proc/PID belongs to root
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return walls
    walls.append("no_new_privs")
    if _enter_landlock(libc, readable_directory):
        walls.append("landlock")
    if _enter_seccomp(libc):
        walls.append("seccomp")
    return walls


def _enter_landlock(libc: ctypes.CDLL, readable_directory: str) -> bool:
    version = libc.syscall(_SYS_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_CREATE_RULESET_VERSION)
    if version < 1:
        return False
    file_rights = _LANDLOCK_FILE_RIGHTS[min(version, max(_LANDLOCK_FILE_RIGHTS))]
    attributes = [file_rights]
    if version >= 4:
        attributes.append(_LANDLOCK_TCP_RIGHTS)
    if version >= 6:
        attributes.append(_LANDLOCK_SCOPES)
    rules = struct.pack(f"{len(attributes)}Q", *attributes)
    ruleset = libc.syscall(_SYS_LANDLOCK_CREATE_RULESET, rules, ctypes.c_size_t(len(rules)), 0)
    if ruleset < 0:
        return False
    try:
        directory = os.open(readable_directory, os.O_PATH | os.O_CLOEXEC)
        try:
            rule = struct.pack("=Qi", _LANDLOCK_READ_FILE, directory)
            added = libc.syscall(_SYS_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_RULE_PATH_BENEATH, rule, 0)
        finally:
            os.close(directory)
        return int(added) == 0 and int(libc.syscall(_SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0)) == 0
    finally:
        os.close(ruleset)


def _enter_seccomp(libc: ctypes.CDLL) -> bool:
    machine = platform.machine()
    if machine not in _AUDIT_ARCH:
        return False
    code = _filter(machine)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    return int(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0)) == 0


def _filter(machine: str) -> bytes:
    """Returns a program for the kernel's packet filter that refuses the forbidden calls with EPERM."""
    column = list(_AUDIT_ARCH).index(machine)
    numbers = sorted(number for pair in _FORBIDDEN_CALLS.values() if (number := pair[column]) is not None)

    def load(offset: int) -> bytes:  # of struct seccomp_data: nr 0, arch 4, low half of the first argument 16
        return struct.pack("HBBI", 0x20, 0, 0, offset)

    def jump(operation: int, value: int, if_true: int, if_false: int) -> bytes:
        return struct.pack("HBBI", 0x05 | operation, if_true, if_false, value)

    def answer(value: int) -> bytes:
        return struct.pack("HBBI", 0x06, 0, 0, value)

    equal, at_least, has_bits = 0x10, 0x30, 0x40
    refuse = answer(_ERRNO | errno.EPERM)
    program = [
        load(4),
        jump(equal, _AUDIT_ARCH[machine], 1, 0),
        answer(_KILL_PROCESS),
        load(0),
        # The x32 calls of x86-64 have numbers of their own.
        jump(at_least, 0x40000000, 0, 1),
        answer(_KILL_PROCESS),
        # glibc uses clone where it is told that there is no clone3, whose flags cannot be seen from here.
        jump(equal, _CLONE3[column], 0, 1),
        answer(_ERRNO | errno.ENOSYS),
        jump(equal, _CLONE[column], 0, 4),
        load(16),
        jump(has_bits, _CLONE_THREAD, 0, 1),
        answer(_ALLOW),
        refuse,
    ]
    for number in numbers:
        program += [jump(equal, number, 0, 1), refuse]
    program.append(answer(_ALLOW))
    return b"".join(program)
