//! The spare process: a Python that has imported all that workers need, holds no weights, and forks workers from
//! itself. What it has imported is paid for once, in seconds and in memory: all its workers share the pages.
//!
//! Its standard input is a socket. Orders go down as lines, `fork` with the three standard streams of the worker as
//! descriptors, `kill PID`; reports come up as lines, `started PID` or `failed REASON` to each `fork` in turn, and
//! `ended PID STATUS` with the status as `wait` gives it. Its end of file means exit. (`forebay_worker/spare.py`)

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncBufReadExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot};

use crate::process::{Spawner, kill_group};
use crate::relay::{LastLines, relay};
use crate::worker_process::{ForkedWorker, StandardStreams, WorkerEnvironment};

/// How long it may take to end when it is asked no more.
const END_TIMEOUT: Duration = Duration::from_secs(1);

type Ended = oneshot::Receiver<ExitStatus>;

/// Speaks to the process, which ends when the last clone is gone.
#[derive(Clone, Debug)]
pub(crate) struct Spare {
    orders: mpsc::UnboundedSender<Order>,
}

#[derive(Debug)]
enum Order {
    Fork { streams: StandardStreams, answer: oneshot::Sender<io::Result<(u32, Ended)>> },
    Kill(u32),
    GiveUp,
}

impl Spare {
    /// Starts the process; it answers its first order when it has imported everything.
    pub(crate) async fn start(spawner: &Spawner, python: &Path, environment: &WorkerEnvironment) -> io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let ours = UnixStream::from_std(ours)?;
        let mut command = environment.command(python, "spare");
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = spawner.spawn(command).await?;
        tracing::debug!(pid = child.id(), "spare process started");
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(relay(stderr, "spare".to_owned(), LastLines::default()));
        }
        let (orders, received) = mpsc::unbounded_channel();
        tokio::spawn(attend(child, ours, received));
        Ok(Self { orders })
    }

    /// Whether it can be asked no more.
    pub(crate) fn is_gone(&self) -> bool {
        self.orders.is_closed()
    }

    /// A worker with these streams, forked from it.
    pub(crate) async fn fork(&self, streams: StandardStreams) -> io::Result<ForkedWorker> {
        let gone = || io::Error::other("the spare process is gone");
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order::Fork { streams, answer }).map_err(|_| gone())?;
        let (pid, ended) = answered.await.map_err(|_| gone())??;
        Ok(ForkedWorker { pid, ended, spare: self.clone() })
    }

    /// Kills a worker and what it started, unless it has ended.
    pub(crate) fn kill_worker(&self, pid: u32) {
        // If it is gone, so is the worker.
        let _ = self.orders.send(Order::Kill(pid));
    }

    /// Kills the process, and by that its workers.
    pub(crate) fn give_up(&self) {
        let _ = self.orders.send(Order::GiveUp);
    }
}

/// Until no order can come any more, or the process is gone.
async fn attend(mut child: Child, socket: UnixStream, orders: mpsc::UnboundedReceiver<Order>) {
    let is_given_up = converse(socket, orders).await;
    // Its workers see end of file, too, and the death of their parent.
    if is_given_up || tokio::time::timeout(END_TIMEOUT, child.wait()).await.is_err() {
        kill_group(&child);
        let _ = child.wait().await;
    }
}

/// Carries orders down and reports up. True: the process is to be killed.
async fn converse(socket: UnixStream, mut orders: mpsc::UnboundedReceiver<Order>) -> bool {
    let (read, write): (OwnedReadHalf, OwnedWriteHalf) = socket.into_split();
    let mut reports = BufReader::new(read).lines();
    let mut ledger = Ledger::default();
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Fork { streams, answer }) => {
                    ledger.asked.push_back(answer);
                    if send(write.as_ref(), "fork\n", Some(&streams)).await.is_err() {
                        return false;
                    }
                }
                Some(Order::Kill(pid)) => {
                    if send(write.as_ref(), &format!("kill {pid}\n"), None).await.is_err() {
                        return false;
                    }
                }
                Some(Order::GiveUp) => return true,
                None => return false,
            },
            report = reports.next_line() => match report {
                Ok(Some(report)) => ledger.take(&report),
                Ok(None) | Err(_) => return false,
            },
        }
    }
}

/// A line, and the descriptors that go with it.
async fn send(socket: &UnixStream, line: &str, streams: Option<&StandardStreams>) -> io::Result<()> {
    let descriptors = streams.map(|of| [of.stdin.as_fd(), of.stdout.as_fd(), of.stderr.as_fd()]);
    socket
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if let Some(descriptors) = &descriptors {
                ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
            }
            // So short a line goes whole or not at all.
            sendmsg(socket, &[IoSlice::new(line.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL)?;
            Ok(())
        })
        .await
}

/// Who waits for what.
#[derive(Debug, Default)]
struct Ledger {
    /// Forks not answered, oldest first.
    asked: VecDeque<oneshot::Sender<io::Result<(u32, Ended)>>>,
    /// Workers that run, by process id.
    running: HashMap<u32, oneshot::Sender<ExitStatus>>,
}

impl Ledger {
    fn take(&mut self, report: &str) {
        // Whoever does not listen any more has dropped the worker's pipes: it ends by itself.
        match report.split(' ').collect::<Vec<_>>()[..] {
            ["started", pid] => {
                if let (Ok(pid), Some(answer)) = (pid.parse(), self.asked.pop_front()) {
                    let (end, ended) = oneshot::channel();
                    self.running.insert(pid, end);
                    let _ = answer.send(Ok((pid, ended)));
                }
            }
            ["failed", ..] => {
                if let Some(answer) = self.asked.pop_front() {
                    let _ = answer.send(Err(io::Error::other(report["failed ".len()..].to_owned())));
                }
            }
            ["ended", pid, status] => {
                let end = pid.parse().ok().and_then(|pid: u32| self.running.remove(&pid));
                if let (Some(end), Ok(status)) = (end, status.parse()) {
                    let _ = end.send(ExitStatus::from_raw(status));
                }
            }
            _ => tracing::warn!(report, "the spare process says what nobody understands"),
        }
    }
}
