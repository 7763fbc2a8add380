//! A group of workers as the engine sees it: something that can be started, killed and seen to exit.
//! The launcher implements it with processes, the fake worker with tasks.

use std::future::Future;

use tonic::transport::Channel;

use crate::error::GroupError;

/// How a group ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupExit {
    /// Which shard went first.
    pub rank: u32,
    /// For the log and the clients: "exited with code 1", "killed by signal 9".
    pub reason: String,
}

/// What a life of a group is to be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Which, from 1.
    pub incarnation: u64,
    /// Blocks in the pool, as in the first life: what filled that must fit again. `None`: the workers choose.
    pub num_blocks: Option<u32>,
}

/// One tensor-parallel group of shards.
pub trait WorkerGroup: Send + 'static {
    /// Starts all shards of a new incarnation and answers a channel to each, by rank. The engine does the handshake.
    /// The future may be dropped half-way (a timeout, a shutdown): `kill` follows then too.
    fn start(&mut self, life: Life) -> impl Future<Output = Result<Vec<Channel>, GroupError>> + Send;

    /// Resolves when any shard of the running incarnation has exited. May be dropped and asked again.
    fn exited(&mut self) -> impl Future<Output = GroupExit> + Send;

    /// Kills every shard and waits until all are gone. Does nothing where none runs.
    fn kill(&mut self) -> impl Future<Output = ()> + Send;
}
