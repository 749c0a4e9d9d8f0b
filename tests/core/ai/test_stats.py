"""The counters, and the names under which they are shown.

Rules of this file: what is counted when is tested where it happens.
"""

import msgspec
from tokenwire.ai.counters import Counters
from tokenwire.ai.stats import Stats


def test_the_snapshot_has_the_names_that_servers_of_this_api_use() -> None:
    stats = Stats(1, 2, 3, 4, 5, 6.5, 7, 8, 9, 10, 11, 12, 13, {"internal": 14}, 15, 16, 17)
    assert msgspec.to_builtins(stats) == {
        "totalStreams": 1,
        "totalTokensStreamed": 2,
        "totalSessions": 3,
        "activeSessions": 4,
        "totalActiveStreams": 5,
        "averageStreamDuration": 6.5,
        "backpressureEvents": 7,
        "mergedEvents": 8,
        "pausedMs": 9,
        "skippedTokens": 10,
        "detaches": 11,
        "resumes": 12,
        "cancels": 13,
        "errors": {"internal": 14},
        "bytesHeld": 15,
        "memoryBound": 16,
        "evictions": 17,
    }


def test_errors_are_counted_by_code_for_each_server_apart() -> None:
    counters = Counters()
    for code in ("upstream_busy", "internal", "upstream_busy"):
        counters.error(code)
    assert counters.errors == {"upstream_busy": 2, "internal": 1}
    assert Counters().errors == {}
