"""`waterwheel queue` on directories that `queue/examples/fill.rs` has filled: beside it, after it, and after damage."""

import json
import os
import re
import resource
import shutil
import subprocess

import pytest

from harness.server import BINARY

FILL = BINARY.parent / "examples/fill"
CANARY = "canary-of-a-payload"


def waterwheel(data, *arguments):
    """Everything that it says is searched for payloads."""
    command = [BINARY, "queue", *arguments, "--data-dir", data]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert CANARY not in done.stdout + done.stderr
    return done


def answer(data, *arguments):
    done = waterwheel(data, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def fill(data, events, functions=10, payload=100, stay=False):
    """Starts it, and returns when all is queued."""
    assert FILL.exists(), f"not built: {FILL} (cargo build --package queue --example fill)"
    directory = data / "queue"
    directory.mkdir(parents=True)
    command = [FILL, directory, str(events), str(functions), str(payload), *(["stay"] if stay else [])]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "filled\n"
    if not stay:
        finish(process)
    return process


def finish(process):
    process.stdin.close()
    assert process.wait(timeout=30) == 0
    process.stdout.close()


@pytest.fixture(scope="module")
def million(built, tmp_path_factory):
    data = tmp_path_factory.mktemp("million")
    fill(data, 1_000_000)
    yield data
    shutil.rmtree(data)


@pytest.fixture
def small(built, tmp_path):
    fill(tmp_path, 1000, functions=2)
    return tmp_path


def names_of(data):
    return sorted((path.name, path.stat().st_mtime_ns) for path in (data / "queue").iterdir())


# === stat ===


def processor_time():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_stat_of_a_million_events_takes_little_work(million):
    before = names_of(million)
    seconds = []
    for _ in range(5):
        began = processor_time()
        report = answer(million, "stat")
        seconds.append(processor_time() - began)
    # Time on a clock depends on who else is at work; this is about three times what it takes here, in a debug build.
    assert min(seconds) < 0.5, seconds
    assert report["events"] == 1_000_090 and report["findings"] == []
    partitions = {partition["name"]: partition for partition in report["partitions"]}
    assert set(partitions) == {"shared/0", "shared/1", "lane/orders/0"}
    for name in ("shared/0", "shared/1"):
        functions = partitions[name]["functions"]
        assert len(functions) == 10 and sum(function["events"] for function in functions) == 500_000
        assert all(re.fullmatch(r"arn:aws:lambda:us-east-1:000000000000:function:f\d", it["arn"]) for it in functions)
        assert partitions[name]["bytes"] > 500_000 * 100 and not partitions[name]["ordered"]
    lane = partitions["lane/orders/0"]
    assert lane["events"] == 90 and lane["ordered"] and lane["functions"] == []
    assert 0 < lane["oldest_age_ms"] < 600_000
    on_disk = sum(path.stat().st_blocks * 512 for path in (million / "queue").iterdir())
    assert report["disk_bytes"] == on_disk and report["segments"] >= 3
    assert names_of(million) == before, "it only reads"


def test_stat_reads_well(million):
    done = waterwheel(million, "stat", "--functions")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["PARTITION", "ORDER", "EVENTS", "SIZE", "OLDEST", "FUNCTIONS"]
    assert any(re.match(r"shared/0 +any +500000 +\d+ MB +\S+.* 10$", line) for line in lines), done.stdout
    assert any(re.match(r"lane/orders/0 +kept +90 ", line) for line in lines), done.stdout
    assert sum("function:f" in line for line in lines) == 20
    assert lines[-1].startswith("1000090 events, ")


def test_stat_and_inspect_work_beside_whoever_has_the_queue_open(built, tmp_path):
    process = fill(tmp_path, 5000, stay=True)
    counts = [answer(tmp_path, "stat")["events"] for _ in range(10)]
    assert counts == sorted(counts) and counts[0] >= 5090 and counts[-1] > counts[0], "it goes on meanwhile"
    assert answer(tmp_path, "inspect")
    refused = waterwheel(tmp_path, "verify")
    assert refused.returncode == 1 and refused.stdout == ""
    assert "stop the server" in refused.stderr and "queue stat" in refused.stderr, refused.stderr
    # It was not disturbed.
    finish(process)
    assert waterwheel(tmp_path, "verify").returncode == 0
    assert answer(tmp_path, "stat")["events"] >= counts[-1]


def test_stat_after_a_crash_counts_what_was_accepted(built, tmp_path):
    process = fill(tmp_path, 5000, stay=True)
    process.kill()
    process.wait()
    assert answer(tmp_path, "stat")["events"] >= 5090
    assert waterwheel(tmp_path, "verify").returncode == 0


# === inspect ===


def test_inspect_goes_from_segments_to_streams_to_one_event(million):
    segments = answer(million, "inspect")
    assert sum(segment["not_done"] for segment in segments) == 1_000_090
    assert sum(segment["events"] for segment in segments) == 1_000_100
    for segment in (segment for segment in segments if segment["events"]):
        streams = answer(million, "inspect", str(segment["segment"]))
        assert sum(stream["events"] for stream in streams) == segment["events"]
        assert sum(stream["not_done"] for stream in streams) == segment["not_done"]
    first, lane = segments[0]["segment"], {"partition": "lane/orders/0", "failed_attempts": 0}
    done, waiting = answer(million, "inspect", f"{first}/9"), answer(million, "inspect", f"{first}/10")
    assert done | lane == done and done["state"] == "done" and done["id"].endswith("-000000000009")
    assert waiting | lane == waiting and waiting["state"].startswith("waiting")
    assert waiting["function"] == "arn:aws:lambda:us-east-1:000000000000:function:f0"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", waiting["accepted"])
    text = waterwheel(million, "inspect", f"{first}/10").stdout
    assert re.search(r"^partition +lane/orders/0$", text, re.MULTILINE), text


@pytest.mark.parametrize("place, named", [
    ("999", "no segment 999; there"), ("1/99999999", "segment 1 has no event 99999999"), ("999/1", "no segment 999"),
    ("x", "such as 12/345"), ("1/2/3", "such as 12/345"),
])
def test_inspect_says_what_is_not_there(small, place, named):
    done = waterwheel(small, "inspect", place)
    assert done.returncode != 0 and named in done.stderr, done.stderr


# === verify ===


def test_verify_finds_a_flipped_bit_and_changes_nothing(small):
    sound = waterwheel(small, "verify")
    assert sound.returncode == 0 and sound.stdout.startswith("sound: "), sound
    assert answer(small, "verify")["events"] == 1100
    segment = small / "queue/0000000000000001.segment"
    with segment.open("r+b") as file:
        file.seek(20_000)
        byte = file.read(1)[0]
        file.seek(20_000)
        file.write(bytes([byte ^ 1]))
    before = names_of(small)
    damaged = waterwheel(small, "verify")
    assert damaged.returncode == 1 and "DAMAGE" in damaged.stdout
    found = re.search(r"0000000000000001\.segment: bytes (\d+) to (\d+) are damaged", damaged.stdout)
    assert found and int(found[1]) <= 20_000 < int(found[2]) <= int(found[1]) + 300, damaged.stdout
    report = waterwheel(small, "verify", "--json")
    assert report.returncode == 1 and not json.loads(report.stdout)["sound"]
    assert json.loads(report.stdout)["events"] == 1099, "all else is sound"
    assert names_of(small) == before


def test_verify_names_a_file_that_is_missing_or_damaged(small):
    (small / "queue/0000000000000001.segment").unlink()
    assert "0000000000000001.segment: missing" in waterwheel(small, "verify").stdout
    (small / "queue/LOG").write_bytes(b"x" * 84)
    assert "LOG: missing or damaged" in waterwheel(small, "verify").stdout


def test_a_newer_format_is_refused_and_said_plainly(small):
    log = small / "queue/LOG"
    content = bytearray(log.read_bytes())
    content[8] = 2
    content[80:84] = crc32c(content[:80]).to_bytes(4, "little")
    log.write_bytes(content)
    for action in ("stat", "verify"):
        done = waterwheel(small, action)
        assert done.returncode == 1 and "format version 2 is not known" in done.stderr, done.stderr


def crc32c(content):
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


# === nothing to look at ===


@pytest.mark.parametrize("action", ["stat", "inspect", "verify"])
def test_without_a_queue_it_says_so_and_makes_none(built, tmp_path, action):
    for data in (tmp_path / "never", tmp_path):
        done = waterwheel(data, action)
        assert done.returncode == 1 and done.stdout == "" and "there is no queue in" in done.stderr, done.stderr
    empty = tmp_path / "queue"
    empty.mkdir()
    done = waterwheel(tmp_path, action)
    assert done.returncode == 1 and "there is no queue in" in done.stderr, done.stderr
    assert os.listdir(empty) == []
