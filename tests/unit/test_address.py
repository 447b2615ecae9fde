"""Which addresses ``network.allow`` lets through."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fetchd.errors import AttemptError, ConfigError
from fetchd.transports.address import Policy

DENIED_TO_PUBLIC = [
    ("N45-loopback", "127.0.0.1"),
    ("N45-metadata", "169.254.169.254"),
    ("N45-private", "10.1.2.3"),
    ("N45-mapped", "::ffff:127.0.0.1"),
    ("N45-nat64", "64:ff9b::a9fe:a9fe"),
    ("N45-6to4", "2002:7f00:1::"),
    ("unspecified", "0.0.0.0"),
    ("this-network", "0.1.2.3"),
    ("loopback-elsewhere", "127.255.255.254"),
    ("private-172", "172.31.255.255"),
    ("private-192", "192.168.0.1"),
    ("carrier-nat", "100.64.0.1"),
    ("protocol-assignments", "192.0.0.8"),
    ("documentation", "192.0.2.1"),
    ("6to4-relay", "192.88.99.1"),
    ("benchmark", "198.19.255.255"),
    ("multicast", "224.0.0.1"),
    ("reserved", "240.0.0.1"),
    ("broadcast", "255.255.255.255"),
    ("v6-unspecified", "::"),
    ("v6-loopback", "::1"),
    ("compatible", "::127.0.0.1"),
    ("translated", "::ffff:0:10.0.0.1"),
    ("local-nat64", "64:ff9b:1::1"),
    ("discard", "100::1"),
    ("teredo-server", "2001:0:7f00:1:0:0:f7f7:f7f7"),
    ("teredo-client", "2001:0:808:808:0:0:80ff:fffe"),
    ("v6-documentation", "2001:db8::1"),
    ("v6-documentation-new", "3fff::1"),
    ("segment-routing", "5f00::1"),
    ("unique-local", "fd00::1"),
    ("link-local", "fe80::1"),
    ("link-local-scoped", "fe80::1%eth0"),
    ("site-local", "fec0::1"),
    ("v6-multicast", "ff02::1"),
]

ALLOWED_TO_PUBLIC = [
    "1.1.1.1",
    "100.128.0.1",
    "172.32.0.1",
    "192.0.1.1",
    "223.255.255.255",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2002:808:808::1",
]


@pytest.mark.parametrize(
    "address", [a for _, a in DENIED_TO_PUBLIC], ids=[i for i, _ in DENIED_TO_PUBLIC]
)
def test_public_excludes_addresses_with_a_special_purpose(address):
    with pytest.raises(AttemptError) as caught:
        Policy(["public"]).judge("files.example", 443, address)

    assert caught.value.code == "address_denied"
    assert not caught.value.transient
    assert address in caught.value.reason
    assert "files.example" in caught.value.reason


@pytest.mark.parametrize("address", ALLOWED_TO_PUBLIC)
def test_public_allows_what_anyone_can_reach(address):
    Policy(["public"]).judge("files.example", 443, address)


@pytest.mark.parametrize(
    "address", ["10.9.8.7", "172.16.0.1", "192.168.3.4", "100.64.0.1", "fd12::1", "::ffff:10.0.0.1"]
)
def test_private_allows_private_ranges_and_nothing_else(address):
    policy = Policy(["private"])

    policy.judge("nas", 80, address)
    for other in ("127.0.0.1", "8.8.8.8", "169.254.1.1"):
        with pytest.raises(AttemptError):
            policy.judge("nas", 80, other)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
def test_loopback_allows_the_own_machine_and_nothing_else(address):
    policy = Policy(["loopback"])

    policy.judge("localhost", 80, address)
    for other in ("0.0.0.0", "10.0.0.1", "8.8.8.8"):
        with pytest.raises(AttemptError):
            policy.judge("localhost", 80, other)


def test_a_range_allows_its_addresses_in_every_disguise():
    policy = Policy(["169.254.0.0/16", "2001:db8::/32"])

    policy.judge("h", 80, "169.254.7.7")
    policy.judge("h", 80, "64:ff9b::a9fe:707")
    policy.judge("h", 80, "2001:db8::5")
    with pytest.raises(AttemptError):
        policy.judge("h", 80, "10.0.0.1")


def test_a_wide_ipv6_range_does_not_let_embedded_ipv4_addresses_through():
    with pytest.raises(AttemptError):
        Policy(["::/0"]).judge("h", 80, "2002:7f00:1::")


def test_a_service_is_allowed_by_its_own_name_and_port_only():
    policy = Policy(["public", "Mirror.lan:8080", "[::1]:81"])

    policy.judge("mirror.LAN.", 8080, "10.0.0.1")
    policy.judge("[::1]", 81, "::1")
    for host, port in (("mirror.lan", 80), ("other.lan", 8080), ("10.0.0.1", 8080)):
        with pytest.raises(AttemptError):
            policy.judge(host, port, "10.0.0.1")


@pytest.mark.parametrize(
    ("allow", "address", "line"),
    [
        (["public"], "10.0.0.1", "network.allow: [public, private]"),
        (["public", "private"], "::1", "network.allow: [public, private, loopback]"),
        (["private"], "8.8.8.8", "network.allow: [private, public]"),
        (["public"], "169.254.169.254", "network.allow: [public, 169.254.0.0/16]"),
        (["public"], "100::1", "network.allow: [public, 100::1/128]"),
        ([], "2002:7f00:1::", "network.allow: [loopback]"),
    ],
)
def test_the_error_names_the_line_that_would_allow_it(allow, address, line):
    with pytest.raises(AttemptError) as caught:
        Policy(allow).judge("h", 80, address)

    assert caught.value.reason.endswith(line)
    entries = line.partition("[")[2].rstrip("]").split(", ")
    Policy(entries).judge("h", 80, address)


def test_the_error_repeats_no_address_that_the_url_has():
    with pytest.raises(AttemptError) as literal:
        Policy(["public"]).judge("10.0.0.1", 80, "10.0.0.1")
    with pytest.raises(AttemptError) as named:
        Policy(["public"]).judge("nas.lan", 80, "10.0.0.1")

    allowed = "excluded by the configuration; to allow it: network.allow: [public, private]"
    assert literal.value.reason == f"10.0.0.1 is {allowed}"
    assert named.value.reason == f"nas.lan has the address 10.0.0.1, which is {allowed}"


@pytest.mark.parametrize(
    "entry", ["publik", "10.0.0.1/8", "10.0.0.0/33", "host:", ":80", "host:http", "a/b:80", ""]
)
def test_an_entry_that_is_none_of_these_is_refused_by_name(entry):
    with pytest.raises(ConfigError, match=r"network\.allow") as caught:
        Policy([entry])

    assert repr(entry) in str(caught.value)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "0x7f000001", "2130706433", "127.1", "0177.0.0.1", "0", "[::1]"),
        *("[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]"),
    ],
)
def test_an_address_in_a_url_is_recognised_in_every_spelling(host):
    with pytest.raises(AttemptError):
        Policy(["public"]).judge_literal(host, 80)


def test_a_name_in_a_url_is_no_address():
    Policy(["public"]).judge_literal("localhost", 80)


def _inside(low: int) -> list[str]:
    return [
        str(IPv6Address((0xFFFF << 32) | low)),
        str(IPv6Address((0x64FF9B << 96) | low)),
        str(IPv6Address((0x2002 << 112) | (low << 80) | 1)),
        str(IPv6Address((0x2001 << 112) | (0x08080808 << 64) | (low ^ 0xFFFF_FFFF))),
    ]


@settings(derandomize=True, max_examples=200)
@given(st.integers(0, 2**32 - 1))
def test_an_embedded_address_is_judged_like_itself(low):
    def verdict(address):
        try:
            Policy(["public"]).judge("h", 80, address)
        except AttemptError:
            return False
        return True

    plain = verdict(str(IPv4Address(low)))

    assert [verdict(address) for address in _inside(low)] == [plain] * 4


@settings(derandomize=True, max_examples=200)
@given(st.ip_addresses(v=6))
def test_no_ipv6_address_outside_the_global_range_is_public(address):
    assume(int(address) >> 125 != 1)
    assume(_embedded_in(address) is None)

    with pytest.raises(AttemptError):
        Policy(["public"]).judge("h", 80, str(address))


def _embedded_in(address: IPv6Address) -> IPv4Address | None:
    if int(address) >> 32 in (0, 0xFFFF, 0xFFFF_0000, 0x64FF9B << 64):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return None
