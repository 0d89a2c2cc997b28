"""The harness itself: every way in which a run can go wrong is told, and none is taken for success."""

import io
import shutil
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import Choice, Job, NestedError, TimedOut, case, choose, machine, run_nested
from harness.case import Case
from harness.errors import MachineLost
from harness.guest import Guest, dependencies, module_name
from harness.rust import judge_tests
from harness.scratch import scratch


class Choosing(unittest.TestCase):
    def choose(self, flags, device="/dev/null"):
        with tempfile.NamedTemporaryFile("w+") as cpuinfo:
            cpuinfo.write(f"processor : 0\nflags\t\t: {flags}\n")
            cpuinfo.flush()
            return choose(Path(cpuinfo.name), Path(device))

    def test_hardware_with_a_device_runs_directly(self):
        self.assertTrue(self.choose("fpu vmx sse").direct)
        self.assertTrue(self.choose("fpu svm sse").direct)

    def test_a_device_without_hardware_is_not_enough(self):
        choice = self.choose("fpu sse")
        self.assertFalse(choice.direct)
        self.assertIn("neither vmx nor svm", str(choice))

    def test_hardware_without_a_device_is_not_enough(self):
        choice = self.choose("fpu vmx", "/no/such/device")
        self.assertFalse(choice.direct)
        self.assertIn("does not open: No such file", str(choice))


class Counting(unittest.TestCase):
    NAMES = ["a_kernel_boots", "disks::reads_are_right"]

    RESULT = "test result: {}. {} passed; {} failed; {} ignored; 0 measured; 3 filtered out; finished in 1.00s\n"

    def test_every_test_counts_and_its_name_is_what_it_proves(self):
        output = "test a_kernel_boots ... console: hello\nok\n" + self.RESULT.format("ok", 2, 0, 0)
        self.assertEqual(judge_tests(self.NAMES, output), ["a kernel boots", "reads are right"])

    def test_a_test_that_did_not_run_or_was_skipped_fails(self):
        for counts in (("ok", 1, 0, 0), ("ok", 1, 0, 1), ("ok", 3, 0, 0), ("FAILED", 1, 1, 0), ("FAILED", 2, 1, 0)):
            with self.assertRaisesRegex(NestedError, "2 tests were to pass"):
                judge_tests(self.NAMES, self.RESULT.format(*counts))
        with self.assertRaisesRegex(NestedError, "came out: nothing"):
            judge_tests(self.NAMES, "test a_kernel_boots ... ok\ntest disks::reads_are_right ... ok\n")


class Modules(unittest.TestCase):
    def test_dependencies_are_read_from_the_module(self):
        self.assertEqual(dependencies(b"\0license=GPL\0depends=kvm,irqbypass\0intree=Y\0"), ["kvm", "irqbypass"])
        self.assertEqual(dependencies(b"\0depends=\0"), [])
        self.assertEqual(module_name("kvm-amd.ko.xz"), "kvm_amd")

    def test_modules_come_behind_those_they_need(self):
        names = [name for name, _ in Guest.find_or_fetch().modules()]
        self.assertLess(names.index("irqbypass"), names.index("kvm"))
        self.assertLess(names.index("kvm"), names.index("kvm_amd"))


class Running(unittest.TestCase):
    """In a tree that holds busybox only."""

    def run_shell(self, script, timeout=60):
        output = io.BytesIO()
        with scratch() as tree:
            shutil.copy(Guest.find_or_fetch().busybox, tree / "sh")
            try:
                code = run_nested(Job(tree, ["/sh", "-c", script], timeout=timeout), output)
            finally:
                self.assertFalse((tree / "written").exists(), "the tree stays as it was")
        return code, output.getvalue().decode()

    def test_output_and_exit_code_come_back(self):
        code, output = self.run_shell('echo "it'"'"'s $WATERWHEEL_NESTED"; echo error >&2; : >/written; exit 7')
        self.assertEqual((code, output), (7, "it's 1\nerror\n"))

    def test_a_command_that_takes_too_long_is_ended_and_said_to_be(self):
        with self.assertRaisesRegex(TimedOut, "more than 1 s"):
            self.run_shell("while :; do :; done", timeout=1)

    def test_a_crash_of_the_machine_is_told_with_its_last_words(self):
        with self.assertRaisesRegex(MachineLost, "(?s)machine ended.*sysrq triggered crash"):
            self.run_shell("echo c >/proc/sysrq-trigger")

    def test_a_machine_that_does_not_answer_is_given_up(self):
        with mock.patch.multiple(machine, BOOT_SECONDS=0, GRACE_SECONDS=0):
            with self.assertRaisesRegex(NestedError, "does not answer"):
                self.run_shell("true", timeout=1)


class LostMachines(unittest.TestCase):
    """The machine of a case is lost so many times."""

    def attempt(self, hangs):
        def run(_, output):
            if next(hangs):
                raise MachineLost("the machine does not answer any more")
            output.write(b"fine")
            return 0

        asked = Case("case", lambda *_: None, lambda output: [output])
        with mock.patch.object(case, "run_nested", run):
            return case.attempt(asked, None, Choice(direct=False, reason="a test"))

    def test_one_hang_is_tried_once_more(self):
        self.assertEqual(self.attempt(iter([True, False])), ["fine"])

    def test_two_hangs_are_a_failure(self):
        with self.assertRaises(MachineLost):
            self.attempt(iter([True, True]))


if __name__ == "__main__":
    unittest.main()
