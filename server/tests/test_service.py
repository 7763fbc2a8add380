"""The gRPC face over a real Unix socket, with scripted steps on a thread in place of the main one."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest

from forebay_worker.grammar.store import GrammarStore
from forebay_worker.pb import worker_pb2 as pb
from forebay_worker.pb import worker_pb2_grpc
from forebay_worker.plan import PlanError, StepPlan, StepResult
from forebay_worker.service import MAX_MESSAGE_BYTES, WorkerService, _End, stop

from .toy import CAPABILITIES, VOCAB, u32

SECONDS = 60


@dataclass
class Client:
    """A worker whose steps echo, and a stream to it."""

    service: WorkerService
    stub: Any
    channel: grpc.Channel
    step_ran: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    plans: SimpleQueue[Any] = field(default_factory=SimpleQueue)
    ended_well: list[bool] = field(default_factory=list)

    def execute(self) -> Any:
        """Open the plan stream; `send` writes to it."""
        return self.stub.Execute(iter(self.plans.get, None), timeout=SECONDS)

    def send(self, step_id: int, **fields: Any) -> None:
        row = u32([1]).tobytes()
        rows = {"row_slots": row, "row_epochs": row, "row_num_tokens": row, "row_flags": row}
        self.plans.put(pb.StepPlan(**{"step_id": step_id, **rows, **fields}))

    def run(self, execute: Callable[[StepPlan, int], StepResult]) -> threading.Thread:
        thread = threading.Thread(target=lambda: self.ended_well.append(self.service.run_steps(execute)), daemon=True)
        thread.start()
        return thread


@contextmanager
def worker(path: Path) -> Iterator[Client]:
    service = WorkerService(3, "1.2.3", GrammarStore())
    server = service.start(str(path / "worker.sock"))
    options = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"unix:{path / 'worker.sock'}", options=options) as channel:
        client = Client(service, worker_pb2_grpc.WorkerStub(channel), channel)
        try:
            yield client
        finally:
            client.plans.put(None)
    stop(server)
    # A call whose steps nobody ran waits for results; its thread would keep this process from exiting.
    service._results.put(_End())


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with worker(tmp_path) as client:
        yield client


def echo(plan: StepPlan, queued_us: int) -> StepResult:
    return StepResult(plan.step_id, slots=plan.row_slots)


def status(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as error:
        call()
    return error.value.code(), error.value.details()


def handshake(client: Client, **fields: Any) -> Any:
    return client.stub.Handshake.future(
        pb.HandshakeRequest(**{"protocol": 1, "incarnation": 3, **fields}), timeout=SECONDS
    )


def test_the_handshake_waits_until_the_worker_is_ready(client: Client):
    answer = handshake(client)
    assert client.stub.Heartbeat(pb.HeartbeatRequest(), timeout=SECONDS).incarnation == 3
    assert not answer.done()
    client.service.ready(CAPABILITIES)
    assert (answer.result().num_blocks, answer.result().worker_version) == (64, "1.2.3")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"protocol": 2}, "protocol is `2`, this worker speaks `1`"),
        ({"incarnation": 2}, "incarnation is `2`, this worker is of `3`"),
    ],
)
def test_a_handshake_of_another_kind_is_refused_at_once(client: Client, fields: dict[str, Any], message: str):
    code, details = status(handshake(client, **fields).result)
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert message in details


def test_a_token_table_is_refused_without_the_feature(client: Client):
    client.service.ready(CAPABILITIES)
    _, details = status(handshake(client, token_table=pb.TokenTable()).result)
    assert "`token_table` is for workers whose features name `grammar`" in details


def test_a_model_that_cannot_be_served_fails_the_handshake_with_its_reason(client: Client):
    answer = handshake(client)
    client.service.refuse("no such model")
    assert status(answer.result) == (grpc.StatusCode.FAILED_PRECONDITION, "no such model")


def test_initial_metadata_comes_before_any_plan(client: Client):
    assert client.execute().initial_metadata() is not None


def test_plans_go_in_and_results_come_out_in_order(client: Client):
    stream = client.execute()
    thread = client.run(echo)
    for step_id in range(5):
        client.send(step_id)
    assert [next(stream).step_id for _ in range(5)] == [0, 1, 2, 3, 4]
    beat = client.stub.Heartbeat(pb.HeartbeatRequest(), timeout=SECONDS)
    assert (beat.last_step_id, beat.any_step) == (4, True)
    client.plans.put(None)
    assert list(stream) == []
    thread.join()
    assert client.ended_well == [True]


def test_what_was_sent_before_the_stream_closed_is_still_answered(client: Client):
    stream = client.execute()
    client.send(0)
    client.send(1)
    client.plans.put(None)
    client.run(echo)
    assert [result.step_id for result in stream] == [0, 1]


def test_a_heartbeat_is_answered_while_a_step_runs(client: Client):
    def slow(plan: StepPlan, queued_us: int) -> StepResult:
        client.step_ran.set()
        client.go_on.wait(SECONDS)
        return echo(plan, queued_us)

    stream = client.execute()
    client.run(slow)
    client.send(0)
    assert client.step_ran.wait(SECONDS)
    assert not client.stub.Heartbeat(pb.HeartbeatRequest(), timeout=SECONDS).any_step
    client.go_on.set()
    assert next(stream).step_id == 0


def test_a_gap_is_refused_after_the_results_before_it(client: Client):
    stream = client.execute()
    thread = client.run(echo)
    client.send(0)
    client.send(2)
    assert next(stream).step_id == 0
    code, details = status(lambda: next(stream))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "step_id is `2`, expected `1`" in details
    thread.join()
    assert client.ended_well == [False]


def test_plans_further_ahead_than_promised_are_refused(client: Client):
    client.service.ready(CAPABILITIES)
    stream = client.execute()
    for step_id in range(5):
        client.send(step_id)
    deadline = time.monotonic() + SECONDS
    while client.service._plans.qsize() < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    client.run(echo)
    assert [next(stream).step_id for _ in range(4)] == [0, 1, 2, 3]
    code, details = status(lambda: next(stream))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "step `4` is sent while `4` wait, expected at most 3" in details


def test_a_malformed_plan_is_refused_by_name(client: Client):
    stream = client.execute()
    client.run(echo)
    client.send(0, row_flags=b"")
    code, details = status(lambda: next(stream))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "row_flags" in details


def test_a_plan_that_the_executor_refuses_ends_the_stream(client: Client):
    def refuse(plan: StepPlan, queued_us: int) -> StepResult:
        raise PlanError("block `0`, expected 1 to 63")

    stream = client.execute()
    thread = client.run(refuse)
    client.send(0)
    code, details = status(lambda: next(stream))
    assert (code, details) == (grpc.StatusCode.INVALID_ARGUMENT, "step `0`: block `0`, expected 1 to 63")
    thread.join()
    assert client.ended_well == [False]


def test_a_step_that_raises_ends_the_stream_without_its_words(client: Client, caplog: pytest.LogCaptureFixture):
    def fail(plan: StepPlan, queued_us: int) -> StepResult:
        raise RuntimeError("secret")

    stream = client.execute()
    thread = client.run(fail)
    client.send(0)
    assert status(lambda: next(stream)) == (grpc.StatusCode.INTERNAL, "step `0` failed: RuntimeError")
    thread.join()
    assert client.ended_well == [False]
    assert "step `0` failed" in caplog.text


def test_a_second_plan_stream_is_refused(client: Client):
    client.execute().initial_metadata()
    code, details = status(lambda: next(client.stub.Execute(iter([]), timeout=SECONDS)))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert "one Execute stream" in details


def test_a_cancelled_stream_ends_the_worker(client: Client):
    stream = client.execute()
    stream.initial_metadata()
    thread = client.run(echo)
    stream.cancel()
    thread.join(SECONDS)
    assert client.ended_well == [False]


def test_a_message_of_16_mib_passes_both_ways(client: Client):
    stream = client.execute()
    client.run(lambda plan, _: StepResult(plan.step_id, top_ids=plan.new_sequences[0].token_ids))
    ids = bytes(16 * 1024 * 1024)
    new = pb.NewSequence(token_ids=ids, num_prompt_tokens=1)
    client.send(0, new_sequences=[new])
    assert next(stream).top_ids == ids


def test_prepare_is_unimplemented_without_the_feature(client: Client):
    client.service.ready(CAPABILITIES)
    code, _ = status(lambda: client.stub.Prepare(pb.PrepareRequest(), timeout=SECONDS))
    assert code == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.timeout(300)
def test_a_grammar_is_prepared_once_the_token_table_has_come(client: Client):
    client.service.ready(dataclasses.replace(CAPABILITIES, features=("grammar",)))
    table = pb.TokenTable(
        token_bytes=bytes(range(32, 32 + VOCAB)),
        token_lengths=u32([1] * VOCAB).tobytes(),
        end_token_ids=u32([VOCAB - 1]).tobytes(),
    )
    handshake(client, token_table=table).result()

    def prepare(**fields: Any) -> Any:
        return client.stub.Prepare(pb.PrepareRequest(deadline_ms=100_000, **fields), timeout=250)

    assert prepare(grammar_id="g1", regex="[a-z]+").error == ""
    assert "unclosed group" in prepare(grammar_id="g2", regex="(", dropped_grammar_ids=["g1"]).error
    code, details = status(lambda: prepare(grammar_id="g3"))
    assert (code, details) == (grpc.StatusCode.INVALID_ARGUMENT, "grammar `g3` has no source")
    rehearsal, _ = client.service._grammars._tools
    rehearsal.close()
