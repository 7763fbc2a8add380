//! A worker without a model, for measuring the router alone:
//! `forebay serve --disable-spare-worker --python PATH_TO_THIS_PROGRAM`.
//!
//! It answers every step with arbitrary tokens, at once or, with `PACED_STEP_US`, at the ticks of a clock; of several
//! replicas each has its ticks between those of the others. Whatever else Python is asked for (`model-info`) is handed
//! to the one that `PACED_PYTHON` names.
#![allow(clippy::exit, reason = "a program for the command line")]

use std::error::Error;
use std::os::unix::process::CommandExt;
use std::pin::Pin;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use forebay_wire::v1::worker_server::{Worker, WorkerServer};
use forebay_wire::v1::{
    HandshakeRequest, HandshakeResponse, HeartbeatRequest, HeartbeatResponse, PrepareRequest, PrepareResponse, RowFlag,
    StepPlan, StepResult, Timings,
};
use forebay_wire::{MAX_MESSAGE_BYTES, PROTOCOL_VERSION};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixListener;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// Ids of words in most vocabularies.
const FIRST_TOKEN: u32 = 1_000;
const NUM_TOKENS: u64 = 512;

/// What it needs of the configuration that workers get.
#[derive(Debug, Clone)]
struct Config {
    incarnation: u64,
    block_size: u32,
    max_sequences: u32,
    max_plan_tokens: u32,
    max_total_tokens: u32,
    max_run_ahead: u32,
    /// Between two steps; none to answer at once.
    period: Duration,
    /// From a tick of all to its own.
    offset: Duration,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if arguments.iter().map(|argument| argument.to_string_lossy()).ne(["-m", "forebay_worker", "serve"]) {
        let python = std::env::var_os("PACED_PYTHON").ok_or("PACED_PYTHON does not name a Python")?;
        return Err(Command::new(python).args(arguments).exec().into());
    }
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    // The end of stdin means exit, as for every worker.
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0)
    });
    let (config, socket) = read_config(&serde_json::from_str(&line)?)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(config, &socket))
}

async fn serve(config: Config, socket: &str) -> Result<(), Box<dyn Error>> {
    let listener = UnixListener::bind(socket)?;
    loop {
        let (connection, _) = listener.accept().await?;
        let service = WorkerServer::new(config.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let server = http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(connection), TowerToHyperService::new(service));
        tokio::spawn(server);
    }
}

fn read_config(line: &serde_json::Value) -> Result<(Config, String), Box<dyn Error>> {
    let number = |name: &str| line[name].as_u64().ok_or_else(|| format!("the configuration has no `{name}`"));
    let period = std::env::var("PACED_STEP_US").unwrap_or_else(|_| "0".to_owned()).parse()?;
    let period = Duration::from_micros(period);
    let config = Config {
        incarnation: number("incarnation")?,
        block_size: number("block_size")? as u32,
        max_sequences: number("max_sequences")? as u32,
        max_plan_tokens: number("max_plan_tokens")? as u32,
        max_total_tokens: number("max_total_tokens")? as u32,
        max_run_ahead: number("max_run_ahead")? as u32,
        period,
        offset: period * number("replica")? as u32 / number("num_replicas")? as u32,
    };
    let socket = line["socket_path"].as_str().ok_or("the configuration has no `socket_path`")?;
    Ok((config, socket.to_owned()))
}

impl Config {
    /// Waits for the next tick.
    async fn tick(&self) {
        if self.period.is_zero() {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let period = self.period.as_nanos();
        let since = (now.as_nanos() + period - self.offset.as_nanos()) % period;
        tokio::time::sleep(Duration::from_nanos((period - since) as u64)).await;
    }
}

#[tonic::async_trait]
impl Worker for Config {
    type ExecuteStream = Pin<Box<dyn Stream<Item = Result<StepResult, Status>> + Send>>;

    async fn handshake(&self, _: Request<HandshakeRequest>) -> Result<Response<HandshakeResponse>, Status> {
        let blocks_a_sequence = self.max_total_tokens.div_ceil(self.block_size) + 1;
        Ok(Response::new(HandshakeResponse {
            protocol: PROTOCOL_VERSION,
            incarnation: self.incarnation,
            rank: 0,
            world_size: 1,
            num_blocks: self.max_sequences * blocks_a_sequence + 1,
            block_size: self.block_size,
            max_sequences: self.max_sequences,
            max_plan_tokens: self.max_plan_tokens,
            max_run_ahead: self.max_run_ahead,
            vocab_size: 1 << 20,
            max_position_embeddings: self.max_total_tokens,
            dtype: "float32".to_owned(),
            device: "none".to_owned(),
            features: Vec::new(),
            kv_cache_dtype: "float32".to_owned(),
            kv_cache_bytes: 0,
            attention_backend: "none".to_owned(),
            worker_version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    async fn execute(&self, request: Request<Streaming<StepPlan>>) -> Result<Response<Self::ExecuteStream>, Status> {
        let config = self.clone();
        let answers = request.into_inner().then(move |plan| {
            let config = config.clone();
            async move {
                let plan = plan?;
                config.tick().await;
                Ok(answer(&plan))
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn prepare(&self, _: Request<PrepareRequest>) -> Result<Response<PrepareResponse>, Status> {
        Ok(Response::new(PrepareResponse { error: "there is no model".to_owned() }))
    }

    async fn heartbeat(&self, _: Request<HeartbeatRequest>) -> Result<Response<HeartbeatResponse>, Status> {
        Ok(Response::new(HeartbeatResponse { incarnation: self.incarnation, last_step_id: 0, any_step: false }))
    }
}

/// One token for every row that samples.
fn answer(plan: &StepPlan) -> StepResult {
    let num_rows = plan.row_flags.len() / 4;
    let mut arrays = BytesMut::with_capacity(16 * num_rows);
    let samples = |index: usize| word(&plan.row_flags, index) & RowFlag::Samples as u32 != 0;
    let rows: Vec<usize> = (0..num_rows).filter(|&index| samples(index)).collect();
    let mut pack = |value_of: &dyn Fn(usize) -> u32| {
        for &index in &rows {
            arrays.put_u32_le(value_of(index));
        }
        arrays.split().freeze()
    };
    StepResult {
        step_id: plan.step_id,
        slots: pack(&|index| word(&plan.row_slots, index)),
        epochs: pack(&|index| word(&plan.row_epochs, index)),
        num_tokens: pack(&|_| 1),
        token_ids: pack(&|index| FIRST_TOKEN + ((plan.step_id * 31 + index as u64 * 7) % NUM_TOKENS) as u32),
        timings: Some(Timings::default()),
        ..StepResult::default()
    }
}

fn word(array: &Bytes, index: usize) -> u32 {
    (&array[4 * index..]).get_u32_le()
}
