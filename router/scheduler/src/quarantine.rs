//! Who is suspected of having killed the group, and who may share a plan with whom until that is known.
//!
//! After a death every sequence with a row in an unanswered plan is a *suspect*. While there are suspects nothing runs
//! ahead, and a plan holds at most one of them, the one *on trial*: the one in a slot, else the best in line. The
//! first token that it yields clears it. (The chunks before yield none and clear nobody: what kills may be the last
//! part of a long prompt.) A death while it is the only suspect in the unanswered plan is a *strike*, and the second
//! strike in a row ends it, alone.
//!
//! Everybody else goes on beside the trial. But one of them may be the true killer, so a suspect that has a strike is
//! tried in plans of its own, in turn with plans of the others: nobody is ended for what a neighbour has done. Those
//! who wait for their trial keep their place in the line: what they need of slots and blocks is not given to others.

use crate::planner::Planner;
use crate::request::{FinishReason, Time};
use crate::scheduler::Scheduler;
use crate::sequence::Suspicion;
use crate::sequence_table::SequenceKey;
use crate::step::{Event, StepPlan};

/// Deaths of the group under one suspect alone that end it.
const MAX_STRIKES: u32 = 2;

/// Who may have rows in a plan.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Company {
    /// The one suspect that may.
    pub(crate) on_trial: Option<SequenceKey>,
    /// It, and nobody else.
    pub(crate) is_alone: bool,
}

impl Scheduler {
    /// Plans that may be sent beyond the one whose result is awaited.
    pub(crate) fn run_ahead(&self) -> u32 {
        if self.num_suspects > 0 { 0 } else { self.limits.run_ahead }
    }

    /// The next plan while there are suspects.
    pub(crate) fn plan_trial(&mut self, now: Time, events: &mut Vec<Event>) -> Option<StepPlan> {
        let on_trial = self.on_trial();
        if self.num_strikes(on_trial) == 0 {
            return Planner::new(self, Company { on_trial, is_alone: false }, now, events).plan_step();
        }
        let alone = Company { on_trial, is_alone: true };
        let turns = if self.was_tried_alone { [Company::default(), alone] } else { [alone, Company::default()] };
        turns.into_iter().find_map(|company| {
            let plan = Planner::new(self, company, now, events).plan_step()?;
            self.was_tried_alone = company.is_alone;
            Some(plan)
        })
    }

    fn on_trial(&self) -> Option<SequenceKey> {
        let is_suspect = |&key: &SequenceKey| self.sequences[key].suspicion.is_some();
        let seated = self.slots.tenants().find(is_suspect);
        seated.or_else(|| self.queue.iter().map(|(_, key, _)| key).find(is_suspect))
    }

    fn num_strikes(&self, suspect: Option<SequenceKey>) -> u32 {
        let suspicion = suspect.and_then(|key| self.sequences[key].suspicion);
        suspicion.map_or(0, |suspicion| suspicion.num_strikes)
    }

    /// The group died: notes who may have done it, and ends who has done it too often.
    pub(crate) fn blame(&mut self, events: &mut Vec<Event>) {
        let rows = self.in_flight.iter().flat_map(|plan| &plan.rows);
        let mut present: Vec<SequenceKey> = rows.filter_map(|row| self.sequences.find(row.id)).collect();
        present.sort_unstable();
        present.dedup();
        let mut tried = present.iter().copied().filter(|&key| self.sequences[key].suspicion.is_some());
        let only = if let (Some(key), None) = (tried.next(), tried.next()) { Some(key) } else { None };
        for key in present {
            let sequence = &mut self.sequences[key];
            if sequence.suspicion.is_none() {
                self.num_suspects += 1;
            }
            let suspicion = sequence.suspicion.get_or_insert_with(Suspicion::default);
            suspicion.num_strikes += u32::from(only == Some(key));
            if suspicion.num_strikes == MAX_STRIKES {
                self.finish(key, FinishReason::Quarantined { num_deaths: MAX_STRIKES }, events);
            }
        }
    }

    /// It has yielded a token: it was not that one.
    pub(crate) fn clear(&mut self, key: SequenceKey) {
        if self.sequences[key].suspicion.take().is_some() {
            self.num_suspects -= 1;
        }
    }
}
