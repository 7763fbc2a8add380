//! Steps and sequences that fail.

use forebay_scheduler::{FinishReason, Limits};

use super::rig::{Rig, TOKEN, limits, new_ids, new_of, prompt, request, widths};

#[test]
fn a_failed_sequence_ends_alone() {
    let mut rig = Rig::new(limits());
    rig.submit(request(1, prompt(1, 3), 9));
    rig.submit(request(2, prompt(2, 3), 2));
    let plan = rig.plan();
    rig.answer_failing(&plan, plan.rows[0].sequence);
    let reason = FinishReason::Failed { kind: 2, message: "logits are not numbers".into() };
    assert_eq!((rig.end(1), rig.end(2)), (Some(reason), None));
    rig.run();
    assert_eq!(rig.end(2), Some(FinishReason::Length));
}

#[test]
fn what_a_failed_sequence_was_to_write_is_not_found_by_others() {
    let mut rig = Rig::new(limits());
    rig.submit(request(1, prompt(1, 9), 9));
    rig.submit(request(2, prompt(1, 9), 1));
    let (first, second) = (rig.plan(), rig.plan());
    assert_eq!(new_of(&second, 2).num_computed_tokens, 8, "the twin reads it while it is in flight");
    rig.answer_failing(&first, first.rows[0].sequence);
    rig.answer(&second);
    assert_eq!(rig.tokens(2), [0; 0], "computed from blocks that were never written");
    let third = rig.plan();
    assert_eq!((new_ids(&third), new_of(&third, 2).num_computed_tokens), (vec![2], 0));
    assert_eq!(rig.scheduler.stats().rollbacks, 1);
}

#[test]
fn a_failed_step_is_sent_again_smaller_and_grows_back() {
    let mut rig = Rig::new(limits());
    rig.submit(request(1, prompt(1, 20), 38));
    let failed = rig.plan();
    rig.fail(&failed);
    let again = rig.plan();
    assert_eq!((new_ids(&again), widths(&again)), (vec![1], vec![8]));
    assert_eq!(again.released, [failed.rows[0].sequence]);
    assert_ne!(again.rows[0].sequence, failed.rows[0].sequence);
    rig.answer(&again);
    for _ in 0..10 {
        rig.step();
    }
    rig.submit(request(2, prompt(2, 20), 1));
    assert_eq!(widths(&rig.plan()), [1, 15]);
}

#[test]
fn plans_sent_after_a_failed_step_are_void_for_its_sequences_and_for_nobody_else() {
    let mut rig = Rig::new(Limits { run_ahead: 2, ..limits() });
    rig.submit(request(1, prompt(1, 3), 9));
    rig.step();
    let first = rig.plan();
    rig.submit(request(2, prompt(2, 3), 9));
    let (second, third) = (rig.plan(), rig.plan());
    rig.answer(&first);
    rig.fail(&second);
    rig.submit(request(3, prompt(3, 1), 9));
    let (one, two) = (rig.tokens(1).len(), rig.tokens(2).len());
    rig.answer(&third);
    assert_eq!((rig.tokens(1).len(), rig.tokens(2).len()), (one, two), "void");
    let resent = rig.plan();
    let mut known = prompt(1, 3);
    known.extend([TOKEN; 2]);
    assert_eq!(new_of(&resent, 1).token_ids, known, "what was committed stays");
    rig.answer(&resent);
    rig.run();
    assert_eq!((rig.tokens(1).len(), rig.tokens(2).len(), rig.tokens(3).len()), (9, 9, 9));
}

#[test]
fn who_was_not_in_the_failed_step_keeps_what_is_in_flight() {
    let mut rig = Rig::new(Limits { run_ahead: 1, max_plan_tokens: 4, ..limits() });
    rig.submit(request(1, prompt(1, 4), 2));
    rig.submit(request(2, prompt(2, 4), 1));
    let (first, second) = (rig.plan(), rig.plan());
    assert_eq!((first.rows.len(), widths(&second)), (1, vec![1, 3]));
    rig.fail(&first);
    rig.answer(&second);
    // Request 2 was not in the first step: its chunk stands, and it goes on in its slot.
    let third = rig.plan();
    assert_eq!((new_ids(&third), widths(&third)), (vec![1], vec![1, 1]));
    assert_eq!(third.rows[0].sequence, second.rows[1].sequence);
}

#[test]
fn failures_of_plans_that_were_sent_before_the_first_was_known_reduce_nothing() {
    let mut rig = Rig::new(Limits { run_ahead: 3, ..limits() });
    rig.submit(request(1, prompt(1, 16), 9));
    let in_flight: Vec<_> = std::iter::from_fn(|| rig.try_plan()).collect();
    assert_eq!(in_flight.iter().map(widths).collect::<Vec<_>>(), [[16], [1], [1], [1]]);
    for plan in &in_flight {
        rig.fail(plan);
    }
    assert_eq!(widths(&rig.plan()), [8], "half of the step that failed, not of those behind it");
    assert_eq!(rig.end(1), None);
}

#[test]
fn a_step_that_fails_at_its_smallest_ends_its_requests_in_the_end() {
    let mut rig = Rig::new(limits());
    rig.submit(request(1, prompt(1, 12), 9));
    let mut num_failures = 0;
    while let Some(plan) = rig.try_plan() {
        rig.fail(&plan);
        num_failures += 1;
        assert!(num_failures < 20, "it is tried for ever");
    }
    assert!(matches!(rig.end(1), Some(FinishReason::Failed { kind: 0, .. })));
    assert_eq!(rig.blocks_in_use(), 0);
}
