"""test_functions_transfers.py - connections over bad links, packet by packet through Linux
and through the firewall, alone and in front of a NAT.

What two ends send that keep to their windows passes, in whatever order it comes and through
whichever instance: all of it, not only what Linux passes.  What neither of them has sent is
refused.  Where Linux says otherwise, REASONS has why.
"""
import pytest

import referee
import transfers
from lab import Lab, missing_rights
from test_functions_referee import (FILTER, FIREWALL_SECTION, NAT, NAT_SECTION, POOL, STRICT,
                                    ours_with)
from transfers import ACK, FIN, RST, SYN

SEED, N_CONNECTIONS, FIRST_PORT, SERVER = 8, 24, 20000, ("192.0.2.1", 80)
REASONS = {
    "old RST": "it is behind what its receiver has acknowledged: that ignores it",
    "RST behind a FIN": "after the first FIN Linux looks at the number of no RST",
    "ACK of long ago": "no end sends it (RFC 5961, 5): Linux looks away, we drop it",
}
RULES = {
    "firewall": (FILTER, f"function: firewall\n{FIREWALL_SECTION}", None),
    "chain": (FILTER + NAT, f"function: [firewall, nat]\n{FIREWALL_SECTION}{NAT_SECTION}",
              POOL),
}


def passed(path, segments, pool):
    """The numbers of those that came out; all that do are right to the last byte."""
    found, seen = set(), {}     # The client as outside knows it, by flow.
    for i, s in enumerate(segments):
        client = "10.0.0.1", FIRST_PORT + s.flow
        if s.side == "in":
            got = path.through("in", [s.packet(client, SERVER)])
            if got and pool and s.flow not in seen:
                seen[s.flow] = pool, got[0].sport
            want = s.packet(seen.get(s.flow, client), SERVER)
        else:
            want = s.packet(SERVER, client)
            got = path.through("out", [s.packet(SERVER, seen.get(s.flow, client))])
        assert len(got) <= 1
        for packet in got:
            packet.ttl, packet.id = 64, 0
            del packet.chksum           # Of IP: the rest is Linux's or ours.
            assert bytes(packet) == want, s
            found.add(i)
    return found


def reason(segments, i):
    """Why we refuse what Linux passes, or None."""
    s, before = segments[i], [b for b in segments[:i] if b.flow == segments[i].flow]
    own = [b for b in before if not b.forged]
    if s.flags & RST and any(b.flags & FIN for b in before):
        return "RST behind a FIN"
    acks = [b.ack for b in own if b.side != s.side and b.flags & ACK]
    if s.flags & RST and not s.forged and acks and s.seq < max(acks):
        return "old RST"
    if s.forged and not s.flags & RST and s.ack < min(b.ack for b in own
                                                      if b.side == s.side and b.flags & ACK):
        return "ACK of long ago"
    return None


@pytest.fixture(scope="module")
def segments():
    if missing_rights():
        pytest.skip(missing_rights())
    return transfers.transfers(SEED, N_CONNECTIONS)


@pytest.fixture(scope="module")
def by_linux(segments):
    """By the name of the rules; made once."""
    known = {}

    def get(name):
        if name not in known:
            rules, _, pool = RULES[name]
            with Lab() as lab:
                known[name] = passed(referee.Linux(lab, rules, STRICT), segments, pool)
        return known[name]
    return get


def test_the_segments_are_what_they_should_be(segments):
    """Else the others show nothing."""
    again = transfers.transfers(SEED, N_CONNECTIONS)
    assert again == segments
    def some(wanted):
        return sum(map(bool, map(wanted, segments)))
    assert 4000 < len(segments) < 8000
    assert some(lambda s: s.forged) > 50
    assert some(lambda s: s.flags & RST and not s.forged) >= 5
    assert some(lambda s: s.window == 0 and not s.flags & RST) > 20
    assert some(lambda s: s.flags == SYN and s.side == "out") >= 1
    assert len({s.flow for s in segments if s.flags & FIN}) > 20
    assert len({s.flow for s in segments if b"\5\x12" in s.options}) > 10      # Two SACKs.


@pytest.mark.parametrize("rules,kind", [
    ("firewall", "embedded"), ("firewall", "store"), ("firewall", "sprayed"),
    ("chain", "embedded"), ("chain", "sprayed")])
def test_bad_links_break_no_connection(segments, by_linux, rules, kind):
    """[B14, B30, B31, B32; case 35, 37, 41; U3, U4, U26] Each connection by all instances."""
    _, config, pool = RULES[rules]
    own = ours_with(config, kind, lambda path: passed(path, segments, pool))
    linux = by_linux(rules)
    wrong, reasons = [], set()
    for i, s in enumerate(segments):
        if s.forged and i in own:
            wrong.append(f"{i}, which nobody has sent, passes: {s}")
        if i in own:
            continue
        if not s.forged and not s.flags & (RST | SYN):
            wrong.append(f"{i} is refused: {s}")
        elif i in linux:
            reasons.add(why := reason(segments, i))
            if why is None:
                wrong.append(f"{i} passes Linux, is refused by us: {s}")
    assert not wrong, "\n".join(wrong[:20])
    assert reasons <= set(REASONS) and len(linux & own) > 0.95 * len(segments)
