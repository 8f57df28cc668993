"""What the plain lines tell of crashes."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from rlm_api.rlm.v1 import event_pb2
from rlm_server.cli.render_lines import LineRenderer


def test_what_was_lost_and_goes_on_is_told_with_its_cause(capsys):
    restored = event_pb2.SandboxRestored(cause="it died", replayed_cell_count=3, wall_time=Duration(seconds=1))
    with LineRenderer() as renderer:
        renderer.event(event_pb2.Event(node_id="0.1", sandbox_restored=restored))
        renderer.event(event_pb2.Event(node_id="0", parked=event_pb2.Parked(reason="no model")))
        renderer.event(event_pb2.Event(node_id="0", resumed=event_pb2.Resumed(cause="it was parked")))
    assert capsys.readouterr().out.splitlines() == [
        "0.1 restored | it died; 3 blocks run again in 1.0 s",
        "0 parked | no model",
        "0 resumed | it was parked",
    ]
