//! A group dies and everybody goes on with the next.

use forebay_scheduler::{Event, FinishReason, Limits, NewRequest, Scheduler, Time};

use super::rig::{Rig, TOKEN, limits, new_ids, new_of, prompt, request, widths};

fn lose(rig: &mut Rig) {
    rig.scheduler.group_lost(rig.now, &mut rig.events);
    rig.scheduler.check_invariants();
}

#[test]
fn a_lost_group_ends_nobody_and_tells_nothing_twice() {
    let mut rig = Rig::new(Limits { max_sequences: 1, ..limits() });
    rig.submit(request(1, prompt(1, 9), 9));
    rig.submit(request(2, prompt(2, 9), 2));
    rig.step();
    let lost = [rig.plan(), rig.plan()];
    lose(&mut rig);
    let stats = rig.scheduler.stats();
    assert_eq!((stats.blocks_free, stats.queued, stats.plans_in_flight, stats.resumptions), (15, 2, 0, 1));
    let first = rig.plan();
    assert_eq!((first.step_id, first.released.len()), (0, 0), "the new worker knows nobody");
    assert_ne!(first.rows[0].sequence, lost[0].rows[0].sequence, "epochs go on");
    let mut known = prompt(1, 9);
    known.push(TOKEN);
    let new = new_of(&first, 1);
    assert_eq!((&new.token_ids, new.num_prompt_tokens, new.num_computed_tokens), (&known, 9, 0));
    rig.answer(&first);
    rig.run();
    assert_eq!((rig.tokens(1).len(), rig.tokens(2).len()), (9, 2));
    assert_eq!((rig.end(1), rig.end(2)), (Some(FinishReason::Length), Some(FinishReason::Length)));
    let starts = rig.events.iter().filter(|event| matches!(event, Event::Started { .. })).count();
    assert_eq!(starts, 2, "going on is no second start");
}

#[test]
fn minimum_and_stop_ids_stand_where_they_stood() {
    let mut rig = Rig::new(Limits { run_ahead: 0, ..limits() });
    rig.submit(NewRequest { stop_token_ids: vec![TOKEN], min_new_tokens: 2, ..request(1, prompt(1, 3), 9) });
    rig.step();
    lose(&mut rig);
    rig.step();
    assert_eq!(rig.end(1), None);
    lose(&mut rig);
    rig.step();
    assert_eq!((rig.tokens(1).len(), rig.end(1)), (3, Some(FinishReason::StopToken(TOKEN))));
}

#[test]
fn a_deadline_passes_while_the_group_is_away() {
    let mut rig = Rig::new(limits());
    rig.submit(NewRequest { deadline: Some(Time(5)), ..request(1, prompt(1, 3), 9) });
    rig.step();
    rig.now = Time(5);
    lose(&mut rig);
    assert_eq!((rig.end(1), rig.try_plan()), (Some(FinishReason::Deadline), None));
}

#[test]
fn those_that_a_smaller_group_cannot_hold_end_and_the_others_go_on() {
    let mut rig = Rig::new(limits());
    rig.submit(request(1, prompt(1, 20), 20));
    rig.submit(request(2, prompt(2, 3), 4));
    rig.step();
    lose(&mut rig);
    let smaller = Limits { num_blocks: 6, max_sequences: 1, max_plan_tokens: 5, max_total_tokens: 20, ..limits() };
    rig.scheduler.group_ready(smaller.clone(), &mut rig.events);
    rig.scheduler.check_invariants();
    assert_eq!(rig.scheduler.limits(), &smaller);
    assert!(matches!(rig.end(1), Some(FinishReason::NoLongerFits(_))), "{:?}", rig.end(1));
    let plan = rig.step();
    assert_eq!((new_ids(&plan), widths(&plan)), (vec![2], vec![3]));
    rig.run();
    assert_eq!((rig.tokens(2).len(), rig.end(2)), (4, Some(FinishReason::Length)));
}

#[test]
fn another_scheduler_takes_over_where_a_group_will_not_come_back() {
    let mut rig = Rig::new(Limits { max_sequences: 1, ..limits() });
    rig.submit(request(1, prompt(1, 3), 4));
    rig.submit(request(2, prompt(2, 3), 2));
    rig.step();
    let evacuees = rig.scheduler.evacuate(rig.now, &mut rig.events);
    rig.scheduler.check_invariants();
    assert_eq!((evacuees.len(), rig.try_plan()), (2, None));
    rig.scheduler = Scheduler::new(Limits { max_queued: 0, ..limits() });
    for evacuee in evacuees {
        rig.scheduler.adopt(evacuee).unwrap();
    }
    rig.run();
    assert_eq!((rig.tokens(1).len(), rig.tokens(2).len()), (4, 2));
    let starts = rig.events.iter().filter(|event| matches!(event, Event::Started { .. })).count();
    assert_eq!(starts, 2);
}
