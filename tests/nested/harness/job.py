"""What is to be run."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Job:
    """`command` with its arguments, looked up inside `tree`, which becomes the root directory."""

    tree: Path
    command: list
    # For the virtual machine, in MiB; not a limit of the command where it runs directly.
    memory: int = 2048
    # From the start of the command to its end, in seconds.
    timeout: int = 600
    environment: dict = field(default_factory=dict)
    # For the virtual machine's kernel.
    kernel_options: tuple = ()

    def variables(self):
        return {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "WATERWHEEL_NESTED": "1"} | self.environment

    def script(self, root, env="/bin/env", chroot="/bin/chroot"):
        """The command as one line for a shell: in `root`, with nothing but its own variables."""
        variables = [f"{name}={value}" for name, value in self.variables().items()]
        return shlex.join(["exec", env, "-i", *variables, chroot, root, *map(str, self.command)]) + "\n"
