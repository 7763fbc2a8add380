//! Which cores a worker's threads are bound to.
//!
//! A step is hundreds of parallel regions, and each ends when its last thread does. Left alone, the kernel may put two
//! threads of a team on one core to make room for some other process; then every region costs a time slice. Measured
//! on 2 cores beside one busy process: 1 token a second unbound, 39 bound (decision 3).

use rustix::thread::{CpuSet, sched_getaffinity};

/// The cores that this process, and so its children, may run on.
pub(crate) fn allowed() -> Vec<usize> {
    sched_getaffinity(None)
        .map_or_else(|_| Vec::new(), |set| (0..CpuSet::MAX_CPU).filter(|at| set.is_set(*at)).collect())
}

/// The value of `OMP_PLACES` for one of `num_workers` workers (the shards of all replicas), a place a thread. `None`
/// where binding could do harm: when the workers do not take up all cores, some other server may have chosen the same ones; and a single thread waits for no other.
pub(crate) fn places(cores: &[usize], worker: u32, num_workers: u32, num_threads: u32) -> Option<String> {
    let (worker, num_workers, num_threads) = (worker as usize, num_workers as usize, num_threads as usize);
    if num_threads < 2 || num_workers * num_threads != cores.len() {
        return None;
    }
    let own = cores.chunks(num_threads).nth(worker)?;
    Some(own.iter().map(|core| format!("{{{core}}}")).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_shard_binds_a_thread_to_every_core() {
        assert_eq!(places(&[0, 1], 0, 1, 2).as_deref(), Some("{0},{1}"));
    }

    #[test]
    fn shards_share_no_core() {
        let cores = [0, 2, 4, 6];
        assert_eq!(places(&cores, 0, 2, 2).as_deref(), Some("{0},{2}"));
        assert_eq!(places(&cores, 1, 2, 2).as_deref(), Some("{4},{6}"));
    }

    #[test]
    fn threads_that_leave_cores_free_or_want_too_many_are_not_bound() {
        assert_eq!(places(&[0, 1, 2, 3], 0, 1, 2), None);
        assert_eq!(places(&[0, 1], 0, 3, 1), None);
        assert_eq!(places(&[0, 1], 0, 2, 2), None);
        assert_eq!(places(&[], 0, 1, 2), None);
    }

    #[test]
    fn a_process_may_run_somewhere() {
        assert!(!allowed().is_empty());
    }
}
