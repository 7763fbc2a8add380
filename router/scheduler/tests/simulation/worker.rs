//! A worker that keeps the protocol and computes the hash-chain model through real block tables.

use forebay_scheduler::{
    Limits, RequestId, Row, RowFlags, SampledRow, SequenceError, SequenceRef, StepError, StepPlan, StepResult,
};

use super::oracle::Chain;
use super::rng::{Rng, mix};

/// Which of a step's rows fail, and whether all of it does.
#[derive(Default)]
pub(crate) struct Faults {
    pub(crate) step: bool,
    pub(crate) sequences: Vec<SequenceRef>,
}

/// What the worker is like with a request.
pub(crate) struct Traits {
    pub(crate) salt: u64,
    /// Computing this position kills it.
    pub(crate) poison: Option<usize>,
}

struct Tenant {
    id: RequestId,
    sequence: SequenceRef,
    traits: Traits,
    tokens: Vec<u32>,
    num_sent: usize,
    position: usize,
    table: Vec<u32>,
    /// A step of it has failed: whatever comes after is garbage.
    is_broken: bool,
}

/// KV memory and sequence table.
pub(crate) struct Worker {
    block_size: usize,
    vocab_size: u64,
    kv: Vec<u64>,
    tenants: Vec<Option<Tenant>>,
    num_poisoned: u64,
    /// Chance that a draft is right, in a thousand.
    acceptance: u64,
}

impl Worker {
    pub(crate) fn new(limits: &Limits, vocab_size: u64, acceptance: u64) -> Self {
        Self {
            block_size: limits.block_size as usize,
            vocab_size,
            kv: vec![0; (limits.num_blocks * limits.block_size) as usize],
            tenants: (0..limits.max_sequences).map(|_| None).collect(),
            num_poisoned: 0,
            acceptance,
        }
    }

    /// Applies a plan: released slots, new sequences, block appends, rows. The bookkeeping of a step that fails stands.
    /// An error names the request that killed it.
    pub(crate) fn execute(
        &mut self,
        plan: &StepPlan,
        traits_of: impl Fn(RequestId) -> Traits,
        faults: &Faults,
        rng: &mut Rng,
    ) -> Result<StepResult, RequestId> {
        for released in &plan.released {
            self.tenants[released.slot as usize] = None;
        }
        for new in &plan.new_sequences {
            let num_cached = new.num_computed_tokens as usize / self.block_size;
            self.poison(&new.block_ids[num_cached..]);
            self.tenants[new.sequence.slot as usize] = Some(Tenant {
                id: new.id,
                sequence: new.sequence,
                traits: traits_of(new.id),
                tokens: new.token_ids.clone(),
                num_sent: new.token_ids.len(),
                position: new.num_computed_tokens as usize,
                table: new.block_ids.clone(),
                is_broken: false,
            });
        }
        for append in &plan.appends {
            self.poison(&append.block_ids);
            self.tenant(append.slot).table.extend(&append.block_ids);
        }
        let mut result = StepResult { step_id: plan.step_id, ..StepResult::default() };
        for row in &plan.rows {
            self.execute_row(row, faults, rng, &mut result)?;
        }
        if faults.step {
            result.sampled.clear();
            result.errors.clear();
            result.step_error = Some(StepError { kind: 1, message: "out of memory".into() });
        }
        Ok(result)
    }

    fn execute_row(
        &mut self,
        row: &Row,
        faults: &Faults,
        rng: &mut Rng,
        result: &mut StepResult,
    ) -> Result<(), RequestId> {
        let is_named = faults.sequences.contains(&row.sequence);
        let tenant = self.tenant(row.sequence.slot);
        assert_eq!(tenant.sequence, row.sequence);
        let positions = tenant.position..tenant.position + row.num_tokens as usize;
        if tenant.traits.poison.is_some_and(|poison| positions.contains(&poison)) {
            return Err(tenant.id);
        }
        tenant.is_broken |= is_named || faults.step;
        let token_ids = if tenant.is_broken { self.compute_garbage(row, rng) } else { self.compute(row, rng) };
        let is_broken = self.tenant(row.sequence.slot).is_broken;
        if is_named || (is_broken && rng.permille(300)) {
            let message = "logits are not numbers".into();
            result.errors.push(SequenceError { sequence: row.sequence, kind: 2, message });
        } else if row.flags.0 & RowFlags::SAMPLES != 0 {
            result.sampled.push(SampledRow { sequence: row.sequence, token_ids });
        }
        Ok(())
    }

    /// Reads everything below through the block table, then computes and writes the row's tokens. Those that are not
    /// known are drafts: one that is what the chain samples is accepted, and all behind a wrong one are refused.
    fn compute(&mut self, row: &Row, rng: &mut Rng) -> Vec<u32> {
        let (block_size, vocab_size, acceptance) = (self.block_size, self.vocab_size, self.acceptance);
        let tenant = self.tenants[row.sequence.slot as usize].as_mut().expect("checked by the caller");
        let mut chain = Chain::new(tenant.traits.salt);
        for position in 0..tenant.position {
            chain.read(self.kv[tenant.table[position / block_size] as usize * block_size + position % block_size]);
        }
        let num_known = (tenant.tokens.len() - tenant.position).min(row.num_tokens as usize);
        let (known_end, end) = (tenant.position + num_known, tenant.position + row.num_tokens as usize);
        let mut yielded = Vec::new();
        for position in tenant.position..end {
            let mut token = tenant.tokens.get(position).copied();
            if position >= known_end {
                let right = chain.sample(vocab_size);
                let draft = if rng.permille(acceptance) { right } else { rng.next() as u32 };
                token = (draft == right && position == tenant.position + num_known + yielded.len()).then_some(right);
                yielded.extend(token);
            }
            let kv = token.map_or_else(|| rng.next(), |token| chain.write(token, position));
            self.kv[tenant.table[position / block_size] as usize * block_size + position % block_size] = kv;
            if token.is_some() {
                chain.read(kv);
            }
        }
        tenant.position += num_known + yielded.len();
        yielded.push(chain.sample(vocab_size));
        if row.flags.0 & RowFlags::SAMPLES != 0 {
            tenant.tokens.extend(&yielded);
        }
        yielded
    }

    fn compute_garbage(&mut self, row: &Row, rng: &mut Rng) -> Vec<u32> {
        let block_size = self.block_size;
        let tenant = self.tenants[row.sequence.slot as usize].as_mut().expect("checked by the caller");
        for position in tenant.position..tenant.position + row.num_tokens as usize {
            self.kv[tenant.table[position / block_size] as usize * block_size + position % block_size] = rng.next();
        }
        let is_decode = tenant.position >= tenant.num_sent;
        let num_yielded = if is_decode { rng.within(1, u64::from(row.num_tokens)) } else { 1 };
        tenant.position += if is_decode { num_yielded as usize } else { row.num_tokens as usize };
        (0..num_yielded).map(|_| (rng.next() % self.vocab_size) as u32).collect()
    }

    /// Nothing kills it any more.
    pub(crate) fn cure(&mut self) {
        self.tenants.iter_mut().flatten().for_each(|tenant| tenant.traits.poison = None);
    }

    /// A block that changes hands holds nothing that anybody may rely on.
    fn poison(&mut self, blocks: &[u32]) {
        for &block in blocks {
            self.num_poisoned += 1;
            let start = block as usize * self.block_size;
            self.kv[start..start + self.block_size].fill(mix(0xDEAD, self.num_poisoned));
        }
    }

    fn tenant(&mut self, slot: u32) -> &mut Tenant {
        self.tenants[slot as usize].as_mut().expect("a tenant")
    }
}
