use super::*;
use crate::fake_worker::FakeSizes;

const SAMPLES: u32 = 3;

fn model() -> FakeModel {
    let sizes =
        FakeSizes { num_blocks: 8, block_size: 4, max_sequences: 4, max_plan_tokens: 8, ..FakeSizes::default() };
    FakeModel::new(Arc::new(FakeScript { sizes, ..FakeScript::default() }))
}

fn newcomer(slot: u32, epoch: u32, token_ids: &[u32], blocks: &[u32]) -> NewSequence {
    NewSequence {
        slot,
        epoch,
        token_ids: u32_bytes(token_ids.iter().copied()),
        num_prompt_tokens: token_ids.len() as u32,
        num_computed_tokens: 0,
        block_ids: u32_bytes(blocks.iter().copied()),
        sampling: Some(SamplingParams::default()),
    }
}

/// A plan of chunks: `(slot, epoch, num_tokens, flags)`.
fn plan(step_id: u64, new_sequences: Vec<NewSequence>, rows: &[[u32; 4]]) -> StepPlan {
    let column = |index: usize| u32_bytes(rows.iter().map(move |row| row[index]));
    StepPlan {
        step_id,
        new_sequences,
        row_slots: column(0),
        row_epochs: column(1),
        row_num_tokens: column(2),
        row_flags: column(3),
        ..StepPlan::default()
    }
}

fn violation(plan: &StepPlan) -> String {
    model().execute(plan).expect_err("breaks a rule")
}

/// A first plan with one prompt of five tokens, as right as can be but for what a test changes.
fn first(change: impl FnOnce(&mut StepPlan)) -> StepPlan {
    let mut plan = plan(0, vec![newcomer(1, 1, &[5, 6, 7, 8, 9], &[2, 3])], &[[1, 1, 5, SAMPLES]]);
    change(&mut plan);
    plan
}

#[test]
fn a_right_plan_yields_a_token_for_each_row_that_samples() {
    let result = model().execute(&first(|_| ())).expect("right");
    assert_eq!((result.slots, result.epochs), (u32_bytes([1]), u32_bytes([1])));
    assert_eq!(result.token_ids.len(), 4);
}

#[test]
fn a_chain_read_through_other_blocks_gives_the_same_token() {
    let tokens = |blocks: &[u32]| {
        let new = newcomer(1, 1, &[5, 6, 7, 8, 9], blocks);
        model().execute(&plan(0, vec![new], &[[1, 1, 5, SAMPLES]])).expect("right").token_ids
    };
    assert_eq!(tokens(&[2, 3]), tokens(&[7, 1]));
}

#[test]
fn every_broken_rule_is_named() {
    let cases: [(StepPlan, &str); 10] = [
        (first(|plan| plan.step_id = 1), "step `1` came, expected `0`"),
        (plan(0, vec![], &[]), "step `0` has no rows"),
        (first(|plan| plan.new_sequences[0].slot = 4), "slot `4` is beyond `4`"),
        (first(|plan| plan.new_sequences[0].block_ids = u32_bytes([0, 3])), "slot 1 was given the null block"),
        (first(|plan| plan.new_sequences[0].block_ids = u32_bytes([2, 8])), "block `8` is beyond `8`"),
        (first(|plan| plan.new_sequences[0].block_ids = u32_bytes([2])), "slot 1 lacks a block for `5` tokens"),
        (first(|plan| plan.row_epochs = u32_bytes([2])), "a row of (1, 2), which does not live there"),
        (first(|plan| plan.row_num_tokens = u32_bytes([4])), "slot 1: samples at `4` before `5`"),
        (first(|plan| plan.row_flags = u32_bytes([1])), "slot 1: the last chunk is not marked as it is"),
        (first(|plan| plan.row_num_tokens = u32_bytes([9])), "step 0 computes `9` tokens, the limit is `8`"),
    ];
    for (plan, rule) in cases {
        assert_eq!(violation(&plan), rule);
    }
}

#[test]
fn a_block_that_two_sequences_hold_is_read_only() {
    let pair = vec![newcomer(0, 1, &[5, 6, 7], &[2]), newcomer(1, 1, &[5, 6, 8], &[2])];
    let rule = violation(&plan(0, pair, &[[0, 1, 3, SAMPLES], [1, 1, 3, SAMPLES]]));
    assert_eq!(rule, "slot 0 writes to block `2`, which `2` sequences hold");
}

#[test]
fn an_epoch_must_rise_with_each_tenant() {
    let mut model = model();
    model.execute(&first(|_| ())).expect("right");
    let mut again = plan(1, vec![newcomer(1, 1, &[5], &[4])], &[[1, 1, 1, SAMPLES]]);
    again.released_slots = u32_bytes([1]);
    again.released_epochs = u32_bytes([1]);
    assert_eq!(model.execute(&again), Err("slot `1`: epoch `1` did not rise".to_owned()));
}

#[test]
fn steps_with_a_sequence_of_a_failed_step_fail_until_it_is_released() {
    let mut model = model();
    assert!(model.fail_step(&first(|_| ())).expect("right").step_error.is_some());
    let mut decode = plan(1, vec![], &[[1, 1, 1, SAMPLES]]);
    decode.num_decodes = 1;
    assert!(model.execute(&decode).expect("right").step_error.is_some());
    let mut again = plan(2, vec![newcomer(1, 2, &[5], &[4])], &[[1, 2, 1, SAMPLES]]);
    again.released_slots = u32_bytes([1]);
    again.released_epochs = u32_bytes([1]);
    assert_eq!(model.execute(&again).map(|result| result.step_error), Ok(None));
}

#[test]
fn sequences_yield_their_lists_in_turn_and_ties_come_after_the_alternatives() {
    let tokens = FakeTokens::InTurn(vec![vec![7], vec![9]]);
    let mut model = FakeModel::new(Arc::new(FakeScript { tokens, num_ties: 1, ..FakeScript::default() }));
    let sampling = SamplingParams { num_top_logprobs: 2, top_ties: true, ..SamplingParams::default() };
    let newcomers =
        [1, 2].map(|slot| NewSequence { sampling: Some(sampling.clone()), ..newcomer(slot, 1, &[5, 6], &[slot]) });
    let flags = SAMPLES | RowFlag::Logprobs as u32;
    let result = model.execute(&plan(0, newcomers.into(), &[[1, 1, 2, flags], [2, 1, 2, flags]])).expect("right");
    assert_eq!(result.token_ids, u32_bytes([7, 9]));
    assert_eq!(result.top_counts, u32_bytes([3, 3]));
    assert_eq!(result.top_ids, u32_bytes([7, 8, 9, 9, 10, 11]));
    assert_eq!(result.top_logprobs[4..8], result.top_logprobs[8..12], "the third ties with the second");
}
