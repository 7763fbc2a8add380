//! Asks every shard again and again whether it lives, so that one that hangs while nobody waits for a step is seen too.
//!
//! A worker answers off its step thread: a slow step is no silence, and silence needs no step to be seen. Missed
//! answers are counted, not time, so a router that itself was stopped for a while blames nobody.

use std::time::Duration;

use forebay_wire::v1::{HeartbeatRequest, worker_client::WorkerClient};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::transport::Channel;

use crate::error::GroupError;
use crate::shards::words;

/// How shards are asked whether they live, while their group serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// From one question to the next; also how long an answer may take.
    pub interval: Duration,
    /// At so many missed answers in a row the group counts as lost.
    pub max_missed: u32,
}

impl Heartbeat {
    /// Resolves once a shard is silent or not who it was; `clients` lie by rank. Dropping the future ends the asking.
    pub(crate) async fn watch(self, clients: Vec<WorkerClient<Channel>>, incarnation: u64) -> GroupError {
        let watches = clients.into_iter().enumerate().map(|(rank, client)| self.watch_one(rank, client, incarnation));
        match watches.collect::<FuturesUnordered<_>>().next().await {
            Some(lost) => lost,
            // Cannot be: a group has shards.
            None => std::future::pending().await,
        }
    }

    async fn watch_one(self, rank: usize, mut client: WorkerClient<Channel>, incarnation: u64) -> GroupError {
        let mut asked_at = Instant::now();
        let mut heard_at = asked_at;
        let mut num_missed = 0;
        loop {
            sleep_until(asked_at + self.interval).await;
            asked_at = Instant::now();
            let missed = match timeout(self.interval, client.heartbeat(HeartbeatRequest {})).await {
                Ok(Ok(answer)) => match answer.into_inner().incarnation {
                    got if got == incarnation => None,
                    got => return stray(rank, got, incarnation),
                },
                Ok(Err(status)) => Some(words(&status).to_owned()),
                Err(_) => Some(format!("no answer within `{}` ms", self.interval.as_millis())),
            };
            let Some(why) = missed else {
                (heard_at, num_missed) = (Instant::now(), 0);
                continue;
            };
            num_missed += 1;
            tracing::debug!(rank, num_missed, why, "a shard missed a heartbeat");
            if num_missed >= self.max_missed {
                return silent(rank, heard_at.elapsed(), num_missed, &why);
            }
        }
    }
}

fn stray(rank: usize, got: u64, expected: u64) -> GroupError {
    GroupError::Lost(format!("shard {rank} answers heartbeats as incarnation `{got}`, expected `{expected}`"))
}

fn silent(rank: usize, silence: Duration, limit: u32, why: &str) -> GroupError {
    let ms = silence.as_millis();
    let missed = format!("it missed `{limit}` heartbeats in a row, which is the limit");
    GroupError::Lost(format!("shard {rank} has been silent for `{ms}` ms: {missed}: {why}"))
}
