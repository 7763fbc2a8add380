//! Plans that are sent before the results they build on.

use forebay_scheduler::{FinishReason, Limits, NewRequest, ResultError, SampledRow};

use super::rig::{Rig, TOKEN, limits, prompt, request, result, widths};

#[test]
fn as_many_plans_are_in_flight_as_the_depth_allows() {
    for run_ahead in 0..=3 {
        let mut rig = Rig::new(Limits { run_ahead, ..limits() });
        rig.submit(request(1, prompt(1, 3), 9));
        let plans: Vec<_> = std::iter::from_fn(|| rig.try_plan()).collect();
        assert_eq!(plans.len() as u32, run_ahead + 1);
        assert!(plans[1..].iter().all(|plan| plan.num_decodes == 1), "decodes of tokens that nobody knows yet");
    }
}

#[test]
fn nothing_is_planned_beyond_the_last_token_allowed() {
    let mut rig = Rig::new(Limits { run_ahead: 3, ..limits() });
    rig.submit(request(1, prompt(1, 3), 2));
    let plans = [rig.plan(), rig.plan()];
    assert_eq!(rig.try_plan(), None);
    for plan in &plans {
        rig.answer(plan);
    }
    assert_eq!(rig.end(1), Some(FinishReason::Length));
}

#[test]
fn tokens_computed_past_a_stop_are_dropped() {
    let mut rig = Rig::new(Limits { run_ahead: 2, ..limits() });
    rig.submit(NewRequest { stop_token_ids: vec![TOKEN], ..request(1, prompt(1, 3), 9) });
    let plans = [rig.plan(), rig.plan(), rig.plan()];
    for plan in &plans {
        rig.answer(plan);
    }
    assert_eq!((rig.tokens(1), rig.end(1)), (vec![TOKEN], Some(FinishReason::StopToken(TOKEN))));
    assert_eq!(rig.blocks_in_use(), 0);
}

#[test]
fn chunks_of_one_prompt_are_in_flight_together() {
    let mut rig = Rig::new(Limits { run_ahead: 3, max_plan_tokens: 5, ..limits() });
    rig.submit(request(1, prompt(1, 13), 9));
    let plans: Vec<_> = std::iter::from_fn(|| rig.try_plan()).collect();
    assert_eq!(plans.iter().map(widths).collect::<Vec<_>>(), [[5], [5], [3], [1]]);
}

#[test]
fn an_answer_out_of_order_is_the_workers_bug_and_changes_nothing() {
    let mut rig = Rig::new(limits());
    rig.submit(request(1, prompt(1, 3), 9));
    let (first, second) = (rig.plan(), rig.plan());
    let refusal = rig.scheduler.apply(&result(&second, |_| TOKEN), rig.now, &mut rig.events);
    assert_eq!(refusal, Err(ResultError::StepId { expected: Some(0), got: 1 }));
    rig.answer(&first);
    rig.answer(&second);
    let refusal = rig.scheduler.apply(&result(&second, |_| TOKEN), rig.now, &mut rig.events);
    assert_eq!(refusal, Err(ResultError::StepId { expected: None, got: 1 }));
}

#[test]
fn rows_that_do_not_match_the_plan_are_the_workers_bug_and_change_nothing() {
    let mut rig = Rig::new(limits());
    rig.submit(request(1, prompt(1, 3), 9));
    rig.submit(request(2, prompt(2, 3), 9));
    let plan = rig.plan();
    let right = result(&plan, |_| TOKEN);
    let mut missing = right.clone();
    missing.sampled.pop();
    let mut swapped = right.clone();
    swapped.sampled.swap(0, 1);
    let mut doubled = right.clone();
    doubled.sampled.push(SampledRow { sequence: plan.rows[0].sequence, token_ids: vec![TOKEN] });
    let mut wide = right.clone();
    wide.sampled[0].token_ids.push(TOKEN);
    let mut stranger = right.clone();
    let sequence = forebay_scheduler::SequenceRef { slot: 3, epoch: 9 };
    stranger.errors.push(forebay_scheduler::SequenceError { sequence, kind: 0, message: String::new() });
    for wrong in [missing, swapped, doubled, wide, stranger] {
        let refusal = rig.scheduler.apply(&wrong, rig.now, &mut rig.events);
        assert!(matches!(refusal, Err(ResultError::Rows { step_id: 0, .. })), "{refusal:?}");
    }
    rig.apply(&right);
    assert_eq!((rig.tokens(1), rig.tokens(2)), (vec![TOKEN], vec![TOKEN]));
}
