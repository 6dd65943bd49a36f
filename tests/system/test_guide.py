"""test_guide.py - docs/writing-a-function.md means what it says: its example, put where
the page says, builds and runs, and does what the page says that it does.  No root.
"""
import os
import re
import shutil
import subprocess

import pytest

scapy = pytest.importorskip("scapy.all")

REPO = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GUIDE = os.path.join(REPO, "docs", "writing-a-function.md")
MAX_LINES = 59
MINUTES = 60


def example(name):
    """The fenced block behind the marker of that name."""
    with open(GUIDE, encoding="utf-8") as f:
        found = re.findall(r"<!-- example: %s -->\n```\w+\n(.*?)```\n" % re.escape(name),
                           f.read(), re.DOTALL)
    assert len(found) == 1, f"{name}: {len(found)} blocks in {GUIDE}"
    return found[0]


def copy_of_the_tree(to):
    files = subprocess.run(["git", "ls-files", "-z", "--cached", "--others",
                            "--exclude-standard"], cwd=REPO, check=True,
                           capture_output=True).stdout.decode().split("\0")
    for name in filter(None, files):
        source, target = os.path.join(REPO, name), os.path.join(to, name)
        if not os.path.isfile(source):
            continue
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy2(source, target)


def run(*command, cwd, minutes):
    done = subprocess.run(command, cwd=cwd, timeout=minutes * MINUTES, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}"


@pytest.fixture(scope="module")
def snf(tmp_path_factory):
    """The program with the example in it: one file, and one word in the list."""
    tree = str(tmp_path_factory.mktemp("tree"))
    copy_of_the_tree(tree)
    with open(os.path.join(tree, "src/nf/knock.c"), "w", encoding="utf-8") as f:
        f.write(example("src/nf/knock.c"))
    path = os.path.join(tree, "src/nf/meson.build")
    with open(path, encoding="utf-8") as f:
        text = f.read()
    longer = re.sub(r"(?m)^(nfs = \[.*)\]", r"\1, 'knock']", text)
    assert longer != text
    with open(path, "w", encoding="utf-8") as f:
        f.write(longer)
    # The test of a function is the build's to find, and needs none of what is here.
    with open(os.path.join(tree, "tests/nf/test_knock.c"), "w", encoding="utf-8") as f:
        f.write("int\nmain(void)\n{\n\treturn 0;\n}\n")
    run("meson", "setup", "build", "-Db_lto=false", "-Doptimization=1", cwd=tree, minutes=2)
    run("ninja", "-C", "build", "snf", cwd=tree, minutes=8)
    return os.path.join(tree, "build", "snf")


def packet(source, transport):
    return (scapy.Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") /
            scapy.IP(src=source, dst="192.0.2.1") / transport)


def knock(source, port=7000):
    return packet(source, scapy.UDP(sport=1, dport=port))


def syn(source, port=22):
    return packet(source, scapy.TCP(sport=1, dport=port, flags="S"))


def test_the_example_is_short():
    assert len(example("src/nf/knock.c").splitlines()) <= MAX_LINES


def test_the_example_does_what_the_page_says(snf, tmp_path):
    friend, stranger, guesser = "198.51.100.1", "198.51.100.2", "198.51.100.3"
    answer = (scapy.Ether() / scapy.IP(src="192.0.2.1", dst=friend) /
              scapy.TCP(sport=22, dport=1, flags="SA"))
    outside = [
        (syn(friend), False),                   # Not yet.
        (knock(friend), False),
        (knock(guesser, 7001), True),           # An ordinary UDP packet.
        (knock(friend), False),
        (syn(friend), False),                   # Twice is not enough.
        (knock(friend), False),
        (syn(stranger), False),
        (syn(friend), True),
        (knock(friend), False),
        (syn(friend), True),                    # Once more does no harm.
        (syn(guesser), False),
        (syn(guesser, 80), True),               # Nobody guards it.
    ]
    scapy.wrpcap(str(tmp_path / "inside.pcap"), [answer])
    scapy.wrpcap(str(tmp_path / "outside.pcap"), [p for p, _ in outside])
    (tmp_path / "knock.yaml").write_text(example("knock.yaml"), encoding="utf-8")
    run(snf, "check", "knock.yaml", cwd=tmp_path, minutes=1)
    run(snf, "run", "knock.yaml", cwd=tmp_path, minutes=1)
    assert ([bytes(p) for p in scapy.rdpcap(str(tmp_path / "to-inside.pcap"))] ==
            [bytes(p) for p, passes in outside if passes])
    assert ([bytes(p) for p in scapy.rdpcap(str(tmp_path / "to-outside.pcap"))] ==
            [bytes(answer)])
