"""Every event as it stands on the wire.

Rules of this file: the JSON is compared whole, as text: names, order and what is left out.
"""

import msgspec
import pytest
from tokenwire.ai import events

META = events.TokenMetadata("m")
COMPLETE = events.CompleteMetadata("stop", 1, 2, 0, 0, 5, 1.5, 3, 4, 6)


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            events.Connected("a.b", 10, 100, 30_000, 30_000, events.PROTOCOL, False),
            '["ai:connected",{"clientId":"a.b","maxConcurrentStreams":10,'
            '"backpressureThreshold":100,"heartbeatInterval":30000,"reconnectTimeout":30000,'
            '"protocol":"1.0","recovered":false}]',
        ),
        (
            events.StreamStart("s", "e", "m"),
            '["ai:stream:start",{"streamId":"s","epoch":"e","model":"m"}]',
        ),
        (
            events.StreamStart("s", "e", "m", resumed=True),
            '["ai:stream:start",{"streamId":"s","epoch":"e","model":"m","resumed":true}]',
        ),
        (
            events.Thinking("s", "hm", "Tester", 3, events.TokenMetadata("m", thinking=True)),
            '["ai:token",{"streamId":"s","data":"hm","agent":"Tester","tokenCount":3,'
            '"metadata":{"model":"m","thinking":true}}]',
        ),
        (
            events.StreamComplete("s", "Tester", "test", 0.5, COMPLETE),
            '["ai:stream:complete",{"streamId":"s","agent":"Tester","intent":"test",'
            '"confidence":0.5,"metadata":{"finishReason":"stop","promptTokens":1,"evalTokens":2,'
            '"queueMs":0,"routeMs":0,"timeToFirstTokenMs":5,"tokensPerSecond":1.5,'
            '"mergedEvents":3,"pausedMs":4,"resumes":6}}]',
        ),
        (
            events.Done("s", 7, 1_234),
            '["ai:done",{"streamId":"s","totalTokens":7,"duration":1234}]',
        ),
        (events.StreamCancelled("s"), '["ai:stream:cancelled",{"streamId":"s"}]'),
        (
            events.StreamError("s", "No.", "upstream_error", "d", True),
            '["ai:stream:error",{"streamId":"s","error":"No.","code":"upstream_error",'
            '"details":"d","retryable":true}]',
        ),
        (
            events.Error("No.", "internal", "d", False),
            '["ai:error",{"error":"No.","code":"internal","details":"d","retryable":false}]',
        ),
        (
            events.Error("No.", "resume_gap", "d", False, 5, "f", "s", 9),
            '["ai:error",{"error":"No.","code":"resume_gap","details":"d","retryable":false,'
            '"retryAfterMs":5,"field":"f","streamId":"s","firstSeq":9}]',
        ),
        (
            events.HeartbeatAck(1, 2, {"s": 3}),
            '["ai:heartbeat:ack",{"activeStreams":1,"queueSize":2,"streams":{"s":3}}]',
        ),
        (
            events.ReconnectSuccess("a", "b", [events.ResumedStream("s", "done", 2, 1, "e")]),
            '["ai:reconnect:success",{"previousClientId":"a","newClientId":"b","streams":'
            '[{"streamId":"s","state":"done","nextSeq":2,"firstSeq":1,"epoch":"e"}]}]',
        ),
        (
            events.ReconnectSuccess("a", "b", [], ["s"]),
            '["ai:reconnect:success",{"previousClientId":"a","newClientId":"b","streams":[],'
            '"replaced":["s"]}]',
        ),
        (
            events.Backpressure("Slow.", 101, "s", "merge"),
            '["ai:backpressure",{"message":"Slow.","queueSize":101,"streamId":"s",'
            '"policy":"merge"}]',
        ),
    ],
)
def test_an_event_is_the_array_of_its_name_and_one_object(event: events.Event, text: str) -> None:
    assert event.encode().decode() == text


def test_a_stream_without_a_token_says_null_for_the_time_to_it() -> None:
    metadata = msgspec.structs.replace(COMPLETE, time_to_first_token_ms=None)
    assert (
        b'"timeToFirstTokenMs":null' in events.StreamComplete("s", "a", "i", 1, metadata).encode()
    )


def test_tool_calls_are_json_as_the_model_server_wrote_it() -> None:
    calls = [msgspec.Raw(b'{"function": {"name":"f"}}')]
    metadata = msgspec.structs.replace(COMPLETE, tool_calls=calls)
    body = events.StreamComplete("s", "a", "i", 1, metadata).encode()
    assert b'"toolCalls":[{"function": {"name":"f"}}]' in body


def test_a_plain_tokens_metadata_is_its_model_alone() -> None:
    assert msgspec.json.encode(META) == b'{"model":"m"}'
    full = events.TokenMetadata(
        "m", 2, True, 3, False, "test", 0.5, [events.Routing("Tester", "test", 0.5)], ["word: test"]
    )
    assert msgspec.json.encode(full) == (
        b'{"model":"m","tokens":2,"replayed":true,"skipped":3,"intent":"test","confidence":0.5,"runnersUp":'
        b'[{"agent":"Tester","intent":"test","confidence":0.5}],"reasons":["word: test"]}'
    )
