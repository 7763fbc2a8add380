//! Slots of the worker's table: who sits where, which tenant it is, and which departures the worker has yet to hear of.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::sequence_table::SequenceKey;
use crate::step::SequenceRef;

/// The worker's table as the next plan will leave it.
#[derive(Debug)]
pub(crate) struct Slots {
    tenants: Vec<Option<SequenceKey>>,
    /// By slot: the epoch that its next tenant gets. It only grows, so (slot, epoch) names one tenancy for ever.
    epochs: Vec<u32>,
    vacant: BinaryHeap<Reverse<u32>>,
    /// Gone since the last plan; told with the next plan that is sent. An empty plan is not sent, so with nothing to
    /// compute they wait, which costs the worker a table entry and nobody anything else.
    departed: Vec<SequenceRef>,
}

impl Slots {
    pub(crate) fn new(max_sequences: u32) -> Self {
        Self {
            tenants: vec![None; max_sequences as usize],
            epochs: vec![0; max_sequences as usize],
            vacant: (0..max_sequences).map(Reverse).collect(),
            departed: Vec::new(),
        }
    }

    pub(crate) fn has_vacant(&self) -> bool {
        !self.vacant.is_empty()
    }

    pub(crate) fn num_vacant(&self) -> u32 {
        self.vacant.len() as u32
    }

    /// Seats a sequence in the lowest vacant slot; ask `has_vacant` first.
    pub(crate) fn seat(&mut self, key: SequenceKey) -> Option<SequenceRef> {
        let Reverse(slot) = self.vacant.pop()?;
        debug_assert!(self.tenants[slot as usize].is_none());
        self.tenants[slot as usize] = Some(key);
        let epoch = self.epochs[slot as usize];
        self.epochs[slot as usize] += 1;
        Some(SequenceRef { slot, epoch })
    }

    /// Vacates a slot. It may be taken in the same plan that tells the worker.
    pub(crate) fn vacate(&mut self, tenancy: SequenceRef) {
        debug_assert!(self.tenants[tenancy.slot as usize].is_some());
        self.tenants[tenancy.slot as usize] = None;
        self.vacant.push(Reverse(tenancy.slot));
        self.departed.push(tenancy);
    }

    /// What the next plan has to tell.
    pub(crate) fn take_departed(&mut self) -> Vec<SequenceRef> {
        std::mem::take(&mut self.departed)
    }

    /// A new worker knows nobody: all slots, as many as it has, are vacant and there is nobody to tell of departures.
    /// Epochs go on, also those of slots that it does not have.
    pub(crate) fn reset(&mut self, max_sequences: u32) {
        let num_slots = max_sequences as usize;
        self.tenants.clear();
        self.tenants.resize(num_slots, None);
        self.epochs.resize(self.epochs.len().max(num_slots), 0);
        self.vacant = (0..max_sequences).map(Reverse).collect();
        self.departed.clear();
    }

    /// Tenants by ascending slot.
    pub(crate) fn tenants(&self) -> impl Iterator<Item = SequenceKey> {
        self.tenants.iter().flatten().copied()
    }

    pub(crate) fn num_tenants(&self) -> u32 {
        (self.tenants.len() - self.vacant.len()) as u32
    }
}
