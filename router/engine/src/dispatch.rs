//! Which group takes a request when there are several: the longest cached prefix, then the least load.
//!
//! A request stays with its group: its KV is there, and a lost group takes it up again itself. Only when the group is
//! given up does it move (`place.rs`).

use std::sync::Arc;

use futures::future::join_all;
use tokio::sync::oneshot;

use crate::handle::{Command, EngineRequest, EngineState};
use crate::place::{GroupHandle, Place};

/// Requests by which a group may be busier than the idlest and still win by its prefix. A prefix that all requests
/// share would otherwise draw them all to one group; what flows over here brings the prefix to the other groups.
const MAX_LEAD: usize = 8;

async fn num_cached_tokens(group: &GroupHandle, token_ids: Arc<[u32]>, cache_salt: u64) -> u32 {
    let (reply, answer) = oneshot::channel();
    if group.send(Command::Probe { token_ids, cache_salt, reply }).is_err() {
        return 0;
    }
    answer.await.unwrap_or(0)
}

/// Finds a request its group. Where none can take it, the first group's driver will say why.
pub(crate) async fn choose(groups: &[Arc<GroupHandle>], states: &[EngineState], request: &EngineRequest) -> Arc<Place> {
    let able = able(states);
    if let [] | [_] = able[..] {
        return Place::take(&groups[able.first().copied().unwrap_or(0)]);
    }
    let candidates = able.iter().map(|&replica| &groups[replica]);
    let cached = if request.prompt_logprobs {
        vec![0; able.len()]
    } else {
        let token_ids: Arc<[u32]> = request.token_ids.as_slice().into();
        let salt = request.cache_salt;
        join_all(candidates.clone().map(|group| num_cached_tokens(group, Arc::clone(&token_ids), salt))).await
    };
    // Read after the last await: what others have chosen meanwhile counts.
    let loads = candidates.map(|group| group.load()).collect::<Vec<_>>();
    Place::take(&groups[able[best(&cached, &loads)]])
}

/// The groups to choose from, by replica: those that serve; if none does, those that will again.
fn able(states: &[EngineState]) -> Vec<usize> {
    let among = |wanted: fn(&EngineState) -> bool| -> Vec<usize> {
        states.iter().enumerate().filter(|(_, state)| wanted(state)).map(|(replica, _)| replica).collect()
    };
    let serving = among(|state| *state == EngineState::Ready);
    if serving.is_empty() { among(|state| matches!(state, EngineState::Restarting(_))) } else { serving }
}

/// The index of the group to take, by the prompt tokens cached and the requests in each.
fn best(cached: &[u32], loads: &[usize]) -> usize {
    let least = loads.iter().min().copied().unwrap_or(0);
    let entries = cached.iter().zip(loads).enumerate().filter(|(_, (_, load))| **load <= least + MAX_LEAD);
    let preferred = entries.min_by_key(|(_, (cached, load))| (std::cmp::Reverse(**cached), **load));
    preferred.map_or(0, |(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_cached_prefix_wins_over_load() {
        assert_eq!(best(&[16, 32, 0], &[0, 5, 0]), 1);
    }

    #[test]
    fn of_equal_prefixes_the_least_load_wins_and_then_the_first() {
        assert_eq!(best(&[16, 16, 16], &[3, 1, 2]), 1);
        assert_eq!(best(&[0, 0], &[0, 0]), 0);
    }

    #[test]
    fn a_prefix_does_not_draw_everything_to_one_group() {
        assert_eq!(best(&[32, 0], &[MAX_LEAD, 0]), 0);
        assert_eq!(best(&[32, 0], &[MAX_LEAD + 1, 0]), 1);
    }

    #[test]
    fn groups_that_serve_come_before_groups_that_restart() {
        let restarting = || EngineState::Restarting(String::new());
        assert_eq!(able(&[restarting(), EngineState::Ready, EngineState::Failed(String::new())]), [1]);
        assert_eq!(able(&[restarting(), EngineState::Starting]), [0]);
        assert_eq!(able(&[EngineState::Starting]), []);
    }
}
