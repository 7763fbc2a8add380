//! One fake shard's gRPC service: a reader task takes plans off the stream, a step task answers them in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use forebay_wire::PROTOCOL_VERSION;
use forebay_wire::v1::worker_server::Worker;
use forebay_wire::v1::{
    HandshakeRequest, HandshakeResponse, HeartbeatRequest, HeartbeatResponse, PrepareRequest, PrepareResponse,
    StepError, StepErrorKind, StepPlan, StepResult,
};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::model::FakeModel;
use super::record::{FakeEvent, FakeHandle};
use super::script::{FakeScript, Fault, StepFault};
use crate::group::Life;

/// From a worker's last word to its exit.
const DYING: Duration = Duration::from_millis(20);

type Answers = mpsc::Sender<Result<StepResult, Status>>;

/// One shard.
#[derive(Debug)]
pub(super) struct FakeShard {
    rank: u32,
    incarnation: u64,
    num_blocks: u32,
    script: Arc<FakeScript>,
    handle: FakeHandle,
    num_heartbeats: AtomicU32,
}

impl FakeShard {
    pub(super) fn new(rank: u32, life: Life, script: Arc<FakeScript>, handle: FakeHandle) -> Self {
        let num_blocks = life.num_blocks.unwrap_or(script.sizes.num_blocks);
        Self { rank, incarnation: life.incarnation, num_blocks, script, handle, num_heartbeats: AtomicU32::new(0) }
    }

    fn refusal(&self) -> Option<String> {
        self.script.faults.iter().find_map(|fault| match fault {
            Fault::Refuse { incarnation, message } if (*incarnation, 0) == (self.incarnation, self.rank) => {
                Some(message.clone())
            }
            _ => None,
        })
    }

    fn greeting(&self) -> HandshakeResponse {
        let sizes = &self.script.sizes;
        let mut greeting = HandshakeResponse {
            protocol: PROTOCOL_VERSION,
            incarnation: self.incarnation,
            rank: self.rank,
            world_size: sizes.world_size,
            num_blocks: self.num_blocks,
            block_size: sizes.block_size,
            max_sequences: sizes.max_sequences,
            max_plan_tokens: sizes.max_plan_tokens,
            max_run_ahead: sizes.max_run_ahead,
            vocab_size: sizes.vocab_size,
            max_position_embeddings: sizes.max_position_embeddings,
            dtype: "float32".to_owned(),
            device: "cpu".to_owned(),
            features: self.script.features.clone(),
            kv_cache_dtype: "float32".to_owned(),
            kv_cache_bytes: 0,
            attention_backend: "fake".to_owned(),
            worker_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        for fault in &self.script.faults {
            if let Fault::Handshake { incarnation, rank, field, value } = fault
                && (*incarnation, *rank) == (self.incarnation, self.rank)
            {
                misstate(&mut greeting, field, *value);
            }
        }
        greeting
    }
}

/// Makes one field of a handshake wrong.
fn misstate(greeting: &mut HandshakeResponse, field: &str, value: u32) {
    match field {
        "protocol" => greeting.protocol = value,
        "incarnation" => greeting.incarnation = u64::from(value),
        "rank" => greeting.rank = value,
        "world_size" => greeting.world_size = value,
        "num_blocks" => greeting.num_blocks = value,
        "block_size" => greeting.block_size = value,
        "max_sequences" => greeting.max_sequences = value,
        "max_plan_tokens" => greeting.max_plan_tokens = value,
        "max_run_ahead" => greeting.max_run_ahead = value,
        "vocab_size" => greeting.vocab_size = value,
        "max_position_embeddings" => greeting.max_position_embeddings = value,
        "dtype" => greeting.dtype = format!("float{value}"),
        _ => greeting.features.push(field.to_owned()),
    }
}

#[tonic::async_trait]
impl Worker for FakeShard {
    type ExecuteStream = ReceiverStream<Result<StepResult, Status>>;

    async fn handshake(&self, _request: Request<HandshakeRequest>) -> Result<Response<HandshakeResponse>, Status> {
        tokio::time::sleep(self.script.load_delay).await;
        let incarnation = self.incarnation;
        let silent = [Fault::NeverReady { incarnation }, Fault::ExitWhileLoading { incarnation }];
        if self.script.faults.iter().any(|fault| silent.contains(fault)) {
            std::future::pending::<()>().await;
        }
        match self.refusal() {
            Some(message) => {
                let handle = self.handle.clone();
                self.handle.spawn(async move {
                    tokio::time::sleep(DYING).await;
                    handle.kill_shard(0, "exited with code 2");
                });
                Err(Status::failed_precondition(message))
            }
            None => Ok(Response::new(self.greeting())),
        }
    }

    async fn execute(&self, request: Request<Streaming<StepPlan>>) -> Result<Response<Self::ExecuteStream>, Status> {
        // One more than may be in flight: an answer never waits for the stream.
        let depth = self.script.sizes.max_run_ahead as usize + 2;
        let (plans, queue) = mpsc::channel(depth);
        let (answers, stream) = mpsc::channel(depth);
        self.handle.spawn(read_plans(request.into_inner(), self.rank, self.handle.clone(), plans));
        let steps = Steps {
            rank: self.rank,
            incarnation: self.incarnation,
            model: FakeModel::new(Arc::clone(&self.script)),
            script: Arc::clone(&self.script),
            handle: self.handle.clone(),
        };
        self.handle.spawn(steps.run(queue, answers));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn prepare(&self, _request: Request<PrepareRequest>) -> Result<Response<PrepareResponse>, Status> {
        Ok(Response::new(PrepareResponse { error: "the fake worker has no grammars".to_owned() }))
    }

    async fn heartbeat(&self, _request: Request<HeartbeatRequest>) -> Result<Response<HeartbeatResponse>, Status> {
        let number = self.num_heartbeats.fetch_add(1, Ordering::Relaxed);
        let mut said = self.incarnation;
        for fault in &self.script.faults {
            match fault {
                Fault::Silence { incarnation, rank, unanswered }
                    if (*incarnation, *rank) == (self.incarnation, self.rank) && unanswered.contains(&number) =>
                {
                    std::future::pending::<()>().await;
                }
                Fault::Heartbeat { incarnation, rank, says }
                    if (*incarnation, *rank) == (self.incarnation, self.rank) =>
                {
                    said = *says;
                }
                _ => {}
            }
        }
        let last = self.handle.last_answered(self.rank);
        let (last_step_id, any_step) = (last.unwrap_or(0), last.is_some());
        Ok(Response::new(HeartbeatResponse { incarnation: said, last_step_id, any_step }))
    }
}

async fn read_plans(mut stream: Streaming<StepPlan>, rank: u32, handle: FakeHandle, plans: mpsc::Sender<StepPlan>) {
    while let Some(Ok(plan)) = stream.next().await {
        handle.received(rank, &plan);
        if plans.send(plan).await.is_err() {
            return;
        }
    }
}

/// The step task of one shard.
struct Steps {
    rank: u32,
    incarnation: u64,
    model: FakeModel,
    script: Arc<FakeScript>,
    handle: FakeHandle,
}

impl Steps {
    async fn run(mut self, mut plans: mpsc::Receiver<StepPlan>, answers: Answers) {
        while let Some(plan) = plans.recv().await {
            if !self.script.step_delay.is_zero() {
                tokio::time::sleep(self.script.step_delay).await;
            }
            let step_id = plan.step_id;
            let answer = match self.script.step_fault(self.incarnation, self.rank, step_id) {
                None => self.execute(&plan),
                Some(StepFault::BreakStream) => Err(Status::internal("a scripted break")),
                Some(StepFault::Exit) => return self.handle.kill_shard(self.rank, "killed by signal 9"),
                Some(StepFault::Hang) => return std::future::pending().await,
                Some(StepFault::OutOfMemory) => self.model.fail_step(&plan).map_err(|rule| self.violation(rule)),
                Some(fault) => self.execute(&plan).map(|answer| spoil(answer, fault)),
            };
            self.handle.record(FakeEvent::Answered { rank: self.rank, step_id });
            let broken = answer.is_err();
            if answers.send(answer).await.is_err() || broken {
                return;
            }
        }
    }

    /// Every rank computes the same; only rank 0 says what.
    fn execute(&mut self, plan: &StepPlan) -> Result<StepResult, Status> {
        match self.model.execute(plan) {
            Ok(answer) if self.rank == 0 => Ok(answer),
            Ok(answer) => Ok(StepResult { step_id: answer.step_id, ..StepResult::default() }),
            Err(rule) => Err(self.violation(rule)),
        }
    }

    fn violation(&self, rule: String) -> Status {
        self.handle.violated(rule.clone());
        Status::failed_precondition(rule)
    }
}

fn spoil(mut answer: StepResult, fault: StepFault) -> StepResult {
    match fault {
        StepFault::WrongStepId => answer.step_id += 1,
        StepFault::Ragged => answer.epochs = bytes::Bytes::from_static(b"abc"),
        StepFault::UnplannedRow => {
            let extra: &[u8] = &[255, 255, 0, 0];
            answer.slots = [&answer.slots, extra].concat().into();
            answer.epochs = [&answer.epochs, extra].concat().into();
            answer.num_tokens = [&answer.num_tokens[..], &[1, 0, 0, 0]].concat().into();
            answer.token_ids = [&answer.token_ids, extra].concat().into();
        }
        _ => {}
    }
    answer
}

/// The answer to a step that ran out of memory.
pub(super) fn out_of_memory(step_id: u64) -> StepResult {
    let kind = StepErrorKind::OutOfMemory as i32;
    let step_error = Some(StepError { kind, message: "a scripted lack of memory".to_owned() });
    StepResult { step_id, step_error, ..StepResult::default() }
}
