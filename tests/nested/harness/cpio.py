"""An initial RAM disk as Linux takes it: a cpio archive in the "newc" format (Documentation/driver-api/early-userspace)."""

import stat

HEADER = "070701" + "{:08x}" * 13
END = "TRAILER!!!"


class Archive:
    def __init__(self):
        self.parts = []
        self.number = 0

    def directory(self, name):
        self._add(name, stat.S_IFDIR | 0o755, b"")

    def file(self, name, content, mode=0o644):
        self._add(name, stat.S_IFREG | mode, content)

    def device(self, name, major, minor):
        self._add(name, stat.S_IFCHR | 0o600, b"", (major, minor))

    def finish(self):
        self._add(END, 0, b"")
        return b"".join(self.parts)

    def _add(self, name, mode, content, device=(0, 0)):
        self.number += 1
        path = name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, device, device node, length of the name, checksum (unused)
        header = HEADER.format(self.number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(path), 0).encode()
        self.parts.append(padded(header + path) + padded(content))


def padded(content):
    return content + b"\0" * (-len(content) % 4)
