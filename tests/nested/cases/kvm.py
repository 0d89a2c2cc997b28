"""KVM itself: without it nothing else here means anything."""

import re
import shutil

from harness.case import Case
from harness.guest import tool
from harness.job import Job


def build(setting):
    source = setting.repository / "tests/nested/probe.c"
    tool(["cc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-static", "-o", setting.programs / "probe", source])


def cases(setting):
    yield Case("kvm", prepare, judge)


def prepare(setting, tree):
    shutil.copy(setting.programs / "probe", tree)
    return Job(tree, ["/probe"], timeout=30)


def judge(output):
    return re.findall(r"^kvm: (.*)$", output, re.MULTILINE)
