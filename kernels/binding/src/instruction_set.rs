//! Which instruction set the kernels run with: the machine's best, unless a test forces another.

use crate::invalid;
use forebay_kernels_core::{InstructionSet, threads};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::sync::{PoisonError, RwLock};

/// Process-wide on purpose: a forced set must hold for every op of a test, whatever thread calls it.
static FORCED: RwLock<Option<InstructionSet>> = RwLock::new(None);

/// The set for the next call.
pub(crate) fn current() -> InstructionSet {
    FORCED.read().unwrap_or_else(PoisonError::into_inner).unwrap_or_else(InstructionSet::best)
}

/// Makes all ops use the set of that name; `None` goes back to the best. Returns the name forced before.
#[pyfunction]
#[pyo3(signature = (name))]
pub(crate) fn force_instruction_set(name: Option<&str>) -> PyResult<Option<&'static str>> {
    let wanted = name.map(InstructionSet::named).transpose().map_err(invalid)?;
    let mut forced = FORCED.write().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::replace(&mut *forced, wanted).map(InstructionSet::name))
}

/// Instruction set in use, those available, whose threads run the kernels and how many.
#[pyfunction]
pub(crate) fn native_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let info = PyDict::new(py);
    let available: Vec<_> = InstructionSet::available().into_iter().map(InstructionSet::name).collect();
    info.set_item("instruction_set", current().name())?;
    info.set_item("available_instruction_sets", available)?;
    info.set_item("num_threads", threads::max_threads())?;
    info.set_item("thread_team", threads::team_name())?;
    Ok(info)
}
