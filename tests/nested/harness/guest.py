"""What the virtual machine boots: Debian's cloud kernel, its modules and busybox, taken from Debian's packages.

The packages are downloaded and unpacked into target/nested, not installed: a developer's machine keeps its kernels.
"""

import lzma
import os
import re
import shutil
import subprocess
from pathlib import Path

from harness.cpio import Archive
from harness.errors import NestedError
from harness.scratch import TARGET

HERE = Path(__file__).resolve().parent
META_PACKAGE = "linux-image-cloud-amd64"
BUSYBOX_PACKAGE = "busybox-static"
# In the order of their needs; what a kernel has built in is passed over.
MODULES = [
    "crc32c_generic", "crc32c-intel", "ext4",
    "virtio_pci", "virtio_blk", "virtio_console", "virtio-rng",
    "irqbypass", "kvm", "kvm-amd",
    # Not for our monitor, whose vsock is its own: for the one that benchmarks compare it with.
    "vhost_vsock",
]


class Guest:
    """The unpacked packages below `directory`."""

    def __init__(self, directory):
        self.directory = Path(directory)

    @classmethod
    def find_or_fetch(cls, target=TARGET):
        guest = cls(target / "guest")
        if not guest.directory.is_dir():
            fetch(guest.directory)
        return guest

    @property
    def kernel(self):
        return only(self.directory.glob("boot/vmlinuz-*"), "kernel")

    @property
    def busybox(self):
        # /usr/bin from Debian 13 on.
        return only([*self.directory.glob("bin/busybox"), *self.directory.glob("usr/bin/busybox")], "busybox")

    def modules(self):
        """Names and contents of the modules, each behind those it depends on."""
        files = {}
        for path in self.directory.glob("**/lib/modules/*/kernel/**/*.ko*"):
            files[module_name(path.name)] = path
        loaded = {}
        for name in MODULES:
            self._collect(module_name(name), files, loaded)
        return list(loaded.items())

    def _collect(self, name, files, loaded):
        if name in loaded or name not in files:
            return
        content = read_module(files[name])
        for dependency in dependencies(content):
            self._collect(module_name(dependency), files, loaded)
        loaded[name] = content

    def initramfs(self, script, timeout):
        """Everything the machine runs before the command: `script` is what /init runs, and for how long."""
        archive = Archive()
        for directory in ("bin", "dev", "modules", "proc", "sys", "tree"):
            archive.directory(directory)
        archive.device("dev/console", 5, 1)
        archive.file("init", (HERE / "init.sh").read_bytes(), 0o755)
        archive.file("bin/busybox", self.busybox.read_bytes(), 0o755)
        archive.file("command", script.encode())
        archive.file("timeout", str(timeout).encode())
        modules = self.modules()
        for name, content in modules:
            archive.file(f"modules/{name}.ko", content)
        archive.file("modules/order", "".join(f"{name}\n" for name, _ in modules).encode())
        return archive.finish()


def fetch(directory):
    """Downloads the packages with apt, which knows this machine's mirrors and checks signatures."""
    partial = directory.with_name(f"partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "packages").mkdir(parents=True)
    try:
        image = cloud_image()
        print(f"nested: downloading {image} and {BUSYBOX_PACKAGE} (30 MB, once)", flush=True)
        tool(["apt-get", "download", "-qq", image, BUSYBOX_PACKAGE], cwd=partial / "packages")
        for package in (partial / "packages").glob("*.deb"):
            tool(["dpkg-deb", "-x", package, partial])
        shutil.rmtree(partial / "packages")
        try:
            partial.rename(directory)
        except OSError:
            # Another run was quicker; its directory is as good.
            if not directory.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def cloud_image():
    """The package behind the one that always depends on the newest."""
    answer = tool(["apt-cache", "depends", "--important", META_PACKAGE])
    found = re.search(r"Depends: (linux-image-\S+)", answer)
    if not found:
        raise NestedError(f"apt knows no {META_PACKAGE}; try: apt-get update")
    return found[1]


def tool(command, **options):
    # mke2fs is in /usr/sbin, which a user's path may lack.
    environment = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    try:
        done = subprocess.run(
            [str(word) for word in command], capture_output=True, text=True, env=environment, **options,
        )
    except FileNotFoundError:
        raise NestedError(f"{command[0]} is not installed; scripts/setup microvm installs what is missing") from None
    if done.returncode:
        output = (done.stdout + done.stderr).strip()
        raise NestedError(f"{command[0]} failed with status {done.returncode}: {output[-2000:]}")
    return done.stdout


def only(paths, what):
    paths = sorted(paths)
    if not paths:
        raise NestedError(f"there is no {what} in {TARGET}/guest; remove that directory and try again")
    return paths[-1]


def module_name(file_name):
    """Files are called by either spelling; the kernel means the same."""
    return file_name.split(".")[0].replace("-", "_")


def read_module(path):
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == ".xz" else content


def dependencies(module):
    """The `depends=` line of the module's .modinfo section."""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    return [name for name in found[1].decode().split(",") if name] if found else []
