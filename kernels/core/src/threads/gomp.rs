//! The libgomp that the process has already loaded (torch's), called through its public ABI.
#![allow(unsafe_code)]

use libloading::os::unix::Library;
use std::any::Any;
use std::ffi::{c_int, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, OnceLock, PoisonError};

/// `RTLD_NOW | RTLD_NOLOAD` on Linux: find a library that is loaded already, never load one.
const RTLD_NOW_NOLOAD: c_int = 0x2 | 0x4;

type Region = unsafe extern "C" fn(*mut c_void);
type GompParallel = unsafe extern "C" fn(Region, *mut c_void, c_uint, c_uint);
type GetInt = unsafe extern "C" fn() -> c_int;

/// libgomp's entry points.
pub(super) struct Team {
    parallel: GompParallel,
    max_threads: GetInt,
    in_parallel: GetInt,
    /// Keeps the handle, and with it the library, for as long as the pointers above.
    _library: Library,
}

/// The process's libgomp, if one is loaded by the first call.
pub(super) fn team() -> Option<&'static Team> {
    static TEAM: OnceLock<Option<Team>> = OnceLock::new();
    TEAM.get_or_init(|| loaded_library().and_then(Team::new)).as_ref()
}

/// Wheels may carry libgomp under a changed name (`libgomp-24e2ab19.so.1`), so a miss by name looks at the maps.
fn loaded_library() -> Option<Library> {
    let find = |path: &str| {
        // SAFETY: RTLD_NOLOAD runs no initializer: it only takes a reference to what is loaded.
        unsafe { Library::open(Some(path), RTLD_NOW_NOLOAD) }.ok()
    };
    find("libgomp.so.1").or_else(|| {
        let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
        let path = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| is_libgomp(path))?;
        find(path)
    })
}

fn is_libgomp(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.starts_with("libgomp") && name.contains(".so"))
}

struct Job<'a> {
    body: &'a (dyn Fn() + Sync),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

unsafe extern "C" fn enter(data: *mut c_void) {
    // SAFETY: `run` passes a pointer to a `Job` that outlives the region.
    let job = unsafe { &*data.cast::<Job>() };
    // A panic must not unwind through libgomp's frames.
    if let Err(panic) = catch_unwind(AssertUnwindSafe(job.body)) {
        *job.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
    }
}

impl Team {
    fn new(library: Library) -> Option<Self> {
        // SAFETY: the names and signatures are libgomp's stable ABI (GOMP_4.0, OMP_1.0 symbol versions).
        unsafe {
            let parallel = *library.get::<GompParallel>(b"GOMP_parallel\0").ok()?;
            let max_threads = *library.get::<GetInt>(b"omp_get_max_threads\0").ok()?;
            let in_parallel = *library.get::<GetInt>(b"omp_in_parallel\0").ok()?;
            Some(Self { parallel, max_threads, in_parallel, _library: library })
        }
    }

    pub(super) fn max_threads(&self) -> usize {
        // SAFETY: takes no arguments and has no preconditions.
        let threads = unsafe { (self.max_threads)() };
        usize::try_from(threads).unwrap_or(1).max(1)
    }

    /// Runs `body` once on each of `num_threads` threads (on fewer where libgomp has no more to give).
    pub(super) fn run(&self, num_threads: usize, body: &(dyn Fn() + Sync)) {
        // SAFETY: takes no arguments and has no preconditions.
        if unsafe { (self.in_parallel)() } != 0 {
            // A nested region would start new threads; this thread's share of the outer one does the work alone.
            body();
            return;
        }
        let job = Job { body, panic: Mutex::new(None) };
        // SAFETY: `enter` reads a `Job`; GOMP_parallel returns after all threads have left the region.
        unsafe { (self.parallel)(enter, (&raw const job).cast_mut().cast(), num_threads as c_uint, 0) };
        if let Some(panic) = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(panic);
        }
    }
}
