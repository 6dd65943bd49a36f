"""test_store_tls_cluster.py - a Cluster whose clients and bus are under TLS.  Real servers
on 127.0.0.1, no root.
"""
from store_client import needs_module, wait_until
from test_store_find import certificates, probe, tls_server  # noqa: F401

pytestmark = needs_module
HALF = 8192


def joined(servers):
    """The first has the lower half of the slots, the second the other."""
    one, two = clients = [server.client() for server in servers]
    one("CLUSTER", "ADDSLOTSRANGE", 0, HALF - 1)
    two("CLUSTER", "ADDSLOTSRANGE", HALF, 2 * HALF - 1)
    one("CLUSTER", "MEET", "127.0.0.1", servers[1].port)
    for client in clients:
        wait_until(lambda client=client: b"cluster_state:ok" in client("CLUSTER", "INFO"))
    return one


def test_a_redirection_is_followed_under_tls(tls_server, certificates, tmp_path,  # noqa: F811
                                             probe):  # noqa: F811
    servers = [tls_server(name, "no", "--tls-cluster", "yes", "--cluster-enabled", "yes")
               for name in ("good", "second")]
    one = joined(servers)
    names = [next(f"n{i}" for i in range(1000)
                  if (one("CLUSTER", "KEYSLOT", "snf:{n%d:0}" % i) < HALF) == lower)
             for lower in (True, False)]
    for name, server in zip(names, servers):
        probe("valkeys+cluster://127.0.0.1:%d/%s?ca=%s" % (
            servers[0].port, name, certificates.path("ca.pem"))).up_at(server.port)
    running = probe("valkeys+cluster://127.0.0.1:%d/%s?ca=%s" % (
        servers[0].port, names[0], certificates.path("other.pem")))
    running.says("its certificate: ")
