//! Blocks: growth, the fence, preemption.

use std::collections::VecDeque;

use forebay_scheduler::{FinishReason, Limits, NewRequest, RequestId};

use super::rig::{Rig, TOKEN, limits, new_of, prompt, request};

#[test]
fn a_sequence_grows_by_a_block_when_it_has_filled_its_last() {
    let mut rig = Rig::new(Limits { run_ahead: 0, ..limits() });
    rig.submit(request(1, prompt(1, 3), 9));
    let grown: Vec<usize> = (0..9).map(|_| rig.step().appends.len()).collect();
    // Positions 4 and 8 open blocks; the ninth token is never computed.
    assert_eq!(grown, [0, 0, 1, 0, 0, 0, 1, 0, 0]);
}

#[test]
fn the_lowest_free_block_is_given_first() {
    let mut rig = Rig::new(limits());
    rig.submit(NewRequest { reuse_prefix: false, ..request(1, prompt(1, 3), 1) });
    rig.submit(request(2, prompt(2, 7), 1));
    let plan = rig.step();
    assert_eq!((&new_of(&plan, 1).block_ids[..], &new_of(&plan, 2).block_ids[..]), (&[1][..], &[2, 3][..]));
    rig.submit(request(3, prompt(3, 3), 1));
    assert_eq!(new_of(&rig.step(), 3).block_ids, [1]);
}

#[test]
fn a_released_block_is_free_when_the_newest_plan_sent_has_been_answered() {
    let mut rig = Rig::new(Limits { run_ahead: 2, ..limits() });
    rig.submit(request(1, prompt(1, 3), 9));
    let plans = [rig.plan(), rig.plan(), rig.plan()];
    rig.scheduler.cancel(RequestId(1));
    for (plan, fenced) in plans.iter().zip([2, 2, 0]) {
        rig.answer(plan);
        assert_eq!(rig.scheduler.stats().blocks_fenced, fenced);
    }
    assert_eq!(rig.scheduler.stats().blocks_free, 15);
}

#[test]
fn the_newest_of_the_lowest_priority_gives_its_blocks_and_resumes_with_all_its_tokens() {
    let mut rig = Rig::new(Limits { num_blocks: 7, max_total_tokens: 24, run_ahead: 0, ..limits() });
    rig.submit(request(1, prompt(1, 7), 12));
    rig.submit(NewRequest { priority: 1, ..request(2, prompt(2, 6), 8) });
    rig.run();
    assert!(rig.scheduler.stats().preemptions >= 1);
    assert_eq!((rig.tokens(1), rig.tokens(2)), (vec![TOKEN; 12], vec![TOKEN; 8]));
    assert_eq!((rig.end(1), rig.end(2)), (Some(FinishReason::Length), Some(FinishReason::Length)));
    let starts = rig.events.iter().filter(|event| matches!(event, forebay_scheduler::Event::Started { .. })).count();
    assert_eq!(starts, 2, "a return is no second start");
}

#[test]
fn results_sent_before_a_preemption_are_delivered_before_it_returns() {
    let mut rig = Rig::new(Limits { num_blocks: 6, max_total_tokens: 19, run_ahead: 1, ..limits() });
    rig.submit(request(1, prompt(1, 7), 12));
    rig.submit(request(2, prompt(2, 6), 9));
    let mut in_flight = VecDeque::new();
    let mut returned = None;
    while returned.is_none() {
        while let Some(plan) = rig.try_plan() {
            if let Some(new) = plan.new_sequences.iter().find(|new| new.token_ids.len() > 7) {
                returned = Some((new.clone(), rig.tokens(2)));
            }
            in_flight.push_back(plan);
        }
        if let Some(plan) = in_flight.pop_front() {
            rig.answer(&plan);
        }
    }
    let (returned, delivered) = returned.unwrap();
    assert_eq!((returned.id, returned.num_prompt_tokens), (RequestId(2), 6));
    let mut known = prompt(2, 6);
    known.extend(delivered);
    assert_eq!(returned.token_ids, known, "every token sampled before is in it, none twice");
}

#[test]
fn nobody_is_preempted_while_blocks_on_their_way_suffice() {
    let mut rig = Rig::new(Limits { num_blocks: 5, ..limits() });
    rig.submit(request(1, prompt(1, 3), 9));
    rig.submit(request(2, prompt(2, 3), 5));
    let mut in_flight = VecDeque::from([rig.plan(), rig.plan()]);
    while rig.end(2).is_none() {
        let oldest = in_flight.pop_front().unwrap();
        rig.answer(&oldest);
        in_flight.extend(rig.try_plan());
    }
    // Both hold two blocks; the first wants a third while those of the second are behind the fence.
    assert_eq!((in_flight.len(), rig.scheduler.stats().blocks_free), (1, 0));
    assert_eq!(rig.scheduler.stats().preemptions, 0);
    rig.answer(&in_flight[0]);
    assert_eq!(rig.plan().appends.len(), 1);
}
