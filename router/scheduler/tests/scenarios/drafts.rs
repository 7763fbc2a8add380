//! Decodes that compute draft tokens: how long a sequence is, only the worker knows until the result comes.

use forebay_scheduler::{FinishReason, Limits, NewRequest, StepPlan, StepResult};

use super::rig::{Rig, TOKEN, limits, new_of, prompt, request, result, widths};

fn drafting(max_draft_tokens: u32, run_ahead: u32) -> Rig {
    Rig::new(Limits { max_draft_tokens, run_ahead, ..limits() })
}

/// The first row of the plan yields these tokens.
fn yields(plan: &StepPlan, token_ids: &[u32]) -> StepResult {
    let mut result = result(plan, |_| TOKEN);
    result.sampled[0].token_ids = token_ids.to_vec();
    result
}

#[test]
fn a_decode_yields_one_token_and_as_many_as_were_accepted() {
    let mut rig = drafting(3, 0);
    rig.submit(request(1, prompt(1, 3), 9));
    assert_eq!(widths(&rig.step()), [3]);
    let plan = rig.plan();
    assert_eq!(widths(&plan), [4]);
    rig.apply(&yields(&plan, &[1, 2, 3]));
    let plan = rig.plan();
    rig.apply(&yields(&plan, &[4]));
    assert_eq!(rig.tokens(1), [TOKEN, 1, 2, 3, 4]);
}

#[test]
fn nothing_is_planned_that_could_not_be_delivered_if_all_drafts_were_accepted() {
    let mut rig = drafting(3, 3);
    rig.submit(request(1, prompt(1, 3), 7));
    let plans: Vec<StepPlan> = std::iter::from_fn(|| rig.try_plan()).collect();
    assert_eq!(plans.iter().map(widths).collect::<Vec<_>>(), [[3], [4], [2]], "1 and 4 and 2 are all seven");
    rig.answer(&plans[0]);
    rig.apply(&yields(&plans[1], &[1, 2]));
    let next = rig.plan();
    assert_eq!(widths(&next), [2], "two were refused, so two more may be wanted");
    rig.apply(&yields(&plans[2], &[3]));
    rig.answer(&next);
    rig.run();
    assert_eq!((rig.tokens(1).len(), rig.end(1)), (7, Some(FinishReason::Length)));
}

#[test]
fn a_stop_among_accepted_drafts_ends_it_there() {
    let mut rig = drafting(3, 1);
    rig.submit(NewRequest { stop_token_ids: vec![2], ..request(1, prompt(1, 3), 9) });
    rig.step();
    let plans = [rig.plan(), rig.plan()];
    rig.apply(&yields(&plans[0], &[1, 2, 3, 4]));
    rig.answer(&plans[1]);
    assert_eq!((rig.tokens(1), rig.end(1)), (vec![TOKEN, 1, 2], Some(FinishReason::StopToken(2))));
    assert_eq!(rig.blocks_in_use(), 0);
}

#[test]
fn only_what_was_accepted_enters_the_prefix_tree() {
    let mut rig = drafting(4, 0);
    rig.submit(request(1, prompt(1, 3), 9));
    rig.step();
    let plan = rig.plan();
    rig.apply(&yields(&plan, &[1, 2]));
    // Known: three of the prompt, TOKEN, 1, 2; computed: all but the last. The drafts behind were refused.
    let mut known = prompt(1, 3);
    known.extend([TOKEN, 1, 2, 9, 9]);
    assert_eq!(rig.scheduler.prefix_match_len(&known, 0), 4);
    rig.submit(request(2, known, 1));
    assert_eq!(new_of(&rig.plan(), 2).num_computed_tokens, 4);
}

#[test]
fn drafts_preempt_nobody_and_take_only_what_is_free() {
    let mut rig = Rig::new(Limits { num_blocks: 4, max_draft_tokens: 8, max_total_tokens: 12, ..limits() });
    rig.submit(request(1, prompt(1, 3), 7));
    rig.submit(request(2, prompt(2, 3), 7));
    rig.step();
    let plan = rig.plan();
    assert_eq!(plan.rows.len(), 2);
    assert_eq!(rig.scheduler.stats().preemptions, 0);
    let rows = widths(&plan);
    assert_eq!(rows, [5, 1], "the first takes the last free block, the second has room for its own token");
}

#[test]
fn more_tokens_than_were_asked_for_are_the_workers_bug() {
    let mut rig = drafting(2, 0);
    rig.submit(request(1, prompt(1, 3), 9));
    rig.step();
    let plan = rig.plan();
    for wrong in [&[1, 2, 3, 4][..], &[]] {
        assert!(rig.scheduler.apply(&yields(&plan, wrong), rig.now, &mut rig.events).is_err());
    }
    rig.apply(&yields(&plan, &[1, 2, 3]));
    assert_eq!(rig.tokens(1), [TOKEN, 1, 2, 3]);
}
