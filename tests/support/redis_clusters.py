"""Redis clusters of a few primaries, made by hand: who holds which slot is known, and nothing rebalances."""

from collections.abc import Callable

from tests.support.processes import wait_until
from tests.support.redis import RedisServer

SLOTS = 16384


def start_cluster(make_redis: Callable[..., RedisServer], primaries: int = 3) -> list[RedisServer]:
    """Running primaries that share all slots evenly, lowest first."""
    nodes = [make_redis(cluster_enabled="yes", cluster_node_timeout="5000") for _ in range(primaries)]
    for number, node in enumerate(nodes):
        begin, end = SLOTS * number // primaries, SLOTS * (number + 1) // primaries - 1
        node.execute("CLUSTER", "ADDSLOTSRANGE", begin, end)
        if number:
            node.execute("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            node.execute("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
    wait_until(lambda: all(whole(node, primaries) for node in nodes), "every node of the cluster knows every slot")
    return nodes


def whole(node: RedisServer, primaries: int) -> bool:
    """Whether *node* finds the cluster whole."""
    info = str(node.cli("CLUSTER", "INFO"))
    return "cluster_state:ok" in info and f"cluster_size:{primaries}" in info


def move_slot(slot: int, origin: RedisServer, target: RedisServer, *, done: bool = True) -> None:
    """Move an empty slot; not *done* = leave it half moved: *origin* asks for keys that it lacks to be asked there."""
    there = target.cli("CLUSTER", "MYID").strip()
    here = origin.cli("CLUSTER", "MYID").strip()
    target.execute("CLUSTER", "SETSLOT", slot, "IMPORTING", here)
    origin.execute("CLUSTER", "SETSLOT", slot, "MIGRATING", there)
    if done:
        for node in (target, origin):
            node.execute("CLUSTER", "SETSLOT", slot, "NODE", there)
