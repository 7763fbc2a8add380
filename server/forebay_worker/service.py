"""The worker's gRPC face: handshake, the one plan stream, heartbeats. Knows no tensors: torch is never imported here.

grpc's own threads answer calls and read plans; the main thread alone runs `run_steps`, and with it every step. Two
queues join them. The process lives as long as its plan stream: whatever ends the stream ends `run_steps`.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import NoReturn

import grpc

from forebay_worker.codec import (
    PROTOCOL,
    decode_grammar,
    decode_plan,
    decode_token_table,
    encode_handshake,
    encode_result,
)
from forebay_worker.grammar.compiler import GrammarError
from forebay_worker.grammar.store import GrammarStore
from forebay_worker.pb import worker_pb2 as pb
from forebay_worker.pb import worker_pb2_grpc
from forebay_worker.plan import Capabilities, PlanError, StepPlan, StepResult

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
# One thread for the plan stream, the others for handshakes and grammars, which wait, and heartbeats, which must not.
_NUM_THREADS = 8
# Of grammars that wait for the one that compiles; the router sends one at a time.
_MAX_PREPARING = 4
_FLUSH_SECONDS = 2.0
_GRAMMAR = "grammar"

Execute = Callable[[StepPlan, int], StepResult]


@dataclasses.dataclass(frozen=True)
class _Step:
    plan: StepPlan
    decoded_ns: int


@dataclasses.dataclass(frozen=True)
class _End:
    """No more plans, or no more results: the stream closes with this status."""

    code: grpc.StatusCode = grpc.StatusCode.OK
    message: str = ""


class WorkerService:
    """The servicer of worker.proto's `Worker`, and the loop that feeds it."""

    def __init__(self, incarnation: int, worker_version: str, grammars: GrammarStore) -> None:
        """Make a service that is not ready: handshakes wait."""
        self._incarnation = incarnation
        self._worker_version = worker_version
        self._grammars = grammars
        self._preparing = threading.Semaphore(_MAX_PREPARING)
        self._settled = threading.Event()
        self._capabilities: Capabilities | None = None
        self._refusal = ""
        self._stream_lock = threading.Lock()
        self._stream_taken = False
        self._stream_broken = False
        self._last_step_id: int | None = None
        self._plans: SimpleQueue[_Step | _End] = SimpleQueue()
        self._results: SimpleQueue[StepResult | _End] = SimpleQueue()

    def start(self, socket_path: str) -> grpc.Server:
        """Serve on a Unix socket. Raises: RuntimeError if the path cannot be bound."""
        limits = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ]
        server = grpc.server(ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="grpc"), options=limits)
        worker_pb2_grpc.add_WorkerServicer_to_server(self, server)
        server.add_insecure_port(f"unix:{socket_path}")
        server.start()
        return server

    def ready(self, capabilities: Capabilities) -> None:
        """Let handshakes answer."""
        self._capabilities = capabilities
        self._settled.set()

    def refuse(self, message: str) -> None:
        """Let handshakes fail: the model cannot be served."""
        self._refusal = message
        self._settled.set()

    def run_steps(self, execute: Execute) -> bool:
        """Execute plans in order until the stream ends. Call on the main thread, once.

        Returns: whether it ended as the router wished (it closed the stream), not by a broken stream or a fault.
        """
        while True:
            item = self._plans.get()
            if self._stream_broken:
                log.warning("the plan stream broke; the worker ends")
                self._results.put(_End())
                return False
            if isinstance(item, _End):
                return self._finish(item)
            queued_us = (time.perf_counter_ns() - item.decoded_ns) // 1000
            try:
                result = execute(item.plan, queued_us)
            except PlanError as error:
                return self._finish(_End(grpc.StatusCode.INVALID_ARGUMENT, f"step `{item.plan.step_id}`: {error}"))
            # The one catch-all of the worker: whatever a step raises ends the process, and the router starts another.
            except Exception as error:
                log.exception("step `%d` failed; the worker ends", item.plan.step_id)
                message = f"step `{item.plan.step_id}` failed: {type(error).__name__}"
                self._results.put(_End(grpc.StatusCode.INTERNAL, message))
                return False
            # In this order: who has the result may at once send the plan that it makes room for.
            self._last_step_id = result.step_id
            self._results.put(result)

    def _finish(self, end: _End) -> bool:
        if end.code is grpc.StatusCode.OK:
            log.info("the router closed the plan stream; the worker ends")
        else:
            log.error("plan refused: %s; the worker ends", end.message)
        self._results.put(end)
        return end.code is grpc.StatusCode.OK

    # The calls of worker.proto, named as grpc's generated code expects them.

    def Handshake(self, request: pb.HandshakeRequest, context: grpc.ServicerContext) -> pb.HandshakeResponse:
        """Answer when the model is loaded and warmed."""
        if request.protocol != PROTOCOL:
            _abort(context, f"protocol is `{request.protocol}`, this worker speaks `{PROTOCOL}`")
        if request.incarnation != self._incarnation:
            _abort(context, f"incarnation is `{request.incarnation}`, this worker is of `{self._incarnation}`")
        while not self._settled.wait(timeout=1.0):
            if not context.is_active():
                _abort(context, "the caller has gone")
        if self._capabilities is None:
            _abort(context, self._refusal)
        if request.HasField("token_table"):
            self._take_token_table(request.token_table, self._capabilities, context)
        return encode_handshake(self._capabilities, self._incarnation, self._worker_version)

    def _take_token_table(
        self, table: pb.TokenTable, capabilities: Capabilities, context: grpc.ServicerContext
    ) -> None:
        if _GRAMMAR not in capabilities.features:
            _abort(context, "`token_table` is for workers whose features name `grammar`; this one's do not")
        try:
            self._grammars.set_token_table(decode_token_table(table, capabilities.vocab_size))
        except PlanError as error:
            _abort(context, str(error))

    def Execute(
        self, request_iterator: Iterator[pb.StepPlan], context: grpc.ServicerContext
    ) -> Iterator[pb.StepResult]:
        """Take plans, give results. The stream's end, from either side, is the worker's."""
        # A Rust client's call returns only when it has these.
        context.send_initial_metadata(())
        with self._stream_lock:
            taken, self._stream_taken = self._stream_taken, True
        if taken:
            _abort(context, f"incarnation `{self._incarnation}` has had its one Execute stream")
        threading.Thread(target=self._read, args=(request_iterator,), name="plans", daemon=True).start()
        while not isinstance(item := self._results.get(), _End):
            yield encode_result(item)
        if item.code is not grpc.StatusCode.OK:
            _abort(context, item.message, item.code)

    def _read(self, request_iterator: Iterator[pb.StepPlan]) -> None:
        """Decode plans as they come and check their order; the last thing put is an end."""
        expected = 0
        try:
            for message in request_iterator:
                self._check_turn(message.step_id, expected)
                self._plans.put(_Step(decode_plan(message), time.perf_counter_ns()))
                expected += 1
        except PlanError as error:
            self._plans.put(_End(grpc.StatusCode.INVALID_ARGUMENT, str(error)))
            return
        except grpc.RpcError:
            self._stream_broken = True
        self._plans.put(_End())

    def _check_turn(self, step_id: int, expected: int) -> None:
        if step_id != expected:
            raise PlanError(f"step_id is `{step_id}`, expected `{expected}`")
        num_waiting = expected - (0 if self._last_step_id is None else self._last_step_id + 1)
        if self._capabilities is not None and num_waiting > self._capabilities.max_run_ahead:
            limit = self._capabilities.max_run_ahead
            raise PlanError(f"step `{step_id}` is sent while `{num_waiting}` wait, expected at most {limit}")

    def Prepare(self, request: pb.PrepareRequest, context: grpc.ServicerContext) -> pb.PrepareResponse:
        """Compile a grammar, off the step thread, and forget those that the router has no use for."""
        if self._capabilities is None or _GRAMMAR not in self._capabilities.features:
            _abort(context, "this worker's features do not name `grammar`", grpc.StatusCode.UNIMPLEMENTED)
        if not self._preparing.acquire(blocking=False):
            message = f"`{_MAX_PREPARING}` grammars are being prepared, which is the limit"
            _abort(context, message, grpc.StatusCode.RESOURCE_EXHAUSTED)
        try:
            self._grammars.drop(list(request.dropped_grammar_ids))
            self._grammars.prepare(request.grammar_id, decode_grammar(request), request.deadline_ms / 1000)
        except GrammarError as error:
            return pb.PrepareResponse(error=str(error))
        except PlanError as error:
            _abort(context, str(error), grpc.StatusCode.INVALID_ARGUMENT)
        finally:
            self._preparing.release()
        return pb.PrepareResponse()

    def Heartbeat(self, request: pb.HeartbeatRequest, context: grpc.ServicerContext) -> pb.HeartbeatResponse:
        """Answer at once, even while a step runs."""
        last = self._last_step_id
        return pb.HeartbeatResponse(incarnation=self._incarnation, last_step_id=last or 0, any_step=last is not None)


def stop(server: grpc.Server) -> None:
    """Let answers on their way go out, for a moment, then close."""
    server.stop(_FLUSH_SECONDS).wait()


def _abort(
    context: grpc.ServicerContext, message: str, code: grpc.StatusCode = grpc.StatusCode.FAILED_PRECONDITION
) -> NoReturn:
    context.abort(code, message)
    raise AssertionError("abort raises")
