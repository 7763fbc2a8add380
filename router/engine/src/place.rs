//! Where a request is: in one group, and in another once its own has been given up.
//!
//! The reader holds the place and cancels through it; the driver that has the request moves it. Both do so under one
//! lock, so that a cancel always reaches the group that has the request, after the request itself.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use forebay_scheduler::{Evacuee, RequestId};
use tokio::sync::mpsc;

use crate::handle::{Command, EngineState};
use crate::requests::Live;

/// The way to one group's driver.
#[derive(Debug)]
pub(crate) struct GroupHandle {
    commands: mpsc::UnboundedSender<Command>,
    /// Requests that were given to it and have not ended.
    num_requests: AtomicUsize,
}

/// The driver has ended; what was sent is given back.
#[derive(Debug)]
pub(crate) struct Gone(pub(crate) Command);

impl GroupHandle {
    pub(crate) fn new(commands: mpsc::UnboundedSender<Command>) -> Self {
        Self { commands, num_requests: AtomicUsize::new(0) }
    }

    pub(crate) fn send(&self, command: Command) -> Result<(), Gone> {
        self.commands.send(command).map_err(|unsent| Gone(unsent.0))
    }

    pub(crate) fn load(&self) -> usize {
        self.num_requests.load(Ordering::Relaxed)
    }
}

/// A request's place in a group; while it is held, it counts as the group's load.
#[derive(Debug)]
pub(crate) struct Place(Mutex<Option<Arc<GroupHandle>>>);

impl Place {
    pub(crate) fn take(group: &Arc<GroupHandle>) -> Arc<Self> {
        group.num_requests.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self(Mutex::new(Some(Arc::clone(group)))))
    }

    /// An error: the driver is gone, or the place has been left.
    pub(crate) fn send(&self, command: Command) -> Result<(), Gone> {
        match &*self.lock() {
            Some(group) => group.send(command),
            None => Err(Gone(command)),
        }
    }

    /// The reader does not want the rest.
    pub(crate) fn leave(&self, id: RequestId) {
        if let Some(group) = self.lock().take() {
            group.num_requests.fetch_sub(1, Ordering::Relaxed);
            // A driver that is gone holds nothing to cancel.
            let _ = group.send(Command::Cancel(id));
        }
    }

    /// Gives the request to `group`, unless its reader has left; an error gives it back.
    fn move_to(&self, group: &Arc<GroupHandle>, moved: Box<Moved>) -> Result<(), Box<Moved>> {
        let mut place = self.lock();
        let Some(current) = place.as_mut() else { return Ok(()) };
        if let Err(Gone(Command::Adopt(moved))) = group.send(Command::Adopt(moved)) {
            return Err(moved);
        }
        group.num_requests.fetch_add(1, Ordering::Relaxed);
        current.num_requests.fetch_sub(1, Ordering::Relaxed);
        *current = Arc::clone(group);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<GroupHandle>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(group) = self.lock().take() {
            group.num_requests.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A request on its way from a group that was given up to one that serves.
#[derive(Debug)]
pub(crate) struct Moved {
    pub(crate) evacuee: Evacuee,
    pub(crate) live: Live,
}

/// How a driver finds the other groups. It holds none of them: each ends when nobody can send it anything.
#[derive(Debug)]
pub(crate) struct Peers {
    groups: Weak<[Arc<GroupHandle>]>,
    replica: usize,
}

impl Peers {
    pub(crate) fn new(groups: &Arc<[Arc<GroupHandle>]>, replica: usize) -> Self {
        Self { groups: Arc::downgrade(groups), replica }
    }

    /// Gives a request to another group; an error gives it back where there is none that can take it.
    pub(crate) fn hand_over(&self, states: &[EngineState], mut moved: Box<Moved>) -> Result<(), Box<Moved>> {
        let Some(place) = moved.live.place() else { return Ok(()) };
        let Some(groups) = self.groups.upgrade() else { return Err(moved) };
        let loads: Vec<_> = groups.iter().map(|group| group.load()).collect();
        for refuge in refuges(states, &loads, self.replica) {
            match place.move_to(&groups[refuge], moved) {
                Ok(()) => return Ok(()),
                Err(back) => moved = back,
            }
        }
        Err(moved)
    }
}

/// The groups that may take a request from `own`, best first: those that serve, then those that finish what they have,
/// then those that will serve again; of equals the least busy.
fn refuges(states: &[EngineState], loads: &[usize], own: usize) -> Vec<usize> {
    let order = |state: &EngineState| match state {
        EngineState::Ready => Some(0),
        EngineState::Draining => Some(1),
        EngineState::Restarting(_) => Some(2),
        EngineState::Starting | EngineState::Failed(_) => None,
    };
    let others = states.iter().zip(loads).enumerate().filter(|(replica, _)| *replica != own);
    let mut able: Vec<_> =
        others.filter_map(|(replica, (state, load))| Some((order(state)?, *load, replica))).collect();
    able.sort_unstable();
    able.into_iter().map(|(.., replica)| replica).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_serves_comes_before_who_drains_or_restarts_and_the_idle_before_the_busy() {
        let restarting = || EngineState::Restarting(String::new());
        let failed = EngineState::Failed(String::new());
        let states =
            [restarting(), EngineState::Ready, failed, EngineState::Draining, EngineState::Ready, restarting()];
        assert_eq!(refuges(&states, &[0, 2, 0, 0, 1, 0], 5), [4, 1, 3, 0]);
        assert_eq!(refuges(&states, &[0; 6], 1), [4, 3, 0, 5]);
        assert_eq!(refuges(&[EngineState::Draining], &[0], 0), []);
    }
}
