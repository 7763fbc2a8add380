//! A request that kills whoever computes it.

use forebay_scheduler::{FinishReason, Limits, RequestId, StepPlan};

use super::rig::{Rig, limits, new_ids, prompt, request, widths};

fn lose(rig: &mut Rig) {
    rig.scheduler.group_lost(rig.now, &mut rig.events);
    rig.scheduler.check_invariants();
}

/// Runs until everybody has ended, losing the group whenever `kills` says so; answers how often.
fn run(rig: &mut Rig, kills: impl Fn(&StepPlan) -> bool) -> u32 {
    let mut num_deaths = 0;
    while let Some(plan) = rig.try_plan() {
        if kills(&plan) {
            num_deaths += 1;
            assert!(num_deaths < 20, "it kills for ever");
            lose(rig);
        } else {
            rig.answer(&plan);
        }
    }
    num_deaths
}

/// Whether a plan sends that request to the worker.
fn has_new(plan: &StepPlan, id: u64) -> bool {
    new_ids(plan).contains(&id)
}

#[test]
fn after_a_death_suspects_are_tried_one_by_one_and_nothing_runs_ahead() {
    let mut rig = Rig::new(limits());
    for id in 1..=3 {
        rig.submit(request(id, prompt(id as u32, 2), 9));
    }
    rig.plan();
    lose(&mut rig);
    rig.submit(request(4, prompt(4, 2), 9));
    assert_eq!(rig.scheduler.stats().suspects, 3);
    for expected in [vec![1, 4], vec![2], vec![3]] {
        let plan = rig.plan();
        assert_eq!(new_ids(&plan), expected, "one suspect, and who is none beside it");
        assert_eq!(rig.try_plan(), None, "nothing runs ahead");
        rig.answer(&plan);
    }
    assert_eq!(rig.scheduler.stats().suspects, 0);
    assert_eq!((rig.plan().rows.len(), rig.plan().rows.len()), (4, 4));
}

#[test]
fn a_request_that_kills_is_ended_alone_after_three_deaths() {
    let mut rig = Rig::new(Limits { max_plan_tokens: 32, ..limits() });
    for id in 1..=3 {
        rig.submit(request(id, prompt(id as u32, 5), 4));
    }
    assert_eq!(run(&mut rig, |plan| has_new(plan, 2)), 3, "one among others, two as the only suspect");
    assert_eq!(rig.end(2), Some(FinishReason::Quarantined { num_deaths: 2 }));
    for id in [1, 3] {
        assert_eq!((rig.tokens(id).len(), rig.end(id)), (4, Some(FinishReason::Length)));
    }
}

#[test]
fn the_last_part_of_a_long_prompt_may_be_what_kills() {
    let mut rig = Rig::new(limits());
    rig.submit(request(1, prompt(1, 40), 4));
    assert_eq!(run(&mut rig, |plan| widths(plan) == [8]), 3);
    assert_eq!(rig.end(1), Some(FinishReason::Quarantined { num_deaths: 2 }));
}

#[test]
fn a_second_trial_is_alone_so_that_nobody_is_ended_for_a_neighbour() {
    let mut rig = Rig::new(limits());
    rig.submit(request(1, prompt(1, 20), 4));
    rig.plan();
    lose(&mut rig);
    rig.plan();
    lose(&mut rig);
    // Request 1 has a strike; whoever shared a plan with it could bring it the second.
    rig.submit(request(2, prompt(2, 2), 4));
    let plans = [rig.step(), rig.step(), rig.step()];
    assert_eq!(plans.each_ref().map(new_ids), [vec![1], vec![2], vec![]]);
    assert_eq!(plans.each_ref().map(widths), [vec![16], vec![2], vec![4]], "in turn with the others");
    assert_eq!(rig.scheduler.stats().suspects, 0);
}

#[test]
fn a_token_clears_and_strikes_are_forgotten() {
    let mut rig = Rig::new(limits());
    rig.submit(request(1, prompt(1, 5), 9));
    rig.plan();
    lose(&mut rig);
    for _ in 0..5 {
        rig.plan();
        lose(&mut rig);
        rig.step();
        assert_eq!(rig.scheduler.stats().suspects, 0);
        rig.plan();
        lose(&mut rig);
    }
    rig.run();
    assert_eq!((rig.tokens(1).len(), rig.end(1)), (9, Some(FinishReason::Length)));
}

#[test]
fn a_group_that_dies_with_nothing_unanswered_has_no_suspects() {
    let mut rig = Rig::new(limits());
    rig.submit(request(1, prompt(1, 5), 9));
    lose(&mut rig);
    rig.step();
    lose(&mut rig);
    assert_eq!(rig.scheduler.stats().suspects, 0);
    rig.plan();
    rig.scheduler.cancel(RequestId(1));
    lose(&mut rig);
    assert_eq!((rig.scheduler.stats().suspects, rig.try_plan()), (0, None));
}

#[test]
fn who_waits_for_a_trial_keeps_a_place() {
    let mut rig = Rig::new(Limits { max_sequences: 2, ..limits() });
    rig.submit(request(1, prompt(1, 20), 9));
    rig.submit(request(2, prompt(2, 2), 9));
    rig.plan();
    rig.plan();
    lose(&mut rig);
    rig.submit(request(3, prompt(3, 2), 9));
    let order: Vec<Vec<u64>> = (0..3).map(|_| new_ids(&rig.step())).collect();
    assert_eq!(order, [vec![1], vec![], vec![2]], "the second slot was not given away");
}
