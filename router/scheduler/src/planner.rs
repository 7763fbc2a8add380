//! Makes one plan: the running decodes first, then chunks of running prompts, then newcomers, under the token budget
//! and, beside decodes, the time that `chunk_budget` allows.
//!
//! A decode's token is not known when it is planned ("the token you sampled last"), so a sequence may be planned while
//! its earlier rows are in flight; chunks of one prompt likewise. No decode is planned that could not be delivered.

use crate::block_manager::PrefixMatch;
use crate::block_pool::BlockId;
use crate::chunk_budget::ChunkBudget;
use crate::in_flight::{SentPlan, SentRow};
use crate::quarantine::Company;
use crate::request::{RequestId, RowFlags, Time};
use crate::scheduler::Scheduler;
use crate::sequence::{InFlightRow, Phase, Standing};
use crate::sequence_table::SequenceKey;
use crate::step::{BlockAppend, Event, NewSequence, Row, SequenceRef, StepPlan};
use crate::step_cost::StepLoad;

/// A plan in the making.
pub(crate) struct Planner<'a> {
    pub(crate) scheduler: &'a mut Scheduler,
    pub(crate) plan: StepPlan,
    sent: SentPlan,
    budget_left: u32,
    chunk_budget: ChunkBudget,
    company: Company,
    /// Decodes of this plan that wait for a block which results in flight will free.
    pub(crate) num_stalled: u32,
    now: Time,
    events: &'a mut Vec<Event>,
}

impl<'a> Planner<'a> {
    pub(crate) fn new(scheduler: &'a mut Scheduler, company: Company, now: Time, events: &'a mut Vec<Event>) -> Self {
        let step_id = scheduler.clock.sent;
        let budget_left = scheduler.budget.now();
        Self {
            scheduler,
            plan: StepPlan { step_id, ..StepPlan::default() },
            sent: SentPlan {
                step_id,
                sent_at: now,
                load: StepLoad::default(),
                rows: Vec::new(),
                published: Vec::new(),
            },
            budget_left,
            chunk_budget: ChunkBudget::Unbounded,
            company,
            num_stalled: 0,
            now,
            events,
        }
    }

    pub(crate) fn plan_step(mut self) -> Option<StepPlan> {
        loop {
            let num_preemptions = self.scheduler.totals.preemptions;
            self.plan_decodes();
            self.plan_chunks();
            self.admit();
            // Under a reduced budget all decodes whose turn it was may have been preempted: the others are next. (At
            // the full budget the best sequence always has a row, or waits for results that are in flight.)
            if !self.plan.rows.is_empty() || self.scheduler.totals.preemptions == num_preemptions {
                return self.send();
            }
        }
    }

    /// An empty plan is not sent.
    fn send(mut self) -> Option<StepPlan> {
        if self.plan.rows.is_empty() {
            debug_assert!(self.plan.new_sequences.is_empty() && self.plan.appends.is_empty());
            return None;
        }
        self.plan.released = self.scheduler.slots.take_departed();
        self.scheduler.in_flight.push_back(self.sent);
        self.scheduler.clock.sent += 1;
        Some(self.plan)
    }

    /// Whether it is among those that this plan is for.
    fn may_run(&self, key: SequenceKey) -> bool {
        let is_on_trial = self.company.on_trial == Some(key);
        is_on_trial || (!self.company.is_alone && self.scheduler.sequences[key].suspicion.is_none())
    }

    fn plan_decodes(&mut self) {
        self.num_stalled = 0;
        let (decodes, is_prefilling) = self.choose_decodes();
        self.reserve_blocks(&decodes);
        let block_size = self.scheduler.limits.block_size;
        // Drafts get what the decodes leave, and a prompt its token before them.
        let mut drafts_left = self.budget_left.saturating_sub(decodes.len() as u32 + u32::from(is_prefilling));
        for key in decodes {
            let sequence = &self.scheduler.sequences[key];
            // Those that were preempted or stalled while blocks were sought drop out.
            if sequence.phase() == Phase::Decoding && !sequence.needs_block(block_size) {
                let num_drafts = self.reserve_drafts(key, drafts_left);
                drafts_left -= num_drafts;
                self.push_row(key, 1 + num_drafts);
            }
        }
        self.plan.num_decodes = self.plan.rows.len() as u32;
    }

    /// How many drafts a decode may compute: not more than could be delivered, and only into blocks that nobody has to
    /// be preempted for.
    fn reserve_drafts(&mut self, key: SequenceKey, at_most: u32) -> u32 {
        let scheduler = &mut *self.scheduler;
        let block_size = scheduler.limits.block_size;
        let sequence = &mut scheduler.sequences[key];
        let num_drafts = scheduler.limits.max_draft_tokens.min(at_most).min(sequence.num_wanted() - 1);
        let Some(tenancy) = sequence.tenancy() else { return 0 };
        while sequence.num_spare(block_size) < 1 + num_drafts {
            let Some(block) = scheduler.blocks.take(scheduler.clock) else { break };
            sequence.blocks.push(block);
            match self.plan.appends.iter_mut().find(|append| append.slot == tenancy.slot) {
                Some(append) => append.block_ids.push(block),
                None => self.plan.appends.push(BlockAppend { slot: tenancy.slot, block_ids: vec![block] }),
            }
        }
        num_drafts.min(sequence.num_spare(block_size) - 1)
    }

    /// Who decodes, by ascending slot. The full budget has room for a decode in every slot; under a reduced one they
    /// take turns, and a token is left for a prompt, if one is there to be computed: the second answer.
    fn choose_decodes(&mut self) -> (Vec<SequenceKey>, bool) {
        let scheduler = &*self.scheduler;
        let mut decodes = Vec::with_capacity(scheduler.slots.num_tenants() as usize);
        let mut is_prefilling = !scheduler.queue.is_empty() && scheduler.slots.has_vacant();
        for key in scheduler.slots.tenants().filter(|&key| self.may_run(key)) {
            match scheduler.sequences[key].phase() {
                Phase::Decoding => decodes.push(key),
                Phase::Prefilling => is_prefilling = true,
                _ => {}
            }
        }
        let scheduler = &mut *self.scheduler;
        let max_decodes = (self.budget_left - u32::from(is_prefilling && self.budget_left > 1)) as usize;
        if decodes.len() > max_decodes {
            let slot_of = |key: &SequenceKey| scheduler.sequences[*key].tenancy().map(|tenancy| tenancy.slot);
            let turn = decodes.partition_point(|key| slot_of(key) < Some(scheduler.decode_turn));
            decodes.rotate_left(turn);
            decodes.truncate(max_decodes);
            scheduler.decode_turn = decodes.last().and_then(slot_of).map_or(0, |slot| slot + 1);
            decodes.sort_unstable_by_key(slot_of);
        }
        (decodes, is_prefilling)
    }

    /// Finds a block for every decode that has filled its last one. Best rank first: whoever is preempted for it is of
    /// worse rank, has no row in this plan yet and gets none.
    fn reserve_blocks(&mut self, decodes: &[SequenceKey]) {
        let scheduler = &*self.scheduler;
        let block_size = scheduler.limits.block_size;
        let mut growing: Vec<SequenceKey> =
            decodes.iter().copied().filter(|&key| scheduler.sequences[key].needs_block(block_size)).collect();
        growing.sort_unstable_by_key(|&key| scheduler.sequences[key].rank);
        for key in growing {
            if let Standing::Running(tenancy) = self.scheduler.sequences[key].standing {
                if let Some(block) = self.find_block(key) {
                    self.scheduler.sequences[key].blocks.push(block);
                    self.plan.appends.push(BlockAppend { slot: tenancy.slot, block_ids: vec![block] });
                }
            }
        }
    }

    /// Goes on with prompts that have begun, best rank first.
    fn plan_chunks(&mut self) {
        let scheduler = &*self.scheduler;
        let is_prefilling = |&key: &SequenceKey| scheduler.sequences[key].phase() == Phase::Prefilling;
        let mut prefills: Vec<SequenceKey> =
            scheduler.slots.tenants().filter(is_prefilling).filter(|&key| self.may_run(key)).collect();
        prefills.sort_unstable_by_key(|&key| scheduler.sequences[key].rank);
        let num_prompts = prefills.len() as u32 + scheduler.queue.len().min(scheduler.slots.num_vacant());
        self.chunk_budget = ChunkBudget::new(&scheduler.limits, &scheduler.step_cost, &self.sent.load, num_prompts);
        for key in prefills {
            self.push_chunk(key);
        }
    }

    /// Seats newcomers in the order of the line. Who does not fit stops the line, so that the large are not starved by
    /// the small. Those whom this plan is not for are passed, with room kept for them.
    fn admit(&mut self) {
        let (mut passed, mut num_kept_slots, mut num_kept_blocks) = (None, 0, 0);
        while !self.is_full() && self.scheduler.slots.num_vacant() > num_kept_slots {
            let Some((rank, key)) = self.scheduler.queue.next_behind(passed) else { return };
            if !self.may_run(key) {
                passed = Some(rank);
                num_kept_slots += 1;
                num_kept_blocks += self.scheduler.num_blocks_of(key);
                continue;
            }
            let Some((blocks, num_cached)) = self.reserve_prompt(key, num_kept_blocks) else { return };
            let Some(tenancy) = self.scheduler.slots.seat(key) else { return };
            self.seat(key, tenancy, blocks, num_cached);
            self.push_chunk(key);
        }
    }

    /// A block table for the whole prompt of a waiting sequence, and how many of its blocks are cached; `None` while
    /// it has to wait. All at once, so that no two prompts can begin that cannot both be finished. `num_kept` blocks
    /// are for others.
    fn reserve_prompt(&mut self, key: SequenceKey, num_kept: u32) -> Option<(Vec<BlockId>, usize)> {
        let scheduler = &mut *self.scheduler;
        let sequence = &scheduler.sequences[key];
        if matches!(sequence.standing, Standing::Preempted(_)) {
            return None; // results of its old tenancy are still to come, and nobody may pass it
        }
        // Room for everyone running to grow by a block: without it a newcomer is preempted as soon as it has begun.
        let watermark = scheduler.slots.num_tenants() + num_kept;
        if !scheduler.blocks.can_take(1 + watermark, &[], scheduler.clock) {
            return None;
        }
        let request = &sequence.request;
        let found = if request.reuse_prefix {
            scheduler.blocks.find_prefix(request.cache_salt, &request.token_ids, scheduler.clock.sent)
        } else {
            PrefixMatch::default()
        };
        if found.continues_in_this_plan {
            return None; // one plan later it shares what its twin computes now
        }
        let num_cached = found.blocks.len();
        let num_new = scheduler.num_blocks_of(key) - num_cached as u32;
        if !scheduler.blocks.can_take(num_new + watermark, &found.blocks, scheduler.clock) {
            return None;
        }
        let mut blocks = found.blocks;
        scheduler.blocks.hold(&blocks);
        blocks.extend((0..num_new).filter_map(|_| scheduler.blocks.take(scheduler.clock)));
        debug_assert_eq!(blocks.len() - num_cached, num_new as usize, "`can_take` promised more than there is");
        Some((blocks, num_cached))
    }

    /// Makes a waiting sequence a running one.
    fn seat(&mut self, key: SequenceKey, tenancy: SequenceRef, blocks: Vec<BlockId>, num_cached: usize) {
        let scheduler = &mut *self.scheduler;
        let num_computed_tokens = num_cached as u32 * scheduler.limits.block_size;
        let sequence = &mut scheduler.sequences[key];
        scheduler.queue.remove(sequence.rank);
        self.plan.new_sequences.push(NewSequence {
            id: sequence.request.id,
            sequence: tenancy,
            token_ids: sequence.request.token_ids.clone(),
            num_prompt_tokens: sequence.request.num_prompt_tokens,
            num_computed_tokens,
            block_ids: blocks.clone(),
        });
        sequence.begin(tenancy, blocks, num_cached, num_computed_tokens);
        if !sequence.was_started {
            sequence.was_started = true;
            let (id, num_tokens) = (sequence.request.id, sequence.num_tokens());
            let reads_tree = sequence.request.reuse_prefix;
            scheduler.queue.note_departure(self.now, sequence.request.num_prompt_tokens);
            self.note_start(id, if reads_tree { num_tokens } else { 0 }, num_computed_tokens);
        }
    }

    fn note_start(&mut self, id: RequestId, num_queried_tokens: u32, num_cached_tokens: u32) {
        self.scheduler.totals.prefix_queried_tokens += u64::from(num_queried_tokens);
        self.scheduler.totals.prefix_hit_tokens += u64::from(num_cached_tokens);
        self.events.push(Event::Started { id, num_cached_tokens });
    }

    /// Whether no chunk goes into the plan any more: there are no tokens left, or no time for the least chunk beside
    /// the one that every plan has room for.
    fn is_full(&self) -> bool {
        let Scheduler { step_cost, limits, .. } = &*self.scheduler;
        let has_chunk = self.sent.load.prompt_tokens > 0;
        self.budget_left == 0 || (has_chunk && self.chunk_budget.tokens_at(0, step_cost) < limits.min_chunk_tokens)
    }

    /// The next chunk of a prompt, as long as the budget allows, and its full blocks into the prefix tree.
    fn push_chunk(&mut self, key: SequenceKey) {
        if self.is_full() {
            return;
        }
        let Scheduler { sequences, step_cost, limits, .. } = &*self.scheduler;
        let (sequence, context) = (&sequences[key], sequences[key].num_planned());
        let in_time = self.chunk_budget.tokens_at(context, step_cost).max(limits.min_chunk_tokens);
        let num_tokens = self.budget_left.min(in_time).min(sequence.num_sent_tokens - context);
        self.chunk_budget.spend(num_tokens, context, step_cost);
        self.push_row(key, num_tokens);
        if let Some(tenancy) = self.scheduler.sequences[key].tenancy() {
            let num_planned = self.scheduler.sequences[key].num_planned();
            let published = self.scheduler.publish(key, num_planned, self.plan.step_id);
            self.sent.published.extend(published.into_iter().map(|block| (block, tenancy)));
        }
    }

    fn push_row(&mut self, key: SequenceKey, num_tokens: u32) {
        let step_id = self.plan.step_id;
        let sequence = &mut self.scheduler.sequences[key];
        let Some(tenancy) = sequence.tenancy() else { return };
        let is_last = sequence.num_planned() + num_tokens >= sequence.num_sent_tokens;
        let own = RowFlags::SAMPLES | RowFlags::LAST_CHUNK;
        let flags = RowFlags((sequence.request.row_flags.0 & !own) | if is_last { own } else { 0 });
        let is_decode = sequence.num_planned() >= sequence.num_sent_tokens;
        let context = sequence.num_planned();
        if is_decode {
            self.sent.load.add_decode(num_tokens, context);
        } else {
            self.sent.load.add_chunk(num_tokens, context);
        }
        let max_yield = if is_decode { num_tokens } else { u32::from(is_last) };
        sequence.plan(InFlightRow { step_id, num_tokens, max_yield });
        self.plan.rows.push(Row { sequence: tenancy, num_tokens, flags });
        let id = sequence.request.id;
        self.sent.rows.push(SentRow { key, id, sequence: tenancy, max_yield, num_tokens });
        self.budget_left -= num_tokens;
    }
}

impl Scheduler {
    /// Blocks that the known tokens of a sequence fill.
    fn num_blocks_of(&self, key: SequenceKey) -> u32 {
        self.sequences[key].num_tokens().div_ceil(self.limits.block_size)
    }

    /// Enters the full blocks among a sequence's first `num_tokens` tokens into the prefix tree, as written by `step`;
    /// returns those that are new there.
    pub(crate) fn publish(&mut self, key: SequenceKey, num_tokens: u32, step: u64) -> Vec<BlockId> {
        let sequence = &mut self.sequences[key];
        let num_full = (num_tokens / self.limits.block_size) as usize;
        let (salt, tokens) = (sequence.request.cache_salt, &sequence.request.token_ids);
        let first = sequence.num_published;
        while sequence.num_published < num_full && !sequence.is_detached {
            if self.blocks.publish(&sequence.blocks, sequence.num_published, salt, tokens, step) {
                sequence.num_published += 1;
            } else {
                sequence.is_detached = true;
            }
        }
        sequence.blocks[first..sequence.num_published.max(first)].to_vec()
    }
}
