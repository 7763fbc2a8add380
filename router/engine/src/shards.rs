//! The plan streams to all shards of one incarnation: the same plan down each, one answer a step up from all.
//!
//! Plans on N streams are not atomic, so there is no partial failure here: whatever goes wrong on one stream is the
//! loss of the whole group. Dropping `Shards` closes every stream.

use std::collections::VecDeque;
use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use forebay_wire::v1::{HandshakeRequest, StepPlan, StepResult, worker_client::WorkerClient};
use forebay_wire::{MAX_MESSAGE_BYTES, PROTOCOL_VERSION};
use futures::FutureExt;
use futures::future::try_join_all;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::convert::{Answer, answer_from_wire};
use crate::error::GroupError;
use crate::group::GroupExit;
use crate::handle::{EngineConfig, WorkerInfo};
use crate::handshake::agree;
use crate::heartbeat::Heartbeat;

/// Plans that may wait in a stream: one more than the greatest run-ahead, so that sending never blocks.
const MAX_PLANS_IN_FLIGHT: usize = 4;

/// The end of a stream, and with it of the group.
#[derive(Debug)]
pub(crate) struct Broken {
    error: GroupError,
    /// Whether `error` says why; a connection that is simply gone does not, and then the shard's exit says more.
    says_why: bool,
}

impl From<GroupError> for Broken {
    fn from(error: GroupError) -> Self {
        Self { error, says_why: true }
    }
}

impl Broken {
    /// The whole story, with what the exit of a shard adds to it.
    pub(crate) fn explained(self, exit: Option<&GroupExit>) -> GroupError {
        let Some(exit) = exit else { return self.error };
        let with_exit = |why: String| {
            let exit = exit_words(exit);
            if self.says_why { format!("{why}; {exit}") } else { exit }
        };
        match self.error {
            GroupError::Lost(why) => GroupError::Lost(with_exit(why)),
            GroupError::Start(why) => GroupError::Start(with_exit(why)),
            refused @ GroupError::Handshake(_) => refused,
        }
    }
}

/// An exit in words.
pub(crate) fn exit_words(exit: &GroupExit) -> String {
    format!("shard {} {}", exit.rank, exit.reason)
}

/// One shard's stream.
struct Shard {
    rank: usize,
    plans: mpsc::Sender<StepPlan>,
    results: Streaming<StepResult>,
    /// Answers to the oldest plans in flight that other shards still owe.
    answered: VecDeque<StepResult>,
}

/// The streams to every shard of the running incarnation.
pub(crate) struct Shards {
    incarnation: u64,
    /// For what is asked beside the streams.
    clients: Vec<WorkerClient<Channel>>,
    by_rank: Vec<Shard>,
    in_flight: VecDeque<u64>,
    /// Since when the oldest plan in flight could be computed.
    oldest_since: Instant,
}

impl Shards {
    /// Greets every shard, waits until all have loaded, checks that they agree and opens their streams.
    pub(crate) async fn connect(
        channels: Vec<Channel>,
        incarnation: u64,
        config: &EngineConfig,
    ) -> Result<(Self, WorkerInfo), Broken> {
        let mut clients: Vec<_> = channels.into_iter().map(client).collect();
        let greeting = HandshakeRequest { protocol: PROTOCOL_VERSION, incarnation, token_table: None };
        let greet = |(rank, client): (usize, &mut WorkerClient<Channel>)| {
            let (mut client, greeting) = (client.clone(), greeting.clone());
            async move { client.handshake(greeting).await.map_err(|status| start_failed(rank, &status)) }
        };
        let answers = try_join_all(clients.iter_mut().enumerate().map(greet)).await?;
        let answers: Vec<_> = answers.into_iter().map(tonic::Response::into_inner).collect();
        let info = agree(&answers, incarnation, config)?;
        let opening = clients.iter().cloned().enumerate().map(|(rank, client)| open(rank, client));
        let by_rank = try_join_all(opening).await?;
        let in_flight = VecDeque::new();
        Ok((Self { incarnation, clients, by_rank, in_flight, oldest_since: Instant::now() }, info))
    }

    /// Sends one plan to every shard; never waits.
    pub(crate) fn send(&mut self, plan: &StepPlan) -> Result<(), GroupError> {
        if self.in_flight.is_empty() {
            self.oldest_since = Instant::now();
        }
        self.in_flight.push_back(plan.step_id);
        for shard in &self.by_rank {
            shard.plans.try_send(plan.clone()).map_err(|error| {
                let why = if matches!(error, mpsc::error::TrySendError::Full(_)) { "is full" } else { "is closed" };
                GroupError::Lost(format!("the plan stream to shard {} {why}", shard.rank))
            })?;
        }
        Ok(())
    }

    /// The result of the oldest plan in flight, once every shard has answered it. Also how a broken stream is seen,
    /// so it is awaited while idle too. Nothing is lost when the future is dropped.
    pub(crate) async fn next_answer(&mut self) -> Result<(Answer, Duration), Broken> {
        let result = poll_fn(|context| self.poll_result(context)).await?;
        let now = Instant::now();
        let took = now - std::mem::replace(&mut self.oldest_since, now);
        Ok((answer_from_wire(result)?, took))
    }

    /// What the streams say of their end, if they have said it.
    pub(crate) fn last_words(&mut self) -> Option<Broken> {
        self.next_answer().now_or_never()?.err()
    }

    /// Resolves when a shard answers no heartbeats any more. Apart from the streams: it holds nothing of `self`.
    pub(crate) fn silence(&self, heartbeat: Heartbeat) -> impl Future<Output = GroupError> + use<> {
        heartbeat.watch(self.clients.clone(), self.incarnation)
    }

    /// When a group that has not answered counts as hung.
    pub(crate) fn deadline(&self, step_timeout: Duration) -> Option<Instant> {
        (!self.in_flight.is_empty()).then(|| self.oldest_since + step_timeout)
    }

    /// What to say when that time has come.
    pub(crate) fn hung(&self, step_timeout: Duration) -> GroupError {
        let silent: Vec<_> = self.by_rank.iter().filter(|shard| shard.answered.is_empty()).collect();
        let ranks = silent.iter().map(|shard| shard.rank.to_string()).collect::<Vec<_>>().join(", ");
        let step = self.in_flight.front().copied().unwrap_or_default();
        GroupError::Lost(format!(
            "step `{step}` was not answered within `{}` ms by shard {ranks}",
            step_timeout.as_millis()
        ))
    }

    fn poll_result(&mut self, context: &mut Context<'_>) -> Poll<Result<StepResult, Broken>> {
        for shard in &mut self.by_rank {
            shard.poll_answers(&self.in_flight, context)?;
        }
        if self.by_rank.iter().any(|shard| shard.answered.is_empty()) {
            return Poll::Pending;
        }
        self.in_flight.pop_front();
        let mut answers = self.by_rank.iter_mut().filter_map(|shard| shard.answered.pop_front());
        let first = answers.next();
        answers.for_each(drop);
        first.map_or(Poll::Pending, |result| Poll::Ready(Ok(result)))
    }
}

impl Shard {
    /// Takes what has arrived; an error is the end of the group.
    fn poll_answers(&mut self, in_flight: &VecDeque<u64>, context: &mut Context<'_>) -> Result<(), Broken> {
        while let Poll::Ready(arrived) = self.poll_answer(context) {
            let result = arrived?;
            self.check(&result, in_flight.get(self.answered.len()).copied())?;
            self.answered.push_back(result);
        }
        Ok(())
    }

    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Result<StepResult, Broken>> {
        let arrived = ready!(Pin::new(&mut self.results).poll_next(context));
        Poll::Ready(match arrived {
            Some(Ok(result)) => Ok(result),
            Some(Err(status)) => Err(Broken {
                error: GroupError::Lost(format!("the stream of shard {} broke: {}", self.rank, words(&status))),
                says_why: says_why(&status),
            }),
            None => {
                let error = GroupError::Lost(format!("the stream of shard {} ended", self.rank));
                Err(Broken { error, says_why: false })
            }
        })
    }

    /// Answers come in the order of the plans; only rank 0 has more to say than the step.
    fn check(&self, result: &StepResult, expected: Option<u64>) -> Result<(), GroupError> {
        let rank = self.rank;
        let Some(expected) = expected else {
            return Err(GroupError::Lost(format!(
                "shard {rank} answered step `{}`, which was not sent",
                result.step_id
            )));
        };
        if result.step_id != expected {
            let got = result.step_id;
            return Err(GroupError::Lost(format!("shard {rank} answered step `{got}`, expected `{expected}`")));
        }
        match &result.step_error {
            Some(error) if rank != 0 => {
                Err(GroupError::Lost(format!("shard {rank} alone failed step `{expected}`: {}", error.message)))
            }
            _ => Ok(()),
        }
    }
}

fn client(channel: Channel) -> WorkerClient<Channel> {
    WorkerClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES)
}

async fn open(rank: usize, mut client: WorkerClient<Channel>) -> Result<Shard, Broken> {
    let (plans, receiver) = mpsc::channel(MAX_PLANS_IN_FLIGHT);
    let results =
        client.execute(ReceiverStream::new(receiver)).await.map_err(|status| start_failed(rank, &status))?.into_inner();
    Ok(Shard { rank, plans, results, answered: VecDeque::new() })
}

fn start_failed(rank: usize, status: &Status) -> Broken {
    let error = GroupError::Start(format!("shard {rank} did not come up: {}", words(status)));
    Broken { error, says_why: says_why(status) }
}

/// Whether the worker itself has spoken; a status with a source was made here, from an error of the connection.
fn says_why(status: &Status) -> bool {
    let of_connection = matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled);
    !of_connection && status.source().is_none() && !status.message().is_empty()
}

/// A status in as many words as it has.
pub(crate) fn words(status: &Status) -> &str {
    if status.message().is_empty() { status.code().description() } else { status.message() }
}
