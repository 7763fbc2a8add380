//! Where sequences live between `submit` and their end, and how they are found by name.

use rustc_hash::FxHashMap;

use crate::request::RequestId;
use crate::sequence::Sequence;

/// An index into the table. It is used again after its sequence has ended: whoever keeps one over time must check that
/// the tenancy is still the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SequenceKey(u32);

/// All sequences that have not ended.
#[derive(Debug, Default)]
pub(crate) struct SequenceTable {
    entries: Vec<Option<Sequence>>,
    vacant: Vec<u32>,
    keys: FxHashMap<RequestId, SequenceKey>,
}

impl SequenceTable {
    pub(crate) fn insert(&mut self, sequence: Sequence) -> SequenceKey {
        let index = self.vacant.pop().unwrap_or(self.entries.len() as u32);
        let key = SequenceKey(index);
        let replaced = self.keys.insert(sequence.request.id, key);
        assert!(replaced.is_none(), "request {:?} was submitted twice", sequence.request.id);
        if index as usize == self.entries.len() {
            self.entries.push(None);
        }
        self.entries[index as usize] = Some(sequence);
        key
    }

    pub(crate) fn remove(&mut self, key: SequenceKey) -> Option<Sequence> {
        let sequence = self.entries[key.0 as usize].take()?;
        self.keys.remove(&sequence.request.id);
        self.vacant.push(key.0);
        Some(sequence)
    }

    pub(crate) fn find(&self, id: RequestId) -> Option<SequenceKey> {
        self.keys.get(&id).copied()
    }

    pub(crate) fn get(&self, key: SequenceKey) -> Option<&Sequence> {
        self.entries[key.0 as usize].as_ref()
    }

    pub(crate) fn get_mut(&mut self, key: SequenceKey) -> Option<&mut Sequence> {
        self.entries[key.0 as usize].as_mut()
    }

    /// In order of key, which is an order that only the history of calls decides.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SequenceKey, &Sequence)> {
        self.entries
            .iter()
            .enumerate()
            .filter_map(|(index, entry)| entry.as_ref().map(|sequence| (SequenceKey(index as u32), sequence)))
    }
}

impl std::ops::Index<SequenceKey> for SequenceTable {
    type Output = Sequence;

    fn index(&self, key: SequenceKey) -> &Sequence {
        self.get(key).unwrap_or_else(|| unreachable!("{key:?} names no sequence"))
    }
}

impl std::ops::IndexMut<SequenceKey> for SequenceTable {
    fn index_mut(&mut self, key: SequenceKey) -> &mut Sequence {
        self.get_mut(key).unwrap_or_else(|| unreachable!("{key:?} names no sequence"))
    }
}
